"""What was still open when a call ended: who ended it, and whether the time it had was over. Times are seconds."""

from collections.abc import Sequence
from typing import Any

import pytest

from bots.caller.script import (
    AGENT_HANGS_UP,
    AGENT_SPEAKS,
    AfterEvent,
    AfterSilence,
    AgentHeardFor,
    Expectation,
    Listen,
    Script,
    StaySilent,
    Turn,
    TurnTaking,
)
from bots.timeline import (
    AgentLeft,
    CallEnded,
    EndedReason,
    LineEnd,
    TimelineEvent,
)
from runner.evaluation.outcome import Outcome, decide, judge_expectations
from runner.evaluation.verdicts import Cause, ExpectationVerdict, Judgement, Verdict, by_question
from tests.evaluation.facts import (
    JOINED,
    MET,
    MISSED,
    NOT_JUDGED,
    READY,
    SPEAK,
    line,
    over,
    s,
    speech,
    told,
)
from tests.evaluation.facts import taken_up as turn

LIMIT, HUNG_UP = EndedReason.MAX_DURATION, EndedReason.CALLER_HUNG_UP
LEFT, VANISHED, FROZE = EndedReason.AGENT_LEFT, EndedReason.AGENT_VANISHED, EndedReason.AGENT_FROZE
AT_LIMIT = "the call reached its limit"


def ended(at_s: float, reason: EndedReason) -> list[TimelineEvent]:
    left: list[TimelineEvent] = [AgentLeft(at_ns=s(at_s))] if reason is LEFT else []
    return [*left, CallEnded(at_ns=s(at_s), reason=reason, detail=AT_LIMIT if reason is LIMIT else None)]


TURN = [READY, turn(10), *line(10.1, 11), *speech(12, 13), told(13.4, "one"), over(14)]
"""Nine seconds of it are left at 14, of an expectation that has 13."""


def come_to(
    script: Script, facts: Sequence[TimelineEvent], **kwargs: Any
) -> tuple[list[ExpectationVerdict], Outcome]:
    results = judge_expectations(script, facts)
    return results, decide(script, facts, results, **kwargs)


def one_turn(*expect: Expectation, action: Any = SPEAK, **kwargs: Any) -> Script:
    return Script(name="t", turns=(Turn(action=action, expect=expect),), **kwargs)


OPEN = [
    Expectation(text_contains="two", within_ms=13_000),
    Expectation(event="function_call", within_ms=13_000),
    Expectation(event="llm_started", within_ms=13_000),
    Expectation(event=AGENT_HANGS_UP, within_ms=13_000),
]


@pytest.mark.parametrize("expectation", OPEN, ids=lambda e: e.event)
@pytest.mark.parametrize(
    ("reason", "verdict"), [(LIMIT, NOT_JUDGED), (HUNG_UP, NOT_JUDGED), (VANISHED, NOT_JUDGED), (FROZE, MISSED)]
)
def test_time_that_we_cut_short_is_not_the_agents_failure(
    expectation: Expectation, reason: EndedReason, verdict: Verdict
) -> None:
    ((result,), _) = come_to(one_turn(expectation), [*TURN, *ended(20, reason)])
    assert result.verdict is verdict
    if reason is LIMIT:
        assert result.reason == "the call reached its limit before"
    ((result,), outcome) = come_to(one_turn(expectation), [*TURN, *ended(27, reason)])
    assert (result.verdict, outcome.success) == (MISSED, False), "its time was over"


def test_an_agent_that_left_had_no_more_to_say() -> None:
    ((result,), outcome) = come_to(one_turn(OPEN[0]), [*TURN, *ended(20, LEFT)])
    assert (result.verdict, outcome.success, outcome.cause) == (MISSED, False, Cause.AGENT)


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (LEFT, "no function_call until the agent left, after 10.0 s"),
        (FROZE, "no function_call until the call ended, after 10.0 s"),
    ],
)
def test_no_reason_names_a_budget_that_did_not_elapse(reason: EndedReason, says: str) -> None:
    expectations = [Expectation(event="llm_started"), Expectation(text_contains="x"), Expectation(event="response")]
    facts = [READY, turn(10), *line(10.1, 11), *ended(20, reason)]
    for expectation in expectations:
        ((result,), _) = come_to(one_turn(expectation), facts)
        assert result.reason.endswith(says.removeprefix("no function_call "))
    calls = Expectation(event="function_call")
    assert come_to(one_turn(calls), facts)[0][0].reason.removeprefix("no call of any function() ") == says[17:]


