"""The rows of a group of slices."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.datasource import InputPartition
from pyspark.sql.types import (
    DataType,
    DateType,
    DecimalType,
    IntegerType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

import cdrlake
from cdrlake._job import Job
from cdrlake._names import COLUMNS
from cdrlake.reports import Slice

#: The last day that had ended when a row was fetched. A day is fetched again, until it settles.
FETCH_DAY = "fetch_day"

#: The types of columns, as Spark and as Arrow have them. Spark's own translation needs an argument
#: whose name differs between its versions.
_TYPES: dict[str, tuple[DataType, pa.DataType]] = {
    "STRING": (StringType(), pa.utf8()),
    "DATE": (DateType(), pa.date32()),
    "TIMESTAMP": (TimestampType(), pa.timestamp("us", "UTC")),
    "INT": (IntegerType(), pa.int32()),
    "DECIMAL(18, 9)": (DecimalType(18, 9), pa.decimal128(18, 9)),
}
_COLUMNS = (*COLUMNS, (FETCH_DAY, "DATE", False))

#: The columns of the table, and `FETCH_DAY`.
SCHEMA = StructType(
    [StructField(name, _TYPES[kind][0], nullable) for name, kind, nullable in _COLUMNS]
)
#: The same, in Arrow.
ARROW_SCHEMA = pa.schema(
    [pa.field(name, _TYPES[kind][1], nullable) for name, kind, nullable in _COLUMNS]
)


@dataclass(frozen=True)
class Group(InputPartition):
    """Slices that one task fetches, one after the other.

    Attributes:
        slices: The slices.
        first_day: The first day that is asked for. The slice of a month may begin before it.
        last_day: The last day that is asked for.
        fetch_day: The value of `FETCH_DAY`.
        job: The configuration.
    """

    slices: tuple[Slice, ...]
    first_day: datetime.date
    last_day: datetime.date
    fetch_day: datetime.date
    job: Job

    def asked_for(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of the days that are asked for."""
        day = batch.column("source_day")
        is_early = pc.less(day, pa.scalar(self.first_day, pa.date32()))
        is_late = pc.greater(day, pa.scalar(self.last_day, pa.date32()))
        return batch.filter(pc.invert(pc.or_(is_early, is_late)))


def rows(group: InputPartition) -> Iterator[pa.RecordBatch]:
    """Fetches the slices. Fails unless each is proven: Spark then drops what the task returned."""
    if not isinstance(group, Group):
        # Spark's stand-in where there are no partitions.
        return
    with group.job.on_executor() as config:
        try:
            for each in group.slices:
                yield from _rows_of(each, group, config)
        except cdrlake.Error as error:
            message = group.job.as_on_driver(error.message, config)
            raise cdrlake.Error(message, error.status) from None


def _rows_of(slice_: Slice, group: Group, config: str) -> Iterator[pa.RecordBatch]:
    batches = cdrlake.read(
        slice_.direction,
        from_=slice_.first_day,
        to=slice_.last_day,
        config=config,
        options=group.job.optional_lake(),
    )
    for batch in map(group.asked_for, batches):
        if batch.num_rows > 0:
            fetch_day = pa.repeat(pa.scalar(group.fetch_day, pa.date32()), batch.num_rows)
            columns = [batch.column(name) for name, _, _ in COLUMNS]
            yield pa.RecordBatch.from_arrays([*columns, fetch_day], schema=ARROW_SCHEMA)
