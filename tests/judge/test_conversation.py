"""What the judge gets to know of a call before it is asked."""

from typing import Literal

import pytest

from bots.timeline import CallerPressedKeys, CallerStartedSpeaking, TimelineEvent
from runner.evaluation.verdicts import Question
from runner.judge.conversation import Utterance, conversation_before
from tests.evaluation.facts import called, heard, s, taken_up, told
from tests.examples import named


def said(at_s: float, text: str, turn: int = 0) -> TimelineEvent:
    return CallerStartedSpeaking(at_ns=s(at_s), turn=turn, text=text)


def about(subject: str, at_s: float, turn: int, kind: Literal["reply", "call"] = "reply") -> Question:
    return Question(turn=turn, index=0, kind=kind, subject=subject, criterion="c", at_ns=s(at_s))


ASKS = [taken_up(1), told(2, "Hello."), taken_up(10, 1), said(11, "A table, please.", 1), told(20, "For how many?")]
FINDS = [taken_up(30, 2), said(31, "Two.", 2), told(40, "One moment."), called(41, "find_table")]
TALK = [*ASKS, *FINDS, told(50, "I have one"), told(51, "at seven.")]
BEGUN = ["agent: Hello.", "caller: A table, please."]
ASKED = [*BEGUN, "agent: For how many?", "caller: Two."]
WHO = [told(2, "Hello."), told(3, "Who is there?"), taken_up(10)]
HI = [taken_up(10), said(11, "Hi.")]
GREETED = ["agent: Hello.", "caller: Hi."]
STOP = [heard(5, 22, "Let me tell you…"), taken_up(20, 1), said(20, "Stop.", 1), heard(30, 32, "Sorry.")]
KEYS = [taken_up(1), CallerPressedKeys(at_ns=s(2), turn=0, keys="12#"), called(3, None), told(9, "Thank you.")]

BEFORE = named(
    (
        "all before the subject, in order",
        TALK,
        about("One moment. I have one at seven.", 51, 2),
        [*ASKED, "function: find_table"],
    ),
    ("nothing that came later", TALK, about("For how many?", 20, 1), BEGUN),
    (
        "words that met an expectation above",
        TALK,
        about("I have one at seven.", 51, 2),
        [*ASKED, "agent: One moment.", "function: find_table"],
    ),
    ("a greeting before the first turn is the subject", WHO, about("Hello. Who is there?", 3, 0), []),
    ("all that was said before a call", TALK, about("find_table({})", 41, 2, "call"), [*ASKED, "agent: One moment."]),
    (
        "no heard words of an agent that tells its own",
        [heard(1, 3, "Hallo."), told(2, "Hello."), *HI, told(20, "Yes?")],
        about("Yes?", 20, 0),
        GREETED,
    ),
    (
        "heard words of an agent that tells nothing",
        [heard(1, 3, "Hello."), *HI, heard(18, 20, "Yes?")],
        about("Yes?", 20, 0),
        GREETED,
    ),
    (
        "words the caller barged in on come before its line",
        STOP,
        about("Sorry.", 32, 1),
        ["agent: Let me tell you…", "caller: Stop."],
    ),
    (
        "words partly of the subject are not told twice: B met another expectation",
        [told(1, "Hello."), *HI, told(20, "A."), told(21, "B."), told(22, "C.")],
        about("A. C.", 22, 0),
        GREETED,
    ),
    ("keys, and no call without a name", KEYS, about("Thank you.", 9, 0), ["caller: [presses 12#]"]),
)


@pytest.mark.parametrize(("facts", "question", "known"), BEFORE)
def test_what_is_known_before_a_question(facts: list[TimelineEvent], question: Question, known: list[str]) -> None:
    for given in (facts, facts[::-1]):
        found = conversation_before(given, question)
        assert [f"{one.role}: {one.text}" for one in found] == known
        assert all(isinstance(one, Utterance) for one in found)


def test_of_a_call_without_facts_nothing_is_known() -> None:
    assert conversation_before([], about("For how many?", 20, 2)) == []
