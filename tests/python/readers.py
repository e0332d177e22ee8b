"""Reads a lake with DuckDB, pyarrow and Polars and compares types and sums with its ledger.

Usage: readers.py path/to/lake
"""

import datetime
import json
import pathlib
import sys
from decimal import Decimal

import duckdb
import polars
import pyarrow
import pyarrow.compute
import pyarrow.dataset


def ledger(lake):
    """Rows, seconds, charges and fees by the ledger."""
    commits = [
        json.loads(path.read_text())["committed"] for path in lake.glob("_cdrlake/ledger/*/*.json")
    ]
    totals = [commit["totals"] for commit in commits]
    return (
        sum(commit["counts"]["rows"] for commit in commits),
        sum(total["duration_seconds"] for total in totals),
        sum(Decimal(total["charge_usd"]) for total in totals),
        sum(Decimal(total["forward_fee_usd"]) for total in totals),
    )


SUMS = ["duration_seconds", "charge_usd", "forward_fee_usd"]
TEXTS = (
    "call_id parent_call_id direction from_number to_number disposition destination sip_trunk "
    "answered_by extra"
).split()
AMOUNTS = ["per_minute_usd", "charge_usd", "forward_fee_usd"]


def check_types(engine, types, expected):
    for name, wanted in expected.items():
        assert types[name] == wanted, f"{engine}: {name} is {types[name]}, not {wanted}"


def with_duckdb(lake):
    duckdb.sql("SET TimeZone = 'UTC'")
    table = f"read_parquet('{lake}/cdrs/*/*.parquet')"
    types = {
        name: str(kind)
        for name, kind, *_ in duckdb.sql(f"DESCRIBE SELECT * FROM {table}").fetchall()
    }
    expected = dict.fromkeys(TEXTS, "VARCHAR") | dict.fromkeys(AMOUNTS, "DECIMAL(18,9)")
    expected |= {
        "call_time": "TIMESTAMP WITH TIME ZONE",
        "source_day": "DATE",
        "dt": "DATE",
        "duration_seconds": "INTEGER",
    }
    check_types("DuckDB", types, expected)
    moved = duckdb.sql(
        f"SELECT count(*) FROM {table} WHERE dt <> source_day OR call_time::DATE <> dt"
    ).fetchall()
    assert moved == [(0,)], moved
    return duckdb.sql(
        f"SELECT count(*), {', '.join(f'sum({name})' for name in SUMS)} FROM {table}"
    ).fetchall()[0]


def with_pyarrow(lake):
    table = pyarrow.dataset.dataset(lake / "cdrs", partitioning="hive").to_table()
    types = {field.name: field.type for field in table.schema}
    expected = dict.fromkeys(TEXTS, pyarrow.string()) | dict.fromkeys(
        AMOUNTS, pyarrow.decimal128(18, 9)
    )
    expected |= {
        "call_time": pyarrow.timestamp("us", "UTC"),
        "source_day": pyarrow.date32(),
        "duration_seconds": pyarrow.int32(),
    }
    check_types("pyarrow", types, expected)
    return (table.num_rows, *(pyarrow.compute.sum(table[name]).as_py() for name in SUMS))


def with_polars(lake):
    frame = polars.read_parquet(lake / "cdrs")
    expected = dict.fromkeys(TEXTS, polars.String) | dict.fromkeys(AMOUNTS, polars.Decimal(18, 9))
    expected |= {
        "call_time": polars.Datetime("us", "UTC"),
        "source_day": polars.Date,
        "dt": polars.Date,
        "duration_seconds": polars.Int32,
    }
    check_types("Polars", dict(frame.schema), expected)
    assert frame["call_time"].min().tzinfo is not None and isinstance(
        frame["dt"].min(), datetime.date
    )
    return (frame.height, *(frame[name].sum() for name in SUMS))


def main():
    lake = pathlib.Path(sys.argv[1])
    expected = ledger(lake)
    assert expected[0] > 0, "an empty lake proves nothing"
    for reader in [with_duckdb, with_pyarrow, with_polars]:
        found = reader(lake)
        assert found == expected, f"{reader.__name__}: {found}, the ledger says {expected}"
        print(f"{reader.__name__}: {found[0]} rows, {found[2]} USD")


if __name__ == "__main__":
    main()
