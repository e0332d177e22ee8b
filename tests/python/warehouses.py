"""Reads edge values of every column with every available engine.

Serves records with edge values, fills a lake with them, and reads it with DuckDB, pyarrow, Polars,
fastparquet, chdb (ClickHouse), DataFusion and Spark. Compares types, partition column, every value,
and the sums of the ledger. Executes the statements of `cdrlake ddl` for DuckDB, ClickHouse and
Spark, replaces a day and loads it again, and reads a file with one more
column beside the others. Does the same with a lake of months.
Parses the statements for the other warehouses in their dialects.

Usage: warehouses.py path/to/cdrlake
"""

import datetime
import json
import logging
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from decimal import Decimal

# Spark and Python print times in the machine's zone.
os.environ["TZ"] = "UTC"
time.tzset()

import chdb.session
import datafusion
import duckdb
import fastparquet
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pyspark.sql
import sqlglot

from edge_calls import (
    AMOUNTS,
    CALLS,
    COLUMNS,
    EMPTY,
    FIRST,
    OLD,
    SECOND,
    TEXTS,
    UTC,
    Source,
    in_order,
    row_of,
    served,
    with_days_of_months,
)


class Lake:
    """A lake filled by cdrlake."""

    def __init__(self, program, path, source, unit):
        self.program, self.path, self.unit = program, path, unit
        self.environment = os.environ | {
            "WAVIX_API_KEY": "edge",
            "CDRLAKE_SOURCE_API_KEY_ENV": "WAVIX_API_KEY",
            "CDRLAKE_SOURCE_URL": source,
            "CDRLAKE_LAKE_URL": str(path),
            "CDRLAKE_WINDOW_SLICE": unit,
        }

    def call(self, *arguments):
        answer = subprocess.run(
            [self.program, *arguments],
            env=self.environment,
            cwd="/",
            stdout=subprocess.PIPE,
            text=True,
        )
        assert answer.returncode == 0, (arguments, answer.returncode)
        return answer.stdout

    def fill(self):
        self.call("run", "--from", FIRST, "--to", EMPTY, "--refresh")
        self.call("run", "--from", OLD, "--to", OLD)
        assert not (self.path / f"cdrs/dt={EMPTY}").exists(), "a day without rows has no partition"

    def rows(self):
        """The rows that it must have."""
        calls = with_days_of_months(Source.calls) if self.unit == "month" else Source.calls
        return in_order(row_of(*call) for call in calls)

    def partition(self, day):
        return f"{day[:7]}-01" if self.unit == "month" else day

    def partitions(self):
        """The partition of each row."""
        return sorted(self.partition(day) for day, *_ in Source.calls)

    def ddl(self, target, *arguments):
        return self.call("ddl", "--target", target, *arguments)


def statements(sql):
    """Splits SQL into statements. No text in them has a semicolon at the end of a line."""
    lines = "\n".join(line for line in sql.splitlines() if not line.startswith("--"))
    # Snowflake's block is one statement: parse the statements within.
    lines = lines.replace("EXECUTE IMMEDIATE $$\nBEGIN\n", "").replace(
        "EXCEPTION\n    WHEN OTHER THEN\n        ROLLBACK;\n        RAISE;\nEND;\n$$;", ""
    )
    return [statement for statement in lines.split(";\n") if statement.strip()]


def compare(lake, engine, rows, days):
    """Compares every value and the partition of every row."""
    expected = lake.rows()
    found = in_order(rows)
    assert len(found) == len(expected), f"{engine}: {len(found)} rows, {len(expected)} were served"
    for mine, theirs in zip(expected, found, strict=True):
        for name, value, read in zip(COLUMNS, mine, theirs, strict=True):
            assert value == read, f"{engine}: {name} of {mine[0]!r} is {read!r}, not {value!r}"
    found_days = sorted(str(day) for day in days)
    assert found_days == lake.partitions(), f"{engine}: dt is {found_days}"
    print(f"{engine}, {lake.unit}s: {len(found)} rows, every value as served")


