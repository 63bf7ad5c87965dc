"""What an agent lets see: which events can be told from its audio, and which take an agent that reports them."""

from bots.caller.script import AfterEvent, Script
from bots.timeline import EndedReason
from runner.evaluation.view import CallView

_AUDIBLE = frozenset({"response", "bot_started_speaking", "bot_stopped_speaking"})
"""What can be told from the audio alone; everything else takes an agent that speaks RTVI."""

_ON_REQUEST = {
    "llm_marker": "the agent does not report its LLM's markers",
    "vad_user_started_speaking": "the agent does not report raw VAD events",
    "vad_user_stopped_speaking": "the agent does not report raw VAD events",
}
"""What an agent that speaks RTVI reports only where its observer was told to."""

_WAITED_FOR_AN_EVENT = frozenset({EndedReason.CALLER_HUNG_UP, EndedReason.MAX_DURATION})
"""How a call ends whose caller waits for an event that never comes."""

_NO_RTVI = "the agent does not speak RTVI"


def hidden_reason(event: str, view: CallView) -> str | None:
    """Return why an event can't be seen with the agent of a call; None where it can."""
    if event in _AUDIBLE:
        return None
    if not view.rtvi:
        return _NO_RTVI
    return None if view.named(event) else _ON_REQUEST.get(event)


def unobservable_start(script: Script, view: CallView) -> tuple[int, str] | None:
    """Return the first turn that was not taken up, if its agent does not report what it was to start after.

    Args:
        script: The script that was played.
        view: A finished call.

    Returns:
        The turn's place in the script, and why; None if there is no such turn.
    """
    first = next((i for i in range(len(script.turns)) if i not in view.starts), None)
    if first is None or first == 0:
        return None
    start = script.turns[first].start
    if not isinstance(start, AfterEvent) or start.event is None:
        return None
    passed_over = any(i > first for i in view.starts)
    if not passed_over and (view.ended is None or view.ended.reason not in _WAITED_FOR_AN_EVENT):
        return None
    why = hidden_reason(start.event, view)
    return None if why is None else (first, f"turn {first + 1} starts after {start.event}, and {why}")
