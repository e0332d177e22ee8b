"""The data source of Spark and `cdrlake.spark`, on a cluster of two executors."""

import datetime
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from proxy import Proxy, proxy

import cdrlake
import cdrlake.spark
from cdrlake._job import Job
from cdrlake.reports import Slice
from cdrlake.spark import _Answer, _as_json, _together

pyspark = pytest.importorskip("pyspark")

from pyspark.sql import DataFrame, SparkSession  # noqa: E402
from pyspark.sql import functions as F  # noqa: E402, N812
from pyspark.sql.datasource import InputPartition  # noqa: E402
from pyspark.sql.pandas.types import from_arrow_schema  # noqa: E402

from pyspark_cdrlake._options import Options  # noqa: E402
from pyspark_cdrlake._reader import Reader  # noqa: E402
from pyspark_cdrlake._rows import ARROW_SCHEMA, SCHEMA, Group, rows  # noqa: E402

if TYPE_CHECKING:
    from pyspark_cdrlake._stream import StreamReader

YESTERDAY = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)
CANARY = "canary-7391-of-the-key"
DAYS = 30
SPARK_PAGE = Path(__file__).parents[2] / "docs" / "spark.md"


def days_ago(days: int) -> datetime.date:
    return YESTERDAY - datetime.timedelta(days=days)


@pytest.fixture(scope="module")
def keyed() -> Iterator[Proxy]:
    """An API whose key is the canary, with room to count and to slow down."""
    with cdrlake.simulate(key=CANARY, calls_per_day=400) as api, proxy(api) as server:
        yield server


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Two executors with one core each, which inherit the key from the environment."""
    log = tmp_path_factory.mktemp("events")
    os.environ["WAVIX_API_KEY"] = CANARY
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["SPARK_HOME"] = str(Path(pyspark.__file__).parent)
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    builder = SparkSession.builder.master("local-cluster[2,1,1024]")
    session = (
        builder.config("spark.ui.showConsoleProgress", "false")
        .config("spark.eventLog.enabled", "true")
        .config("spark.eventLog.dir", log.as_uri())
        .config("spark.eventLog.compress", "false")
        .config("spark.eventLog.rolling.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.session.timeZone", "UTC")
        # A lost executor is no reason to give up.
        .config("spark.task.maxFailures", "4")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture
def calls(spark: SparkSession, keyed: Proxy) -> Callable[..., DataFrame]:
    """A frame of the data source with these options."""
    keyed.requests.clear()
    keyed.rate = 0

    def load(**options: str) -> DataFrame:
        reader = spark.read.format("cdrlake").options(**keyed.simulator.options)
        return reader.options(**{name.strip("_"): value for name, value in options.items()}).load()

    return load


def sorted_rows(table: pa.Table) -> pa.Table:
    order = ["direction", "call_time", "call_id", "from_number", "to_number"]
    return table.sort_by([(name, "ascending") for name in order]).combine_chunks()


def lake_table(lake: Path) -> pa.Table:
    return pq.ParquetDataset(lake / "cdrs", partitioning=None).read()


@pytest.fixture(scope="module")
def expected(keyed: Proxy, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The rows of a lake that `cdrlake run` has filled from the same API."""
    lake = tmp_path_factory.mktemp("expected") / "lake"
    api = keyed.simulator
    report = cdrlake.run(lake=str(lake), last=DAYS, options=api.options, env=api.env)
    table = lake_table(lake)
    assert report.totals.rows == table.num_rows > 0
    return sorted_rows(table)


def assert_equal(table: pa.Table, expected: pa.Table) -> None:
    """Every row, once, and no other; and therefore every sum."""
    found = sorted_rows(table.drop_columns("fetch_day")).cast(expected.schema.remove_metadata())
    assert found.num_rows == expected.num_rows
    assert found.equals(expected)


def kill_an_executor(spark: SparkSession) -> None:
    """Kills one of the executors of this session."""
    application = spark.sparkContext.applicationId
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if application.encode() in words and any(b"CoarseGrained" in it for it in words):
            os.kill(int(process.name), signal.SIGKILL)
            return
    raise AssertionError("there is no executor")


