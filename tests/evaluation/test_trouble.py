"""Was the harness able to judge? What it missed itself, or the network lost, is never the agent's failure."""

import pytest

from bots.caller.script import AGENT_NEVER_TALKS_OVER, AGENT_SPEAKS, AGENT_STOPS, Expectation, FunctionCall
from bots.timeline import (
    AgentAudioLost,
    AgentCalledFunction,
    AgentError,
    AgentJoined,
    AgentMediaResumed,
    AgentMediaStopped,
    AgentProbed,
    AgentStartedSpeaking,
    CallCalibrated,
    CallerAudioLost,
    CallerTurnSettled,
    CallerUnderrun,
    EndedReason,
    HarnessStalled,
    MachineBusy,
    MediaNotConnected,
    TimelineEvent,
)
from runner.evaluation.failure import FailureKind
from runner.evaluation.outcome import Outcome, decide, judge_expectations
from runner.evaluation.turns import measure_turns
from runner.evaluation.verdicts import Cause, Verdict
from runner.evaluation.view import CallView
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

WORDS = Expectation(text_contains="which day", within_ms=5_000)
SCRIPT = script(asks(WORDS), asks(WORDS))
SILENT: list[TimelineEvent] = [JOINED, taken_up(1), *line(1.2, 3), CallerTurnSettled(at_ns=s(8), turn=0, failed=True)]
HUNG_UP = ended(8, detail="turn 1 failed")


def come_to(facts: list[TimelineEvent], played: object = SCRIPT) -> Outcome:
    assert isinstance(played, type(SCRIPT))
    view = CallView.measured(facts)
    return decide(played, view, judge_expectations(played, view))


TROUBLES = {
    "its line had holes": (CallerUnderrun(at_ns=s(2), turn=0, duration_ms=600), Cause.HARNESS),
    "its machine was too busy": (
        MachineBusy(at_ns=s(4), duration_ms=2_000, waited=0.9, shared=True),
        Cause.HARNESS,
    ),
    "it stood still": (HarnessStalled(at_ns=s(2), duration_ms=1_003), Cause.HARNESS),
    "its packets were lost": (CallerAudioLost(at_ns=s(3), since_ns=s(2), lost=9, packets=50), Cause.NETWORK),
    "the agent's packets were lost": (AgentAudioLost(at_ns=s(4), duration_ms=300), Cause.NETWORK),
    "the background was too loud": (recording(too_loud=True), Cause.CALLER),
}


def test_an_agent_that_says_nothing_on_a_quiet_line_has_failed() -> None:
    outcome = come_to([*SILENT, HUNG_UP])
    assert (outcome.success, outcome.cause) == (False, Cause.AGENT)
    assert outcome.failure is not None and outcome.failure.kind is FailureKind.SILENT


@pytest.mark.parametrize("name", TROUBLES)
def test_nobody_is_blamed_for_what_came_of_our_own_trouble(name: str) -> None:
    trouble, cause = TROUBLES[name]
    outcome = come_to([*SILENT, trouble, HUNG_UP])
    assert (outcome.success, outcome.cause) == (None, cause)
    assert outcome.failure is not None and outcome.failure.cause is cause
    assert outcome.detail is not None and "turn 1" in outcome.detail


SMALL = {
    "a hole of two packets": CallerUnderrun(at_ns=s(2), turn=0, duration_ms=40),
    "a few packets of silence": CallerAudioLost(at_ns=s(7), since_ns=s(6), lost=9, packets=50),
    "a few lost packets": CallerAudioLost(at_ns=s(3), since_ns=s(2), lost=3, packets=50),
    "a busy machine elsewhere": MachineBusy(at_ns=s(4), duration_ms=2_000, waited=0.9, shared=False),
    "a lost packet of the agent": AgentAudioLost(at_ns=s(4), duration_ms=20),
    "a moment's wait long before": HarnessStalled(at_ns=0, duration_ms=300),
}


@pytest.mark.parametrize("name", [n for n in SMALL if n != "a moment's wait long before"])
def test_what_no_agent_notices_excuses_none(name: str) -> None:
    assert come_to([*SILENT, SMALL[name], HUNG_UP]).cause is Cause.AGENT


