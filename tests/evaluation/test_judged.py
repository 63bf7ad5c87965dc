"""Expectations that a judge decides: what it is asked, when, and what its answer makes of them."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.caller.script import Expectation, FunctionCall, Listen, Script, Turn
from bots.clock import NS_PER_S
from bots.timeline import (
    AgentCalledFunction,
    AgentFunctionReturned,
    CallEnded,
    CallerHeardAs,
    EndedReason,
    Source,
    TimelineEvent,
)
from runner.evaluation.expectations import describe
from runner.evaluation.outcome import decide, judge_expectations
from runner.evaluation.search import NO_JUDGE
from runner.evaluation.verdicts import (
    KNOWN_LATE_NS,
    ExpectationVerdict,
    Judgement,
    Judgements,
    Question,
    Verdict,
    by_question,
)
from tests.evaluation.facts import (
    MET,
    MISSED,
    NOT_JUDGED,
    NOT_OBSERVABLE,
    PENDING,
    READY,
    SPEAK,
    called,
    heard,
    judge,
    onset,
    over,
    s,
    told,
)
from tests.evaluation.facts import taken_up as turn
from tests.examples import examples

CRITERION = "offers a table"
JUDGED = Expectation(criterion=CRITERION)
NOBODY: dict[Question, Judgement] = {}
"""A judge that has answered nothing yet."""


SAYS = [READY, turn(10), onset(11), told(11.2, "We have one"), told(12, "at seven.")]


def question(subject: str, at_s: float, kind: str = "reply", index: int = 0) -> Question:
    return Question(turn=0, index=index, kind=kind, subject=subject, criterion=CRITERION, at_ns=s(at_s))  # type: ignore[arg-type]


def answered(*answers: tuple[Question, str], reason: str = "so it is") -> Judgements:
    return by_question(Judgement(question=q, answer=a, reason=reason) for q, a in answers)  # type: ignore[arg-type]


def judged(
    facts: Sequence[TimelineEvent], *expected: Expectation, judgements: Judgements | None = NOBODY, **more: Any
) -> list[ExpectationVerdict]:
    return judge(facts, *(expected or (JUDGED,)), judgements=judgements, **more)


WHOLE = question("We have one at seven.", 12)


def play(
    facts: Sequence[TimelineEvent], *expectations: Expectation, answer: Callable[[Question], str]
) -> tuple[list[ExpectationVerdict], list[Question]]:
    """Judge a finished call with somebody who answers whatever is asked."""
    judgements: dict[Question, Judgement] = {}
    while True:
        results = judged(facts, *expectations, judgements=judgements)
        asked = [r.question for r in results if r.question is not None]
        if not asked:
            return results, list(judgements)
        for q in asked:
            assert q not in judgements
            judgements[q] = Judgement(question=q, answer=answer(q), reason="so it is")  # type: ignore[arg-type]


@pytest.mark.parametrize("event", ["response", "llm_response", "tts_response"])
@pytest.mark.parametrize(
    ("answer", "verdict", "reason"),
    [
        ("yes", MET, "judged yes: so it is"),
        ("no", MISSED, "judged no: so it is"),
        ("continue", MISSED, "the answer was still to come: so it is"),
        ("none", NOT_JUDGED, "so it is"),
    ],
)
def test_the_answer_about_a_reply_is_the_verdict(event: str, answer: str, verdict: Verdict, reason: str) -> None:
    (result,) = judged(
        [*SAYS, over(14)], Expectation(event=event, criterion=CRITERION), judgements=answered((WHOLE, answer))
    )
    assert (result.verdict, result.reason, result.question) == (verdict, reason, None)
    assert [e.text for e in result.evidence] == ["We have one", "at seven."]
    assert result.source is Source.TOLD


@pytest.mark.parametrize(
    ("answer", "verdict"), [("yes", MET), ("no", MISSED), ("continue", MISSED), ("none", NOT_JUDGED)]
)
@pytest.mark.parametrize("now_s", [None, 13.0])
def test_the_answer_about_a_call_is_its_verdict_and_the_last(
    answer: str, verdict: Verdict, now_s: float | None
) -> None:
    asked = question('book({"people": 2})', 11, "call")
    expectation = Expectation(event="function_call", criterion=CRITERION)
    (result,) = judged(
        [READY, turn(10), called(11, people=2)], expectation, judgements=answered((asked, answer)), now_s=now_s
    )
    assert result.verdict is verdict
    assert [e.text for e in result.evidence] == ["book"]


def test_every_call_is_asked_about_and_the_first_no_decides() -> None:
    expectation = Expectation(
        event="function_call",
        criterion=CRITERION,
        calls=(FunctionCall(name="a"), FunctionCall(name="b")),
    )
    facts = [READY, turn(10), called(11, "b", note="ä"), called(12, "a")]
    for verdict_of_b, expected in (("yes", MET), ("no", MISSED)):
        (result,), asked = play(
            facts, expectation, answer=lambda q, b=verdict_of_b: b if q.subject.startswith("b") else "yes"
        )
        assert result.verdict is expected
        assert [(q.kind, q.subject) for q in asked] == [("call", "a({})"), ("call", 'b({"note": "ä"})')]


def test_a_call_that_does_not_match_is_not_asked_about() -> None:
    expectation = Expectation(
        event="function_call", criterion=CRITERION, calls=(FunctionCall(name="book", args={"people": 2}),)
    )
    (result,), asked = play([READY, turn(10), called(11, people=3)], expectation, answer=lambda _: "yes")
    assert (result.verdict, asked) == (MISSED, [])


def test_a_call_without_known_arguments_can_t_be_judged() -> None:
    silent = AgentCalledFunction(at_ns=s(11), call_id="c", name="book")
    (result,), asked = play(
        [READY, turn(10), silent], Expectation(event="function_call", criterion=CRITERION), answer=lambda _: "yes"
    )
    assert (result.verdict, asked) == (NOT_OBSERVABLE, [])


def test_the_end_of_a_call_is_asked_about_by_its_name() -> None:
    returned = AgentFunctionReturned(at_ns=s(11), call_id="c", name="book")
    expectation = Expectation(event="function_call_stopped", criterion=CRITERION)
    (result,), asked = play([READY, turn(10), returned], expectation, answer=lambda _: "yes")
    assert (result.verdict, [q.subject for q in asked]) == (MET, ["book({})"])


def test_what_the_agent_made_of_the_caller_can_be_judged() -> None:
    expectation = Expectation(event="user_transcription", criterion=CRITERION)
    facts = [READY, turn(10), CallerHeardAs(at_ns=s(11), text="a table for two")]
    for answer, expected in (("yes", MET), ("no", MISSED)):
        (result,), asked = play(facts, expectation, answer=lambda _, a=answer: a)
        assert (result.verdict, [q.subject for q in asked]) == (expected, ["a table for two"])


def test_a_reply_is_asked_about_once_it_is_over() -> None:
    for facts, now_s in ((SAYS[:4], 11.5), (SAYS, 12.5), (SAYS, 13.9)):
        (result,) = judged(facts, now_s=now_s)
        assert (result.verdict, result.question) == (PENDING, None)
    (result,) = judged([*SAYS, over(14)], now_s=14)
    assert (result.verdict, result.question) == (PENDING, WHOLE)
    assert result.recheck_ns is None
    # The call ended in the middle of it: nothing more is to come.
    (result,) = judged(SAYS)
    assert (result.verdict, result.question) == (NOT_JUDGED, WHOLE)


def test_a_longer_reply_is_asked_about_again() -> None:
    first = question("One moment.", 11.2)
    longer = question("One moment. We have one.", 15)
    facts = [READY, turn(10), onset(11), told(11.2, "One moment."), over(13)]
    (result,) = judged(facts, now_s=13)
    assert result.question == first
    (result,) = judged(facts, judgements=answered((first, "continue")), now_s=14)
    assert (result.verdict, result.question) == (PENDING, None)
    assert result.recheck_ns == s(70) + KNOWN_LATE_NS + 1
    facts += [onset(15), told(15, "We have one.")]
    (result,) = judged(facts, judgements=answered((first, "continue")), now_s=16)
    assert (result.verdict, result.question) == (PENDING, None)
    facts += [over(17)]
    (result,) = judged(facts, judgements=answered((first, "continue")), now_s=17)
    assert (result.verdict, result.question) == (PENDING, longer)
    for answer, expected in (("yes", MET), ("no", MISSED)):
        (result,) = judged(facts, judgements=answered((first, "continue"), (longer, answer)), now_s=18)
        assert result.verdict is expected
        assert [e.text for e in result.evidence] == ["One moment.", "We have one."]


def test_what_is_said_after_a_yes_changes_nothing() -> None:
    facts = [*SAYS, over(14), onset(15), told(15.2, "Or not."), over(17)]
    (result,) = judged(facts, judgements=answered((WHOLE, "yes")))
    assert (result.verdict, result.question) == (MET, None)


def test_an_answer_that_never_came_is_missed_when_its_time_is_up() -> None:
    first = answered((question("One moment.", 11.2), "continue"))
    facts = [READY, turn(10), onset(11), told(11.2, "One moment."), over(13)]
    patient = Expectation(criterion=CRITERION, within_ms=10_000)
    last_s = 20 + KNOWN_LATE_NS / NS_PER_S
    assert judged(facts, patient, judgements=first, now_s=last_s)[0].verdict is PENDING
    (result,) = judged(facts, patient, judgements=first, now_s=last_s + 0.001)
    assert result.verdict is MISSED and "still to come" in result.reason


def test_told_words_are_judged_rather_than_heard_ones() -> None:
    facts = [*SAYS, heard(11, 13, "We have none at seven."), over(14)]
    for answer, expected in (("yes", MET), ("no", MISSED), ("none", NOT_JUDGED)):
        (result,), asked = play(facts, answer=lambda _, a=answer: a)
        assert (result.verdict, result.source, asked) == (expected, Source.TOLD, [WHOLE])


def test_of_an_agent_that_tells_nothing_what_was_heard_is_judged() -> None:
    facts = [turn(10), onset(11), heard(11, 13, "We have one."), over(14)]
    (result,), asked = play(facts, answer=lambda _: "yes")
    assert (result.verdict, result.source, [q.subject for q in asked]) == (MET, Source.HEARD, ["We have one."])


def test_words_must_be_right_before_a_judge_is_asked() -> None:
    both = Expectation(criterion=CRITERION, text_contains="eight")
    assert judged([*SAYS, over(14)], both)[0].model_dump(include={"verdict"}) == {"verdict": MISSED}
    excluding = Expectation(criterion=CRITERION, text_excludes="seven")
    (result,) = judged([*SAYS, over(14)], excluding)
    assert (result.verdict, result.question) == (MISSED, None)
    both = Expectation(criterion=CRITERION, text_contains="seven", text_excludes="eight")
    assert judged([*SAYS, over(14)], both)[0].question == WHOLE


@pytest.mark.parametrize(
    ("facts", "expectation"),
    [
        ([*SAYS, over(14)], JUDGED),
        ([*SAYS, over(14)], Expectation(event="llm_response", criterion=CRITERION)),
        ([READY, turn(10), called(11)], Expectation(event="function_call", criterion=CRITERION)),
    ],
)
def test_without_a_judge_it_is_said_at_once_that_there_is_none(
    facts: list[TimelineEvent], expectation: Expectation
) -> None:
    for now_s in (None, 14):
        (result,) = judged(facts, expectation, judgements=None, now_s=now_s)
        assert (result.verdict, result.reason, result.question) == (NOT_JUDGED, NO_JUDGE, None)
    assert "setting judge" in NO_JUDGE


def test_without_a_judge_a_reply_is_still_waited_for() -> None:
    assert judged(SAYS, judgements=None, now_s=13)[0].verdict is PENDING
    assert judged([READY, turn(10)], judgements=None)[0].verdict is MISSED
    (result,) = judged([*SAYS, over(14)], Expectation(criterion="x", text_excludes="seven"), judgements=None)
    assert result.verdict is MISSED


def test_what_could_not_be_judged_is_used_up_and_does_not_block() -> None:
    for judgements, reason in ((None, NO_JUDGE), (answered((WHOLE, "none"), reason="out of reach"), "out of reach")):
        again = Expectation(text_contains="one")
        results = judged([*SAYS, over(14), called(15)], JUDGED, again, judgements=judgements)
        assert (results[0].verdict, results[0].reason) == (NOT_JUDGED, reason)
        assert results[1].verdict is MISSED
        results = judged(
            [*SAYS, over(14), called(15)], JUDGED, Expectation(event="function_call"), judgements=judgements
        )
        assert [r.verdict for r in results] == [NOT_JUDGED, MET]


@pytest.mark.parametrize(
    ("within_ms", "verdict", "subject"),
    [
        (2_000, MET, "We have one at seven."),
        (1_999, MET, "We have one"),
        (1_200, MET, "We have one"),
        (1_199, MISSED, None),
    ],
)
def test_only_words_that_came_in_time_are_judged(within_ms: int, verdict: Verdict, subject: str | None) -> None:
    (result,), asked = play(
        [*SAYS, over(14)], Expectation(criterion=CRITERION, within_ms=within_ms), answer=lambda _: "yes"
    )
    assert result.verdict is verdict
    assert [q.subject for q in asked] == ([] if subject is None else [subject])
    (unjudged,) = judged([*SAYS, over(14)], Expectation(criterion=CRITERION, within_ms=within_ms), judgements=None)
    assert unjudged.verdict is (NOT_JUDGED if verdict is MET else MISSED)


def test_a_judge_may_take_its_time() -> None:
    """The words were in time, however long it took to judge them."""
    quick = Expectation(criterion=CRITERION, within_ms=2_000)
    facts = [*SAYS, over(14)]
    (waiting,) = judged(facts, quick, now_s=500)
    assert (waiting.verdict, waiting.question) == (PENDING, WHOLE)
    for answer, expected in (("yes", MET), ("no", MISSED)):
        assert judged(facts, quick, judgements=answered((WHOLE, answer)), now_s=500)[0].verdict is expected


def test_a_call_that_came_too_late_is_not_asked_about() -> None:
    late = Expectation(event="function_call", criterion=CRITERION, within_ms=500)
    (result,), asked = play([READY, turn(10), called(11)], late, answer=lambda _: "yes")
    assert (result.verdict, asked) == (MISSED, [])
    assert judged([READY, turn(10), called(11)], late, judgements=None)[0].verdict is MISSED


def test_questions_of_one_turn_wait_for_each_other() -> None:
    facts = [*SAYS, over(14), onset(15), told(15.1, "For two?"), over(17)]
    second = Expectation(criterion="asks for how many")
    results = judged(facts, JUDGED, second, now_s=17)
    assert [r.question is not None for r in results] == [True, False]
    results, asked = play(facts, JUDGED, second, answer=lambda q: "yes")
    assert [r.verdict for r in results] == [MET, MET]
    assert [(q.index, q.subject) for q in asked] == [(0, "We have one at seven."), (1, "For two?")]


def test_a_reply_that_is_over_is_judged_before_a_longer_one() -> None:
    """However long the judge takes, and whether it was asked while the call was on or afterwards."""
    facts = [*SAYS, over(14), onset(15), told(15.1, "For two?"), over(17)]
    for now_s in (14.1, 15.5, 17.5, None):
        known = [e for e in facts if now_s is None or e.at_s <= now_s]
        assert judged(known, now_s=now_s)[0].question == WHOLE
    longer = question("We have one at seven. For two?", 15.1)
    for answer in ("no", "continue"):
        assert judged(facts, judgements=answered((WHOLE, answer)))[0].question == longer


def test_a_greeting_is_judged_although_it_began_before_the_turn() -> None:
    facts = [READY, onset(2), told(2, "Hello."), over(4), turn(4)]
    (result,) = judged(facts, now_s=4, action=Listen())
    assert result.question == question("Hello.", 2)


def test_a_mute_agent_is_not_judged_by_what_it_tells() -> None:
    facts = [READY, turn(10), told(11, "We have one."), over(13)]
    (result,), asked = play(facts, answer=lambda _: "yes")
    assert (result.verdict, asked) == (MISSED, [])
    (result,), asked = play(facts, Expectation(event="llm_response", criterion=CRITERION), answer=lambda _: "yes")
    assert (result.verdict, len(asked)) == (MET, 1)


def test_an_expectation_for_a_judge_in_words() -> None:
    assert describe(JUDGED) == "response judged: 'offers a table'"


@pytest.mark.parametrize("reason", [EndedReason.ICE_FAILED, EndedReason.CANCELLED])
@pytest.mark.parametrize(
    ("answer", "expected"), [("yes", MET), ("no", MISSED), ("continue", NOT_JUDGED), ("none", NOT_JUDGED)]
)
def test_a_call_that_broke_off_is_judged_as_far_as_it_went(
    reason: EndedReason, answer: str, expected: Verdict
) -> None:
    script = Script(name="t", turns=(Turn(action=SPEAK, expect=(JUDGED,)),))
    facts = [*SAYS, over(14), CallEnded(at_ns=s(15), reason=reason)]
    (unasked,) = judge_expectations(script, facts, NOBODY)
    assert (unasked.verdict, unasked.question) == (NOT_JUDGED, WHOLE)
    (result,) = judge_expectations(script, facts, answered((WHOLE, answer)))
    assert result.verdict is expected


@pytest.mark.parametrize(
    ("answer", "success", "allowed"),
    [("yes", True, True), ("no", False, False), ("none", None, True), ("continue", False, False)],
)
def test_what_a_call_comes_to(answer: str, success: bool | None, allowed: bool) -> None:
    script = Script(name="t", turns=(Turn(action=SPEAK, expect=(JUDGED,)),))
    facts = [*SAYS, over(14), CallEnded(at_ns=s(80), reason=EndedReason.CALLER_HUNG_UP)]
    results = judge_expectations(script, facts, answered((WHOLE, answer)))
    assert decide(script, facts, results).success is success
    assert decide(script, facts, results, allow_unjudged=True).success is allowed


WORDS = st.lists(st.sampled_from(["told", "over"]), max_size=7)


@given(WORDS, st.data())
@settings(max_examples=examples(300), deadline=None)
def test_live_and_in_the_end_the_same_answers_come_to_the_same(kinds: list[str], data: st.DataObject) -> None:
    """While the call is on a question comes up when its reply is over; the final verdict is the one given then."""
    facts: list[TimelineEvent] = [READY, turn(10), onset(10.5)]
    judgements: dict[Question, Judgement] = {}
    said = 0
    for step, kind in enumerate(kinds):
        at_s = 11 + step
        said += kind == "told"
        facts.append(told(at_s, f"sentence {said}.") if kind == "told" else over(at_s))
        (live,) = judged(facts, judgements=judgements, now_s=at_s)
        if live.question is not None:
            answer = data.draw(st.sampled_from(["yes", "no", "continue", "none"]))
            judgements[live.question] = Judgement(question=live.question, answer=answer, reason="so it is")
            (live,) = judged(facts, judgements=judgements, now_s=at_s)
            assert live.question is None
        if live.verdict is not PENDING:
            # The caller goes on: what follows belongs to the next turn.
            facts.append(turn(at_s + 0.5, 1))
            (final,) = judged(facts, judgements=judgements)
            assert (final.verdict, final.reason) == (live.verdict, live.reason)
            return
