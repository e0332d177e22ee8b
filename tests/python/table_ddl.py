"""Executes the statements of `cdrlake ddl` on a lake with both logs, as printed.

Fills a lake from `cdrlake simulate` and replaces a day, so that old and new files lie side by side.
DuckDB and ClickHouse read it by each log and by the list of files, Spark by the log of Apache
Iceberg. ClickHouse also copies it, twice. Each time, the query of `ddl --check` must answer that
the ledger agrees.

Usage: table_ddl.py path/to/cdrlake ENGINE ...

An engine is duckdb, clickhouse or spark, in the environments of `table_readers.py`.
"""

import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

import table_readers

FIRST, SECOND, LAST = "2026-10-01", "2026-10-02", "2026-10-03"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Simulator:
    """The simulated API, with calls that depend on the seed."""

    def __init__(self, program, port, seed):
        self.command = [program, "simulate", "--port", str(port), "--seed", str(seed)]
        self.port = port

    def __enter__(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([*self.command, "--calls-per-day", "300"], **quiet)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the simulator does not answer")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


class Lake:
    """A lake with both logs in which the second day was replaced."""

    def __init__(self, program, folder):
        self.program, self.path, self.folder = program, folder / "lake", folder
        port = free_port()
        (folder / "pipeline.toml").write_text(
            f'[source]\nurl = "http://127.0.0.1:{port}"\napi_key = {{ env = "WAVIX_API_KEY" }}\n'
            f'[lake]\nurl = "{self.path}"\ntables = ["delta", "iceberg"]\n'
        )
        with Simulator(program, port, 42):
            self.call("run", "--from", FIRST, "--to", LAST)
        with Simulator(program, port, 43):
            again = ["--from", SECOND, "--to", SECOND, "--refresh", "--allow-shrink"]
            self.call("run", *again)
        files = len(list(self.path.glob("cdrs/*/*.parquet")))
        assert files == 8, f"{files} files: two days of two, and one of two old and two new ones"

    def call(self, *arguments):
        answer = subprocess.run(
            [self.program, *arguments],
            env=os.environ | {"WAVIX_API_KEY": "demo"},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert answer.returncode == 0, (arguments, answer.returncode)
        return answer.stdout

    def ddl(self, target, *arguments):
        return self.call("ddl", "--target", target, *arguments)


def check_verdict(what, row):
    assert row[-1] == "as the ledger says", f"{what}: {row}"
    print(f"{what}: {row[0]} calls, as the ledger says")


def with_duckdb(lake):
    for form in ["delta", "iceberg", "files"]:
        connection = table_readers.duckdb_connection("delta", "avro", "iceberg")
        # The extensions come from packages, not from DuckDB's server.
        sql = re.sub(
            r"^(INSTALL|LOAD) (delta|iceberg);", "", lake.ddl("duckdb", "--as", form), flags=re.M
        )
        connection.execute(sql)
        connection.execute(lake.ddl("duckdb", "--as", form, "--load"))
        check = lake.ddl("duckdb", "--as", form, "--check")
        check_verdict(f"DuckDB, --as {form}", connection.execute(check).fetchall()[0])
        days = connection.execute("SELECT DISTINCT source_day::VARCHAR FROM cdrs ORDER BY 1")
        assert [day for (day,) in days.fetchall()] == [FIRST, SECOND, LAST], form
        comments = connection.execute(
            "SELECT count(*) FROM duckdb_columns() WHERE table_name = 'cdrs' AND comment IS NULL"
        ).fetchone()
        assert comments == (0,), f"{comments} columns without a comment"


def statements(sql):
    lines = "\n".join(line for line in sql.splitlines() if not line.startswith("--"))
    return [statement for statement in lines.split(";\n") if statement.strip()]


def with_clickhouse(lake):
    import chdb.session

    # It reads a log only below the working directory.
    os.chdir("/")
    for form in ["delta", "iceberg", "files"]:
        with tempfile.TemporaryDirectory() as folder:
            session = chdb.session.Session(folder)
            definition = statements(lake.ddl("clickhouse", "--as", form))
            # Twice: the second load changes nothing.
            load = 2 * statements(lake.ddl("clickhouse", "--as", form, "--load"))
            for statement in definition + load:
                session.query(statement)
            check = statements(lake.ddl("clickhouse", "--as", form, "--check"))[0]
            row = session.query(check, "TSV").bytes().decode().strip().split("\t")
            check_verdict(f"ClickHouse, --as {form}", row)
            session.close()


def with_spark(lake):
    session = table_readers.spark_session()
    definition = lake.ddl("spark", "--as", "iceberg")
    # What it says to start the session with.
    for name, value in re.findall(r"^--   (\S+) += (\S+)$", definition, flags=re.M):
        session.conf.set(name, value)
    for statement in statements(definition):
        session.sql(statement)
    check = statements(lake.ddl("spark", "--as", "iceberg", "--check"))[0]
    check_verdict("Spark, --as iceberg", session.sql(check).collect()[0])


ENGINES = {"duckdb": with_duckdb, "clickhouse": with_clickhouse, "spark": with_spark}


def main():
    program = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(program, pathlib.Path(folder))
        for engine in sys.argv[2:]:
            ENGINES[engine](lake)


if __name__ == "__main__":
    main()
