"""Told words count where they can have been heard, heard ones in both turns they reach into. Times are seconds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.caller.script import Expectation, Listen, Script, Turn
from bots.timeline import (
    AgentSaid,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    Source,
    TimelineEvent,
)
from runner.evaluation.expectations import evaluate
from runner.evaluation.speech import audible_told, words_are_in_doubt
from runner.evaluation.verdicts import Verdict
from runner.evaluation.view import CallView
from tests.evaluation.facts import (
    MET,
    MISSED,
    PENDING,
    READY,
    SPEAK,
    ended,
    heard,
    judge,
    over,
    s,
    speech,
    told,
    verdicts,
)
from tests.evaluation.facts import taken_up as turn
from tests.examples import examples

NOT_OBSERVABLE = Verdict.NOT_OBSERVABLE


HELP = "Good evening, Bella Vista, how can I help you?"
ASKS = Expectation(text_contains="how can I help you", within_ms=9_000)

# An agent whose audio broke off after a quarter of a second, as it was recorded.
BROKEN_OFF = [
    READY,
    turn(0.672),
    *speech(1.077, 1.312),
    over(2.363),
    told(3.802, HELP),
]
HEARD_OF_IT = heard(1.077, 1.312, "Good evening.")


def test_words_told_after_the_audio_broke_off_are_no_response() -> None:
    facts = [*BROKEN_OFF, HEARD_OF_IT, ended(60)]
    (result,) = judge(facts, ASKS, action=Listen())
    assert (result.verdict, result.source) == (MISSED, Source.HEARD)
    assert "does not contain 'how can I help you'; what the agent told besides can not have been" in result.reason
    assert verdicts(facts, Expectation(text_contains="good evening"), action=Listen()) == [MET]
    assert verdicts(facts, Expectation(text_excludes="help"), action=Listen()) == [MET]


@pytest.mark.parametrize("event", ["llm_response", "tts_response"])
def test_what_the_llm_and_the_tts_say_of_them_is_as_it_was_told(event: str) -> None:
    asks = ASKS.model_copy(update={"event": event})
    assert verdicts([*BROKEN_OFF, HEARD_OF_IT, ended(60)], asks, action=Listen()) == [MET]


def test_while_the_call_is_on_what_was_heard_is_waited_for() -> None:
    assert verdicts(BROKEN_OFF, ASKS, now_s=17, action=Listen()) == [PENDING]
    assert verdicts(BROKEN_OFF, ASKS, now_s=18, action=Listen()) == [NOT_OBSERVABLE]
    assert verdicts([*BROKEN_OFF, HEARD_OF_IT], ASKS, now_s=10, action=Listen()) == [PENDING]
    assert verdicts([*BROKEN_OFF, HEARD_OF_IT], ASKS, now_s=11, action=Listen()) == [MISSED]
    assert words_are_in_doubt(CallView(BROKEN_OFF), s(1.077))
    # What is recognised elsewhere does not say that this was: it may be recognised when the call is over.
    facts = [*BROKEN_OFF, *speech(30, 31), heard(30, 31, "Hello?")]
    script = Script(name="t", turns=(Turn(expect=(ASKS,)), Turn(action=SPEAK)))
    (result,) = evaluate(script, [*facts, turn(20, 1)], now_ns=s(40))
    assert result.verdict is NOT_OBSERVABLE


def test_words_told_at_the_last_moment_are_heard_a_moment_later() -> None:
    asks = Expectation(text_contains="help", within_ms=2_000)
    facts = [READY, turn(10), told(11.9, HELP)]
    assert verdicts(facts, asks, now_s=13.2) == [PENDING]
    assert verdicts(facts, asks, now_s=13.3) == [MISSED]
    assert verdicts([*facts, *speech(12.4, 14)], asks, now_s=13.2) == [MET]


def test_words_only_told_and_not_recognised_are_no_failure() -> None:
    assert verdicts([*BROKEN_OFF, ended(60)], ASKS, action=Listen()) == [NOT_OBSERVABLE]
    # Recognition was there, and made nothing of it.
    facts = [*BROKEN_OFF, *speech(30, 31), heard(30, 31, "Hello?"), ended(60)]
    script = Script(name="t", turns=(Turn(expect=(ASKS,)), Turn(action=SPEAK)))
    (result,) = evaluate(script, [*facts, turn(20, 1)])
    assert (result.verdict, "broke off" in result.reason) == (MISSED, True)


TOLD = {
    "with the last sample": (11, 13, 13.0),
    "as usual, a little later": (11, 13, 13.4),
    "late": (11, 13, 14.4),
    "very late, but all of it was heard": (11, 13, 19.0),
    "before the audio": (11, 13, 10.7),
    "long before the audio, as an older agent tells": (13, 15, 10.1),
    "in the middle": (11, 13, 11.5),
}


@pytest.mark.parametrize(("began_s", "ended_s", "told_s"), TOLD.values(), ids=list(TOLD))
def test_whenever_words_are_told_that_were_heard_they_count(began_s: float, ended_s: float, told_s: float) -> None:
    facts = [READY, turn(10), *speech(began_s, ended_s), told(told_s, HELP), over(20), ended(60)]
    assert verdicts(facts, ASKS.model_copy(update={"within_ms": 10_000})) == [MET]
    assert not words_are_in_doubt(CallView(facts), s(min(began_s, told_s)))


def test_a_turn_of_which_nothing_is_told_is_in_doubt() -> None:
    assert words_are_in_doubt(CallView([READY, turn(10), *speech(11, 13), over(14)]), s(11))


@st.composite
def good_agents(draw: st.DrawFn) -> list[TimelineEvent]:
    """Draw a turn of an agent all of whose words were heard, however it tells them and however late."""
    facts: list[TimelineEvent] = [READY, turn(10)]
    at_s = 10 + draw(st.floats(0.2, 4))
    tells_ahead = draw(st.booleans())
    told_s = at_s - draw(st.floats(0, min(2, at_s - 10)))
    for _ in range(draw(st.integers(1, 5))):
        words = draw(st.integers(1, 25))
        # From hurried to slow, with the short silences that a phrase has.
        end_s = at_s + words * draw(st.floats(0.15, 0.5))
        facts += speech(at_s, end_s)
        if not tells_ahead:
            told_s = max(told_s, end_s + draw(st.floats(-0.5, 3)))
        facts.append(told(told_s, " ".join(["word"] * words)))
        at_s = end_s + draw(st.floats(0.05, 0.9))
    return sorted([*facts, over(at_s + 1)], key=lambda e: e.at_ns)


@given(good_agents())
@settings(max_examples=examples(400), deadline=None)
def test_no_word_of_a_good_agent_is_doubted(facts: list[TimelineEvent]) -> None:
    words = [e for e in facts if isinstance(e, AgentSaid)]
    until_ns = facts[-1].at_ns
    assert audible_told(CallView(facts), from_ns=s(10), until_ns=until_ns) == words
    everything = Expectation(text_contains=" ".join(e.text for e in words), within_ms=200_000)
    assert verdicts([*facts, ended(300)], everything) == [MET]


@given(good_agents(), st.integers(0, 400))
@settings(max_examples=examples(200), deadline=None)
def test_words_decided_during_the_call_are_final(facts: list[TimelineEvent], wait: int) -> None:
    """Facts of the audio become known up to 0.7 s late."""
    now_s = 10 + wait / 10
    late = AgentStartedSpeaking | AgentStoppedSpeaking
    known = [e for e in facts if e.at_ns + (s(0.7) if isinstance(e, late) else 0) <= s(now_s)]
    for expectation in (
        Expectation(text_contains="word", within_ms=6_000),
        Expectation(text_excludes="word", within_ms=6_000),
        Expectation(text_contains="no such", within_ms=6_000),
    ):
        (live,) = judge(known, expectation, now_s=now_s)
        (final,) = judge([*facts, ended(300)], expectation)
        assert live.verdict in (PENDING, final.verdict)


@pytest.mark.parametrize("expectation", [Expectation(), Expectation(text_contains="one"), ASKS])
def test_words_of_the_reply_before_are_no_response(expectation: Expectation) -> None:
    (result,) = judge([READY, *speech(8, 9.8), turn(10), told(10.2, f"one, {HELP}"), ended(90)], expectation)
    assert (result.verdict, result.reason) == (MISSED, "the agent reported text, but no audio arrived")


def test_words_of_speech_that_reaches_into_a_turn_belong_to_it() -> None:
    facts = [READY, *speech(8, 12), turn(10), told(12.3, "one"), ended(90)]
    assert verdicts(facts, Expectation(text_contains="one")) == [MET]
    assert verdicts(facts, Expectation()) == [MISSED]


# What must not come.


def test_words_only_told_are_no_forbidden_response() -> None:
    silent = Expectation(absent=True, within_ms=5_000)
    assert verdicts([READY, turn(10), told(12, "one"), ended(60)], silent) == [MET]
    # Those of the reply before, told a moment later.
    assert verdicts([READY, *speech(8, 9.8), turn(10), told(10.2, "one"), ended(60)], silent) == [MET]
    assert verdicts([READY, turn(10), told(12, "one"), *speech(12, 13), ended(60)], silent) == [MISSED]


# Speech that reaches into the next turn.

REACHING = [turn(10), *speech(12, 22), heard(12, 22, "one two"), turn(20, 1), over(23)]


def both(expectation: Expectation, facts: list[TimelineEvent], now_s: float | None = None) -> list[Verdict]:
    script = Script(name="t", turns=tuple(Turn(action=SPEAK, expect=(expectation,)) for _ in range(2)))
    return [v.verdict for v in evaluate(script, facts, now_ns=None if now_s is None else s(now_s))]


@pytest.mark.parametrize("expectation", [Expectation(text_contains="two"), Expectation(text_matches="tw.")])
def test_words_that_reach_into_the_next_turn_count_there_as_well(expectation: Expectation) -> None:
    assert both(expectation, [*REACHING, ended(90)]) == [MET, MET]
    assert both(expectation, [*REACHING, *speech(24, 25), heard(24, 25, "four"), ended(90)]) == [MET, MET]


def test_they_join_the_words_after_them() -> None:
    facts = [*REACHING, *speech(24, 25), heard(24, 25, "three"), ended(90)]
    assert both(Expectation(text_contains="two three"), facts)[1] is MET


def test_they_are_never_held_against_the_agent() -> None:
    without = Expectation(text_excludes="two")
    assert both(without, [*REACHING, *speech(24, 25), heard(24, 25, "three"), over(26), ended(90)]) == [MISSED, MET]
    absent = Expectation(absent=True, within_ms=3_000)
    assert both(absent, [*REACHING, ended(90)])[1] is MET
    # Nothing was said in the turn itself that would be missing something.
    assert both(Expectation(text_contains="two", text_excludes="one"), [*REACHING, ended(90)])[1] is MET


def test_they_are_no_answer() -> None:
    assert both(Expectation(), [*REACHING, ended(90)]) == [MET, MISSED]


def test_a_judge_is_asked_about_them_once_nothing_else_can_come() -> None:
    judged = Expectation(criterion="says two", within_ms=9_000)
    script = Script(name="t", turns=(Turn(action=SPEAK), Turn(action=SPEAK, expect=(judged,))))
    facts = sorted(REACHING, key=lambda e: e.at_ns)
    (early,) = evaluate(script, facts, judgements={}, now_ns=s(25))
    assert (early.verdict, early.question) == (PENDING, None)
    (late,) = evaluate(script, [*facts, ended(40)], judgements={})
    assert late.question is not None and late.question.subject == "one two"
    answered = [*facts, *speech(24, 25), heard(24, 25, "three"), over(26), ended(40)]
    (own,) = evaluate(script, answered, judgements={})
    assert own.question is not None and own.question.subject == "three"