def test_what_waits_for_something_open_is_open_itself() -> None:
    """However little time it has: it would have been looked for after that."""
    expect = (OPEN[0], Expectation(event="function_call", within_ms=1_000), Expectation(absent=True, within_ms=1_000))
    results, outcome = come_to(one_turn(*expect), [*TURN, *ended(20, LIMIT)])
    assert [r.verdict for r in results] == [NOT_JUDGED] * 3
    assert (outcome.success, outcome.cause) == (None, None)
    assert come_to(one_turn(*expect), [*TURN, *ended(20, LIMIT)], allow_unjudged=True)[1].success is True


def test_what_was_missed_before_the_limit_is_the_agents_failure() -> None:
    early = Expectation(event=AGENT_SPEAKS, within_ms=500)
    results, outcome = come_to(one_turn(early, OPEN[0]), [*TURN, *ended(20, LIMIT)])
    assert [r.verdict for r in results] == [MISSED, NOT_JUDGED]
    assert (outcome.success, outcome.cause) == (False, Cause.AGENT)
    assert outcome.detail is not None and "answered 1.0 s after the caller (limit 0.5 s)" in outcome.detail


@pytest.mark.parametrize(("reason", "verdict"), [(LIMIT, NOT_JUDGED), (LEFT, MISSED)])
def test_speech_not_yet_understood_may_still_become_words(reason: EndedReason, verdict: Verdict) -> None:
    greeted = [READY, *speech(2, 3), told(3.4, "hello"), over(4)]
    facts = [*greeted, turn(10), *line(10.1, 11), *speech(12), *ended(14, reason)]
    assert [v.verdict for v in judge_expectations(one_turn(OPEN[0]), facts)] == [verdict]


def test_a_reply_cut_off_by_the_limit_is_not_judged() -> None:
    expectation = Expectation(criterion="offers a table", within_ms=13_000)
    cut_off = [READY, turn(10), *line(10.1, 11), *speech(12), told(13.4, "one")]
    for said, expected in ((cut_off, NOT_JUDGED), (TURN, MISSED)):
        facts = [*said, *ended(14.5, LIMIT)]
        script = one_turn(expectation)
        (asked,) = judge_expectations(script, facts, {})
        assert asked.question is not None
        answers = by_question([Judgement(question=asked.question, answer="no", reason="so it is")])
        assert [v.verdict for v in judge_expectations(script, facts, answers)] == [expected]


ABSENT = Expectation(absent=True, within_ms=5_000)


@pytest.mark.parametrize("event", ["response", "function_call"])
@pytest.mark.parametrize(
    ("reason", "verdict", "says"),
    [
        (LIMIT, NOT_JUDGED, "the call reached its limit before"),
        (HUNG_UP, NOT_JUDGED, "the call ended before"),
        (VANISHED, NOT_JUDGED, "the call ended before"),
        (LEFT, MET, "none came until the agent left, after 3.0 s"),
    ],
)
def test_nobody_knows_what_would_have_come_after_the_end(
    event: str, reason: EndedReason, verdict: Verdict, says: str
) -> None:
    silent = ABSENT.model_copy(update={"event": event})
    ((result,), _) = come_to(one_turn(silent), [READY, turn(10), *line(10.1, 11), *ended(13, reason)])
    assert (result.verdict, result.reason) == (verdict, says)
    ((result,), _) = come_to(one_turn(silent), [READY, turn(10), *line(10.1, 11), *ended(15, reason)])
    assert (result.verdict, result.reason) == (MET, "none came within 5 s")


# Turns that were not reached, and whose doing that was. Two turns; the first speaks at 10.


def two_turns(second: Turn | None = None, first: Turn | None = None, **kwargs: Any) -> Script:
    kwargs = {"max_duration_s": 60, **kwargs}
    return Script(
        name="t",
        turns=(first or Turn(action=SPEAK), second or Turn(action=SPEAK, expect=(Expectation(),))),
        turn_taking=TurnTaking(answer_timeout_s=30),
        **kwargs,
    )