def test_who_was_not_there_yet_is_not_led_astray_by_a_stall() -> None:
    stalled = HarnessStalled(at_ns=0, duration_ms=1_200)
    silent = [
        AgentJoined(at_ns=s(2.5)),
        taken_up(3),
        *line(3.2, 5),
        CallerTurnSettled(at_ns=s(10), turn=0, failed=True),
    ]
    assert come_to([stalled, *silent, ended(10, detail="turn 1 failed")]).cause is Cause.AGENT


BUSY = MachineBusy(at_ns=s(2), duration_ms=12_000, waited=0.9, shared=True)
FOUR = FunctionCall(name="check", args={"people": 4})
CALL_OF_FOUR = Expectation(event="function_call", calls=(FOUR,), within_ms=4_000)
WRONG_CALL = AgentCalledFunction(at_ns=s(4), name="check", call_id="1", arguments={"people": 5})
RAISED = AgentError(at_ns=s(4), text="'order'", fatal=False)


@pytest.mark.parametrize(
    ("facts", "expectation", "kind"),
    [
        ([ended(5, EndedReason.AGENT_LEFT)], WORDS, FailureKind.LEFT),
        ([RAISED, HUNG_UP], WORDS, FailureKind.ERRORED),
        ([READY, WRONG_CALL, HUNG_UP], CALL_OF_FOUR, FailureKind.WRONG),
    ],
)
def test_no_busy_machine_makes_an_agent_do_that(
    facts: list[TimelineEvent], expectation: Expectation, kind: FailureKind
) -> None:
    outcome = come_to([*SILENT[:-1], BUSY, *facts], script(asks(expectation)))
    assert outcome.failure is not None
    assert (outcome.cause, outcome.failure.kind) == (Cause.AGENT, kind)


CALLED = WRONG_CALL.model_copy(update={"arguments": {"people": 4}})


@pytest.mark.parametrize(
    "facts",
    [[CALLED.model_copy(update={"at_ns": s(5.6)})], [WRONG_CALL.model_copy(update={"name": "lookup"})], []],
    ids=["late", "another before it", "none"],
)
def test_a_busy_machine_excuses_a_call_that_is_late(facts: list[TimelineEvent]) -> None:
    outcome = come_to([READY, *SILENT[:-1], BUSY, *facts, HUNG_UP], script(asks(CALL_OF_FOUR)))
    assert (outcome.success, outcome.cause) == (None, Cause.HARNESS)


BARGES_IN: list[TimelineEvent] = [JOINED, taken_up(5), *line(6, 10), ended(20)]
STOPS = Expectation(event=AGENT_STOPS, within_ms=2_000)
QUIET = Expectation(event=AGENT_NEVER_TALKS_OVER)


@pytest.mark.parametrize("expectation", [STOPS, QUIET])
def test_trouble_after_the_line_excuses_no_talking(expectation: Expectation) -> None:
    spoke = speech(2, 9.5) if expectation.event == AGENT_STOPS else speech(8, 12)
    hole = AgentAudioLost(at_ns=s(11.5), duration_ms=80)
    assert come_to([*BARGES_IN, *spoke, hole], script(asks(expectation))).cause is Cause.AGENT
    hole = AgentAudioLost(at_ns=s(7), duration_ms=80)
    assert come_to([*BARGES_IN, *spoke, hole], script(asks(expectation))).cause is Cause.NETWORK


ABSENT = Expectation(event="response", absent=True, within_ms=3_000)
SAYS_NOTHING: list[TimelineEvent] = [JOINED, taken_up(5), *line(5.1, 5.4), ended(20)]


@pytest.mark.parametrize(
    ("facts", "expectation", "lost"),
    [
        ([*BARGES_IN, *speech(2, 6.3)], STOPS, (6.3, 9.0)),
        (BARGES_IN, QUIET, (7.0, 7.3)),
        (SAYS_NOTHING, ABSENT, (5.5, 7.9)),
    ],
)
def test_silence_that_was_lost_audio_meets_nothing(
    facts: list[TimelineEvent], expectation: Expectation, lost: tuple[float, float]
) -> None:
    from_s, to_s = lost
    hole = AgentAudioLost(at_ns=s(from_s), duration_ms=1_000 * (to_s - from_s))
    cut = [AgentMediaStopped(at_ns=s(from_s)), AgentMediaResumed(at_ns=s(to_s))]
    played = script(asks(expectation))
    for trouble in ([hole], cut):
        outcome = come_to([*facts, *trouble], played)
        assert (outcome.success, outcome.cause) == (None, Cause.NETWORK), outcome.detail
    elsewhere = hole.model_copy(update={"at_ns": s(15)})
    packet = hole.model_copy(update={"duration_ms": 20})
    assert come_to([*facts, elsewhere, packet], played).success is True


