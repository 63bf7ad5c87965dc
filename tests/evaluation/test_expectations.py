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
    Speak,
    StaySilent,
    Turn,
    Words,
)
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import (
    AgentCalledFunction,
    AgentFunctionReturned,
    AgentSaid,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    BotReady,
    CallerHeardAs,
    CallerTurnStarted,
    MessageReceived,
    Source,
    TimelineEvent,
)
from runner.evaluation.expectations import describe, evaluate, evaluate_turn
from runner.evaluation.verdicts import KNOWN_LATE_NS, ExpectationVerdict, Verdict
from runner.evaluation.view import CallView
from tests.evaluation.facts import over, s, told
from tests.examples import examples

MET, MISSED, PENDING, NOT_OBSERVABLE = Verdict.MET, Verdict.MISSED, Verdict.PENDING, Verdict.NOT_OBSERVABLE
SPEAK = Speak(parts=(Words(text="A table for two, please."),))


def expect(event: str = "response", **kwargs: Any) -> Expectation:
    return Expectation(event=event, **kwargs)


def contains(text: str, **kwargs: Any) -> Expectation:
    return Expectation(text_contains=text, **kwargs)


def call(name: str | None = None, **args: Any) -> FunctionCall:
    return FunctionCall(name=name, args=args or None)


# Facts. A turn begins at 10 s unless said otherwise.


def turn(at_s: float, index: int = 0) -> TimelineEvent:
    return CallerTurnStarted(at_ns=s(at_s), turn=index)


def ready() -> TimelineEvent:
    return BotReady(at_ns=s(1))


def onset(at_s: float) -> TimelineEvent:
    return AgentStartedSpeaking(at_ns=s(at_s))


def stop(at_s: float) -> TimelineEvent:
    return AgentStoppedSpeaking(at_ns=s(at_s))


def heard(start_s: float, end_s: float, text: str) -> list[TimelineEvent]:
    said = AgentSaid(at_ns=s(end_s), text=text, source=Source.HEARD, started_ns=s(start_s))
    return [onset(start_s), stop(end_s), said]


def called(at_s: float, name: str | None = "book", call_id: str = "c", **arguments: Any) -> TimelineEvent:
    return AgentCalledFunction(at_ns=s(at_s), call_id=call_id, name=name, arguments=arguments)


def judge(
    facts: Sequence[TimelineEvent | list[TimelineEvent]],
    *expectations: Expectation,
    action: Any = SPEAK,
    now_s: float | None = None,
    audible: bool = True,
) -> list[ExpectationVerdict]:
    """Judge one turn. What is told is heard as well, unless ``audible`` is false or the facts say when."""
    flat = [e for fact in facts for e in (fact if isinstance(fact, list) else [fact])]
    if audible and not any(isinstance(e, AgentStartedSpeaking) for e in flat):
        flat += [AgentStartedSpeaking(at_ns=e.at_ns) for e in flat if isinstance(e, AgentSaid)]
    script = Script(name="t", turns=(Turn(action=action, expect=expectations),))
    return evaluate(script, flat, now_ns=None if now_s is None else s(now_s))


def verdicts(*args: Any, **kwargs: Any) -> list[Verdict]:
    return [verdict.verdict for verdict in judge(*args, **kwargs)]


