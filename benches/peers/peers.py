"""Compares cdrlake with alternatives on the same calls.

    cargo build --release
    python3 -m venv target/peers && target/peers/bin/pip install -r benches/peers/requirements.txt
    target/peers/bin/python benches/peers/peers.py [--calls-per-day 250000] [--days 10] [--rounds 3]
        [--forms run files unknown csv]

The task: calls to zstd Parquet, one file for each day and direction, with exact decimals, times in
UTC, text for everything else. The forms of the calls:

- run: NDJSON. cdrlake fetches the calls over HTTP from a simulated API with prerendered bytes.
- files: the same NDJSON. cdrlake loads the very files that the others read (`cdrlake load`).
- unknown: like files, but each record has a field without a column, `recording_url`. cdrlake keeps
  it, and the others leave it out.
- csv: like files, as CSV with a header.

cdrlake also compares counts (run), finds duplicates, and keeps rejects and a ledger. The others do
nothing else. Each runs in a separate process with two threads. Rounds alternate; medians are
printed. Every output is read again: all must hold the same rows, seconds, charges and distinct ids.
"""

import argparse
import csv
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import date, timedelta
from pathlib import Path

THREADS = 2
KEY = "peers"
TEXTS = [
    "call_id",
    "uuid",
    "parent_call_id",
    "parent_uuid",
    "from",
    "to",
    "disposition",
    "destination",
    "sip_trunk",
    "answered_by",
]
AMOUNTS = ["per_minute", "charge", "forward_fee"]
CSV_COLUMNS = ["date", *TEXTS[:6], "duration", *AMOUNTS, *TEXTS[6:]]
# The files have no counts to compare with.
OFFLINE = ["--reconcile", "off"]
FORMS = ["run", "files", "unknown", "csv"]
# dlt is so much slower that it only gets a part of the calls.
DLT_CALLS = 100_000


def slices(data):
    for path in sorted(data.glob("*-*.*")):
        direction, day = path.stem.split("-", 1)
        yield path, direction, day


def target(out, direction, day):
    folder = out / f"dt={day}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{direction}-{day}.parquet"


def run_polars(data, out):
    import polars as pl

    schema = {"date": pl.String, "duration": pl.Int32} | {
        name: pl.String for name in TEXTS + AMOUNTS
    }
    for path, direction, day in slices(data):
        amounts = [pl.col(name).cast(pl.Decimal(18, 9)).alias(f"{name}_usd") for name in AMOUNTS]
        if path.suffix == ".csv":
            # Columns are found by their place: all files have them in this order.
            calls = pl.scan_csv(path, schema={name: schema[name] for name in CSV_COLUMNS})
        else:
            calls = pl.scan_ndjson(path, schema=schema)
        calls = calls.select(
            pl.coalesce("call_id", "uuid").alias("call_id"),
            pl.coalesce("parent_call_id", "parent_uuid").alias("parent_call_id"),
            pl.lit(direction).alias("direction"),
            pl.lit(date.fromisoformat(day)).alias("source_day"),
            pl.col("date")
            .str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", time_zone="UTC")
            .alias("call_time"),
            pl.col("from").alias("from_number"),
            pl.col("to").alias("to_number"),
            "disposition",
            "destination",
            "sip_trunk",
            "answered_by",
            pl.col("duration").alias("duration_seconds"),
            *amounts,
        )
        calls.sink_parquet(target(out, direction, day), compression="zstd", compression_level=1)


def run_duckdb(data, out):
    import duckdb

    database = duckdb.connect(config={"threads": THREADS, "preserve_insertion_order": False})
    database.execute("SET TimeZone = 'UTC'")
    columns = {"date": "VARCHAR", "duration": "INTEGER"} | {
        name: "VARCHAR" for name in TEXTS + AMOUNTS
    }
    columns = "{" + ", ".join(f"'{name}': '{type_}'" for name, type_ in columns.items()) + "}"
    amounts = ", ".join(f"CAST({name} AS DECIMAL(18, 9)) AS {name}_usd" for name in AMOUNTS)
    for path, direction, day in slices(data):
        if path.suffix == ".csv":
            source = f"read_csv('{path}', header = true, delim = ',', types = {columns})"
        else:
            source = f"read_json('{path}', format = 'newline_delimited', columns = {columns})"
        database.execute(
            f"""COPY (SELECT coalesce(call_id, uuid) AS call_id,
                coalesce(parent_call_id, parent_uuid) AS parent_call_id,
                '{direction}' AS direction, DATE '{day}' AS source_day,
                CAST("date" AS TIMESTAMPTZ) AS call_time,
                "from" AS from_number, "to" AS to_number,
                disposition, destination, sip_trunk, answered_by,
                duration AS duration_seconds, {amounts}
            FROM {source})
            TO '{target(out, direction, day)}'
            (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"""
        )


