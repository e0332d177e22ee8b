"""The module: what it starts, what it returns, and how it fails."""

import datetime
import doctest
import importlib.metadata
import json
import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from proxy import proxy

import cdrlake
import cdrlake._commands
import cdrlake._job
import cdrlake._process
import cdrlake._selection
from cdrlake.reports import RunReport, Slice, from_json

IMPATIENT = {"source.retry_base": "1ms", "source.max_attempts": "2"}
YESTERDAY = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)


@pytest.mark.parametrize(
    "module",
    [
        cdrlake,
        cdrlake._commands,
        cdrlake._job,
        cdrlake._process,
        cdrlake._selection,
        cdrlake.reports,
    ],
    ids=lambda it: it.__name__,
)
def test_the_examples_are_true(module: types.ModuleType, api: cdrlake.Simulator) -> None:
    cdrlake.run(lake="lake", last=2, options=api.options, env=api.env)
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert (failed, tried > 0) == (0, True)


def test_the_version_is_that_of_the_program() -> None:
    shown = subprocess.run([cdrlake.binary(), "--version"], capture_output=True, text=True)
    assert shown.stdout == f"cdrlake {importlib.metadata.version('cdrlake')}\n"
    assert cdrlake.__version__ == importlib.metadata.version("cdrlake")


def test_the_module_is_the_command() -> None:
    module = [sys.executable, "-m", "cdrlake"]
    shown = subprocess.run([*module, "--version"], capture_output=True, text=True)
    assert shown.stdout.startswith("cdrlake ")
    # Its exit status, too.
    assert subprocess.run([*module, "status"], stderr=subprocess.DEVNULL).returncode == 2


def test_a_run_returns_what_it_did_and_a_second_one_has_nothing_to_do(
    api: cdrlake.Simulator,
) -> None:
    report = cdrlake.run(lake="lake", last=4, options=api.options, env=api.env)
    assert report.outcome == "committed"
    assert report.finished_at >= report.started_at
    assert report.started_at.tzinfo is not None
    days = [YESTERDAY - datetime.timedelta(days=back) for back in (3, 2, 1, 0)]
    assert list(report.partitions_changed) == days
    directions = ["placed", "received"]
    expected = [(day, direction) for day in days for direction in directions]
    assert [(it.day, it.direction) for it in report.slices] == expected
    assert sum(it.rows for it in report.slices) == report.totals.rows > 0
    charges = sum((it.totals.charge_usd for it in report.slices), Decimal(0))
    assert charges == report.totals.charge_usd > 0
    for each in report.slices:
        assert each.reconcile == "match"
        assert each.control_total == each.rows
        assert [it.rows for it in each.files] == [each.rows]
        assert sum(each.totals.by_disposition.values()) == each.rows

    again = cdrlake.run(
        lake="lake", from_=days[0], to=str(days[0]), options=api.options, env=api.env
    )
    assert again.slices == ()
    assert again.partitions_changed == ()


def test_plan_status_and_verify_need_no_key_and_agree(api: cdrlake.Simulator) -> None:
    plan = cdrlake.plan(lake="lake", last=2, direction="placed")
    assert (plan.first, plan.last) == (YESTERDAY - datetime.timedelta(days=1), YESTERDAY)
    # The newest first.
    assert [(it.day, it.why) for it in plan.due] == [
        (plan.last, "missing"),
        (plan.first, "missing"),
    ]
    run = cdrlake.run(lake="lake", last=2, direction="placed", options=api.options, env=api.env)
    status = cdrlake.status(lake="lake", last=2)
    assert (status.closed + status.open, status.missing) == (2, 2)
    assert sum(each.rows for day in status.days for each in day.slices) == run.totals.rows
    assert status.days[0].slices[0].charge_usd == run.slices[0].totals.charge_usd
    verified = cdrlake.verify(lake="lake")
    assert (verified.slices, verified.rows, verified.findings) == (2, run.totals.rows, ())


