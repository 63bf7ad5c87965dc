"""What a call came to: every ending, with every kind of verdict on what was expected."""

from collections.abc import Sequence

import pytest

from bots.caller.script import Expectation, Script, Turn
from bots.clock import NS_PER_S
from bots.timeline import (
    AgentStartedSpeaking,
    CallEnded,
    CallerTurnStarted,
    EndedReason,
    TimelineEvent,
)
from runner.evaluation.ending import CEKURA_ENDED_REASON
from runner.evaluation.outcome import Outcome, Status, decide, judge_expectations
from runner.evaluation.verdicts import Cause, ExpectationVerdict, Verdict

SCRIPT = Script(name="t", turns=(Turn(expect=(Expectation(),)), Turn(expect=(Expectation(),))))
UNDECIDED = (Verdict.NOT_JUDGED, Verdict.NOT_OBSERVABLE)
R, C, S = EndedReason, Cause, Status


def verdict(state: Verdict, turn: int = 0) -> ExpectationVerdict:
    return ExpectationVerdict(
        turn=turn, index=0, event="response", expected="response", verdict=state, reason=f"because {turn}"
    )


def come_to(reason: EndedReason | None, *states: Verdict, reached: int = 2, detail: str | None = None) -> Outcome:
    facts: list[TimelineEvent] = [CallerTurnStarted(at_ns=turn, turn=turn) for turn in range(reached)]
    if reason is not None:
        facts.append(CallEnded(at_ns=9, reason=reason, detail=detail))
    return decide(SCRIPT, facts, [verdict(state, turn) for turn, state in enumerate(states)])


# How it ended: status, and success and cause where all was met, something was missed, something is undecided.
NOBODY = (None, None)
PASS, FAIL = (True, None), (False, C.AGENT)
TABLE: dict[EndedReason, tuple[Status, tuple[object, object], tuple[object, object], tuple[object, object]]] = {
    R.ROOM_UNREACHABLE: (S.FAILED, (None, C.ROOM), (None, C.ROOM), (None, C.ROOM)),
    R.AGENT_AT_CAPACITY: (S.FAILED, (None, C.ROOM), (None, C.ROOM), (None, C.ROOM)),
    R.TOKEN_REFUSED: (S.FAILED, (None, C.ROOM), (None, C.ROOM), (None, C.ROOM)),
    R.ICE_FAILED: (S.FAILED, (None, C.NETWORK), (None, C.NETWORK), (None, C.NETWORK)),
    R.RUNNER_ERROR: (S.FAILED, (None, C.HARNESS), (None, C.HARNESS), (None, C.HARNESS)),
    R.CANCELLED: (S.CANCELLED, NOBODY, NOBODY, NOBODY),
    R.AGENT_NEVER_JOINED: (S.FAILED, FAIL, FAIL, FAIL),
    R.AGENT_NEVER_SPOKE: (S.COMPLETED, FAIL, FAIL, FAIL),
    R.AGENT_VANISHED: (S.COMPLETED, (None, C.NETWORK), FAIL, (None, C.NETWORK)),
    R.AGENT_FROZE: (S.COMPLETED, FAIL, FAIL, FAIL),
    R.AGENT_LEFT: (S.COMPLETED, PASS, FAIL, NOBODY),
    R.CALLER_HUNG_UP: (S.COMPLETED, PASS, FAIL, NOBODY),
    R.MAX_DURATION: (S.COMPLETED, PASS, FAIL, NOBODY),
}


def test_the_table_holds_every_ending() -> None:
    assert set(TABLE) == set(EndedReason)


@pytest.mark.parametrize("reason", EndedReason)
def test_every_ending_comes_to_its_status_success_and_cause(reason: EndedReason) -> None:
    status, met, missed, undecided = TABLE[reason]
    cases = [
        ((Verdict.MET, Verdict.MET), met),
        ((Verdict.MET, Verdict.MISSED), missed),
        ((Verdict.NOT_OBSERVABLE, Verdict.MISSED), missed),
        *(((Verdict.MET, state), undecided) for state in UNDECIDED),
        ((), met),
    ]
    for states, (success, cause) in cases:
        outcome = come_to(reason, *states)
        assert (outcome.status, outcome.success, outcome.cause) == (status, success, cause), states
        assert outcome.ended_reason is reason
        assert outcome.exit_code == {True: 0, False: 1, None: 2}[outcome.success]


@pytest.mark.parametrize("reached", [0, 1])
@pytest.mark.parametrize("reason", [R.AGENT_LEFT, R.CALLER_HUNG_UP])
def test_a_call_that_stops_before_its_last_turn_fails(reason: EndedReason, reached: int) -> None:
    outcome = come_to(reason, Verdict.MET, reached=reached)
    assert (outcome.success, outcome.cause) == (False, Cause.AGENT)
    what = "the agent left before" if reason is R.AGENT_LEFT else "not every turn was reached"
    assert outcome.detail is not None and what in outcome.detail


