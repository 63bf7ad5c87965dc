"""When crontab expressions are due, held against cronsim over a year, with both changes of clocks."""

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from runner.records.crontab import COUNTED, check_crontab, due_times, latest_due, next_due

YEAR = datetime(2027, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)
LORD_HOWE = "Australia/Lord_Howe"
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", LORD_HOWE)
HOURS = ("30 2 * * *", "15 1-3 * 3,4,10,11 *", "0,30 1,2 * * 0", "45 23 31 * *")
EVERY_HOUR = ("20 */6 * 3,4,10,11 *", "*/30 1-3 * * sun")


def theirs(expression: str, zone: str) -> list[datetime]:
    times = CronSim(expression, YEAR[0].astimezone(ZoneInfo(zone)))
    return [due.astimezone(UTC) for due in takewhile(lambda due: due < YEAR[1], times)]


@cache
def ours(expression: str, zone: str) -> list[datetime]:
    return list(takewhile(lambda due: due < YEAR[1], due_times(expression, zone, YEAR[0])))


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", HOURS)
def test_a_year_of_certain_hours(expression: str, zone: str) -> None:
    assert ours(expression, zone) == theirs(expression, zone)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", EVERY_HOUR)
def test_a_year_of_every_hour(expression: str, zone: str) -> None:
    if zone == LORD_HOWE and expression.startswith("20 */6"):
        # Half an hour of change is too much for cronsim there: it leaves out 06:20 after it.
        shown = {due.astimezone(ZoneInfo(zone)).strftime("%H:%M") for due in ours(expression, zone)}
        assert shown == {"00:20", "06:20", "12:20", "18:20"} and len(ours(expression, zone)) == 4 * 122
        return
    assert ours(expression, zone) == theirs(expression, zone)


CHANGES = [
    ("Europe/Berlin", "2027-03-28"),
    ("Europe/Berlin", "2027-10-31"),
    ("America/New_York", "2027-03-14"),
    ("America/New_York", "2027-11-07"),
    (LORD_HOWE, "2027-04-04"),
    (LORD_HOWE, "2027-10-03"),
]


@pytest.mark.parametrize(("zone", "day"), CHANGES)
@pytest.mark.parametrize("expression", ["30 2 * * *", "15 1-3 * * *", "0 * * * *", "*/20 * * * *"])
def test_asking_for_each_anew_comes_to_the_same(expression: str, zone: str, day: str) -> None:
    begin = at(f"{day}T00:00", zone) - timedelta(hours=5)
    times = list(takewhile(lambda due: due < begin + timedelta(hours=60), due_times(expression, zone, begin)))
    assert all(next_due(expression, zone, due) == later for due, later in pairwise(times))


def at(text: str, zone: str = "Europe/Berlin") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def test_an_hour_that_is_left_out_is_due_when_it_would_begin() -> None:
    assert next_due("30 2 * * *", "Europe/Berlin", at("2027-03-28T00:00")) == at("2027-03-28T03:00")
    assert next_due("30 2 * * *", "Europe/Berlin", at("2027-03-28T03:00")) == at("2027-03-29T02:30")


def test_an_hour_that_comes_twice_is_due_the_first_time() -> None:
    first = at("2027-10-31T02:30")
    assert first == datetime(2027, 10, 31, 0, 30, tzinfo=UTC)
    assert next_due("30 2 * * *", "Europe/Berlin", at("2027-10-31T00:00")) == first
    # Also for a server that is started in the hour when it comes the second time.
    second = first + timedelta(minutes=50)
    assert next_due("30 2 * * *", "Europe/Berlin", second) == at("2027-11-01T02:30")


def test_a_change_of_half_an_hour_is_one_too() -> None:
    due = next_due("15 2 * * *", LORD_HOWE, at("2027-10-03T00:00", LORD_HOWE))
    assert due == at("2027-10-03T02:30", LORD_HOWE)


def test_times_go_up_from_wherever_they_begin() -> None:
    begin = datetime(2027, 10, 31, tzinfo=UTC)
    for minutes in range(0, 240, 7):
        after = begin + timedelta(minutes=minutes, microseconds=3)
        times = [due for due, _ in zip(due_times("*/20 1-3 * * *", "Europe/Berlin", after), range(12), strict=False)]
        assert after < times[0] and times == sorted(set(times))


def test_those_missed_are_counted_and_the_latest_is_found() -> None:
    first = datetime(2027, 1, 1, 10, tzinfo=UTC)
    assert latest_due("0 * * * *", "UTC", first, first) == (first, 0)
    later = first + timedelta(hours=5, minutes=59)
    assert latest_due("0 * * * *", "UTC", first, later) == (first + timedelta(hours=5), 5)
    many = first + timedelta(days=30)
    assert latest_due("* * * * *", "UTC", first, many) == (many, COUNTED)
    # Of every minute of certain days the last was long ago.
    assert latest_due("* * 1 * *", "UTC", first, many) == (datetime(2027, 1, 1, 23, 59, tzinfo=UTC), COUNTED)
    clocks_back = at("2027-10-31T03:30")
    assert latest_due("30 * * * *", "Europe/Berlin", first, clocks_back) == (clocks_back, COUNTED)
    assert latest_due("30 2 * * *", "Europe/Berlin", first, clocks_back) == (at("2027-10-31T02:30"), COUNTED)


@pytest.mark.parametrize(
    "expression", ["1L/2 * * * *", "* * * * 1L/2", "* * L/2 * *", "* * * * MON#1#2", "* * * * 1,L"]
)
def test_what_is_nested_oddly_is_refused_or_read(expression: str) -> None:
    try:
        assert next_due(check_crontab(expression), "UTC", YEAR[0])
    except ValueError as error:
        assert str(error).startswith("Not a crontab expression")
