"""Reads the Iceberg log of a lake on disk with every reader that is installed, and compares with
its live Parquet files: rows, sums, types, pruning by day, bounds, and earlier snapshots.

Usage: iceberg_readers.py path/to/lake [reader ...]

Two environments, because the readers need different versions of pyarrow:
    pip install pyiceberg[pyarrow]==0.12.0 duckdb==1.5.5 duckdb-extension-iceberg==1.5.5 \
        duckdb-extension-avro==1.5.5 polars==2.1.0 chdb==4.4.0 fastavro==1.13.1 pyarrow==26.0.1
    pip install daft==0.7.26 pyarrow==25.0.1 pyiceberg==0.12.0 fastavro==1.13.1
    pip install pysail==0.7.2 pyspark-client==4.1.0 pyarrow==25.0.1 fastavro==1.13.1
"""

import datetime
import importlib.util
import json
import os
import pathlib
import re
import sys
from decimal import Decimal

import fastavro
import pyarrow
import pyarrow.compute
import pyarrow.parquet

TEXTS = (
    "call_id parent_call_id direction from_number to_number disposition destination sip_trunk "
    "answered_by extra"
).split()
AMOUNTS = ["per_minute_usd", "charge_usd", "forward_fee_usd"]
COLUMNS = (
    "call_id parent_call_id direction source_day call_time from_number to_number disposition "
    "destination sip_trunk answered_by duration_seconds per_minute_usd charge_usd "
    "forward_fee_usd extra"
).split()


def path_of(uri):
    return uri.removeprefix("file://")


def avro(uri):
    with open(path_of(uri), "rb") as file:
        yield from fastavro.reader(file)


class Table:
    """The log, decoded without an Iceberg library, and the contents of its live files."""

    def __init__(self, lake):
        self.root = lake / "_iceberg"
        versions = {
            int(path.name.split(".")[0][1:]): path
            for path in self.root.glob("metadata/v*.metadata.json")
        }
        self.file = versions[max(versions)]
        hint = (self.root / "metadata/version-hint.text").read_text()
        assert hint == str(max(versions)), f"the hint names version {hint}, not {max(versions)}"
        metadata = json.loads(self.file.read_text())
        self.checked = set()
        self.current = metadata["current-snapshot-id"]
        self.snapshots = {
            snapshot["snapshot-id"]: self.live(snapshot) for snapshot in metadata["snapshots"]
        }

    def live(self, snapshot):
        """The live files of a snapshot, with their days."""
        files = {}
        for manifest in avro(snapshot["manifest-list"]):
            for entry in avro(manifest["manifest_path"]):
                if entry["status"] != 2:
                    file = entry["data_file"]
                    path = path_of(file["file_path"])
                    if path not in self.checked:
                        check_statistics(file)
                    self.checked.add(path)
                    files[path] = file["partition"]["source_day"]
        return files

    def expected(self, snapshot, day=None):
        """Rows and charges by the Parquet files."""
        files = [
            path for path, of in self.snapshots[snapshot].items() if day is None or of == day
        ]
        tables = [pyarrow.parquet.ParquetFile(path).read(columns=["charge_usd"]) for path in files]
        charges = [pyarrow.compute.sum(table["charge_usd"]).as_py() or 0 for table in tables]
        return sum(table.num_rows for table in tables), Decimal(sum(charges))


def number_of(kind, value):
    if kind == "decimal":
        return int.from_bytes(value, "big", signed=True)
    return int.from_bytes(value, "little", signed=True)


def check_statistics(file):
    """Compares the bounds of a data file with its values."""
    table = pyarrow.parquet.ParquetFile(path_of(file["file_path"])).read()
    assert table.num_rows == file["record_count"]
    assert pathlib.Path(path_of(file["file_path"])).stat().st_size == file["file_size_in_bytes"]
    ids = {at + 1: name for at, name in enumerate(COLUMNS)}
    nulls = {item["key"]: item["value"] for item in file["null_value_counts"]}
    for column, count in nulls.items():
        assert table[ids[column]].null_count == count, ids[column]
    lower, upper = (
        {item["key"]: item["value"] for item in file[key]}
        for key in ["lower_bounds", "upper_bounds"]
    )
    assert lower.keys() == upper.keys()
    for column in lower:
        name = ids[column]
        found = pyarrow.compute.min_max(table[name]).as_py()
        bounds = lower[column], upper[column]
        if name in ["direction", "disposition"]:
            bounds = tuple(bound.decode() for bound in bounds)
            assert (found["min"], found["max"]) == bounds, name
        elif name in AMOUNTS:
            bounds = tuple(Decimal(number_of("decimal", bound)).scaleb(-9) for bound in bounds)
            assert (found["min"], found["max"]) == bounds, name
        else:
            kind = pyarrow.int32() if name != "call_time" else pyarrow.int64()
            found = pyarrow.compute.min_max(table[name].cast(kind)).as_py()
            bounds = tuple(number_of("number", bound) for bound in bounds)
            assert (found["min"], found["max"]) == bounds, name
    names = {ids[column] for column in lower}
    allowed = {"direction", "disposition", "source_day", "call_time", "duration_seconds", *AMOUNTS}
    assert names <= allowed, names


