"""How the agent behaves: whether it answers in time, stops when interrupted, lets the caller finish, hangs up.

Told from the audio of both sides alone. Definitions: the caller's first and last voiced samples are those that left
for the network; the agent's onset and end are those of its audible speech on the received audio.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bots.caller.body import TOLD_SPEAKING_NS
from bots.caller.script import (
    AGENT_HANGS_UP,
    AGENT_NEVER_TALKS_OVER,
    AGENT_SPEAKS,
    AGENT_STOPS,
    Expectation,
)
from bots.clock import NS_PER_MS
from bots.timeline import (
    AgentLeft,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    LineEnd,
    TimelineEvent,
)
from runner.evaluation.ending import Ending
from runner.evaluation.precision import in_ms, own_uncertainty_ns
from runner.evaluation.speech import answers_from_ns, between_phrases
from runner.evaluation.verdicts import KNOWN_LATE_NS, Cause, Evidence, Finding, Verdict, evidence_of
from runner.evaluation.view import CallView, Speech

MIN_OVERLAP_NS = 100 * NS_PER_MS
"""A shorter overlap is two people starting and ending at once, and no talking over."""

NATURAL_END_NS = 100 * NS_PER_MS
"""Speech that ends sooner after a barge-in ended by itself: nobody reacts so fast."""

FALLING_SILENT_NS = 1_500 * NS_PER_MS
"""For so long after a barge-in, what the interrupted agent still says is no new attempt to talk over the caller."""

COLLISION_NS = 300 * NS_PER_MS
"""An agent that begins so soon after the caller can't have heard it yet."""

GIVES_WAY_NS = 700 * NS_PER_MS
"""Then it gives way within this time, or talks over the caller."""

LIVE_MARGIN_NS = 250 * NS_PER_MS
"""While the call is on an edge is known less exactly than afterwards: what misses its limit by less than this is left
to the recording, and the caller goes on."""


@dataclass(frozen=True)
class _Turn:
    """What a turn's behaviour is told from."""

    began_ns: int
    next_ns: int | None
    speeches: Sequence[Speech]
    line: CallerStartedSpeaking | None
    line_end: CallerStoppedSpeaking | None
    handed_over: TimelineEvent | None
    left: AgentLeft | None
    speaks: bool
    between_phrases: bool
    """Whether the caller's line began while the agent took a breath."""
    answers_from_ns: int | None
    """From where on the agent's speech may be an answer; None where nothing so far may."""
    known_until_ns: int
    """Now, while the call is on; else when it ended."""
    ending: Ending | None
    """How the call ended; None while it is on, or where that is not known."""
    told_speaking: bool
    """Whether the agent said, when the caller began its line, that it was speaking, and had just been heard."""
    own_uncertainty_ns: int
    """What our own side and the network add to a measured time."""
    live: bool
    """Whether the call is on."""
    noticed_live: Callable[[Speech], bool]
    """Whether the live hearing had a speech too (:meth:`CallView.noticed_live`)."""

    @property
    def finished(self) -> bool:
        """Whether the caller came to the end of its line."""
        return self.line_end is not None and self.line_end.end is LineEnd.SAID

    @property
    def line_lasts_until_ns(self) -> int:
        """When the line ended, or until when it is known to have gone on."""
        return self.known_until_ns if self.line_end is None else self.line_end.at_ns

    def talks_over(self, speech: Speech) -> bool:
        """Whether speech that began in the line began long enough before its end."""
        return self.line_lasts_until_ns - speech.started.at_ns >= MIN_OVERLAP_NS

    def collides(self, speech: Speech) -> bool:
        """Whether both began at once, and the agent gave way."""
        return self.line is not None and gives_way(self.line.at_ns, speech)

    def began_together(self, speech: Speech) -> bool:
        """Whether the agent began with the caller, before it can have noticed."""
        return self.line is not None and _began_together(self.line.at_ns, speech)


