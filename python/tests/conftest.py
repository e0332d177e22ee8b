"""What the tests of the package share. They run against an installed wheel.

Or, while you write: a virtual environment with a link to `target/debug/cdrlake` among its scripts,
and `python/` on its path.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import cdrlake


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Works in a directory without a `pipeline.toml`, and without variables of the developer."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("CDRLAKE_") or name == "WAVIX_API_KEY":
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture(scope="session")
def api() -> Iterator[cdrlake.Simulator]:
    """A simulated API with two hundred calls a day."""
    with cdrlake.simulate(calls_per_day=200) as api:
        yield api