SAID = [JOINED, READY, turn(10), *line(10, 12)]
ANSWERED = [*SAID, *speech(13, 15), over(16)]
WAITS = Turn(action=SPEAK, start=AfterSilence(duration_ms=50_000), expect=(Expectation(),))

LIMITS = {
    "its own long silence": (two_turns(WAITS), ANSWERED, (None, Cause.CALLER)),
    "its own delay": (
        two_turns(Turn(action=SPEAK, start=AfterEvent(delay_ms=55_000))),
        ANSWERED,
        (None, Cause.CALLER),
    ),
    "a silence under way": (
        two_turns(first=Turn(action=StaySilent(duration_ms=90_000))),
        [JOINED, READY, *speech(2, 4), over(5), turn(10)],
        (None, Cause.CALLER),
    ),
    "a line under way": (
        two_turns(),
        [*ANSWERED, turn(50, 1), *line(50, 60, 1, end=LineEnd.CUT)],
        (None, Cause.CALLER),
    ),
    "an agent in the middle of a sentence": (two_turns(), [*SAID, *speech(50)], (None, None)),
    "an agent that would not stop talking": (two_turns(), [*SAID, *speech(13)], (False, Cause.AGENT)),
    "an agent that took breaths": (two_turns(), [*SAID, *speech(13, 30), *speech(30.5)], (False, Cause.AGENT)),
    "an agent that talked too long for a silence": (two_turns(WAITS), [*SAID, *speech(13)], (False, Cause.AGENT)),
    "an answer owed too long": (two_turns(max_duration_s=50), SAID, (False, Cause.AGENT)),
    "an answer owed for a moment": (
        two_turns(),
        [*ANSWERED, turn(55, 1), *line(55, 56, 1)],
        (None, None),
    ),
    "an answer that is owed, but waited for by nobody": (two_turns(WAITS), SAID, (None, Cause.CALLER)),
    "a greeting owed too long": (
        two_turns(first=Turn(action=Listen(), expect=(Expectation(),))),
        [JOINED, READY, turn(1.1)],
        (False, Cause.AGENT),
    ),
    "a barge-in that has nothing to barge into": (
        two_turns(Turn(action=SPEAK, start=AgentHeardFor(duration_ms=500))),
        [*SAID],
        (False, Cause.AGENT),
    ),
    "a silence that was asked for": (
        two_turns(first=Turn(action=SPEAK, expect=(Expectation(absent=True, within_ms=59_000),))),
        SAID,
        (None, None),
    ),
    "a greeting without an end": (two_turns(), [JOINED, READY, *speech(2)], (False, Cause.AGENT)),
}


@pytest.mark.parametrize("case", LIMITS.values(), ids=list(LIMITS))
def test_whose_doing_it_was_that_the_call_reached_its_limit(case: tuple[Script, list[TimelineEvent], Any]) -> None:
    script, facts, expected = case
    results, outcome = come_to(script, [*facts, *ended(60, LIMIT)])
    assert (outcome.success, outcome.cause) == expected, outcome.detail
    assert MISSED not in {r.verdict for r in results}
    assert outcome.detail is not None and AT_LIMIT in outcome.detail
    assert outcome.exit_code == (2 if expected[0] is None else 1)
    if outcome.detail.endswith("before every turn was reached"):
        assert come_to(script, [*facts, *ended(60, LIMIT)], allow_unjudged=True)[1].success is None


def test_however_short_the_limit_an_agent_may_take_ten_seconds() -> None:
    for began_s, success in ((51, None), (49, False)):
        _, outcome = come_to(two_turns(max_duration_s=5), [JOINED, READY, *speech(began_s), *ended(60, LIMIT)])
        assert outcome.success is success


# The agent is to hang up.


@pytest.mark.parametrize(
    ("reason", "success", "cause"),
    [(HUNG_UP, False, Cause.AGENT), (LEFT, True, None), (LIMIT, None, None)],
)
def test_an_agent_that_was_to_hang_up(reason: EndedReason, success: bool | None, cause: Cause | None) -> None:
    script = one_turn(Expectation(), hang_up=False)
    _, outcome = come_to(script, [*TURN, *ended(20, reason)])
    assert (outcome.success, outcome.cause) == (success, cause)
    if success is False:
        assert outcome.detail == "the agent was to hang up, and did not"
    assert come_to(one_turn(Expectation()), [*TURN, *ended(20, reason)])[1].success is True
