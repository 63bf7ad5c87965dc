"""When a crontab expression is due: five fields, read in a time zone, as Debian's cron reads them.

Where clocks are put forward, what was due in the hour that is left out is due when it would have begun (02:30 at
03:00). Where they are put back, what is due at certain hours is due once, the first time; what is due every hour, or
every few minutes (a field for minutes or hours that begins with ``*``), is due in both hours.
"""

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache

from cronsim import CronSim, CronSimError

COUNTED = 1_000
"""So many times that were missed are counted; if there are more, it is said that there are that many."""


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
        next(CronSim(expression, datetime.now(UTC)))
    except (CronSimError, StopIteration, AssertionError, TypeError, ValueError):
        # Besides its own error it has others for what is nested in a way that it does not expect.
        raise ValueError("Not a crontab expression, or one that never comes due.") from None
    return expression


def due_times(expression: str, zone: str, after: datetime) -> Iterator[datetime]:
    """Yield the times after another one at which an expression is due, in UTC, each once.

    Args:
        expression: As :func:`check_crontab` returns it.
        zone: The IANA name of the time zone that it is read in.
        after: A time with its zone.
    """
    last = after
    # It goes by what clocks on the wall show: begun where these show a time for the second time, it yields the first.
    for local in CronSim(expression, after.astimezone(zoneinfo.ZoneInfo(zone))):
        due = local.astimezone(UTC)
        if due > last:
            yield due
            last = due


def next_due(expression: str, zone: str, after: datetime) -> datetime:
    """Return when an expression is due next, in UTC; arguments as for :func:`due_times`."""
    return next(due_times(expression, zone, after))


def latest_due(expression: str, zone: str, first: datetime, now: datetime) -> tuple[datetime, int]:
    """Return the latest time by now at which an expression was due, and how many there were before it.

    Args:
        expression: As :func:`check_crontab` returns it.
        zone: The IANA name of the time zone that it is read in.
        first: The first of these times.
        now: The time; not before ``first``.
    """
    latest, before = first, 0
    for due in due_times(expression, zone, first):
        if due > now or before == COUNTED:
            break
        latest, before = due, before + 1
    return latest, before
