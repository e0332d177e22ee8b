"""Takes a lake with Delta Lake and Apache Iceberg logs through its life, and has every reader of
both formats read it after each step: a first load, re-rated days, an erased number, a removed day,
and sixty commits whose history was removed behind a checkpoint.

Usage: tables.py path/to/cdrlake
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
PROGRAM = pathlib.Path(sys.argv[1]).resolve()
DAYS = 5
COMMITS = 60
KEY = "demo"
ENVIRONMENT = os.environ | {"WAVIX_API_KEY": KEY, "CDR_PRIVACY_KEY": "0123456789abcdef" * 4}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def simulated(calls_per_day):
    """The simulated API with so many calls a day."""
    port = free_port()
    command = [PROGRAM, "simulate", "--port", str(port), "--calls-per-day", str(calls_per_day)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT)
    server.stdout.readline()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


class Workplace:
    def __init__(self, directory):
        self.directory = directory
        self.lake = directory / "lake"

    def cdrlake(self, *arguments, keep_replaced="7d"):
        """Runs the program with the lake's configuration."""
        (self.directory / "pipeline.toml").write_text(
            '[source]\napi_key = { env = "WAVIX_API_KEY" }\n'
            f'[lake]\nurl = "{self.lake}"\ntables = ["delta", "iceberg"]\n'
            f'keep_replaced = "{keep_replaced}"\n'
            '[privacy]\nkey = { env = "CDR_PRIVACY_KEY" }\n'
        )
        ran = subprocess.run(
            [PROGRAM, *arguments],
            cwd=self.directory,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, f"{arguments}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def run(self, url, *arguments):
        return self.cdrlake("run", "--last", str(DAYS), "--source-url", url, *arguments)

    def check(self, step):
        """Verifies the lake, and has every reader read both logs."""
        assert "everything matches the ledger" in self.cdrlake("verify"), step
        for script in ["delta_readers.py", "iceberg_readers.py"]:
            command = [sys.executable, HERE / script, self.lake]
            ran = subprocess.run(command, capture_output=True, text=True)
            assert ran.returncode == 0, f"{step}: {script}: {ran.stdout}{ran.stderr}"
        print(f"{step}: every reader agrees", flush=True)

    def log_files(self):
        logs = [self.lake / "_delta_log", self.lake / "_iceberg"]
        return sorted(path for log in logs for path in log.rglob("*") if path.is_file())

    def a_number(self):
        """A caller of the lake."""
        import pyarrow.parquet

        [path, *_] = self.cdrlake("files").split()
        return pyarrow.parquet.read_table(path)["from_number"][0].as_py()


def digits_in(value, found):
    """Collects the strings in decoded JSON or Avro."""
    if isinstance(value, dict):
        for name, each in value.items():
            digits_in(name, found)
            digits_in(each, found)
    elif isinstance(value, (list, tuple)):
        for each in value:
            digits_in(each, found)
    elif isinstance(value, bytes):
        found.append(value.decode("utf-8", "replace"))
    elif isinstance(value, str):
        found.append(value)


def texts_of(path):
    """The texts in a file of a log, decoded."""
    import fastavro
    import pyarrow.parquet

    found = []
    if path.suffix == ".json":
        for line in path.read_text().splitlines() if "_delta_log" in path.parts else [""]:
            digits_in(json.loads(line) if line else json.loads(path.read_text()), found)
    elif path.suffix == ".parquet":
        digits_in(pyarrow.parquet.read_table(path).to_pylist(), found)
    elif path.suffix == ".avro":
        with path.open("rb") as file:
            digits_in(list(fastavro.reader(file)), found)
    else:
        found.append(path.read_text())
    return found


def main():
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        place = Workplace(pathlib.Path(directory))
        first = stack.enter_context(simulated(400))
        second = stack.enter_context(simulated(300))
        place.run(first)
        place.check("first load")
        place.run(second, "--refresh", "--allow-shrink")
        place.check("re-rated days")

        number = place.a_number()
        place.cdrlake("erase", "--number", number)
        place.check("an erased number")
        for path in place.log_files():
            assert all(number not in text for text in texts_of(path)), path
        current = set(place.cdrlake("files").split())
        files = {str(path) for path in (place.lake / "cdrs").rglob("*.parquet")}
        assert files == current, "an erasure removes replaced files at once"

        place.cdrlake("prune", "--older-than", f"{DAYS - 1}days")
        place.check("a removed day")

        for commit in range(COMMITS):
            url = [first, second][commit % 2]
            arguments = ["--refresh", "--allow-shrink", "--last", "1", "--direction", "placed"]
            place.cdrlake("run", "--source-url", url, *arguments)
        place.check(f"{COMMITS} commits")
        time.sleep(1.1)
        place.cdrlake("gc", keep_replaced="1s")
        commits = [path for path in place.log_files() if path.suffix == ".json"]
        assert len(commits) <= 4, commits
        place.check("history removed behind a checkpoint")


main()