WORDS = [
    pytest.param(contains("table"), "Which table do you want?", MET, id="contains"),
    pytest.param(contains("TABLE"), "which table?", MET, id="contains, other case"),
    pytest.param(contains("how many"), "How... many?", MET, id="contains, other punctuation"),
    pytest.param(contains("table"), "Tables are out.", MISSED, id="contains, no whole word"),
    pytest.param(contains("555-0142"), "five five five, zero one four two", MET, id="contains, spoken number"),
    pytest.param(contains("table"), "Goodbye.", MISSED, id="contains not"),
    pytest.param(expect(text_excludes="sorry"), "Which table?", MET, id="excludes"),
    pytest.param(expect(text_excludes="sorry"), "I am Sorry!", MISSED, id="excludes not"),
    pytest.param(expect(text_matches=r"\btab(le)?\b"), "A Table.", MET, id="matches"),
    pytest.param(expect(text_matches=r"^table"), "A table.", MISSED, id="matches not"),
    pytest.param(expect(text_matches=r"call 555-?0142"), "Call five five five, zero one four two.", MET, id="spoken"),
    pytest.param(expect(text_matches=r"five five five"), "Call five five five.", MET, id="matches as it was said"),
    pytest.param(expect(text_matches=r"555 0143"), "Call five five five, zero one four two.", MISSED, id="another"),
    pytest.param(contains("table", text_excludes="sorry"), "A table it is.", MET, id="contains and excludes"),
    pytest.param(contains("table", text_excludes="sorry"), "Sorry, no table.", MISSED, id="contains but excludes"),
    pytest.param(contains("table", text_excludes="sorry"), "Fine.", MISSED, id="excludes but contains not"),
    pytest.param(contains("table", text_matches="four"), "A table for four.", MET, id="contains and matches"),
    pytest.param(contains("table", text_matches="four"), "A table for five.", MISSED, id="contains, matches not"),
    pytest.param(expect(), "Anything.", MET, id="anything"),
]


@pytest.mark.parametrize(("expectation", "text", "verdict"), WORDS)
@pytest.mark.parametrize("source", Source)
def test_words_decide(expectation: Expectation, text: str, verdict: Verdict, source: Source) -> None:
    said = heard(11, 13, text) if source is Source.HEARD else [ready(), told(11, text)]
    (result,) = judge([turn(10), said, over(14)], expectation)
    assert result.verdict is verdict
    assert (result.reason == "") is (verdict is MET)
    assert (result.turn, result.index, result.event) == (0, 0, "response")
    assert result.evidence[-1].text == text
    assert result.source is source


@pytest.mark.parametrize(
    ("facts", "verdict", "source"),
    [
        pytest.param([told(11, "A table."), *heard(11, 12, "A cable.")], MET, Source.TOLD, id="misheard"),
        pytest.param([told(11, "A chair."), *heard(11, 12, "A table.")], MET, Source.HEARD, id="heard alone"),
        pytest.param([told(11, "A chair."), *heard(11, 12, "A cable.")], MISSED, Source.TOLD, id="neither"),
        pytest.param([told(11, "A table, sorry."), *heard(11, 12, "A table.")], MISSED, Source.TOLD, id="told badly"),
        pytest.param(
            [told(11, "A table."), *heard(11, 12, "A table, sorry.")], MET, Source.TOLD, id="misheard badly"
        ),
        pytest.param([*heard(11, 12, "A table, sorry.")], MISSED, Source.HEARD, id="heard badly"),
    ],
)
def test_told_words_win_and_heard_ones_only_help(
    facts: list[TimelineEvent], verdict: Verdict, source: Source
) -> None:
    (result,) = judge([ready(), turn(10), facts, over(13)], contains("table", text_excludes="sorry"))
    assert (result.verdict, result.source) == (verdict, source)


def test_words_are_looked_for_across_the_sentences_of_a_reply() -> None:
    facts = [ready(), turn(10), told(11, "For how"), told(12, "many people?")]
    (result,) = judge(facts, contains("how many people"))
    assert result.verdict is MET
    assert [evidence.at_s for evidence in result.evidence] == [11, 12]


def test_words_of_two_witnesses_are_never_joined() -> None:
    assert verdicts([ready(), turn(10), told(11, "For how"), heard(11, 12, "many")], contains("how many")) == [MISSED]


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
    (result,) = judge([ready(), turn(10), fact], expectation.model_copy(update={"within_ms": within_ms}))
    assert result.verdict is verdict
    if verdict is MISSED:
        assert "too late (limit" in result.reason


@pytest.mark.parametrize("within_ms", [1_000, None])
def test_what_never_comes_is_missed(within_ms: int | None) -> None:
    (result,) = judge([ready(), turn(10)], expect(within_ms=within_ms))
    assert result.verdict is MISSED
    assert result.reason == f"no response within {(within_ms or 60_000) / 1000:g} s"
    assert result.evidence == ()


