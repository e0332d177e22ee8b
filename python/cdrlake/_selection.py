"""Which slices are asked for, checked in the names that the user wrote."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass

#: A day: a date, or its text, such as ``"2026-10-01"``.
Day = datetime.date | str


@dataclass(frozen=True)
class Selection:
    """Days and a direction.

    Attributes:
        from_: The first day.
        to: The last day.
        last: Instead of both, the last days, as a number.
        direction: The direction, by default both.
    """

    from_: datetime.date | None = None
    to: datetime.date | None = None
    last: int | None = None
    direction: str | None = None

    @classmethod
    def of(
        cls,
        *,
        day: Day | None = None,
        from_: Day | None = None,
        to: Day | None = None,
        last: int | str | None = None,
        direction: str | None = None,
        called: Callable[[str], str] = str,
    ) -> "Selection":
        """Checks what is given. `called` makes the name of an argument as the user wrote it.

        >>> Selection.of(day="2026-10-01", direction="placed").flags()
        ['--from=2026-10-01', '--to=2026-10-01', '--direction=placed']

        Raises:
            ValueError: A value is wrong, or two exclude each other.
        """
        days = {"day": day, "last": last, "from_": from_, "to": to}
        given = [name for name, value in days.items() if value is not None]
        if len(given) > 1 and given[0] in ("day", "last"):
            raise ValueError(
                f"{called(given[0])} and {called(given[1])} exclude each other: leave one out"
            )
        if direction not in (None, "placed", "received"):
            raise ValueError(f"{called('direction')} is {direction!r}: write placed or received")
        if last is not None and not (str(last).isdecimal() and int(last) > 0):
            raise ValueError(f"{called('last')} is {last!r}: write a number of days, such as 7")
        if day is not None:
            from_ = to = day_of(called("day"), day)
        first = None if from_ is None else day_of(called("from_"), from_)
        end = None if to is None else day_of(called("to"), to)
        if first is not None and end is not None:
            check_order(called("from_"), first, called("to"), end)
        return cls(first, end, None if last is None else int(last), direction)

    def flags(self) -> list[str]:
        """The flags of a command."""
        values = {
            "--from": self.from_,
            "--to": self.to,
            "--last": self.last,
            "--direction": self.direction,
        }
        return [f"{flag}={value}" for flag, value in values.items() if value is not None]


def day_of(name: str, value: Day) -> datetime.date:
    """A day. Raises ``ValueError`` if it is none, in the only spelling that the program takes."""
    try:
        day = datetime.date.fromisoformat(str(value))
    except ValueError:
        day = None
    if day is None or str(day) != str(value):
        raise ValueError(
            f"{name} is {str(value)!r}, which is not a day: write YYYY-MM-DD, for example "
            "2026-10-01"
        )
    return day


def check_order(first_name: str, first: datetime.date, last_name: str, last: datetime.date) -> None:
    """Raises ``ValueError`` if the first day is after the last one."""
    if first > last:
        raise ValueError(f"{first_name} is {first}, after {last_name}, which is {last}")
