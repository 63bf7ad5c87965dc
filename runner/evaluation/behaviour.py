"""How the agent behaves: whether it answers in time, stops when interrupted, lets the caller finish, hangs up.

Told from the audio of both sides alone. Definitions: the caller's first and last voiced samples are those that left
for the network; the agent's onset and end are those of its audible speech on the received audio.
"""

from bots.caller.body import TOLD_SPEAKING_NS
from bots.caller.script import (
    AGENT_HANGS_UP,
    AGENT_NEVER_TALKS_OVER,
    AGENT_SPEAKS,
    AGENT_STOPS,
    Action,
    Expectation,
    Listen,
    Play,
    Speak,
)
from bots.clock import NS_PER_MS
from bots.timeline import AgentLeft, LineEnd, TimelineEvent
from runner.evaluation.speech import answers_from_ns, between_phrases, in_ms, own_uncertainty_ns
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


def find_behaviour(
    expectation: Expectation, turn: int, action: Action, view: CallView, *, now_ns: int | None
) -> Finding:
    """Return what became of an expectation of how the agent behaves, one of :data:`bots.caller.script.BEHAVIOURS`.

    The turn is one that was taken up. ``now_ns`` is the time on the call's clock; None once the call is over.
    """
    seen = _Behaviour(expectation, turn, action, view, now_ns)
    return {
        AGENT_SPEAKS: seen.speaks,
        AGENT_STOPS: seen.stops,
        AGENT_NEVER_TALKS_OVER: seen.never_talks_over,
        AGENT_HANGS_UP: seen.hangs_up,
    }[expectation.event]()


def gives_way(line_ns: int, speech: Speech) -> bool:
    """Whether speech that began with a line, before its agent can have noticed, soon stopped for it."""
    if speech.stopped is None or speech.started.at_ns - line_ns > COLLISION_NS:
        return False
    return speech.stopped.at_ns - speech.started.at_ns <= GIVES_WAY_NS


