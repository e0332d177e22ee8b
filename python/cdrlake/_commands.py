"""The commands as functions."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cdrlake._process import Error, OptionValue, Process
from cdrlake._selection import Day, Selection
from cdrlake.reports import Plan, RunReport, Status, VerifyReport, from_json

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
#: A dictionary that is not changed.
_NOTHING: Mapping[str, str] = {}


def run(
    *,
    from_: Day | None = None,
    to: Day | None = None,
    last: int | None = None,
    direction: str | None = None,
    include_today: bool = False,
    refresh: bool = False,
    allow_shrink: bool = False,
    config: str | None = None,
    lake: str | None = None,
    options: Mapping[str, OptionValue] = _NOTHING,
    env: Mapping[str, str] = _NOTHING,
) -> RunReport:
    """Brings the lake up to date, as ``cdrlake run`` does.

    Args:
        from_: The first day. By default ``window.start`` of the configuration.
        to: The last day. By default yesterday.
        last: Instead of both, the last days, as a number.
        direction: ``"placed"`` or ``"received"``, by default both.
        include_today: Also fetch today so far. Its slices stay open.
        refresh: Also fetch complete slices again.
        allow_shrink: Accept a slice that has fewer rows than the lake has.
        config: The configuration file. By default ``pipeline.toml``, if it exists.
        lake: The lake's address, instead of ``lake.url``.
        options: Other keys of the configuration, such as ``{"source.requests": 8}``.
        env: Variables for the program, beside those of this process: the API key, for example.

    Returns:
        The report. Every due slice is committed.

    Raises:
        Error: Something failed; the rest is committed. ``report`` says what, if the run began.
        ValueError: An argument or a key of ``options`` is wrong, or two exclude each other.

    Example:
        >>> with simulate(calls_per_day=100) as api:
        ...     report = run(lake="new", last=2, options=api.options, env=api.env)
        >>> report.outcome, len(report.slices)
        ('committed', 4)
    """
    arguments = ["run", *_selection(from_, to, last, direction), *_files(config, lake)]
    flags = {
        "--include-today": include_today,
        "--refresh": refresh,
        "--allow-shrink": allow_shrink,
    }
    return _reported(RunReport, arguments + _given(flags), options, env)


def plan(
    *,
    from_: Day | None = None,
    to: Day | None = None,
    last: int | None = None,
    direction: str | None = None,
    include_today: bool = False,
    refresh: bool = False,
    config: str | None = None,
    lake: str | None = None,
    options: Mapping[str, OptionValue] = _NOTHING,
    env: Mapping[str, str] = _NOTHING,
) -> Plan:
    """Lists what `run` would fetch with the same arguments, and why. It needs no API key.

    Raises:
        Error: The configuration is wrong, or the lake cannot be read.
        ValueError: An argument or a key of ``options`` is wrong, or two exclude each other.

    Example:
        >>> [(str(due), due.why) for due in plan(lake="none", last=1, direction="placed").due]
        [('placed ...', 'missing')]
    """
    arguments = ["plan", *_selection(from_, to, last, direction), *_files(config, lake)]
    flags = {"--include-today": include_today, "--refresh": refresh}
    return _reported(Plan, arguments + _given(flags), options, env)


def status(
    *,
    from_: Day | None = None,
    to: Day | None = None,
    last: int | None = None,
    direction: str | None = None,
    config: str | None = None,
    lake: str | None = None,
    options: Mapping[str, OptionValue] = _NOTHING,
    env: Mapping[str, str] = _NOTHING,
) -> Status:
    """Shows the lake by day, from its ledger. It needs no API key.

    The arguments are those of `run`.

    Raises:
        Error: There is no lake, or it cannot be read. Failed slices are no error here.
        ValueError: An argument or a key of ``options`` is wrong, or two exclude each other.

    Example:
        >>> found = status(lake="lake", last=2)
        >>> found.closed + found.open, found.missing
        (4, 0)
    """
    arguments = ["status", *_selection(from_, to, last, direction), *_files(config, lake)]
    return _reported(Status, arguments, options, env)


def verify(
    *,
    from_: Day | None = None,
    to: Day | None = None,
    last: int | None = None,
    direction: str | None = None,
    source: bool = False,
    repair: bool = False,
    config: str | None = None,
    lake: str | None = None,
    options: Mapping[str, OptionValue] = _NOTHING,
    env: Mapping[str, str] = _NOTHING,
) -> VerifyReport:
    """Reads the lake and compares it with its ledger.

    Args:
        from_: The first day. By default that of the lake.
        to: The last day. By default that of the lake.
        last: Instead of both, the last days, as a number.
        direction: ``"placed"`` or ``"received"``, by default both.
        source: Also compare the counts with the provider's current ones.
        repair: Fetch damaged slices again, and remove files that belong to no slice.
        config: As for `run`.
        lake: As for `run`.
        options: As for `run`.
        env: As for `run`.

    Returns:
        The report. There is nothing wrong, or it was repaired.

    Raises:
        Error: Something is wrong. ``report`` lists the findings, if the lake could be read.
        ValueError: An argument or a key of ``options`` is wrong, or two exclude each other.

    Example:
        >>> verify(lake="lake").findings
        ()
    """
    arguments = ["verify", *_selection(from_, to, last, direction), *_files(config, lake)]
    flags = {"--source": source, "--repair": repair}
    return _reported(VerifyReport, arguments + _given(flags), options, env)


def read(
    direction: str | None = None,
    day: Day | None = None,
    *,
    from_: Day | None = None,
    to: Day | None = None,
    last: int | None = None,
    include_today: bool = False,
    config: str | None = None,
    lake: str | None = None,
    options: Mapping[str, OptionValue] = _NOTHING,
    env: Mapping[str, str] = _NOTHING,
) -> "pa.RecordBatchReader":
    """Fetches calls and returns their rows, without a lake, as ``cdrlake stream`` does.

    Each slice passes the same checks as in a run before its first row is returned: the provider's
    count, the limits on rejected records, duplicates. Memory does not grow with a slice.

    Args:
        direction: ``"placed"`` or ``"received"``, by default both.
        day: The day.
        from_: Instead of a day, the first day.
        to: Instead of a day, the last day.
        last: Instead of a day, the last days, as a number.
        include_today: Also fetch today so far, or name today as the day.
        config: As for `run`.
        lake: As for `run`. No lake is needed, and none is made. If there is one, its numbers
            that were erased are left out here, too.
        options: As for `run`.
        env: As for `run`.

    Returns:
        A reader of record batches with the table's schema. **It ends without an error only if every
        slice was proven complete.** Whoever takes its rows must read it to its end, as
        ``read_all`` and every consumer of the Arrow C stream interface do.

    Raises:
        Error: The program cannot be started, or the first slice failed. The reader raises it as
            well, where a later slice fails.
        ImportError: There is no pyarrow: ``pip install 'cdrlake[arrow]'``.
        ValueError: An argument or a key of ``options`` is wrong, or two exclude each other.

    Example:
        >>> with simulate(calls_per_day=100) as api:
        ...     table = read(last=1, options=api.options, env=api.env).read_all()
        >>> table.schema.names[:4]
        ['call_id', 'parent_call_id', 'direction', 'source_day']
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise ImportError("cdrlake.read needs pyarrow: pip install 'cdrlake[arrow]'") from None
    selection = Selection.of(day=day, from_=from_, to=to, last=last, direction=direction)
    arguments = ["stream", *selection.flags(), *_files(config, lake)]
    arguments += _given({"--include-today": include_today})
    process = Process(arguments, options, env)
    try:
        stream = pa.ipc.open_stream(process.stdout)
    except (pa.ArrowInvalid, OSError):
        raise process.failure() from None
    except BaseException:
        process.stop()
        raise
    batches = _proven_batches(process, stream)
    # Dropped before its first step, a generator would do nothing, and leave the program at work.
    next(batches)
    return pa.RecordBatchReader.from_batches(stream.schema, batches)