def find_behaviour(
    expectation: Expectation,
    turn: int,
    *,
    speaks: bool,
    listens: bool,
    view: CallView,
    began_ns: int,
    next_ns: int | None,
    now_ns: int | None,
) -> Finding:
    """Return what became of an expectation of how the agent behaves.

    Args:
        expectation: One of :data:`bots.caller.script.BEHAVIOURS`.
        turn: The turn's place in the script, from 0.
        speaks: Whether the caller speaks in this turn.
        listens: Whether it only listens.
        view: The call.
        began_ns: When the turn was taken up.
        next_ns: When the next one was; None if there was none.
        now_ns: The time on the call's clock while the call is on. None once it is over.
    """
    line = view.line(turn)
    handed_over: TimelineEvent | None = view.handed_over(turn)
    if handed_over is None and listens and turn == 0:
        # A greeting's latency counts from when both sides are present.
        handed_over = view.joined
        began_ns = handed_over.at_ns if handed_over is not None else began_ns
    ending = None if now_ns is not None else view.ending
    seen = _Turn(
        began_ns=began_ns,
        next_ns=next_ns,
        speeches=view.speeches,
        line=line,
        line_end=view.line_end(turn),
        handed_over=handed_over,
        left=next((e for e in view.of(AgentLeft) if e.at_ns >= began_ns), None),
        speaks=speaks,
        between_phrases=line is not None and between_phrases(line.at_ns, view),
        answers_from_ns=answers_from_ns(view, turn),
        known_until_ns=now_ns if now_ns is not None else view.last_ns if ending is None else ending.at_ns,
        ending=ending,
        told_speaking=line is not None and _is_in_the_middle(view, line.at_ns),
        own_uncertainty_ns=own_uncertainty_ns(view),
        live=now_ns is not None,
        noticed_live=view.noticed_live,
    )
    find = {
        AGENT_SPEAKS: _speaks,
        AGENT_STOPS: _stops,
        AGENT_NEVER_TALKS_OVER: _never_talks_over,
        AGENT_HANGS_UP: _hangs_up,
    }[expectation.event]
    return find(expectation, seen, now_ns)


def gives_way(line_ns: int, speech: Speech) -> bool:
    """Whether speech that began with a line, before its agent can have noticed, soon stopped for it."""
    if speech.stopped is None or not _began_together(line_ns, speech):
        return False
    return speech.stopped.at_ns - speech.started.at_ns <= GIVES_WAY_NS


def _began_together(line_ns: int, speech: Speech) -> bool:
    return speech.started.at_ns - line_ns <= COLLISION_NS


def _is_in_the_middle(view: CallView, at_ns: int) -> bool:
    """Whether the agent, by its own word, was speaking at a time, and was heard shortly before."""
    told = [on for t_ns, on in view.told_speaking if t_ns <= at_ns]
    ends_ns = [s.end_or(at_ns) for s in view.speeches if s.started.at_ns < at_ns]
    return bool(told) and told[-1] and bool(ends_ns) and at_ns - ends_ns[-1] <= TOLD_SPEAKING_NS


def _in_time(
    turn: _Turn, took_ns: int, limit_ns: int, *, within_ns: int, did: str, evidence: tuple[Evidence, ...]
) -> Finding:
    """Return whether something came within its limit: not judged where the limit lies within the error bar.

    Args:
        turn: The turn.
        took_ns: How long it took, as measured.
        limit_ns: How long it may take.
        within_ns: The uncertainty of the edge it was measured at; 0 where that is not known.
        did: What took so long ("spoke").
        evidence: What this rests on.
    """
    took = f"{did} after {in_ms(took_ns):.0f} ms"
    late_ns = took_ns - limit_ns
    if turn.live:
        if 0 < late_ns <= LIVE_MARGIN_NS:
            reason = f"{took}, so close to its limit that the recording decides"
            return Finding(verdict=Verdict.NOT_JUDGED, reason=reason, evidence=evidence)
    elif within_ns:
        bar_ns = within_ns + turn.own_uncertainty_ns
        if abs(late_ns) <= bar_ns:
            reason = (
                f"{took} (± {in_ms(bar_ns):.0f} ms), with a limit of {in_ms(limit_ns):.0f} ms: "
                "the limit lies within the error bar"
            )
            return Finding(verdict=Verdict.NOT_JUDGED, reason=reason, evidence=evidence, cause=Cause.CALLER)
    verdict = Verdict.MET if late_ns <= 0 else Verdict.MISSED
    return Finding(verdict=verdict, reason=took, evidence=evidence)


