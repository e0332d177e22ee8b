"""The readers of a batch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql.datasource import DataSourceReader, InputPartition

from cdrlake._job import in_groups
from cdrlake.reports import Slice
from pyspark_cdrlake._options import Options
from pyspark_cdrlake._rows import Group, rows

if TYPE_CHECKING:
    from pyspark.sql.datasource import Filter


class Reader(DataSourceReader):
    """Fetches the selected days."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def partitions(self) -> Sequence[InputPartition]:
        """As many groups as requests may be made at once."""
        options, job = self._options, self._options.job
        options.warn_of_missing_lake()
        fetch_day = options.last_ended_day()
        first = options.selection.from_
        if first is not None and first > fetch_day:
            raise ValueError(
                f"the first day, {first}, has not ended: the last one that has is {fetch_day}"
            )
        plan = options.plan(options.selection)
        slices = [each for each in plan.due if self.may_hold_rows(each)]
        return [
            Group(group, plan.first, plan.last, fetch_day, job)
            for group in in_groups(slices, job.requests())
        ]

    def may_hold_rows(self, slice_: Slice) -> bool:
        """Whether a slice may hold rows that the query asks for."""
        return True

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The rows of a group, on an executor."""
        return rows(partition)


class PruningReader(Reader):
    """Fetches only slices that may hold rows for the filters of a query."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._filters: list[Filter] = []

    def pushFilters(self, filters: "list[Filter]") -> "Iterable[Filter]":
        """Keeps the filters, and returns them all: a slice may also hold rows beside them."""
        self._filters = filters
        return filters

    def may_hold_rows(self, slice_: Slice) -> bool:
        """Whether no filter excludes the slice."""
        return all(_may_pass(each, slice_) for each in self._filters)


def _may_pass(filter_: "Filter", slice_: Slice) -> bool:
    """Whether a row of the slice may pass a filter."""
    from pyspark.sql import datasource as ds

    first, last = slice_.first_day, slice_.last_day
    # Filters of another shape, such as `Not`, have none.
    attribute = getattr(filter_, "attribute", None)
    if attribute == ("direction",):
        match filter_:
            case ds.EqualTo() | ds.EqualNullSafe():
                return bool(filter_.value == slice_.direction)
            case ds.In():
                return slice_.direction in filter_.value
    if attribute == ("source_day",):
        match filter_:
            case ds.EqualTo() | ds.EqualNullSafe():
                return filter_.value is not None and bool(first <= filter_.value <= last)
            case ds.In():
                return any(it is not None and first <= it <= last for it in filter_.value)
            case ds.GreaterThan():
                return bool(last > filter_.value)
            case ds.GreaterThanOrEqual():
                return bool(last >= filter_.value)
            case ds.LessThan():
                return bool(first < filter_.value)
            case ds.LessThanOrEqual():
                return bool(first <= filter_.value)
    return True
