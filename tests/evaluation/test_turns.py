"""What each turn took, on made-up facts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots.caller.script import Listen, PressKeys, StaySilent
from bots.timeline import (
    AgentJoined,
    CallerPressedKeys,
    LineEnd,
    TimelineEvent,
)
from runner.evaluation.turns import first_response_ms, measure_turns
from runner.evaluation.view import CallView
from tests.evaluation.facts import SPEAK, asks, line, s, script, speech
from tests.evaluation.facts import taken_up as turn
from tests.examples import named

ONE = script(asks())
TWO = script(asks(), asks())

LATENCIES = named(
    ("answered", [*line(1, 2), *speech(2.75, 4)], 750.0, 2.75, False),
    ("no answer", [*line(1, 2)], None, None, False),
    ("after a greeting", [*speech(0.2, 0.9), *line(1, 2), *speech(2.5)], 500.0, 2.5, False),
    ("the agent gave way", [*speech(0.2, 1.5), *line(1, 2), *speech(2.5)], 500.0, 2.5, False),
    ("talked over", [*line(1, 2), *speech(1.5, 3)], None, None, True),
    ("talked over, then again", [*line(1, 2), *speech(1.5, 3), *speech(4, 5)], None, 4.0, True),
    ("stopped with the caller", [*line(1, 2), *speech(1.5, 2), *speech(3)], 1000.0, 3.0, False),
    ("began with the caller's end", [*line(1, 2), *speech(2)], None, None, True),
    ("at once", [*line(1, 2), *speech(2.0001234)], 0.1, 2.0, False),
    ("never ended", [*line(1, None), *speech(3)], None, None, False),
    ("broken off", [*line(1, 2, end=LineEnd.CUT), *speech(2.3)], 300.0, 2.3, False),
    ("never begun", [*speech(0.5, 3)], None, None, False),
)


@pytest.mark.parametrize(("facts", "latency_ms", "onset_s", "talked_over"), LATENCIES)
def test_latency_is_the_agent_s_onset_after_the_caller_s_end(
    facts: list[TimelineEvent], latency_ms: float | None, onset_s: float | None, talked_over: bool
) -> None:
    (measures,) = measure_turns(ONE, CallView([turn(0.9), *facts]))
    assert measures.response_latency_ms == latency_ms
    assert measures.agent_onset_s == onset_s
    assert measures.talked_over is talked_over
    assert measures.started_s == 0.9


def test_a_reply_after_the_next_line_began_is_none_to_this_one() -> None:
    facts = [turn(1), *line(1, 2), turn(3, 1), *line(3, 4, 1), *speech(5)]
    first, second = measure_turns(TWO, CallView(facts))
    assert (first.response_latency_ms, first.agent_onset_s) == (None, None)
    assert (second.response_latency_ms, second.caller_speech_end_s) == (1000.0, 4.0)


def test_every_turn_is_measured_by_itself() -> None:
    facts = [turn(1), *line(1, 2), *speech(2.4, 3), turn(4, 1), *line(4, 5, 1), *speech(5.6)]
    assert [measures.response_latency_ms for measures in measure_turns(TWO, CallView(facts))] == [400.0, 600.0]


@pytest.mark.parametrize(
    ("action", "facts", "said"),
    [
        (SPEAK, line(1, 2, text="line 0"), "line 0"),
        (PressKeys(keys="1#"), [CallerPressedKeys(at_ns=s(1), turn=0, keys="1#")], "[keys] 1#"),
        (StaySilent(duration_ms=9), [], None),
        (Listen(), [], None),
    ],
)
def test_a_turn_tells_what_the_caller_said(action: Any, facts: list[TimelineEvent], said: str | None) -> None:
    (measures,) = measure_turns(script(asks(action=action)), CallView([turn(0.5), *facts]))
    assert measures.said == said


def test_turns_that_were_not_reached_are_not_measured() -> None:
    assert [measures.turn for measures in measure_turns(TWO, CallView([turn(1), *line(1, 2)]))] == [0]
    assert measure_turns(TWO, CallView([])) == []


@given(st.permutations([turn(1), *line(1, 2), *speech(2.4, 3), turn(4, 1), *line(4, 5, 1), *speech(5.6)]))
def test_the_order_in_which_facts_became_known_does_not_matter(facts: list[TimelineEvent]) -> None:
    assert [measures.response_latency_ms for measures in measure_turns(TWO, CallView(facts))] == [400.0, 600.0]


@pytest.mark.parametrize(
    ("facts", "ms"),
    [
        ([AgentJoined(at_ns=s(1)), *speech(2.25)], 1250.0),
        ([AgentJoined(at_ns=s(1)), *speech(3), *speech(2)], 1000.0),
        ([AgentJoined(at_ns=s(1))], None),
        (speech(2), None),
        ([], None),
    ],
)
def test_the_first_response_counts_from_the_agent_s_joining(facts: list[TimelineEvent], ms: float | None) -> None:
    assert first_response_ms(CallView(facts)) == ms
