"""Facts of calls for tests, with times in seconds, and what judging them comes to."""

from collections.abc import Iterable
from typing import Any

from bots.caller.script import Expectation, FunctionCall, Script, Speak, Turn, Words
from bots.clock import NS_PER_S
from bots.timeline import (
    AgentCalledFunction,
    AgentJoined,
    AgentLeft,
    AgentSaid,
    AgentSpeechMeasured,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    AgentTurnEnded,
    BotReady,
    CallEnded,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerTurnSettled,
    CallerTurnStarted,
    EndedReason,
    LineEnd,
    MessageReceived,
    RecordingMeasured,
    Source,
    TimelineEvent,
)
from runner.evaluation.expectations import evaluate
from runner.evaluation.verdicts import ExpectationVerdict, Judgements, Verdict

MET, MISSED, PENDING = Verdict.MET, Verdict.MISSED, Verdict.PENDING
NOT_JUDGED, NOT_OBSERVABLE = Verdict.NOT_JUDGED, Verdict.NOT_OBSERVABLE


def s(seconds: float) -> int:
    return round(seconds * NS_PER_S)


def taken_up(at_s: float, turn: int = 0) -> TimelineEvent:
    return CallerTurnStarted(at_ns=s(at_s), turn=turn)


def line(
    begin_s: float,
    end_s: float | None = None,
    turn: int = 0,
    text: str = "A table for four, please.",
    end: LineEnd = LineEnd.SAID,
) -> list[TimelineEvent]:
    facts: list[TimelineEvent] = [CallerStartedSpeaking(at_ns=s(begin_s), turn=turn, text=text)]
    return facts if end_s is None else [*facts, CallerStoppedSpeaking(at_ns=s(end_s), turn=turn, end=end)]


def settled(at_s: float, turn: int = 0, *, failed: bool = True) -> TimelineEvent:
    return CallerTurnSettled(at_ns=s(at_s), turn=turn, failed=failed)


def onset(at_s: float) -> TimelineEvent:
    return AgentStartedSpeaking(at_ns=s(at_s))


def stop(at_s: float) -> TimelineEvent:
    return AgentStoppedSpeaking(at_ns=s(at_s))


def speech(begin_s: float, end_s: float | None = None) -> list[TimelineEvent]:
    return [onset(begin_s)] if end_s is None else [onset(begin_s), stop(end_s)]


def over(at_s: float) -> TimelineEvent:
    return AgentTurnEnded(at_ns=s(at_s))


def told(at_s: float, text: str = "one") -> AgentSaid:
    return AgentSaid(at_ns=s(at_s), text=text, source=Source.TOLD)


def heard(begin_s: float, end_s: float, text: str) -> AgentSaid:
    return AgentSaid(at_ns=s(end_s), started_ns=s(begin_s), text=text, source=Source.HEARD)


def called(at_s: float, name: str | None = "book", call_id: str = "", /, **arguments: Any) -> TimelineEvent:
    return AgentCalledFunction(at_ns=s(at_s), call_id=call_id or f"c{at_s}", name=name, arguments=arguments)


def message(at_s: float, kind: str, /, **data: Any) -> TimelineEvent:
    return MessageReceived(at_ns=s(at_s), message={"label": "rtvi-ai", "type": kind, "data": data})


def measured(begin_s: float, end_s: float, *, onset_ms: float = 8, end_ms: float = 8, **more: Any) -> TimelineEvent:
    return AgentSpeechMeasured(
        at_ns=s(begin_s),
        end_ns=s(end_s),
        onset_uncertainty_ms=onset_ms,
        end_uncertainty_ms=end_ms,
        level_dbfs=-22,
        bed_dbfs=-80,
        **more,
    )


def recording(at_s: float = 60, *, too_loud: bool = False) -> TimelineEvent:
    return RecordingMeasured(at_ns=s(at_s), method=1, bed_dbfs=-40, agent_dbfs=-22, too_loud=too_loud)


def left(at_s: float) -> TimelineEvent:
    return AgentLeft(at_ns=s(at_s))


def ended(at_s: float, reason: EndedReason = EndedReason.CALLER_HUNG_UP, detail: str | None = None) -> TimelineEvent:
    return CallEnded(at_ns=s(at_s), reason=reason, detail=detail)


JOINED = AgentJoined(at_ns=s(0.5))
READY = BotReady(at_ns=s(0.8), protocol_version="2.0.0")
SPEAK = Speak(parts=(Words(text="A table for four, please."),))


def expect(event: str = "response", **more: Any) -> Expectation:
    return Expectation(event=event, **more)


def contains(text: str, **more: Any) -> Expectation:
    return Expectation(text_contains=text, **more)


def call(name: str | None = None, **args: Any) -> FunctionCall:
    return FunctionCall(name=name, args=args or None)


def asks(*expected: Expectation, text: str = "A table for four, please.", **more: Any) -> Turn:
    return Turn(**{"action": Speak(parts=(Words(text=text),)), **more}, expect=expected)


def script(*turns: Turn, **more: Any) -> Script:
    return Script(name="t", turns=turns, **more)


def flat(facts: Iterable[Any]) -> list[TimelineEvent]:
    """Return facts that are given one by one and in lists, as one list."""
    return [e for fact in facts for e in (flat(fact) if isinstance(fact, list | tuple) else [fact])]


def judge(
    facts: Iterable[Any],
    *expected: Expectation,
    action: Any = SPEAK,
    now_s: float | None = None,
    judgements: Judgements | None = None,
) -> list[ExpectationVerdict]:
    """Judge one turn, while the call is on or when it is over."""
    played = script(asks(*expected, action=action))
    return evaluate(played, flat(facts), judgements=judgements, now_ns=None if now_s is None else s(now_s))


def verdicts(*args: Any, **more: Any) -> list[Verdict]:
    return [verdict.verdict for verdict in judge(*args, **more)]
