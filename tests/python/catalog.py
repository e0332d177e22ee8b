"""Takes a lake in a bucket with a REST catalog of Apache Iceberg through its life. After each step,
pyiceberg and DuckDB read the table through the catalog, and find the rows of `cdrlake files`.

SeaweedFS serves the bucket and the catalog.

Usage: catalog.py path/to/cdrlake
"""

import contextlib
import importlib.util
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

PROGRAM = pathlib.Path(sys.argv[1]).resolve()
WEED = pathlib.Path(sys.executable).parent / "weed"
DAYS = 3
ID, SECRET = "catalog-id", "CANARY-secret-of-the-catalog"
ENVIRONMENT = os.environ | {
    "WAVIX_API_KEY": "demo",
    "CDR_PRIVACY_KEY": "0123456789abcdef" * 4,
    "AWS_ACCESS_KEY_ID": ID,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "ICEBERG_CREDENTIAL": f"{ID}:{SECRET}",
    "ICEBERG_WRONG": f"{ID}:CANARY-wrong-secret",
    "ICEBERG_OLD_TOKEN": "CANARY-token-that-is-not-valid",
}
CREDENTIAL = "ICEBERG_CREDENTIAL"


def free_ports(count):
    """So many different free ports."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [server.getsockname()[1] for server in servers]


def answers(url):
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


class Weed:
    """SeaweedFS, which can be stopped and started again."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir()
        names = "master volume filer s3 admin".split()
        ports = free_ports(2 * len(names) + 1)
        self.iceberg = ports.pop()
        self.options = []
        for name in names:
            self.options.append(f"-{name}.port={ports.pop()}")
            self.options.append(f"-{name}.port.grpc={ports.pop()}")
        [self.s3] = [it.split("=")[1] for it in self.options if it.startswith("-s3.port=")]
        self.process = None

    def start(self):
        command = [WEED, "mini", f"-dir={self.directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-master.telemetry=false", "-webdav=false", "-admin.ui=false"]
        command += ["-s3.port.lance=0", f"-s3.port.iceberg={self.iceberg}", *self.options]
        command += ["-bucket=plain", "-tableBucket=warehouse"]
        log = (self.directory.parent / "weed.log").open("ab")
        self.process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        # The table bucket is made last.
        while not self.is_ready():
            assert self.process.poll() is None, "SeaweedFS ended"
            assert time.monotonic() < deadline, "SeaweedFS does not answer"
            time.sleep(0.5)

    def is_ready(self):
        if not answers(f"{self.url}/v1/config?warehouse=warehouse"):
            return False
        try:
            self.catalog().list_namespaces()
        except Exception:
            return False
        return True

    def stop(self):
        self.process.terminate()
        self.process.wait()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.iceberg}"

    def catalog(self):
        from pyiceberg.catalog import load_catalog

        properties = {
            "type": "rest",
            "uri": self.url,
            "warehouse": "warehouse",
            "credential": f"{ID}:{SECRET}",
            "s3.endpoint": f"http://127.0.0.1:{self.s3}",
            "s3.access-key-id": ID,
            "s3.secret-access-key": SECRET,
            "s3.region": "us-east-1",
        }
        return load_catalog("weed", **properties)

    def table(self):
        return self.catalog().load_table("telephony.cdrs")


@contextlib.contextmanager
def simulated(calls_per_day):
    """The simulated API with so many calls a day."""
    [port] = free_ports(1)
    command = [PROGRAM, "simulate", "--port", str(port), "--calls-per-day", str(calls_per_day)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT)
    server.stdout.readline()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def rows_with_duckdb(weed):
    """Rows and charges by `ATTACH`."""
    import duckdb

    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    for name in ["httpfs", "avro", "iceberg"]:
        package = importlib.util.find_spec(f"duckdb_extension_{name}")
        folder = pathlib.Path(package.origin).parent
        [extension] = folder.rglob(f"{name}.duckdb_extension")
        connection.execute(f"LOAD '{extension}'")
    connection.execute(
        f"CREATE SECRET (TYPE s3, KEY_ID '{ID}', SECRET '{SECRET}', REGION 'us-east-1', "
        f"ENDPOINT '127.0.0.1:{weed.s3}', USE_SSL false, URL_STYLE 'path')"
    )
    connection.execute(
        f"CREATE SECRET catalog (TYPE iceberg, CLIENT_ID '{ID}', CLIENT_SECRET '{SECRET}', "
        f"OAUTH2_SERVER_URI '{weed.url}/v1/oauth/tokens')"
    )
    connection.execute(
        f"ATTACH 'warehouse' AS weed (TYPE iceberg, ENDPOINT '{weed.url}', SECRET catalog)"
    )
    query = "SELECT count(*), sum(charge_usd) FROM weed.telephony.cdrs"
    return connection.sql(query).fetchone()


