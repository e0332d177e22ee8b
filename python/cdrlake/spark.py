"""A lake brought up to date by the executors of Apache Spark.

For most, the lake as a table of Delta Lake or Apache Iceberg is Spark's way in, and needs none of
this. `docs/spark.md` says when it pays.
"""

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
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
_ANSWERS: Final = (
    "ARRAY<STRUCT<status: INT, message: STRING, report: STRING, is_repeated: BOOLEAN>>"
)


class _Answer(NamedTuple):
    """What became of a slice.

    Exit status, reason, the report in JSON, and whether Spark had started the task before.
    """

    status: int | None
    message: str
    report: str | None
    is_repeated: bool


@dataclass(frozen=True, kw_only=True)
class SparkReport:
    """What the runs of a job did, one for each slice.

    Attributes:
        runs: Their reports, in the order of slices. Those of a lost task are in the lake only.
        unreported: Days, of months the first one, that may have changed without a report here:
            their task was started more than once, or another run had their slice.
    """

    runs: tuple[RunReport, ...]
    unreported: tuple[datetime.date, ...] = ()

    @property
    def slices(self) -> tuple[SliceReport, ...]:
        """The slices of these runs, by day. One that a lost task has closed is absent."""
        slices = [each for run in self.runs for each in run.slices]
        return tuple(sorted(slices, key=lambda it: (it.first_day, it.direction)))

    @property
    def rows(self) -> int:
        """The rows of their committed and unchanged slices. `slices` says which are absent."""
        return sum(run.totals.rows for run in self.runs)

    @property
    def partitions_changed(self) -> tuple[datetime.date, ...]:
        """Days that a warehouse must load again: those that have changed, or may have."""
        changed = {day for run in self.runs for day in run.partitions_changed}
        return tuple(sorted(changed.union(self.unreported)))

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
        ValueError: An argument or a key of ``options`` is wrong, or two exclude each other.
    """
    from pyspark import TaskContext
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

    # With speculation, the first start of a task has company.
    is_speculative = spark.conf.get("spark.speculation", "false") == "true"

    def work(number: int) -> list[_Answer]:
        task = TaskContext.get()
        is_repeated = is_speculative or (task is not None and task.attemptNumber() > 0)
        with job.on_executor() as path:
            return [_run_slice(each, refresh, path, job, is_repeated) for each in groups[number]]

    # A function of rows needs neither pandas nor a Spark context. It must not be evaluated twice.
    on_executors = udf(work, _ANSWERS, useArrow=False).asNondeterministic()
    tasks = spark.range(0, len(groups), 1, len(groups)).select("id", on_executors("id"))
    answers = [
        (due, _Answer(*it))
        for number, task in tasks.collect()
        for due, it in zip(groups[number], task, strict=True)
    ]
    report = _together(answers)
    failures = [it for _, it in answers if it.status != 0]
    if failures:
        failed = tuple(each for each in report.slices if each.outcome == "failed")
        raise Error(of_failed(failed) or failures[0].message, failures[0].status, report)
    return report


def _together(answers: Sequence[tuple[Slice, _Answer]]) -> SparkReport:
    """The reports of all answers, and the days of which they do not tell enough."""
    runs = []
    unreported: set[datetime.date] = set()
    for due, answer in answers:
        run = from_json(RunReport, json.loads(answer.report)) if answer.report else None
        runs += [run] if run else []
        # To load a day once too often is safe.
        if answer.is_repeated or not run or all(it.outcome == "skipped" for it in run.slices):
            unreported.add(due.first_day)
    return SparkReport(runs=tuple(sorted(runs, key=_order)), unreported=tuple(sorted(unreported)))


def _run_slice(slice_: Slice, refresh: bool, config: str, job: Job, is_repeated: bool) -> _Answer:
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
        message = job.as_on_driver(error.message, config)
        return _Answer(error.status, message, _as_json(error.report, job, config), is_repeated)
    return _Answer(0, "", _as_json(report, job, config), is_repeated)


def _as_json(report: object, job: Job, config: str) -> str | None:
    if not isinstance(report, RunReport):
        return None

    slices = tuple(
        dataclasses.replace(it, error=it.error and job.as_on_driver(it.error, config))
        for it in report.slices
    )
    warnings = tuple(job.as_on_driver(it, config) for it in report.warnings)
    shown = dataclasses.replace(report, slices=slices, warnings=warnings)
    return json.dumps(dataclasses.asdict(shown), default=str)


def _order(report: RunReport) -> tuple[datetime.date, str]:
    first = next(iter(report.slices), None)
    return (first.first_day, first.direction) if first else (datetime.date.min, "")