def with_kills(spark: SparkSession, server: Proxy, work: Callable[[], Any]) -> Any:
    """Does `work` while the API is slow, and kills an executor twice in its middle."""
    server.requests.clear()
    server.rate = 60_000
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(work()))
    thread.start()
    for requests in (6, 30):
        while len(server.requests) < requests:
            assert thread.is_alive()
            time.sleep(0.01)
        kill_an_executor(spark)
    server.rate = 0
    thread.join()
    (only,) = result
    return only


def test_the_columns_are_the_same_to_arrow_and_spark() -> None:
    assert from_arrow_schema(ARROW_SCHEMA) == SCHEMA


def test_sixty_slices_are_read_as_a_run_reads_them(
    calls: Callable[..., DataFrame], expected: pa.Table
) -> None:
    table = calls(last=str(DAYS)).toArrow()
    assert set(table["fetch_day"].to_pylist()) == {YESTERDAY}
    assert_equal(table, expected)


def test_filters_read_only_their_slices(
    spark: SparkSession, calls: Callable[..., DataFrame], keyed: Proxy, expected: pa.Table
) -> None:
    day = days_ago(3)
    wanted = pa.compute.and_(
        pa.compute.equal(expected["source_day"], day),
        pa.compute.equal(expected["direction"], "placed"),
    )
    rows = expected.filter(wanted).num_rows
    spark.conf.set("spark.sql.python.filterPushdown.enabled", "true")
    try:
        filtered = (
            calls(last=str(DAYS)).where(F.col("source_day") == day).where("direction = 'placed'")
        )
        assert filtered.count() == rows
        assert keyed.slices() == {("placed", str(day), str(day))}
        keyed.requests.clear()
        since = calls(last=str(DAYS)).where(F.col("source_day") > day)
        assert since.select("source_day").distinct().count() == 3
        assert len(keyed.slices()) == 6
        keyed.requests.clear()
        assert calls(last="2").count() > 0
        assert len(keyed.slices()) == 4
    finally:
        spark.conf.unset("spark.sql.python.filterPushdown.enabled")
    # Without it, Spark filters, and the options choose.
    keyed.requests.clear()
    assert calls(day=str(day)).where("direction = 'placed'").count() == rows
    assert len(keyed.slices()) == 2
    keyed.requests.clear()
    assert calls(day=str(day), direction="placed").count() == rows
    assert len(keyed.slices()) == 1


def test_requests_bound_the_whole_job(calls: Callable[..., DataFrame]) -> None:
    assert calls(last="5", **{"source.requests": "3"}).rdd.getNumPartitions() == 3
    assert calls(day=str(YESTERDAY)).rdd.getNumPartitions() == 2


def test_killed_executors_lose_and_double_nothing(
    spark: SparkSession, calls: Callable[..., DataFrame], keyed: Proxy, expected: pa.Table
) -> None:
    frame = calls(last=str(DAYS))
    table = with_kills(spark, keyed, frame.drop("fetch_day").toArrow)
    assert (
        sorted_rows(table)
        .cast(expected.schema.remove_metadata())
        .equals(expected.cast(table.schema))
    )


