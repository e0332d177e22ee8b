"""Reads tables with some readers and compares every type and value with what is expected.

Usage: table_readers.py reader ...

Each line of standard input is a question of `tables.py`, a JSON object: the table's format and
address, the version to read, a filter, and a Parquet file of the expected rows. Prints one line for
each question, a JSON object that says for each reader what differs, or null. Some readers need
different versions of the same package, so they live in several environments.
"""

import atexit
import datetime
import functools
import importlib.util
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
import typing
from decimal import Decimal

# Spark converts times into the machine's zone.
os.environ["TZ"] = "UTC"
time.tzset()
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")

import pyarrow
import pyarrow.parquet

from edge_calls import AMOUNTS, TEXTS

TYPES = dict.fromkeys(TEXTS, pyarrow.string()) | dict.fromkeys(AMOUNTS, pyarrow.decimal128(18, 9))
TYPES |= {
    "source_day": pyarrow.date32(),
    "dt": pyarrow.date32(),
    "call_time": pyarrow.timestamp("us", "UTC"),
    "duration_seconds": pyarrow.int32(),
}
# Other spellings of these types.
SAME_TYPES = {pyarrow.large_string(): pyarrow.string(), pyarrow.string_view(): pyarrow.string()}
SAME_TYPES |= {pyarrow.timestamp("us", zone): TYPES["call_time"] for zone in ["Etc/UTC", "+00:00"]}


class Filter(typing.NamedTuple):
    """Calls whose column has, at least (>=) or at most (<=), this value."""

    column: str
    operator: str
    value: str

    def literal(self):
        kind = TYPES[self.column]
        if kind == TYPES["call_time"]:
            return datetime.datetime.fromisoformat(self.value)
        if kind == TYPES["source_day"]:
            return datetime.date.fromisoformat(self.value)
        return self.value if kind == pyarrow.string() else Decimal(self.value)

    def sql(self, time="TIMESTAMP '{}+00:00'"):
        kind = TYPES[self.column]
        value = f"'{self.value}'"
        if kind == TYPES["call_time"]:
            value = time.format(self.value.removesuffix("+00:00").replace("T", " "))
        elif kind == TYPES["source_day"]:
            value = f"DATE {value}"
        elif kind != pyarrow.string():
            value = f"CAST({value} AS DECIMAL(18, 9))"
        return f"{self.column} {self.operator} {value}"

    def expression(self, column, literal=lambda value: value):
        """The comparison of a column as an object that overloads operators."""
        compare = {"=": column.__eq__, ">=": column.__ge__, "<=": column.__le__}[self.operator]
        return compare(literal(self.literal()))


def select(table, where, **options):
    return f"SELECT * FROM {table}" + (f" WHERE {where.sql(**options)}" if where else "")


# Each reader takes the table's address, a version (None: the newest) and an optional filter, and
# returns an Arrow table.


def deltalake_delta(table, version, where):
    import deltalake

    found = deltalake.DeltaTable(table, version=version)
    # Its literals of times have nanoseconds, which end in the year 2262.
    query = select("cdrs", where, time="arrow_cast('{}Z', 'Timestamp(Microsecond, Some(\"UTC\"))')")
    return pyarrow.table(deltalake.QueryBuilder().register("cdrs", found).execute(query))


def deltalake_with_pyarrow(table, version, where):
    import deltalake
    import pyarrow.dataset

    # It has no type for views of strings.
    found = deltalake.DeltaTable(table, version=version).to_pyarrow_dataset()
    expression = where and where.expression(
        pyarrow.dataset.field(where.column),
        lambda value: pyarrow.scalar(value, TYPES[where.column]),
    )
    return found.to_table(filter=expression)


def polars_delta(table, version, where):
    import polars

    frame = polars.scan_delta(table, version=version)
    return filtered_by_polars(frame, where)


def polars_iceberg(table, version, where, backend="native"):
    import polars

    import table_logs

    # It needs the address of a metadata file.
    path = pathlib.Path(table)
    if path.is_dir():
        path = table_logs.metadata_file(path)
    frame = polars.scan_iceberg(str(path), snapshot_id=version, reader_override=backend)
    return filtered_by_polars(frame, where)


