"""The baseline file: what it looks like, and what is said of one that is wrong."""

import json
from pathlib import Path

import pytest

from runner.comparison.baseline import MAX_SESSIONS, baseline_text, read_baseline, with_session, write_baseline
from runner.errors import UsageError
from tests.comparison.runs import run_set, runs


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written = run_set(runs("base", 2, 1, inconclusive=1), host="h", versions={"runner": "0.1.0"})
    write_baseline(tmp_path / "base.json", written)
    assert read_baseline(tmp_path / "base.json") == written


def test_the_same_runs_give_the_same_text_a_line_for_each() -> None:
    made = run_set([*runs("base", 2), *runs("base", 1, session="later")])
    shuffled = made.model_copy(update={"runs": made.runs[::-1], "sessions": made.sessions[::-1]})
    text = baseline_text(made)
    assert baseline_text(shuffled) == text
    assert sum('"scenario"' in line for line in text.splitlines()) == 3
    assert json.loads(text)["runs"][0]["latencies_ms"] == [760.0]


def test_a_further_session_joins_and_the_oldest_go() -> None:
    base = run_set(runs("base", 2))
    several, dropped = with_session(base, run_set(runs("base", 1, session="second")))
    assert [session.id for session in several.sessions] == ["base", "second"]
    assert (len(several.runs), dropped) == (3, 0)
    again, _ = with_session(several, run_set(runs("other", 5, session="second")))
    assert len(again.runs) == 7, "a session that is there already is replaced"
    many = run_set([run for n in range(9) for run in runs("base", 1, session=f"s{n}")])
    for batch in range(3):
        more = run_set([run for n in range(9) for run in runs("base", 1, session=f"b{batch}-{n}")])
        many, dropped = with_session(many, more)
    assert len(many.sessions) == MAX_SESSIONS == len(many.runs)
    assert dropped > 0


GOOD = baseline_text(run_set(runs("base", 1)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Invalid JSON"),
        ("{}", "kind: Field required"),
        ("[1, 2]", "Input should be an object"),
        (GOOD.replace('"format": 1', '"format": 2'), "format: Input should be 1"),
        (GOOD.replace('"success": true', '"success": "maybe"'), "runs.0.success"),
        (GOOD.replace("760.0", "-1"), "runs.0.latencies_ms.0"),
        (GOOD.replace("760.0", "NaN"), "runs.0.latencies_ms.0"),
        (GOOD.replace('"session": "base"', '"session": "x"'), "of a session that is not there"),
        (GOOD.replace('"scenario"', '"scenari"'), "runs.0.scenario"),
        (GOOD.replace('\n],\n"runs"', ',{"id": "base", "started_at": "x"}\n],\n"runs"'), "an id occurs twice"),
    ],
    ids=[
        "empty",
        "no kind",
        "a list",
        "other format",
        "verdict",
        "negative",
        "not a number",
        "stray run",
        "unknown key",
        "twice",
    ],
)
def test_what_is_no_baseline_is_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "base.json"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        read_baseline(path)
    assert str(refused.value).startswith(f"{path}: not a baseline") and said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_baseline_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"No such file.*--save-baseline"):
        read_baseline(tmp_path / "base.json")