@pytest.mark.parametrize("reached", [0, 1])
def test_a_call_at_its_limit_before_the_last_turn_does_not(reached: int) -> None:
    outcome = come_to(R.MAX_DURATION, Verdict.MET, reached=reached)
    assert (outcome.success, outcome.cause, outcome.exit_code) == (None, None, 2)
    assert outcome.detail == "the call reached its limit before every turn was reached"
    assert come_to(R.MAX_DURATION, Verdict.MISSED, reached=reached).success is False


def test_a_turn_that_was_taken_up_twice_is_one_turn() -> None:
    facts = [
        CallerTurnStarted(at_ns=1, turn=0),
        CallerTurnStarted(at_ns=2, turn=0),
        CallEnded(at_ns=3, reason=R.AGENT_LEFT),
    ]
    assert decide(SCRIPT, facts, []).success is False


def test_a_timeline_that_breaks_off_is_the_harness_s_fault() -> None:
    for states in ((Verdict.MET, Verdict.MET), (Verdict.MISSED,)):
        outcome = come_to(None, *states)
        assert (outcome.status, outcome.success, outcome.cause) == (S.FAILED, None, C.HARNESS)
        assert outcome.ended_reason is R.RUNNER_ERROR
        assert outcome.exit_code == 2
        assert outcome.detail is not None and "breaks off" in outcome.detail


@pytest.mark.parametrize(
    ("reason", "detail", "states", "says"),
    [
        (R.AGENT_LEFT, None, (Verdict.MET, Verdict.MISSED), "turn 2: because 1"),
        (R.AGENT_LEFT, None, (Verdict.MISSED, Verdict.MISSED), "turn 1: because 0"),
        (R.CALLER_HUNG_UP, "turn 1 failed", (Verdict.MISSED,), "turn 1: because 0"),
        (R.AGENT_FROZE, "silent for 30 s", (Verdict.MISSED,), "turn 1: because 0"),
        (R.AGENT_FROZE, "silent for 30 s", (Verdict.MET, Verdict.MISSED), "turn 2: silent for 30 s"),
        (
            R.AGENT_LEFT,
            None,
            (Verdict.MET, Verdict.NOT_OBSERVABLE),
            "turn 2: response: not observable: because 1",
        ),
        (R.ICE_FAILED, "no way through", (Verdict.MISSED,), "no way through"),
        (R.CANCELLED, "by hand", (), "by hand"),
        (R.CALLER_HUNG_UP, None, (Verdict.MET, Verdict.MET), None),
    ],
)
def test_the_detail_says_what_happened(
    reason: EndedReason, detail: str | None, states: Sequence[Verdict], says: str | None
) -> None:
    assert come_to(reason, *states, detail=detail).detail == says


@pytest.mark.parametrize("reason", [*EndedReason, None])
def test_what_was_open_when_a_call_broke_off_is_not_judged(
    reason: EndedReason | None,
) -> None:
    facts: list[TimelineEvent] = [CallerTurnStarted(at_ns=0, turn=0), AgentStartedSpeaking(at_ns=NS_PER_S)]
    facts.append(CallerTurnStarted(at_ns=2 * NS_PER_S, turn=1))
    facts += [] if reason is None else [CallEnded(at_ns=3 * NS_PER_S, reason=reason)]
    blameless = reason is None or TABLE[reason][1][1] not in (None, C.AGENT)
    blameless = blameless or reason in (R.CANCELLED, R.MAX_DURATION, R.CALLER_HUNG_UP)
    expected = Verdict.NOT_JUDGED if blameless else Verdict.MISSED
    assert [v.verdict for v in judge_expectations(SCRIPT, facts)] == [Verdict.MET, expected]


def test_what_was_missed_before_a_call_broke_off_stays_missed() -> None:
    facts = [CallerTurnStarted(at_ns=0, turn=0), CallEnded(at_ns=61 * NS_PER_S, reason=R.ICE_FAILED)]
    assert [v.verdict for v in judge_expectations(SCRIPT, facts)] == [Verdict.MISSED, Verdict.NOT_JUDGED]


def test_the_last_ending_counts() -> None:
    facts = [CallEnded(at_ns=1, reason=R.AGENT_LEFT), CallEnded(at_ns=2, reason=R.CANCELLED)]
    assert decide(SCRIPT, facts, []).ended_reason is R.CANCELLED


def test_every_ending_has_a_word_of_cekura_s() -> None:
    assert set(CEKURA_ENDED_REASON) == set(EndedReason)
    assert all(CEKURA_ENDED_REASON.values())