def _open(turn: _Turn, now_ns: int | None, deadline_ns: int, reason: str) -> Finding:
    """Return what an expectation is that nothing has met: open while there is time, missed after.

    Where the call was ended before its time was up, for no doing of the agent, it is not judged.
    """
    until_ns = deadline_ns + KNOWN_LATE_NS
    if now_ns is not None and now_ns <= until_ns:
        return Finding(verdict=Verdict.PENDING, recheck_ns=until_ns + 1)
    if turn.ending is not None and turn.ending.cuts_short(deadline_ns):
        return Finding(verdict=Verdict.NOT_JUDGED, reason=turn.ending.before)
    return Finding(verdict=Verdict.MISSED, reason=reason)


def _may_be_unknown(at_ns: int, now_ns: int | None) -> bool:
    """Whether what the agent did at a time may not be known yet."""
    return now_ns is not None and now_ns <= at_ns + KNOWN_LATE_NS


def _wait(at_ns: int) -> Finding:
    """Return that an expectation is open until what the agent did at a time is known."""
    return Finding(verdict=Verdict.PENDING, recheck_ns=at_ns + KNOWN_LATE_NS + 1)


def _unfinished(now_ns: int | None) -> Finding:
    if now_ns is not None:
        return Finding(verdict=Verdict.PENDING)
    return Finding(verdict=Verdict.NOT_JUDGED, reason="the caller did not come to the end of its line")


def _speaks(expectation: Expectation, turn: _Turn, now_ns: int | None) -> Finding:
    if turn.speaks and not turn.finished:
        if now_ns is None and turn.left is not None:
            reason = "hung up before the caller had finished"
            return Finding(verdict=Verdict.MISSED, reason=reason, evidence=(evidence_of(turn.left),))
        return _unfinished(now_ns)
    from_ns = turn.began_ns if turn.handed_over is None else turn.handed_over.at_ns
    began_ns = turn.line.at_ns if turn.line is not None else from_ns
    goes_on = False
    for speech in turn.speeches:
        onset_ns = speech.started.at_ns
        if onset_ns < began_ns or (turn.next_ns is not None and onset_ns >= turn.next_ns):
            continue
        if turn.answers_from_ns is None or onset_ns < turn.answers_from_ns:
            goes_on = goes_on or onset_ns >= from_ns
            continue
        evidence = (evidence_of(speech.started),)
        if onset_ns < from_ns:
            if not speech.lasts_at(from_ns):
                continue
            if speech.stopped is None and _may_be_unknown(from_ns, now_ns):
                return _wait(from_ns)
            reason = f"began {in_ms(from_ns - onset_ns):.0f} ms before the caller had finished"
            return Finding(verdict=Verdict.MET, reason=reason, evidence=evidence)
        return _in_time(
            turn,
            onset_ns - from_ns,
            expectation.budget_ms * NS_PER_MS,
            within_ns=speech.onset_uncertainty_ns,
            did="spoke",
            evidence=evidence,
        )
    deadline_ns = from_ns + expectation.budget_ms * NS_PER_MS
    did = "did not answer: it went on with what it was saying" if goes_on else "did not speak"
    return _open(turn, now_ns, deadline_ns, did)