def test_findings_are_raised_with_the_report_and_repaired(api: cdrlake.Simulator) -> None:
    run = cdrlake.run(lake="lake", last=1, options=api.options, env=api.env)
    damaged = run.slices[0].files[0].path
    Path("lake", damaged).write_bytes(b"no Parquet")
    with pytest.raises(cdrlake.Error, match=damaged) as raised:
        cdrlake.verify(lake="lake")
    report = raised.value.report
    assert isinstance(report, cdrlake.VerifyReport)
    assert [(it.fault, it.path) for it in report.findings] == [("damaged_file", damaged)]
    assert report.findings[0].slice == Slice(direction="placed", day=YESTERDAY)
    repaired = cdrlake.verify(lake="lake", repair=True, options=api.options, env=api.env)
    assert repaired.repair is not None
    assert repaired.repair.remaining == ()
    assert cdrlake.verify(lake="lake", source=True, options=api.options, env=api.env).source


def test_all_problems_of_a_verification_are_in_its_report(api: cdrlake.Simulator) -> None:
    cdrlake.run(lake="lake", last=1, options=api.options, env=api.env)
    assert not cdrlake.verify(lake="lake").looked_for_missing
    older = YESTERDAY - datetime.timedelta(days=1)
    with pytest.raises(cdrlake.Error, match=r"\(and 1 more problems\)$") as raised:
        cdrlake.verify(lake="lake", last=2)
    report = raised.value.report
    assert isinstance(report, cdrlake.VerifyReport)
    assert report.looked_for_missing
    lacking = [f"{it} {older}: the lake lacks it" for it in ("placed", "received")]
    assert list(report.problems) == lacking


def test_a_failed_slice_is_named_and_the_rest_is_in_the_report() -> None:
    with cdrlake.simulate(calls_per_day=200, faults=["short=1"]) as api:
        options = {**api.options, "source.retry_base": "1ms"}
        with pytest.raises(cdrlake.Error, match=f"^placed {YESTERDAY}: ") as raised:
            cdrlake.run(lake="lake", last=1, options=options, env=api.env)
    assert raised.value.status == 1
    report = raised.value.report
    assert isinstance(report, RunReport)
    assert report.outcome == "failed"
    assert len(report.failed) == 2
    assert "(and 1 more slices failed)" in str(raised.value)


def test_a_refused_key_is_an_error_of_usage_without_the_key(api: cdrlake.Simulator) -> None:
    canary = "key-canary-7391"
    with pytest.raises(cdrlake.Error, match="key") as raised:
        cdrlake.run(lake="lake", last=1, options=api.options, env={"WAVIX_API_KEY": canary})
    assert raised.value.status == 2
    assert canary not in repr(raised.value)


def test_wrong_arguments_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"Did you mean source\.requests\?"):
        cdrlake.plan(lake="lake", last=1, options={"source.requets": 8})
    with pytest.raises(cdrlake.Error, match="there is no lake"):
        cdrlake.status(lake="nowhere", last=1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"day": "2026-10-01", "from_": "2026-10-02"}, "day and from_ exclude each other: leave"),
        ({"day": "2026-10-01", "to": "2026-10-01"}, "day and to exclude each other"),
        ({"day": "2026-10-01", "last": 1}, "day and last exclude each other"),
        ({"last": 1, "from_": "2026-10-02"}, "last and from_ exclude each other"),
        ({"last": 1, "to": "2026-10-02"}, "last and to exclude each other"),
        ({"last": 0}, "last is 0: write a number of days"),
        ({"last": -3}, "last is -3: write a number of days"),
        ({"to": "2026-10-44"}, "to is '2026-10-44', which is not a day: write YYYY-MM-DD"),
        ({"from_": "20261001"}, "from_ is '20261001', which is not a day"),
        ({"day": datetime.datetime(2026, 10, 1)}, "day is '2026-10-01 00:00:00', which is not"),
        ({"from_": "2026-10-02", "to": "2026-10-01"}, "from_ is 2026-10-02, after to, which is"),
        ({"direction": "up"}, "direction is 'up': write placed or received"),
    ],
)
def test_a_wrong_selection_is_refused_by_the_names_of_its_arguments(
    arguments: dict[str, Any], sentence: str
) -> None:
    functions: list[Callable[..., object]] = [cdrlake.read]
    if "day" not in arguments:
        functions += [cdrlake.run, cdrlake.plan, cdrlake.status, cdrlake.verify]
    for function in functions:
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
            function(**arguments)


