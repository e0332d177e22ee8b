"""What the program reports, as `--format json` prints it: one class for each JSON object.

Fields that a newer program adds are ignored. `docs/layout.md` and the commands' help explain what
the program's words mean.
"""

import dataclasses
import datetime
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One direction in one day, or in one month of a lake of months.

    Attributes:
        direction: ``"placed"`` or ``"received"``.
        day: The day; ``None`` for a month.
        month: The month, such as ``"2026-10"``; ``None`` for a day.
    """

    direction: str
    day: datetime.date | None = None
    month: str | None = None

    def __str__(self) -> str:
        return f"{self.direction} {self.day or self.month}"

    @property
    def first_day(self) -> datetime.date:
        """The first day of the slice.

        >>> Slice(direction="placed", month="2026-02").first_day
        datetime.date(2026, 2, 1)
        """
        return self.day or datetime.date.fromisoformat(f"{self.month}-01")

    @property
    def last_day(self) -> datetime.date:
        """The last day of the slice.

        >>> Slice(direction="placed", month="2026-02").last_day
        datetime.date(2026, 2, 28)
        """
        if self.day:
            return self.day
        # The first day of the month that follows, less one.
        in_next = self.first_day + datetime.timedelta(days=31)
        return in_next.replace(day=1) - datetime.timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Records of a slice, or of a run, and what became of them.

    Attributes:
        records: Records that were read.
        rows: Records that became rows.
        duplicates: Equal records that were dropped.
        repeated: Equal records that were kept, with ``quality.dedupe = false``.
        conflicts: Records with the ID of another one, but other values. They are kept.
        rejected: Records that could not become a row.
        suppressed: Records of an erased number.
        redacted: Records from which a credential was removed.
        rounded: Records with a value that its column cannot hold exactly.
        ambiguous_times: Records with a local time that occurs twice, or not at all.
        outside_day: Records whose time lies outside their day.
        missing_charge: Rows without a charge.
        missing_duration: Rows without a duration.
    """

    records: int = 0
    rows: int = 0
    duplicates: int = 0
    repeated: int = 0
    conflicts: int = 0
    rejected: int = 0
    suppressed: int = 0
    redacted: int = 0
    rounded: int = 0
    ambiguous_times: int = 0
    outside_day: int = 0
    missing_charge: int = 0
    missing_duration: int = 0


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Exact sums over rows.

    Attributes:
        duration_seconds: Seconds of talk time.
        charge_usd: Charges, in US dollars.
        forward_fee_usd: Fees for forwarding, in US dollars.
        by_disposition: Rows by disposition.
    """

    duration_seconds: int = 0
    charge_usd: Decimal = Decimal(0)
    forward_fee_usd: Decimal = Decimal(0)
    by_disposition: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums of a slice, for comparison: rows, seconds of talk time, and charges in US dollars."""

    rows: int
    duration_seconds: int
    charge_usd: Decimal


