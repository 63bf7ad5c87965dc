"""Expectations, judged on made-up facts: met or missed, in order, in time, and by which witness."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bots.caller.script import (
    AfterSilence,
    Expectation,
    FunctionCall,
    Listen,
    PressKeys,
    Script,
    StaySilent,
    Turn,
)
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import (
    AgentCalledFunction,
    AgentFunctionReturned,
    AgentSaid,
    AgentStartedSpeaking,
    CallerHeardAs,
    CallerTurnStarted,
    MessageReceived,
    Source,
    TimelineEvent,
)
from runner.evaluation.expectations import describe, evaluate, evaluate_turn
from runner.evaluation.verdicts import KNOWN_LATE_NS, ExpectationVerdict, Verdict
from runner.evaluation.view import CallView
from tests.evaluation.facts import (
    MET,
    MISSED,
    NOT_OBSERVABLE,
    PENDING,
    READY,
    SPEAK,
    call,
    called,
    contains,
    expect,
    flat,
    heard,
    judge,
    onset,
    over,
    s,
    speech,
    stop,
    told,
)
from tests.evaluation.facts import taken_up as turn
from tests.examples import examples, named

# A turn begins at 10 s unless said otherwise.


def spoken(begin_s: float, end_s: float, text: str) -> list[TimelineEvent]:
    return [*speech(begin_s, end_s), heard(begin_s, end_s, text)]


def judged(facts: Sequence[Any], *expected: Expectation, **more: Any) -> list[ExpectationVerdict]:
    """Judge one turn. What is told is heard as well, unless the facts say when."""
    given = flat(facts)
    if not any(isinstance(e, AgentStartedSpeaking) for e in given):
        given += [onset(e.at_s) for e in given if isinstance(e, AgentSaid)]
    return judge(given, *expected, **more)


def states(*args: Any, **more: Any) -> list[Verdict]:
    return [verdict.verdict for verdict in judged(*args, **more)]


WORDS = named(
    ("contains", contains("table"), "Which table do you want?", MET),
    ("contains, other case", contains("TABLE"), "which table?", MET),
    ("contains, other punctuation", contains("how many"), "How... many?", MET),
    ("contains, no whole word", contains("table"), "Tables are out.", MISSED),
    ("contains, spoken number", contains("555-0142"), "five five five, zero one four two", MET),
    ("contains not", contains("table"), "Goodbye.", MISSED),
    ("excludes", expect(text_excludes="sorry"), "Which table?", MET),
    ("excludes not", expect(text_excludes="sorry"), "I am Sorry!", MISSED),
    ("matches", expect(text_matches=r"\btab(le)?\b"), "A Table.", MET),
    ("matches not", expect(text_matches=r"^table"), "A table.", MISSED),
    ("spoken", expect(text_matches=r"call 555-?0142"), "Call five five five, zero one four two.", MET),
    ("matches as it was said", expect(text_matches=r"five five five"), "Call five five five.", MET),
    ("another", expect(text_matches=r"555 0143"), "Call five five five, zero one four two.", MISSED),
    ("contains and excludes", contains("table", text_excludes="sorry"), "A table it is.", MET),
    ("contains but excludes", contains("table", text_excludes="sorry"), "Sorry, no table.", MISSED),
    ("excludes but contains not", contains("table", text_excludes="sorry"), "Fine.", MISSED),
    ("contains and matches", contains("table", text_matches="four"), "A table for four.", MET),
    ("contains, matches not", contains("table", text_matches="four"), "A table for five.", MISSED),
    ("anything", expect(), "Anything.", MET),
)


@pytest.mark.parametrize(("expectation", "text", "verdict"), WORDS)
@pytest.mark.parametrize("source", Source)
def test_words_decide(expectation: Expectation, text: str, verdict: Verdict, source: Source) -> None:
    said = spoken(11, 13, text) if source is Source.HEARD else [READY, told(11, text)]
    (result,) = judged([turn(10), said, over(14)], expectation)
    assert result.verdict is verdict
    assert (result.reason == "") is (verdict is MET)
    assert (result.turn, result.index, result.event) == (0, 0, "response")
    assert result.evidence[-1].text == text
    assert result.source is source


@pytest.mark.parametrize(
    ("facts", "verdict", "source"),
    named(
        ("misheard", [told(11, "A table."), *spoken(11, 12, "A cable.")], MET, Source.TOLD),
        ("heard alone", [told(11, "A chair."), *spoken(11, 12, "A table.")], MET, Source.HEARD),
        ("neither", [told(11, "A chair."), *spoken(11, 12, "A cable.")], MISSED, Source.TOLD),
        ("told badly", [told(11, "A table, sorry."), *spoken(11, 12, "A table.")], MISSED, Source.TOLD),
        ("misheard badly", [told(11, "A table."), *spoken(11, 12, "A table, sorry.")], MET, Source.TOLD),
        ("heard badly", [*spoken(11, 12, "A table, sorry.")], MISSED, Source.HEARD),
    ),
)
def test_told_words_win_and_heard_ones_only_help(
    facts: list[TimelineEvent], verdict: Verdict, source: Source
) -> None:
    (result,) = judged([READY, turn(10), facts, over(13)], contains("table", text_excludes="sorry"))
    assert (result.verdict, result.source) == (verdict, source)


def test_words_are_looked_for_across_the_sentences_of_a_reply() -> None:
    facts = [READY, turn(10), told(11, "For how"), told(12, "many people?")]
    (result,) = judged(facts, contains("how many people"))
    assert result.verdict is MET
    assert [evidence.at_s for evidence in result.evidence] == [11, 12]


def test_words_of_two_witnesses_are_never_joined() -> None:
    assert states([READY, turn(10), told(11, "For how"), spoken(11, 12, "many")], contains("how many")) == [MISSED]


@pytest.mark.parametrize(
    ("at_s", "within_ms", "verdict"),
    [
        (11.5, 1_500, MET),
        (11.500_000_001, 1_500, MISSED),
        (11.499_999_999, 1_500, MET),
        (10, 0, MET),
        (10.001, 0, MISSED),
        (70, None, MET),
        (70.001, None, MISSED),
        (99, 89_000, MET),
    ],
)
@pytest.mark.parametrize("event", ["response", "bot_started_speaking", "function_call", "words"])
def test_the_budget_counts_from_the_beginning_of_the_turn(
    at_s: float, within_ms: int | None, verdict: Verdict, event: str
) -> None:
    fact = {"function_call": called(at_s), "words": told(at_s, "a table")}.get(event, onset(at_s))
    expectation = contains("table") if event == "words" else expect(event)
    (result,) = judged([READY, turn(10), fact], expectation.model_copy(update={"within_ms": within_ms}))
    assert result.verdict is verdict
    if verdict is MISSED:
        assert "too late (limit" in result.reason


@pytest.mark.parametrize("within_ms", [1_000, None])
def test_what_never_comes_is_missed(within_ms: int | None) -> None:
    (result,) = judged([READY, turn(10)], expect(within_ms=within_ms))
    assert result.verdict is MISSED
    assert result.reason == f"no response within {(within_ms or 60_000) / 1000:g} s"
    assert result.evidence == ()


ORDER = named(
    ("in order", [told(11, "one"), told(12, "two")], [contains("one"), contains("two")], [MET, MET]),
    ("swapped", [told(11, "two"), told(12, "one")], [contains("one"), contains("two")], [MET, MISSED]),
    ("one cannot serve twice", [told(11, "one")], [contains("one"), contains("one")], [MET, MISSED]),
    (
        "with a call",
        [told(11, "one"), called(12), told(13, "two")],
        [contains("one"), expect("function_call"), contains("two")],
        [MET, MET, MET],
    ),
    ("call too early", [called(11), told(12, "one")], [contains("one"), expect("function_call")], [MET, MISSED]),
    ("first missed", [told(11, "one")], [contains("two"), contains("one"), expect()], [MISSED, MISSED, MISSED]),
    (
        "speaking",
        [onset(11), stop(12), onset(13)],
        [expect("bot_started_speaking"), expect("bot_stopped_speaking"), expect("bot_started_speaking")],
        [MET, MET, MET],
    ),
    ("one onset", [onset(11)], [expect("bot_started_speaking"), expect("bot_started_speaking")], [MET, MISSED]),
)


@pytest.mark.parametrize(("facts", "expectations", "expected"), ORDER)
def test_expectations_are_met_in_their_order(
    facts: list[TimelineEvent], expectations: list[Expectation], expected: list[Verdict]
) -> None:
    results = judged([READY, turn(10), *facts], *expectations)
    assert [result.verdict for result in results] == expected
    for before, result in itertools.pairwise(results):
        if before.verdict is MISSED:
            assert result.reason == "the expectation above it failed"


def test_the_words_of_a_reply_are_found_after_its_onset_was() -> None:
    """Both are one reply: to ask when it began does not use up what it said."""
    expectations = (expect("bot_started_speaking", within_ms=2_000), contains("table"))
    assert states([turn(10), spoken(11, 12, "A table.")], *expectations) == [MET, MET]
    assert states([READY, turn(10), told(11.2, "A table."), spoken(11, 12, "A table.")], *expectations) == [
        MET,
        MET,
    ]


def test_facts_can_come_in_any_order() -> None:
    facts = [told(12, "two"), turn(10), told(11, "one"), READY]
    assert states(facts, contains("one"), contains("two")) == [MET, MET]


def test_words_before_or_after_a_turn_belong_to_others() -> None:
    script = Script(
        name="t",
        turns=tuple(Turn(action=SPEAK, expect=(contains(word),)) for word in ("one", "two")),
    )
    facts = [READY, told(9, "one"), turn(10), told(11, "two"), turn(20, 1), told(21, "one")]
    assert [v.verdict for v in evaluate(script, facts)] == [MISSED, MISSED]
    facts = [READY, turn(10), onset(11), told(11, "one"), turn(20, 1), onset(20), told(20, "two")]
    assert [(v.turn, v.verdict) for v in evaluate(script, facts)] == [(0, MET), (1, MET)]


def test_heard_words_belong_to_the_turn_their_speech_began_in() -> None:
    script = Script(name="t", turns=tuple(Turn(action=SPEAK, expect=(contains("one"),)) for _ in range(2)))
    facts = [turn(10), *spoken(12, 19, "one"), turn(20, 1), *spoken(23, 24, "two")]
    assert [v.verdict for v in evaluate(script, facts)] == [MET, MISSED]


@pytest.mark.parametrize("action", [Listen(), SPEAK, StaySilent(duration_ms=1), PressKeys(keys="1")])
@pytest.mark.parametrize("said", [spoken(2, 2.8, "Hello!"), [told(2, "Hello!")], [onset(2)]])
def test_only_a_first_turn_that_listens_takes_an_early_greeting(action: Any, said: list[TimelineEvent]) -> None:
    expectation = expect() if len(said) == 1 and isinstance(said[0], AgentStartedSpeaking) else contains("hello")
    expected = MET if isinstance(action, Listen) else MISSED
    assert states([READY, said, turn(3)], expectation, action=action) == [expected]


def test_a_later_turn_that_listens_takes_nothing_from_before_it() -> None:
    script = Script(name="t", turns=(Turn(action=SPEAK), Turn(expect=(contains("one"),))))
    facts = [READY, turn(5), told(9, "one"), turn(10, 1), told(11, "two")]
    assert [v.verdict for v in evaluate(script, facts)] == [MISSED]


ABSENT = named(
    ("nothing at all", [], [expect(absent=True, within_ms=5_000)], [MET]),
    ("speech", [onset(14)], [expect(absent=True, within_ms=5_000)], [MISSED]),
    ("words", [told(14, "x")], [expect(absent=True, within_ms=5_000)], [MISSED]),
    ("at the very end", [onset(15)], [expect(absent=True, within_ms=5_000)], [MISSED]),
    ("just after", [onset(15.001)], [expect(absent=True, within_ms=5_000)], [MET]),
    ("before the turn", [onset(9)], [expect(absent=True, within_ms=5_000)], [MET]),
    ("a call", [called(11)], [expect("function_call", absent=True, within_ms=5_000)], [MISSED]),
    ("something else", [onset(11)], [expect("function_call", absent=True, within_ms=5_000)], [MET]),
    (
        "what goes on with the reply is no new one",
        [told(11, "one"), onset(11.2), told(12, "and more"), stop(13), over(13.8)],
        [contains("one"), expect(absent=True, within_ms=9_000)],
        [MET, MET],
    ),
    (
        "a second reply",
        [told(11, "one"), onset(11.2), stop(13), over(13.8), onset(16)],
        [contains("one"), expect(absent=True, within_ms=9_000)],
        [MET, MISSED],
    ),
    (
        "a second reply, heard",
        [*spoken(11, 13, "one"), over(13.8), *spoken(16, 18, "again")],
        [contains("one"), expect(absent=True, within_ms=9_000)],
        [MET, MISSED],
    ),
    (
        "a second reply, late enough",
        [*spoken(11, 13, "one"), over(13.8), *spoken(20, 21, "again")],
        [contains("one"), expect(absent=True, within_ms=9_000)],
        [MET, MET],
    ),
    (
        "a reply with a pause",
        [*spoken(11, 13, "one"), *spoken(13.3, 14, "and more"), over(14.8)],
        [contains("one"), expect(absent=True, within_ms=9_000)],
        [MET, MET],
    ),
)


@pytest.mark.parametrize(("facts", "expectations", "expected"), ABSENT)
def test_what_must_not_come(
    facts: list[TimelineEvent], expectations: list[Expectation], expected: list[Verdict]
) -> None:
    results = judged([READY, turn(10), *facts], *expectations)
    assert [result.verdict for result in results] == expected
    if expected[-1] is MISSED:
        assert "after all" in results[-1].reason and results[-1].evidence


CALLS = named(
    ("any", [called(11)], [call()], MET),
    ("by name", [called(11)], [call("book")], MET),
    ("other name", [called(11)], [call("cancel")], MISSED),
    ("none", [], [call()], MISSED),
    ("some arguments", [called(11, people=2, day="friday")], [call("book", people=2)], MET),
    ("all arguments", [called(11, people=2, day="friday")], [call("book", people=2, day="friday")], MET),
    ("other value", [called(11, people=3)], [call("book", people=2)], MISSED),
    ("other type", [called(11, people="2")], [call("book", people=2)], MISSED),
    ("no arguments", [called(11)], [call("book", people=2)], MISSED),
    ("null is a value", [called(11, note=None)], [call("book", note=None)], MET),
    ("null is not nothing", [called(11)], [call("book", note=None)], MISSED),
    ("nested", [called(11, where={"x": [1]})], [call("book", where={"x": [1]})], MET),
    ("corrected", [called(11, people=3), called(12, people=2)], [call("book", people=2)], MET),
    ("several, in any order", [called(11, "b", "1"), called(12, "a", "2")], [call("a"), call("b")], MET),
    ("one call cannot serve twice", [called(11, "a", "1")], [call("a"), call("a")], MISSED),
    ("two of a kind", [called(11, "a", "1"), called(12, "a", "2")], [call("a"), call("a")], MET),
    ("one is missing", [called(11, "a", "1"), called(12, "c", "2")], [call("a"), call("b")], MISSED),
    ("before the turn", [called(9)], [call()], MISSED),
)


@pytest.mark.parametrize(("facts", "calls", "expected"), CALLS)
def test_function_calls_are_found_by_name_and_some_arguments(
    facts: list[TimelineEvent], calls: list[FunctionCall], expected: Verdict
) -> None:
    (result,) = judged([READY, turn(10), *facts], expect("function_call", calls=tuple(calls)))
    assert result.verdict is expected
    if expected is MET:
        assert {evidence.text for evidence in result.evidence} <= {"book", "a", "b"} and result.evidence


def test_a_functions_return_has_its_result_and_cancellation() -> None:
    returned = AgentFunctionReturned(at_ns=s(12), call_id="c", name="book", result={"id": 7}, cancelled=True)
    facts = [READY, turn(10), called(11), returned]
    for args, expected in [({"cancelled": True}, MET), ({"cancelled": False}, MISSED), ({"result": {"id": 7}}, MET)]:
        expectation = expect("function_call_stopped", calls=(FunctionCall(name="book", args=args),))
        assert states(facts, expectation) == [expected]


def named_only(at_s: float) -> TimelineEvent:
    return AgentCalledFunction(at_ns=s(at_s), call_id="c", name="book")


UNOBSERVABLE = named(
    ("call without RTVI", [onset(11)], expect("function_call")),
    ("no call without RTVI", [onset(11)], expect("function_call", absent=True, within_ms=100)),
    ("transcription without RTVI", [onset(11)], expect("user_transcription")),
    ("LLM without RTVI", [onset(11)], expect("llm_started")),
    ("no LLM without RTVI", [onset(11)], expect("llm_started", absent=True, within_ms=100)),
    ("LLM's words without RTVI", [*spoken(11, 12, "a table")], expect("llm_response")),
    ("TTS's words without RTVI", [*spoken(11, 12, "a table")], expect("tts_response", text_contains="a")),
    ("no TTS's words without RTVI", [*spoken(11, 12, "a table")], expect("tts_response", absent=True, within_ms=100)),
    ("call without name", [READY, called(11, None)], expect("function_call", calls=(call("book"),))),
    ("call without arguments", [READY, named_only(11)], expect("function_call", calls=(call("book", people=2),))),
)


@pytest.mark.parametrize(("facts", "expectation"), UNOBSERVABLE)
def test_what_the_agent_does_not_let_see_is_not_held_against_it(
    facts: list[TimelineEvent], expectation: Expectation
) -> None:
    (result,) = judged([turn(10), *facts], expectation)
    assert result.verdict is NOT_OBSERVABLE
    assert "the agent does not" in result.reason


def test_what_can_be_heard_needs_no_rtvi() -> None:
    facts = [turn(10), spoken(11, 12, "a table")]
    for expectation in (expect(), contains("table"), expect("bot_started_speaking"), expect("bot_stopped_speaking")):
        assert states(facts, expectation) == [MET]
    for expectation in (contains("chair"), expect("response", absent=True, within_ms=2_000)):
        assert states(facts, expectation) == [MISSED]
    assert states([turn(10)], expect("bot_started_speaking")) == [MISSED]


def test_a_call_without_arguments_can_be_told_by_its_name() -> None:
    assert states([READY, turn(10), named_only(11)], expect("function_call", calls=(call("book"),))) == [MET]
    assert states([READY, turn(10), named_only(11)], expect("function_call", calls=(call("x", a=1),))) == [MISSED]


def test_speech_of_unknown_words_is_not_held_against_the_agent() -> None:
    """Nobody told, and our own recognition gave nothing for the whole call."""
    (result,) = judged([turn(10), onset(11), stop(13), over(14)], contains("table"))
    assert result.verdict is NOT_OBSERVABLE


def test_silence_is_a_failure_whatever_words_were_asked_for() -> None:
    assert states([turn(10)], contains("table")) == [MISSED]
    assert states([READY, turn(10)], contains("table")) == [MISSED]


@pytest.mark.parametrize(
    "expectation",
    [
        contains("table", within_ms=5_000),
        expect(text_excludes="table", within_ms=5_000),
        expect(within_ms=5_000),
        expect("function_call", within_ms=5_000),
        expect("user_transcription", within_ms=5_000),
        expect(absent=True, within_ms=5_000),
        expect("llm_response", within_ms=5_000),
    ],
)
@pytest.mark.parametrize("rtvi", [True, False])
def test_while_there_is_time_nothing_is_decided(expectation: Expectation, rtvi: bool) -> None:
    facts: list[TimelineEvent] = [turn(10), *([READY] if rtvi else [])]
    final = states(facts, expectation)
    (last_pending_s,) = (15.0,) if final == [NOT_OBSERVABLE] else (15.0 + KNOWN_LATE_NS / NS_PER_S,)
    assert states(facts, expectation, now_s=last_pending_s) == [PENDING]
    assert states(facts, expectation, now_s=last_pending_s + 0.001) == final
    assert states(facts, expectation) != [PENDING]


def test_what_follows_something_pending_is_pending() -> None:
    facts = [READY, turn(10), told(11, "one")]
    assert states(facts, contains("one"), contains("two"), expect(), now_s=12) == [MET, PENDING, PENDING]


def test_a_forbidden_word_is_pending_until_the_reply_is_over() -> None:
    facts = [READY, turn(10), told(11, "one"), onset(11.1), stop(12)]
    excluding = expect(text_excludes="sorry")
    assert states(facts, excluding, now_s=12) == [PENDING]
    assert states([*facts, over(12.8)], excluding, now_s=13) == [MET]
    assert states([*facts, told(11.5, "sorry")], excluding, now_s=12) == [MISSED]
    assert states(facts, excluding) == [MET]


def test_a_live_verdict_of_met_or_missed_is_the_final_one() -> None:
    for facts in ([told(11, "one")], [told(11, "two")], [onset(11)], [called(11)], []):
        for expectation in (contains("one", within_ms=5_000), expect(within_ms=5_000)):
            (final,) = states([READY, turn(10), *facts, over(12)], expectation)
            assert states([READY, turn(10), *facts, over(12)], expectation, now_s=28) == [final]


@pytest.mark.parametrize(("now_s", "expected"), [(None, MISSED), (500, PENDING)])
def test_a_turn_that_was_not_reached(now_s: float | None, expected: Verdict) -> None:
    script = Script(name="t", turns=(Turn(action=SPEAK), Turn(action=SPEAK, expect=(expect(), contains("x")))))
    results = evaluate(script, [READY, turn(10), told(11, "x")], now_ns=None if now_s is None else s(now_s))
    assert [result.verdict for result in results] == [expected, expected]
    assert [result.reason for result in results] == ["" if now_s else "the turn was never reached"] * 2


def test_other_messages_are_known_by_their_rtvi_names() -> None:
    message = MessageReceived(at_ns=s(11), message={"label": "rtvi-ai", "type": "bot-llm-started"})
    assert states([READY, turn(10), message], expect("llm_started")) == [MET]
    assert states([READY, turn(10)], expect("llm_started")) == [MISSED]


def test_what_the_agent_made_of_the_caller_can_be_asked_for() -> None:
    facts = [
        READY,
        turn(10),
        CallerHeardAs(at_ns=s(11), text="a table"),
        CallerHeardAs(at_ns=s(12), text="for two"),
    ]
    assert states(facts, expect("user_transcription", text_contains="table for two")) == [MET]
    assert states(facts, expect("user_transcription", text_contains="four")) == [MISSED]


def test_the_evidence_says_what_was_seen_and_when() -> None:
    (result,) = judged([READY, turn(10), told(11.23456, "A table.")], contains("table"))
    (evidence,) = result.evidence
    assert evidence.model_dump() == {"event": "agent_said", "at_s": 11.235, "text": "A table.", "source": "told"}


@pytest.mark.parametrize(
    ("expectation", "words"),
    [
        (expect(), "response"),
        (expect(within_ms=1_500), "response within 1.5 s"),
        (contains("two"), "response containing 'two'"),
        (expect(text_matches="a.c", text_excludes="x"), "response matching /a.c/ without 'x'"),
        (expect("function_call", calls=(call("book", people=2), call())), "to book(people=2), any function()"),
        (expect(absent=True, within_ms=3_000), "no response within 3 s"),
    ],
)
def test_an_expectation_in_words(expectation: Expectation, words: str) -> None:
    assert describe(expectation).endswith(words)


def test_a_pending_verdict_says_when_time_alone_may_decide_it() -> None:
    expecting = Turn(expect=(Expectation(within_ms=1_000), Expectation(within_ms=2_000)))
    facts = [CallerTurnStarted(at_ns=s(10), turn=0)]
    first, second = evaluate_turn(0, expecting, CallView(facts), now_ns=s(10))
    assert first.recheck_ns == s(11) + KNOWN_LATE_NS + 1 and second.recheck_ns is None
    (decided, _) = evaluate_turn(0, expecting, CallView(facts), now_ns=first.recheck_ns)
    assert decided.verdict is Verdict.MISSED and decided.recheck_ns is None


@pytest.mark.parametrize("pattern", ["(", "[a", "*x", "(?=a)", r"(a)\1"])
def test_a_pattern_that_is_none_is_refused_before_any_call(pattern: str) -> None:
    with pytest.raises(ValidationError, match="text_matches"):
        expect(text_matches=pattern)


FACTS = st.lists(
    st.one_of(
        st.builds(onset, st.floats(0, 80)),
        st.builds(stop, st.floats(0, 80)),
        st.builds(over, st.floats(0, 80)),
        st.builds(told, st.floats(0, 80), st.sampled_from(["one", "two", "sorry"])),
        st.builds(called, st.floats(0, 80), st.sampled_from(["book", None]), people=st.integers(1, 3)),
        st.just(READY),
        st.just(turn(10)),
        st.just(turn(30, 1)),
    ),
    max_size=14,
)
EXPECTATIONS = st.sampled_from(
    [
        expect(),
        contains("one"),
        contains("two", within_ms=5_000),
        expect(text_excludes="sorry"),
        expect(absent=True, within_ms=4_000),
        expect("function_call", calls=(call("book", people=2),)),
        expect("bot_stopped_speaking"),
        expect("llm_started"),
    ]
)


@given(FACTS, st.lists(EXPECTATIONS, max_size=3), st.lists(EXPECTATIONS, max_size=3), st.floats(0, 100))
@settings(max_examples=examples(150), deadline=None)
def test_every_expectation_gets_one_verdict_and_none_is_pending(
    facts: list[TimelineEvent], first: list[Expectation], second: list[Expectation], now_s: float
) -> None:
    script = Script(name="t", turns=(Turn(expect=tuple(first)), Turn(action=SPEAK, expect=tuple(second))))
    final = evaluate(script, facts)
    assert [(v.turn, v.index) for v in final] == [
        *((0, index) for index in range(len(first))),
        *((1, index) for index in range(len(second))),
    ]
    assert all(v.verdict is not PENDING for v in final)
    assert all((v.verdict is MET) or v.reason for v in final)
    live = evaluate(script, facts, now_ns=s(now_s))
    assert [(v.turn, v.index) for v in live] == [(v.turn, v.index) for v in final]
    ordered = sorted(facts, key=lambda event: event.at_ns)
    for index, scripted in enumerate(script.turns):
        alone = evaluate_turn(index, scripted, CallView(ordered))
        assert alone == [v for v in final if v.turn == index]


def test_a_second_is_a_second() -> None:
    assert s(1) == 1_000 * NS_PER_MS
    assert AfterSilence(duration_ms=1_000).duration_ms * NS_PER_MS == s(1)