def test_executors_bring_a_lake_up_to_date_and_two_killed_ones_lose_and_double_nothing(
    spark: SparkSession, keyed: Proxy, expected: pa.Table, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    options = keyed.simulator.options

    def run() -> cdrlake.spark.SparkReport:
        return cdrlake.spark.run(spark, last=DAYS, lake=str(lake), options=options)

    report = with_kills(spark, keyed, run)
    # Also the days that only a killed executor has committed.
    assert report.partitions_changed == tuple(days_ago(it) for it in reversed(range(DAYS)))
    assert report.unreported != ()
    found = cdrlake.verify(lake=str(lake))
    assert (found.slices, found.rows, found.findings) == (2 * DAYS, expected.num_rows, ())
    assert sorted_rows(lake_table(lake)).equals(expected)
    # Only the look-back is looked at again.
    again = run()
    assert again.rows <= expected.num_rows
    assert again.partitions_changed == again.unreported == ()


def test_days_that_no_report_tells_enough_of_are_to_be_loaded(keyed: Proxy, tmp_path: Path) -> None:
    keyed.rate = 0
    api = keyed.simulator

    def run() -> str | None:
        day, lake = days_ago(1), str(tmp_path / "lake")
        report = cdrlake.run(
            from_=day, to=day, direction="placed", lake=lake, options=api.options, env=api.env
        )
        return _as_json(report, Job("", None, {}), "no.toml")

    first, look_back = run(), run()
    changed = (days_ago(1),)
    due = Slice(direction="placed", day=days_ago(1))

    def together(answer: _Answer, due: Slice = due) -> cdrlake.spark.SparkReport:
        return _together([(due, answer)])

    assert together(_Answer(0, "", first, False)).unreported == ()
    assert together(_Answer(0, "", first, False)).partitions_changed == changed
    assert together(_Answer(0, "", look_back, False)).partitions_changed == ()
    assert together(_Answer(0, "", look_back, True)).partitions_changed == changed
    assert together(_Answer(1, "no lake", None, False)).partitions_changed == changed
    assert look_back is not None
    skipped = look_back.replace('"unchanged"', '"skipped"')
    assert skipped != look_back
    assert together(_Answer(0, "", skipped, False)).partitions_changed == changed
    # A month has the day that its run reports.
    month = Slice(direction="placed", month="2026-10")
    assert together(_Answer(0, "", None, False), month).unreported == (month.first_day,)


def test_a_wrong_count_fails_the_job_and_names_the_slice(
    spark: SparkSession, tmp_path: Path
) -> None:
    with cdrlake.simulate(key=CANARY, calls_per_day=200, faults=["short=1"]) as api:
        options = {**api.options, "source.retry_base": "1ms"}
        reader = spark.read.format("cdrlake").options(**options, last="1", direction="received")
        with pytest.raises(Exception, match=f"received {YESTERDAY}: the provider counts"):
            reader.load().count()
        with pytest.raises(cdrlake.Error, match=f"{YESTERDAY}: the provider counts") as raised:
            cdrlake.spark.run(spark, last=1, lake=str(tmp_path / "lake"), options=options)
    report = raised.value.report
    assert isinstance(report, cdrlake.spark.SparkReport)
    assert [it.outcome for it in report.slices] == ["failed", "failed"]
    # There is no configuration file that a remedy could name.
    assert "--reconcile warn. " in str(raised.value)
    assert "--config" not in f"{raised.value} {report}"


def test_a_stream_reads_each_ended_day_once_and_the_look_back_again(
    spark: SparkSession, keyed: Proxy, tmp_path: Path, expected: pa.Table
) -> None:
    keyed.requests.clear()
    keyed.rate = 0
    table = tmp_path / "table"
    # The function of the documents, with another address.
    chapter = SPARK_PAGE.read_text().split("\n## A stream\n")[1]
    example = chapter.split("```python\n")[1].split("\n\n")[0]
    names: dict[str, Any] = {}
    exec(example.replace("s3://warehouse/calls", str(table)), names)
    replace = names["replace"]

    def batch(to: datetime.date, **options: str) -> set[tuple[str, str]]:
        """Takes the days up to `to`. Returns each day of the table, with its fetch."""
        keyed.requests.clear()
        reader = spark.readStream.format("cdrlake").options(**keyed.simulator.options)
        reader.options(**options, **{"from": str(days_ago(9)), "to": str(to)})
        stream = reader.load()
        query = (
            stream.writeStream.foreachBatch(replace)
            .option("checkpointLocation", str(tmp_path / "checkpoint"))
            .trigger(availableNow=True)
            .start()
        )
        assert query.awaitTermination(120)
        pairs = spark.read.parquet(str(table)).select("source_day", "fetch_day").distinct()
        return {(str(it[0]), str(it[1])) for it in pairs.collect()}

    fetch = str(days_ago(2))
    # All ended days at the first time, then those since, and the look-back of three days.
    first = {(str(days_ago(it)), fetch) for it in range(2, 10)}
    assert batch(days_ago(2)) == first
    assert len(keyed.slices()) == 16
    # Each only once.
    assert len([it for it in keyed.requests if "/all?" in it]) == 16
    assert batch(days_ago(2)) == first
    assert keyed.requests == []
    fetch = str(days_ago(1))
    kept = {it for it in first if it[0] < str(days_ago(3))}
    assert batch(days_ago(1)) == kept | {(str(days_ago(it)), fetch) for it in range(1, 4)}
    assert len(keyed.slices()) == 6
    wanted = pa.compute.and_(
        pa.compute.greater_equal(expected["source_day"], days_ago(9)),
        pa.compute.less_equal(expected["source_day"], days_ago(1)),
    )
    found = spark.read.parquet(str(table)).toArrow()
    assert_equal(found.select([*expected.column_names, "fetch_day"]), expected.filter(wanted))
    # Its days would lose the calls of the other direction.
    with pytest.raises(Exception, match="the checkpoint is of a stream that reads placed and rec"):
        batch(YESTERDAY, direction="placed")
    assert keyed.requests == []


def test_the_examples_of_the_documents_are_true(
    spark: SparkSession, keyed: Proxy, tmp_path: Path, expected: pa.Table
) -> None:
    keyed.rate = 0
    config, warehouse, lake = tmp_path / "calls.toml", tmp_path / "warehouse", tmp_path / "lake"
    api = keyed.simulator
    config.write_text(
        f'source.url = "{api.url}"\nsource.api_key = {{ env = "WAVIX_API_KEY" }}\n'
        f'lake.url = "{lake}"\n'
    )
    written = {
        "s3://warehouse": str(warehouse),
        "/etc/cdrlake/pipeline.toml": str(config),
        "2026-01-31": str(days_ago(1)),
        "2026-01-01": str(days_ago(2)),
        "2024-01-01": str(days_ago(2)),
    }

    def run_example(chapter: str) -> dict[str, Any]:
        """Executes the first code of a chapter, with the places and days of this test."""
        code = SPARK_PAGE.read_text().split(f"\n## {chapter}\n")[1]
        code = code.split("```python\n")[1].split("```")[0]
        for word, ours in written.items():
            code = code.replace(word, ours)
        names: dict[str, Any] = {"spark": spark, "cdrlake": cdrlake}
        exec(code, names)
        return names

    def rows_since(first: datetime.date, last: datetime.date) -> pa.Table:
        day = expected["source_day"]
        return expected.filter(
            pa.compute.and_(pa.compute.greater_equal(day, first), pa.compute.less_equal(day, last))
        )

    def found(table: Path) -> pa.Table:
        names = [*expected.column_names, "fetch_day"]
        return spark.read.parquet(str(table)).select(names).toArrow()

    run_example("A batch")
    assert_equal(found(warehouse / "calls" / "2026-01"), rows_since(days_ago(2), days_ago(1)))
    # Two tables cannot lie in one another.
    written["s3://warehouse"] = str(tmp_path / "of-a-stream")
    run_example("A stream")
    assert_equal(found(tmp_path / "of-a-stream" / "calls"), rows_since(days_ago(2), YESTERDAY))
    report = run_example("A lake with executors as workers")["report"]
    assert report.rows == rows_since(days_ago(2), YESTERDAY).num_rows
    assert sorted_rows(lake_table(lake)).equals(rows_since(days_ago(2), YESTERDAY))


def stream_reader(keyed: Proxy, **options: str) -> "StreamReader":
    # It needs a newer pyspark than the rest.
    from pyspark_cdrlake._stream import StreamReader

    return StreamReader(Options.of({**keyed.simulator.options, **options}))


def test_a_stream_refuses_wrong_days_and_the_checkpoint_of_other_directions(keyed: Proxy) -> None:
    from pyspark.sql.streaming.datasource import ReadAllAvailable

    day = str(YESTERDAY)
    for options, sentence in [
        ({"from": day, "to": "2026-11-44"}, "^the option to is '2026-11-44', which is not a day"),
        ({"from": day, "to": str(days_ago(1))}, f"^the option from is {day}, after the option to"),
        ({"window.start": day, "to": str(days_ago(1))}, f"^the first day is {day}, after the opt"),
        ({"window.start": "soon"}, "^window.start is 'soon', which is not a day"),
        ({"from": day, "last": "3"}, "^the option last and the option from exclude each other"),
        ({"last": "3"}, "^a stream has no option last"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            stream_reader(keyed, **options)
    placed = stream_reader(keyed, **{"from": day, "direction": "placed"})
    start, limit = placed.initialOffset(), ReadAllAvailable()
    assert placed.latestOffset(start, limit)["day"] == day
    sentence = "the checkpoint is of a stream that reads placed calls, not "
    for options in [{}, {"direction": "received"}, {"source.directions": "received"}]:
        other = stream_reader(keyed, **{"from": day, **options})
        with pytest.raises(ValueError, match=sentence):
            other.latestOffset(start, limit)
        # If a batch was not finished, Spark begins with it.
        with pytest.raises(ValueError, match=sentence):
            other.partitions(start, start)
    Path("pipeline.toml").write_text('source.directions = ["placed"]')
    same = stream_reader(keyed, **{"from": day})
    assert same.latestOffset(start, limit)["day"] == day
    both = stream_reader(keyed, **{"from": day, "source.directions": "received, placed"})
    assert both.initialOffset() == offset(days_ago(1))


def test_a_lake_that_is_named_and_not_there_is_warned_of(
    keyed: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keyed.rate = 0

    def warnings(**options: str) -> list[str]:
        caplog.clear()
        api = keyed.simulator
        Reader(Options.of({**api.options, **options, "last": "1"})).partitions()
        stream_reader(keyed, **{**options, "from": str(YESTERDAY)})
        return [it.getMessage() for it in caplog.records]

    assert warnings() == []
    warned = warnings(**{"lake.url": "laek"})
    assert warned == [warned[0]] * 2
    # On the driver, where a relative path is resolved.
    assert warned[0].startswith(f"There is no lake in {tmp_path}/laek, so no erased number")
    assert len(warnings(**{"lake.url": f"file://{tmp_path}/laek"})) == 2
    cdrlake.run(lake="lake", last=1, options=keyed.simulator.options, env=keyed.simulator.env)
    assert warnings(**{"lake.url": "lake"}) == []


def days_of(groups: Sequence[InputPartition]) -> set[datetime.date]:
    return {it.first_day for group in groups if isinstance(group, Group) for it in group.slices}


def offset(day: datetime.date) -> dict[str, str]:
    return {"day": str(day), "directions": "placed and received"}


def test_a_later_first_day_leaves_out_no_new_day(keyed: Proxy) -> None:
    start, end = offset(days_ago(6)), offset(days_ago(1))
    new = {days_ago(it) for it in range(1, 6)}
    for first, again in [(9, {6, 7}), (6, {6}), (5, set()), (2, set()), (0, set())]:
        groups = stream_reader(keyed, **{"from": str(days_ago(first))}).partitions(start, end)
        assert days_of(groups) == new | {days_ago(it) for it in again}


def test_pruned_days_are_refused(keyed: Proxy, tmp_path: Path) -> None:
    keyed.rate = 0
    lake, api = str(tmp_path / "lake"), keyed.simulator
    cdrlake.run(lake=lake, last=3, options=api.options, env=api.env)
    subprocess.run(
        [cdrlake.binary(), "prune", "--older-than", "2days", "--lake", lake],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    options = {**api.options, "lake.url": lake}
    sentence = f"^2 slices from {days_ago(2)} to {YESTERDAY} were pruned"
    with pytest.raises(ValueError, match=sentence):
        Reader(Options.of({**options, "last": "3"})).partitions()
    stream = stream_reader(keyed, **{"lake.url": lake, "from": str(days_ago(2))})
    with pytest.raises(ValueError, match=sentence):
        stream.partitions(stream.initialOffset(), offset(YESTERDAY))
    kept = Reader(Options.of({**options, "last": "2"})).partitions()
    assert days_of(kept) == {days_ago(1), YESTERDAY}


def test_a_month_is_fetched_whole_and_has_the_days_that_are_asked_for(
    calls: Callable[..., DataFrame], keyed: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAVIX_API_KEY", CANARY)
    months = {"window.slice": "month"}
    frame = calls(day=str(YESTERDAY), direction="placed", **months)
    assert frame.select("source_day").distinct().collect() == [(YESTERDAY,)]
    assert len(keyed.slices()) == 1
    # A later batch of a stream has no earlier day of the month.
    stream = stream_reader(keyed, **months, **{"from": str(days_ago(20))})
    groups = stream.partitions(offset(days_ago(1)), offset(YESTERDAY))
    batches = [batch for group in groups for batch in rows(group)]
    days = {day for batch in batches for day in batch.column("source_day").to_pylist()}
    assert days == {days_ago(2), days_ago(1), YESTERDAY}


def test_a_lake_of_a_newer_version_is_refused_by_the_driver(
    spark: SparkSession, keyed: Proxy, tmp_path: Path
) -> None:
    api, lake = keyed.simulator, tmp_path / "lake"
    cdrlake.run(lake=str(lake), last=1, options=api.options, env=api.env)
    identity = lake / "_cdrlake" / "lake.json"
    identity.write_text(identity.read_text().replace('"format": 1', '"format": 99'))
    keyed.requests.clear()
    with pytest.raises(cdrlake.Error, match="has format 99, but this version"):
        cdrlake.spark.run(spark, last=1, lake=str(lake), options=api.options)
    reader = spark.read.format("cdrlake").options(**api.options, **{"lake.url": str(lake)})
    with pytest.raises(Exception, match=r"cdrlake\.Error: .*has format 99, but this version"):
        reader.option("last", "1").load().count()
    assert keyed.requests == []


def test_wrong_options_are_refused_by_the_driver(
    calls: Callable[..., DataFrame], spark: SparkSession, keyed: Proxy
) -> None:
    for option, sentence in [
        ({"lats": "3"}, "no option lats. Did you mean last"),
        ({"source.requets": "3"}, "Did you mean source.requests"),
        ({"api_key": "x"}, "Keys are never options: let source.api_key.env"),
        ({"source.api_key": "x"}, "Keys are never options: let source.api_key.env"),
        ({"last": "three"}, "the option last is 'three': write a number of days"),
        ({"day": "2026-10-01", "from": "2026-10-02"}, "the option day and the option from excl"),
        ({"day": "2026-10-01", "last": "2"}, "the option day and the option last exclude"),
        ({"day": str(days_ago(-1))}, "has not ended: the last one that has is"),
        ({"config": "/nowhere.toml"}, "cannot read the configuration /nowhere.toml"),
        ({"from": "2026-10-03", "to": "2026-10-01"}, "2026-10-03"),
        ({"day": "yesterday"}, "is not a day"),
    ]:
        with pytest.raises(Exception, match=sentence):
            calls(**option).count()
    assert keyed.requests == []
    stream = spark.readStream.format("cdrlake").options(**keyed.simulator.options).load()
    with pytest.raises(Exception, match="a stream needs the option from"):
        stream.writeStream.format("noop").start().processAllAvailable()


def test_the_key_is_neither_in_the_event_log_nor_in_the_user_interface(
    spark: SparkSession, calls: Callable[..., DataFrame]
) -> None:
    assert calls(last="1").count() > 0
    context = spark.sparkContext
    url = context.uiWebUrl
    assert url is not None
    pages = [f"{url}/{page}/" for page in ("environment", "jobs", "stages", "SQL", "executors")]
    rest = f"{url}/api/v1/applications/{context.applicationId}"
    pages += [f"{rest}/{it}" for it in ("environment", "sql?details=true", "stages?details=true")]
    for page in pages:
        with urlopen(page) as answer:
            text = answer.read().decode()
        assert "cdrlake" in text or "executor" in text, page
        assert CANARY not in text, page
    (log,) = Path(str(spark.conf.get("spark.eventLog.dir")).removeprefix("file:")).iterdir()
    text = log.read_text()
    assert "cdrlake" in text
    assert CANARY not in text
