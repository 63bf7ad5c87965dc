"""The names Pipecat Evals gives to what happens in a call, for the facts of a timeline."""

from typing import Any

from bots.timeline import (
    AgentCalledFunction,
    AgentFunctionReturned,
    AgentSaid,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    BotReady,
    CallerHeardAs,
    MessageReceived,
    Source,
    TimelineEvent,
)

RTVI_EVENT_NAMES = {
    "user-started-speaking": "user_started_speaking",
    "user-stopped-speaking": "user_stopped_speaking",
    "vad-user-started-speaking": "vad_user_started_speaking",
    "vad-user-stopped-speaking": "vad_user_stopped_speaking",
    "bot-interrupted": "bot_interrupted",
    "bot-llm-started": "llm_started",
    "bot-llm-marker": "llm_marker",
}
"""Messages that are known by a name but are no fact of their own, by their RTVI type."""

_BACKCHANNELS = {"bot-output": "bot_backchannel", "user-input": "user_backchannel"}

_FACT_NAMES: dict[type, str] = {
    AgentStartedSpeaking: "bot_started_speaking",
    AgentStoppedSpeaking: "bot_stopped_speaking",
    CallerHeardAs: "user_transcription",
    AgentCalledFunction: "function_call",
    AgentFunctionReturned: "function_call_stopped",
    BotReady: "bot_ready",
}

EVENT_NAMES = frozenset(
    {
        *RTVI_EVENT_NAMES.values(),
        *_BACKCHANNELS.values(),
        *_FACT_NAMES.values(),
        "response",
        "llm_response",
        "tts_response",
    }
)
"""Every name that can be waited for or expected."""


def names_of(event: TimelineEvent) -> tuple[str, ...]:
    """Return the names an event is known by."""
    if isinstance(event, AgentSaid):
        # What was heard is the response; what was told is what the LLM and the TTS say of it.
        return ("response", "llm_response", "tts_response") if event.source is Source.TOLD else ("response",)
    if isinstance(event, MessageReceived):
        return _message_names(event.message)
    name = _FACT_NAMES.get(type(event))
    return () if name is None else (name,)


def _message_names(message: Any) -> tuple[str, ...]:
    match message:
        case {"type": "bot-output", "data": {"output_type": "backchannel", "spoken_status": "completed"}}:
            return (_BACKCHANNELS["bot-output"],)
        case {"type": "user-input", "data": {"input_type": "backchannel"}}:
            return (_BACKCHANNELS["user-input"],)
        case {"type": str() as kind} if kind in RTVI_EVENT_NAMES:
            return (RTVI_EVENT_NAMES[kind],)
        case _:
            return ()


def told_speaking(event: TimelineEvent) -> bool | None:
    """Return whether the agent says over RTVI that it speaks from now on, or no more; None if it says neither."""
    match event:
        case MessageReceived(message={"type": "bot-started-speaking"}):
            return True
        case MessageReceived(message={"type": "bot-stopped-speaking" | "bot-interrupted"}):
            return False
        case _:
            return None
