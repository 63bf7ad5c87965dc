"""Was the harness able to judge? What it missed itself, or the network lost, is never the agent's failure."""

from typing import Any

import pytest

from bots.caller.script import AGENT_NEVER_TALKS_OVER, AGENT_SPEAKS, AGENT_STOPS, Expectation, FunctionCall, Script
from bots.timeline import (
    AgentAudioLost,
    AgentCalledFunction,
    AgentError,
    AgentJoined,
    AgentMediaResumed,
    AgentMediaStopped,
    AgentProbed,
    CallCalibrated,
    CallerAudioLost,
    CallerUnderrun,
    EndedReason,
    HarnessStalled,
    MachineBusy,
    MediaNotConnected,
    TimelineEvent,
)
from runner.evaluation.failure import FailureKind
from runner.evaluation.outcome import Outcome, decide, judge_expectations
from runner.evaluation.turns import TurnMeasures, measure_turns
from runner.evaluation.verdicts import Cause, ExpectationVerdict, Verdict
from runner.evaluation.view import CallView
from tests.evaluation.facts import (
    JOINED,
    READY,
    asks,
    contains,
    ended,
    expect,
    flat,
    heard,
    line,
    measured,
    onset,
    over,
    recording,
    s,
    script,
    settled,
    speech,
    taken_up,
    told,
)

AGENT, CALLER, HARNESS, NETWORK, ROOM = Cause.AGENT, Cause.CALLER, Cause.HARNESS, Cause.NETWORK, Cause.ROOM
FROZE, LEFT, VANISHED = EndedReason.AGENT_FROZE, EndedReason.AGENT_LEFT, EndedReason.AGENT_VANISHED
WORDS = contains("which day", within_ms=5_000)
SCRIPT = script(asks(WORDS), asks(WORDS))
ASKED: list[TimelineEvent] = [JOINED, taken_up(1), *line(1.2, 3)]
SILENT = [*ASKED, settled(8)]
HUNG_UP = ended(8, detail="turn 1 failed")


def come_to(facts: list[Any], played: Script = SCRIPT, **more: Any) -> Outcome:
    view = CallView.measured(flat(facts))
    return decide(played, view, judge_expectations(played, view), **more)


def verdict(played: Script, *facts: Any) -> ExpectationVerdict:
    (result,) = judge_expectations(played, CallView.measured(flat(facts)))
    return result


def measures(played: Script, *facts: Any) -> list[TurnMeasures]:
    return measure_turns(played, CallView.measured(flat(facts)))


def lost(at_s: float, duration_ms: float) -> TimelineEvent:
    return AgentAudioLost(at_ns=s(at_s), duration_ms=duration_ms)


def stalled(at_s: float, duration_ms: float) -> TimelineEvent:
    return HarnessStalled(at_ns=s(at_s), duration_ms=duration_ms)


def late(duration_ms: float, at_s: float = 2) -> TimelineEvent:
    return CallerUnderrun(at_ns=s(at_s), turn=0, duration_ms=duration_ms)


def not_sent(at_s: float, packets: int) -> TimelineEvent:
    return CallerAudioLost(at_ns=s(at_s), since_ns=s(at_s - 1), lost=packets, packets=50)


def busy(at_s: float, waited: float = 0.9, *, for_s: float = 2, shared: bool = True) -> MachineBusy:
    return MachineBusy(at_ns=s(at_s), duration_ms=1_000 * for_s, waited=waited, shared=shared)


def cut(from_s: float, to_s: float) -> list[TimelineEvent]:
    return [AgentMediaStopped(at_ns=s(from_s)), AgentMediaResumed(at_ns=s(to_s))]


def calls(name: str, **args: Any) -> Expectation:
    return expect("function_call", calls=(FunctionCall(name=name, args=args or None),), within_ms=4_000)


