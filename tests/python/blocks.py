"""Runs the shell blocks of README and book with a release binary, and reads the other blocks.

Usage: blocks.py path/to/cdrlake

The `sh` blocks of a page run in order, in one shell, in a directory of their own with a copy of
`pipeline.toml`. A block that cannot run here has the info string `sh,norun`. A `text` block behind
them shows what they print: each of its lines must be printed, in this order, whatever the numbers.
"""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# What .ci/run does itself, with cargo.
OF_CARGO = {"cargo run --release -- demo\n": "cdrlake demo\n", "cargo test\n": "true\n"}
# TOML is read by `cargo test`, SQL by queries.py.
READERS = {"python": ast.parse, "json": json.loads, "yaml": yaml.safe_load}
OTHERS = {"sh", "sh,norun", "text", "toml", "sql", "ini", "nu"}

# A failure ends the page, and a simulator in the background with it.
BEGIN = "set -euo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n"

# The command line of DuckDB, as far as the pages use it.
DUCKDB = f"""#!{sys.executable}
import sys, duckdb
if sys.argv[1] == "-c":
    rows = duckdb.sql(sys.argv[2])
else:
    rows = duckdb.connect(sys.argv[1]).sql(sys.stdin.read())
print(rows)
"""


def blocks(page):
    """Info string and text of each block, without the indentation of a list."""
    fence = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    for indent, info, text in fence.findall(page.read_text()):
        yield info, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def run(page, scripts, binary):
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        programs = directory / "bin"
        programs.mkdir()
        (programs / "cdrlake").symlink_to(binary)
        (programs / "duckdb").write_text(DUCKDB)
        (programs / "duckdb").chmod(0o755)
        (directory / "pipeline.toml").write_bytes((ROOT / "pipeline.toml").read_bytes())
        path = f"{programs}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", BEGIN + "".join(scripts)],
            cwd=directory,
            env={**os.environ, "PATH": path, "CDRLAKE_LOG": "warn"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, f"{page.name}: status {done.returncode}\n{done.stdout}"
    return done.stdout


def shape(line):
    """A printed line without its numbers and the widths of columns and bars."""
    line = re.sub(r"\d[\d,.:-]*\d|\d", "0", line)
    return re.sub(r"█+", "█", re.sub(r"\s+", " ", line)).strip()


def missing_line(shown, printed):
    """The first line of a block that was not printed in its place; `…` stands for anything."""
    printed = iter([shape(line) for line in printed])
    for line in filter(None, map(shape, shown)):
        begin, _, _ = line.partition("…")
        matches = str.startswith if "…" in line else str.__eq__
        if begin and not any(matches(candidate, begin) for candidate in printed):
            return line
    return None


def main(binary):
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
    for page in pages:
        scripts, shown, previous = [], [], None
        for info, text in blocks(page):
            if info in READERS and "…" not in text:
                READERS[info](text)
            assert info in READERS or info in OTHERS, f"{page.name}: a block of {info!r}"
            if info == "sh":
                scripts.append(OF_CARGO.get(text, text))
            if info == "text" and previous == "sh":
                shown += text.splitlines()
            else:
                previous = info
        if scripts:
            printed = run(page, scripts, binary).splitlines()
            missing = missing_line(shown, printed)
            assert not missing, "\n".join(
                [*printed, f"{page.name} shows what is not printed: {missing}"]
            )
            print(f"{page.relative_to(ROOT)}: {len(scripts)} blocks, {len(shown)} lines as printed")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