ORDER = [
    pytest.param([told(11, "one"), told(12, "two")], [contains("one"), contains("two")], [MET, MET], id="in order"),
    pytest.param([told(11, "two"), told(12, "one")], [contains("one"), contains("two")], [MET, MISSED], id="swapped"),
    pytest.param([told(11, "one")], [contains("one"), contains("one")], [MET, MISSED], id="one cannot serve twice"),
    pytest.param(
        [told(11, "one"), called(12), told(13, "two")],
        [contains("one"), expect("function_call"), contains("two")],
        [MET, MET, MET],
        id="with a call",
    ),
    pytest.param(
        [called(11), told(12, "one")], [contains("one"), expect("function_call")], [MET, MISSED], id="call too early"
    ),
    pytest.param(
        [told(11, "one")], [contains("two"), contains("one"), expect()], [MISSED, MISSED, MISSED], id="first missed"
    ),
    pytest.param(
        [onset(11), stop(12), onset(13)],
        [expect("bot_started_speaking"), expect("bot_stopped_speaking"), expect("bot_started_speaking")],
        [MET, MET, MET],
        id="speaking",
    ),
    pytest.param(
        [onset(11)], [expect("bot_started_speaking"), expect("bot_started_speaking")], [MET, MISSED], id="one onset"
    ),
]


@pytest.mark.parametrize(("facts", "expectations", "expected"), ORDER)
def test_expectations_are_met_in_their_order(
    facts: list[TimelineEvent], expectations: list[Expectation], expected: list[Verdict]
) -> None:
    results = judge([ready(), turn(10), *facts], *expectations)
    assert [result.verdict for result in results] == expected
    for before, result in itertools.pairwise(results):
        if before.verdict is MISSED:
            assert result.reason == "the expectation above it failed"


def test_the_words_of_a_reply_are_found_after_its_onset_was() -> None:
    """Both are one reply: to ask when it began does not use up what it said."""
    expectations = (expect("bot_started_speaking", within_ms=2_000), contains("table"))
    assert verdicts([turn(10), heard(11, 12, "A table.")], *expectations) == [MET, MET]
    assert verdicts([ready(), turn(10), told(11.2, "A table."), heard(11, 12, "A table.")], *expectations) == [
        MET,
        MET,
    ]


def test_facts_can_come_in_any_order() -> None:
    facts = [told(12, "two"), turn(10), told(11, "one"), ready()]
    assert verdicts(facts, contains("one"), contains("two")) == [MET, MET]


def test_words_before_or_after_a_turn_belong_to_others() -> None:
    script = Script(
        name="t",
        turns=tuple(Turn(action=SPEAK, expect=(contains(word),)) for word in ("one", "two")),
    )
    facts = [ready(), told(9, "one"), turn(10), told(11, "two"), turn(20, 1), told(21, "one")]
    assert [v.verdict for v in evaluate(script, facts)] == [MISSED, MISSED]
    facts = [ready(), turn(10), onset(11), told(11, "one"), turn(20, 1), onset(20), told(20, "two")]
    assert [(v.turn, v.verdict) for v in evaluate(script, facts)] == [(0, MET), (1, MET)]


def test_heard_words_belong_to_the_turn_their_speech_began_in() -> None:
    script = Script(name="t", turns=tuple(Turn(action=SPEAK, expect=(contains("one"),)) for _ in range(2)))
    facts = [turn(10), *heard(12, 19, "one"), turn(20, 1), *heard(23, 24, "two")]
    assert [v.verdict for v in evaluate(script, facts)] == [MET, MISSED]


@pytest.mark.parametrize("action", [Listen(), SPEAK, StaySilent(duration_ms=1), PressKeys(keys="1")])
@pytest.mark.parametrize("said", [heard(2, 2.8, "Hello!"), [told(2, "Hello!")], [onset(2)]])
def test_only_a_first_turn_that_listens_takes_an_early_greeting(action: Any, said: list[TimelineEvent]) -> None:
    expectation = expect() if len(said) == 1 and isinstance(said[0], AgentStartedSpeaking) else contains("hello")
    expected = MET if isinstance(action, Listen) else MISSED
    assert verdicts([ready(), said, turn(3)], expectation, action=action) == [expected]