@dataclass(frozen=True, kw_only=True)
class Change:
    """How a slice has changed: its content fetched at ``since``, and the content now."""

    since: datetime.datetime
    before: Sums
    after: Sums


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the table: its path in the lake, its rows and its bytes."""

    path: str
    rows: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class SliceReport(Slice, Counts):
    """What a run did with a slice.

    Attributes:
        outcome: ``"committed"``, ``"unchanged"``, ``"skipped"`` or ``"failed"``.
        state: ``"closed"``, ``"open"`` or ``"pruned"``; ``None`` while nothing is committed.
        attempts: How often it was tried.
        control_total: The provider's own count.
        reconcile: How that count compares: ``"match"``, ``"mismatch"`` ….
        totals: Sums over the rows.
        files: Its file, if it has rows.
        change: How its rows have changed; ``None`` if they have not, or the slice is new.
        error: Why it failed or was skipped.
        reason: The kind of failure, where there is a specific remedy.
    """

    outcome: str
    state: str | None = None
    attempts: int = 0
    control_total: int | None = None
    reconcile: str
    totals: Totals = field(default_factory=Totals)
    files: tuple[File, ...] = ()
    change: Change | None = None
    error: str | None = None
    reason: str | None = None

    __str__ = Slice.__str__


@dataclass(frozen=True, kw_only=True)
class RunTotals(Counts, Totals):
    """Counts and sums over the committed and unchanged slices of a run."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What a run did.

    Attributes:
        run: The ID of the run; sorts by time.
        started_at: When it started.
        finished_at: When it ended.
        outcome: ``"committed"``, ``"partial"``, ``"failed"`` or ``"interrupted"``.
        slices: All due slices, by day.
        totals: Sums over the committed and unchanged slices.
        partitions_changed: Days that a warehouse must load again.
        warnings: Problems that did not stop the run but need attention.
        retries: Attempts at slices and pages after the first, by the reason.
        bytes_received: Bytes of bodies, as they came over the network.
    """

    run: str
    started_at: datetime.datetime
    finished_at: datetime.datetime
    outcome: str
    slices: tuple[SliceReport, ...]
    totals: RunTotals
    partitions_changed: tuple[datetime.date, ...]
    warnings: tuple[str, ...]
    retries: Mapping[str, int] = field(default_factory=dict)
    bytes_received: int = 0

    @property
    def failed(self) -> tuple[SliceReport, ...]:
        """The slices that failed."""
        return tuple(it for it in self.slices if it.outcome == "failed")

    def problem(self) -> str | None:
        """What failed, in a sentence for an error."""
        return of_failed(self.failed)


def of_failed(failed: tuple[SliceReport, ...]) -> str | None:
    """What failed, in a sentence; ``None`` if nothing did."""
    if not failed:
        return None
    first = f"{failed[0]}: {failed[0].error}"
    more = f" (and {len(failed) - 1} more slices failed)" if len(failed) > 1 else ""
    return first + more


@dataclass(frozen=True, kw_only=True)
class DueSlice(Slice):
    """A slice that a run would fetch, and why."""

    why: str

    __str__ = Slice.__str__


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do.

    Attributes:
        first: The first day that it looks at.
        last: The last day that it looks at.
        up_to_date: How many slices are up to date.
        due: The slices that it would fetch.
    """

    first: datetime.date = field(metadata={"json": "from"})
    last: datetime.date = field(metadata={"json": "to"})
    up_to_date: int
    due: tuple[DueSlice, ...]