@pytest.mark.parametrize(("waited", "cause"), [(0.6, Cause.AGENT), (0.9, Cause.HARNESS)])
def test_a_little_busy_machine_makes_no_answer_wrong(waited: float, cause: Cause) -> None:
    busy = BUSY.model_copy(update={"waited": waited})
    answered = [
        *speech(3.6, 4.5),
        heard(3.6, 4.5, "we are closed on mondays"),
        over(5),
        measured(3.6, 4.5),
        recording(),
    ]
    assert come_to([*SILENT[:-1], busy, *answered, HUNG_UP]).cause is cause


ANSWERED = [*line(1.2, 3), *speech(4, 6), told(5, "which day would you like"), over(7)]


def test_trouble_that_led_to_nothing_leaves_a_passed_call_passed() -> None:
    played = script(asks(WORDS))
    facts = [JOINED, taken_up(1), *ANSWERED, CallerUnderrun(at_ns=s(2), turn=0, duration_ms=600), ended(8)]
    assert come_to(facts, played).success is True


@pytest.mark.parametrize(("lost_ms", "cause"), [(300, Cause.AGENT), (600, Cause.NETWORK)])
def test_what_the_agent_tells_needs_no_hearing(lost_ms: float, cause: Cause) -> None:
    """A call of a function is told. A hole makes no wrong one, unless it is so long that the caller spoke into it."""
    booking = Expectation(event="function_call", calls=(FunctionCall(name="book"),), within_ms=4_000)
    lost = AgentAudioLost(at_ns=s(4), duration_ms=lost_ms)
    outcome = come_to([READY, *SILENT, lost, HUNG_UP], script(asks(booking), asks(WORDS)))
    assert outcome.cause is cause


@pytest.mark.parametrize(("lost_ms", "cause"), [(300, Cause.AGENT), (600, Cause.NETWORK)])
def test_that_an_agent_left_needs_no_hearing(lost_ms: float, cause: Cause) -> None:
    lost = AgentAudioLost(at_ns=s(5), duration_ms=lost_ms)
    answered = [*line(1.2, 3), *speech(4, 6), told(5, "which day would you like")]
    left = [taken_up(1), *answered, lost, ended(6.5, EndedReason.AGENT_LEFT)]
    assert come_to([JOINED, *left]).cause is cause


def test_a_hole_after_which_the_caller_spoke_may_have_misled_it() -> None:
    booking = Expectation(event="function_call", calls=(FunctionCall(name="book"),), within_ms=4_000)
    lost = AgentAudioLost(at_ns=s(4), duration_ms=300)
    facts = [READY, *SILENT, lost, over(5), HUNG_UP]
    assert come_to(facts, script(asks(booking), asks(WORDS))).cause is Cause.NETWORK


def test_whoever_the_caller_spoke_to_before_is_not_the_agent() -> None:
    late = AgentJoined(at_ns=s(5), participant="Bella")
    outcome = come_to([*SILENT, late, HUNG_UP])
    assert outcome.success is None and outcome.cause is Cause.ROOM
    assert outcome.detail is not None and "somebody else in the room was taken for the agent" in outcome.detail


