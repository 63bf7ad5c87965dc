"""What a judge gets to know of a call before it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True)
class Utterance:
    """Something said, or a function called."""

    role: Literal["caller", "agent", "function"]
    text: str


def conversation_before(facts: Sequence[TimelineEvent], question: Question) -> list[Utterance]:
    """Return what was said and called before the subject of a question, in order.

    Of an agent that tells its words these are taken, and what was heard of it is left out.

    Args:
        facts: The facts of the call.
        question: What is asked.
    """
    ordered = sorted(facts, key=lambda event: event.at_ns)
    tells = any(isinstance(e, AgentSaid) and e.source is Source.TOLD for e in ordered)
    source = Source.TOLD if tells else Source.HEARD
    began_ns = next(
        (e.at_ns for e in ordered if isinstance(e, CallerTurnStarted) and e.turn == question.turn), question.at_ns
    )
    said: list[Utterance] = []
    for event in ordered:
        if event.at_ns > question.at_ns:
            break
        match event:
            case CallerStartedSpeaking():
                said.append(Utterance("caller", event.text))
            case CallerPressedKeys():
                said.append(Utterance("caller", f"[presses {event.keys}]"))
            # Words of the turn itself are the subject; a call is judged in the light of them.
            case AgentSaid() if event.source is source and (question.kind == "call" or event.at_ns < began_ns):
                said.append(Utterance("agent", event.text))
            case AgentCalledFunction() if event.name is not None and event.at_ns < question.at_ns:
                said.append(Utterance("function", event.name))
            case _:
                pass
    return said