@dataclass(frozen=True, kw_only=True)
class SliceStatus:
    """A slice in the ledger, or a day of the slice of a month.

    Attributes:
        direction: ``"placed"`` or ``"received"``.
        state: ``"closed"``, ``"open"``, ``"failed"``, ``"missing"`` ….
        records: Records that came from the provider; ``None`` for a day of a month.
        rows: Its rows.
        rejected: Records that could not become a row; ``None`` for a day of a month.
        answered: Answered calls.
        duration_seconds: Seconds of talk time.
        charge_usd: Charges, in US dollars.
        asr_percent: The share of answered calls; ``None`` without calls.
        acd_seconds: The average duration of answered calls; ``None`` without any.
        reconcile: How the provider's count compared.
        fetched_at: When its content was fetched.
        problem: Why the last attempt failed, or what is wrong with the ledger entry.
    """

    direction: str
    state: str
    records: int | None = None
    rows: int
    rejected: int | None = None
    answered: int
    duration_seconds: int
    charge_usd: Decimal
    asr_percent: float | None = None
    acd_seconds: float | None = None
    reconcile: str | None = None
    fetched_at: datetime.datetime | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class DayStatus:
    """A day: its slices, and what needs attention."""

    day: datetime.date
    slices: tuple[SliceStatus, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MonthStatus:
    """A month of a lake of months: its slices, and what needs attention beyond its days."""

    month: str
    slices: tuple[SliceStatus, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Status:
    """The lake by day, from its ledger.

    Attributes:
        first: The first day.
        last: The last day.
        closed: How many slices are closed.
        open: How many slices are open.
        failed: How many slices failed in their last attempt.
        damaged: How many slices have a ledger entry that cannot be read.
        interrupted: How many slices were being published when a run ended.
        missing: How many slices were never committed.
        pruned: How many slices were removed for their age.
        tables: The table formats of which the lake has a log.
        unsynced_runs: How many runs these logs lack.
        slice: ``"day"`` or ``"month"``.
        months: The months, in a lake of months.
        days: Every day from the first to the last.
    """

    first: datetime.date = field(metadata={"json": "from"})
    last: datetime.date = field(metadata={"json": "to"})
    closed: int
    open: int
    failed: int
    damaged: int
    interrupted: int
    missing: int
    pruned: int
    tables: tuple[str, ...]
    unsynced_runs: int
    slice: str
    months: tuple[MonthStatus, ...] = ()
    days: tuple[DayStatus, ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A difference between lake and ledger.

    Attributes:
        fault: Its kind, such as ``"missing_file"``.
        slice: The slice; ``None`` for files that belong to none.
        path: The file, in the lake.
        problem: What is wrong.
    """

    fault: str
    slice: Slice | None = None
    path: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class SourceCheck:
    """The provider's counts: how many were compared, how many slices are open, and an error."""

    asked: int
    open: int
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Repair:
    """The result of a repair: removed files, the run that fetched again, and what remains."""

    removed: tuple[str, ...]
    run: RunReport | None = None
    remaining: tuple[Finding, ...]
    in_progress: tuple[Slice, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The lake, read again and compared with its ledger.

    Attributes:
        slices: How many slices were verified.
        rows: How many rows were read.
        bytes: How many bytes of the table were read.
        records: Records that came from the provider.
        rejected: How many of them could not become a row.
        unproven: Slices that were accepted without an equal count of the provider.
        with_duplicates: Slices whose count is the provider's only with duplicates.
        in_progress: Slices that another run was publishing.
        findings: What is wrong with files and entries of the ledger.
        not_fetched: Selected slices that the lake lacks.
        looked_for_missing: Whether it looked for these: it does from the first day that is asked
            for, or from ``window.start``. Without either, ``not_fetched`` is empty.
        source: The provider's counts; ``None`` if it was not asked.
        repair: The repair; ``None`` if nothing was repaired.
    """

    slices: int
    rows: int
    bytes: int
    records: int
    rejected: int
    unproven: tuple[Slice, ...]
    with_duplicates: tuple[Slice, ...]
    in_progress: tuple[Slice, ...]
    findings: tuple[Finding, ...]
    not_fetched: tuple[Slice, ...]
    looked_for_missing: bool
    source: SourceCheck | None = None
    repair: Repair | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """All that is wrong, each in a sentence.

        The findings, the slices that the lake lacks, and why the provider could not be asked.
        """
        of_source = (self.source.error,) if self.source and self.source.error else ()
        return (
            *(f"{it.path}: {it.problem}" for it in self.findings),
            *(f"{it}: the lake lacks it" for it in self.not_fetched),
            *of_source,
        )

    def problem(self) -> str | None:
        """What is wrong, in a sentence for an error."""
        found = self.problems
        if not found:
            return None
        more = f" (and {len(found) - 1} more problems)" if len(found) > 1 else ""
        return found[0] + more


def from_json(cls: type[T], value: Any) -> T:
    """Makes an instance of a class of this module from parsed JSON.

    Raises:
        KeyError: A field without a default is missing.
    """
    return typing.cast(T, _made(cls, value))


def _made(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _made(arguments[0], value)
    if origin is tuple:
        return tuple(_made(arguments[0], item) for item in value)
    if dataclasses.is_dataclass(kind):
        return _object(kind, value)
    if kind in (datetime.date, datetime.datetime):
        return kind.fromisoformat(value)
    return Decimal(value) if kind is Decimal else value


def _object(kind: Any, value: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)

    def fields() -> Iterator[tuple[str, Any]]:
        for each in dataclasses.fields(kind):
            key = each.metadata.get("json", each.name)
            has_default = (
                each.default is not dataclasses.MISSING
                or each.default_factory is not dataclasses.MISSING
            )
            if key in value or not has_default:
                yield each.name, _made(hints[each.name], value[key])

    return kind(**dict(fields()))
