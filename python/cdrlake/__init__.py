"""Streams Wavix call detail records into a lake of date-partitioned Parquet.

The program `cdrlake` comes with this package. The functions start it, pass its log lines on to the
logger ``cdrlake`` of `logging`, and return what it reports:

>>> with simulate(calls_per_day=100) as api:
...     report = run(lake="new", last=2, options=api.options, env=api.env)
>>> report.totals.rows == verify(lake="new").rows
True

For Apache Spark there are the data source ``cdrlake`` and `cdrlake.spark`.
"""

import importlib.metadata

from cdrlake import reports
from cdrlake._commands import Simulator, plan, read, run, simulate, status, verify
from cdrlake._process import Error, OptionValue, binary
from cdrlake._selection import Day
from cdrlake.reports import Plan, RunReport, Slice, Status, VerifyReport

__all__ = [
    "Day",
    "Error",
    "OptionValue",
    "Plan",
    "RunReport",
    "Simulator",
    "Slice",
    "Status",
    "VerifyReport",
    "binary",
    "plan",
    "read",
    "reports",
    "run",
    "simulate",
    "status",
    "verify",
]


def __getattr__(name: str) -> str:
    """``__version__``: that of the package, and of the program in it."""
    if name == "__version__":
        return importlib.metadata.version("cdrlake")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