@pytest.mark.parametrize(
    "key",
    ["source.api_key", "source.apikey", "source.api-key", "source.API_KEY.value", "source.token"],
)
def test_a_key_is_not_invited_to_be_an_option(key: str) -> None:
    hint = r"Keys are never options: let source\.api_key\.env or source\.api_key\.file say"
    with pytest.raises(ValueError, match=hint) as raised:
        cdrlake.plan(lake="lake", last=1, options={key: "canary"})
    assert "canary" not in str(raised.value)
    with pytest.raises(ValueError, match=r"let privacy\.key\.env or"):
        cdrlake.plan(lake="lake", last=1, options={"privacy.key": "canary"})
    with pytest.raises(ValueError, match=r"let lake\.iceberg\.catalog\.credential\.env or"):
        cdrlake.plan(options={"lake.iceberg.catalog.credential": "canary"})


def test_an_error_of_usage_is_one_record(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(cdrlake.Error, match="'36501'") as raised:
        cdrlake.plan(lake="lake", last=36_501)
    (record,) = [it for it in caplog.records if it.name == "cdrlake"]
    assert record.levelno == logging.ERROR
    assert record.getMessage() == str(raised.value)


def test_options_are_written_as_variables_are_read() -> None:
    options: dict[str, cdrlake.OptionValue] = {
        "source.requests": 8,
        "source.directions": ["placed"],
        "source.compression": False,
        "window.start": datetime.date(2026, 1, 1),
        "lake.options.region": "eu-central-1",
    }
    assert cdrlake._process.variables(options) == {
        "CDRLAKE_SOURCE_REQUESTS": "8",
        "CDRLAKE_SOURCE_DIRECTIONS": "placed",
        "CDRLAKE_SOURCE_COMPRESSION": "false",
        "CDRLAKE_WINDOW_START": "2026-01-01",
        "CDRLAKE_LAKE_OPTIONS_REGION": "eu-central-1",
    }
    plan = cdrlake.plan(lake="lake", options=options)
    assert plan.first == datetime.date(2026, 1, 1)
    assert {it.direction for it in plan.due} == {"placed"}


def test_log_lines_go_to_logging(api: cdrlake.Simulator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="cdrlake")
    cdrlake.run(lake="lake", last=1, options=api.options, env=api.env)
    records = [it for it in caplog.records if it.name == "cdrlake"]
    assert {it.levelno for it in records} == {logging.INFO}
    slices = {getattr(it, "cdrlake").get("slice") for it in records} - {None}  # noqa: B009
    assert slices == {f"placed {YESTERDAY}", f"received {YESTERDAY}"}


def test_a_newer_program_may_say_more_and_a_lake_may_have_months() -> None:
    plan = from_json(
        cdrlake.Plan,
        json.loads(
            '{"from": "2026-10-01", "to": "2026-10-31", "up_to_date": 0, "weather": "fine",'
            ' "due": [{"direction": "placed", "month": "2026-10", "why": "missing", "x": 1}]}'
        ),
    )
    (due,) = plan.due
    assert str(due) == "placed 2026-10"
    assert (due.first_day, due.last_day) == (plan.first, plan.last)


def test_a_lake_of_months_is_reported(api: cdrlake.Simulator) -> None:
    options = {**api.options, "window.slice": "month"}
    report = cdrlake.run(lake="lake", last=1, options=options, env=api.env)
    assert {it.month for it in report.slices} == {str(YESTERDAY)[:7]}
    status = cdrlake.status(lake="lake", last=1)
    assert [it.month for it in status.months] == [str(YESTERDAY)[:7]]


def test_an_error_survives_pickling() -> None:
    error = cdrlake.Error("it broke", 1, Slice(direction="placed", day=YESTERDAY))
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.status, copy.report) == ("it broke", 1, error.report)


