"""What the judge gets to know of a call before it is asked."""

from bots.timeline import (
    AgentCalledFunction,
    AgentSaid,
    CallerPressedKeys,
    CallerStartedSpeaking,
    CallerTurnStarted,
    Source,
    TimelineEvent,
)
from runner.evaluation.verdicts import Question
from runner.judge.conversation import Utterance, conversation_before


def turn(at_ns: int, index: int) -> TimelineEvent:
    return CallerTurnStarted(at_ns=at_ns, turn=index)


def line(at_ns: int, text: str, index: int = 0) -> TimelineEvent:
    return CallerStartedSpeaking(at_ns=at_ns, turn=index, text=text)


def told(at_ns: int, text: str) -> TimelineEvent:
    return AgentSaid(at_ns=at_ns, text=text, source=Source.TOLD)


def heard(began_ns: int, at_ns: int, text: str) -> TimelineEvent:
    return AgentSaid(at_ns=at_ns, text=text, source=Source.HEARD, started_ns=began_ns)


def called(at_ns: int, name: str | None) -> TimelineEvent:
    return AgentCalledFunction(at_ns=at_ns, call_id=f"c{at_ns}", name=name, arguments={})


def before(facts: list[TimelineEvent], subject: str, at_ns: int, index: int, kind: str = "reply") -> list[str]:
    question = Question(turn=index, index=0, kind=kind, subject=subject, criterion="c", at_ns=at_ns)  # type: ignore[arg-type]
    return [f"{said.role}: {said.text}" for said in conversation_before(facts, question)]


TALK = [
    turn(1, 0),
    told(2, "Hello."),
    turn(10, 1),
    line(11, "A table, please.", 1),
    told(20, "For how many?"),
    turn(30, 2),
    line(31, "Two.", 2),
    told(40, "One moment."),
    called(41, "find_table"),
    told(50, "I have one"),
    told(51, "at seven."),
]


def test_the_conversation_is_all_before_the_subject_in_order() -> None:
    assert before(TALK, "One moment. I have one at seven.", 51, 2) == [
        "agent: Hello.",
        "caller: A table, please.",
        "agent: For how many?",
        "caller: Two.",
        "function: find_table",
    ]


def test_nothing_that_came_later_is_known() -> None:
    assert before(TALK, "For how many?", 20, 1) == ["agent: Hello.", "caller: A table, please."]


def test_words_that_met_an_expectation_above_are_context() -> None:
    assert before(TALK, "I have one at seven.", 51, 2)[-3:] == [
        "caller: Two.",
        "agent: One moment.",
        "function: find_table",
    ]


def test_a_greeting_before_the_first_turn_is_the_subject() -> None:
    facts = [told(2, "Hello."), told(3, "Who is there?"), turn(10, 0)]
    assert before(facts, "Hello. Who is there?", 3, 0) == []


def test_a_call_is_judged_in_the_light_of_all_that_was_said() -> None:
    assert before(TALK, "find_table({})", 41, 2, kind="call") == [
        "agent: Hello.",
        "caller: A table, please.",
        "agent: For how many?",
        "caller: Two.",
        "agent: One moment.",
    ]


def test_heard_words_are_left_out_if_the_agent_tells_its_own() -> None:
    facts = [heard(1, 3, "Hallo."), told(2, "Hello."), turn(10, 0), line(11, "Hi."), told(20, "Yes?")]
    assert before(facts, "Yes?", 20, 0) == ["agent: Hello.", "caller: Hi."]


def test_of_an_agent_that_tells_nothing_there_is_what_was_heard() -> None:
    facts = [heard(1, 3, "Hello."), turn(10, 0), line(11, "Hi."), heard(18, 20, "Yes?")]
    assert before(facts, "Yes?", 20, 0) == ["agent: Hello.", "caller: Hi."]


def test_words_the_caller_barged_in_on_come_before_its_line() -> None:
    facts = [heard(5, 22, "Let me tell you…"), turn(20, 1), line(20, "Stop.", 1), heard(30, 32, "Sorry.")]
    assert before(facts, "Sorry.", 32, 1) == ["agent: Let me tell you…", "caller: Stop."]


def test_words_partly_of_the_subject_are_not_told_twice() -> None:
    """The one in between met another expectation."""
    facts = [told(1, "Hello."), turn(10, 0), line(11, "Hi."), told(20, "A."), told(21, "B."), told(22, "C.")]
    assert before(facts, "A. C.", 22, 0) == ["agent: Hello.", "caller: Hi."]


def test_keys_count_as_said_and_nameless_calls_say_nothing() -> None:
    facts = [turn(1, 0), CallerPressedKeys(at_ns=2, turn=0, keys="12#"), called(3, None), told(9, "Thank you.")]
    assert before(facts, "Thank you.", 9, 0) == ["caller: [presses 12#]"]


def test_facts_can_come_in_any_order() -> None:
    question = Question(turn=2, index=0, kind="reply", subject="For how many?", criterion="c", at_ns=20)
    assert conversation_before(TALK[::-1], question) == conversation_before(TALK, question)
    assert conversation_before([], question) == []
    assert isinstance(conversation_before(TALK, question)[0], Utterance)
