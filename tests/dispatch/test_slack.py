"""What Slack is told of results."""

from dataclasses import replace

from runner.dispatch.slack import MAX_SHOWN, FiringNews, ResultNews, ShownFailure, result_message, schedule_message


def news(
    *failures: ShownFailure, passed: int = 1, failed: int = 0, inconclusive: int = 0, title: str = "nightly"
) -> ResultNews:
    return ResultNews(
        title=title,
        total=passed + failed + inconclusive,
        passed=passed,
        failed=failed,
        inconclusive=inconclusive,
        failures=failures,
        link="https://runner.example.com/results/7/",
    )


def test_a_result_that_passed_says_so_in_one_line() -> None:
    message = result_message(news(passed=3))
    assert message["text"] == ":white_check_mark: nightly: 3 of 3 runs passed"
    assert [block["type"] for block in message["blocks"]] == ["header", "section", "section"]
    assert message["blocks"][-1]["text"]["text"] == "<https://runner.example.com/results/7/|Open the result>"


def test_the_worst_failures_are_shown_with_their_headlines() -> None:
    failures = [
        ShownFailure("booking", "turn 2: the agent says the price: it never did", 2),
        ShownFailure("hello", "x"),
    ]
    message = result_message(news(*failures, passed=1, failed=3, inconclusive=1))
    assert message["text"] == ":x: nightly: 1 of 5 runs passed, 3 failed, 1 inconclusive"
    assert message["blocks"][2]["text"]["text"].splitlines() == [
        "• *booking* (×2): turn 2: the agent says the price: it never did",
        "• *hello*: x",
    ]


def test_a_result_that_is_only_inconclusive_is_no_failure() -> None:
    assert result_message(news(passed=1, inconclusive=1))["text"].startswith(":warning:")


def test_runs_that_passed_may_be_worse_than_a_baseline() -> None:
    firing = FiringNews(passed=False, reason="3 of 3 runs passed; compared with result 1: suite REGRESSED 3/3→3/3")
    message = result_message(replace(news(passed=3), firing=firing))
    assert message["text"] == f":x: nightly: {firing.reason}"


def test_a_schedule_that_launched_nothing_says_why() -> None:
    message = schedule_message("nightly", "nothing was launched: <x>", "https://runner.example.com/h")
    assert message["text"] == ":x: nightly: nothing was launched: &lt;x&gt;"
    assert message["blocks"][-1]["text"]["text"] == "<https://runner.example.com/h|Open the history>"


def test_words_of_others_are_no_marks_of_slack() -> None:
    message = result_message(news(ShownFailure("<!channel> & co", "a\nb"), failed=1))
    assert message["blocks"][2]["text"]["text"] == "• *&lt;!channel&gt; &amp; co*: a b"


def test_a_message_is_never_longer_than_slack_takes() -> None:
    failures = [ShownFailure("&" * 80, "&" * 5_000) for _ in range(50)]
    message = result_message(news(*failures, failed=50, title="t" * 500))
    assert len(message["blocks"][0]["text"]["text"]) == 150
    shown = message["blocks"][2]["text"]["text"]
    assert len(shown) <= 3_000 and shown.endswith(" more")
    few = result_message(news(*[ShownFailure("s", "h")] * 7, failed=7))["blocks"][2]["text"]["text"]
    assert few.splitlines()[MAX_SHOWN:] == ["and 2 more"]