def test_the_program_on_the_path_is_the_second_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda *_: str(tmp_path / "none"))
    program = tmp_path / "cdrlake"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cdrlake.binary() == str(program)
    program.unlink()
    with pytest.raises(cdrlake.Error, match="Install the wheel") as raised:
        cdrlake.run(lake="lake")
    assert raised.value.status is None
    job = cdrlake._job.Job("", None, {})
    with pytest.raises(cdrlake.Error, match=f"executor {socket.gethostname()}: the program"):
        job.on_executor().__enter__()


def test_executors_get_the_lake_of_the_driver(api: cdrlake.Simulator, tmp_path: Path) -> None:
    def lake_of(url: str) -> object:
        return cdrlake._job.Job.of_driver(None, {"lake.url": url}).options["lake.url"]

    assert lake_of("./lake") == str(tmp_path / "lake")
    for kept in ["/srv/lake", "s3://calls/wavix", "file:///srv/lake", "s3:/calls", "~/lake", ""]:
        assert lake_of(kept) == kept
    Path("pipeline.toml").write_text('lake.url = "lake"')
    assert cdrlake._job.Job.of_driver(None, {}).options == {"lake.url": str(tmp_path / "lake")}

    cdrlake.run(last=1, options=api.options, env=api.env)
    job = cdrlake._job.Job.of_driver(None, {})
    with job.on_executor() as config:
        assert Path(config).read_text() == job.text
    # As an executor sees it that does not share the directory.
    Path("lake").rename("elsewhere")
    with pytest.raises(cdrlake.Error, match=f"there is no lake in {tmp_path}/lake"):
        job.on_executor().__enter__()


def test_an_executor_leaves_no_file_behind_and_its_errors_name_that_of_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    config = tmp_path / "my calls.toml"
    with cdrlake.simulate(calls_per_day=200, faults=["short=1"]) as api:
        config.write_text('source.retry_base = "1ms"')
        job = cdrlake._job.Job.of_driver(str(config), {**api.options, "lake.url": "lake"})
        with job.on_executor() as path:
            # However this process ends.
            assert list(temporary.iterdir()) == []
            for _ in range(2):
                with pytest.raises(cdrlake.Error, match="the provider counts") as raised:
                    cdrlake.run(config=path, last=1, options=job.options, env=api.env)
                assert path in str(raised.value)
            shown = job.as_on_driver(str(raised.value), path)
    assert f"--reconcile warn --config '{config}'" in shown
    assert path not in shown
    assert not Path(path).exists()
    # Without a file, there is none to name.
    shown = cdrlake._job.Job("", None, {}).as_on_driver(
        f"run --config {path}. {path}, line 1", path
    )
    assert shown == "run. pipeline.toml, line 1"