def run_chdb(data, out):
    from chdb import session

    clickhouse = session.Session()
    schema = ", ".join(
        ["date String", "duration Nullable(Int32)"]
        + [f"`{name}` Nullable(String)" for name in TEXTS + AMOUNTS]
    )
    amounts = ", ".join(f"toDecimal64({name}, 9) AS {name}_usd" for name in AMOUNTS)
    for path, direction, day in slices(data):
        form = "CSVWithNames" if path.suffix == ".csv" else "JSONEachRow"
        clickhouse.query(
            f"""SELECT coalesce(call_id, uuid) AS call_id,
                coalesce(parent_call_id, parent_uuid) AS parent_call_id,
                '{direction}' AS direction, toDate('{day}') AS source_day,
                parseDateTime64BestEffort(date, 6, 'UTC') AS call_time,
                `from` AS from_number, `to` AS to_number,
                disposition, destination, sip_trunk, answered_by,
                duration AS duration_seconds, {amounts}
            FROM file('{path}', {form}, '{schema}')
            INTO OUTFILE '{target(out, direction, day)}' TRUNCATE FORMAT Parquet
            SETTINGS input_format_skip_unknown_fields = 1, max_threads = {THREADS},
                output_format_parquet_compression_method = 'zstd',
                output_format_parquet_string_as_string = 1"""
        )


def run_pyarrow(data, out):
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet as pq

    pa.set_cpu_count(THREADS)
    fields = [("date", pa.timestamp("us", "UTC")), ("duration", pa.int32())]
    fields += [(name, pa.string()) for name in TEXTS] + [
        (name, pa.decimal128(18, 9)) for name in AMOUNTS
    ]
    options = pa.json.ParseOptions(
        explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore"
    )
    for path, direction, day in slices(data):
        if path.suffix == ".csv":
            types = pa.csv.ConvertOptions(column_types=dict(fields), strings_can_be_null=True)
            calls = pa.csv.read_csv(path, convert_options=types)
        else:
            calls = pa.json.read_json(path, parse_options=options)
        columns = {
            "call_id": pc.coalesce(calls["call_id"], calls["uuid"]),
            "parent_call_id": pc.coalesce(calls["parent_call_id"], calls["parent_uuid"]),
            "direction": pa.repeat(direction, len(calls)),
            "source_day": pa.repeat(date.fromisoformat(day), len(calls)),
            "call_time": calls["date"],
            "from_number": calls["from"],
            "to_number": calls["to"],
        }
        columns |= {
            name: calls[name] for name in ("disposition", "destination", "sip_trunk", "answered_by")
        }
        columns |= {"duration_seconds": calls["duration"]} | {
            f"{name}_usd": calls[name] for name in AMOUNTS
        }
        pq.write_table(
            pa.table(columns), target(out, direction, day), compression="zstd", compression_level=1
        )


def run_dlt(data, out):
    import dlt
    from decimal import Decimal

    def calls(path, direction, day):
        with open(path) as lines:
            for line in itertools.islice(lines, DLT_CALLS):
                call = json.loads(line)
                call = {
                    "call_id": call.get("call_id") or call.get("uuid"),
                    "parent_call_id": call.get("parent_call_id") or call.get("parent_uuid"),
                    "direction": direction,
                    "source_day": day,
                    "call_time": call["date"],
                    "from_number": call.get("from"),
                    "to_number": call.get("to"),
                    "duration_seconds": call.get("duration"),
                } | {
                    name: call.get(name)
                    for name in ("disposition", "destination", "sip_trunk", "answered_by")
                }
                for name in AMOUNTS:
                    value = json.loads(line).get(name)
                    call[f"{name}_usd"] = None if value is None else Decimal(value)
                yield call

    amounts = {
        f"{name}_usd": {"data_type": "decimal", "precision": 18, "scale": 9} for name in AMOUNTS
    }
    pipeline = dlt.pipeline(
        "peers",
        destination=dlt.destinations.filesystem(str(out)),
        dataset_name="calls",
        pipelines_dir=str(out) + "-state",
    )
    for path, direction, day in list(slices(data))[:1]:
        resource = dlt.resource(
            calls(path, direction, day),
            name="cdrs",
            columns={"call_time": {"data_type": "timestamp"}} | amounts,
        )
        pipeline.run(resource, loader_file_format="parquet", write_disposition="append")


