"""Where the live hearing and the recording differ, the run says so, and the recording counts."""

import pytest

from bots.caller.script import Expectation, Listen, Turn
from bots.timeline import AgentStartedSpeaking, EndedReason, TimelineEvent
from runner.evaluation.outcome import decide, judge_expectations
from runner.evaluation.trouble import hearing_differs
from runner.evaluation.verdicts import Cause
from runner.evaluation.view import CallView
from tests.evaluation.facts import JOINED, asks, ended, line, measured, recording, s, script, speech, taken_up

LIVE = [JOINED, *speech(2, 3), *speech(10, 12), recording(), ended(20)]
SCRIPT = script(asks(Expectation(within_ms=30_000)))


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([measured(2.02, 3), measured(10.1, 12)], None),
        ([measured(2.02, 3), measured(10.9, 12)], "once by up to 900 ms (first at 10.9 s)"),
        ([measured(2.3, 3), measured(10.9, 12)], "2 times by up to 900 ms (first at 2.3 s)"),
        ([measured(2, 3), measured(6, 7), measured(10, 12)], "did not notice speech once (first at 6.0 s)"),
        ([measured(2, 3)], "something else for speech once"),
    ],
)
def test_differences_are_told(found: list[TimelineEvent], says: str | None) -> None:
    told = hearing_differs(CallView.measured([*LIVE, *found]))
    assert told is None if says is None else told is not None and says in told


@pytest.mark.parametrize(
    ("facts", "found", "is_told"),
    [
        # An onset 1.9 s off, and a noise taken for speech, where they changed nothing the caller did.
        ([*speech(2, 3), *speech(10, 12)], [measured(2, 3), measured(11.9, 12)], False),
        ([*speech(2, 3), *speech(10, 12)], [measured(2, 3)], False),
        # The caller spoke into speech that it had not noticed yet.
        ([*speech(2, 3), taken_up(3.5), *line(4, 5), *speech(5, 6)], [measured(2, 3), measured(3.8, 6)], True),
        # The caller waited for something to end that was no speech.
        ([*speech(2, 3), *speech(8, 12)], [measured(2, 3)], True),
        ([*speech(2, 3)], [measured(2, 3), measured(6, 7)], True),
    ],
)
def test_a_passed_call_tells_only_what_bore_on_something(
    facts: list[TimelineEvent], found: list[TimelineEvent], is_told: bool
) -> None:
    view = CallView.measured([JOINED, *facts, recording(), ended(20), *found])
    assert hearing_differs(view) is not None
    assert (hearing_differs(view, passed=True) is not None) == is_told


def test_nothing_is_compared_where_nothing_was_measured() -> None:
    assert hearing_differs(CallView(LIVE)) is None


ASKED = [JOINED, taken_up(1), *line(1.2, 3)]


@pytest.mark.parametrize(
    ("reason", "facts", "cause"),
    [
        (EndedReason.AGENT_FROZE, [measured(4, 6)], Cause.HARNESS),
        (EndedReason.AGENT_FROZE, [measured(0.6, 1.1)], Cause.AGENT),
        (EndedReason.AGENT_NEVER_SPOKE, [measured(4, 6)], Cause.HARNESS),
        (EndedReason.AGENT_NEVER_SPOKE, [], Cause.AGENT),
    ],
)
def test_silence_with_speech_in_the_recording_blames_nobody(
    reason: EndedReason, facts: list[TimelineEvent], cause: Cause
) -> None:
    view = CallView.measured([*ASKED, recording(), *facts, ended(40, reason, "silent for 30 s")])
    assert decide(SCRIPT, view, judge_expectations(SCRIPT, view)).cause is cause


def test_waiting_for_a_background_blames_the_callers_hearing() -> None:
    played = script(Turn(action=Listen(), expect=(Expectation(),)), asks(Expectation()))
    heard_on = [JOINED, taken_up(1), AgentStartedSpeaking(at_ns=s(2)), recording(), measured(2, 4)]
    view = CallView.measured([*heard_on, ended(90, EndedReason.MAX_DURATION, "the call reached its limit of 90 s")])
    outcome = decide(played, view, judge_expectations(played, view))
    assert (outcome.success, outcome.cause) == (None, Cause.CALLER)
    assert outcome.detail is not None and "the recording does not have" in outcome.detail
