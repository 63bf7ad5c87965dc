"""Looking for one expectation in the facts of its turn: function calls, other events, and what must not come.

:mod:`runner.evaluation.replies` looks for what the agent says.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from bots.caller.script import Expectation, FunctionCall, compile_pattern
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import (
    AgentCalledFunction,
    AgentFunctionReturned,
    AgentSaid,
    AgentStartedSpeaking,
    AgentTurnEnded,
    MessageReceived,
    TimelineEvent,
)
from runner.evaluation.ending import EndedBy
from runner.evaluation.speech import began_ns
from runner.evaluation.verdicts import (
    KNOWN_LATE_NS,
    UNDECIDED,
    Evidence,
    Finding,
    Question,
    Verdict,
    evidence_of,
    words_of,
)
from runner.evaluation.window import EDGES, REPLIES, Cursor, Window, hidden_reason
from runner.evaluation.wording import contains_words, normalise_words

UNOBSERVABLE_NS = 5 * NS_PER_S
"""How long to wait for an agent to show that it reports what it has not reported so far."""

NO_JUDGE = "no judge is configured (the setting judge)"

CALLS = frozenset({"function_call", "function_call_stopped"})

_NO_ARGUMENTS = "the agent does not tell the arguments of its function calls over RTVI"

E = TypeVar("E", bound=TimelineEvent)


class Search(ABC):
    """Looks for one expectation in the facts of its turn, by its place there, from 0.

    The cursor is where the expectation above was met; it moves on to where this one is.
    """

    def __init__(self, expectation: Expectation, index: int, window: Window, cursor: Cursor):
        self._expectation = expectation
        self._index = index
        self._window = window
        self.cursor = cursor
        self._deadline_ns = window.anchor_ns + expectation.budget_ms * NS_PER_MS
        self._now_ns = window.now_ns

    @abstractmethod
    def run(self) -> Finding:
        """Return what became of the expectation."""

    @property
    def _from_ns(self) -> int:
        if self._expectation.check_from == "turn_start":
            return self._window.begin_ns
        return self.cursor.from_ns(self._expectation.event)

    def _candidates(self) -> list[TimelineEvent]:
        """Return the events that may meet the expectation, in order."""
        return self._unused(self._window.named(self._expectation.event, self._from_ns))

    def _unused(self, events: Iterable[E]) -> list[E]:
        return [event for event in events if (self._expectation.event, id(event)) not in self.cursor.used]

    @property
    def _within(self) -> str:
        """Within what time nothing came."""
        ending = self._window.ending
        if ending is not None and ending.at_ns < self._deadline_ns:
            return ending.until(self._window.anchor_ns)
        return f"within {self._expectation.budget_ms / 1000:g} s"

    def _open(self, reason: str, evidence: tuple[Evidence, ...] = (), *, late_ns: int = KNOWN_LATE_NS) -> Finding:
        """Return what an expectation is that nothing has met: open while there is time, missed after."""
        until_ns = self._deadline_ns + late_ns
        if self._now_ns is not None and self._now_ns <= until_ns:
            return Finding(verdict=Verdict.PENDING, evidence=evidence, recheck_ns=until_ns + 1)
        return self._broken_off(evidence) or Finding(verdict=Verdict.MISSED, reason=reason, evidence=evidence)

    def _broken_off(self, evidence: tuple[Evidence, ...] = ()) -> Finding | None:
        """Return that it is inconclusive, where the call was ended for no doing of the agent with time left."""
        ending = self._window.ending
        if ending is None or not ending.cuts_short(self._deadline_ns):
            return None
        return Finding(verdict=Verdict.NOT_JUDGED, reason=ending.before, evidence=evidence, broken_off=True)

    def _met(self, events: Sequence[TimelineEvent], reason: str = "") -> Finding:
        last = max(events, key=lambda e: e.at_ns)
        evidence = _evidence(events)
        if last.at_ns > self._deadline_ns:
            late_s = (last.at_ns - self._deadline_ns) / NS_PER_S
            reason = f"{late_s:.2f} s too late (limit {self._expectation.budget_ms / 1000:g} s)"
            return Finding(verdict=Verdict.MISSED, reason=reason, evidence=evidence, late=True)
        self._use(events)
        return Finding(verdict=Verdict.MET, reason=reason, evidence=evidence)

    def _use(self, events: Sequence[TimelineEvent]) -> None:
        name = self._expectation.event
        last_ns = max(e.at_ns for e in events)
        edges_from_ns = spoken_from_ns = None
        if name in REPLIES or name in EDGES:
            speech_ns = self._window.speech_began_ns(last_ns)
            # What the LLM answered comes before the speech begins, everything else after.
            passed_ns = last_ns + 1 if name in EDGES else speech_ns + int(name != "llm_response")
            edges_from_ns = max(passed_ns, self.cursor.from_ns("bot_started_speaking"))
            if name != "response":
                spoken_from_ns = max(speech_ns, self.cursor.from_ns("response"))
        # What was found further back takes nothing from those below.
        self.cursor = replace(
            self.cursor,
            at_ns=max(last_ns, self.cursor.at_ns),
            matched=True,
            edges_from_ns=edges_from_ns,
            spoken_from_ns=spoken_from_ns,
            used=self.cursor.used | {(name, id(e)) for e in events},
        )

    def _judged(self, kind: Literal["reply", "call"], subject: str, event: TimelineEvent) -> Finding:
        """Return what the judge says of words or a call; with the question where it was not asked yet."""
        question = Question(
            turn=self._window.turn,
            index=self._index,
            kind=kind,
            subject=subject,
            criterion=self._expectation.criterion or "",
            at_ns=event.at_ns,
        )
        if self._window.judgements is None:
            return Finding(verdict=Verdict.NOT_JUDGED, reason=NO_JUDGE)
        judgement = self._window.judgements.get(question)
        if judgement is None:
            if self._now_ns is not None:
                return Finding(verdict=Verdict.PENDING, question=question)
            return Finding(verdict=Verdict.NOT_JUDGED, reason="the judge was not asked", question=question)
        if judgement.answer == "none":
            return Finding(verdict=Verdict.NOT_JUDGED, reason=judgement.reason)
        if judgement.answer == "yes":
            return Finding(verdict=Verdict.MET, reason=f"judged yes: {judgement.reason}")
        if judgement.answer == "continue" and kind == "reply":
            return self._open(f"the answer was still to come: {judgement.reason}")
        return Finding(verdict=Verdict.MISSED, reason=f"judged no: {judgement.reason}")

    def _settled_by(self, judged: Finding, events: Sequence[TimelineEvent]) -> Finding:
        """Return an expectation's finding where the judge's answer is all that was open."""
        if judged.verdict is Verdict.MET:
            return self._met(events, judged.reason)
        if judged.verdict in UNDECIDED:
            self._use(events)
        return judged.model_copy(update={"evidence": _evidence(events)})

    def _hidden(self) -> str | None:
        """Why the event can't be seen with this agent; None where it can."""
        return hidden_reason(self._expectation.event, self._window.view)

    def _unobservable(self, reason: str) -> Finding:
        """Return that it is inconclusive: once the agent had the time to show that it reports such things."""
        until_ns = min(self._deadline_ns, self._window.anchor_ns + UNOBSERVABLE_NS)
        if self._now_ns is not None and self._now_ns <= until_ns:
            return Finding(verdict=Verdict.PENDING, recheck_ns=until_ns + 1)
        return Finding(verdict=Verdict.NOT_OBSERVABLE, reason=reason)


