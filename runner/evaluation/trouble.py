"""Was the harness able to judge? What went wrong on our own side or on the way, and which turns it touched.

An agent is blamed only for what it did with the call it was given. A line that reached it in pieces, a caller that
stood still, audio that was lost: what comes of those is inconclusive, and says so.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import (
    SESSION_FAILED,
    AgentAudioLost,
    AgentJoined,
    AgentMediaResumed,
    AgentMediaStopped,
    AgentProbed,
    AgentProcessEnded,
    AgentSessionEnded,
    CallerAudioLost,
    CallerStartedSpeaking,
    CallerUnderrun,
    EndedReason,
    HarnessStalled,
    MachineBusy,
    MediaNotConnected,
    RecordingMeasured,
)
from runner.evaluation.verdicts import Cause, Evidence, evidence_of
from runner.evaluation.view import CallView

_E = TypeVar("_E")
_T = TypeVar("_T")

HEARD_GAP_MS = 60.0
"""Holes in a line that add up to less than this (three packets) are filled by any receiver."""

NOTICED_STALL_MS = 1_000.0
"""After a caller that stood still for so long the conversation may take another course."""

GARBLED_SHARE = 0.75
"""An agent that waits for so much of its time may take a caller's turn to be over before it has heard all of it."""

LOST_PACKETS = 5
"""Fewer lost packets (100 ms) are filled by any receiver, or are its own."""

AGENT_LOST_MS = 60.0
"""Less lost audio of the agent than this can't have hidden a word."""

MISLEADS_MS = 400
"""A hole that is longer may make the caller take the agent's turn to be over, and speak in the middle of it."""
MISLED_WITHIN_NS = 1_500 * NS_PER_MS
"""So soon after a hole the caller may have taken the turn to be over because of it."""

GONE_NS = 3_500 * NS_PER_MS
"""An agent has vanished when nothing arrived from it for so long."""

WENT_ON = "the caller took another sound for the agent's speech and went on; the recording has no speech there"

AFTERWARDS_NS = NS_PER_S
"""For so long after a stall times are still being put right: what was held up comes in a burst."""


@dataclass(frozen=True)
class Trouble:
    """Something that kept the harness from judging.

    Attributes:
        from_ns: When it began.
        to_ns: When it was over.
        cause: ``harness``, ``network``, ``room``, or ``caller`` where our hearing can't tell.
        what: What happened, in a few words.
        lasting: Whether the agent may have been led astray by it: then it touches all that follows.
        evidence: The fact.
        heard_only: Whether all it did was to keep us from hearing the agent: what is told is as it is.
        slows_only: Whether all it did was to slow the agent down: what it raised, or called, or that it left, is its
            own doing.
        garbles: Whether what slowed it down may have made it mishear, too: its clocks run on while it waits.
    """

    from_ns: int
    to_ns: int
    cause: Cause
    what: str
    lasting: bool
    evidence: Evidence
    heard_only: bool = False
    slows_only: bool = False
    garbles: bool = False

    @property
    def misleads(self) -> bool:
        """Whether the agent may have done another thing because of it, or have done it unheard: not only late."""
        return self.lasting or self.garbles or self.cause is not Cause.HARNESS

    def overlaps(self, from_ns: int, to_ns: int) -> bool:
        return self.from_ns <= to_ns and self.to_ns >= from_ns

    def touches(self, from_ns: int, to_ns: int) -> bool:
        """Whether it can have changed what came of a span of time."""
        return self.overlaps(from_ns, to_ns) or (self.lasting and self.from_ns <= to_ns)


def troubles_of(view: CallView) -> list[Trouble]:
    """Return what kept the harness from judging parts of a call, ordered by when it began."""
    finders = (_lines, _held_up, _on_the_way, _interruptions, _somebody_else, _vanished, _background, _mistaken)
    return sorted((trouble for find in finders for trouble in find(view)), key=lambda trouble: trouble.from_ns)