BUSY = busy(2, for_s=12)
WRONG_CALL = AgentCalledFunction(at_ns=s(4), name="check", call_id="1", arguments={"people": 5})
CALLED = WRONG_CALL.model_copy(update={"arguments": {"people": 4}})
RAISED = AgentError(at_ns=s(4), text="'order'", fatal=False)
ANSWERED = [*line(1.2, 3), *speech(4, 6), told(5, "which day would you like"), over(7)]
SECOND_SILENT = [JOINED, taken_up(1), ANSWERED, taken_up(7, 1), line(7.2, 9, 1), ended(16, detail="turn 2 failed")]
BARGES_IN = [JOINED, taken_up(5), *line(6, 10), ended(20)]
STOPS = expect(AGENT_STOPS, within_ms=2_000)
QUIET = expect(AGENT_NEVER_TALKS_OVER)
CALL_OF_FOUR = script(asks(calls("check", people=4)))
BOOKS = script(asks(calls("book")), asks(WORDS))
SPOKE_ON = [*speech(2, 9.5)]
SPOKE_UP = [*speech(8, 12)]
BEGAN_LATE = [AgentJoined(at_ns=s(2.5)), taken_up(3), line(3.2, 5), settled(10), ended(10, detail="turn 1 failed")]
CLOSED = [*speech(3.6, 4.5), heard(3.6, 4.5, "we are closed on mondays"), over(5), measured(3.6, 4.5), recording()]
LEAVES = [JOINED, taken_up(1), ANSWERED[:-1], ended(6.5, LEFT)]
DIED = [JOINED, taken_up(1), line(1.2, 3), AgentProbed(at_ns=s(20), answers=False), ended(20, VANISHED)]
PATIENT = script(asks(contains("which day", within_ms=30_000)))

