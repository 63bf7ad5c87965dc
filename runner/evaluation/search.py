"""Looking for one expectation in the facts of its turn: what every kind of search shares."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from bots.caller.script import Expectation
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import TimelineEvent
from runner.evaluation.observable import hidden_reason
from runner.evaluation.verdicts import (
    KNOWN_LATE_NS,
    UNDECIDED,
    Evidence,
    Finding,
    Judgements,
    Question,
    Verdict,
    evidence_of,
)
from runner.evaluation.window import EDGES, REPLIES, Cursor, Window

UNOBSERVABLE_NS = 5 * NS_PER_S
"""How long to wait for an agent to show that it reports what it has not reported so far."""

NO_JUDGE = "no judge is configured (the setting judge)"


E = TypeVar("E", bound=TimelineEvent)


class Search(ABC):
    """Looks for one expectation in the facts of its turn.

    Args:
        expectation: What is looked for.
        window: The facts.
        cursor: Where the expectation above was met; it moves on to where this one is.
        anchor_ns: When the turn was taken up.
        judgements: What a judge answered so far; None where there is no judge.
        index: The expectation's place in its turn, from 0.
    """

    def __init__(
        self,
        expectation: Expectation,
        window: Window,
        cursor: Cursor,
        anchor_ns: int,
        *,
        judgements: Judgements | None,
        index: int,
    ):
        self._expectation = expectation
        self._window = window
        self.cursor = cursor
        self._anchor_ns = anchor_ns
        self._deadline_ns = anchor_ns + expectation.budget_ms * NS_PER_MS
        self._now_ns = window.now_ns
        self._judgements = judgements
        self._index = index

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
    def _cut_short(self) -> bool:
        """Whether the call was ended while there was time left, for no doing of the agent."""
        return self._window.ending is not None and self._window.ending.cuts_short(self._deadline_ns)

    @property
    def _within(self) -> str:
        """Within what time nothing came."""
        ending = self._window.ending
        if ending is not None and ending.at_ns < self._deadline_ns:
            return ending.until(self._anchor_ns)
        return f"within {self._expectation.budget_ms / 1000:g} s"

    def _open(self, reason: str, evidence: tuple[Evidence, ...] = (), *, late_ns: int = KNOWN_LATE_NS) -> Finding:
        """Return what an expectation is that nothing has met: open while there is time, missed after."""
        until_ns = self._deadline_ns + late_ns
        if self._now_ns is not None and self._now_ns <= until_ns:
            return Finding(verdict=Verdict.PENDING, evidence=evidence, recheck_ns=until_ns + 1)
        return self._broken_off(evidence) or Finding(verdict=Verdict.MISSED, reason=reason, evidence=evidence)

    def _broken_off(self, evidence: tuple[Evidence, ...] = ()) -> Finding | None:
        """Return that it is inconclusive, where the call was ended while there was time left."""
        ending = self._window.ending
        if ending is None or not self._cut_short:
            return None
        return Finding(verdict=Verdict.NOT_JUDGED, reason=ending.before, evidence=evidence, broken_off=True)

    def _met(self, events: Sequence[TimelineEvent], reason: str = "") -> Finding:
        last = max(events, key=lambda e: e.at_ns)
        evidence = tuple(evidence_of(e) for e in events)
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
            began_ns = self._window.speech_began_ns(last_ns)
            # What the LLM answered comes before the speech begins, everything else after.
            passed_ns = last_ns + 1 if name in EDGES else began_ns + int(name != "llm_response")
            edges_from_ns = max(passed_ns, self.cursor.from_ns("bot_started_speaking"))
            if name != "response":
                spoken_from_ns = max(began_ns, self.cursor.from_ns("response"))
        # What was found further back takes nothing from those below.
        self.cursor = replace(
            self.cursor,
            at_ns=max(last_ns, self.cursor.at_ns),
            matched=True,
            edges_from_ns=edges_from_ns,
            spoken_from_ns=spoken_from_ns,
            used=self.cursor.used | {(name, id(e)) for e in events},
        )

    def _judged(self, kind: str, subject: str, event: TimelineEvent) -> Finding:
        """Return what the judge says of words or a call; with the question where it was not asked yet."""
        question = Question(
            turn=self._window.turn,
            index=self._index,
            kind="call" if kind == "call" else "reply",
            subject=subject,
            criterion=self._expectation.criterion or "",
            at_ns=event.at_ns,
        )
        if self._judgements is None:
            return Finding(verdict=Verdict.NOT_JUDGED, reason=NO_JUDGE)
        judgement = self._judgements.get(question)
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
        return judged.model_copy(update={"evidence": tuple(evidence_of(e) for e in events)})

    def _hidden(self) -> str | None:
        """Why the event can't be seen with this agent; None where it can."""
        return hidden_reason(self._expectation.event, self._window.view)

    def _rtvi(self) -> bool:
        return self._window.view.rtvi

    def _unobservable(self, reason: str) -> Finding:
        """Return that it is inconclusive: once the agent had the time to show that it reports such things."""
        until_ns = min(self._deadline_ns, self._anchor_ns + UNOBSERVABLE_NS)
        if self._now_ns is not None and self._now_ns <= until_ns:
            return Finding(verdict=Verdict.PENDING, recheck_ns=until_ns + 1)
        return Finding(verdict=Verdict.NOT_OBSERVABLE, reason=reason)