def check(reader, what, found, expected):
    rows, charges = found
    found = int(rows or 0), Decimal(charges or 0)
    assert found == expected, f"{reader}: {what}: {found} instead of {expected}"


def check_schema(reader, schema):
    """The columns as Arrow types; large and view types count as their plain forms."""
    assert schema.names == COLUMNS, f"{reader}: {schema.names}"
    text = {pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()}
    wanted = dict.fromkeys(TEXTS, text)
    wanted |= {name: {pyarrow.decimal128(18, 9)} for name in AMOUNTS}
    wanted["source_day"] = {pyarrow.date32()}
    wanted["call_time"] = {
        pyarrow.timestamp("us", zone) for zone in ["UTC", "Etc/UTC", "+00:00"]
    }
    wanted["duration_seconds"] = {pyarrow.int32()}
    for name in COLUMNS:
        kind = schema.field(name).type
        assert kind in wanted[name], f"{reader}: {name} is {kind}"


def sums(table):
    charges = pyarrow.compute.sum(table["charge_usd"]).as_py()
    return table.num_rows, charges


def with_pyiceberg(table, day):
    from pyiceberg.expressions import EqualTo
    from pyiceberg.table import StaticTable

    reader = "pyiceberg"
    for place in [table.file, table.root]:
        found = StaticTable.from_metadata(f"file://{place}")
        check(reader, place.name, sums(found.scan().to_arrow()), table.expected(table.current))
    schema = found.schema()
    kinds = [str(field.field_type) for field in schema.fields]
    assert kinds[3:5] + kinds[11:14] == [
        "date", "timestamptz", "int", "decimal(18, 9)", "decimal(18, 9)"
    ], kinds
    assert [field.name for field in schema.fields] == COLUMNS
    required = [field.name for field in schema.fields if field.required]
    assert required == ["direction", "source_day", "call_time"], required
    scan = found.scan(row_filter=EqualTo("source_day", day.isoformat()))
    files = [path_of(task.file.file_path) for task in scan.plan_files()]
    expected = [path for path, of in table.snapshots[table.current].items() if of == day]
    assert sorted(files) == sorted(expected), f"{reader}: {files}"
    check(reader, "one day", sums(scan.to_arrow()), table.expected(table.current, day))
    # Bounds of call_time prune, too.
    later = (day + datetime.timedelta(days=1)).isoformat()
    scan = found.scan(row_filter=f"call_time < '{later}T00:00:00+00:00'")
    files = {path_of(task.file.file_path) for task in scan.plan_files()}
    wanted = {path for path, of in table.snapshots[table.current].items() if of <= day}
    assert wanted <= files, f"{reader}: bounds of call_time exclude files"
    for snapshot in table.snapshots:
        rows = sums(found.scan(snapshot_id=snapshot).to_arrow())
        check(reader, f"snapshot {snapshot}", rows, table.expected(snapshot))
    assert len(found.inspect.files()) == len(table.snapshots[table.current])
    assert len(found.inspect.snapshots()) == len(table.snapshots)
    found.inspect.history()


def with_duckdb(table, day):
    import duckdb

    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    for name in ["avro", "iceberg"]:
        package = importlib.util.find_spec(f"duckdb_extension_{name}")
        folder = pathlib.Path(package.origin).parent
        [extension] = folder.rglob(f"{name}.duckdb_extension")
        connection.execute(f"LOAD '{extension}'")
    connection.execute("SET TimeZone = 'UTC'")
    reader = "DuckDB"
    for place in [table.file, table.root]:
        scan = f"iceberg_scan('{place}')"
        query = f"SELECT count(*), sum(charge_usd) FROM {scan}"
        found = connection.sql(query).fetchone()
        check(reader, place.name, found, table.expected(table.current))
    types = {name: kind for name, kind, *_ in connection.sql(f"DESCRIBE FROM {scan}").fetchall()}
    assert list(types) == COLUMNS, types
    wanted = dict.fromkeys(TEXTS, "VARCHAR") | dict.fromkeys(AMOUNTS, "DECIMAL(18,9)")
    wanted |= {
        "source_day": "DATE",
        "call_time": "TIMESTAMP WITH TIME ZONE",
        "duration_seconds": "INTEGER",
    }
    assert types == {name: wanted[name] for name in COLUMNS}, types
    one_day = f"{query} WHERE source_day = DATE '{day}'"
    check(reader, "one day", connection.sql(one_day).fetchone(), table.expected(table.current, day))
    plan = connection.sql(f"EXPLAIN ANALYZE {one_day}").fetchall()[0][1]
    counts = re.findall(r"Total Files Read: (\d+)", plan)
    files = sum(of == day for of in table.snapshots[table.current].values())
    assert counts in ([], [str(files)]), f"{reader} read {counts} files"
    for snapshot in table.snapshots:
        scan = f"iceberg_scan('{table.root}', snapshot_from_id = {snapshot}::UBIGINT)"
        found = connection.sql(f"SELECT count(*), sum(charge_usd) FROM {scan}").fetchone()
        check(reader, f"snapshot {snapshot}", found, table.expected(snapshot))


