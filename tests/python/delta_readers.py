"""Reads the Delta Lake log of a lake with every reader and compares their answers.

The newest version must have the calls of the Parquet files that the ledger names, older versions
those of the files that deltalake lists for them.

Usage: delta_readers.py path/to/lake

Tested with Python 3.11 and, in an environment of its own (other scripts need DuckDB 2.0):
chdb==4.4.0 daft==0.7.26 deltalake==1.6.6 duckdb==1.5.5 duckdb-extension-delta==1.5.5
polars==2.1.0 pyarrow==25.0.1
"""

import datetime
import json
import operator
import os
import pathlib
import sys
import typing
from decimal import Decimal

import chdb.session
import daft
import deltalake
import duckdb
import duckdb_extension_delta
import polars
import pyarrow
import pyarrow.compute
import pyarrow.parquet

os.environ.setdefault("DAFT_PROGRESS_BAR", "0")

NAMES = (
    "call_id parent_call_id direction source_day call_time from_number to_number disposition "
    "destination sip_trunk answered_by duration_seconds per_minute_usd charge_usd "
    "forward_fee_usd extra dt"
).split()


def types(text, date, time, integer, decimal):
    """The type of each column, if a reader spells the five types in this way."""
    special = {
        "source_day": date,
        "dt": date,
        "call_time": time,
        "duration_seconds": integer,
        "per_minute_usd": decimal,
        "charge_usd": decimal,
        "forward_fee_usd": decimal,
    }
    return [(name, special.get(name, text)) for name in NAMES]


def summary(rows, charge, seconds):
    return rows, Decimal(charge or 0), int(seconds or 0)


class Filter(typing.NamedTuple):
    """Calls with at least (>=) or at most (<=) this value."""

    column: str
    operator: str
    value: object

    def sql(self, time="TIMESTAMP '{}+00:00'"):
        if isinstance(self.value, datetime.datetime):
            value = time.format(f"{self.value:%Y-%m-%d %H:%M:%S.%f}")
        elif isinstance(self.value, datetime.date):
            value = f"DATE '{self.value}'"
        else:
            value = f"CAST('{self.value:f}' AS DECIMAL(18, 9))"
        return f"WHERE {self.column} {self.operator} {value}"

    def apply(self, column, literal=lambda value: value):
        compare = {">=": operator.ge, "<=": operator.le}[self.operator]
        return compare(column, literal(self.value))


def of_files(paths, where=None):
    """Calls, charges and seconds of Parquet files, with or without a filter."""
    rows, charge, seconds = 0, Decimal(0), 0
    columns = ["call_time", "charge_usd", "duration_seconds"]
    for path in paths:
        table = pyarrow.parquet.ParquetFile(path).read(columns)
        if where:
            compare = {">=": pyarrow.compute.greater_equal, "<=": pyarrow.compute.less_equal}
            column = table[where.column]
            value = pyarrow.scalar(where.value, column.type)
            table = table.filter(compare[where.operator](column, value))
        rows += table.num_rows
        charge += pyarrow.compute.sum(table["charge_usd"]).as_py() or 0
        seconds += pyarrow.compute.sum(table["duration_seconds"]).as_py() or 0
    return rows, charge, seconds


def bounds(paths, column):
    """The smallest and the largest value of a column."""
    found = []
    for path in paths:
        values = pyarrow.parquet.ParquetFile(path).read([column])[column]
        found += pyarrow.compute.min_max(values).as_py().values()
    return min(found), max(found)


def files_in_ledger(lake):
    entries = [json.loads(path.read_text()) for path in lake.glob("_cdrlake/ledger/*/*.json")]
    commits = [entry["committed"] for entry in entries if entry["committed"]]
    return {commit["file"]["path"] for commit in commits if commit["file"]}


def files_in_log(lake, version=None):
    table = deltalake.DeltaTable(str(lake), version=version)
    paths = pyarrow.table(table.get_add_actions())["path"].to_pylist()
    return table, set(paths)


# Each reader takes a version (None: the newest) and an optional filter. It returns the sums, the
# types that it found, and the types that are expected, as it spells them.


def with_deltalake(lake, version, where):
    table = deltalake.DeltaTable(str(lake), version=version)
    found = pyarrow.schema(table.schema().to_arrow())
    # Plain types; DataFusion has views of strings.
    spelled = [(field.name, str(field.type).replace("string_view", "string")) for field in found]
    where = where.sql() if where else ""
    query = deltalake.QueryBuilder().register("cdrs", table)
    rows = pyarrow.table(
        query.execute(
            "SELECT count(*) AS n, sum(charge_usd) AS usd, sum(duration_seconds) AS s "
            f"FROM cdrs {where}"
        )
    )
    row = rows.to_pylist()[0]
    expected = types(
        "string", "date32[day]", "timestamp[us, tz=UTC]", "int32", "decimal128(18, 9)"
    )
    return summary(row["n"], row["usd"], row["s"]), spelled, expected


def with_polars(lake, version, where):
    frame = polars.scan_delta(str(lake), version=version)
    spelled = list(frame.collect_schema().items())
    if where:
        frame = frame.filter(where.apply(polars.col(where.column), polars.lit))
    sums = frame.select(
        polars.len().alias("n"),
        polars.col("charge_usd").sum(),
        polars.col("duration_seconds").cast(polars.Int64).sum(),
    )
    expected = types(
        polars.String,
        polars.Date,
        polars.Datetime("us", "UTC"),
        polars.Int32,
        polars.Decimal(18, 9),
    )
    return summary(*sums.collect().row(0)), spelled, expected