def test_a_later_turn_that_listens_takes_nothing_from_before_it() -> None:
    script = Script(name="t", turns=(Turn(action=SPEAK), Turn(expect=(contains("one"),))))
    facts = [ready(), turn(5), told(9, "one"), turn(10, 1), told(11, "two")]
    assert [v.verdict for v in evaluate(script, facts)] == [MISSED]


ABSENT = [
    pytest.param([], [expect(absent=True, within_ms=5_000)], [MET], id="nothing at all"),
    pytest.param([onset(14)], [expect(absent=True, within_ms=5_000)], [MISSED], id="speech"),
    pytest.param([told(14, "x")], [expect(absent=True, within_ms=5_000)], [MISSED], id="words"),
    pytest.param([onset(15)], [expect(absent=True, within_ms=5_000)], [MISSED], id="at the very end"),
    pytest.param([onset(15.001)], [expect(absent=True, within_ms=5_000)], [MET], id="just after"),
    pytest.param([onset(9)], [expect(absent=True, within_ms=5_000)], [MET], id="before the turn"),
    pytest.param([called(11)], [expect("function_call", absent=True, within_ms=5_000)], [MISSED], id="a call"),
    pytest.param([onset(11)], [expect("function_call", absent=True, within_ms=5_000)], [MET], id="something else"),
    pytest.param(
        [told(11, "one"), onset(11.2), told(12, "and more"), stop(13), over(13.8)],
        [contains("one"), expect(absent=True, within_ms=9_000)],
        [MET, MET],
        id="what goes on with the reply is no new one",
    ),
    pytest.param(
        [told(11, "one"), onset(11.2), stop(13), over(13.8), onset(16)],
        [contains("one"), expect(absent=True, within_ms=9_000)],
        [MET, MISSED],
        id="a second reply",
    ),
    pytest.param(
        [*heard(11, 13, "one"), over(13.8), *heard(16, 18, "again")],
        [contains("one"), expect(absent=True, within_ms=9_000)],
        [MET, MISSED],
        id="a second reply, heard",
    ),
    pytest.param(
        [*heard(11, 13, "one"), over(13.8), *heard(20, 21, "again")],
        [contains("one"), expect(absent=True, within_ms=9_000)],
        [MET, MET],
        id="a second reply, late enough",
    ),
    pytest.param(
        [*heard(11, 13, "one"), *heard(13.3, 14, "and more"), over(14.8)],
        [contains("one"), expect(absent=True, within_ms=9_000)],
        [MET, MET],
        id="a reply with a pause",
    ),
]


@pytest.mark.parametrize(("facts", "expectations", "expected"), ABSENT)
def test_what_must_not_come(
    facts: list[TimelineEvent], expectations: list[Expectation], expected: list[Verdict]
) -> None:
    results = judge([ready(), turn(10), *facts], *expectations)
    assert [result.verdict for result in results] == expected
    if expected[-1] is MISSED:
        assert "after all" in results[-1].reason and results[-1].evidence


CALLS = [
    pytest.param([called(11)], [call()], MET, id="any"),
    pytest.param([called(11)], [call("book")], MET, id="by name"),
    pytest.param([called(11)], [call("cancel")], MISSED, id="other name"),
    pytest.param([], [call()], MISSED, id="none"),
    pytest.param([called(11, people=2, day="friday")], [call("book", people=2)], MET, id="some arguments"),
    pytest.param(
        [called(11, people=2, day="friday")], [call("book", people=2, day="friday")], MET, id="all arguments"
    ),
    pytest.param([called(11, people=3)], [call("book", people=2)], MISSED, id="other value"),
    pytest.param([called(11, people="2")], [call("book", people=2)], MISSED, id="other type"),
    pytest.param([called(11)], [call("book", people=2)], MISSED, id="no arguments"),
    pytest.param([called(11, note=None)], [call("book", note=None)], MET, id="null is a value"),
    pytest.param([called(11)], [call("book", note=None)], MISSED, id="null is not nothing"),
    pytest.param([called(11, where={"x": [1]})], [call("book", where={"x": [1]})], MET, id="nested"),
    pytest.param([called(11, people=3), called(12, people=2)], [call("book", people=2)], MET, id="corrected"),
    pytest.param(
        [called(11, "b", "1"), called(12, "a", "2")], [call("a"), call("b")], MET, id="several, in any order"
    ),
    pytest.param([called(11, "a", "1")], [call("a"), call("a")], MISSED, id="one call cannot serve twice"),
    pytest.param([called(11, "a", "1"), called(12, "a", "2")], [call("a"), call("a")], MET, id="two of a kind"),
    pytest.param([called(11, "a", "1"), called(12, "c", "2")], [call("a"), call("b")], MISSED, id="one is missing"),
    pytest.param([called(9)], [call()], MISSED, id="before the turn"),
]