def _evidence(events: Iterable[TimelineEvent]) -> tuple[Evidence, ...]:
    return tuple(evidence_of(event) for event in events)


class CallSearch(Search):
    """Looks for function calls, by name and some of their arguments."""

    def run(self) -> Finding:
        expectation = self._expectation
        seen = [e for e in self._candidates() if isinstance(e, AgentCalledFunction | AgentFunctionReturned)]
        used: list[AgentCalledFunction | AgentFunctionReturned] = []
        for call in expectation.calls or (FunctionCall(),):
            match = next((e for e in seen if e not in used and matches(call, e)), None)
            if match is None:
                if not self._window.view.rtvi:
                    return self._unobservable("the agent does not speak RTVI, so its function calls can't be seen")
                if seen and all(e.name is None for e in seen):
                    return self._unobservable("the agent does not name its function calls over RTVI")
                if any(_may_match(call, e) for e in seen if e not in used):
                    return self._unobservable(_NO_ARGUMENTS)
                return self._open(f"no call of {signature(call)} {self._within}", _evidence(seen))
            used.append(match)
        if expectation.criterion is not None and max(e.at_ns for e in used) <= self._deadline_ns:
            for event in used:
                arguments = event.arguments if isinstance(event, AgentCalledFunction) else {}
                if arguments is None:
                    return self._unobservable(_NO_ARGUMENTS)
                text = f"{event.name or 'a function'}({json.dumps(arguments, ensure_ascii=False)})"
                judged = self._judged("call", text, event)
                if judged.verdict is not Verdict.MET:
                    return self._settled_by(judged, used)
        return self._met(used)