def test_a_garbled_line_excuses_what_follows_from_it() -> None:
    facts = [JOINED, taken_up(1), *ANSWERED, taken_up(7, 1), *line(7.2, 9, 1), ended(16, detail="turn 2 failed")]
    assert come_to(facts).cause is Cause.AGENT
    garbled = CallerUnderrun(at_ns=s(2), turn=0, duration_ms=600)
    outcome = come_to([*facts, garbled])
    assert (outcome.success, outcome.cause) == (None, Cause.HARNESS)
    lost = AgentAudioLost(at_ns=s(4.5), duration_ms=300)
    assert come_to([*facts, lost]).cause is Cause.AGENT, "lost audio of the agent touches its own turn alone"


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        (EndedReason.AGENT_FROZE, Cause.HARNESS),
        (EndedReason.AGENT_NEVER_SPOKE, Cause.HARNESS),
        (EndedReason.AGENT_LEFT, Cause.HARNESS),
        (EndedReason.AGENT_VANISHED, Cause.NETWORK),
    ],
)
def test_an_ending_is_excused_if_the_agent_may_not_have_heard(reason: EndedReason, cause: Cause) -> None:
    facts = [*SILENT, CallerUnderrun(at_ns=s(2), turn=0, duration_ms=600), ended(20, reason, "it ended")]
    assert come_to(facts).cause is cause


def test_a_stall_at_its_end_excuses_even_an_agent_that_vanished() -> None:
    stalled = HarnessStalled(at_ns=s(16), duration_ms=3_500)
    patient = script(asks(Expectation(text_contains="which day", within_ms=30_000)))
    silent = [JOINED, taken_up(1), *line(1.2, 3), AgentProbed(at_ns=s(20), answers=False)]
    assert come_to([*silent, ended(20, EndedReason.AGENT_VANISHED)], patient).cause is Cause.AGENT
    assert come_to([*silent, stalled, ended(20, EndedReason.AGENT_VANISHED)], patient).cause is Cause.HARNESS


def test_being_late_is_not_excused_by_later_trouble() -> None:
    stalled = HarnessStalled(at_ns=s(6.5), duration_ms=3_000)
    assert come_to([*SILENT, stalled, ended(12, detail="turn 1 failed")]).cause is Cause.AGENT


def test_small_holes_add_up() -> None:
    holes = [AgentAudioLost(at_ns=s(3.5 + 0.1 * number), duration_ms=20) for number in range(4)]
    assert come_to([*SILENT, *holes[:2], HUNG_UP]).cause is Cause.AGENT
    assert come_to([*SILENT, *holes, HUNG_UP]).cause is Cause.NETWORK


# What the caller heard and the recording does not have, wherever the call ended; and the other way round.

QUESTION = script(asks(Expectation(event=AGENT_SPEAKS, within_ms=2_000)), asks(Expectation(within_ms=5_000)))
WENT_ON = [
    JOINED,
    READY,
    taken_up(1),
    *line(1.2, 3),
    *speech(3.2, 3.7),
    CallerTurnSettled(at_ns=s(4.7), turn=0, failed=False),
    taken_up(4.7, 1),
    *line(4.8, 7, 1),
    *speech(8, 9.5),
    CallerTurnSettled(at_ns=s(8.2), turn=1, failed=False),
    recording(),
    measured(8, 9.5),
    ended(11),
]


def test_a_caller_that_took_a_sound_for_speech_blames_itself() -> None:
    outcome = come_to(WENT_ON, QUESTION)
    assert (outcome.success, outcome.cause) == (None, Cause.CALLER)
    assert outcome.detail is not None and "another sound" in outcome.detail


def test_an_answer_to_the_line_before_is_no_talking_over() -> None:
    quiet = Expectation(event=AGENT_NEVER_TALKS_OVER)
    played = script(asks(), asks(quiet), asks(quiet))
    facts = [*WENT_ON[:-4], *line(9, 12, 2), measured(5.5, 7.5), recording(), ended(14)]
    assert come_to([*facts, taken_up(8.9, 2), measured(13, 13.5)], played).cause is Cause.CALLER
    turns = measure_turns(played, CallView.measured(facts))
    assert (turns[1].talked_over, turns[1].response_latency_ms) == (True, None)
    assert turns[1].refused is not None and "another sound" in turns[1].refused


@pytest.mark.parametrize("later", [(), (Expectation(event=AGENT_SPEAKS, within_ms=2_000),)])
@pytest.mark.parametrize("reason", [EndedReason.AGENT_FROZE, EndedReason.AGENT_LEFT])
def test_an_unnoticed_answer_is_not_held_against_the_agent(
    reason: EndedReason, later: tuple[Expectation, ...]
) -> None:
    played = script(asks(), asks(*later))
    facts = [JOINED, taken_up(1), *line(1.2, 3), recording(), measured(4, 7), ended(35, reason, "silent")]
    assert come_to(facts, played).cause is Cause.HARNESS