def _proven_batches(process: Process, stream: "pa.RecordBatchReader") -> "Iterator[pa.RecordBatch]":
    """`None`, then the batches.

    Ends only if the program says, in both ways, that it sent everything.
    """
    import pyarrow as pa

    try:
        yield None
        # An end without the marker of the end looks like the end, if the program was killed
        # between two messages: the exit status tells.
        yield from stream
        if process.wait() != 0:
            raise process.failure()
    except (pa.ArrowInvalid, OSError):
        raise process.failure() from None
    finally:
        process.stop()


@dataclass(frozen=True)
class Simulator:
    """A simulated Wavix API on this machine.

    Attributes:
        url: Its address.
        key: The API key that it accepts.
    """

    url: str
    key: str

    @property
    def options(self) -> Mapping[str, str]:
        """The keys of the configuration that name it, for ``options`` of the functions."""
        return {"source.url": self.url, "source.api_key.env": "WAVIX_API_KEY"}

    @property
    def env(self) -> Mapping[str, str]:
        """The variable that holds its key, for ``env`` of the functions."""
        return {"WAVIX_API_KEY": self.key}


@contextmanager
def simulate(
    *,
    key: str = "demo",
    seed: int = 42,
    calls_per_day: int = 2000,
    faults: Sequence[str] = (),
) -> Iterator[Simulator]:
    """Serves a simulated Wavix API as long as the context lasts, for tests.

    Args:
        key: The API key to accept.
        seed: The same seed makes the same calls.
        calls_per_day: The mean number of calls a day, in both directions together.
        faults: Faults of the API, such as ``["flaky=5"]``: ``cdrlake simulate --help`` lists them.

    Raises:
        Error: It could not be started.

    Example:
        >>> with simulate() as api:
        ...     print(api.url)
        http://127.0.0.1:...
    """
    arguments = ["simulate", "--port", "0", "--key", key, "--seed", str(seed)]
    arguments += ["--calls-per-day", str(calls_per_day)]
    for fault in faults:
        arguments += ["--fault", fault]
    # Quiet when it is ended, as it always is.
    process = Process(arguments, {}, {"CDRLAKE_LOG": "error"})
    try:
        # The first line says where it listens.
        url = process.stdout.readline().decode().strip()
        if not url:
            raise process.failure()
        yield Simulator(url, key)
    finally:
        process.stop()