class Workplace:
    def __init__(self, directory, weed):
        self.directory = directory
        self.weed = weed

    def start(self, *arguments, credential=CREDENTIAL):
        directory = pathlib.Path(tempfile.mkdtemp(dir=self.directory))
        (directory / "pipeline.toml").write_text(
            '[source]\napi_key = { env = "WAVIX_API_KEY" }\n'
            '[lake]\nurl = "s3://plain/calls"\ntables = ["iceberg"]\n'
            "[lake.options]\nallow_http = true\nregion = 'us-east-1'\n"
            f'endpoint = "http://127.0.0.1:{self.weed.s3}"\n'
            f'[lake.iceberg.catalog]\nurl = "{self.weed.url}"\nwarehouse = "warehouse"\n'
            f'namespace = "telephony"\ncredential = {{ env = "{credential}" }}\n'
            '[privacy]\nkey = { env = "CDR_PRIVACY_KEY" }\n'
        )
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [PROGRAM, *arguments]
        return subprocess.Popen(command, cwd=directory, env=ENVIRONMENT, **pipes)

    def end(self, process, status=0):
        output, errors = process.communicate()
        assert "CANARY" not in output + errors, output + errors
        assert process.returncode == status, f"{process.args}: {output}{errors}"
        return output if status == 0 else output + errors

    def cdrlake(self, *arguments, status=0, credential=CREDENTIAL):
        """Runs the program with the lake's configuration."""
        return self.end(self.start(*arguments, credential=credential), status)

    def run(self, url, *arguments, **options):
        return self.cdrlake("run", "--last", str(DAYS), "--source-url", url, *arguments, **options)

    def expected(self):
        """Rows and charges by the current files."""
        import pyarrow.compute
        import pyarrow.fs
        import pyarrow.parquet

        store = pyarrow.fs.S3FileSystem(
            access_key=ID,
            secret_key=SECRET,
            endpoint_override=f"127.0.0.1:{self.weed.s3}",
            scheme="http",
            region="us-east-1",
        )
        rows, charges = 0, 0
        for uri in self.cdrlake("files").split():
            path = uri.removeprefix("s3://")
            table = pyarrow.parquet.read_table(path, filesystem=store, partitioning=None)
            rows += table.num_rows
            charges += pyarrow.compute.sum(table["charge_usd"]).as_py() or 0
        return rows, charges

    def check(self, step):
        """Verifies the lake, and has readers read the table through the catalog."""
        import pyarrow.compute

        assert "everything matches the ledger" in self.cdrlake("verify"), step
        expected = self.expected()
        table = self.weed.table()
        found = table.scan().to_arrow()
        charges = pyarrow.compute.sum(found["charge_usd"]).as_py()
        assert (found.num_rows, charges) == expected, f"{step}: pyiceberg: {found.num_rows}"
        for snapshot in table.snapshots():
            table.scan(snapshot_id=snapshot.snapshot_id).to_arrow()
        readers = "pyiceberg"
        if importlib.util.find_spec("duckdb_extension_httpfs"):
            found = rows_with_duckdb(self.weed)
            assert found == expected, f"{step}: DuckDB: {found} instead of {expected}"
            readers += " and DuckDB"
        print(f"{step}: {expected[0]} rows by {readers}", flush=True)
        return table


def main():
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        weed = Weed(pathlib.Path(directory) / "weed")
        weed.start()
        stack.callback(weed.stop)
        place = Workplace(pathlib.Path(directory), weed)
        first = stack.enter_context(simulated(60))
        second = stack.enter_context(simulated(80))

        shards = [
            place.start("run", "--last", str(DAYS), "--source-url", first, "--shard", f"{shard}/2")
            for shard in [1, 2]
        ]
        for process in shards:
            place.end(process)
        place.check("two runs at once")
        assert "telephony.cdrs has snapshot" in place.cdrlake("check", "--source-url", first)

        place.run(second, "--refresh")
        table = place.check("re-rated days")
        assert len(table.snapshots()) > 1

        for credential in ["ICEBERG_WRONG", "ICEBERG_OLD_TOKEN"]:
            arguments = ["--refresh", "--allow-shrink"]
            text = place.run(first, *arguments, status=1, credential=credential)
            assert "lake.iceberg.catalog.credential" in text, text
        place.run(second)
        place.check("the right credential again")

        weed.stop()
        weed.start()
        place.cdrlake("sync")
        place.check("the catalog started again")

        table = weed.table()
        table.append(table.scan(limit=3).to_arrow())
        text = place.cdrlake("verify", status=1)
        assert "another program committed it" in text, text
        place.cdrlake("sync")
        place.check("a commit of another program removed")
        place.run(first, "--refresh", "--allow-shrink")
        table = place.check("re-rated after it")

        number = table.scan().to_arrow()["from_number"][0].as_py()
        place.cdrlake("erase", "--number", number)
        table = place.check("an erased number")
        assert len(table.snapshots()) == 1
        assert number not in table.scan().to_arrow()["from_number"].to_pylist()
        place.cdrlake("prune", "--older-than", f"{DAYS - 1}days")
        place.check("a removed day")


main()
