"""What Slack is told of results."""

from typing import Any

import pytest

from runner.dispatch.slack import MAX_SHOWN, result_message, schedule_message
from runner.records.tables import Firing, RunRow

PASSED = RunRow(status="completed", success=True)
LINK = "https://runner.example.com/results/7/"


def run(scenario: str, headline: str, success: bool | None = False) -> RunRow:
    outcome = {"failure": {"headline": headline}}
    return RunRow(status="completed", success=success, scenario_name=scenario, outcome=outcome, error_message="")


def failures(*runs: RunRow) -> list[str]:
    return result_message("nightly", runs, LINK)["blocks"][2]["text"]["text"].splitlines()


def test_a_result_that_passed_says_so_in_one_line() -> None:
    message = result_message("nightly", [PASSED] * 3, LINK)
    assert message["text"] == ":white_check_mark: nightly: 3 of 3 runs passed"
    assert [block["type"] for block in message["blocks"]] == ["header", "section", "section"]
    assert message["blocks"][-1]["text"]["text"] == f"<{LINK}|Open the result>"


def test_the_worst_failures_are_shown_with_their_headlines() -> None:
    price = run("booking", "turn 2: the agent says the price: it never did")
    runs = [run("late", "why", None), run("hello", "x"), price, price, PASSED]
    assert (
        result_message("nightly", runs, LINK)["text"] == ":x: nightly: 1 of 5 runs passed, 3 failed, 1 inconclusive"
    )
    assert failures(*runs) == [
        "• *booking* (×2): turn 2: the agent says the price: it never did",
        "• *hello*: x",
        "• *late*: why",
    ]


def test_a_result_that_is_only_inconclusive_is_no_failure() -> None:
    assert result_message("nightly", [PASSED, run("s", "h", None)], LINK)["text"].startswith(":warning:")


@pytest.mark.parametrize(("state", "icon"), [("failed", "x"), ("passed", "white_check_mark"), ("skipped", "warning")])
def test_runs_that_passed_may_be_worse_than_a_baseline(state: str, icon: str) -> None:
    firing = Firing(state=state, reason="3 of 3 runs passed; compared with result 1: suite REGRESSED 3/3→3/3")
    assert result_message("nightly", [PASSED] * 3, LINK, firing)["text"] == f":{icon}: nightly: {firing.reason}"


def test_a_schedule_that_launched_nothing_says_why() -> None:
    message = schedule_message("nightly", "nothing was launched: <x>", "https://runner.example.com/h")
    assert message["text"] == ":x: nightly: nothing was launched: &lt;x&gt;"
    assert message["blocks"][-1]["text"]["text"] == "<https://runner.example.com/h|Open the history>"


def test_words_of_others_are_no_marks_of_slack() -> None:
    assert failures(run("<!channel> & co", "a\nb")) == ["• *&lt;!channel&gt; &amp; co*: a b"]


def test_a_message_is_never_longer_than_slack_takes() -> None:
    long: list[Any] = [run("&" * 80, f"{number}{'&' * 5_000}") for number in range(50)]
    assert len(result_message("t" * 500, long, LINK)["blocks"][0]["text"]["text"]) == 150
    shown = failures(*long)
    assert len("\n".join(shown)) <= 3_000 and shown[-1].endswith(" more")
    assert failures(*(run("s", str(number)) for number in range(7)))[MAX_SHOWN:] == ["and 2 more"]