def _stops(expectation: Expectation, turn: _Turn, now_ns: int | None) -> Finding:
    if turn.line is None:
        return _unfinished(now_ns)
    barge_in_ns = turn.line.at_ns
    under_way = next((s for s in turn.speeches if s.lasts_at(barge_in_ns)), None)
    known_ns = barge_in_ns
    if under_way is None and turn.between_phrases:
        known_ns = min(barge_in_ns + FALLING_SILENT_NS, turn.line_lasts_until_ns)
        after = (s for s in turn.speeches if barge_in_ns < s.started.at_ns <= known_ns)
        under_way = next((s for s in after if turn.talks_over(s)), None)
    if under_way is None:
        if _may_be_unknown(known_ns, now_ns):
            return _wait(known_ns)
        if turn.told_speaking:
            # Its reply was under way, and nothing of it came after the barge-in.
            reason = "stopped at once: the barge-in fell between two of its phrases, and it did not go on"
            return Finding(verdict=Verdict.MET, reason=reason, evidence=(evidence_of(turn.line),))
        reason = "the barge-in did not land: the agent was already silent"
        if turn.between_phrases:
            reason += ", at its end or between two phrases (it does not say which)"
        return Finding(verdict=Verdict.NOT_JUDGED, reason=reason)
    # Speech that goes on before the caller has finished is the same speech: resuming counts as not stopping.
    last = [s for s in turn.speeches if s is under_way or (s.started.at_ns > barge_in_ns and turn.talks_over(s))][-1]
    evidence = (evidence_of(turn.line), *([evidence_of(last.stopped)] if last.stopped is not None else []))
    deadline_ns = barge_in_ns + expectation.budget_ms * NS_PER_MS
    if last.stopped is None:
        if now_ns is None and turn.known_until_ns <= deadline_ns:
            after_ms = in_ms(turn.known_until_ns - barge_in_ns)
            reason = f"the call ended {after_ms:.0f} ms after the barge-in, while the agent still spoke"
            return Finding(verdict=Verdict.NOT_JUDGED, reason=reason, evidence=evidence)
        reason = f"still spoke {expectation.budget_ms} ms after the barge-in"
        if last is not under_way:
            reason = f"stopped, but spoke again {in_ms(last.started.at_ns - barge_in_ns):.0f} ms after the barge-in"
        return _open(turn, now_ns, deadline_ns, reason).model_copy(update={"evidence": evidence})
    took_ns = last.stopped.at_ns - barge_in_ns
    stopped = _in_time(
        turn,
        took_ns,
        expectation.budget_ms * NS_PER_MS,
        within_ns=last.end_uncertainty_ns,
        did="stopped",
        evidence=evidence,
    )
    if last.stopped.at_ns > deadline_ns:
        return stopped
    if now_ns is not None and turn.line_end is None:
        # It may still resume.
        return Finding(verdict=Verdict.PENDING, evidence=evidence)
    if turn.line_end is not None and _may_be_unknown(turn.line_end.at_ns, now_ns):
        return _wait(turn.line_end.at_ns)
    if last is under_way and took_ns < NATURAL_END_NS and not turn.told_speaking:
        return Finding(
            verdict=Verdict.NOT_JUDGED,
            reason=f"the barge-in came too late: the agent had finished {in_ms(took_ns):.0f} ms after",
            evidence=evidence,
        )
    return stopped


def _never_talks_over(expectation: Expectation, turn: _Turn, now_ns: int | None) -> Finding:
    if turn.line is None:
        return _unfinished(now_ns)
    begin_ns = turn.line.at_ns
    if turn.between_phrases or any(s.lasts_at(begin_ns) for s in turn.speeches):
        begin_ns += FALLING_SILENT_NS
    for speech in turn.speeches:
        onset_ns = speech.started.at_ns
        if onset_ns > begin_ns and turn.talks_over(speech) and not turn.collides(speech):
            reason = f"began to speak at {onset_ns / 1e9:.2f} s, while the caller still spoke"
            evidence = (evidence_of(turn.line), evidence_of(speech.started))
            gives_way_ns = onset_ns + GIVES_WAY_NS
            if speech.stopped is None and turn.began_together(speech) and _may_be_unknown(gives_way_ns, now_ns):
                return _wait(gives_way_ns)
            if turn.noticed_live(speech):
                return Finding(verdict=Verdict.MISSED, reason=reason, evidence=evidence)
            reason += "; the live hearing did not notice it, so it may be something behind the agent"
            return Finding(verdict=Verdict.NOT_JUDGED, reason=reason, evidence=evidence, cause=Cause.CALLER)
    if turn.line_end is not None and _may_be_unknown(turn.line_end.at_ns, now_ns):
        return _wait(turn.line_end.at_ns)
    return Finding(verdict=Verdict.MET) if turn.finished else _unfinished(now_ns)


def _hangs_up(expectation: Expectation, turn: _Turn, now_ns: int | None) -> Finding:
    deadline_ns = turn.began_ns + expectation.budget_ms * NS_PER_MS
    if turn.left is None:
        return _open(turn, now_ns, deadline_ns, "did not hang up")
    took_s = (turn.left.at_ns - turn.began_ns) / 1e9
    verdict = Verdict.MET if turn.left.at_ns <= deadline_ns else Verdict.MISSED
    return Finding(verdict=verdict, reason=f"hung up after {took_s:.1f} s", evidence=(evidence_of(turn.left),))
