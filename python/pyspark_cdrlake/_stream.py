"""The reader of a stream."""

import datetime
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql.datasource import DataSourceStreamReader, InputPartition
from pyspark.sql.streaming.datasource import ReadLimit, SupportsTriggerAvailableNow

from cdrlake._job import in_groups
from pyspark_cdrlake._options import Options
from pyspark_cdrlake._rows import Group, rows

#: For how many seconds the last ended day is not looked up again.
_PATIENCE = 30.0
#: What the program takes where nothing is configured.
_LOOKBACK_DAYS = 3

#: A place in the stream: the last day that was read.
Offset = dict[str, Any]


class StreamReader(DataSourceStreamReader, SupportsTriggerAvailableNow):
    """Fetches days after they have ended, and again within the look-back.

    An offset is a day that has ended. A batch has the days since the last one, and before them
    one less than ``window.lookback_days``: so a daily batch fetches a day as often as a daily run.
    """

    def __init__(self, options: Options) -> None:
        first = options.from_ or options.job.value("window.start")
        if first is None:
            raise ValueError(
                "a stream needs the option from, or window.start in the configuration: the first "
                "day that it reads"
            )
        if options.last is not None:
            raise ValueError("a stream has no option last: the option from is its first day")
        self._options = options
        self._first = datetime.date.fromisoformat(str(first))
        lookback_days = options.job.value("window.lookback_days")
        self._lookback_days = _LOOKBACK_DAYS if lookback_days is None else int(lookback_days)
        self._target: Offset | None = None
        self._latest = datetime.date.min
        self._looked_up_at = -_PATIENCE

    def initialOffset(self) -> Offset:
        """The day before the first."""
        return _offset(self._first - datetime.timedelta(days=1))

    def latestOffset(self, start: Offset, limit: ReadLimit) -> Offset:
        """The last day that has ended."""
        latest = self._target or self._last_ended_day()
        return max(start, latest, key=_day)

    def prepareForTriggerAvailableNow(self) -> None:
        """Ends the stream with the day that has ended last by now."""
        self._target = self._last_ended_day()

    def partitions(self, start: Offset, end: Offset) -> Sequence[InputPartition]:
        """The days since `start`, and those before them that are in the look-back."""
        first, last = _day(start), _day(end)
        if first >= last:
            return []
        new = first + datetime.timedelta(days=1)
        again = datetime.timedelta(days=max(self._lookback_days - 1, 0))
        # A first day that was moved since shortens the look-back, and never leaves out a new day.
        first = min(new, max(self._first, new - again))
        plan = self._options.plan(first.isoformat(), last.isoformat(), None)
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
        to = self._options.to
        return _offset(self._latest if to is None else min(self._latest, _day({"day": to})))


def _offset(day: datetime.date) -> Offset:
    return {"day": day.isoformat()}


def _day(offset: Offset) -> datetime.date:
    return datetime.date.fromisoformat(offset["day"])