def test_an_agent_that_left_a_stuck_caller_is_not_blamed() -> None:
    heard_on = [JOINED, AgentStartedSpeaking(at_ns=s(1)), recording(), measured(1, 4)]
    outcome = come_to([*heard_on, taken_up(0.9), ended(34, EndedReason.AGENT_LEFT)])
    assert (outcome.success, outcome.cause) == (None, Cause.CALLER)


def test_sound_that_may_be_no_voice_meets_nothing() -> None:
    facts = [JOINED, taken_up(1), *line(1.2, 3), *speech(4, 6), recording(), measured(4, 6, too_loud=True), ended(8)]
    (result,) = judge_expectations(SPEAKS, CallView.measured(facts))
    assert (result.verdict, result.cause) == (Verdict.NOT_JUDGED, Cause.CALLER)


def test_what_the_network_spoilt_is_not_allowed_for() -> None:
    view = CallView.measured([*SILENT, AgentAudioLost(at_ns=s(4), duration_ms=300), HUNG_UP])
    played = script(asks(WORDS))
    outcome = decide(played, view, judge_expectations(played, view), allow_unjudged=True)
    assert (outcome.success, outcome.cause) == (None, Cause.NETWORK)


def test_a_line_that_was_dead_for_a_while_is_the_networks_fault() -> None:
    gap = [AgentMediaStopped(at_ns=s(4)), AgentMediaResumed(at_ns=s(6.9))]
    assert come_to([*SILENT, *gap, HUNG_UP]).cause is Cause.NETWORK


def test_nothing_after_unconnected_media_is_anybodys_failure() -> None:
    missing = MediaNotConnected(at_ns=s(0.5), waited_ms=10_000, sending=False, receiving=True)
    outcome = come_to([*SILENT, missing, HUNG_UP])
    assert outcome.success is None and outcome.cause is Cause.NETWORK
    assert outcome.detail is not None and "the caller's audio was not connected within 10 s" in outcome.detail


def test_a_caller_that_gave_up_in_error_blames_itself() -> None:
    # Live the answer was not understood in time; recognition of the recording has the words.
    settled = CallerTurnSettled(at_ns=s(7), turn=0, failed=True)
    outcome = come_to([JOINED, taken_up(1), *ANSWERED, settled, HUNG_UP])
    assert (outcome.success, outcome.cause) == (None, Cause.HARNESS)
    assert outcome.detail is not None and "turn 1" in outcome.detail and "recording" in outcome.detail
    verdicts = judge_expectations(SCRIPT, CallView([JOINED, taken_up(1), *ANSWERED, settled, HUNG_UP]))
    assert [(v.verdict, v.cause) for v in verdicts] == [(Verdict.MET, None), (Verdict.NOT_JUDGED, Cause.HARNESS)]


# Error bars.

SPEAKS = script(asks(Expectation(event=AGENT_SPEAKS, within_ms=1_000)))
STOPS = script(asks(Expectation(event=AGENT_STOPS, within_ms=1_000)))


@pytest.mark.parametrize(
    ("onset_s", "bar_ms", "verdict"),
    [
        (3.9, 8, Verdict.MET),
        (3.98, 50, Verdict.NOT_JUDGED),
        (4.03, 50, Verdict.NOT_JUDGED),
        (4.2, 50, Verdict.MISSED),
        (4.2, 250, Verdict.NOT_JUDGED),
    ],
)
def test_a_limit_within_the_error_bar_fails_nobody(onset_s: float, bar_ms: float, verdict: Verdict) -> None:
    facts = [JOINED, taken_up(1), *line(1.2, 3), recording(), measured(onset_s, 6, onset_ms=bar_ms), ended(8)]
    (result,) = judge_expectations(SPEAKS, CallView.measured(facts))
    assert result.verdict is verdict
    if verdict is Verdict.NOT_JUDGED:
        assert "error bar" in result.reason and "±" in result.reason