class _Behaviour:
    """What a turn's behaviour is told from."""

    def __init__(self, expectation: Expectation, turn: int, action: Action, view: CallView, now_ns: int | None):
        self._view = view
        self._now_ns = now_ns
        self._budget_ms = expectation.budget_ms
        self._limit_ns = expectation.budget_ms * NS_PER_MS
        self._caller_speaks = isinstance(action, Speak | Play)
        self._began_ns = view.starts[turn]
        self._next_ns = view.next_start_ns(turn)
        self._line, self._line_end = view.line(turn), view.line_end(turn)
        self._handed_over: TimelineEvent | None = view.handed_over(turn)
        if self._handed_over is None and isinstance(action, Listen) and turn == 0 and view.joined is not None:
            # A greeting's latency counts from when both sides are present.
            self._handed_over = view.joined
            self._began_ns = view.joined.at_ns
        self._left = next((e for e in view.of(AgentLeft) if e.at_ns >= self._began_ns), None)
        self._answers_from_ns = answers_from_ns(view, turn)
        self._ending = None if now_ns is not None else view.ending
        # Now, while the call is on; else when it ended.
        ended_ns = view.last_ns if self._ending is None else self._ending.at_ns
        self._known_until_ns = ended_ns if now_ns is None else now_ns
        self._finished = self._line_end is not None and self._line_end.end is LineEnd.SAID
        # Whether the line began while the agent took a breath, and whether the agent said then that it was speaking.
        self._between_phrases = self._line is not None and between_phrases(self._line.at_ns, view)
        self._told_speaking = self._line is not None and _is_in_the_middle(view, self._line.at_ns)

    @property
    def _line_lasts_until_ns(self) -> int:
        """When the line ended, or until when it is known to have gone on."""
        return self._known_until_ns if self._line_end is None else self._line_end.at_ns

    def _talks_over(self, speech: Speech) -> bool:
        """Whether speech that began in the line began long enough before its end."""
        return self._line_lasts_until_ns - speech.started.at_ns >= MIN_OVERLAP_NS

    def _in_time(self, took_ns: int, within_ns: int, did: str, evidence: tuple[Evidence, ...]) -> Finding:
        """Return whether something came within its limit: not judged where the limit lies within the error bar.

        ``within_ns`` is the uncertainty of the edge that ``took_ns`` was measured at; 0 where that is not known.
        """
        took = f"{did} after {in_ms(took_ns):.0f} ms"
        late_ns = took_ns - self._limit_ns
        if self._now_ns is not None:
            if 0 < late_ns <= LIVE_MARGIN_NS:
                reason = f"{took}, so close to its limit that the recording decides"
                return Finding(verdict=Verdict.NOT_JUDGED, reason=reason, evidence=evidence)
        elif within_ns:
            bar_ns = within_ns + own_uncertainty_ns(self._view)
            if abs(late_ns) <= bar_ns:
                reason = (
                    f"{took} (± {in_ms(bar_ns):.0f} ms), with a limit of {in_ms(self._limit_ns):.0f} ms: "
                    "the limit lies within the error bar"
                )
                return Finding(verdict=Verdict.NOT_JUDGED, reason=reason, evidence=evidence, cause=Cause.CALLER)
        verdict = Verdict.MET if late_ns <= 0 else Verdict.MISSED
        return Finding(verdict=verdict, reason=took, evidence=evidence)

    def _open(self, deadline_ns: int, reason: str, evidence: tuple[Evidence, ...] = ()) -> Finding:
        """Return what an expectation is that nothing has met: open while there is time, missed after.

        Where the call was ended before its time was up, for no doing of the agent, it is not judged.
        """
        until_ns = deadline_ns + KNOWN_LATE_NS
        if self._now_ns is not None and self._now_ns <= until_ns:
            return Finding(verdict=Verdict.PENDING, evidence=evidence, recheck_ns=until_ns + 1)
        if self._ending is not None and self._ending.cuts_short(deadline_ns):
            return Finding(verdict=Verdict.NOT_JUDGED, reason=self._ending.before, evidence=evidence)
        return Finding(verdict=Verdict.MISSED, reason=reason, evidence=evidence)

    def _unknown(self, at_ns: int) -> Finding | None:
        """Return that it is open while what the agent did at a time may not be known yet; None once it is."""
        if self._now_ns is None or self._now_ns > at_ns + KNOWN_LATE_NS:
            return None
        return Finding(verdict=Verdict.PENDING, recheck_ns=at_ns + KNOWN_LATE_NS + 1)

    def _unfinished(self) -> Finding:
        if self._now_ns is not None:
            return Finding(verdict=Verdict.PENDING)
        return Finding(verdict=Verdict.NOT_JUDGED, reason="the caller did not come to the end of its line")

    def speaks(self) -> Finding:
        if self._caller_speaks and not self._finished:
            if self._now_ns is None and self._left is not None:
                reason = "hung up before the caller had finished"
                return Finding(verdict=Verdict.MISSED, reason=reason, evidence=(evidence_of(self._left),))
            return self._unfinished()
        from_ns = self._began_ns if self._handed_over is None else self._handed_over.at_ns
        began_ns = self._line.at_ns if self._line is not None else from_ns
        goes_on = False
        for speech in self._view.speeches:
            onset_ns = speech.started.at_ns
            if onset_ns < began_ns or (self._next_ns is not None and onset_ns >= self._next_ns):
                continue
            if self._answers_from_ns is None or onset_ns < self._answers_from_ns:
                goes_on = goes_on or onset_ns >= from_ns
                continue
            evidence = (evidence_of(speech.started),)
            if onset_ns >= from_ns:
                return self._in_time(onset_ns - from_ns, speech.onset_uncertainty_ns, "spoke", evidence)
            if speech.lasts_at(from_ns):
                if speech.stopped is None and (unknown := self._unknown(from_ns)) is not None:
                    return unknown
                reason = f"began {in_ms(from_ns - onset_ns):.0f} ms before the caller had finished"
                return Finding(verdict=Verdict.MET, reason=reason, evidence=evidence)
        did = "did not answer: it went on with what it was saying" if goes_on else "did not speak"
        return self._open(from_ns + self._limit_ns, did)

    def stops(self) -> Finding:
        if self._line is None:
            return self._unfinished()
        barge_in_ns = self._line.at_ns
        speeches = self._view.speeches
        under_way = next((s for s in speeches if s.lasts_at(barge_in_ns)), None)
        known_ns = barge_in_ns
        if under_way is None and self._between_phrases:
            known_ns = min(barge_in_ns + FALLING_SILENT_NS, self._line_lasts_until_ns)
            after = (s for s in speeches if barge_in_ns < s.started.at_ns <= known_ns)
            under_way = next((s for s in after if self._talks_over(s)), None)
        if under_way is None:
            if (unknown := self._unknown(known_ns)) is not None:
                return unknown
            if self._told_speaking:
                # Its reply was under way, and nothing of it came after the barge-in.
                reason = "stopped at once: the barge-in fell between two of its phrases, and it did not go on"
                return Finding(verdict=Verdict.MET, reason=reason, evidence=(evidence_of(self._line),))
            reason = "the barge-in did not land: the agent was already silent"
            if self._between_phrases:
                reason += ", at its end or between two phrases (it does not say which)"
            return Finding(verdict=Verdict.NOT_JUDGED, reason=reason)
        # Speech that goes on before the caller has finished is the same speech: resuming counts as not stopping.
        last = [s for s in speeches if s is under_way or (s.started.at_ns > barge_in_ns and self._talks_over(s))][-1]
        evidence = tuple(evidence_of(e) for e in (self._line, last.stopped) if e is not None)
        deadline_ns = barge_in_ns + self._limit_ns
        if last.stopped is None:
            if self._now_ns is None and self._known_until_ns <= deadline_ns:
                after_ms = in_ms(self._known_until_ns - barge_in_ns)
                reason = f"the call ended {after_ms:.0f} ms after the barge-in, while the agent still spoke"
                return Finding(verdict=Verdict.NOT_JUDGED, reason=reason, evidence=evidence)
            reason = f"still spoke {self._budget_ms} ms after the barge-in"
            if last is not under_way:
                again_ms = in_ms(last.started.at_ns - barge_in_ns)
                reason = f"stopped, but spoke again {again_ms:.0f} ms after the barge-in"
            return self._open(deadline_ns, reason, evidence)
        took_ns = last.stopped.at_ns - barge_in_ns
        stopped = self._in_time(took_ns, last.end_uncertainty_ns, "stopped", evidence)
        if last.stopped.at_ns > deadline_ns:
            return stopped
        if self._line_end is None:
            if self._now_ns is not None:
                # It may still resume.
                return Finding(verdict=Verdict.PENDING, evidence=evidence)
        elif (unknown := self._unknown(self._line_end.at_ns)) is not None:
            return unknown
        if last is under_way and took_ns < NATURAL_END_NS and not self._told_speaking:
            reason = f"the barge-in came too late: the agent had finished {in_ms(took_ns):.0f} ms after"
            return Finding(verdict=Verdict.NOT_JUDGED, reason=reason, evidence=evidence)
        return stopped

    def never_talks_over(self) -> Finding:
        if self._line is None:
            return self._unfinished()
        line_ns = begin_ns = self._line.at_ns
        if self._between_phrases or any(s.lasts_at(begin_ns) for s in self._view.speeches):
            begin_ns += FALLING_SILENT_NS
        for speech in self._view.speeches:
            onset_ns = speech.started.at_ns
            if onset_ns <= begin_ns or not self._talks_over(speech) or gives_way(line_ns, speech):
                continue
            # One that began with the caller, before it can have noticed, may still give way.
            may_give_way = speech.stopped is None and onset_ns - line_ns <= COLLISION_NS
            if may_give_way and (unknown := self._unknown(onset_ns + GIVES_WAY_NS)) is not None:
                return unknown
            reason = f"began to speak at {onset_ns / 1e9:.2f} s, while the caller still spoke"
            evidence = (evidence_of(self._line), evidence_of(speech.started))
            if self._view.noticed_live(speech):
                return Finding(verdict=Verdict.MISSED, reason=reason, evidence=evidence)
            reason += "; the live hearing did not notice it, so it may be something behind the agent"
            return Finding(verdict=Verdict.NOT_JUDGED, reason=reason, evidence=evidence, cause=Cause.CALLER)
        if self._line_end is not None and (unknown := self._unknown(self._line_end.at_ns)) is not None:
            return unknown
        return Finding(verdict=Verdict.MET) if self._finished else self._unfinished()

    def hangs_up(self) -> Finding:
        deadline_ns = self._began_ns + self._limit_ns
        if self._left is None:
            return self._open(deadline_ns, "did not hang up")
        took_s = (self._left.at_ns - self._began_ns) / 1e9
        verdict = Verdict.MET if self._left.at_ns <= deadline_ns else Verdict.MISSED
        return Finding(verdict=verdict, reason=f"hung up after {took_s:.1f} s", evidence=(evidence_of(self._left),))


def _is_in_the_middle(view: CallView, at_ns: int) -> bool:
    """Whether the agent, by its own word, was speaking at a time, and was heard shortly before."""
    told = [on for t_ns, on in view.told_speaking if t_ns <= at_ns]
    ends_ns = [s.end_or(at_ns) for s in view.speeches if s.started.at_ns < at_ns]
    return bool(told) and told[-1] and bool(ends_ns) and at_ns - ends_ns[-1] <= TOLD_SPEAKING_NS
