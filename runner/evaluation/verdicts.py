"""What became of an expectation, and what that rests on."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bots.clock import NS_PER_MS
from bots.timeline import (
    AgentCalledFunction,
    AgentFunctionReturned,
    AgentSaid,
    CallerHeardAs,
    MessageReceived,
    Source,
    TimelineEvent,
)

KNOWN_LATE_NS = 700 * NS_PER_MS
"""How long after it happened a fact may become known: it takes a moment to tell speech from noise."""


class Verdict(StrEnum):
    """What became of an expectation."""

    PENDING = "pending"
    """Only while the call is on: not decided yet."""
    MET = "met"
    MISSED = "missed"
    NOT_JUDGED = "not_judged"
    """Nobody can say: the call broke off for no fault of the agent, or there was no judge."""
    NOT_OBSERVABLE = "not_observable"
    """The agent does not send what it would take to tell."""


class Cause(StrEnum):
    """Whose fault a failure was, or why there is no verdict. Only the agent's failures fail the test."""

    AGENT = "agent"
    CALLER = "caller"
    ROOM = "room"
    NETWORK = "network"
    HARNESS = "harness"


UNDECIDED = frozenset({Verdict.NOT_JUDGED, Verdict.NOT_OBSERVABLE})
"""Neither met nor missed, and no fault of the agent."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Question(_Model):
    """What a judge is asked.

    Attributes:
        index: The expectation's place in it, from 0.
        kind: Whether words of the agent are to be judged, or a function call it made.
        subject: The words, or the call as ``name({arguments})``.
        criterion: What they must satisfy.
        at_ns: Where on the call's clock the subject ends: what was said before is its context.
    """

    turn: int
    index: int
    kind: Literal["reply", "call"]
    subject: str
    criterion: str
    at_ns: int


class Judgement(_Model):
    """What a judge answered.

    Attributes:
        answer: ``yes``: satisfied. ``no``: not. ``continue``: the agent is still working towards its answer.
            ``none``: the judge could not be asked, or gave no answer.
        reason: In one sentence.
        confidence: From 0 to 1, where the judge says.
    """

    question: Question
    answer: Literal["yes", "no", "continue", "none"]
    reason: str
    confidence: float | None = None
    model: str | None = None


class JudgeUsage(_Model):
    """What judging a call took.

    Attributes:
        input_tokens: Tokens sent; null where the service does not say.
        output_tokens: Tokens answered; null where the service does not say.
        cost_usd: In US dollars, by the prices in the settings; null without them.
    """

    model: str
    questions: int
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None


Judgements = Mapping[Question, Judgement]


def by_question(judgements: Iterable[Judgement]) -> dict[Question, Judgement]:
    return {judgement.question: judgement for judgement in judgements}


class Evidence(_Model):
    """What a verdict rests on."""

    event: str
    at_s: float
    text: str | None = None
    source: Source | None = None


class ExpectationVerdict(_Model):
    """What became of one expectation of one turn."""

    turn: int
    index: int
    event: str
    expected: str
    """The expectation in words, for a person."""
    verdict: Verdict
    reason: str
    source: Source | None = None
    evidence: tuple[Evidence, ...] = ()
    cause: Cause | None = None
    """Why it is not judged, where that is known: the harness, the network, the caller, the room."""
    recheck_ns: int | None = Field(default=None, exclude=True)
    """While pending: when time alone may decide it, on the call's clock."""
    question: Question | None = Field(default=None, exclude=True)
    """What a judge must be asked to decide it."""
    follows: bool = Field(default=False, exclude=True)
    """Whether it is missed because one above it was, or because its turn was never reached."""
    late: bool = Field(default=False, exclude=True)
    """Whether what was expected came, after its time."""
    broken_off: bool = Field(default=False, exclude=True)
    """Whether it is not judged because the call was ended before its time was up."""


class Finding(_Model):
    """What looking for an expectation came to; the fields are those of its verdict."""

    verdict: Verdict
    reason: str = ""
    evidence: tuple[Evidence, ...] = ()
    recheck_ns: int | None = None
    question: Question | None = None
    cause: Cause | None = None
    follows: bool = False
    late: bool = False
    broken_off: bool = False


def evidence_of(event: TimelineEvent) -> Evidence:
    text = words_of(event) or None
    if isinstance(event, AgentCalledFunction | AgentFunctionReturned):
        text = event.name
    source = event.source if isinstance(event, AgentSaid) else None
    return Evidence(event=event.type, at_s=round(event.at_s, 3), text=text, source=source)


def words_of(event: TimelineEvent) -> str:
    """Return the words an event carries; empty if none."""
    match event:
        case AgentSaid() | CallerHeardAs():
            return event.text
        # A backchannel tells what was really spoken; a marker is its own text.
        case MessageReceived(message={"data": {"spoken_progress": {"accumulated_text": str() as spoken}}}) if spoken:
            return spoken
        case MessageReceived(message={"data": {"text": str() as text}}):
            return text
        case _:
            return ""