def _lines(view: CallView) -> Iterator[Trouble]:
    for turn, events in _by_turn(view.of(CallerUnderrun), lambda e: e.turn):
        late_ms = sum(e.duration_ms for e in events)
        if late_ms >= HEARD_GAP_MS:
            times = "once" if len(events) == 1 else f"{len(events)} times"
            what = f"the caller's line in turn {turn + 1} was not on time ({times}, {late_ms:.0f} ms in all)"
            first = events[0]
            yield Trouble(first.at_ns, _end_ns(events[-1]), Cause.HARNESS, what, True, evidence_of(first))


def _by_turn(events: Sequence[_E], turn: Callable[[_E], _T]) -> Iterable[tuple[_T, list[_E]]]:
    found: dict[_T, list[_E]] = defaultdict(list)
    for event in events:
        found[turn(event)].append(event)
    return found.items()


def _held_up(view: CallView) -> Iterator[Trouble]:
    """Yield where the runner stood still, and where an agent on our machine can hardly have got a processor."""
    # Who was not there yet did not notice.
    met_ns = 0 if view.joined is None else view.joined.at_ns
    for e in view.of(HarnessStalled):
        if _end_ns(e) + AFTERWARDS_NS > met_ns:
            what = f"the runner stood still for {e.duration_ms / 1000:.1f} s at {e.at_s:.1f} s"
            lasting = e.duration_ms >= NOTICED_STALL_MS and _end_ns(e) > met_ns
            yield Trouble(e.at_ns, _end_ns(e) + AFTERWARDS_NS, Cause.HARNESS, what, lasting, evidence_of(e))
    for e in view.of(MachineBusy):
        if e.shared:
            what = (
                f"the machine, which the agent runs on too, was too busy at {e.at_s:.1f} s: "
                f"the runner waited for a processor for {e.waited:.0%} of its time"
            )
            slow = Trouble(e.at_ns, _end_ns(e), Cause.HARNESS, what, False, evidence_of(e))
            yield replace(slow, slows_only=True, garbles=e.waited >= GARBLED_SHARE)


def _on_the_way(view: CallView) -> Iterator[Trouble]:
    """Yield what was lost between the caller and the agent, either way."""
    for e in view.of(CallerAudioLost):
        if e.lost >= LOST_PACKETS and _speaks_in(view, e.since_ns, e.at_ns):
            what = (
                f"{e.lost} of {e.packets} packets of the caller's audio did not reach the agent before {e.at_s:.1f} s"
            )
            yield Trouble(e.since_ns, e.at_ns, Cause.NETWORK, what, True, evidence_of(e))
    for _, events in _by_turn(view.of(AgentAudioLost), lambda e: view.turn_at(e.at_ns)):
        lost_ms = sum(e.duration_ms for e in events)
        if lost_ms >= AGENT_LOST_MS:
            first, to_ns = events[0], _end_ns(events[-1])
            heard_only = lost_ms < MISLEADS_MS and not view.turn_ended_between(first.at_ns, to_ns + MISLED_WITHIN_NS)
            what = f"{lost_ms:.0f} ms of the agent's audio were lost from {first.at_s:.1f} s on"
            yield Trouble(first.at_ns, to_ns, Cause.NETWORK, what, False, evidence_of(first), heard_only)


def _speaks_in(view: CallView, from_ns: int, to_ns: int) -> bool:
    """Whether the caller spoke in a span of time: silence that is lost is no loss."""
    lines = [(line, view.line_end(turn)) for turn in view.starts if (line := view.line(turn)) is not None]
    return any(line.at_ns <= to_ns and (end is None or end.at_ns >= from_ns) for line, end in lines)


def longest_unheard_ms(view: CallView, from_ns: int, to_ns: int) -> float:
    """Return the longest stretch of a span of time from which nothing of the agent's audio came, in milliseconds."""
    resumed = view.of(AgentMediaResumed)
    holes = [(e.at_ns, _end_ns(e)) for e in view.of(AgentAudioLost)]
    for stopped in view.of(AgentMediaStopped):
        holes.append((stopped.at_ns, next((e.at_ns for e in resumed if e.at_ns > stopped.at_ns), view.end_ns)))
    return max((min(end, to_ns) - max(begin, from_ns) for begin, end in holes), default=0) / NS_PER_MS


def _end_ns(event: AgentAudioLost | CallerUnderrun | HarnessStalled | MachineBusy) -> int:
    return event.at_ns + round(event.duration_ms * NS_PER_MS)


