"""Facts of calls for tests, with times in seconds."""

from typing import Any

from bots.caller.script import Expectation, Script, Speak, Turn, Words
from bots.clock import NS_PER_S
from bots.timeline import (
    AgentJoined,
    AgentSaid,
    AgentSpeechMeasured,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    AgentTurnEnded,
    BotReady,
    CallEnded,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerTurnStarted,
    EndedReason,
    RecordingMeasured,
    Source,
    TimelineEvent,
)


def s(seconds: float) -> int:
    return round(seconds * NS_PER_S)


def taken_up(at_s: float, turn: int = 0) -> TimelineEvent:
    return CallerTurnStarted(at_ns=s(at_s), turn=turn)


def line(begin_s: float, end_s: float, turn: int = 0, text: str = "A table for four, please.") -> list[TimelineEvent]:
    return [
        CallerStartedSpeaking(at_ns=s(begin_s), turn=turn, text=text),
        CallerStoppedSpeaking(at_ns=s(end_s), turn=turn),
    ]


def speech(begin_s: float, end_s: float) -> list[TimelineEvent]:
    return [AgentStartedSpeaking(at_ns=s(begin_s)), AgentStoppedSpeaking(at_ns=s(end_s))]


def over(at_s: float) -> TimelineEvent:
    return AgentTurnEnded(at_ns=s(at_s))


def told(at_s: float, text: str) -> AgentSaid:
    return AgentSaid(at_ns=s(at_s), text=text, source=Source.TOLD)


def heard(begin_s: float, end_s: float, text: str) -> AgentSaid:
    return AgentSaid(at_ns=s(end_s), started_ns=s(begin_s), text=text, source=Source.HEARD)


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


def ended(at_s: float, reason: EndedReason = EndedReason.CALLER_HUNG_UP, detail: str | None = None) -> TimelineEvent:
    return CallEnded(at_ns=s(at_s), reason=reason, detail=detail)


JOINED = AgentJoined(at_ns=s(0.5))
READY = BotReady(at_ns=s(0.8), protocol_version="2.0.0")


def asks(*expect: Expectation, text: str = "A table for four, please.", **more: Any) -> Turn:
    return Turn(action=Speak(parts=(Words(text=text),)), expect=expect, **more)


def script(*turns: Turn, **more: Any) -> Script:
    return Script(name="t", turns=turns, **more)
