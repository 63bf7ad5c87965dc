"""Faults of an agent, each named by the first lines of its report; and facts of any kind, none of which breaks it."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.caller.script import AGENT_NEVER_TALKS_OVER, AGENT_SPEAKS, Expectation, Script
from bots.timeline import AgentError, EndedReason, TimelineEvent
from runner.errors import UsageError
from runner.reports.html.render import render_run
from runner.reports.html.run_page import run_page
from tests.evaluation.facts import (
    JOINED,
    READY,
    asks,
    ended,
    heard,
    line,
    measured,
    over,
    recording,
    s,
    script,
    speech,
    taken_up,
    told,
)
from tests.reports.html.calls import STARTED, WRONG_CALL, call_facts, judged

SAID = Expectation(text_contains="which day", within_ms=6_000)


def begun(*facts: TimelineEvent, end_s: float = 30) -> list[TimelineEvent]:
    return [STARTED, JOINED, READY, taken_up(1), *line(1, 3), *facts, ended(end_s)]


WRONG = (WRONG_CALL, call_facts())
SLOW = (
    script(asks(Expectation(event=AGENT_SPEAKS, within_ms=2_000))),
    begun(*speech(7, 8), told(8, "Hello."), over(9)),
)
RAISED = (script(asks(SAID)), begun(AgentError(at_ns=s(4), text="Error processing frame: 'order'")))
OVER = (script(asks(Expectation(event=AGENT_NEVER_TALKS_OVER))), begun(*speech(1.9, 4), told(4, "Yes."), over(5)))
DROPPED = (
    script(asks(SAID)),
    begun(
        measured(4, 5), heard(4, 5, "A table for four."), told(5, "A table for four."), told(6, "For which day?"),
        over(7), recording(),
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("call", "title", "row", "at_s"),
    [
        (WRONG, "was called with people = 5; 4 was expected", ("Called", "people = 5"), 8.2),
        (
            SLOW,
            "answered 4.0\u00a0s after the caller (limit 2\u00a0s)",
            ("Began to speak", "4.00 s after the caller's line"),
            7.0,
        ),
        (RAISED, "reported an error (Error processing frame: 'order')", ("Its error", "'order'"), 4.0),
        (OVER, "talked over the caller", ("Began to speak", "0.90 s into the caller's line"), 1.9),
        (
            DROPPED,
            "reported 'For which day?', but no audio of it arrived",
            ("Told, not heard", "For which day?"),
            6.0,
        ),
    ],
    ids=["wrong answer", "slow", "raises", "talks over", "drops a sentence"],
)
def test_a_planted_bug_is_named_first(
    call: tuple[Script, Sequence[TimelineEvent]], title: str, row: tuple[str, str], at_s: float
) -> None:
    played, facts = call
    case = run_page(judged(played, facts), facts, script=played).case
    assert case.title.startswith("Failed in turn ") and title in case.title
    assert row[1] in next(found.text for found in case.rows if found.label == row[0])
    assert case.at_s == at_s and case.hear_s < at_s < case.until_s


FACTS = [
    *{repr(f): f for _, facts in (WRONG, SLOW, RAISED, OVER, DROPPED) for f in facts[1:]}.values(),
    ended(2, EndedReason.AGENT_LEFT),
    taken_up(5, 2),
]


@settings(max_examples=12)
@given(facts=st.lists(st.sampled_from(FACTS), max_size=30), played=st.sampled_from([WRONG[0], OVER[0]]))
def test_no_facts_break_a_report(facts: list[Any], played: Script) -> None:
    facts = [STARTED, *facts]
    try:
        run = judged(played, facts)
    except (UsageError, KeyError, IndexError):
        # No call: its turns are not those of the script.
        return
    assert "</html>" in render_run(run_page(run, facts, script=played))
