"""Where the live hearing and the recording differ: the first steered the caller, the second is what is reported."""

from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import EndedReason
from runner.evaluation.speech import in_ms
from runner.evaluation.view import CallView

MARGIN_NS = 200 * NS_PER_MS
"""Live an edge is known at once, and so less exactly: differences below this are no news."""

BLOCKED_NS = 3 * NS_PER_S
"""A caller that hears speech for so long where the recording has none was held up by its own hearing."""


def hearing_differs(view: CallView, *, passed: bool = False) -> str | None:
    """Return how the live hearing of the agent's speech differs from the recording; None where it hardly does.

    Of a call that passed it is told only where it bore on something: the caller spoke into the agent's speech, or
    waited for long, because of what it heard.
    """
    if not view.is_measured or (passed and not _misled(view)):
        return None
    missed = [s for s in view.speeches if not view.noticed_live(s)]
    invented = [s for s in view.live_speeches if not view.is_recorded(s)]
    far = [
        (apart_ns, s)
        for s in view.speeches
        if (near := view.beside(s, view.live_speeches))
        and (apart_ns := abs(near[0].started.at_ns - s.started.at_ns)) > MARGIN_NS
    ]
    parts: list[str] = []
    if far:
        worst_ms, first = in_ms(max(ns for ns, _ in far)), far[0][1]
        parts.append(f"{_times(len(far))} by up to {worst_ms:.0f} ms (first at {first.started.at_s:.1f} s)")
    if missed:
        parts.append(f"it did not notice speech {_times(len(missed))} (first at {missed[0].started.at_s:.1f} s)")
    if invented:
        parts.append(f"it took something else for speech {_times(len(invented))}")
    return f"the live hearing and the recording differ: {'; '.join(parts)}" if parts else None


def _misled(view: CallView) -> bool:
    """Whether the caller did something else than it would have done with the recording in its ear."""
    lines = [line.at_ns for turn in view.starts if (line := view.line(turn)) is not None]
    spoke_into_it = any(
        s.lasts_at(at_ns) and not any(live.lasts_at(at_ns) for live in view.live_speeches)
        for at_ns in lines
        for s in view.speeches
    )
    held_up = any(
        live.end_or(view.end_ns) - max([s.end_or(view.end_ns) for s in near] or [live.started.at_ns]) > BLOCKED_NS
        for live in view.live_speeches
        for near in [view.beside(live, view.speeches)]
    )
    return spoke_into_it or held_up or any(not view.noticed_live(s) for s in view.speeches)


def silence_in_error(view: CallView, reason: EndedReason) -> bool:
    """Whether the caller took the agent for silent that, as the recording shows, had answered."""
    if not view.is_measured:
        return False
    speeches = [s for s in view.speeches if not s.too_loud]
    if reason is EndedReason.AGENT_NEVER_SPOKE:
        return bool(speeches)
    handed_over = [e.at_ns for turn in view.starts if (e := view.handed_over(turn)) is not None]
    if not handed_over:
        return False
    answers = [s for s in speeches if s.started.at_ns >= max(handed_over)]
    if reason is EndedReason.AGENT_FROZE:
        return bool(answers)
    # An agent that waited for a caller that did not notice its answer may well leave.
    return reason is EndedReason.AGENT_LEFT and bool(answers) and not any(view.noticed_live(s) for s in answers)


def speech_in_error(view: CallView) -> bool:
    """Whether the caller, at the call's end, heard the agent speak that had long been silent."""
    if not view.is_measured or not view.live_speeches or view.live_speeches[-1].stopped is not None:
        return False
    ends_ns = max((s.end_or(view.end_ns) for s in view.speeches), default=0)
    return view.end_ns - max(ends_ns, view.live_speeches[-1].started.at_ns) > BLOCKED_NS


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