BLAMED = {
    "nobody but the agent": ([SILENT, HUNG_UP], SCRIPT, AGENT, "turn 1"),
    "its line had holes": ([SILENT, late(600), HUNG_UP], SCRIPT, HARNESS, "turn 1"),
    "its machine was too busy": ([SILENT, busy(4), HUNG_UP], SCRIPT, HARNESS, "turn 1"),
    "it stood still": ([SILENT, stalled(2, 1_003), HUNG_UP], SCRIPT, HARNESS, "turn 1"),
    "its packets were lost": ([SILENT, not_sent(3, 9), HUNG_UP], SCRIPT, NETWORK, "turn 1"),
    "the agent's packets were lost": ([SILENT, lost(4, 300), HUNG_UP], SCRIPT, NETWORK, "turn 1"),
    "the background was too loud": ([SILENT, recording(too_loud=True), HUNG_UP], SCRIPT, CALLER, "turn 1"),
    "a line that was dead for a while": ([SILENT, cut(4, 6.9), HUNG_UP], SCRIPT, NETWORK, "turn 1"),
    "media that was never connected": (
        [SILENT, MediaNotConnected(at_ns=s(0.5), waited_ms=10_000, sending=False, receiving=True), HUNG_UP],
        SCRIPT,
        NETWORK,
        "the caller's audio was not connected within 10 s",
    ),
    "whoever the caller spoke to before": (
        [SILENT, AgentJoined(at_ns=s(5), participant="Bella"), HUNG_UP],
        SCRIPT,
        ROOM,
        "somebody else in the room was taken for the agent",
    ),
    # What no agent notices excuses none.
    "a hole of two packets": ([SILENT, late(40), HUNG_UP], SCRIPT, AGENT, ""),
    "a few packets of silence": ([SILENT, not_sent(7, 9), HUNG_UP], SCRIPT, AGENT, ""),
    "a few lost packets": ([SILENT, not_sent(3, 3), HUNG_UP], SCRIPT, AGENT, ""),
    "a busy machine elsewhere": ([SILENT, busy(4, shared=False), HUNG_UP], SCRIPT, AGENT, ""),
    "a lost packet of the agent": ([SILENT, lost(4, 20), HUNG_UP], SCRIPT, AGENT, ""),
    "two of them": ([SILENT, lost(3.5, 20), lost(3.6, 20), HUNG_UP], SCRIPT, AGENT, ""),
    "four add up": ([SILENT, [lost(3.5 + n / 10, 20) for n in range(4)], HUNG_UP], SCRIPT, NETWORK, ""),
    "a stall before the agent was there": ([stalled(0, 1_200), BEGAN_LATE], SCRIPT, AGENT, ""),
    "trouble after it was late": ([SILENT, stalled(6.5, 3_000), ended(12)], SCRIPT, AGENT, ""),
    # A busy machine slows an agent down, and makes it do nothing else, unless it is very busy.
    "left on a busy machine": ([ASKED, BUSY, ended(5, LEFT)], SCRIPT, AGENT, ""),
    "raised on a busy machine": ([ASKED, BUSY, RAISED, HUNG_UP], SCRIPT, AGENT, ""),
    "called wrongly on one": ([ASKED, BUSY, READY, WRONG_CALL, HUNG_UP], CALL_OF_FOUR, AGENT, ""),
    "called late on one": (
        [READY, ASKED, BUSY, CALLED.model_copy(update={"at_ns": s(5.6)}), HUNG_UP],
        CALL_OF_FOUR,
        HARNESS,
        "",
    ),
    "called another before on one": (
        [READY, ASKED, BUSY, WRONG_CALL.model_copy(update={"name": "lookup"}), HUNG_UP],
        CALL_OF_FOUR,
        HARNESS,
        "",
    ),
    "called nothing on one": ([READY, ASKED, BUSY, HUNG_UP], CALL_OF_FOUR, HARNESS, ""),
    "a wrong answer, a little busy": ([ASKED, busy(2, 0.6, for_s=12), CLOSED, HUNG_UP], SCRIPT, AGENT, ""),
    "a wrong answer, very busy": ([ASKED, BUSY, CLOSED, HUNG_UP], SCRIPT, HARNESS, ""),
    # Audio that was lost in the line excuses talking; after it, none.
    "spoke on, and a hole in the line": ([BARGES_IN, SPOKE_ON, lost(7, 80)], script(asks(STOPS)), NETWORK, ""),
    "spoke on, and a hole after it": ([BARGES_IN, SPOKE_ON, lost(11.5, 80)], script(asks(STOPS)), AGENT, ""),
    "spoke up, and a hole in the line": ([BARGES_IN, SPOKE_UP, lost(7, 80)], script(asks(QUIET)), NETWORK, ""),
    "spoke up, and a hole after it": ([BARGES_IN, SPOKE_UP, lost(11.5, 80)], script(asks(QUIET)), AGENT, ""),
    # What is told needs no hearing, unless the hole is so long that the caller spoke into it.
    "no call, and a hole": ([READY, SILENT, lost(4, 300), HUNG_UP], BOOKS, AGENT, ""),
    "no call, and a long hole": ([READY, SILENT, lost(4, 600), HUNG_UP], BOOKS, NETWORK, ""),
    "no call, and the caller spoke": ([READY, SILENT, lost(4, 300), over(5), HUNG_UP], BOOKS, NETWORK, ""),
    "left, and a hole": ([LEAVES, lost(5, 300)], SCRIPT, AGENT, ""),
    "left, and a long hole": ([LEAVES, lost(5, 600)], SCRIPT, NETWORK, ""),
    # A garbled line excuses what follows from it; lost audio of the agent touches its own turn alone.
    "silent in turn 2": (SECOND_SILENT, SCRIPT, AGENT, "turn 2"),
    "silent in turn 2, the line before garbled": ([SECOND_SILENT, late(600)], SCRIPT, HARNESS, ""),
    "silent in turn 2, the agent not heard before": ([SECOND_SILENT, lost(4.5, 300)], SCRIPT, AGENT, "turn 2"),
    # An ending is excused if the agent may not have heard.
    "froze": ([SILENT, late(600), ended(20, FROZE, "it ended")], SCRIPT, HARNESS, ""),
    "never spoke": ([SILENT, late(600), ended(20, EndedReason.AGENT_NEVER_SPOKE, "it")], SCRIPT, HARNESS, ""),
    "left after a garbled line": ([SILENT, late(600), ended(20, LEFT, "it ended")], SCRIPT, HARNESS, ""),
    "vanished": ([SILENT, late(600), ended(20, VANISHED, "it ended")], SCRIPT, NETWORK, ""),
    "died": (DIED, PATIENT, AGENT, ""),
    "died after a stall": ([DIED, stalled(16, 3_500)], PATIENT, HARNESS, ""),
    # The caller acted on what it heard, and the recording has something else.
    "left a caller that heard it speak on": (
        [JOINED, onset(1), recording(), measured(1, 4), taken_up(0.9), ended(34, LEFT)],
        SCRIPT,
        CALLER,
        "",
    ),
}


@pytest.mark.parametrize(("facts", "played", "cause", "says"), BLAMED.values(), ids=list(BLAMED))
def test_who_is_blamed(facts: list[Any], played: Script, cause: Cause, says: str) -> None:
    outcome = come_to(facts, played)
    assert (outcome.success, outcome.cause) == (False if cause is AGENT else None, cause), outcome.detail
    assert outcome.failure is not None and outcome.failure.cause is cause
    assert outcome.detail is not None and says in outcome.detail


@pytest.mark.parametrize(
    ("facts", "played", "kind"),
    [
        ([SILENT, HUNG_UP], SCRIPT, FailureKind.SILENT),
        ([ASKED, BUSY, ended(5, LEFT)], SCRIPT, FailureKind.LEFT),
        ([ASKED, BUSY, RAISED, HUNG_UP], SCRIPT, FailureKind.ERRORED),
        ([ASKED, BUSY, READY, WRONG_CALL, HUNG_UP], CALL_OF_FOUR, FailureKind.WRONG),
    ],
)
def test_what_an_agent_failed_at_is_told(facts: list[Any], played: Script, kind: FailureKind) -> None:
    failure = come_to(facts, played).failure
    assert failure is not None and failure.kind is kind