@pytest.mark.parametrize(("facts", "calls", "expected"), CALLS)
def test_function_calls_are_found_by_name_and_some_arguments(
    facts: list[TimelineEvent], calls: list[FunctionCall], expected: Verdict
) -> None:
    (result,) = judge([ready(), turn(10), *facts], expect("function_call", calls=tuple(calls)))
    assert result.verdict is expected
    if expected is MET:
        assert {evidence.text for evidence in result.evidence} <= {"book", "a", "b"} and result.evidence


def test_a_functions_return_has_its_result_and_cancellation() -> None:
    returned = AgentFunctionReturned(at_ns=s(12), call_id="c", name="book", result={"id": 7}, cancelled=True)
    facts = [ready(), turn(10), called(11), returned]
    for args, expected in [({"cancelled": True}, MET), ({"cancelled": False}, MISSED), ({"result": {"id": 7}}, MET)]:
        expectation = expect("function_call_stopped", calls=(FunctionCall(name="book", args=args),))
        assert verdicts(facts, expectation) == [expected]


def named_only(at_s: float) -> TimelineEvent:
    return AgentCalledFunction(at_ns=s(at_s), call_id="c", name="book")


UNOBSERVABLE = [
    pytest.param([onset(11)], expect("function_call"), id="call without RTVI"),
    pytest.param([onset(11)], expect("function_call", absent=True, within_ms=100), id="no call without RTVI"),
    pytest.param([onset(11)], expect("user_transcription"), id="transcription without RTVI"),
    pytest.param([onset(11)], expect("llm_started"), id="LLM without RTVI"),
    pytest.param([onset(11)], expect("llm_started", absent=True, within_ms=100), id="no LLM without RTVI"),
    pytest.param([*heard(11, 12, "a table")], expect("llm_response"), id="LLM's words without RTVI"),
    pytest.param(
        [*heard(11, 12, "a table")], expect("tts_response", text_contains="a"), id="TTS's words without RTVI"
    ),
    pytest.param(
        [*heard(11, 12, "a table")],
        expect("tts_response", absent=True, within_ms=100),
        id="no TTS's words without RTVI",
    ),
    pytest.param([ready(), called(11, None)], expect("function_call", calls=(call("book"),)), id="call without name"),
    pytest.param(
        [ready(), named_only(11)],
        expect("function_call", calls=(call("book", people=2),)),
        id="call without arguments",
    ),
]


@pytest.mark.parametrize(("facts", "expectation"), UNOBSERVABLE)
def test_what_the_agent_does_not_let_see_is_not_held_against_it(
    facts: list[TimelineEvent], expectation: Expectation
) -> None:
    (result,) = judge([turn(10), *facts], expectation)
    assert result.verdict is NOT_OBSERVABLE
    assert "the agent does not" in result.reason


def test_what_can_be_heard_needs_no_rtvi() -> None:
    facts = [turn(10), heard(11, 12, "a table")]
    for expectation in (expect(), contains("table"), expect("bot_started_speaking"), expect("bot_stopped_speaking")):
        assert verdicts(facts, expectation) == [MET]
    for expectation in (contains("chair"), expect("response", absent=True, within_ms=2_000)):
        assert verdicts(facts, expectation) == [MISSED]
    assert verdicts([turn(10)], expect("bot_started_speaking")) == [MISSED]