@pytest.mark.parametrize(
    ("live", "verdict"), [(speech(1.9, 2.6), Verdict.MISSED), (list[TimelineEvent](), Verdict.NOT_JUDGED)]
)
def test_talking_over_takes_live_hearing_and_recording(live: list[TimelineEvent], verdict: Verdict) -> None:
    patient = script(asks(Expectation(event=AGENT_NEVER_TALKS_OVER)))
    facts = [JOINED, taken_up(1), *line(1.2, 3), *live, recording(), measured(1.9, 2.6), measured(4, 6), ended(8)]
    (result,) = judge_expectations(patient, CallView.measured(facts))
    assert result.verdict is verdict


def test_a_stop_within_the_error_bar_fails_nobody() -> None:
    facts = [JOINED, *speech(0.6, 2.3), taken_up(1), *line(1.2, 3), recording(), measured(0.6, 2.25, end_ms=150)]
    (result,) = judge_expectations(STOPS, CallView.measured([*facts, ended(8)]))
    assert result.verdict is Verdict.NOT_JUDGED and "error bar" in result.reason


def test_what_our_own_side_adds_widens_the_bar() -> None:
    facts = [JOINED, taken_up(1), *line(1.2, 3), recording(), measured(4, 6), ended(8)]
    (quiet,) = measure_turns(SPEAKS, CallView.measured(facts))
    busy = CallCalibrated(at_ns=s(0.9), loop_lag_ms=30, send_lag_ms=12, arrival_jitter_ms=5)
    (wider,) = measure_turns(SPEAKS, CallView.measured([*facts, busy]))
    assert quiet.uncertainty_ms is not None and quiet.uncertainty_ms <= 20
    assert wider.uncertainty_ms == pytest.approx(quiet.uncertainty_ms + 17)
    assert wider.response_latency_ms == quiet.response_latency_ms == 1_000


def test_a_turn_that_took_a_sound_for_the_answer_says_so() -> None:
    facts = [JOINED, taken_up(1), *line(1.2, 3), *speech(3.6, 4), recording(), measured(9, 10), ended(12)]
    later = [taken_up(5, 1), *line(5.2, 7, 1)]
    first, second = measure_turns(SCRIPT, CallView.measured([*facts, *later]))
    assert (first.response_latency_ms, second.response_latency_ms) == (None, 2_000)
    assert first.refused is not None and "another sound" in first.refused


def test_a_line_that_was_spoken_into_the_agents_turn_says_so() -> None:
    facts = [JOINED, taken_up(1), *line(1.2, 3), *speech(3.6, 4), recording(), measured(4.5, 8), ended(12)]
    later = [taken_up(5, 1), *line(5.2, 7, 1)]
    first, second = measure_turns(SCRIPT, CallView.measured([*facts, *later]))
    assert first.response_latency_ms == 1_500
    assert second.talked_over and second.response_latency_ms is None
    assert second.refused is not None and "spoke while the agent went on" in second.refused


def test_a_hole_in_a_line_leaves_the_latency_after_it() -> None:
    facts = [JOINED, taken_up(1), *line(1.2, 3), recording(), measured(4, 6), ended(8)]
    hole = CallerUnderrun(at_ns=s(2), turn=0, duration_ms=80)
    (turn,) = measure_turns(SPEAKS, CallView.measured([*facts, hole]))
    assert turn.response_latency_ms == 1_000


REFUSED = {
    "not on time": [measured(4, 6), CallerUnderrun(at_ns=s(2.95), turn=0, duration_ms=80)],
    "too uncertain": [measured(4, 6, onset_ms=700)],
    "too loud": [measured(4, 6, too_loud=True)],
    "stood still": [measured(4, 6), HarnessStalled(at_ns=s(3.2), duration_ms=500)],
    "lost": [measured(4, 6), AgentAudioLost(at_ns=s(3.5), duration_ms=200)],
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_sample_that_says_nothing_is_refused_and_says_why(why: str) -> None:
    facts = [JOINED, taken_up(1), *line(1.2, 3), recording(), *REFUSED[why], ended(8)]
    (turn,) = measure_turns(SPEAKS, CallView.measured(facts))
    assert (turn.response_latency_ms, turn.uncertainty_ms) == (None, None)
    assert turn.refused is not None and why in turn.refused