def types_of(schema):
    return {field.name: field.type for field in schema}


def check_arrow_types(engine, schema):
    types = types_of(schema)
    is_text = lambda kind: (
        pyarrow.types.is_string(kind)
        or pyarrow.types.is_large_string(kind)
        or kind == pyarrow.string_view()
    )
    for name in TEXTS:
        assert is_text(types[name]), f"{engine}: {name} is {types[name]}"
    for name in AMOUNTS:
        assert types[name] == pyarrow.decimal128(18, 9), f"{engine}: {name} is {types[name]}"
    assert types["call_time"].unit == "us" and types["call_time"].tz in ("UTC", "+00:00"), (
        f"{engine}: {types['call_time']}"
    )
    assert types["source_day"] == pyarrow.date32(), f"{engine}: {types['source_day']}"
    assert types["duration_seconds"] == pyarrow.int32(), f"{engine}: {types['duration_seconds']}"


def from_arrow(lake, engine, table, has_dt=True):
    check_arrow_types(engine, table.schema)
    rows = [tuple(row[name] for name in COLUMNS) for row in table.select(COLUMNS).to_pylist()]
    rows = [
        tuple(
            value.astimezone(UTC) if isinstance(value, datetime.datetime) else value
            for value in row
        )
        for row in rows
    ]
    if has_dt:
        days = table["dt"].to_pylist()
    else:
        days = [lake.partition(f"{day}") for day in table["source_day"].to_pylist()]
    compare(lake, engine, rows, days)


def check_verdict(engine, row):
    assert row[-1] == "as the ledger says", f"{engine}: {row}"


def with_duckdb(lake):
    connection = duckdb.connect()
    connection.sql("SET TimeZone = 'UTC'")
    connection.execute(lake.ddl("duckdb"))
    connection.execute(lake.ddl("duckdb", "--load", "--changed-by", "last"))
    from_arrow(lake, "DuckDB", connection.sql("SELECT * FROM cdrs").to_arrow_table())
    check_verdict("DuckDB", connection.execute(lake.ddl("duckdb", "--check")).fetchall()[0])
    comments = connection.sql(
        "SELECT comment FROM duckdb_columns() "
        "WHERE table_name = 'cdrs' AND column_name <> 'added_later'"
    ).fetchall()
    assert len(comments) == len(COLUMNS) + 1 and all(comment for (comment,) in comments), comments


def with_pyarrow(lake):
    partitioning = pyarrow.dataset.partitioning(
        pyarrow.schema([("dt", pyarrow.date32())]), flavor="hive"
    )
    dataset = pyarrow.dataset.dataset(lake.path / "cdrs", partitioning=partitioning)
    from_arrow(lake, "pyarrow", dataset.to_table())


def with_polars(lake):
    frame = polars.read_parquet(lake.path / "cdrs")
    assert frame.schema["call_time"] == polars.Datetime("us", "UTC") and frame.schema[
        "charge_usd"
    ] == polars.Decimal(18, 9)
    from_arrow(lake, "Polars", frame.to_arrow())


def with_fastparquet(lake):
    """fastparquet reads decimals as floats, and times without their zone (UTC)."""
    frame = fastparquet.ParquetFile(
        [str(path) for path in sorted(lake.path.glob("cdrs/*/*.parquet"))]
    ).to_pandas()
    expected = lake.rows()
    clean = lambda value: None if value is None or value != value else value
    found = in_order(
        (
            *(clean(row[name]) for name in COLUMNS[:3]),
            row["source_day"].date(),
            row["call_time"].to_pydatetime().replace(tzinfo=UTC),
            *(clean(row[name]) for name in COLUMNS[5:]),
        )
        for row in frame.to_dict("records")
    )
    for mine, theirs in zip(expected, found, strict=True):
        for name, value, read in zip(COLUMNS, mine, theirs, strict=True):
            same = (
                math.isclose(value, read, rel_tol=1e-15)
                if isinstance(value, Decimal)
                else value == read
            )
            assert same, f"fastparquet: {name} of {mine[0]!r} is {read!r}, not {value!r}"
    days = sorted(str(day)[:10] for day in frame["dt"])
    assert days == lake.partitions(), f"fastparquet: dt is {days}"
    print(f"fastparquet, {lake.unit}s: {len(found)} rows, every value as served, amounts as floats")