def with_duckdb(lake, version, where):
    database = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    package = pathlib.Path(duckdb_extension_delta.__file__).parent
    extension = next(package.rglob("*.duckdb_extension*"))
    database.execute(f"LOAD '{extension}'")
    at = ""
    if version is None:
        table = f"delta_scan('{lake}')"
    else:
        database.execute(f"ATTACH '{lake}' AS lake (TYPE delta)")
        table, at = "lake", f" AT (VERSION => {version})"
    described = database.sql(f"DESCRIBE SELECT * FROM {table}{at}").fetchall()
    spelled = [(name, kind) for name, kind, *_ in described]
    where = where.sql() if where else ""
    sums = database.sql(
        f"SELECT count(*), sum(charge_usd), sum(duration_seconds) FROM {table}{at} {where}"
    )
    expected = types(
        "VARCHAR", "DATE", "TIMESTAMP WITH TIME ZONE", "INTEGER", "DECIMAL(18,9)"
    )
    return summary(*sums.fetchone()), spelled, expected


def with_chdb(lake, version, where):
    session = chdb.session.Session()
    if version is not None:
        session.query(f"SET delta_lake_snapshot_version = {version}")
    where = where.sql("toDateTime64('{}', 6, 'UTC')") if where else ""
    table = f"deltaLakeLocal('{lake}')"

    def rows(query):
        return json.loads(str(session.query(query, "JSONCompact")))["data"]

    def plain(kind):
        for wrapper in ["Nullable(", "LowCardinality("]:
            kind = kind.removeprefix(wrapper)
        return kind.rstrip(")") + ")" * kind.rstrip(")").count("(")

    spelled = [(row[0], plain(row[1])) for row in rows(f"DESCRIBE {table}")]
    sums = rows(
        "SELECT toString(count()), toString(sum(charge_usd)), toString(sum(duration_seconds)) "
        f"FROM {table} {where}"
    )[0]
    session.close()
    # The column has no time zone, but its values are UTC.
    expected = types("String", "Date32", "DateTime64(6)", "Int32", "Decimal(18, 9)")
    return summary(int(sums[0]), sums[1], sums[2]), spelled, expected


def with_daft(lake, version, where):
    frame = daft.read_deltalake(str(lake), version=version)
    spelled = [(field.name, str(field.dtype)) for field in frame.schema()]
    if where:
        frame = frame.where(where.apply(daft.col(where.column), daft.lit))
    frame = frame.select("charge_usd", "duration_seconds")
    table = frame.to_arrow()
    sums = [pyarrow.compute.sum(table[name]).as_py() for name in table.column_names]
    expected = types(
        "String",
        "Date",
        "Timestamp[us; UTC]",
        "Int32",
        "Decimal[precision: 18, scale: 9]",
    )
    return summary(table.num_rows, *sums), spelled, expected


READERS = [with_deltalake, with_polars, with_duckdb, with_chdb, with_daft]


def main():
    lake = pathlib.Path(sys.argv[1]).resolve()
    # chdb reads only files below the current directory.
    os.chdir(lake)
    ledger = files_in_ledger(lake)
    newest, logged = files_in_log(lake)
    assert logged == ledger, f"log and ledger differ in {logged ^ ledger}"
    paths = [lake / path for path in ledger]
    cases = [("newest", None, None, of_files(paths))]
    day = max(path.split("/")[1].removeprefix("dt=") for path in ledger)
    of_day = of_files(path for path in paths if path.parent.name == f"dt={day}")
    day = datetime.date.fromisoformat(day)
    cases.append((f"dt >= {day}", None, Filter("dt", ">=", day), of_day))
    # Statistics must not hide the files of the extreme values.
    for column in ["call_time", "charge_usd"]:
        for comparison, value in zip(["<=", ">="], bounds(paths, column)):
            where = Filter(column, comparison, value)
            cases.append((f"{column} {comparison}", None, where, of_files(paths, where)))
    names = [path.name for path in (lake / "_delta_log").iterdir()]
    versions = {int(name[:20]) for name in names if name[:20].isdigit()}
    for version in sorted({min(versions), newest.version() - 1} & versions):
        _, files = files_in_log(lake, version)
        expected = of_files(lake / path for path in files)
        cases.append((f"version {version}", version, None, expected))
    print(f"{lake}: version {newest.version()}, {len(ledger)} files, {len(versions)} versions")
    differences = 0
    for reader in READERS:
        for name, version, where, expected in cases:
            try:
                sums, found, expected_types = reader(lake, version, where)
            except Exception as error:
                sums, found, expected_types = f"{type(error).__name__}: {error}", [], []
            is_same = sums == expected and found == expected_types
            print(f"  {reader.__name__:15} {name:20} {'ok' if is_same else 'DIFFERENT'}", sums)
            if not is_same:
                differences += 1
                print("    expected", expected)
                for pair in zip(found, expected_types):
                    if pair[0] != pair[1]:
                        print("    type", *pair)
                if len(found) != len(expected_types):
                    print("    columns", found)
    assert not differences, f"{differences} answers differ"


if __name__ == "__main__":
    main()
