"""How the agent behaves: in time, silent when interrupted, patient, gone when it should be. Times are milliseconds.

The turn is taken up at 10,000; unless said otherwise the caller speaks from 11,000 to 13,000.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.caller.script import (
    AGENT_HANGS_UP,
    AGENT_NEVER_TALKS_OVER,
    AGENT_SPEAKS,
    AGENT_STOPS,
    BEHAVIOURS,
    AgentHeardFor,
    Expectation,
    Listen,
    Pause,
    PressKeys,
    Script,
    Speak,
    StaySilent,
    Turn,
    Words,
)
from bots.clock import NS_PER_MS
from bots.timeline import (
    AgentJoined,
    AgentLeft,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    AgentTurnEnded,
    CallEnded,
    CallerPressedKeys,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerTurnStarted,
    EndedReason,
    LineEnd,
    MessageReceived,
    TimelineEvent,
)
from runner.evaluation.behaviour import FALLING_SILENT_NS, MIN_OVERLAP_NS, NATURAL_END_NS
from runner.evaluation.expectations import describe, evaluate
from runner.evaluation.outcome import judge_expectations
from runner.evaluation.verdicts import KNOWN_LATE_NS, ExpectationVerdict, Verdict
from tests.examples import examples

MET, MISSED, PENDING, NOT_JUDGED = Verdict.MET, Verdict.MISSED, Verdict.PENDING, Verdict.NOT_JUDGED
SPEAK = Speak(parts=(Words(text="A table for two,"), Pause(pause_ms=700), Words(text="please.")))
LATE_MS = KNOWN_LATE_NS // NS_PER_MS
OVERLAP_MS = MIN_OVERLAP_NS // NS_PER_MS
NATURAL_MS = NATURAL_END_NS // NS_PER_MS
FALLING_MS = FALLING_SILENT_NS // NS_PER_MS


def ns(at_ms: float) -> int:
    return round(at_ms * NS_PER_MS)


def turn(at_ms: float, index: int = 0) -> TimelineEvent:
    return CallerTurnStarted(at_ns=ns(at_ms), turn=index)


def line(begin_ms: float, end_ms: float | None = None, index: int = 0) -> list[TimelineEvent]:
    facts: list[TimelineEvent] = [CallerStartedSpeaking(at_ns=ns(begin_ms), turn=index, text="x")]
    if end_ms is not None:
        facts.append(CallerStoppedSpeaking(at_ns=ns(end_ms), turn=index))
    return facts


def cut(at_ms: float) -> TimelineEvent:
    return CallerStoppedSpeaking(at_ns=ns(at_ms), turn=0, end=LineEnd.CUT)


def speech(begin_ms: float, end_ms: float | None = None) -> list[TimelineEvent]:
    facts: list[TimelineEvent] = [AgentStartedSpeaking(at_ns=ns(begin_ms))]
    return facts if end_ms is None else [*facts, AgentStoppedSpeaking(at_ns=ns(end_ms))]


def says(at_ms: float, kind: str = "bot-started-speaking") -> TimelineEvent:
    return MessageReceived(at_ns=ns(at_ms), message={"label": "rtvi-ai", "type": kind})


def over(at_ms: float) -> TimelineEvent:
    return AgentTurnEnded(at_ns=ns(at_ms))


def joined(at_ms: float) -> TimelineEvent:
    return AgentJoined(at_ns=ns(at_ms))


def left(at_ms: float) -> TimelineEvent:
    return AgentLeft(at_ns=ns(at_ms))


def ended(at_ms: float, reason: EndedReason = EndedReason.CALLER_HUNG_UP) -> TimelineEvent:
    return CallEnded(at_ns=ns(at_ms), reason=reason)


LINE = [turn(10_000), *line(11_000, 13_000)]
BEGUN = [turn(10_000), *line(11_000)]


def judge(
    event: str,
    facts: Sequence[TimelineEvent],
    *,
    within_ms: int = 2_000,
    action: Any = SPEAK,
    now_ms: float | None = None,
) -> ExpectationVerdict:
    expectation = Expectation(event=event, within_ms=within_ms)
    script = Script(name="t", turns=(Turn(action=action, expect=(expectation,)),))
    (verdict,) = evaluate(script, facts, now_ns=None if now_ms is None else ns(now_ms))
    return verdict


class Case(NamedTuple):
    facts: list[TimelineEvent]
    verdict: Verdict
    says: str = ""


SPEAKS = {
    "in time": Case([*LINE, *speech(14_000)], MET, "spoke after 1000 ms"),
    "at the last moment": Case([*LINE, *speech(15_000)], MET, "spoke after 2000 ms"),
    "too late": Case([*LINE, *speech(15_000.001)], MISSED, "spoke after 2000 ms"),
    "much too late": Case([*LINE, *speech(20_000)], MISSED, "spoke after 7000 ms"),
    "at once": Case([*LINE, *speech(13_000)], MET, "spoke after 0 ms"),
    "never": Case(LINE, MISSED, "did not speak"),
    "over the end of the line": Case([*LINE, *speech(12_600, 15_000)], MET, "began 400 ms before the caller had"),
    "over the end of the line, to no end": Case([*LINE, *speech(12_600)], MET, "began 400 ms before"),
    "inside the line alone": Case([*LINE, *speech(11_500, 12_000)], MISSED, "did not speak"),
    "up to the very end of the line": Case([*LINE, *speech(11_500, 13_000)], MISSED, "did not speak"),
    "inside the line, then in time": Case([*LINE, *speech(11_500, 12_000), *speech(14_000)], MET, "1000 ms"),
    "what it said before is no answer": Case([*LINE, *speech(9_000, 20_000)], MISSED, "did not speak"),
    "it stops, and then answers": Case([*LINE, *speech(9_000, 12_000), *speech(14_500)], MET, "1500 ms"),
    "the first onset counts": Case([*LINE, *speech(14_000, 14_300), *speech(14_600)], MET, "1000 ms"),
    "the line did not end": Case([*BEGUN, *speech(9_000)], NOT_JUDGED, "the end of its line"),
    "the line was cut off": Case([*BEGUN, cut(12_000), ended(12_000)], NOT_JUDGED, "of its line"),
    "it hung up on the caller": Case(
        [*BEGUN, left(12_000), ended(12_000, EndedReason.AGENT_LEFT)], MISSED, "hung up before"
    ),
    "it hung up in place of an answer": Case([*LINE, left(13_500), ended(13_500)], MISSED, "did not speak"),
}


def test_the_answer_to_the_next_turn_is_none_to_this_one() -> None:
    expecting = Turn(action=SPEAK, expect=(Expectation(event=AGENT_SPEAKS, within_ms=9_000),))
    script = Script(name="t", turns=(expecting, expecting))
    facts = [*LINE, turn(16_000, 1), *line(16_500, 17_000, 1), *speech(17_500, 18_000)]
    first, second = evaluate(script, facts)
    assert (first.verdict, first.reason) == (MISSED, "did not speak")
    assert (second.verdict, second.reason) == (MET, "spoke after 500 ms")


@pytest.mark.parametrize(
    ("facts", "verdict", "says"),
    [
        ([joined(5_000), *speech(7_000), turn(9_000)], MET, "spoke after 2000 ms"),
        ([joined(5_000), *speech(7_001), turn(9_000)], MISSED, "spoke after 2001 ms"),
        ([joined(5_000), turn(5_010), *speech(6_000)], MET, "spoke after 1000 ms"),
        ([joined(5_000), *speech(5_000)], MET, "spoke after 0 ms"),
        ([joined(5_000), turn(5_010)], MISSED, "did not speak"),
        ([turn(5_000), *speech(6_000)], MET, "spoke after 1000 ms"),
    ],
)
def test_a_greeting_s_latency_counts_from_when_both_are_there(
    facts: list[TimelineEvent], verdict: Verdict, says: str
) -> None:
    facts = facts if any(isinstance(e, CallerTurnStarted) for e in facts) else [*facts, turn(9_000)]
    found = judge(AGENT_SPEAKS, facts, action=Listen())
    assert (found.verdict, found.reason) == (verdict, says)


def test_only_a_greeting_s_latency_does() -> None:
    script = Script(
        name="t", turns=(Turn(action=SPEAK), Turn(expect=(Expectation(event=AGENT_SPEAKS, within_ms=2_000),)))
    )
    facts = [joined(1_000), *LINE, *speech(13_500, 15_000), turn(16_000, 1), *speech(17_000)]
    (verdict,) = evaluate(script, facts)
    assert (verdict.verdict, verdict.reason) == (MET, "spoke after 1000 ms")


def test_after_keys_it_counts_from_when_they_went_out() -> None:
    facts = [turn(10_000), CallerPressedKeys(at_ns=ns(10_200), turn=0, keys="1"), *speech(12_000)]
    assert judge(AGENT_SPEAKS, facts, action=PressKeys(keys="1")).reason == "spoke after 1800 ms"


def test_without_the_callers_words_a_turn_counts_from_its_start() -> None:
    facts = [turn(10_000), *speech(12_000)]
    assert judge(AGENT_SPEAKS, facts, action=StaySilent(duration_ms=5_000)).reason == "spoke after 2000 ms"


STOPS = {
    "in time": Case([*LINE, *speech(9_000, 12_000)], MET, "stopped after 1000 ms"),
    "at the last moment": Case([*LINE, *speech(9_000, 13_000)], MET, "stopped after 2000 ms"),
    "too late": Case([*LINE, *speech(9_000, 13_000.001)], MISSED, "stopped after 2000 ms"),
    "after the line, in time": Case(
        [turn(10_000), *line(11_000, 11_500), *speech(9_000, 12_000)], MET, "stopped after 1000 ms"
    ),
    "never": Case([*LINE, *speech(9_000), ended(30_000)], MISSED, "still spoke 2000 ms after the barge-in"),
    "already silent": Case([*LINE, *speech(9_000, 10_500)], NOT_JUDGED, "did not land"),
    "silent at that very sample": Case([*LINE, *speech(9_000, 11_000)], NOT_JUDGED, "did not land"),
    "it began at that very sample": Case([*LINE, *speech(11_000, 12_000)], NOT_JUDGED, "did not land"),
    "it never spoke": Case(LINE, NOT_JUDGED, "did not land"),
    "it ended by itself": Case(
        [*LINE, *speech(9_000, 11_000 + NATURAL_MS - 1)], NOT_JUDGED, "came too late: the agent had finished 99 ms"
    ),
    "sooner than anybody reacts, just not": Case(
        [*LINE, *speech(9_000, 11_000 + NATURAL_MS)], MET, f"stopped after {NATURAL_MS} ms"
    ),
    "it resumes in time": Case([*LINE, *speech(9_000, 11_500), *speech(11_700, 12_500)], MET, "after 1500 ms"),
    "it resumes for too long": Case(
        [*LINE, *speech(9_000, 11_500), *speech(12_000, 13_500)], MISSED, "stopped after 2500 ms"
    ),
    "it resumes for good": Case(
        [*LINE, *speech(9_000, 11_500), *speech(12_000), ended(30_000)], MISSED, "but spoke again 1000 ms after"
    ),
    "it ends by itself, and resumes": Case(
        [*LINE, *speech(9_000, 11_050), *speech(12_000, 14_000)], MISSED, "stopped after 3000 ms"
    ),
    "what it says after the line is its answer": Case(
        [*LINE, *speech(9_000, 11_500), *speech(13_000, 20_000)], MET, "after 500 ms"
    ),
    "an answer that begins just before the line ends": Case(
        [*LINE, *speech(9_000, 11_500), *speech(13_000 - OVERLAP_MS + 1, 20_000)], MET, "after 500 ms"
    ),
    "an answer that begins too early is none": Case(
        [*LINE, *speech(9_000, 11_500), *speech(13_000 - OVERLAP_MS, 20_000)], MISSED, "stopped after 9000 ms"
    ),
    "between two phrases, and it stops": Case(
        [*LINE, *speech(9_000, 10_800), *speech(11_200, 12_000)], MET, "stopped after 1000 ms"
    ),
    "between two phrases, and it goes on": Case(
        [*LINE, *speech(9_000, 10_800), *speech(11_200), ended(30_000)], MISSED, "still spoke 2000 ms after"
    ),
    "after its last phrase": Case([*LINE, *speech(9_000, 10_800), *speech(13_500)], NOT_JUDGED, "did not land"),
    "in a gap of its reply, by its own word, and it does not go on": Case(
        [*LINE, says(9_000), *speech(9_000, 10_600), *speech(13_500)], MET, "between two of its phrases"
    ),
    "in a gap of its reply, which it does not say": Case(
        [*LINE, *speech(9_000, 10_600), *speech(13_500)], NOT_JUDGED, "at its end or between two phrases"
    ),
    "at the end of a sentence of its reply, by its own word": Case(
        [*LINE, says(9_000), *speech(9_000, 11_050), *speech(13_500)], MET, "stopped after 50 ms"
    ),
    "long after its reply, which it forgot to end": Case(
        [*LINE, says(5_000), *speech(5_000, 7_900), *speech(13_500)], NOT_JUDGED, "did not land"
    ),
    "just after its turn": Case(
        [*LINE, *speech(9_000, 10_800), over(10_900), *speech(11_200, 12_000)], NOT_JUDGED, "did not land"
    ),
    "the line did not begin": Case([turn(10_000), *speech(9_000)], NOT_JUDGED, "the end of its line"),
    "the call ended in the line, after it stopped": Case(
        [*BEGUN, *speech(9_000, 11_500), ended(12_000)], MET, "stopped after 500 ms"
    ),
    "the call ended before its time was up": Case(
        [*BEGUN, *speech(9_000), ended(12_000)], NOT_JUDGED, "the call ended 1000 ms after"
    ),
    "the call ended after its time was up": Case(
        [*BEGUN, *speech(9_000), ended(13_001)], MISSED, "still spoke 2000 ms after"
    ),
}


def test_the_evidence_for_stopping_is_the_barge_in_and_the_end() -> None:
    verdict = judge(AGENT_STOPS, [*LINE, *speech(9_000, 12_000)])
    assert [(e.event, e.at_s) for e in verdict.evidence] == [
        ("caller_started_speaking", 11.0),
        ("agent_stopped_speaking", 12.0),
    ]


TALKS_OVER = {
    "silence": Case(LINE, MET),
    "before and after": Case([*LINE, *speech(9_000, 10_500), *speech(13_500)], MET),
    "in the middle": Case([*LINE, *speech(12_000, 12_500)], MISSED, "began to speak at 12.00 s"),
    "in the caller's pause": Case([*LINE, *speech(12_200)], MISSED, "while the caller still spoke"),
    "long enough before the end": Case([*LINE, *speech(13_000 - OVERLAP_MS)], MISSED, "12.90 s"),
    "a moment before the end": Case([*LINE, *speech(13_000 - OVERLAP_MS + 1)], MET),
    "at the end": Case([*LINE, *speech(13_000)], MET),
    "both at once": Case([*LINE, *speech(11_000, 12_000)], MET),
    "just after the caller": Case([*LINE, *speech(11_001, 12_000)], MISSED, "11.00 s"),
    "it was speaking, and goes on": Case([*LINE, *speech(9_000, 20_000)], MET),
    "it was speaking, and stops": Case([*LINE, *speech(9_000, 11_500)], MET),
    "it was speaking, and falls silent by degrees": Case(
        [*LINE, *speech(9_000, 11_500), *speech(11_000 + FALLING_MS, 12_600)], MET
    ),
    "it was speaking, and tries again": Case(
        [*LINE, *speech(9_000, 11_500), *speech(11_001 + FALLING_MS, 12_800)], MISSED, "12.50 s"
    ),
    "it took a breath": Case([*LINE, *speech(9_000, 10_000), *speech(11_200, 12_000)], MET),
    "it took a long breath": Case([*LINE, *speech(9_000, 9_999), *speech(11_200, 12_000)], MISSED, "11.20 s"),
    "it took a breath, and tries again": Case(
        [*LINE, *speech(9_000, 10_800), *speech(11_001 + FALLING_MS, 12_800)], MISSED, "12.50 s"
    ),
    "its turn was over": Case([*LINE, *speech(9_000, 10_000), over(10_800), *speech(11_200)], MISSED, "11.20 s"),
    "the line did not begin": Case([turn(10_000), *speech(12_000)], NOT_JUDGED, "the end of its line"),
    "the call ended in the line": Case([*BEGUN, ended(12_000)], NOT_JUDGED, "of its line"),
    "the call ended in the line, too late": Case([*BEGUN, *speech(11_500), ended(12_000)], MISSED, "11.50 s"),
    "the line was cut off by the end": Case([*BEGUN, cut(12_000), ended(12_000)], NOT_JUDGED, "of its line"),
    "cut off by the end, too late": Case([*BEGUN, *speech(11_500), cut(12_000), ended(12_000)], MISSED, "11.50 s"),
    "cut off by the end, in time": Case(
        [*BEGUN, *speech(11_950), cut(12_000), ended(12_000)], NOT_JUDGED, "of its line"
    ),
}


HANGS_UP = {
    "in time": Case([*LINE, left(11_500)], MET, "hung up after 1.5 s"),
    "at the last moment": Case([*LINE, left(12_000)], MET, "hung up after 2.0 s"),
    "too late": Case([*LINE, left(12_000.001)], MISSED, "hung up after 2.0 s"),
    "never": Case([*LINE, ended(60_000)], MISSED, "did not hang up"),
    "the caller did": Case([*LINE, ended(13_500)], MISSED, "did not hang up"),
}


TABLES = {AGENT_SPEAKS: SPEAKS, AGENT_STOPS: STOPS, AGENT_NEVER_TALKS_OVER: TALKS_OVER, AGENT_HANGS_UP: HANGS_UP}
CASES = [
    pytest.param(event, case, id=f"{event}: {name}")
    for event, cases in TABLES.items()
    for name, case in cases.items()
]


@pytest.mark.parametrize(("event", "case"), CASES)
def test_how_the_agent_behaves(event: str, case: Case) -> None:
    verdict = judge(event, case.facts)
    assert verdict.verdict is case.verdict
    assert case.says in verdict.reason


@pytest.mark.parametrize("event", sorted(BEHAVIOURS))
def test_a_turn_that_was_never_reached(event: str) -> None:
    assert (judge(event, []).verdict, judge(event, []).reason) == (MISSED, "the turn was never reached")
    assert judge(event, [], now_ms=99_000).verdict is PENDING


@pytest.mark.parametrize("event", sorted(BEHAVIOURS))
def test_behaviour_stands_for_itself_in_no_order(event: str) -> None:
    missing = Expectation(event="llm_started", within_ms=100)
    script = Script(
        name="t", turns=(Turn(action=SPEAK, expect=(missing, Expectation(event=event, within_ms=2_000), missing)),)
    )
    facts = [*LINE, *speech(9_000, 12_000), *speech(13_500), left(11_900)]
    assert evaluate(script, facts)[1].verdict is MET


def test_behaviour_in_words() -> None:
    words = {event: describe(Expectation(event=event, within_ms=1_500)) for event in BEHAVIOURS}
    assert words == {
        AGENT_SPEAKS: "the agent speaks within 1.5 s",
        AGENT_STOPS: "the agent stops within 1.5 s of the barge-in",
        AGENT_NEVER_TALKS_OVER: "the agent lets the caller finish",
        AGENT_HANGS_UP: "the agent hangs up",
    }


def test_what_was_open_when_the_network_failed_is_not_judged() -> None:
    expect = tuple(Expectation(event=event, within_ms=2_000) for event in sorted(BEHAVIOURS))
    barge_in = Turn(action=SPEAK, start=AgentHeardFor(duration_ms=2_000), expect=expect)
    script = Script(name="t", turns=(barge_in,))
    facts = [*BEGUN, *speech(9_000), ended(11_500, EndedReason.ICE_FAILED)]
    assert [v.verdict for v in judge_expectations(script, facts)] == [NOT_JUDGED] * 4


# While the call is on. What the agent does is known up to KNOWN_LATE_NS late, and in its order.


@pytest.mark.parametrize(
    ("event", "facts", "undecided_until_ms"),
    [
        (AGENT_SPEAKS, LINE, 15_000),
        (AGENT_SPEAKS, [*LINE, *speech(12_000)], 13_000),
        (AGENT_STOPS, LINE, 11_000),
        (AGENT_STOPS, [*LINE, *speech(9_000)], 13_000),
        (AGENT_STOPS, [*LINE, *speech(9_000, 12_000)], 13_000),
        (AGENT_NEVER_TALKS_OVER, LINE, 13_000),
        (AGENT_HANGS_UP, LINE, 12_000),
    ],
)
def test_nothing_is_decided_before_all_facts_are_known(
    event: str, facts: list[TimelineEvent], undecided_until_ms: int
) -> None:
    last = judge(event, facts, now_ms=undecided_until_ms + LATE_MS)
    assert last.verdict is PENDING
    assert last.recheck_ns == ns(undecided_until_ms + LATE_MS) + 1
    after = judge(event, facts, now_ms=undecided_until_ms + LATE_MS + 0.001)
    assert after.verdict is judge(event, [*facts, ended(60_000)]).verdict
    assert after.recheck_ns is None


@pytest.mark.parametrize("event", [AGENT_SPEAKS, AGENT_NEVER_TALKS_OVER])
def test_a_line_under_way_is_waited_for_however_long_it_takes(event: str) -> None:
    found = judge(event, BEGUN, now_ms=90_000)
    assert (found.verdict, found.recheck_ns) == (PENDING, None)


def test_talking_over_is_known_while_the_caller_still_speaks() -> None:
    facts = [*BEGUN, *speech(11_500)]
    assert judge(AGENT_NEVER_TALKS_OVER, facts, now_ms=11_500 + OVERLAP_MS - 1).verdict is PENDING
    assert judge(AGENT_NEVER_TALKS_OVER, facts, now_ms=11_500 + OVERLAP_MS).verdict is MISSED


def test_an_agent_that_stopped_may_resume_until_the_line_ends() -> None:
    facts = [*BEGUN, *speech(9_000, 11_500)]
    assert judge(AGENT_STOPS, facts, now_ms=90_000).verdict is PENDING


def test_an_agent_that_began_with_the_caller_may_yet_give_way() -> None:
    facts = [turn(10_000), *line(10_000, 10_110), *speech(10_010)]
    assert judge("agent_never_talks_over", facts, now_ms=10_200).verdict is PENDING
    gave_way = [*facts, *speech(10_010, 10_300)[1:]]
    assert judge("agent_never_talks_over", gave_way, now_ms=12_000).verdict is MET
    assert judge("agent_never_talks_over", facts, now_ms=12_000).verdict is MISSED


class Known(NamedTuple):
    """A fact, and when it becomes known."""

    at_ms: int
    fact: TimelineEvent


TELLS = ["bot-started-speaking", "bot-stopped-speaking", "bot-interrupted"]


@st.composite
def calls(draw: st.DrawFn) -> tuple[list[Known], int]:
    """Draw a call of one turn: its facts in the order in which they become known, and when it ends."""
    facts = [Known(10_000, turn(10_000))]
    begin_ms = draw(st.integers(1_000, 1_300)) * 10
    end_ms = begin_ms + draw(st.integers(1, 400)) * 10
    said, finished = line(begin_ms, end_ms)
    facts += [Known(begin_ms, said), Known(end_ms, finished)]
    at_ms, known_ms = draw(st.integers(800, 1_400)) * 10, 0
    for _ in range(draw(st.integers(0, 4))):
        stop_ms = at_ms + draw(st.integers(1, 300)) * 10
        for event, event_ms in zip(speech(at_ms, stop_ms), (at_ms, stop_ms), strict=True):
            known_ms = max(known_ms, event_ms + draw(st.integers(0, LATE_MS)))
            facts.append(Known(known_ms, event))
        at_ms = stop_ms + draw(st.integers(1, 200)) * 10
        if draw(st.booleans()):
            # Known when it is decided, or when it arrives.
            end_ms = draw(st.integers(stop_ms // 10, at_ms // 10)) * 10
            told = MessageReceived(at_ns=ns(end_ms), message={"type": draw(st.sampled_from(TELLS))})
            facts.append(Known(end_ms, draw(st.sampled_from([over(end_ms), told]))))
    ends_ms = draw(st.integers(1_000, 2_500)) * 10
    if draw(st.booleans()):
        facts.append(Known(ends_ms, left(ends_ms)))
    facts = sorted((f for f in facts if f.at_ms <= ends_ms), key=lambda f: f.at_ms)
    return facts, ends_ms


@given(calls(), st.sampled_from(sorted(BEHAVIOURS)), st.integers(0, 400).map(lambda n: n * 10), st.data())
@settings(max_examples=examples(600), deadline=None)
def test_what_is_decided_during_the_call_is_final(
    call: tuple[list[Known], int], event: str, within_ms: int, data: st.DataObject
) -> None:
    facts, ends_ms = call
    final = judge(event, [*(f.fact for f in facts), ended(ends_ms)], within_ms=within_ms)
    assert final.verdict is not PENDING
    moments = {f.at_ms for f in facts} | {f.at_ms - 1 for f in facts}
    moments |= set(data.draw(st.lists(st.integers(10_000, ends_ms), max_size=4)))
    for now_ms in sorted(moments):
        known = [f.fact for f in facts if f.at_ms <= now_ms]
        live = judge(event, known, within_ms=within_ms, now_ms=now_ms)
        if "the recording decides" in live.reason:
            assert live.verdict is NOT_JUDGED and final.verdict is MISSED
        elif live.verdict is not PENDING:
            assert live.verdict is final.verdict, (now_ms, live.reason, final.reason)
            assert live.recheck_ns is None
        elif live.recheck_ns is not None:
            assert live.recheck_ns > ns(now_ms)
            # Nothing new until then: time alone decides, or there is something else to wait for.
            again = judge(event, known, within_ms=within_ms, now_ms=live.recheck_ns / NS_PER_MS)
            assert again.recheck_ns is None or again.recheck_ns > live.recheck_ns
        else:
            # Only the caller can bring it on: by taking up the turn, or by coming to the end of its line.
            assert not any(isinstance(e, CallerStoppedSpeaking) for e in known)


@given(calls(), st.sampled_from(sorted(BEHAVIOURS)), st.integers(0, 4_000))
@settings(max_examples=examples(200), deadline=None)
def test_in_the_end_time_decides_everything(call: tuple[list[Known], int], event: str, within_ms: int) -> None:
    facts = [f.fact for f in call[0]]
    if any(isinstance(e, CallerStoppedSpeaking) for e in facts):
        late = judge(event, facts, within_ms=within_ms, now_ms=90_000)
        final = judge(event, [*facts, ended(90_000)], within_ms=within_ms)
        assert late.verdict is final.verdict or "the recording decides" in late.reason
