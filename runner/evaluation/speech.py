"""The agent's speech as it was heard: which told words were audible, what is an answer, how exact its times are."""

from collections.abc import Sequence
from itertools import pairwise

from bots.clock import NS_PER_MS
from bots.timeline import (
    AgentAudioQuality,
    AgentSaid,
    AgentTurnEnded,
    CallCalibrated,
    CallerPressedKeys,
    Source,
    TimelineEvent,
)
from runner.evaluation.view import CallView, Speech

TOLD_GRACE_NS = 250 * NS_PER_MS
"""Words are told a little before they are heard: the message overtakes the audio."""

BREATH_NS = 1_000 * NS_PER_MS
"""A barge-in that comes so soon after the agent's speech, while its turn is not over, fell between two phrases: the
agent could not know of it when it went on. A longer silence ends what the agent was saying."""

PHRASE_PAUSE_NS = 400 * NS_PER_MS
"""A shorter silence is one between two phrases, and no end of what the agent was saying."""

REACTION_NS = 1_000 * NS_PER_MS
"""An agent that falls silent so soon after a barge-in may have done so for the caller."""

TOLD_AFTER_NS = 1_500 * NS_PER_MS
"""Words that were spoken to their end are told so soon after their last audible sample: 0.4 s is usual."""

TOLD_BEFORE_NS = 500 * NS_PER_MS
"""And so long before it, where the message overtakes the audio."""

AUDIBLE_PER_WORD_NS = 100 * NS_PER_MS
"""Words for which less speech than this was heard were not spoken to their end: people say four words a second, and
hurried synthetic voices six."""


def began_ns(event: TimelineEvent) -> int:
    """Return when something happened; of heard words, when their speech began."""
    if isinstance(event, AgentSaid) and event.started_ns is not None:
        return event.started_ns
    return event.at_ns


def audible_told(view: CallView, *, from_ns: int, to_ns: int | None = None, until_ns: int) -> list[AgentSaid]:
    """Return the words that the agent told in a span of time and that can have been heard.

    An agent tells over RTVI what it has spoken, or is about to, whether or not its audio arrives. Its words are
    believed where some speech was heard about when they were told, or else where enough speech was heard in all for
    everything told so far. ``until_ns`` is now, or when the call ended: what speech goes on has lasted until then.
    """
    speeches = view.speeches
    heard_ns = sum(max(s.end_or(until_ns) - s.started.at_ns, 0) for s in speeches if s.touches(from_ns, to_ns))
    audible: list[AgentSaid] = []
    words = 0
    for event in view.said(Source.TOLD):
        if event.at_ns < from_ns or (to_ns is not None and event.at_ns >= to_ns):
            continue
        words += len(event.text.split())
        in_time = any(s.touches(event.at_ns - TOLD_AFTER_NS, event.at_ns + TOLD_BEFORE_NS) for s in speeches)
        if in_time or heard_ns >= words * AUDIBLE_PER_WORD_NS:
            audible.append(event)
    return audible


def words_are_in_doubt(view: CallView, onset_ns: int) -> bool:
    """Whether it takes recognition to know what was said from an onset on: it told none, or more than was heard."""
    from_ns = onset_ns - TOLD_GRACE_NS
    told = [e for e in view.said(Source.TOLD) if e.at_ns >= from_ns]
    audible = audible_told(view, from_ns=from_ns, until_ns=view.last_ns)
    return not told or len(audible) < len(told)


def between_phrases(at_ns: int, view: CallView) -> bool:
    """Whether the agent was silent at a time in the middle of its turn."""
    before = [s for s in view.speeches if s.started.at_ns < at_ns]
    if not before or before[-1].stopped is None or before[-1].lasts_at(at_ns):
        return False
    ended_ns = before[-1].stopped.at_ns
    return at_ns - ended_ns <= BREATH_NS and not view.turn_ended_between(ended_ns, at_ns)


def answers_from_ns(view: CallView, turn: int) -> int | None:
    """Return from where on the agent's speech may answer a turn of the caller.

    What goes on with a reply that the caller interrupted is no answer. Such a reply is over when the caller took it
    to be, when the agent says so over RTVI, or when it was silent for a second. An agent that says nothing of its
    speech over RTVI is given the benefit of the doubt where it fell silent when the caller spoke.

    Returns:
        0 where the caller interrupted nothing; else the onset of the first speech that is not part of the interrupted
        reply, None if there is none so far.
    """
    began = view.line(turn) or view.keys(turn)
    if began is None:
        return 0
    at_ns = began.at_ns
    speeches: Sequence[Speech] = view.speeches
    ends_ns = [e.at_ns for e in view.of(AgentTurnEnded)] + [t_ns for t_ns, on in view.told_speaking if not on]
    if not any(s.lasts_at(at_ns) for s in speeches):
        silent_from_ns = max((s.stopped.at_ns for s in speeches if s.stopped and s.stopped.at_ns <= at_ns), default=0)
        over = any(silent_from_ns <= end_ns <= at_ns for end_ns in ends_ns)
        if over or not between_phrases(at_ns, view):
            return 0
    line_end = view.line_end(turn)
    line_end_ns = at_ns if isinstance(began, CallerPressedKeys) else None if line_end is None else line_end.at_ns
    tells_from_ns = next((t_ns for t_ns, on in view.told_speaking if on), None)
    for before, speech in pairwise(speeches):
        onset_ns = speech.started.at_ns
        if onset_ns <= at_ns or before.stopped is None:
            continue
        silent_from_ns = before.stopped.at_ns
        over = any(at_ns <= end_ns <= onset_ns for end_ns in ends_ns)
        if over or onset_ns - silent_from_ns >= BREATH_NS:
            return onset_ns
        if tells_from_ns is not None and tells_from_ns <= onset_ns:
            continue
        if line_end_ns is None or onset_ns < line_end_ns or onset_ns - silent_from_ns < PHRASE_PAUSE_NS:
            continue
        if silent_from_ns <= max(line_end_ns, at_ns + REACTION_NS):
            return onset_ns
    return None


OWN_MS = 2.0
"""What placing and sending add at least: half a step of the levels, and the clock's reading."""

WIDEST_NS = 500 * NS_PER_MS
"""A sample less certain than this says nothing: it is refused."""


def own_uncertainty_ns(view: CallView) -> int:
    """Return what packet timing, placement and sending add to the uncertainty of a measured time."""
    calibrated, quality = view.first(CallCalibrated), view.first(AgentAudioQuality)
    jitters_ms = (calibrated and calibrated.arrival_jitter_ms, quality and quality.jitter_ms)
    # The earliest packets place the stream, so jitter shows only as far as it is there all the time.
    jitter_ms = min((ms for ms in jitters_ms if ms is not None), default=0.0)
    ours_ms = 0.0 if calibrated is None else calibrated.send_lag_ms + calibrated.library_ms
    return round((OWN_MS + ours_ms + jitter_ms) * NS_PER_MS)


def includes_jitter(view: CallView) -> bool:
    """Whether the latencies of a call include what the network's jitter adds: nobody says when its packets came."""
    calibrated = view.first(CallCalibrated)
    return calibrated is not None and calibrated.library_ms > 0


def in_ms(duration_ns: int) -> float:
    """Return a duration in milliseconds, to a tenth."""
    return round(duration_ns / NS_PER_MS, 1)