def run_cdrlake(data, out):
    if os.environ["PEERS_FORM"] != "run":
        return load(data, out)
    days = sorted(day for _, _, day in slices(data))
    program = Path(os.environ["CDRLAKE"])
    arguments = [
        "run",
        "--from",
        days[0],
        "--to",
        days[-1],
        "--source-url",
        os.environ["PEERS_URL"],
    ]
    arguments += ["--lake", str(out), "--api-key-env", "PEERS_KEY", "--format", "json"]
    os.environ["CDRLAKE_LOG"] = "warn"
    os.execv(program, [program, *arguments])


def load(data, out):
    environment = os.environ | {"CDRLAKE_LOG": "warn"}
    for direction in ("placed", "received"):
        files = [path for path, its_direction, _ in slices(data) if its_direction == direction]
        command = [os.environ["CDRLAKE"], "load", "--direction", direction, "--lake", out, *OFFLINE]
        subprocess.run(
            [*command, "--format", "json", *files],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )


PEERS = {
    "cdrlake": run_cdrlake,
    "Polars": run_polars,
    "DuckDB": run_duckdb,
    "ClickHouse (chdb)": run_chdb,
    "pyarrow": run_pyarrow,
    "dlt": run_dlt,
}


def measure(name, data, out):
    """Runs one peer as a process: its wall and processor seconds, and its peak memory in MB."""
    environment = os.environ | {
        "POLARS_MAX_THREADS": str(THREADS),
        "PEERS_KEY": KEY,
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }
    begun = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, __file__, "--peer", name, str(data), str(out)],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - begun
    if status != 0:
        sys.exit(f"{name} failed")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def check(out, name):
    """The content and size of an output. In a separate process, because the memory of this process
    would count for every child."""
    command = [sys.executable, __file__, "--check", name, str(out)]
    held, size = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return tuple(held), size


def check_here(name, out):
    import duckdb

    folder = out / "cdrs" if name == "cdrlake" else out
    files = [path for path in folder.rglob("*.parquet") if "_dlt" not in str(path)]
    names = ", ".join(f"'{path}'" for path in files)
    held = duckdb.sql(
        f"""SELECT count(*), sum(duration_seconds), sum(charge_usd), count(DISTINCT call_id),
            min(call_time), max(call_time)
        FROM read_parquet([{names}], hive_partitioning = false)"""
    ).fetchall()[0]
    rows, seconds, charge, ids, first, last = held
    held = (rows, int(seconds), str(charge), ids, str(first)[:26], str(last)[:26])
    print(json.dumps([held, sum(path.stat().st_size for path in files)]))


def fetch(url, data, days):
    for day in days:
        for direction in ("placed", "received"):
            query = f"from={day}&to={day}&type={direction}&disposition=all"
            request = urllib.request.Request(
                f"{url}/v1/cdrs/all?{query}", headers={"Authorization": f"Bearer {KEY}"}
            )
            with (
                urllib.request.urlopen(request) as response,
                open(data / f"{direction}-{day}.ndjson", "wb") as file,
            ):
                shutil.copyfileobj(response, file, 1 << 20)


def write_form(form, data, folder):
    """The files of a form, made of the simulator's NDJSON."""
    folder.mkdir()
    for path, _, _ in list(slices(data)):
        with open(path) as calls:
            if form == "csv":
                with open(folder / f"{path.stem}.csv", "w", newline="") as file:
                    writer = csv.DictWriter(file, CSV_COLUMNS, extrasaction="raise")
                    writer.writeheader()
                    writer.writerows(json.loads(call) for call in calls)
            else:
                with open(folder / path.name, "w") as file:
                    for number, call in enumerate(calls):
                        call = call.rstrip().removesuffix("}")
                        hashed = number * 0x9E3779B97F4A7C15 % 2**64
                        url = f"https://api.wavix.com/v1/recordings/{hashed:016x}.mp3"
                        file.write(f'{call},"recording_url":"{url}"}}\n')
    return folder


