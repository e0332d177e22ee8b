"""The reader of a stream."""

import datetime
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql.datasource import DataSourceStreamReader, InputPartition
from pyspark.sql.streaming.datasource import ReadLimit, SupportsTriggerAvailableNow

from cdrlake._job import in_groups
from cdrlake._selection import Selection, check_order, day_of
from pyspark_cdrlake._options import Options
from pyspark_cdrlake._rows import Group, rows

#: For how many seconds the last ended day is not looked up again.
_PATIENCE = 30.0
#: What the program takes where nothing is configured.
_LOOKBACK_DAYS = 3

#: A place in the stream: the last day that was read, and of which directions.
Offset = dict[str, Any]


class StreamReader(DataSourceStreamReader, SupportsTriggerAvailableNow):
    """Fetches days after they have ended, and again within the look-back.

    An offset is a day that has ended. A batch has the days since the last one, and before them
    one less than ``window.lookback_days``: so a daily batch fetches a day as often as a daily run.
    """

    def __init__(self, options: Options) -> None:
        asked = options.selection
        start = options.job.value("window.start")
        if asked.last is not None:
            raise ValueError("a stream has no option last: the option from is its first day")
        if asked.from_ is not None:
            first = asked.from_
        elif start is not None:
            first = day_of("window.start", start)
        else:
            raise ValueError(
                "a stream needs the option from, or window.start in the configuration: the first "
                "day that it reads"
            )
        if asked.to is not None:
            check_order("the first day", first, "the option to", asked.to)
        options.warn_of_missing_lake()
        self._options = options
        self._first = first
        self._directions = options.directions()
        lookback_days = options.job.value("window.lookback_days")
        self._lookback_days = _LOOKBACK_DAYS if lookback_days is None else int(lookback_days)
        self._target: Offset | None = None
        self._latest = datetime.date.min
        self._looked_up_at = -_PATIENCE

    def initialOffset(self) -> Offset:
        """The day before the first."""
        return self._offset(self._first - datetime.timedelta(days=1))

    def latestOffset(self, start: Offset, limit: ReadLimit) -> Offset:
        """The last day that has ended."""
        latest = self._target or self._last_ended_day()
        return max(start, latest, key=self._day)

    def prepareForTriggerAvailableNow(self) -> None:
        """Ends the stream with the day that has ended last by now."""
        self._target = self._last_ended_day()

    def partitions(self, start: Offset, end: Offset) -> Sequence[InputPartition]:
        """The days since `start`, and those before them that are in the look-back."""
        first, last = self._day(start), self._day(end)
        if first >= last:
            return []
        new = first + datetime.timedelta(days=1)
        again = datetime.timedelta(days=max(self._lookback_days - 1, 0))
        # A first day that was moved since shortens the look-back, and never leaves out a new day.
        first = min(new, max(self._first, new - again))
        plan = self._options.plan(Selection(first, last))
        job = self._options.job
        return [
            Group(group, first, last, last, job) for group in in_groups(plan.due, job.requests())
        ]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The rows of a group, on an executor."""
        return rows(partition)

    def _last_ended_day(self) -> Offset:
        # Spark asks a hundred times a second.
        if time.monotonic() - self._looked_up_at > _PATIENCE:
            self._latest = self._options.last_ended_day()
            self._looked_up_at = time.monotonic()
        to = self._options.selection.to
        return self._offset(self._latest if to is None else min(self._latest, to))

    def _offset(self, day: datetime.date) -> Offset:
        return {"day": day.isoformat(), "directions": self._directions}

    def _day(self, offset: Offset) -> datetime.date:
        """The day of an offset. Raises ``ValueError`` if the checkpoint has other directions."""
        if offset["directions"] != self._directions:
            raise ValueError(
                f"the checkpoint is of a stream that reads {offset['directions']} calls, not "
                f"{self._directions}. Use another checkpoint and table, or its direction"
            )
        return datetime.date.fromisoformat(offset["day"])
