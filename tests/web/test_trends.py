"""Trends, from what became of runs."""

from datetime import date

from runner.web.trends import Day, trend

FIRST = date(2026, 3, 1)


def test_a_day_is_placed_by_its_date_and_its_rate() -> None:
    days = {date(2026, 3, 1): Day(3, 4, 1, [900.0, 1100.0]), date(2026, 3, 10): Day(5, 5, 0, [1000.0])}
    shown = trend("agent", days, FIRST, 10)
    assert [(point.x, point.y) for point in shown.rates] == [(5.0, 25.0), (95.0, 0.0)]
    low, high = shown.rates[0].low, shown.rates[0].high
    assert low is not None and high is not None and low > 25.0 > high
    assert shown.top_s == 2 and shown.latencies[1].y == 50.0
    assert shown.days == [("1 Mar", "3 of 4", "1.09 s", "1"), ("10 Mar", "5 of 5", "1.00 s", "–")]


def test_a_day_of_inconclusive_runs_has_no_rate_and_no_time() -> None:
    shown = trend("agent", {FIRST: Day(0, 0, 2, [])}, FIRST, 10)
    assert shown.rates == [] and shown.latencies == [] and shown.days == [("1 Mar", "–", "–", "2")]