ABSENT = expect("response", absent=True, within_ms=3_000)
SAYS_NOTHING = [JOINED, taken_up(5), *line(5.1, 5.4), ended(20)]


@pytest.mark.parametrize(
    ("facts", "expectation", "from_s", "to_s"),
    [
        ([*BARGES_IN, *speech(2, 6.3)], STOPS, 6.3, 9.0),
        (BARGES_IN, QUIET, 7.0, 7.3),
        (SAYS_NOTHING, ABSENT, 5.5, 7.9),
    ],
)
def test_silence_that_was_lost_audio_meets_nothing(
    facts: list[TimelineEvent], expectation: Expectation, from_s: float, to_s: float
) -> None:
    played, lost_ms = script(asks(expectation)), 1_000 * (to_s - from_s)
    for trouble in ([lost(from_s, lost_ms)], cut(from_s, to_s)):
        outcome = come_to([facts, trouble], played)
        assert (outcome.success, outcome.cause) == (None, NETWORK), outcome.detail
    assert come_to([facts, lost(15, lost_ms), lost(from_s, 20)], played).success is True


def test_trouble_that_led_to_nothing_leaves_a_passed_call_passed() -> None:
    assert come_to([JOINED, taken_up(1), ANSWERED, late(600), ended(8)], script(asks(WORDS))).success is True


# What the caller heard and the recording does not have, wherever the call ended; and the other way round.

QUESTION = script(asks(expect(AGENT_SPEAKS, within_ms=2_000)), asks(expect(within_ms=5_000)))
WENT_ON = [
    *(JOINED, READY, taken_up(1), *line(1.2, 3), *speech(3.2, 3.7), settled(4.7, failed=False)),
    *(taken_up(4.7, 1), *line(4.8, 7, 1), *speech(8, 9.5), settled(8.2, 1, failed=False)),
]


def test_a_caller_that_took_a_sound_for_speech_blames_itself() -> None:
    outcome = come_to([WENT_ON, recording(), measured(8, 9.5), ended(11)], QUESTION)
    assert (outcome.success, outcome.cause) == (None, CALLER)
    assert outcome.detail is not None and "another sound" in outcome.detail


def test_an_answer_to_the_line_before_is_no_talking_over() -> None:
    played = script(asks(), asks(QUIET), asks(QUIET))
    facts = [*WENT_ON[:-1], *line(9, 12, 2), measured(5.5, 7.5), recording(), ended(14)]
    assert come_to([facts, taken_up(8.9, 2), measured(13, 13.5)], played).cause is CALLER
    turns = measures(played, facts)
    assert (turns[1].talked_over, turns[1].response_latency_ms) == (True, None)
    assert turns[1].refused is not None and "another sound" in turns[1].refused


@pytest.mark.parametrize("later", [(), (expect(AGENT_SPEAKS, within_ms=2_000),)])
@pytest.mark.parametrize("reason", [FROZE, LEFT])
def test_an_unnoticed_answer_is_not_held_against_the_agent(
    reason: EndedReason, later: tuple[Expectation, ...]
) -> None:
    facts = [ASKED, recording(), measured(4, 7), ended(35, reason, "silent")]
    assert come_to(facts, script(asks(), asks(*later))).cause is HARNESS


def test_what_the_network_spoilt_is_not_allowed_for() -> None:
    outcome = come_to([SILENT, lost(4, 300), HUNG_UP], script(asks(WORDS)), allow_unjudged=True)
    assert (outcome.success, outcome.cause) == (None, NETWORK)


def test_a_caller_that_gave_up_in_error_blames_itself() -> None:
    # Live the answer was not understood in time; recognition of the recording has the words.
    facts = [JOINED, taken_up(1), *ANSWERED, settled(7), HUNG_UP]
    outcome = come_to(facts)
    assert (outcome.success, outcome.cause) == (None, HARNESS)
    assert outcome.detail is not None and "turn 1" in outcome.detail and "recording" in outcome.detail
    verdicts = judge_expectations(SCRIPT, CallView(facts))
    assert [(v.verdict, v.cause) for v in verdicts] == [(Verdict.MET, None), (Verdict.NOT_JUDGED, HARNESS)]


# Error bars.

