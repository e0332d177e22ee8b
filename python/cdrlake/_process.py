"""Starts the program, and passes its log lines on to `logging`."""

import datetime
import difflib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from cdrlake._names import KEYS

#: A value of a configuration key.
OptionValue = str | int | float | bool | datetime.date | Sequence[str]

_LOG: Final = logging.getLogger("cdrlake")
_LEVELS: Final = {
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "TRACE": logging.DEBUG,
}
#: Keys of the object store, which has names of its own for them.
_OPEN_TABLE: Final = "lake.options."
#: How many lines that are no log lines are kept for the message of an error.
_KEPT_LINES: Final = 20
#: For how many seconds an ended program's log is read on: a process that it started, such as the
#: command of `source.api_key.command`, may keep the pipe open for ever.
_LOG_PATIENCE: Final = 5.0


class Error(Exception):
    """The program failed, or was not found.

    Attributes:
        message: What failed, and what to do. Without keys and phone numbers.
        status: The program's exit status, which ``docs/commands.md`` explains; below 0, the signal
            that ended it; ``None`` if it did not run.
        report: What it reported all the same, of the type that the function returns; else ``None``.
    """

    # As users import it, and as tracebacks show it.
    __module__ = "cdrlake"

    def __init__(self, message: str, status: int | None = None, report: object = None) -> None:
        # All of them: an exception is pickled with its arguments.
        super().__init__(message, status, report)
        self.message = message
        self.status = status
        self.report = report

    def __str__(self) -> str:
        return self.message


def binary() -> str:
    """The path of the program that this module starts.

    It is the one that was installed with the module, else the first one on ``PATH``.

    Raises:
        Error: There is none.
    """
    user_scheme = sysconfig.get_preferred_scheme("user")
    directories = [
        Path(sysconfig.get_path("scripts")),
        Path(sysconfig.get_path("scripts", user_scheme)),
        # Where `pip install --target` puts programs.
        Path(__file__).parent.parent / "bin",
    ]
    for directory in directories:
        program = directory / "cdrlake"
        if os.access(program, os.X_OK):
            return str(program)
    program_on_path = shutil.which("cdrlake")
    if program_on_path is None:
        places = ", ".join(str(directory) for directory in directories)
        raise Error(
            f"the program cdrlake is neither in {places} nor on PATH. Install the wheel of "
            "cdrlake for this platform, or put the program on PATH"
        )
    return program_on_path


def _as_text(value: OptionValue) -> str:
    """A value as a variable holds it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ",".join(value)
    return str(value)


def hint_of_secret(name: str) -> str | None:
    """What to write instead of a name, if its value may be a secret.

    >>> hint_of_secret("privacy.Key")
    'Keys are never options: let privacy.key.env or privacy.key.file say where it is'
    """
    if not re.search("key|token|secret|credential|passw", name, re.IGNORECASE):
        return None
    secrets = [key.removesuffix(".env") for key in KEYS if key.endswith(".env")]
    similar = difflib.get_close_matches(name.lower(), secrets, n=1)
    # A word of another service means the key of the API.
    key = similar[0] if similar else secrets[0]
    return f"Keys are never options: let {key}.env or {key}.file say where it is"


def check_option(key: str) -> None:
    """Raises ``ValueError`` if there is no such key of the configuration."""
    if key in KEYS or key.startswith(_OPEN_TABLE):
        return
    similar = difflib.get_close_matches(key, KEYS, n=1)
    hint = f"Did you mean {similar[0]}?" if similar else "pipeline.toml shows every key"
    hint = hint_of_secret(key) or hint
    raise ValueError(f"there is no key {key} in the configuration. {hint}")


def variables(options: Mapping[str, OptionValue]) -> dict[str, str]:
    """The environment variables that set keys of the configuration."""
    for key in options:
        check_option(key)
    return {
        "CDRLAKE_" + key.replace(".", "_").upper(): _as_text(value)
        for key, value in options.items()
    }


class Process:
    """The program at work.

    It has a process group of its own, so that Ctrl-C reaches it only once, by way of `stop`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        options: Mapping[str, OptionValue],
        env: Mapping[str, str],
    ) -> None:
        # The log lines of one process, for the message of an error.
        self._last_error: str | None = None
        self._other_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._popen = subprocess.Popen(
            [binary(), *arguments, "--log-format", "json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **env, **variables(options)},
            process_group=0,
        )
        self._logger = threading.Thread(target=self._pass_on_log_lines, daemon=True)
        self._logger.start()

    @property
    def stdout(self) -> IO[bytes]:
        """The result."""
        assert self._popen.stdout is not None
        return self._popen.stdout

    def wait(self) -> int:
        """Waits for the end; the exit status. The program's log lines have been passed on then."""
        status = self._popen.wait()
        self._logger.join(_LOG_PATIENCE)
        return status

    def stop(self) -> None:
        """Interrupts the program if it still runs, and waits until it has discarded its work.

        If this is interrupted in turn, the program ends at once. The lake stays consistent in
        either case.
        """
        self.stdout.close()
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
        try:
            self.wait()
        except BaseException:
            self._popen.kill()
            raise

    def failure(self, report: object = None, what_failed: str | None = None) -> Error:
        """The error of an ended program. `what_failed` says more than its last line."""
        status = self.wait()
        reason = what_failed or self._last_error or self._last_words()
        if not reason and status < 0:
            reason = f"cdrlake was ended by {signal.Signals(-status).name}"
        return Error(reason or f"cdrlake ended with status {status}", status, report)

    def _pass_on_log_lines(self) -> None:
        assert self._popen.stderr is not None
        # The first line of an error of usage is no log line. How the program is used follows.
        is_usage = False
        with self._popen.stderr as lines:
            for number, line in enumerate(lines):
                text = line.decode(errors="replace").rstrip("\n")
                try:
                    entry = json.loads(text)
                    level = _LEVELS[entry.pop("level")]
                    message = entry.pop("message")
                except (ValueError, KeyError, TypeError, AttributeError):
                    self._other_lines.append(text.removeprefix("error: "))
                    is_usage = is_usage or (number == 0 and text.startswith("error: "))
                    if text and not is_usage:
                        _LOG.error("%s", text)
                    continue
                if level == logging.ERROR:
                    self._last_error = message
                _pass_on(level, message, entry)
        if is_usage:
            _LOG.error("%s", self._last_words())

    def _last_words(self) -> str:
        # Behind an empty line, the program shows how it is used.
        return "\n".join(self._other_lines.copy()).partition("\n\n")[0]


def _pass_on(level: int, message: str, fields: dict[str, Any]) -> None:
    """Logs a line of the program: its fields stand behind the message, and in `record.cdrlake`."""
    hidden = ("timestamp", "target")
    shown = "".join(f" {name}={value}" for name, value in fields.items() if name not in hidden)
    _LOG.log(level, "%s%s", message, shown, extra={"cdrlake": fields})
