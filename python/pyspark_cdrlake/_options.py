"""The options of the data source."""

import datetime
import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import cdrlake
from cdrlake._job import Job
from cdrlake._names import KEYS
from cdrlake._process import check_option
from cdrlake.reports import Plan

#: Options that are not keys of the configuration.
_NAMES = ("config", "day", "direction", "from", "last", "to")


@dataclass(frozen=True)
class Options:
    """What a user has asked for.

    Attributes:
        job: The configuration.
        from_: The first day.
        to: The last day.
        last: Instead of both, the last days.
        direction: The direction, by default both.
    """

    job: Job
    from_: str | None
    to: str | None
    last: int | None
    direction: str | None

    @classmethod
    def of(cls, given: Mapping[str, str]) -> "Options":
        """Reads the options of Spark.

        Raises:
            ValueError: There is no such option, or its value is wrong.
            cdrlake.Error: The configuration file cannot be read.
        """
        keys = {name: value for name, value in given.items() if name not in _NAMES}
        for key in keys:
            _check(key)
        day, last = given.get("day"), given.get("last")
        if last is not None and not last.isdecimal():
            raise ValueError(f"the option last is {last!r}: write a number of days")
        return cls(
            job=Job.of_driver(given.get("config"), keys),
            from_=day or given.get("from"),
            to=day or given.get("to"),
            last=None if last is None else int(last),
            direction=given.get("direction"),
        )

    def plan(self, from_: str | None, to: str | None, last: int | None) -> Plan:
        """The slices of days, as the program cuts them.

        Raises:
            ValueError: Some were pruned from the lake: the program does not fetch them again.
        """
        plan = self._plan(from_, to, last)
        # All others are due, whatever the lake has.
        if plan.up_to_date > 0:
            raise ValueError(
                f"{plan.up_to_date} slices from {plan.first} to {plan.last} were pruned from the "
                "lake, and are not fetched again. Choose days that it keeps, or let lake.url name "
                "no lake"
            )
        return plan

    def last_ended_day(self) -> datetime.date:
        """Yesterday, in the time zone of the account."""
        return self._plan(None, None, 1).last

    def _plan(self, from_: str | None, to: str | None, last: int | None) -> Plan:
        return cdrlake.plan(
            from_=from_,
            to=to,
            last=last,
            direction=self.direction,
            refresh=True,
            config=self.job.path,
            options=self.job.optional_lake(),
        )


def _check(name: str) -> None:
    if "." in name:
        check_option(name)
        return
    similar = difflib.get_close_matches(name, [*_NAMES, *KEYS], n=1)
    if name in ("key", "api_key", "apikey", "token", "password"):
        hint = "Keys are never options: let source.api_key.env or source.api_key.file name a place"
    elif similar:
        hint = f"Did you mean {similar[0]}?"
    else:
        hint = f"The options are {', '.join(_NAMES)}, and the keys of pipeline.toml"
    raise ValueError(f"the data source cdrlake has no option {name}. {hint}")