def matches(call: FunctionCall, event: AgentCalledFunction | AgentFunctionReturned) -> bool:
    """Return whether a call, or what came of it, is one that is looked for."""
    if call.name is not None and call.name != event.name:
        return False
    actual: dict[str, Any]
    if isinstance(event, AgentCalledFunction):
        actual = event.arguments or {}
    else:
        actual = {"cancelled": event.cancelled, "result": event.result}
    return all(key in actual and actual[key] == value for key, value in (call.args or {}).items())


def _may_match(call: FunctionCall, event: AgentCalledFunction | AgentFunctionReturned) -> bool:
    """Whether only arguments that the agent keeps to itself stand between a call and its match."""
    hides = isinstance(event, AgentCalledFunction) and event.arguments is None
    return hides and call.args is not None and call.name in (None, event.name)


def signature(call: FunctionCall) -> str:
    """Return a call that is looked for in words."""
    args = ", ".join(f"{key}={value!r}" for key, value in (call.args or {}).items())
    return f"{call.name or 'any function'}({args})"


class EventSearch(Search):
    """Looks for an event by its name, its words and what a marker means."""

    def run(self) -> Finding:
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
        if seen:
            return self._open(problem, _evidence(seen[-3:]))
        hidden = self._hidden()
        if hidden is not None:
            return self._unobservable(hidden)
        return self._open(f"no {expectation.event} {self._within}")


class AbsenceSearch(Search):
    """Looks for something that must not come."""

    def run(self) -> Finding:
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


def holds_excluded(expectation: Expectation, text: str) -> bool:
    """Return whether the words hold what they must not."""
    return expectation.text_excludes is not None and _contains(text, expectation.text_excludes)


def text_problem(expectation: Expectation, text: str, *, excludes: bool = True) -> str:
    """Return what is wrong with the words; empty if nothing is. Without ``excludes``: what is missing from them."""
    if excludes and holds_excluded(expectation, text):
        return f"holds {expectation.text_excludes!r}"
    if expectation.text_contains is not None and not _contains(text, expectation.text_contains):
        return f"does not contain {expectation.text_contains!r}"
    if expectation.text_matches is not None:
        # As it is written, or in the one form in which all ways of writing the same words are equal.
        pattern = compile_pattern(expectation.text_matches)
        if not any(pattern.search(form) for form in (text, normalise_words(text))):
            return f"does not match /{expectation.text_matches}/"
    return ""


def _contains(text: str, part: str) -> bool:
    # Spoken and written forms are equal ("555-0142", "five five five…"). A part that is no words (a marker, a symbol)
    # is there only as it is written.
    return part in text or (bool(normalise_words(part)) and contains_words(text, part))
