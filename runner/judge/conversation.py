"""What a judge gets to know of a call before it is asked."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from bots.timeline import (
    AgentCalledFunction,
    AgentSaid,
    CallerPressedKeys,
    CallerStartedSpeaking,
    CallerTurnStarted,
    Source,
    TimelineEvent,
)
from runner.evaluation.speech import began_ns as speech_began_ns
from runner.evaluation.verdicts import Question


class Utterance(NamedTuple):
    """Something said, or a function called."""

    role: Literal["caller", "agent", "function"]
    text: str


def conversation_before(facts: Sequence[TimelineEvent], question: Question) -> list[Utterance]:
    """Return what was said and called before the subject of a question, in order.

    Of an agent that tells its words these are taken, and what was heard of it is left out.
    """
    ordered = sorted((e for e in facts if speech_began_ns(e) <= question.at_ns), key=speech_began_ns)
    tells = any(isinstance(e, AgentSaid) and e.source is Source.TOLD for e in facts)
    source = Source.TOLD if tells else Source.HEARD
    subject = _subject(ordered, question, source) if question.kind == "reply" else frozenset[int]()
    said: list[Utterance] = []
    for event in ordered:
        match event:
            case CallerStartedSpeaking():
                said.append(Utterance("caller", event.text))
            case CallerPressedKeys():
                said.append(Utterance("caller", f"[presses {event.keys}]"))
            case AgentSaid() if event.source is source and id(event) not in subject:
                said.append(Utterance("agent", event.text))
            case AgentCalledFunction() if event.name is not None and event.at_ns < question.at_ns:
                said.append(Utterance("function", event.name))
            case _:
                pass
    return said


def _subject(ordered: Sequence[TimelineEvent], question: Question, source: Source) -> frozenset[int]:
    """Return which words are the subject itself, by identity: the last ones that make it up."""
    words = [e for e in ordered if isinstance(e, AgentSaid) and e.source is source and e.at_ns <= question.at_ns]
    for first in reversed(range(len(words))):
        if " ".join(e.text for e in words[first:]).strip() == question.subject:
            return frozenset(id(e) for e in words[first:])
    # Words of the other source, or with gaps: everything of the turn may be part of it.
    began_ns = next(
        (e.at_ns for e in ordered if isinstance(e, CallerTurnStarted) and e.turn == question.turn), question.at_ns
    )
    return frozenset(id(e) for e in ordered if isinstance(e, AgentSaid) and speech_began_ns(e) >= began_ns)
