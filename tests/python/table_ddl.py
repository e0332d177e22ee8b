"""Executes the statements of `cdrlake ddl` on a lake with a Delta Lake log, as printed.

Fills a lake from `cdrlake simulate` and replaces a day, so that old and new files lie side by side.
DuckDB and ClickHouse read it by the log and by the list of files; ClickHouse also copies it, twice.
Each time, the query of `ddl --check` must answer that the ledger agrees.

Usage: table_ddl.py path/to/cdrlake

Tested with Python 3.11 and, in an environment of its own (other scripts need DuckDB 2.0):
chdb==4.4.0 duckdb==1.5.5 duckdb-extension-delta==1.5.5 pytz
"""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import chdb.session
import duckdb
import duckdb_extension_delta

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
    """A lake with a Delta Lake log in which the second day was replaced."""

    def __init__(self, program, folder):
        self.program, self.path, self.folder = program, folder / "lake", folder
        port = free_port()
        (folder / "pipeline.toml").write_text(
            f'[source]\nurl = "http://127.0.0.1:{port}"\napi_key = {{ env = "WAVIX_API_KEY" }}\n'
            f'[lake]\nurl = "{self.path}"\ntables = ["delta"]\n'
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
    package = pathlib.Path(duckdb_extension_delta.__file__).parent
    extension = next(package.rglob("*.duckdb_extension"))
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    for form in ["delta", "files"]:
        sql = lake.ddl("duckdb", "--as", form)
        # The extension comes from a package, not from DuckDB's server.
        sql = sql.replace("INSTALL delta;", "").replace("LOAD delta;", f"LOAD '{extension}';")
        connection.execute(sql)
        connection.execute(lake.ddl("duckdb", "--as", form, "--load"))
        rows = connection.execute(lake.ddl("duckdb", "--check")).fetchall()
        check_verdict(f"DuckDB, --as {form}", rows[0])
        days = connection.execute("SELECT DISTINCT dt::VARCHAR FROM cdrs ORDER BY 1").fetchall()
        assert [day for (day,) in days] == [FIRST, SECOND, LAST], days
        comments = connection.execute(
            "SELECT count(*) FROM duckdb_columns() WHERE table_name = 'cdrs' AND comment IS NULL"
        ).fetchone()
        assert comments == (0,), f"{comments} columns without a comment"


def statements(sql):
    lines = "\n".join(line for line in sql.splitlines() if not line.startswith("--"))
    return [statement for statement in lines.split(";\n") if statement.strip()]


def with_clickhouse(lake):
    for form in ["delta", "files"]:
        with tempfile.TemporaryDirectory() as folder:
            session = chdb.session.Session(folder)
            definition = statements(lake.ddl("clickhouse", "--as", form))
            # Twice: the second load changes nothing.
            load = 2 * statements(lake.ddl("clickhouse", "--as", form, "--load"))
            for statement in definition + load:
                session.query(statement)
            check = statements(lake.ddl("clickhouse", "--check"))[0]
            row = session.query(check, "TSV").bytes().decode().strip().split("\t")
            check_verdict(f"ClickHouse, --as {form}", row)
            session.close()


def main():
    program = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        # chdb reads a log only below the working directory.
        os.chdir(folder)
        lake = Lake(program, pathlib.Path(folder))
        with_duckdb(lake)
        with_clickhouse(lake)
        os.chdir("/")


if __name__ == "__main__":
    main()
