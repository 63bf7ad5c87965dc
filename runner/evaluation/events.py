"""Looking for events that are no replies and no function calls, and for what must not come."""

from typing import Any

from bots.caller.script import Expectation
from bots.timeline import AgentSaid, AgentStartedSpeaking, AgentTurnEnded, MessageReceived, TimelineEvent
from runner.evaluation.ending import EndedBy
from runner.evaluation.search import Search
from runner.evaluation.speech import began_ns
from runner.evaluation.verdicts import Finding, Verdict, evidence_of, words_of
from runner.evaluation.wanted_words import text_problem


class EventSearch(Search):
    """Looks for an event by its name, its words and what a marker means."""

    def run(self) -> Finding:
        """Return what became of the expectation."""
        expectation = self._expectation
        seen: list[TimelineEvent] = []
        text = problem = ""
        for event in self._candidates():
            seen.append(event)
            text = f"{text} {words_of(event)}".strip()
            problem = text_problem(expectation, text) or _marker_problem(expectation, event)
            if problem and isinstance(event, MessageReceived):
                # A message is a whole, and no part of something longer: the first one decides.
                return Finding(verdict=Verdict.MISSED, reason=problem, evidence=(evidence_of(event),))
            if not problem:
                if expectation.criterion is None or event.at_ns > self._deadline_ns:
                    return self._met(seen[-3:])
                return self._settled_by(self._judged("reply", text, event), seen[-3:])
        evidence = tuple(evidence_of(e) for e in seen[-3:])
        if seen:
            return self._open(problem, evidence)
        hidden = self._hidden()
        if hidden is not None:
            return self._unobservable(hidden)
        return self._open(f"no {expectation.event} {self._within}")


class AbsenceSearch(Search):
    """Looks for something that must not come."""

    def run(self) -> Finding:
        """Return what became of the expectation."""
        for event in sorted(self._found(), key=lambda e: e.at_ns):
            if event.at_ns <= self._deadline_ns:
                reason = f"there was one after all, at {event.at_s:.2f} s"
                return Finding(verdict=Verdict.MISSED, reason=reason, evidence=(evidence_of(event),))
        waiting = self._open("")
        if waiting.verdict is Verdict.PENDING:
            return waiting
        hidden = self._hidden()
        if hidden is not None:
            return Finding(verdict=Verdict.NOT_OBSERVABLE, reason=hidden)
        ending = self._window.ending
        if ending is not None and ending.at_ns < self._deadline_ns and ending.by is not EndedBy.AGENT_LEFT:
            # Nobody knows what would have come.
            return Finding(verdict=Verdict.NOT_JUDGED, reason=ending.before, broken_off=True)
        return Finding(verdict=Verdict.MET, reason=f"none came {self._within}")

    def _found(self) -> list[TimelineEvent]:
        name = self._expectation.event
        if name != "response":
            return list(self._window.named(name, self.cursor.at_ns + int(self.cursor.matched)))
        # A response is what can be heard: words that are only told are none, or are those of one that came before.
        answers_from_ns = self._window.answers_from_ns
        onsets = self._window.onsets(self.cursor.at_ns)
        found: list[TimelineEvent] = [e for e in onsets if answers_from_ns is not None and e.at_ns >= answers_from_ns]
        if self.cursor.matched and self._reply_is_under_way():
            # What continues the reply that was matched above is no new one.
            over = self._window.turn_over_after(self.cursor.at_ns)
            found = [e for e in found if over is not None and e.at_ns >= over.at_ns]
        return found

    def _reply_is_under_way(self) -> bool:
        """Whether the agent was in the middle of a reply where the expectation above was met."""
        view, begin_ns, until_ns = self._window.view, self._window.begin_ns, self.cursor.at_ns
        over = [e.at_ns for e in view.of(AgentTurnEnded) if begin_ns <= e.at_ns <= until_ns]
        ended_ns = max(over, default=begin_ns - 1)
        spoken = [*view.of(AgentSaid), *view.of(AgentStartedSpeaking)]
        return any(max(begin_ns, ended_ns + 1) <= began_ns(e) <= until_ns for e in spoken)


def _marker_problem(expectation: Expectation, event: TimelineEvent) -> str:
    """Return what is wrong with an LLM's marker; empty if nothing is, or none was asked for."""
    checks = (expectation.marker, expectation.marker_first, expectation.markers, expectation.text_after)
    if expectation.event != "llm_marker" or all(check is None for check in checks):
        return ""
    data = event.message.get("data") if isinstance(event, MessageReceived) else None
    marker: dict[str, Any] = data if isinstance(data, dict) else {}
    kinds = ("short", "long") if expectation.marker == "incomplete" else (expectation.marker,)
    if expectation.marker is not None and marker.get("kind") not in kinds:
        return f"the marker means {marker.get('kind')!r}, not {expectation.marker!r}"
    raw = str(marker.get("raw") or "")
    known = [str(m) for m in marker.get("markers") or [] if m]
    first = min(((raw.find(m), m) for m in known if m in raw), default=None)
    count = sum(raw.count(m) for m in known)
    if expectation.markers is not None and count != expectation.markers:
        return f"the text holds {count} markers, not {expectation.markers}"
    leads = first is not None and not raw[: first[0]].strip()
    if expectation.marker_first is not None and leads is not expectation.marker_first:
        return "text comes before the marker" if expectation.marker_first else "nothing comes before the marker"
    if expectation.text_after is not None and first is None:
        return "the text holds no marker"
    follows = first is not None and bool(raw[first[0] + len(first[1]) :].strip())
    if expectation.text_after is not None and follows is not expectation.text_after:
        return "no text follows the marker" if expectation.text_after else "text follows the marker"
    return ""