def polars_with_pyiceberg(table, version, where):
    return polars_iceberg(table, version, where, "pyiceberg")


def filtered_by_polars(frame, where):
    import polars

    if where:
        frame = frame.filter(where.expression(polars.col(where.column), polars.lit))
    return frame.collect().to_arrow()


def duckdb_connection(*extensions):
    import duckdb

    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    for name in extensions:
        package = importlib.util.find_spec(f"duckdb_extension_{name}")
        folder = pathlib.Path(package.origin).parent
        [extension] = folder.rglob(f"{name}.duckdb_extension")
        connection.execute(f"LOAD '{extension}'")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def duckdb_delta(table, version, where):
    connection = duckdb_connection("delta")
    scan = f"delta_scan('{table}')"
    if version is not None:
        connection.execute(f"ATTACH '{table}' AS lake (TYPE delta)")
        scan = f"lake AT (VERSION => {version})"
    return connection.sql(select(scan, where)).to_arrow_table()


def duckdb_iceberg(table, version, where):
    connection = duckdb_connection("avro", "iceberg")
    option = "" if version is None else f", snapshot_from_id = {version}::UBIGINT"
    return connection.sql(select(f"iceberg_scan('{table}'{option})", where)).to_arrow_table()


def chdb_delta(table, version, where):
    option = "" if version is None else f" SETTINGS delta_lake_snapshot_version = {version}"
    return queried_by_chdb(f"deltaLakeLocal('{table}')", where, option)


def chdb_iceberg(table, version, where):
    option = "" if version is None else f" SETTINGS iceberg_snapshot_id = {version}"
    return queried_by_chdb(f"icebergLocal('{table}')", where, option)


def queried_by_chdb(scan, where, option):
    import chdb.session

    # It reads only files below the working directory.
    os.chdir("/")
    query = select(scan, where, time="toDateTime64('{}', 6, 'UTC')") + option
    session = chdb.session.Session()
    answer = session.query(query, "Arrow").bytes()
    session.close()
    return pyarrow.ipc.open_file(pyarrow.BufferReader(answer)).read_all()


def daft_delta(table, version, where):
    import daft

    return filtered_by_daft(daft.read_deltalake(table, version=version), where)


def daft_iceberg(table, version, where):
    import daft

    return filtered_by_daft(daft.read_iceberg(table, snapshot_id=version), where)


def filtered_by_daft(frame, where):
    import daft

    if where:
        frame = frame.where(where.expression(daft.col(where.column), daft.lit))
    return frame.to_arrow()


def pyiceberg_iceberg(table, version, where):
    from pyiceberg.table import StaticTable

    found = StaticTable.from_metadata(table)
    required = [field.name for field in found.schema().fields if field.required]
    assert required == ["direction", "source_day", "call_time"], required
    assert len(found.inspect.snapshots()) == len(found.inspect.history())
    # Its expressions have no prefix for types.
    where = f"{where.column} {where.operator} '{where.value}'" if where else "true"
    return found.scan(row_filter=where, snapshot_id=version).to_arrow()


@functools.cache
def sail_session():
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    server = SparkConnectServer("127.0.0.1", 0)
    server.start()
    _, port = server.listening_address
    session = SparkSession.builder.remote(f"sc://127.0.0.1:{port}").getOrCreate()
    session.conf.set("spark.sql.session.timeZone", "UTC")
    # The server lives as long as the session.
    session.server = server
    return session


def sail_delta(table, version, where):
    option = {} if version is None else {"versionAsOf": str(version)}
    frame = sail_session().read.format("delta").options(**option).load(table)
    return (frame.filter(where.sql()) if where else frame).toArrow()


def sail_iceberg(table, version, where):
    option = {} if version is None else {"snapshot-id": str(version)}
    frame = sail_session().read.format("iceberg").options(**option).load(f"file://{table}")
    return (frame.filter(where.sql()) if where else frame).toArrow()