SPEAKS = script(asks(expect(AGENT_SPEAKS, within_ms=1_000)))


@pytest.mark.parametrize(
    ("onset_s", "bar_ms", "expected"),
    [
        (3.9, 8, Verdict.MET),
        (3.98, 50, Verdict.NOT_JUDGED),
        (4.03, 50, Verdict.NOT_JUDGED),
        (4.2, 50, Verdict.MISSED),
        (4.2, 250, Verdict.NOT_JUDGED),
    ],
)
def test_a_limit_within_the_error_bar_fails_nobody(onset_s: float, bar_ms: float, expected: Verdict) -> None:
    result = verdict(SPEAKS, ASKED, recording(), measured(onset_s, 6, onset_ms=bar_ms), ended(8))
    assert result.verdict is expected
    if expected is Verdict.NOT_JUDGED:
        assert "error bar" in result.reason and "±" in result.reason


def test_sound_that_may_be_no_voice_meets_nothing() -> None:
    result = verdict(SPEAKS, ASKED, speech(4, 6), recording(), measured(4, 6, too_loud=True), ended(8))
    assert (result.verdict, result.cause) == (Verdict.NOT_JUDGED, CALLER)


@pytest.mark.parametrize(("live", "expected"), [(speech(1.9, 2.6), Verdict.MISSED), ([], Verdict.NOT_JUDGED)])
def test_talking_over_takes_live_hearing_and_recording(live: list[TimelineEvent], expected: Verdict) -> None:
    facts = [ASKED, live, recording(), measured(1.9, 2.6), measured(4, 6), ended(8)]
    assert verdict(script(asks(QUIET)), *facts).verdict is expected


def test_a_stop_within_the_error_bar_fails_nobody() -> None:
    stops = script(asks(expect(AGENT_STOPS, within_ms=1_000)))
    result = verdict(stops, speech(0.6, 2.3), ASKED, recording(), measured(0.6, 2.25, end_ms=150), ended(8))
    assert result.verdict is Verdict.NOT_JUDGED and "error bar" in result.reason


def test_what_our_own_side_adds_widens_the_bar() -> None:
    facts = [ASKED, recording(), measured(4, 6), ended(8)]
    (quiet,) = measures(SPEAKS, *facts)
    lags = CallCalibrated(at_ns=s(0.9), loop_lag_ms=30, send_lag_ms=12, arrival_jitter_ms=5)
    (wider,) = measures(SPEAKS, *facts, lags)
    assert quiet.uncertainty_ms is not None and quiet.uncertainty_ms <= 20
    assert wider.uncertainty_ms == pytest.approx(quiet.uncertainty_ms + 17)
    assert wider.response_latency_ms == quiet.response_latency_ms == 1_000


@pytest.mark.parametrize(
    ("speaks", "latencies_ms", "refused"),
    [
        (measured(9, 10), (None, 2_000), ("another sound", "")),
        (measured(4.5, 8), (1_500, None), ("", "spoke while the agent went on")),
    ],
)
def test_a_turn_whose_answer_was_mistaken_says_so(
    speaks: TimelineEvent, latencies_ms: tuple[object, object], refused: tuple[str, str]
) -> None:
    later = [taken_up(5, 1), line(5.2, 7, 1)]
    turns = measures(SCRIPT, ASKED, speech(3.6, 4), recording(), speaks, ended(12), later)
    assert tuple(turn.response_latency_ms for turn in turns) == latencies_ms
    assert turns[1].talked_over is (latencies_ms[1] is None)
    for turn, says in zip(turns, refused, strict=True):
        assert (turn.refused is not None and says in turn.refused) if says else turn.refused is None


def test_a_hole_in_a_line_leaves_the_latency_after_it() -> None:
    (turn,) = measures(SPEAKS, ASKED, recording(), measured(4, 6), ended(8), late(80))
    assert turn.response_latency_ms == 1_000


REFUSED = {
    "not on time": [measured(4, 6), late(80, 2.95)],
    "too uncertain": [measured(4, 6, onset_ms=700)],
    "too loud": [measured(4, 6, too_loud=True)],
    "stood still": [measured(4, 6), stalled(3.2, 500)],
    "lost": [measured(4, 6), lost(3.5, 200)],
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_sample_that_says_nothing_is_refused_and_says_why(why: str) -> None:
    (turn,) = measures(SPEAKS, ASKED, recording(), REFUSED[why], ended(8))
    assert (turn.response_latency_ms, turn.uncertainty_ms) == (None, None)
    assert turn.refused is not None and why in turn.refused