def _interruptions(view: CallView) -> Iterator[Trouble]:
    for resumed in view.of(AgentMediaResumed):
        for stopped in [e for e in view.of(AgentMediaStopped) if e.at_ns <= resumed.at_ns][-1:]:
            gap_s = (resumed.at_ns - stopped.at_ns) / NS_PER_S
            what = f"nothing arrived from the agent for {gap_s:.1f} s, and then it did again"
            yield Trouble(stopped.at_ns, resumed.at_ns, Cause.NETWORK, what, True, evidence_of(stopped))
    for e in view.of(MediaNotConnected):
        yield Trouble(e.at_ns, view.end_ns, Cause.NETWORK, media_problem(e), True, evidence_of(e))


def media_problem(event: MediaNotConnected) -> str:
    """Return what was missing when the caller went on without a media connection."""
    both = [*([] if event.sending else ["the caller's"]), *([] if event.receiving else ["the agent's"])]
    which = " and ".join(both)
    return f"{which} audio was not connected within {event.waited_ms / 1000:.0f} s, and the caller went on without it"


def _somebody_else(view: CallView) -> Iterator[Trouble]:
    """Yield that the caller spoke to somebody else before it was clear who the agent is."""
    first, joined = view.first(AgentJoined), view.joined
    if joined is not None and first is not joined and _speaks_in(view, 0, joined.at_ns):
        until = f"until {joined.at_s:.1f} s; give the agent's user name"
        what = f"somebody else in the room was taken for the agent {until}"
        yield Trouble(0, joined.at_ns, Cause.ROOM, what, True, evidence_of(joined))


def _vanished(view: CallView) -> Iterator[Trouble]:
    """Yield that an agent which vanished need not have crashed, where its address does not say so."""
    probed = view.first(AgentProbed)
    died = (
        (probed is not None and probed.answers is False)
        or any(e.exit_code != 0 for e in view.of(AgentProcessEnded))
        or any(e.state == SESSION_FAILED for e in view.of(AgentSessionEnded))
    )
    if died or view.ended is None or view.ended.reason is not EndedReason.AGENT_VANISHED:
        return
    what = "nothing arrives from the agent any more, "
    if probed is None:
        what += "and nothing tells whether it crashed or the network is cut"
    elif probed.answers:
        what += "but its address takes connections: its session died, or the network carries no audio"
    else:
        what += "and its address does not answer: its machine is gone, or the network is cut"
    stopped = view.of(AgentMediaStopped)
    from_ns = stopped[-1].at_ns if stopped else view.end_ns - GONE_NS
    yield Trouble(from_ns, view.end_ns, Cause.NETWORK, what, False, evidence_of(probed or view.ended))


def _mistaken(view: CallView) -> Iterator[Trouble]:
    """Yield where the caller took another sound for an answer, and spoke before the answer came.

    What the agent says from then on may be an answer to an earlier line, and its speech in a line no talking over.
    """
    for turn in view.starts if view.is_measured else ():
        handed_over = view.handed_over(turn)
        if handed_over is None:
            continue
        from_ns = handed_over.at_ns
        next_ns = next((line.at_ns for line in view.of(CallerStartedSpeaking) if line.at_ns > from_ns), None)
        if next_ns is None or any(s.touches(from_ns, next_ns) for s in view.speeches):
            continue
        for sound in [s.started for s in view.live_speeches if from_ns <= s.started.at_ns < next_ns][:1]:
            yield Trouble(sound.at_ns, next_ns, Cause.CALLER, WENT_ON, True, evidence_of(sound))


def _background(view: CallView) -> Iterator[Trouble]:
    for e in [e for e in view.of(RecordingMeasured) if e.too_loud][:1]:
        what = f"the background ({e.bed_dbfs:.0f} dBFS) is too loud to tell the agent's speech from it"
        yield Trouble(0, view.end_ns, Cause.CALLER, what, True, evidence_of(e))
        return
    what = "the background is too loud here to tell the agent's speech from it"
    for s in view.speeches:
        if s.too_loud:
            ends_ns = s.end_or(view.end_ns)
            yield Trouble(s.started.at_ns, ends_ns, Cause.CALLER, what, False, evidence_of(s.started))
