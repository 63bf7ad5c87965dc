"""Looking for what the agent says: whether it answers, and its words, told and heard."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from bots.clock import NS_PER_S
from bots.timeline import AgentSaid, AgentStartedSpeaking, AgentTurnEnded, Source, TimelineEvent
from runner.evaluation.search import Search, holds_excluded, text_problem
from runner.evaluation.speech import TOLD_BEFORE_NS, TOLD_GRACE_NS
from runner.evaluation.verdicts import KNOWN_LATE_NS, Finding, Verdict, evidence_of
from runner.evaluation.window import Cursor

RECOGNITION_NS = 15 * NS_PER_S
"""How long words that were spoken in time may take to be recognised."""

_NOT_HEARD = "the agent reported text, but no audio arrived"
_CUT_OFF = "the agent reported text, but its audio broke off before it could be heard"


class ReplySearch(Search):
    """Looks for what the agent says.

    What was heard, or what the agent told and can have been heard, may meet the expectation.
    """

    def run(self) -> Finding:
        return self._in_words() if self._expectation.needs_words else self._any_response()

    @property
    def _is_heard(self) -> bool:
        """Whether it is about what the caller hears, and not about what the agent tells."""
        return self._expectation.event == "response"

    def _believed(self, events: Sequence[TimelineEvent]) -> list[TimelineEvent]:
        return [e for e in events if not self._is_heard or self._window.can_have_been_heard(e)]

    def _in_words(self) -> Finding:
        candidates = [e for e in self._candidates() if isinstance(e, AgentSaid)]
        said = [e for e in self._believed(candidates) if isinstance(e, AgentSaid)]
        doubted = [e for e in candidates if e not in said]
        # A transcript of the agent's own is exact; recognition can mishear, so it only ever speaks in favour.
        told = [e for e in said if e.source is Source.TOLD]
        heard = [e for e in said if e.source is Source.HEARD]
        reaching = self._reaching(heard) if self._is_heard else []
        if not told and not heard and not reaching:
            return self._no_words(doubted)
        cursor = self.cursor
        found: list[tuple[Finding, Cursor]] = []
        for events in (told, [*reaching, *heard]):
            if events:
                self.cursor = cursor
                found.append((self._words(events, reaching, doubted), self.cursor))
        excluded = any(holds_excluded(self._expectation, e.text) for e in told)
        if self._expectation.criterion is not None or excluded:
            # One judge, one answer: on what the agent told, or else on what was heard.
            chosen = found[0]
        else:
            chosen = next((f for f in found if f[0].verdict is Verdict.MET), found[0])
        finding, self.cursor = chosen
        return finding

    def _reaching(self, heard: Sequence[AgentSaid]) -> list[AgentSaid]:
        """Return the words of speech that began before the turn and reaches into it: they count in favour alone."""
        if self._expectation.criterion is not None:
            # A judge answers yes or no: it is asked about them once nothing else can come.
            over = self._now_ns is None or self._now_ns > self._deadline_ns + KNOWN_LATE_NS
            if heard or not over:
                return []
        return self._unused(self._window.reaching_into(self._from_ns))

    def _no_words(self, doubted: Sequence[AgentSaid]) -> Finding:
        hidden = self._hidden()
        if hidden is not None:
            return self._unobservable(hidden)
        evidence = tuple(evidence_of(e) for e in doubted[-1:])
        if doubted and not self._window.onsets(self._window.begin_ns):
            return self._open(_NOT_HEARD, evidence, late_ns=KNOWN_LATE_NS + TOLD_BEFORE_NS)
        onset = next((e for e in self._window.onsets(self._from_ns) if e.at_ns <= self._deadline_ns), None)
        if onset is None:
            if doubted:
                return self._open(_CUT_OFF, evidence, late_ns=KNOWN_LATE_NS + TOLD_BEFORE_NS)
            return self._open(f"the agent said nothing {self._within}")
        # It spoke in time: its words are told when it has said them, or else recognised once its turn is over.
        until_ns = self._recognised_until_ns(onset)
        if self._now_ns is not None and self._now_ns <= until_ns:
            return Finding(verdict=Verdict.PENDING, recheck_ns=until_ns + 1)
        evidence = (evidence_of(onset), *evidence)
        if doubted and (self._now_ns is not None or not self._window.view.said(Source.HEARD)):
            reason = f"{_CUT_OFF}, and what was heard is not recognised"
            return Finding(verdict=Verdict.NOT_OBSERVABLE, reason=reason, evidence=evidence)
        broken_off = self._broken_off(evidence)
        if broken_off is not None:
            return broken_off
        known = self._window.view.said(Source.TOLD) or self._window.holds_words_since(onset.at_ns - TOLD_GRACE_NS)
        if not known:
            # All that is known of it is heard, and recognition may have failed for this speech alone.
            reason = "the agent spoke, but no words of it are known: not told, not recognised"
            return Finding(verdict=Verdict.NOT_OBSERVABLE, reason=reason, evidence=evidence)
        reason = _CUT_OFF if doubted else "the agent spoke, but said nothing new"
        return Finding(verdict=Verdict.MISSED, reason=reason, evidence=evidence)

    def _any_response(self) -> Finding:
        name = self._expectation.event
        answered = self.cursor.answered if self._is_heard else frozenset[int]()
        candidates = self._candidates()
        said = [e for e in self._believed(candidates) if id(e) not in answered]
        if self._is_heard:
            from_ns = self._window.answers_from_ns
            onsets = self._window.onsets(self._from_ns - int(self.cursor.matched))
            onset = next(
                (e for e in onsets if from_ns is not None and id(e) not in answered and e.at_ns >= from_ns), None
            )
            if from_ns != 0:
                # What the agent says of the reply that was interrupted is no answer either.
                said = [e for e in said if onset is not None and e.at_ns >= onset.at_ns]
            if onset is not None:
                found = self._met([onset])
                words = said[:1]
                self.cursor = replace(self.cursor, answered=answered | {id(e) for e in (onset, *words)})
                return found.model_copy(update={"evidence": (*found.evidence, *(evidence_of(e) for e in words))})
            if not said and onsets and from_ns is None:
                return self._open(f"no response {self._within}: the agent went on with what it was saying")
            if not self._window.onsets(self._window.begin_ns):
                # Whatever is told, and whatever was under way before: nothing new was heard.
                evidence = tuple(evidence_of(e) for e in candidates[:1])
                return self._open(_NOT_HEARD if candidates else f"no {name} {self._within}", evidence)
        if said:
            return self._met(said[:1])
        hidden = self._hidden()
        if hidden is not None:
            return self._unobservable(hidden)
        return self._open(f"no {name} {self._within}")

    def _words(
        self, said: Sequence[AgentSaid], reaching: Sequence[AgentSaid], doubted: Sequence[AgentSaid]
    ) -> Finding:
        expectation = self._expectation
        text = own = problem = ""
        judged: Finding | None = None
        seen: list[AgentSaid] = []
        if expectation.criterion is not None:
            in_time = [e for e in said if e.at_ns <= self._deadline_ns]
            if not in_time:
                return self._met(said[:1])
            said = in_time
        for event, following in zip_longest(said, said[1:]):
            text = f"{text} {event.text}".strip()
            if event not in reaching:
                own = f"{own} {event.text}".strip()
            seen.append(event)
            evidence = tuple(evidence_of(e) for e in seen)
            if holds_excluded(expectation, own):
                return Finding(verdict=Verdict.MISSED, reason=text_problem(expectation, own), evidence=evidence)
            problem = text_problem(expectation, text, excludes=False)
            if problem:
                continue
            if expectation.criterion is None:
                if expectation.text_excludes is None or self._reply_is_over(event, following):
                    return self._met(seen)
                continue
            judged = None
            if self._reply_is_over(event, following):
                judged = self._settled_by(self._judged("reply", text, event), seen)
                # A reply is judged before a longer one is: the call can be judged again, and comes to the same.
                if judged.verdict is Verdict.MET or judged.question is not None:
                    return judged
                if judged.verdict is Verdict.MISSED and not self._turn_ended(event, following):
                    judged = self._broken_off(evidence) or judged
        evidence = tuple(evidence_of(e) for e in seen)
        if judged is not None:
            return judged
        if doubted and problem:
            problem = f"{problem}; what the agent told besides can not have been heard"
            evidence = (evidence_of(doubted[-1]), *evidence)
        if self._now_ns is not None and (unknown_ns := self._words_unknown_until_ns(said)) >= self._now_ns:
            return Finding(verdict=Verdict.PENDING, evidence=evidence, recheck_ns=unknown_ns + 1)
        late_ns = KNOWN_LATE_NS + (TOLD_BEFORE_NS if doubted else 0)
        return self._open(problem or "the reply did not end", evidence, late_ns=late_ns)

    def _words_unknown_until_ns(self, said: Sequence[AgentSaid]) -> int:
        """Return until when words of speech that began in time may come; 0 where the words of all of it are known."""
        # Words may be told before they are heard: the speech that follows at once is theirs.
        known_ns = (e.at_ns + (TOLD_BEFORE_NS if e.source is Source.TOLD else 0) for e in said)
        after_ns = max(known_ns, default=self._window.begin_ns)
        onset = next((e for e in self._window.onsets(after_ns) if e.at_ns <= self._deadline_ns), None)
        return 0 if onset is None else self._recognised_until_ns(onset)

    def _recognised_until_ns(self, onset: AgentStartedSpeaking) -> int:
        """Return by when the words of a speech are known: it is recognised once the agent's turn is over."""
        ends_ns = (s.end_or(onset.at_ns + 1) for s in self._window.view.speeches if s.started.at_ns == onset.at_ns)
        over = self._window.turn_over_after(next(ends_ns, onset.at_ns + 1))
        return (self._deadline_ns if over is None else over.at_ns) + RECOGNITION_NS

    def _reply_is_over(self, event: AgentSaid, following: AgentSaid | None) -> bool:
        """Whether nothing more of a reply is to come that could hold what is excluded, or change a judge's mind.

        ``following`` are the words that follow, of this reply or of the next; None if there are none yet.
        """
        return (following is None and self._now_ns is None) or self._turn_ended(event, following)

    def _turn_ended(self, event: AgentSaid, following: AgentSaid | None) -> bool:
        return any(
            e.at_ns >= event.at_ns - TOLD_GRACE_NS and (following is None or e.at_ns < following.at_ns)
            for e in self._window.view.of(AgentTurnEnded)
        )
