"""The options of the data source."""

import datetime
import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import cdrlake
from cdrlake._job import Job
from cdrlake._names import KEYS
from cdrlake._process import check_option, hint_of_secret
from cdrlake._selection import Selection
from cdrlake.reports import Plan

#: Options that are not keys of the configuration.
_NAMES = ("config", "day", "direction", "from", "last", "to")


@dataclass(frozen=True)
class Options:
    """What a user has asked for.

    Attributes:
        job: The configuration.
        selection: The days and the direction.
    """

    job: Job
    selection: Selection

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
        selection = Selection.of(
            day=given.get("day"),
            from_=given.get("from"),
            to=given.get("to"),
            last=given.get("last"),
            direction=given.get("direction"),
            called=_called,
        )
        return cls(Job.of_driver(given.get("config"), keys), selection)

    def plan(self, selection: Selection) -> Plan:
        """The slices of days, as the program cuts them.

        Raises:
            ValueError: Some were pruned from the lake: the program does not fetch them again.
        """
        plan = self._plan(selection)
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
        return self._plan(Selection(last=1)).last

    def directions(self) -> str:
        """The directions that are fetched, in words."""
        found = self.selection.direction or self.job.value("source.directions")
        found = found or ["placed", "received"]
        words = found if isinstance(found, list) else str(found).split(",")
        return " and ".join(sorted(str(it).strip() for it in words))

    def warn_of_missing_lake(self) -> None:
        """Warns if a lake is named, and none is there: its erased numbers would be left out."""
        if self.job.missing_lake is not None:
            logging.getLogger("cdrlake").warning(
                "There is no lake in %s, so no erased number is left out. Correct lake.url, or "
                "leave it out if there is none",
                self.job.missing_lake,
            )

    def _plan(self, selection: Selection) -> Plan:
        return cdrlake.plan(
            from_=selection.from_,
            to=selection.to,
            last=selection.last,
            direction=self.selection.direction,
            refresh=True,
            config=self.job.path,
            options=self.job.optional_lake(),
        )


def _called(argument: str) -> str:
    """An option in a sentence, by the name of the argument of Python."""
    return f"the option {argument.rstrip('_')}"


def _check(name: str) -> None:
    if "." in name:
        check_option(name)
        return
    similar = difflib.get_close_matches(name, [*_NAMES, *KEYS], n=1)
    if of_secret := hint_of_secret(name):
        hint = of_secret
    elif similar:
        hint = f"Did you mean {similar[0]}?"
    else:
        hint = f"The options are {', '.join(_NAMES)}, and the keys of pipeline.toml"
    raise ValueError(f"the data source cdrlake has no option {name}. {hint}")
