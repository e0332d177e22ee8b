"""What a driver of Apache Spark and its executors share: the slices, and the configuration."""

import dataclasses
import os
import shlex
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
#: The file by which a directory is known to be a lake.
_IDENTITY = "_cdrlake/lake.json"


@dataclass(frozen=True)
class Job:
    """The configuration of a job, as its driver has it. It never holds a key.

    Attributes:
        text: The text of the configuration file.
        path: Where the driver has it; ``None`` if there is none.
        options: Other keys of the configuration, and ``lake.url`` as every machine must have it.
        lake: The lake's directory, if it exists: every executor must see it.
        missing_lake: The directory that ``lake.url`` names, if no lake is there.
    """

    text: str
    path: str | None
    options: Mapping[str, OptionValue]
    lake: Path | None = None
    missing_lake: Path | None = None

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
            return cls("", None, options)._with_lake()
        try:
            return cls(path.read_text(), str(path), options)._with_lake()
        except OSError as error:
            raise Error(f"cannot read the configuration {path}: {error.strerror}") from None

    def _with_lake(self) -> "Job":
        """The same with the lake's address as this machine resolves it."""
        url = self.value("lake.url")
        if url is None:
            return self
        url = str(url)
        # Else it is the address of a bucket, or one that the program refuses in its own words.
        is_path = bool(url) and ":" not in url and "//" not in url and url[0] not in "~$"
        if is_path:
            url = str(Path(url).absolute())
        directory = Path(url.removeprefix("file://"))
        exists = (directory / _IDENTITY).exists()
        is_missing = not exists and (is_path or url.startswith("file://"))
        return dataclasses.replace(
            self,
            options={**self.options, "lake.url": url},
            lake=directory if exists else None,
            missing_lake=directory if is_missing else None,
        )

    def value(self, key: str) -> Any:
        """The value of a key of the configuration, as it is written; ``None`` without one."""
        (variable,) = variables({key: ""})
        found: Any = self.options.get(key, os.environ.get(variable))
        if found is None:
            found = tomllib.loads(self.text)
            for name in key.split("."):
                found = found.get(name) if isinstance(found, dict) else None
        return found

    def optional_lake(self) -> Mapping[str, OptionValue]:
        """The options where no lake is needed: the address of none, if there is none."""
        if "lake.url" in self.options:
            return self.options
        return {**self.options, "lake.url": str(Path(tempfile.gettempdir()) / "no-cdrlake-here")}

    def requests(self) -> int:
        """How many slices are fetched at once."""
        return int(self.value("source.requests") or _REQUESTS)

    @contextmanager
    def on_executor(self) -> Iterator[str]:
        """The configuration file, on this machine.

        Raises:
            Error: The program is not there, or the lake.
        """
        try:
            binary()
        except Error as error:
            raise Error(f"executor {socket.gethostname()}: {error}") from None
        # It names the erased numbers.
        if self.lake is not None and not (self.lake / _IDENTITY).exists():
            raise Error(
                f"executor {socket.gethostname()}: there is no lake in {self.lake}, as there is "
                "for the driver. Let lake.url name a bucket, or a directory that all machines share"
            )
        # A file without a name: nothing is left behind, however this process ends.
        file = os.memfd_create("cdrlake")
        try:
            Path(path := f"/proc/{os.getpid()}/fd/{file}").write_text(self.text)
            yield path
        finally:
            os.close(file)

    def as_on_driver(self, text: str, path: str) -> str:
        """A text of an executor whose configuration was at `path`, as a user may act on it.

        >>> job = Job("", "my calls.toml", {})
        >>> job.as_on_driver("Run: cdrlake run --config /proc/7/fd/3", "/proc/7/fd/3")
        "Run: cdrlake run --config 'my calls.toml'"
        """
        flag = "" if self.path is None else f" --config {shlex.quote(self.path)}"
        return text.replace(f" --config {path}", flag).replace(path, self.path or "pipeline.toml")


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
