"""When a crontab expression is due: five fields, read in a time zone.

Where clocks are put forward, what was due in the hour that is left out is due when that hour would have begun (02:30
at 03:00). Where they are put back, what is due at certain hours is due once, the first time; what is due every hour,
or every few minutes (a field for minutes or hours that begins with ``*``), is due in both hours.
"""

import re
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import takewhile

from croniter import CroniterError, croniter

COUNTED = 100
"""So many times that were missed are counted; if there are more, it is said that there are that many."""

_LETTERS = frozenset(
    "jan feb mar apr may jun jul aug sep oct nov dec sun mon tue wed thu fri sat l".split()  # noqa: SIM905 - shorter
)
"""What of letters an expression may hold: others stand for times that are drawn by lot."""


@lru_cache(maxsize=1)
def zones() -> frozenset[str]:
    """Return the names of all time zones (IANA)."""
    return frozenset(zoneinfo.available_timezones())


def check_crontab(expression: str) -> str:
    """Return an expression of five fields that comes due some day.

    Raises:
        ValueError: It is none.
    """
    if len(expression.split()) != 5:
        raise ValueError("A crontab expression has five fields: minute, hour, day of month, month, day of week.")
    try:
        if not _LETTERS.issuperset(re.findall("[a-z]+", expression.lower())):
            raise ValueError
        croniter(expression, datetime.now(UTC)).get_next(datetime)
    except (CroniterError, ValueError, KeyError, TypeError, OverflowError):
        raise ValueError("Not a crontab expression, or one that never comes due.") from None
    return expression


def due_times(expression: str, zone: str, after: datetime) -> Iterator[datetime]:
    """Yield the times after another one at which an expression is due in a time zone, in UTC, each once."""
    where = zoneinfo.ZoneInfo(zone)
    minutes, hours, *_ = expression.split()
    is_of_certain_hours = not minutes.startswith("*") and not hours.startswith("*")
    last = after
    for local in croniter(expression, after.astimezone(where)).all_next(datetime):
        due = local.astimezone(UTC)
        # A clock on the wall shows it for the second time.
        is_again = is_of_certain_hours and due.astimezone(where).fold == 1
        if due > last and not is_again:
            yield due
            last = due


def next_due(expression: str, zone: str, after: datetime) -> datetime:
    """Return when an expression is due next, in UTC; arguments as for :func:`due_times`."""
    return next(due_times(expression, zone, after))


def latest_due(expression: str, zone: str, first: datetime, now: datetime) -> tuple[datetime, int]:
    """Return the latest time by ``now`` at which an expression was due, and how many there were before it, from
    ``first`` on.
    """
    latest, before = first, 0
    for due in due_times(expression, zone, first):
        if due > now or before == COUNTED:
            break
        latest, before = due, before + 1
    # There may be too many to go through all of them: the latest is looked for from ever further back.
    found, since, back = [latest], now, timedelta(hours=1)
    while before == COUNTED and found == [latest] and since > latest:
        since, back = max(since - back, latest), back * 2
        found += takewhile(lambda due: due <= now, due_times(expression, zone, since))
    return found[-1], before