def test_a_call_without_arguments_can_be_told_by_its_name() -> None:
    assert verdicts([ready(), turn(10), named_only(11)], expect("function_call", calls=(call("book"),))) == [MET]
    assert verdicts([ready(), turn(10), named_only(11)], expect("function_call", calls=(call("x", a=1),))) == [MISSED]


def test_speech_of_unknown_words_is_not_held_against_the_agent() -> None:
    """Nobody told, and our own recognition gave nothing for the whole call."""
    (result,) = judge([turn(10), onset(11), stop(13), over(14)], contains("table"))
    assert result.verdict is NOT_OBSERVABLE


def test_silence_is_a_failure_whatever_words_were_asked_for() -> None:
    assert verdicts([turn(10)], contains("table")) == [MISSED]
    assert verdicts([ready(), turn(10)], contains("table")) == [MISSED]


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
    facts: list[TimelineEvent] = [turn(10), *([ready()] if rtvi else [])]
    final = verdicts(facts, expectation)
    (last_pending_s,) = (15.0,) if final == [NOT_OBSERVABLE] else (15.0 + KNOWN_LATE_NS / NS_PER_S,)
    assert verdicts(facts, expectation, now_s=last_pending_s) == [PENDING]
    assert verdicts(facts, expectation, now_s=last_pending_s + 0.001) == final
    assert verdicts(facts, expectation) != [PENDING]


def test_what_follows_something_pending_is_pending() -> None:
    facts = [ready(), turn(10), told(11, "one")]
    assert verdicts(facts, contains("one"), contains("two"), expect(), now_s=12) == [MET, PENDING, PENDING]


def test_a_forbidden_word_is_pending_until_the_reply_is_over() -> None:
    facts = [ready(), turn(10), told(11, "one"), onset(11.1), stop(12)]
    excluding = expect(text_excludes="sorry")
    assert verdicts(facts, excluding, now_s=12) == [PENDING]
    assert verdicts([*facts, over(12.8)], excluding, now_s=13) == [MET]
    assert verdicts([*facts, told(11.5, "sorry")], excluding, now_s=12) == [MISSED]
    assert verdicts(facts, excluding) == [MET]


def test_a_live_verdict_of_met_or_missed_is_the_final_one() -> None:
    for facts in ([told(11, "one")], [told(11, "two")], [onset(11)], [called(11)], []):
        for expectation in (contains("one", within_ms=5_000), expect(within_ms=5_000)):
            (final,) = verdicts([ready(), turn(10), *facts, over(12)], expectation)
            assert verdicts([ready(), turn(10), *facts, over(12)], expectation, now_s=28) == [final]


@pytest.mark.parametrize(("now_s", "expected"), [(None, MISSED), (500, PENDING)])
def test_a_turn_that_was_not_reached(now_s: float | None, expected: Verdict) -> None:
    script = Script(name="t", turns=(Turn(action=SPEAK), Turn(action=SPEAK, expect=(expect(), contains("x")))))
    results = evaluate(script, [ready(), turn(10), told(11, "x")], now_ns=None if now_s is None else s(now_s))
    assert [result.verdict for result in results] == [expected, expected]
    assert [result.reason for result in results] == ["" if now_s else "the turn was never reached"] * 2


def test_other_messages_are_known_by_their_rtvi_names() -> None:
    message = MessageReceived(at_ns=s(11), message={"label": "rtvi-ai", "type": "bot-llm-started"})
    assert verdicts([ready(), turn(10), message], expect("llm_started")) == [MET]
    assert verdicts([ready(), turn(10)], expect("llm_started")) == [MISSED]


def test_what_the_agent_made_of_the_caller_can_be_asked_for() -> None:
    facts = [
        ready(),
        turn(10),
        CallerHeardAs(at_ns=s(11), text="a table"),
        CallerHeardAs(at_ns=s(12), text="for two"),
    ]
    assert verdicts(facts, expect("user_transcription", text_contains="table for two")) == [MET]
    assert verdicts(facts, expect("user_transcription", text_contains="four")) == [MISSED]


def test_the_evidence_says_what_was_seen_and_when() -> None:
    (result,) = judge([ready(), turn(10), told(11.23456, "A table.")], contains("table"))
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
        st.just(ready()),
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
