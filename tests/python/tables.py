"""Takes a lake with Delta Lake and Apache Iceberg logs through its life, and has every reader of
both formats read it after each step.

The lake has edge values of every column. After a first load, a re-rated day, a removed day, an
erased number, and sixty commits whose history was removed behind a checkpoint, every reader must
have every value, of the newest version and of earlier ones. It must not open a file that a filter
excludes. In every mode of privacy, the logs contain no number, id or other text of a call.

A lake of months has a shorter life: a first load, a month with more calls, an open month, a removed
month, and an erased number. Readers filter by the day within a month and by month.

Usage: tables.py path/to/cdrlake [path/to/python=reader ...]

Without the interpreters, only the readers of this environment take part.
"""

import contextlib
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import pyarrow
import pyarrow.compute
import pyarrow.parquet

import edge_calls
import table_logs
from edge_calls import COLUMNS, EMPTY, FIRST, OLD, SECOND, TEXTS, Source, with_days_of_months
from table_readers import TYPES, Filter, compare

HERE = pathlib.Path(__file__).parent
PROGRAM = pathlib.Path(sys.argv[1]).resolve()
ENVIRONMENT = os.environ | {"WAVIX_API_KEY": "edge", "CDR_PRIVACY_KEY": "0123456789abcdef" * 4}
COMMITS = 60
# The last day of the month before FIRST.
EARLIER = "2026-09-30"
READERS_HERE = [
    "deltalake",
    "deltalake with pyarrow",
    "duckdb",
    "polars",
    "polars with pyiceberg",
    "chdb",
    "daft",
    "pyiceberg",
]

# A reader, a format and a column: a filter on the column makes the reader open files that the log
# excludes. Its rows are right.
OPENS_MORE = {
    ("chdb", "delta", "call_time"),
    ("chdb", "delta", "charge_usd"),
    ("chdb", "iceberg", "charge_usd"),
    ("chdb", "iceberg", "disposition"),
    ("daft", "delta", "call_time"),
    ("daft", "delta", "charge_usd"),
    ("daft", "delta", "direction"),
    ("daft", "delta", "disposition"),
    ("daft", "delta", "source_day"),
    ("deltalake with pyarrow", "delta", "charge_usd"),
    ("duckdb", "delta", "call_time"),
    ("duckdb", "iceberg", "disposition"),
    ("polars with pyiceberg", "iceberg", "charge_usd"),
    ("sail", "delta", "charge_usd"),
}
# A reader, a format and a column: a filter on the column loses rows. deltalake gives pyarrow the
# bound "null" for a file that has no bounds of the column, which excludes the whole file.
LOSES_ROWS = {
    ("deltalake with pyarrow", "delta", "call_time"),
    ("deltalake with pyarrow", "delta", "disposition"),
}
# Readers of Apache Iceberg that do not take the address of a metadata file.
NEED_A_DIRECTORY = {"chdb", "sail"}


def call(day, direction, uuid, time, caller="1", **fields):
    record = {"uuid": uuid, "date": time, "from": caller, "to": "2", "duration": 5, "charge": "7"}
    return day, direction, record | fields


ERASED = "4930901820001"
CALLS = [
    *edge_calls.CALLS,
    # The earliest and the latest time, beside enough calls of the day itself.
    call(FIRST, "received", "earliest", "0001-01-01T00:00:00Z"),
    call(FIRST, "received", "latest", "9999-12-31T23:59:59.999999Z"),
    *(call(FIRST, "received", f"of-the-day-{at}", f"{FIRST}T10:00:00Z") for at in range(9)),
    # Numbers in every column that can have them.
    call(FIRST, "placed", "erased", f"{FIRST}T10:00:00Z", to=ERASED),
    call(
        FIRST,
        "placed",
        "call-7720100000001",
        f"{FIRST}T10:00:00Z",
        caller="4930901820077",
        to="+49 30 901820078",
        parent_uuid="call-7720100000002",
        destination="sip:4930901820079@example.com",
        disposition="no answer from 4930901820080",
        sip_trunk="trunk 4930901820081",
        answered_by="4930901820082",
        note={"caller": ["4930901820083", 4930901820084]},
    ),
    # Enough for three row groups.
    *(
        call(SECOND, "received", f"{at}", f"{SECOND}T11:00:00.{at:06}Z", charge=f"0.{at:09}")
        for at in range(2500)
    ),
]
RERATED = [
    *(each for each in CALLS if each[:2] != (SECOND, "placed")),
    call(SECOND, "placed", "re-rated", f"{SECOND}T10:00:00Z", charge="-0.000000001"),
    call(EMPTY, "placed", "alone", f"{EMPTY}T10:00:00Z"),
]