@functools.cache
def spark_session():
    """Spark with the Iceberg jar of a package, and the classes that this jar lacks."""
    import pyspark.sql
    import snowpark_connect_deps_iceberg

    import spark_jackson

    folder = pathlib.Path(snowpark_connect_deps_iceberg.__file__).parent / "jars"
    [iceberg] = folder.glob("iceberg-spark-runtime-3.5_2.12-*.jar")
    scratch = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, scratch)
    jackson = scratch / "jackson.jar"
    spark_jackson.write_shaded(pathlib.Path(pyspark.__file__).parent / "jars", jackson)
    session = (
        pyspark.sql.SparkSession.builder.master("local[1]")
        .config("spark.driver.extraClassPath", f"{iceberg}:{jackson}")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.warehouse.dir", f"{scratch}/warehouse")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", "1g")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    return session


def spark_iceberg(table, version, where):
    option = {} if version is None else {"snapshot-id": str(version)}
    frame = spark_session().read.format("iceberg").options(**option).load(table)
    types = {"string": pyarrow.string(), "date": pyarrow.date32(), "int": pyarrow.int32()}
    types |= {"timestamp": TYPES["call_time"], "decimal(18,9)": TYPES["charge_usd"]}
    fields = [(field.name, types[field.dataType.simpleString()]) for field in frame.schema]
    if where:
        frame = frame.filter(where.sql())
    # Python's times do not reach the first day of the year 1 on the way through the local zone.
    frame = frame.selectExpr("*", "unix_micros(call_time) AS micros").drop("call_time")
    rows = [row.asDict() for row in frame.withColumnRenamed("micros", "call_time").collect()]
    return pyarrow.Table.from_pylist(rows, pyarrow.schema(fields))


READERS = {
    "deltalake": {"delta": deltalake_delta},
    "deltalake with pyarrow": {"delta": deltalake_with_pyarrow},
    "duckdb": {"delta": duckdb_delta, "iceberg": duckdb_iceberg},
    "polars": {"delta": polars_delta, "iceberg": polars_iceberg},
    "polars with pyiceberg": {"iceberg": polars_with_pyiceberg},
    "chdb": {"delta": chdb_delta, "iceberg": chdb_iceberg},
    "daft": {"delta": daft_delta, "iceberg": daft_iceberg},
    "pyiceberg": {"iceberg": pyiceberg_iceberg},
    "sail": {"delta": sail_delta, "iceberg": sail_iceberg},
    "spark": {"iceberg": spark_iceberg},
}


def in_order(table):
    keys = ["source_day", "direction", "call_time", "call_id"]
    return table.sort_by([(key, "ascending") for key in keys])


def compare(found, expected):
    """What differs between two tables; None if nothing does."""
    types = {field.name: SAME_TYPES.get(field.type, field.type) for field in found.schema}
    wanted = {field.name: field.type for field in expected.schema}
    if types != wanted:
        return f"columns {dict(types.items() ^ wanted.items())}"
    found = in_order(found.select(expected.column_names).cast(expected.schema))
    expected = in_order(expected)
    if found.equals(expected):
        return None
    if found.num_rows != expected.num_rows:
        return f"{found.num_rows} rows instead of {expected.num_rows}"
    pairs = zip(found.to_pylist(), expected.to_pylist())
    first, second = next(pair for pair in pairs if pair[0] != pair[1])
    name = next(name for name in first if first[name] != second[name])
    return f"{name} of {second['call_id']!r} is {first[name]!r} instead of {second[name]!r}"


def answer(read, question):
    """What is wrong with a reader's rows; None if nothing is."""
    expected = pyarrow.parquet.read_table(question["expected"])
    where = question["where"] and Filter(*question["where"])
    try:
        return compare(read(question["table"], question["version"], where), expected)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main():
    readers = {name: READERS[name] for name in sys.argv[1:]}
    for line in sys.stdin:
        question = json.loads(line)
        answers = {
            name: answer(formats[question["format"]], question)
            for name, formats in readers.items()
            if question["format"] in formats
        }
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