def with_clickhouse(lake):
    with tempfile.TemporaryDirectory() as folder:
        session = chdb.session.Session(folder)
        for statement in statements(lake.ddl("clickhouse")):
            session.query(statement)
        # Twice: the second load changes nothing.
        for statement in 2 * statements(lake.ddl("clickhouse", "--load")):
            session.query(statement)
        read = lambda: pyarrow.ipc.open_file(
            pyarrow.BufferReader(session.query("SELECT * FROM cdrs", "Arrow").bytes())
        ).read_all()
        from_arrow(lake, "ClickHouse", read(), has_dt=False)
        check_verdict(
            "ClickHouse",
            json.loads(
                session.query(
                    statements(lake.ddl("clickhouse", "--check"))[0], "JSONCompact"
                ).bytes()
            )["data"][0],
        )
        # The files, without a table.
        files = f"file('{lake.path}/cdrs/dt=*/*.parquet', Parquet)"
        days = (
            session.query(
                f"SELECT toDate32(dt) FROM {files} ORDER BY dt SETTINGS use_hive_partitioning = 1",
                "CSV",
            )
            .bytes()
            .decode()
        )
        assert days.replace('"', "").split() == lake.partitions(), days

        def load_changed(engine):
            for statement in 2 * statements(
                lake.ddl("clickhouse", "--load", "--changed-by", "last")
            ):
                session.query(statement)
            from_arrow(lake, engine, read(), has_dt=False)

        with changed_day(lake):
            load_changed("ClickHouse, a day replaced and one more")
        load_changed("ClickHouse, a day gone")
        session.close()


def with_datafusion(lake):
    context = datafusion.SessionContext()
    context.register_parquet(
        "cdrs", str(lake.path / "cdrs") + "/", table_partition_cols=[("dt", pyarrow.date32())]
    )
    from_arrow(lake, "DataFusion", context.sql("SELECT * FROM cdrs").to_arrow_table())


def with_spark(lake):
    with tempfile.TemporaryDirectory() as folder:
        session = (
            pyspark.sql.SparkSession.builder.master("local[1]")
            .config("spark.sql.session.timeZone", "UTC")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.memory", "1g")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.sql.warehouse.dir", f"{folder}/warehouse")
            .config(
                "spark.driver.extraJavaOptions", f"-Dderby.stream.error.file={folder}/derby.log"
            )
            .config(
                "spark.hadoop.javax.jdo.option.ConnectionURL",
                f"jdbc:derby:;databaseName={folder}/metastore;create=true",
            )
            .enableHiveSupport()
            .getOrCreate()
        )
        session.sparkContext.setLogLevel("ERROR")
        for statement in statements(lake.ddl("spark")):
            session.sql(statement)
        types = {
            field.name: field.dataType.simpleString() for field in session.table("cdrs").schema
        }
        wanted = dict.fromkeys(TEXTS, "string") | dict.fromkeys(AMOUNTS, "decimal(18,9)")
        wanted |= {
            "call_time": "timestamp",
            "source_day": "date",
            "dt": "date",
            "duration_seconds": "int",
        }
        assert types == wanted, types

        def check(engine):
            rows = session.table("cdrs").collect()
            named = [tuple(row[name] for name in COLUMNS) for row in rows]
            named = [
                tuple(
                    value.replace(tzinfo=UTC) if isinstance(value, datetime.datetime) else value
                    for value in row
                )
                for row in named
            ]
            compare(lake, engine, named, [row["dt"] for row in rows])
            check_verdict(
                engine, session.sql(statements(lake.ddl("spark", "--check"))[0]).collect()[0]
            )

        def load_changed(engine):
            for statement in statements(lake.ddl("spark", "--load", "--changed-by", "last")):
                session.sql(statement)
            check(engine)

        check("Spark")
        with changed_day(lake):
            load_changed("Spark, a day replaced and one more")
        load_changed("Spark, a day gone")
        session.stop()