def with_polars(table, day):
    import polars

    reader = "Polars"
    counted = [polars.len(), polars.col("charge_usd").sum()]
    for backend in ["native", "pyiceberg"]:
        options = {"reader_override": backend}
        scan = polars.scan_iceberg(str(table.file), **options)
        found = scan.select(counted).collect().row(0)
        check(reader, backend, found, table.expected(table.current))
        one_day = scan.filter(polars.col("source_day") == day)
        found = one_day.select(counted).collect().row(0)
        check(reader, "one day", found, table.expected(table.current, day))
        check_schema(reader, scan.head(1).collect().to_arrow().schema)
        for snapshot in table.snapshots:
            scan = polars.scan_iceberg(str(table.file), snapshot_id=snapshot, **options)
            found = scan.select(counted).collect().row(0)
            check(reader, f"snapshot {snapshot}", found, table.expected(snapshot))


def with_chdb(table, day):
    import chdb

    # It reads only files below the working directory.
    os.chdir("/")
    reader = "chdb"

    def query(text):
        lines = str(chdb.query(text, "JSONCompactEachRow")).splitlines()
        return [json.loads(line) for line in lines]

    scan = f"icebergLocal('{table.root}')"
    text = f"SELECT count(), toString(sum(charge_usd)) FROM {scan}"
    check(reader, "root", query(text)[0], table.expected(table.current))
    types = {row[0]: row[1] for row in query(f"DESCRIBE {scan}")}
    assert list(types) == COLUMNS, types
    assert types["charge_usd"] == "Nullable(Decimal(18, 9))", types
    assert types["source_day"] in ["Date32", "Date"], types
    assert types["call_time"] == "DateTime64(6, 'UTC')", types
    found = query(f"{text} WHERE source_day = '{day}'")[0]
    check(reader, "one day", found, table.expected(table.current, day))
    for snapshot in table.snapshots:
        found = query(f"{text} SETTINGS iceberg_snapshot_id = {snapshot}")[0]
        check(reader, f"snapshot {snapshot}", found, table.expected(snapshot))


def with_daft(table, day):
    import daft

    reader = "Daft"
    for place in [table.file, table.root]:
        found = daft.read_iceberg(f"file://{place}" if place == table.file else str(place))
        check(reader, place.name, sums(found.to_arrow()), table.expected(table.current))
    check_schema(reader, found.to_arrow().schema)
    one_day = found.where(daft.col("source_day") == day).to_arrow()
    check(reader, "one day", sums(one_day), table.expected(table.current, day))
    for snapshot in table.snapshots:
        found = daft.read_iceberg(str(table.root), snapshot_id=snapshot).to_arrow()
        check(reader, f"snapshot {snapshot}", sums(found), table.expected(snapshot))


def with_pysail(table, day):
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    reader = "Sail"
    server = SparkConnectServer("127.0.0.1", 0)
    server.start()
    _, port = server.listening_address
    spark = SparkSession.builder.remote(f"sc://127.0.0.1:{port}").getOrCreate()
    frame = spark.read.format("iceberg").load(f"file://{table.root}")

    def row(frame):
        return frame.selectExpr("count(*)", "sum(charge_usd)").collect()[0]

    check(reader, "root", row(frame), table.expected(table.current))
    # It puts partition columns last.
    assert sorted(frame.columns) == sorted(COLUMNS), f"{reader}: {frame.columns}"
    one_day = frame.filter(f"source_day = DATE '{day}'")
    check(reader, "one day", row(one_day), table.expected(table.current, day))
    spark.stop()
    server.stop()


READERS = {
    "pyiceberg": with_pyiceberg,
    "duckdb": with_duckdb,
    "polars": with_polars,
    "chdb": with_chdb,
    "daft": with_daft,
    "pysail": with_pysail,
}


def main(lake, *readers):
    table = Table(pathlib.Path(lake).resolve())
    days = sorted(set(table.snapshots[table.current].values()))
    day = days[len(days) // 2]
    required = set(readers)
    for name, read in READERS.items():
        if required and name not in required:
            continue
        package = "duckdb_extension_iceberg" if name == "duckdb" else name
        if importlib.util.find_spec(package) is None:
            assert not required, f"{name} is not installed"
            continue
        read(table, day)
        print(f"{name}: {len(table.snapshots)} snapshots")
    rows, charges = table.expected(table.current)
    print(f"{rows} rows, {charges} US dollars")


if __name__ == "__main__":
    main(*sys.argv[1:])
