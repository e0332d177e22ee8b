"""Decodes the logs of a lake without the libraries of its readers, and compares the statistics in
them with the files."""

import contextlib
import datetime
import json
import pathlib
from decimal import Decimal

import fastavro
import pyarrow.compute
import pyarrow.parquet

from edge_calls import AMOUNTS, COLUMNS, UTC

BOUNDED = ["direction", "disposition", "source_day", "call_time", "duration_seconds", *AMOUNTS]


def files(lake):
    logs = [lake / "_delta_log", lake / "_iceberg"]
    return sorted(path for log in logs for path in log.rglob("*") if path.is_file())


def metadata_file(table):
    """The newest metadata file of an Iceberg table, which the hint names."""
    folder = table / "metadata"
    versions = [int(path.name.split(".")[0][1:]) for path in folder.glob("v*.metadata.json")]
    hint = (folder / "version-hint.text").read_text()
    assert hint == str(max(versions)), f"the hint names version {hint}, not {max(versions)}"
    return folder / f"v{hint}.metadata.json"


def iceberg_metadata(lake):
    return json.loads(metadata_file(lake / "_iceberg").read_text())


def versions(lake, log):
    """The versions that a log has, oldest first."""
    if log == "iceberg":
        return [snapshot["snapshot-id"] for snapshot in iceberg_metadata(lake)["snapshots"]]
    names = [path.name for path in (lake / "_delta_log").iterdir()]
    return sorted({int(name[:20]) for name in names if name[:20].isdigit()})


def avro(path):
    with open(path.removeprefix("file://"), "rb") as file:
        return list(fastavro.reader(file))


def iceberg_files(lake):
    """The live files of the newest snapshot: rows, size, nulls and bounds, by path."""
    metadata = iceberg_metadata(lake)
    [newest] = [
        snapshot
        for snapshot in metadata["snapshots"]
        if snapshot["snapshot-id"] == metadata["current-snapshot-id"]
    ]
    manifests = [manifest["manifest_path"] for manifest in avro(newest["manifest-list"])]
    live = [entry for path in manifests for entry in avro(path) if entry["status"] != 2]
    for file in (entry["data_file"] for entry in live):
        nulls, lower, upper = (
            {COLUMNS[item["key"] - 1]: item["value"] for item in file[key]}
            for key in ["null_value_counts", "lower_bounds", "upper_bounds"]
        )
        assert lower.keys() == upper.keys()
        bounds = {
            name: (bound_of(name, lower[name]), bound_of(name, upper[name])) for name in lower
        }
        path = pathlib.Path(file["file_path"].removeprefix("file://"))
        yield path, file["record_count"], file["file_size_in_bytes"], nulls, bounds


def bound_of(name, value):
    """A single value: https://iceberg.apache.org/spec/#binary-single-value-serialization"""
    if name in ["direction", "disposition"]:
        return value.decode()
    if name in AMOUNTS:
        return Decimal(int.from_bytes(value, "big", signed=True)).scaleb(-9)
    number = int.from_bytes(value, "little", signed=True)
    if name == "duration_seconds":
        return number
    if name == "source_day":
        return datetime.date(1970, 1, 1) + datetime.timedelta(days=number)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + datetime.timedelta(microseconds=number)


def delta_files(lake):
    """The live files of the newest version: rows, size, nulls and bounds, by path."""
    live = {}
    names = sorted(path.name for path in (lake / "_delta_log").glob("0*.*"))
    checkpoints = [name for name in names if name.endswith(".checkpoint.parquet")]
    actions = []
    for name in checkpoints[-1:]:
        actions = pyarrow.parquet.read_table(lake / "_delta_log" / name).to_pylist()
    since = checkpoints[-1][:20] if checkpoints else ""
    for name in names:
        if name.endswith(".json") and name[:20] > since:
            lines = (lake / "_delta_log" / name).read_text().splitlines()
            actions += [json.loads(line) for line in lines]
    for action in actions:
        if removed := action.get("remove"):
            live.pop(removed["path"], None)
        elif added := action.get("add"):
            live[added["path"]] = added
    for path, added in live.items():
        stats = json.loads(added["stats"], parse_float=Decimal)
        lower, upper = stats["minValues"], stats["maxValues"]
        assert lower.keys() == upper.keys()
        bounds = {
            name: tuple(typed(name, value) for value in [lower[name], upper[name]])
            for name in lower
        }
        yield lake / path, stats["numRecords"], added["size"], stats["nullCount"], bounds


def typed(name, value):
    if name == "call_time":
        return datetime.datetime.fromisoformat(value)
    return datetime.date.fromisoformat(value) if name == "source_day" else value


def check_statistics(lake, log, expected):
    """Compares what a log has about its files with their rows."""
    paths = set()
    entries = delta_files(lake) if log == "delta" else iceberg_files(lake)
    for path, rows, size, nulls, bounds in entries:
        table = expected[path]
        paths.add(path)
        assert (rows, size) == (table.num_rows, path.stat().st_size), path
        assert bounds.keys() <= nulls.keys() <= set(BOUNDED), path
        for name, count in nulls.items():
            assert count == table[name].null_count, (path, name)
        for name, (lower, upper) in bounds.items():
            found = pyarrow.compute.min_max(table[name]).as_py()
            if log == "delta" and name == "call_time":
                # It has milliseconds.
                millisecond = datetime.timedelta(milliseconds=1)
                assert lower <= found["min"] < lower + millisecond, (path, name)
                assert upper - millisecond < found["max"] <= upper, (path, name)
            else:
                assert (lower, upper) == (found["min"], found["max"]), (path, name)
    assert paths == expected.keys(), f"{log}: {paths ^ expected.keys()}"


def strings_in(value):
    """The strings in decoded JSON, Avro or Parquet. Bytes count as text; JSON in a string, too."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from strings_in(name)
            yield from strings_in(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from strings_in(each)
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
        yield str(int.from_bytes(value, "big", signed=True))
        yield str(int.from_bytes(value, "little", signed=True))
    elif value is not None:
        yield str(value)
        if isinstance(value, str) and value.startswith("{"):
            # Bounds in a footer may be cut off.
            with contextlib.suppress(json.JSONDecodeError):
                yield from strings_in(json.loads(value))


def texts_of(path):
    """The name of a file of a log, and the texts in it."""
    yield path.name
    if path.suffix == ".json":
        text = path.read_text()
        # A commit of Delta Lake is one JSON document per line.
        documents = text.splitlines() if "_delta_log" in path.parts else [text]
        for document in documents:
            yield from strings_in(json.loads(document))
    elif path.suffix == ".parquet":
        yield from strings_in(pyarrow.parquet.read_table(path).to_pylist())
        yield from strings_in(pyarrow.parquet.read_metadata(path).to_dict())
    elif path.suffix == ".avro":
        with path.open("rb") as file:
            reader = fastavro.reader(file)
            yield from strings_in(reader.metadata)
            yield from strings_in(list(reader))
    else:
        yield path.read_text()
