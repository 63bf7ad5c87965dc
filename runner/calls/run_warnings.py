"""What went wrong with a call on our side and on the way, in plain words: from the facts alone."""

from collections.abc import Sequence

from bots.timeline import (
    AgentAudioLate,
    AgentAudioLost,
    CallerAudioLost,
    CallerUnderrun,
    HarnessStalled,
    MachineBusy,
    MediaNotConnected,
    TimelineEvent,
)
from runner.evaluation.trouble import LOST_PACKETS, media_problem


def trouble_warnings(facts: Sequence[TimelineEvent]) -> list[str]:
    """Return a line for each kind of trouble a call had that was not the agent's."""
    late = [e.duration_ms for e in facts if isinstance(e, CallerUnderrun)]
    stalls = [e.duration_ms for e in facts if isinstance(e, HarnessStalled)]
    waited = [e.waited for e in facts if isinstance(e, MachineBusy)]
    unheard = [e.duration_ms for e in facts if isinstance(e, AgentAudioLost)]
    behind = [e.late_ms for e in facts if isinstance(e, AgentAudioLate)]
    reports = [e for e in facts if isinstance(e, CallerAudioLost)]
    lost = sum(e.lost for e in reports)
    warnings = [media_problem(e) for e in facts if isinstance(e, MediaNotConnected)]
    if late:
        warnings.append(f"the caller's audio was late {_times(late)}")
    if stalls:
        warnings.append(f"the runner stood still {_times(stalls)}")
    if waited:
        times = "once" if len(waited) == 1 else f"{len(waited)} times"
        share = f"for up to {max(waited):.0%} of its time"
        warnings.append(f"the machine was too busy {times}: the runner waited for a processor {share}")
    if unheard:
        warnings.append(f"the agent's audio was lost on its way to us {_times(unheard)}")
    if behind:
        worst = _duration(max(behind))
        warnings.append(f"the agent's audio came up to {worst} late: times are less exact there, and say so")
    if lost >= LOST_PACKETS:
        sent = sum(e.packets for e in reports)
        warnings.append(f"the caller's audio was lost on its way to the agent: {lost} of {sent} packets")
    return warnings


def _times(durations_ms: Sequence[float]) -> str:
    total = _duration(sum(durations_ms))
    return f"once, for {total}" if len(durations_ms) == 1 else f"{len(durations_ms)} times, {total} in all"


def _duration(duration_ms: float) -> str:
    return f"{duration_ms:.0f} ms" if duration_ms < 1_000 else f"{duration_ms / 1_000:.1f} s"