def main():
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "--calls-per-day", type=int, default=500_000, help="both directions together"
    )
    arguments.add_argument("--days", type=int, default=10)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--program", type=Path, default=Path("target/release/cdrlake"))
    arguments.add_argument("--only", nargs="*", choices=PEERS, default=list(PEERS))
    arguments.add_argument("--forms", nargs="*", choices=FORMS, default=["run"])
    arguments = arguments.parse_args()
    first = date(2026, 9, 1)
    days = [(first + timedelta(days=day)).isoformat() for day in range(arguments.days)]
    program = arguments.program.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        data = scratch / "data"
        data.mkdir()
        command = [
            program,
            "simulate",
            "--port",
            "0",
            "--key",
            KEY,
            "--calls-per-day",
            str(arguments.calls_per_day),
        ]
        simulator = subprocess.Popen(
            [*command, "--prerender", f"{days[0]}..{days[-1]}"], stdout=subprocess.PIPE, text=True
        )
        try:
            url = simulator.stdout.readline().strip()
            fetch(url, data, days)
            os.environ["PEERS_URL"], os.environ["CDRLAKE"] = url, str(program)
            for form in arguments.forms:
                os.environ["PEERS_FORM"] = form
                files = data
                if form in ("unknown", "csv"):
                    files = write_form(form, data, scratch / form)
                print(f"## {form}\n", flush=True)
                compare(arguments, files, scratch, form)
                if files != data:
                    shutil.rmtree(files)
        finally:
            simulator.kill()


def compare(arguments, data, scratch, form):
    # dlt reads NDJSON only.
    peers = [name for name in arguments.only if form == "run" or name != "dlt"]
    found = {name: [] for name in peers}
    sizes, expected = {}, None
    for number in range(arguments.rounds):
        for name in peers:
            out = scratch / "out"
            found[name].append(measure(name, data, out))
            held, size = check(out, name)
            if expected is None:
                expected = held
            elif held != expected and name != "dlt":
                sys.exit(f"{name} holds {held}, not {expected}")
            sizes[name] = (size, held[0])
            shutil.rmtree(out)
            shutil.rmtree(str(out) + "-state", ignore_errors=True)
            print(f"round {number + 1}: {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    with open("/proc/cpuinfo") as processors:
        model = next(
            line.split(":")[1].strip() for line in processors if line.startswith("model name")
        )
    rows = expected[0] if expected else sizes[peers[0]][1]
    size = sum(path.stat().st_size for path in data.glob("*-*.*"))
    files = len(list(data.glob("*-*.*")))
    print(
        f"{rows:,} calls of {size / rows:.0f} bytes in {files} files; {os.cpu_count()} processors "
        f"({model}); {platform.system()}; {date.today()}; medians of {arguments.rounds}\n"
    )
    print(
        "| | wall | wall, times cdrlake's | processor per call | times cdrlake's | peak memory "
        "| bytes per call |"
    )
    print("|---|---|---|---|---|---|---|")
    median = {
        name: [statistics.median(figures) for figures in zip(*rounds)]
        for name, rounds in found.items()
    }
    # dlt has only a part of the calls.
    per_call = {
        name: [median[name][0] / sizes[name][1], median[name][1] / sizes[name][1]]
        for name in median
    }
    ours = per_call.get("cdrlake", next(iter(per_call.values())))
    for name, (wall, processor) in per_call.items():
        print(
            f"| {name} | {wall * rows:.2f} s | {wall / ours[0]:.1f} | {processor * 1e6:.2f} µs "
            f"| {processor / ours[1]:.1f} | {median[name][2]:.0f} MB "
            f"| {sizes[name][0] / sizes[name][1]:.1f} |"
        )
    print()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        name, data, out = sys.argv[2:]
        PEERS[name](Path(data), Path(out))
    elif sys.argv[1:2] == ["--check"]:
        check_here(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