class changed_day:
    """Meanwhile, the provider has other calls on the second day, and one on the empty day."""

    def __init__(self, lake):
        self.lake = lake

    def __enter__(self):
        one = {"date": "2026-10-02T10:00:00Z", "from": "1", "to": "2", "duration": 5, "charge": "7"}
        other = (SECOND, "received", one | {"uuid": "other"})
        first = (EMPTY, "placed", one | {"uuid": "first", "date": "2026-10-03T10:00:00Z"})
        Source.calls = [call for call in CALLS if call[0] != SECOND] + [other, first]
        self.fetch()

    def __exit__(self, *_):
        Source.calls = CALLS
        self.fetch()

    def fetch(self):
        report = json.loads(
            self.lake.call(
                "run",
                "--from",
                SECOND,
                "--to",
                EMPTY,
                "--refresh",
                "--allow-shrink",
                "--format",
                "json",
            )
        )
        changed = sorted({self.lake.partition(day) for day in [SECOND, EMPTY]})
        assert report["partitions_changed"] == changed, report["partitions_changed"]


def with_a_column_more(lake):
    """A later version adds columns at the end. Readers must accept both files, in any order."""
    for day in [FIRST, SECOND]:
        path = next(lake.path.glob(f"cdrs/dt={day}/placed-*.parquet"))
        before = path.read_bytes()
        table = pyarrow.parquet.read_table(path, partitioning=None)
        pyarrow.parquet.write_table(
            table.append_column("added_later", pyarrow.array(["new"] * table.num_rows)), path
        )
        for reader in [with_duckdb, with_pyarrow, with_datafusion]:
            reader(lake)
        frame = polars.scan_parquet(
            lake.path / "cdrs", missing_columns="insert", extra_columns="ignore"
        ).collect()
        from_arrow(lake, "Polars", frame.to_arrow())
        path.write_bytes(before)


# Statements that the parser does not support.
UNPARSED = ("LOAD DATA ", "CALL ", "MSCK REPAIR")
DIALECTS = (
    "snowflake bigquery redshift athena databricks spark trino clickhouse duckdb postgres".split()
)


def parse_all(lake):
    """Parses the statements for each warehouse in its dialect."""
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # of what it takes without looking inside
    for target in DIALECTS:
        place = "gs://bucket/lake" if target == "bigquery" else "s3://bucket/lake"
        for what in [[], ["--load"], ["--check"]]:
            sql = lake.ddl(target, "--location", place, *what)
            for statement in statements(sql):
                if statement.startswith(UNPARSED):
                    continue
                try:
                    parsed = sqlglot.parse_one(
                        statement, dialect=target, error_level=sqlglot.ErrorLevel.RAISE
                    )
                    assert not isinstance(parsed, sqlglot.exp.Command), (
                        f"{target}: not looked into: {statement}"
                    )
                except sqlglot.errors.ParseError as error:
                    raise AssertionError(f"{target}: {error}\n{statement}") from None
    print(f"parsed for {', '.join(DIALECTS)}")


def main():
    program = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder, served() as url:
        days, months = (
            Lake(program, pathlib.Path(folder) / unit, url, unit) for unit in ["day", "month"]
        )
        for lake in [days, months]:
            lake.fill()
            parse_all(lake)
            for reader in [
                with_duckdb,
                with_pyarrow,
                with_polars,
                with_fastparquet,
                with_datafusion,
                with_clickhouse,
                with_spark,
            ]:
                reader(lake)
            lake.call("verify")
        with_a_column_more(days)


if __name__ == "__main__":
    main()
