"""The transcript, in the shape of Cekura's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots.timeline import (
    AgentCalledFunction,
    AgentFunctionReturned,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    AgentTurnEnded,
    CallEnded,
    CallerPressedKeys,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    EndedReason,
    Source,
    TimelineEvent,
)
from runner.evaluation.transcript import agent_turns, transcribe_call
from runner.evaluation.view import CallView
from tests.evaluation.facts import heard, s, told
from tests.examples import named


def rows(*facts: TimelineEvent) -> list[tuple[object, ...]]:
    return [(e.content, e.start_time, e.end_time, e.source, e.told) for e in transcribe_call(CallView(facts))]


CONVERSATION: list[TimelineEvent] = [
    heard(1, 2.5, "Hello"),
    CallerStartedSpeaking(at_ns=s(3), turn=0, text="A table"),
    CallerStoppedSpeaking(at_ns=s(4), turn=0),
    AgentCalledFunction(at_ns=s(4.5), call_id="c1", name="book", arguments={"people": 2}),
    AgentFunctionReturned(at_ns=s(4.75), call_id="c1", name="book", result={"ok": True}),
    heard(5, 6, "Done"),
    CallerPressedKeys(at_ns=s(65), turn=1, keys="1#"),
    CallerStartedSpeaking(at_ns=s(3_700), turn=2, text="cut"),
]


@given(st.permutations(CONVERSATION))
def test_who_said_what_when(facts: list[TimelineEvent]) -> None:
    """In whatever order it became known."""
    entries = transcribe_call(CallView(facts))
    assert [(e.role, e.content, e.time, e.start_time, e.end_time) for e in entries] == [
        ("Main Agent", "Hello", "00:01", 1, 2.5),
        ("Testing Agent", "A table", "00:03", 3, 4),
        ("Function Call", "book", "00:04", 4.5, 4.5),
        ("Function Call Result", "book", "00:04", 4.75, 4.75),
        ("Main Agent", "Done", "00:05", 5, 6),
        ("Testing Agent", "[keys] 1#", "01:05", 65, 65),
        ("Testing Agent", "cut", "61:40", 3_700, 3_700),
    ]
    assert entries[2].data == {"id": "c1", "name": "book", "arguments": {"people": 2}}
    assert entries[3].data == {"id": "c1", "name": "book", "result": {"ok": True}}


def test_a_function_without_a_name_has_an_empty_one() -> None:
    (entry,) = transcribe_call(CallView([AgentCalledFunction(at_ns=0, call_id="c")]))
    assert (entry.content, entry.data) == ("", {"id": "c", "name": None, "arguments": None})


def test_without_recognition_the_transcript_is_what_was_told() -> None:
    assert rows(told(1, "Hello"), told(2, "there")) == [
        ("Hello", 1, 1, Source.TOLD, None),
        ("there", 2, 2, Source.TOLD, None),
    ]


def test_what_was_heard_stands_beside_what_was_told() -> None:
    assert rows(
        told(0.9, "Hello,"), heard(1, 3, "hello there"), told(3.2, "there."), heard(5, 6, "bye"), told(6, "Bye.")
    ) == [
        ("hello there", 1, 3, Source.HEARD, "Hello, there."),
        ("bye", 5, 6, Source.HEARD, "Bye."),
    ]


def test_where_nothing_was_told_there_is_nothing_beside_it() -> None:
    assert rows(heard(1, 2, "hello")) == [("hello", 1, 2, Source.HEARD, None)]


def test_what_was_told_and_never_heard_is_not_lost() -> None:
    contents = [(row[0], row[3]) for row in rows(heard(1, 2, "hello"), told(2, "Hello."), told(30, "Goodbye."))]
    assert contents == [("hello", Source.HEARD), ("Goodbye.", Source.TOLD)]


def test_every_word_that_was_told_stands_once() -> None:
    facts = [told(at, f"w{at}") for at in range(0, 60, 3)]
    facts += [heard(at, at + 1, "x") for at in (2, 10, 11, 30)]
    entries = transcribe_call(CallView(facts))
    words = " ".join(
        " ".join(filter(None, [e.told, e.content if e.source is Source.TOLD else None])) for e in entries
    )
    assert sorted(words.split()) == sorted(f"w{at}" for at in range(0, 60, 3))


TURNS = named(
    ("none", [], []),
    ("one", [(1, "on"), (2, "off"), (3, "over")], [(1, 2)]),
    ("two", [(1, "on"), (2, "off"), (3, "over"), (4, "on"), (5, "off"), (6, "over")], [(1, 2), (4, 5)]),
    ("a pause within", [(1, "on"), (2, "off"), (3, "on"), (4, "off"), (5, "over")], [(1, 4)]),
    ("speaking at the end", [(1, "on"), (5, "end")], [(1, 5)]),
    ("not over at the end", [(1, "on"), (2, "off"), (5, "end")], [(1, 2)]),
    ("speaking again at the end", [(1, "on"), (2, "off"), (3, "on"), (5, "end")], [(1, 5)]),
    ("over while it speaks", [(1, "on"), (2, "over"), (3, "off"), (4, "over")], [(1, 3)]),
    ("stop without start", [(1, "off"), (2, "over"), (3, "on"), (4, "off")], [(3, 4)]),
    ("over without speech", [(1, "over"), (2, "end")], []),
    ("start twice", [(1, "on"), (2, "on"), (3, "off"), (4, "over")], [(1, 3)]),
    ("known late", [(3, "over"), (2, "off"), (1, "on"), (4, "on"), (5, "off")], [(1, 2), (4, 5)]),
)


@pytest.mark.parametrize(("facts", "turns"), TURNS)
def test_an_agents_turn_lasts_until_the_caller_takes_it_as_over(
    facts: list[tuple[int, str]], turns: list[tuple[int, int]]
) -> None:
    made: dict[str, type] = {"on": AgentStartedSpeaking, "off": AgentStoppedSpeaking, "over": AgentTurnEnded}
    events = [
        CallEnded(at_ns=s(at), reason=EndedReason.AGENT_LEFT) if kind == "end" else made[kind](at_ns=s(at))
        for at, kind in facts
    ]
    assert agent_turns(CallView(events)) == [(s(start), s(end)) for start, end in turns]
