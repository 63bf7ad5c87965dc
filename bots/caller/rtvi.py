"""RTVI as the caller speaks it: the messages it sends, and the facts it reads from an agent's."""

import uuid
from typing import Any

from bots.timeline import (
    AgentCalledFunction,
    AgentError,
    AgentFunctionReturned,
    AgentSaid,
    BotReady,
    CallerHeardAs,
    MessageReceived,
    Source,
    TimelineEvent,
)

PROTOCOL_VERSION = "2.2.0"
MESSAGE_LABEL = "rtvi-ai"
LIBRARY = "pipecat-scenario-runner"

MAX_DEPTH = 100
"""Messages are kept down to this depth: a timeline's line holds no more than about 200 levels."""


def client_ready() -> dict[str, Any]:
    """Return the message that tells a bot that its client is there: many bots greet or listen only then."""
    return _message("client-ready", {"version": PROTOCOL_VERSION, "about": {"library": LIBRARY}})


def dtmf(keys: str) -> dict[str, Any]:
    """Return the message that presses telephone keys (protocol 2.1 and later)."""
    return _message("dtmf", {"buttons": list(keys)})


_AGENTS_KINDS = ("bot-", "user-", "server-", "error", "metrics", "llm-function-call-started", "llm-function-call-in")
"""How the kinds of message begin that only an agent sends; a client's own are others."""


def is_from_an_agent(message: Any) -> bool:
    if not isinstance(message, dict) or message.get("label") != MESSAGE_LABEL:
        return False
    return str(message.get("type")).startswith(_AGENTS_KINDS)


def is_of_the_application(message: Any) -> bool:
    """Return whether a message is the application's own: no RTVI, or RTVI that carries what the application wants."""
    if not isinstance(message, dict) or message.get("label") != MESSAGE_LABEL:
        return True
    return message.get("type") in ("server-message", "server-response")


MAX_ERROR_CHARACTERS = 2_000
"""Of an agent's error so much is kept."""

MAX_EARLY_WORDS = 1_000
"""So much of what was told in the older way is kept in mind, to know it again."""


class RtviReader:
    """Turns the messages of one agent into facts.

    An agent tells what it says in one of two ways, depending on the age of its Pipecat. The newer one says
    whether the words were really spoken, so once it is seen the older one is left out. Newer agents send both, the
    older one first: before ``bot-ready`` says how old the agent is, words told in both ways count once.
    """

    def __init__(self) -> None:
        self._has_bot_output = False
        self._told_the_older_way: list[str] = []
        self._functions: dict[str, str | None] = {}

    def facts(self, at_ns: int, message: Any) -> list[TimelineEvent]:
        """Return what a message says; a message that is no RTVI, or says nothing of its own, is kept as it is."""
        message = _writable(message)
        if not isinstance(message, dict) or message.get("label") != MESSAGE_LABEL:
            return [MessageReceived(at_ns=at_ns, message=message)]
        data = message.get("data")
        kind = message.get("type")
        event = self._event(at_ns, kind, data if isinstance(data, dict) else {})
        if isinstance(event, AgentSaid) and self._counted_already(str(kind), event.text):
            event = None
        return [MessageReceived(at_ns=at_ns, message=message) if event is None else event]

    def _counted_already(self, kind: str, text: str) -> bool:
        words = text.split()
        if kind == "bot-transcription":
            self._told_the_older_way = [*self._told_the_older_way, *words][-MAX_EARLY_WORDS:]
            return False
        if not words:
            return False
        early = self._told_the_older_way
        # In order, and from the first on: whatever comes between is news, and what is left then is old.
        is_known = early[: len(words)] == words
        self._told_the_older_way = early[len(words) :] if is_known else []
        return is_known

    def _event(self, at_ns: int, kind: Any, data: dict[str, Any]) -> TimelineEvent | None:
        match kind:
            case "bot-ready":
                about = data.get("about")
                version = _text(data, "version")
                # Known before the first of them: the older message about the same words comes earlier.
                self._has_bot_output = self._has_bot_output or _major(version) >= 2
                return BotReady(
                    at_ns=at_ns,
                    protocol_version=version,
                    about=about if isinstance(about, dict) else None,
                )
            case "bot-output":
                self._has_bot_output = True
                spoken = data.get("will_be_spoken") is True and data.get("spoken_status") == "completed"
                # As protocol 1 says it; there every word comes once more by itself.
                spoken = spoken or (data.get("spoken") is True and data.get("aggregated_by") != "word")
                text = _text(data, "text")
                return AgentSaid(at_ns=at_ns, text=text, source=Source.TOLD) if spoken and text else None
            case "bot-transcription" if not self._has_bot_output:
                text = _text(data, "text")
                return AgentSaid(at_ns=at_ns, text=text, source=Source.TOLD) if text else None
            case "error":
                text = _text(data, "error") or _text(data, "message") or "no text"
                return AgentError(at_ns=at_ns, text=text[:MAX_ERROR_CHARACTERS], fatal=data.get("fatal") is True)
            case "user-transcription" if data.get("final") is True:
                text = _text(data, "text")
                return None if text is None else CallerHeardAs(at_ns=at_ns, text=text)
            case "llm-function-call-in-progress":
                call_id = _text(data, "tool_call_id") or ""
                arguments = data.get("arguments")
                self._functions[call_id] = _text(data, "function_name")
                return AgentCalledFunction(
                    at_ns=at_ns,
                    call_id=call_id,
                    name=self._functions[call_id],
                    arguments=arguments if isinstance(arguments, dict) else None,
                )
            case "llm-function-call-stopped":
                call_id = _text(data, "tool_call_id") or ""
                called_as = self._functions.pop(call_id, None)
                return AgentFunctionReturned(
                    at_ns=at_ns,
                    call_id=call_id,
                    name=_text(data, "function_name") or called_as,
                    result=data.get("result"),
                    cancelled=data.get("cancelled") is True,
                )
            case _:
                return None


def _message(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"label": MESSAGE_LABEL, "type": kind, "id": uuid.uuid4().hex, "data": data}


def _writable(value: Any, depth: int = 0) -> Any:
    """Return a JSON value without what no file takes: halves of surrogate pairs, and nesting without end."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict | list) and depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, dict):
        return {_writable(key): _writable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_writable(item, depth + 1) for item in value]
    return value


def _major(version: str | None) -> int:
    major = (version or "").partition(".")[0]
    return int(major) if major.isdecimal() and len(major) < 4 else 0


def _text(data: dict[str, Any], key: str) -> str | None:
    value = data.get(key)
    return value if isinstance(value, str) else None
