"""What a driver of Apache Spark and its executors share: the slices, and the configuration."""

import os
import socket
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdrlake._process import Error, OptionValue, binary, variables
from cdrlake.reports import Slice

#: What the program takes where nothing is configured.
_REQUESTS = 4


@dataclass(frozen=True)
class Job:
    """The configuration of a job, as its driver has it. It never holds a key.

    Attributes:
        text: The text of the configuration file.
        path: Where the driver has it; ``None`` if there is none.
        options: Other keys of the configuration.
    """

    text: str
    path: str | None
    options: Mapping[str, OptionValue]

    @classmethod
    def of_driver(cls, config: str | None, options: Mapping[str, OptionValue]) -> "Job":
        """Reads the configuration file. By default ``pipeline.toml``, if it exists.

        Raises:
            Error: It cannot be read.
            ValueError: There is no such key in ``options``.
        """
        variables(options)
        path = Path(config or "pipeline.toml")
        if config is None and not path.exists():
            return cls("", None, options)
        try:
            return cls(path.read_text(), str(path), options)
        except OSError as error:
            raise Error(f"cannot read the configuration {path}: {error.strerror}") from None

    def value(self, key: str) -> Any:
        """The value of a key of the configuration, as it is written; ``None`` without one."""
        (variable,) = variables({key: ""})
        found: Any = self.options.get(key, os.environ.get(variable))
        if found is None:
            found = tomllib.loads(self.text)
            for name in key.split("."):
                found = found.get(name) if isinstance(found, dict) else None
        return found

    def planned_options(self) -> Mapping[str, OptionValue]:
        """The options for a plan: it needs the address of a lake, even if there is none."""
        if self.value("lake.url") is not None:
            return self.options
        return {**self.options, "lake.url": str(Path(tempfile.gettempdir()) / "no-cdrlake-here")}

    def requests(self) -> int:
        """How many slices are fetched at once."""
        return int(self.value("source.requests") or _REQUESTS)

    @contextmanager
    def on_executor(self) -> Iterator[str]:
        """The configuration file, on this machine.

        Raises:
            Error: The program is not there.
        """
        try:
            binary()
        except Error as error:
            raise Error(f"executor {socket.gethostname()}: {error}") from None
        with tempfile.NamedTemporaryFile("w", prefix="cdrlake-", suffix=".toml") as file:
            file.write(self.text)
            file.flush()
            yield file.name


def in_groups(slices: Sequence[Slice], requests: int) -> list[tuple[Slice, ...]]:
    """Shares slices among as many groups as requests may be made at once.

    Tasks fetch the slices of a group one after the other, so that the whole job never makes more
    requests than that. The order alternates: the directions of a day differ in size.

    >>> [len(group) for group in in_groups([Slice(direction="placed")] * 7, 3)]
    [3, 2, 2]
    """
    groups: list[list[Slice]] = [[] for _ in range(min(requests, len(slices)))]
    for number, slice_ in enumerate(slices):
        turn, place = divmod(number, len(groups))
        groups[place if turn % 2 == 0 else -1 - place].append(slice_)
    return [tuple(group) for group in groups]