def _reported(
    kind: type[T],
    arguments: Sequence[str],
    options: Mapping[str, OptionValue],
    env: Mapping[str, str],
) -> T:
    """The report of a command; raises `Error` with it if the command failed."""
    process = Process([*arguments, "--format", "json"], options, env)
    try:
        text = process.stdout.read()
        status = process.wait()
    finally:
        process.stop()
    try:
        report = from_json(kind, json.loads(text)) if text else None
    except KeyError as missing:
        raise Error(
            f"the program's answer lacks {missing}: it is older than this module. Install both "
            "in the same version",
            status,
        ) from None
    if status != 0 or report is None:
        problem = report.problem() if isinstance(report, RunReport | VerifyReport) else None
        raise process.failure(report, problem)
    return report


def _selection(
    from_: Day | None, to: Day | None, last: int | None, direction: str | None
) -> list[str]:
    return Selection.of(from_=from_, to=to, last=last, direction=direction).flags()


def _files(config: str | None, lake: str | None) -> list[str]:
    return _valued({"--config": config, "--lake": lake})


def _valued(flags: Mapping[str, object]) -> list[str]:
    # One word each: a value may begin with a hyphen.
    return [f"{flag}={value}" for flag, value in flags.items() if value is not None]


def _given(flags: Mapping[str, bool]) -> list[str]:
    return [flag for flag, is_given in flags.items() if is_given]
