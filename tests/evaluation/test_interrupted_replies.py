"""What goes on with a reply that the caller interrupted is no answer to it. Times are seconds."""

from typing import Any

import pytest

from bots.caller.script import AGENT_SPEAKS, Expectation, PressKeys, Script, StaySilent, Turn
from bots.timeline import (
    CallerPressedKeys,
    TimelineEvent,
)
from runner.evaluation.expectations import evaluate
from runner.evaluation.verdicts import ExpectationVerdict, Verdict
from tests.evaluation.facts import (
    MET,
    MISSED,
    PENDING,
    SPEAK,
    ended,
    line,
    message,
    over,
    s,
    speech,
    taken_up,
    told,
)
from tests.examples import named

ANSWERS = (Expectation(within_ms=8_000), Expectation(event=AGENT_SPEAKS, within_ms=6_000))


def begun(began_s: float, ended_s: float) -> list[TimelineEvent]:
    return [taken_up(began_s), *line(began_s, ended_s)]


TELLS = message(8.9, "bot-started-speaking")
LINE = begun(10, 10.5)
BEFORE = [*speech(9, 10.7), *LINE]
"""The caller barges in at 10 with a short line; the agent goes on until 10.7."""
GOES_ON = [*BEFORE, *speech(11.2, 13), *speech(13.3, 15), over(16)]
"""In phrases."""


def judge(facts: list[TimelineEvent], *, action: Any = SPEAK, now_s: float | None = None) -> list[ExpectationVerdict]:
    script = Script(name="t", turns=(Turn(action=action, expect=ANSWERS),))
    return evaluate(
        script, facts if now_s is not None else [*facts, ended(60)], now_ns=None if now_s is None else s(now_s)
    )


def verdicts(facts: list[TimelineEvent], **kwargs: Any) -> list[Verdict]:
    return [v.verdict for v in judge(facts, **kwargs)]


def test_an_agent_that_goes_on_with_its_speech_has_not_answered() -> None:
    facts = [TELLS, *GOES_ON, told(13.4), told(15.4)]
    response, speaks = judge(facts)
    assert (response.verdict, speaks.verdict) == (MISSED, MISSED)
    assert response.reason.endswith(": the agent went on with what it was saying")
    assert speaks.reason == "did not answer: it went on with what it was saying"
    assert verdicts(facts, now_s=16) == [PENDING, PENDING]


@pytest.mark.parametrize(
    "end",
    [over(16), message(15.1, "bot-stopped-speaking"), message(15.1, "bot-interrupted")],
    ids=["the caller takes it to be over", "the agent says that it stopped", "or that it was interrupted"],
)
def test_what_it_says_after_that_is_an_answer(end: TimelineEvent) -> None:
    facts = [TELLS, *GOES_ON[:-1], end, *speech(16.1, 17)]
    assert verdicts(facts) == [MET, MET]
    assert judge(facts)[1].reason == "spoke after 5600 ms"
    # And too late where that is too late.
    assert verdicts([TELLS, *GOES_ON[:-1], end, *speech(18.1, 19)]) == [MISSED, MISSED]


@pytest.mark.parametrize("end", ["bot-stopped-speaking", "bot-interrupted"])
def test_an_agent_that_was_interrupted_may_answer_at_once(end: str) -> None:
    facts = [TELLS, *BEFORE, message(10.4, end), *speech(10.9, 13), over(14)]
    assert verdicts(facts) == [MET, MET]
    assert judge(facts)[1].reason == "spoke after 400 ms"


def test_a_silence_of_a_second_ends_a_reply_whatever_is_told() -> None:
    assert verdicts([TELLS, *BEFORE, *speech(11.7, 13), over(14)]) == [MET, MET]
    assert verdicts([TELLS, *BEFORE, *speech(11.6, 13), over(14)]) == [MISSED, MISSED]


@pytest.mark.parametrize(
    ("facts", "expected"),
    named(
        ("it fell silent for the caller, and answers", [*BEFORE, *speech(11.1, 13)], MET),
        ("too soon to be more than a pause", [*BEFORE, *speech(11.0, 13)], MISSED),
        ("it did not fall silent for the caller", [*speech(9, 11.1), *LINE, *speech(11.6, 13)], MISSED),
        ("it did, for a longer line", [*speech(9, 11.1), *begun(10, 11.2), *speech(11.6, 13)], MET),
        ("before the line was over", [*speech(9, 10.3), *begun(10, 11.2), *speech(11.1, 13)], MISSED),
        ("a pause that may be for the caller", GOES_ON, MET),
    ),
)
def test_an_agent_that_tells_nothing_is_not_blamed_in_doubt(facts: list[TimelineEvent], expected: Verdict) -> None:
    assert verdicts([*facts, over(30)]) == [expected, expected]


def test_a_barge_in_between_two_phrases_interrupts_as_well() -> None:
    facts = [TELLS, *speech(8, 9.8), *LINE, *speech(10.6, 12), over(13)]
    assert verdicts(facts) == [MISSED, MISSED]
    assert verdicts([*facts, over(9.9)]) == [MET, MET]
    assert verdicts([*facts, message(9.9, "bot-stopped-speaking")]) == [MET, MET]


def test_keys_interrupt_as_well() -> None:
    pressed = [taken_up(10), CallerPressedKeys(at_ns=s(10), turn=0, keys="1")]
    facts = [TELLS, *speech(9, 10.7), *pressed, *speech(11.2, 13), over(14)]
    keys = PressKeys(keys="1")
    assert verdicts(facts, action=keys) == [MISSED, MISSED]
    assert verdicts([*facts, message(10.3, "bot-interrupted")], action=keys) == [MET, MET]


def test_a_caller_that_says_nothing_interrupts_nothing() -> None:
    facts = [TELLS, *speech(9, 10.7), taken_up(10), *speech(11.2, 13), over(14)]
    assert verdicts(facts, action=StaySilent(duration_ms=1_000)) == [MET, MET]


def test_what_goes_on_is_no_response_that_must_not_come() -> None:
    silent = Expectation(absent=True, within_ms=9_000)
    script = Script(name="t", turns=(Turn(action=SPEAK, expect=(silent,)),))
    assert [v.verdict for v in evaluate(script, [TELLS, *GOES_ON, ended(60)])] == [MET]
    assert [v.verdict for v in evaluate(script, [TELLS, *GOES_ON, *speech(17, 18), ended(60)])] == [MISSED]
    assert [v.verdict for v in evaluate(script, [TELLS, *GOES_ON, *speech(19.1, 20), ended(60)])] == [MET]


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("now_s", [11, 11.5, 12, 14, 15.9, 17, 18.5, 19, 25])
def test_what_is_decided_during_the_call_is_final(tells: bool, now_s: float) -> None:
    facts = [*([TELLS] if tells else []), *GOES_ON, *speech(16.4, 18)]
    live = verdicts([e for e in facts if e.at_ns + s(0.3) <= s(now_s)], now_s=now_s)
    for now, final in zip(live, verdicts(facts), strict=True):
        assert now in (PENDING, final)