class Lake:
    """A lake with both logs."""

    def __init__(self, directory, url, privacy=(), unit="day"):
        self.directory, self.url, self.privacy, self.unit = directory, url, privacy, unit
        self.path = directory / "lake"
        directory.mkdir()

    def cdrlake(self, *arguments, keep_replaced="7d"):
        lines = [
            f'[source]\nurl = "{self.url}"\napi_key = {{ env = "WAVIX_API_KEY" }}',
            f'[lake]\nurl = "{self.path}"\ntables = ["delta", "iceberg"]',
            f'keep_replaced = "{keep_replaced}"',
            f'[window]\nslice = "{self.unit}"',
            "[parquet]\nrow_group_rows = 1000",
            '[privacy]\nkey = { env = "CDR_PRIVACY_KEY" }',
            *self.privacy,
        ]
        (self.directory / "pipeline.toml").write_text("\n".join(lines))
        ran = subprocess.run(
            [PROGRAM, *arguments],
            cwd=self.directory,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, f"{arguments}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def run(self, first, last, calls, *arguments):
        Source.calls = calls
        arguments = ["--refresh", "--allow-shrink", *arguments]
        self.cdrlake("run", "--from", first, "--to", last, *arguments)

    def fill(self):
        self.run(OLD, OLD, CALLS)
        self.run(FIRST, EMPTY, CALLS)

    def files(self):
        """The table's files with their rows."""
        paths = [pathlib.Path(path) for path in self.cdrlake("files").split()]
        return {path: pyarrow.parquet.ParquetFile(path).read() for path in paths}

    @contextlib.contextmanager
    def without(self, paths):
        """The lake, in which a reader fails if it opens one of these files."""
        for path in paths:
            path.rename(path.with_suffix(".hidden"))
        yield
        for path in paths:
            path.with_suffix(".hidden").rename(path)


def table_of(calls):
    rows = [edge_calls.row_of(*each) for each in calls]
    columns = zip(COLUMNS, zip(*rows), strict=True)
    return pyarrow.table({name: pyarrow.array(column, TYPES[name]) for name, column in columns})


def partitions(rows, unit):
    """The first day of the period of each row."""
    return pyarrow.compute.floor_temporal(rows["source_day"], unit=unit)


def matches(where, rows, unit):
    """Which rows a filter has."""
    comparisons = {"=": "equal", ">=": "greater_equal", "<=": "less_equal"}
    found = partitions(rows, unit) if where.column == "dt" else rows[where.column]
    value = pyarrow.scalar(where.literal(), TYPES[where.column])
    return getattr(pyarrow.compute, comparisons[where.operator])(found, value)


def filters(log, rows, unit):
    """Filters by the partition and by bounds. Those by extremes fail if a bound is too narrow."""
    if unit == "month":
        if log == "delta":
            yield Filter("dt", "=", FIRST)
        # A day within a month, of which one direction has no calls, and whole months.
        yield Filter("source_day", "=", EARLIER)
        yield Filter("source_day", ">=", FIRST)
        yield Filter("source_day", "<=", EARLIER)
        return
    yield Filter("dt" if log == "delta" else "source_day", "=", SECOND)
    yield Filter("direction", "=", "received")
    yield Filter("disposition", "=", "answered")
    yield Filter("call_time", ">=", f"{SECOND}T10:30:00+00:00")
    for column in ["call_time", "charge_usd"]:
        found = pyarrow.compute.min_max(rows[column]).as_py()
        for operator, extreme in [("<=", found["min"]), (">=", found["max"])]:
            value = extreme.isoformat() if column == "call_time" else f"{extreme:f}"
            yield Filter(column, operator, value)


class Readers:
    """Processes of `table_readers.py`, one for each environment."""

    def __init__(self, folder, environments):
        self.expected = folder / "expected.parquet"
        # What was seen of OPENS_MORE.
        self.opened = set()
        self.processes = []
        for python, names in environments:
            command = [python, HERE / "table_readers.py", *names]
            messages = folder / f"{names[-1]}.log"
            with messages.open("w") as errors:
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
                process = subprocess.Popen(command, text=True, **pipes)
            self.processes.append((process, messages))

    def ask(self, log, table, rows, unit, version=None, where=None):
        """How the rows of each reader differ from these; None if they do not."""
        if log == "delta":
            rows = rows.append_column("dt", partitions(rows, unit))
        pyarrow.parquet.write_table(rows, self.expected)
        question = {
            "format": log,
            "table": str(table),
            "version": version,
            "where": where,
            "expected": str(self.expected),
        }
        for process, _ in self.processes:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
        answers = {}
        for process, messages in self.processes:
            line = process.stdout.readline()
            assert line, f"{process.args} has ended: {messages.read_text()}"
            answers |= json.loads(line)
        return answers

    def close(self):
        for process, _ in self.processes:
            process.stdin.close()
            process.wait()


class Checks:
    """Checks a lake after each step."""

    def __init__(self, lake, readers):
        self.lake, self.readers, self.unit = lake, readers, lake.unit
        # The rows of each version, by format.
        self.history = {"delta": {}, "iceberg": {}}

    def table(self, log):
        return self.lake.path if log == "delta" else self.lake.path / "_iceberg"

    def note(self, calls):
        """Remembers the rows of the newest version."""
        rows = table_of(calls)
        for log, versions in self.history.items():
            versions[table_logs.versions(self.lake.path, log)[-1]] = rows

    def check(self, step, calls):
        """Verifies the lake, and has every reader read both logs."""
        assert "everything matches the ledger" in self.lake.cdrlake("verify"), step
        files, rows = self.lake.files(), table_of(calls)
        different = compare(pyarrow.concat_tables(files.values()), rows)
        assert different is None, f"{step}: files: {different}"
        check_digits(self.lake)
        self.note(calls)
        self.wrong = []
        for log, known in self.history.items():
            table = self.table(log)
            table_logs.check_statistics(self.lake.path, log, files)
            self.expect(self.readers.ask(log, table, rows, self.unit), log, "")
            # The oldest version, and the one before the newest.
            versions = table_logs.versions(self.lake.path, log)
            for version in sorted({*versions[:1], *versions[-2:-1]}):
                answers = self.readers.ask(log, table, known[version], self.unit, version)
                self.expect(answers, log, f"version {version}")
            for where in filters(log, rows, self.unit):
                self.check_filter(log, where, files, rows)
        path = table_logs.metadata_file(self.table("iceberg"))
        answers = self.readers.ask("iceberg", path, rows, self.unit)
        for reader in NEED_A_DIRECTORY & answers.keys():
            assert answers.pop(reader), reader
        self.expect(answers, "iceberg", "by its file")
        assert not self.wrong, "\n".join([step, *self.wrong])
        print(f"{step}: every reader agrees", flush=True)

    def check_filter(self, log, where, files, rows):
        excluded = [
            path
            for path, found in files.items()
            if not pyarrow.compute.any(matches(where, found, self.unit)).as_py()
        ]
        rows = rows.filter(matches(where, rows, self.unit))
        assert excluded and rows.num_rows, where
        table = self.table(log)
        with self.lake.without(excluded):
            answers = self.readers.ask(log, table, rows, self.unit, where=where)
        failed = {(reader, log, where.column) for reader in answers if answers[reader]}
        self.readers.opened |= failed & OPENS_MORE
        if failed & OPENS_MORE:
            whole = self.readers.ask(log, table, rows, self.unit, where=where)
            answers |= {reader: whole[reader] for reader, *_ in failed & OPENS_MORE}
        self.expect(answers, log, " ".join(where))

    def expect(self, answers, log, what):
        for reader, answer in answers.items():
            if (answer is None) == ((reader, log, what.split(" ")[0]) in LOSES_ROWS):
                self.wrong.append(f"{reader}, {log}, {what}: {answer}")


def check_life(directory, url, readers):
    """Takes a lake through its life."""
    lake = Lake(directory / "life", url)
    checks = Checks(lake, readers)
    lake.run(OLD, OLD, CALLS)
    checks.note(each for each in CALLS if each[0] == OLD)
    lake.run(FIRST, EMPTY, CALLS)
    checks.check("a first load", CALLS)

    lake.run(SECOND, EMPTY, RERATED)
    checks.check("a re-rated day", RERATED)

    lake.cdrlake("prune", "--older-than", "20years")
    calls = [each for each in RERATED if each[0] != OLD]
    checks.check("a removed day", calls)

    lake.cdrlake("erase", "--number", ERASED)
    calls = [each for each in calls if each[2]["to"] != ERASED]
    checks.check("an erased number", calls)
    current = set(lake.files())
    files = set((lake.path / "cdrs").rglob("*.parquet"))
    assert files == current, "an erasure removes replaced files at once"

    others = [each for each in calls if each[:2] != (SECOND, "placed")]
    for commit in range(COMMITS):
        calls = [*others, call(SECOND, "placed", f"{commit}", f"{SECOND}T10:00:00Z")]
        lake.run(SECOND, SECOND, calls, "--direction", "placed")
        checks.note(calls)
    checks.check(f"{COMMITS} commits", calls)
    # More than a second has passed.
    lake.cdrlake("gc", keep_replaced="1s")
    left = [path for path in table_logs.files(lake.path) if path.suffix == ".json"]
    assert len(left) <= 4, left
    checks.check("history removed behind a checkpoint", calls)


def check_months(directory, url, readers):
    """Takes a lake of months through a shorter life."""
    lake = Lake(directory / "months", url, unit="month")
    checks = Checks(lake, readers)
    calls = [
        *CALLS,
        call(EARLIER, "placed", "last", f"{EARLIER}T23:59:59.999999Z"),
        call(EARLIER, "placed", "erased in September", f"{EARLIER}T10:00:00Z", to=ERASED),
        call("2026-09-10", "received", "of another day", "2026-09-10T00:00:00Z"),
    ]
    lake.run(OLD, f"{OLD[:7]}-31", calls)
    checks.note(with_days_of_months(each for each in calls if each[0] == OLD))
    lake.run(f"{EARLIER[:7]}-01", f"{FIRST[:7]}-31", calls)
    checks.note(with_days_of_months(calls))
    calls.append(call(EMPTY, "placed", "late", f"{EMPTY}T10:00:00Z"))
    lake.run(FIRST, f"{FIRST[:7]}-31", calls)
    checks.check("a month with more calls", [*with_days_of_months(calls)])

    # Yesterday's month is open. It gets a call of an earlier day, and one of yesterday.
    yesterday = datetime.date.today() - datetime.timedelta(days=1)
    first = f"{yesterday:%Y-%m}-01"
    for day in [f"{yesterday}", first]:
        calls.append(call(day, "placed", f"open, {day}", f"{day}T10:00:00Z"))
        lake.run(first, f"{yesterday}", calls)
        checks.check("an open month", [*with_days_of_months(calls)])

    lake.cdrlake("prune", "--older-than", "20years")
    lake.cdrlake("erase", "--number", ERASED)
    kept = [each for each in calls if each[0] != OLD and each[2]["to"] != ERASED]
    checks.check("a removed month and an erased number", [*with_days_of_months(kept)])


PRIVACY = {
    "kept": ['numbers = "keep"'],
    "pseudonyms": ['numbers = "pseudonymize"'],
    "truncated": ['numbers = "truncate"'],
    "mixed": [
        'from_number = "pseudonymize"',
        'to_number = "truncate"',
        'destination = "truncate"',
        'extra = "pseudonymize"',
    ],
}


def digits_of(rows):
    """The numbers and pseudonyms in texts. Ids of snapshots contain shorter ones by chance."""
    texts = [text for name in TEXTS for text in rows[name].to_pylist() if text]
    return {found for text in texts for found in re.findall(r"\d{9,}|[0-9a-f]{16,}", text)}


def check_privacy(directory, url):
    """No log contains a number of a call, as it was served or as it is stored."""
    for mode, privacy in PRIVACY.items():
        lake = Lake(directory / mode, url, privacy)
        lake.fill()
        seen = check_digits(lake)
        lake.run(SECOND, EMPTY, RERATED)
        lake.run(SECOND, EMPTY, CALLS)
        seen |= check_digits(lake)
        # Truncated numbers cannot be erased. A removed day ends the history as well.
        lake.cdrlake("prune", "--older-than", "20years")
        seen |= check_digits(lake)
        assert seen == {".json", ".avro", ".parquet"}, f"no bounds were found but in {seen}"
        print(f"numbers {mode}: the logs contain none", flush=True)


def check_digits(lake):
    """Searches the logs for numbers. Returns the kinds of files in which it saw a public bound."""
    stored = digits_of(pyarrow.concat_tables(lake.files().values()))
    assert len(stored) > 5, "there is little to look for"
    pattern = re.compile("|".join(stored | digits_of(table_of(CALLS))))
    seen = set()
    for path in table_logs.files(lake.path):
        for text in table_logs.texts_of(path):
            assert not pattern.search(text), f"{path} contains {text}"
            if text == "answered":
                seen.add(path.suffix)
    return seen


def main():
    environments = [(sys.executable, READERS_HERE)]
    for argument in sys.argv[2:]:
        python, reader = argument.split("=")
        environments.append((python, [reader]))
    with tempfile.TemporaryDirectory() as directory, edge_calls.served() as url:
        check_privacy(pathlib.Path(directory), url)
        readers = Readers(pathlib.Path(directory), environments)
        check_months(pathlib.Path(directory), url, readers)
        check_life(pathlib.Path(directory), url, readers)
        readers.close()
        asked = {name for _, names in environments for name in names}
        unseen = {each for each in OPENS_MORE - readers.opened if each[0] in asked}
        assert not unseen, f"these open no more files than they must: {unseen}"


if __name__ == "__main__":
    main()