def test_a_log_that_a_grandchild_keeps_open_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The grandchild ends with the test: it reads from a pipe that the test holds.
    pipe, program = tmp_path / "pipe", tmp_path / "program"
    os.mkfifo(pipe)
    program.write_text(
        f"#!/bin/sh\nread -r _ <> '{pipe}' > /dev/null &\necho 'error: it broke' >&2\nexit 3\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr("cdrlake._process.binary", lambda: str(program))
    monkeypatch.setattr("cdrlake._process._LOG_PATIENCE", 0.5)
    process = cdrlake._process.Process([], {}, {})
    try:
        assert process.wait() == 3
        assert process._logger.is_alive()
        process.stop()
        assert str(process.failure()) == "it broke"
    finally:
        with pipe.open("w") as line:
            line.write("\n")
    process._logger.join()


def test_read_returns_the_rows_of_a_run(api: cdrlake.Simulator) -> None:
    run = cdrlake.run(lake="lake", last=2, options=api.options, env=api.env)
    table = cdrlake.read(last=2, lake="none", options=api.options, env=api.env).read_all()
    paths = [f"lake/{file.path}" for it in run.slices for file in it.files]
    expected = pa.concat_tables(pq.ParquetFile(path).read() for path in paths)
    assert table.equals(expected.cast(table.schema.remove_metadata()))
    one = cdrlake.read("placed", YESTERDAY, options=api.options, env=api.env).read_all()
    assert set(one["source_day"].to_pylist()) == {YESTERDAY}
    assert set(one["direction"].to_pylist()) == {"placed"}


def test_today_is_read_if_it_is_included(api: cdrlake.Simulator) -> None:
    today = YESTERDAY + datetime.timedelta(days=1)
    with pytest.raises(cdrlake.Error, match="the last day that has ended"):
        cdrlake.read("placed", today, options=api.options, env=api.env)
    rows = cdrlake.read("placed", today, include_today=True, options=api.options, env=api.env)
    assert set(rows.read_all()["source_day"].to_pylist()) <= {today}


def test_a_reader_without_pyarrow_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'cdrlake\[arrow\]'"):
        cdrlake.read(last=1)


def test_a_reader_raises_where_a_slice_is_not_proven(api: cdrlake.Simulator) -> None:
    with proxy(api) as server:
        server.refused = str(YESTERDAY)
        options = {**server.simulator.options, **IMPATIENT}
        reader = cdrlake.read("placed", None, last=2, options=options, env=api.env)
        assert reader.read_next_batch().num_rows > 0
        with pytest.raises(cdrlake.Error, match=f"placed {YESTERDAY}: ") as raised:
            reader.read_all()
        assert raised.value.status == 1
        # The reason comes at once, if it is the first slice.
        with pytest.raises(cdrlake.Error, match=f"placed {YESTERDAY}: "):
            cdrlake.read("placed", YESTERDAY, options=options, env=api.env)


def test_a_reader_raises_if_the_program_is_killed() -> None:
    with cdrlake.simulate(calls_per_day=100_000) as api:
        before = set(_children(os.getpid()))
        reader = cdrlake.read(last=5, options=api.options, env=api.env)
        reader.read_next_batch()
        (program,) = set(_children(os.getpid())) - before
        os.kill(program, signal.SIGKILL)
        with pytest.raises(cdrlake.Error, match="SIGKILL") as raised:
            reader.read_all()
    assert raised.value.status == -signal.SIGKILL


def test_a_reader_that_is_dropped_ends_the_program() -> None:
    with cdrlake.simulate(calls_per_day=100_000) as api:
        before = set(_children(os.getpid()))
        reader = cdrlake.read(last=5, options=api.options, env=api.env)
        reader.read_next_batch()
        assert set(_children(os.getpid())) != before
        del reader
        assert set(_children(os.getpid())) == before


def test_a_reader_that_is_dropped_unread_ends_the_program() -> None:
    with cdrlake.simulate(calls_per_day=100_000) as api:
        before = set(_children(os.getpid()))
        reader = cdrlake.read(last=5, options=api.options, env=api.env)
        assert set(_children(os.getpid())) != before
        del reader
        assert set(_children(os.getpid())) == before


def test_polars_does_not_take_a_part_for_the_whole(api: cdrlake.Simulator) -> None:
    polars = pytest.importorskip("polars")
    with proxy(api) as server:
        server.refused = str(YESTERDAY)
        options = {**server.simulator.options, **IMPATIENT}
        reader = cdrlake.read("placed", None, last=2, options=options, env=api.env)
        with pytest.raises(Exception, match=f"placed {YESTERDAY}: "):
            polars.from_arrow(reader)


def test_an_interrupt_ends_the_program_and_leaves_a_consistent_lake(tmp_path: Path) -> None:
    # Streams that hang: the run is in the middle of its slices when the interrupt comes.
    with cdrlake.simulate(calls_per_day=400_000) as api:
        script = (
            "import cdrlake, logging, sys; logging.basicConfig(level='INFO', stream=sys.stdout)\n"
            "try: cdrlake.run(lake='lake', last=30, options="
            f"{dict(api.options)!r}, env={dict(api.env)!r})\n"
            "except KeyboardInterrupt: print('interrupted', flush=True)"
        )
        python = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path
        )
        assert python.stdout is not None
        # The lake exists as soon as something is logged.
        assert python.stdout.readline()
        (program,) = _children(python.pid)
        python.send_signal(signal.SIGINT)
        rest = python.stdout.read()
    assert rest.endswith("interrupted\n")
    assert python.wait() == 0
    assert not Path(f"/proc/{program}").exists()
    assert cdrlake.verify(lake=str(tmp_path / "lake")).findings == ()


def _children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(it) for it in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
