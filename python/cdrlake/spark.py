"""A lake brought up to date by the executors of Apache Spark.

For most, the lake as a table of Delta Lake or Apache Iceberg is Spark's way in, and needs none of
this. `docs/spark.md` says when it pays.
"""

import dataclasses
import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import cdrlake
from cdrlake._job import Job, in_groups
from cdrlake._process import Error, OptionValue
from cdrlake.reports import RunReport, Slice, SliceReport, from_json, of_failed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["SparkReport", "run"]

#: What a task returns, as Spark writes a schema.
_ANSWERS: Final = "ARRAY<STRUCT<status: INT, message: STRING, report: STRING>>"


class _Answer(NamedTuple):
    """What became of a slice: exit status, reason, and the report in JSON."""

    status: int | None
    message: str
    report: str | None


@dataclass(frozen=True, kw_only=True)
class SparkReport:
    """What the runs of a job did, one for each slice.

    Attributes:
        runs: Their reports, in the order of slices.
    """

    runs: tuple[RunReport, ...]

    @property
    def slices(self) -> tuple[SliceReport, ...]:
        """All slices that were due, by day."""
        slices = [each for run in self.runs for each in run.slices]
        return tuple(sorted(slices, key=lambda it: (it.first_day, it.direction)))

    @property
    def rows(self) -> int:
        """The rows of all committed and unchanged slices."""
        return sum(run.totals.rows for run in self.runs)

    @property
    def partitions_changed(self) -> tuple[datetime.date, ...]:
        """Days that a warehouse must load again."""
        return tuple(sorted({day for run in self.runs for day in run.partitions_changed}))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Problems that did not stop the runs but need attention, each once."""
        return tuple(dict.fromkeys(each for run in self.runs for each in run.warnings))


def run(
    spark: "SparkSession",
    config: str | None = None,
    from_: cdrlake.Day | None = None,
    to: cdrlake.Day | None = None,
    *,
    last: int | None = None,
    direction: str | None = None,
    refresh: bool = False,
    lake: str | None = None,
    options: Mapping[str, OptionValue] | None = None,
) -> SparkReport:
    """Brings a lake up to date with Spark's executors as workers.

    The driver plans, as `cdrlake.plan` does. Then the executors run ``cdrlake run`` for one slice
    after the other, as many at once as ``source.requests`` says. A lost executor loses nothing:
    Spark starts its task again, and committed slices stay.

    The lake must lie where every executor reaches it: in a bucket, or on a shared file system. The
    API key must be where the configuration says, on every executor.

    Args:
        spark: The session.
        config: The configuration file, on the driver. The executors get its text.
        from_: As for `cdrlake.run`.
        to: As for `cdrlake.run`.
        last: As for `cdrlake.run`.
        direction: As for `cdrlake.run`.
        refresh: As for `cdrlake.run`.
        lake: As for `cdrlake.run`.
        options: As for `cdrlake.run`. Never a key: Spark may show them.

    Returns:
        The reports of the runs, together. Every due slice is committed.

    Raises:
        cdrlake.Error: A slice failed, and the rest is committed: ``report`` is a `SparkReport`. Or
            nothing was begun, because the configuration is wrong or the lake cannot be read.
        ValueError: There is no such key in ``options``.
    """
    from pyspark.sql.functions import udf

    keys = dict(options or {})
    if lake is not None:
        keys["lake.url"] = lake
    job = Job.of_driver(config, keys)
    plan = cdrlake.plan(
        from_=from_,
        to=to,
        last=last,
        direction=direction,
        refresh=refresh,
        config=job.path,
        options=job.options,
    )
    if not plan.due:
        return SparkReport(runs=())
    groups = in_groups(plan.due, job.requests())

    def work(number: int) -> list[_Answer]:
        with job.on_executor() as path:
            return [_run_slice(each, refresh, path, job) for each in groups[number]]

    # A function of rows needs neither pandas nor a Spark context. It must not be evaluated twice.
    on_executors = udf(work, _ANSWERS, useArrow=False).asNondeterministic()
    tasks = spark.range(0, len(groups), 1, len(groups)).select(on_executors("id"))
    answers = [_Answer(*it) for task in tasks.collect() for it in task[0]]
    runs = [from_json(RunReport, json.loads(it.report)) for it in answers if it.report]
    report = SparkReport(runs=tuple(sorted(runs, key=_order)))
    failures = [it for it in answers if it.status != 0]
    if failures:
        failed = tuple(each for each in report.slices if each.outcome == "failed")
        raise Error(of_failed(failed) or failures[0].message, failures[0].status, report)
    return report


def _run_slice(slice_: Slice, refresh: bool, config: str, job: Job) -> _Answer:
    """Runs one slice; the answer for the driver."""
    try:
        report = cdrlake.run(
            from_=slice_.first_day,
            to=slice_.last_day,
            direction=slice_.direction,
            refresh=refresh,
            config=config,
            options=job.options,
        )
    except Error as error:
        return _Answer(error.status, str(error), _as_json(error.report))
    return _Answer(0, "", _as_json(report))


def _as_json(report: object) -> str | None:
    if not isinstance(report, RunReport):
        return None
    return json.dumps(dataclasses.asdict(report), default=str)


def _order(report: RunReport) -> tuple[datetime.date, str]:
    first = next(iter(report.slices), None)
    return (first.first_day, first.direction) if first else (datetime.date.min, "")
