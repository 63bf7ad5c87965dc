"""Expectations: pure functions of the timeline, with the evidence for what they say.

The same functions serve twice: while a call is on, to tell when the caller may go on, and when it is over, to
judge it. Expectations of a turn are met in order, each looked for only from where the one above it was met, as
in Pipecat Evals.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from bots.caller.event_names import names_of
from bots.caller.script import Expectation, FunctionCall, Listen, Script, Turn
from bots.caller.speech.wording import contains_words
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import (
    AgentCalledFunction,
    AgentFunctionReturned,
    AgentSaid,
    AgentStartedSpeaking,
    AgentTurnEnded,
    BotReady,
    CallerHeardAs,
    CallerTurnStarted,
    Source,
    TimelineEvent,
)

TOLD_GRACE_NS = 250 * NS_PER_MS
"""Words are told a little before they are heard: the message overtakes the audio."""


_AUDIBLE = frozenset({"response", "bot_started_speaking", "bot_stopped_speaking"})
"""What can be told from the audio alone; everything else takes an agent that speaks RTVI."""


class Verdict(StrEnum):
    """What became of an expectation."""

    PENDING = "pending"
    """Only while the call is on: not decided yet."""
    MET = "met"
    MISSED = "missed"
    NOT_JUDGED = "not_judged"
    """Nobody can say: the call broke off for no fault of the agent, or there was no judge."""
    NOT_OBSERVABLE = "not_observable"
    """The agent does not send what it would take to tell."""


class Evidence(BaseModel):
    """What a verdict rests on."""

    model_config = ConfigDict(frozen=True)

    event: str
    at_s: float
    text: str | None = None
    source: Source | None = None


class ExpectationVerdict(BaseModel):
    """What became of one expectation of one turn."""

    model_config = ConfigDict(frozen=True)

    turn: int
    index: int
    event: str
    expected: str
    """The expectation in words, for a person."""
    verdict: Verdict
    reason: str
    source: Source | None = None
    evidence: tuple[Evidence, ...] = ()


def evaluate(
    script: Script, facts: Sequence[TimelineEvent], *, now_ns: int | None = None
) -> list[ExpectationVerdict]:
    """Return the verdict on every expectation of a script, in order.

    Args:
        script: The script that was played.
        facts: The facts of the call, in any order.
        now_ns: The time on the call's clock while the call is on. None once it is over: nothing stays pending.
    """
    ordered = sorted(facts, key=lambda event: event.at_ns)
    starts = turn_starts(ordered)
    verdicts: list[ExpectationVerdict] = []
    for index, turn in enumerate(script.turns):
        verdicts.extend(evaluate_turn(index, turn, ordered, starts, now_ns=now_ns))
    return verdicts


def turn_starts(facts: Sequence[TimelineEvent]) -> dict[int, int]:
    """Return when each turn was taken up, in nanoseconds on the call's clock."""
    return {event.turn: event.at_ns for event in facts if isinstance(event, CallerTurnStarted)}


def evaluate_turn(
    index: int,
    turn: Turn,
    facts: Sequence[TimelineEvent],
    starts: dict[int, int],
    *,
    now_ns: int | None = None,
) -> list[ExpectationVerdict]:
    """Return the verdicts on one turn's expectations.

    Args:
        index: The turn's place in the script, from 0.
        turn: The turn.
        facts: The facts of the call so far, ordered by time.
        starts: When each turn was taken up (see :func:`turn_starts`).
        now_ns: See :func:`evaluate`.
    """
    anchor_ns = starts.get(index)
    verdicts: list[ExpectationVerdict] = []
    if anchor_ns is None:
        state, reason = (
            (Verdict.PENDING, "") if now_ns is not None else (Verdict.MISSED, "the turn was never reached")
        )
        return [_verdict(index, i, e, state, reason) for i, e in enumerate(turn.expect)]
    next_turn_ns = min((at for i, at in starts.items() if i > index), default=None)
    # A greeting may begin before the caller begins to listen for it.
    greets = index == 0 and isinstance(turn.action, Listen)
    window = _Window(facts, begin_ns=0 if greets else anchor_ns, end_ns=next_turn_ns)
    cursor = _Cursor(window.begin_ns)
    for position, expectation in enumerate(turn.expect):
        if verdicts and verdicts[-1].verdict is not Verdict.MET:
            previous = verdicts[-1].verdict
            after = Verdict.PENDING if previous is Verdict.PENDING else previous
            verdicts.append(_verdict(index, position, expectation, after, "the expectation above it was not met"))
            continue
        search = _Search(expectation, window, cursor, anchor_ns, now_ns)
        state, reason, evidence = search.run()
        cursor = search.cursor
        source = next((e.source for e in reversed(evidence) if e.source is not None), None)
        verdicts.append(_verdict(index, position, expectation, state, reason, source, evidence))
    return verdicts


def next_deadline_ns(turn: Turn, anchor_ns: int, now_ns: int) -> int | None:
    """Return when the next of a turn's budgets runs out, in nanoseconds; None if all have."""
    deadlines = (anchor_ns + e.budget_ms * NS_PER_MS + 1 for e in turn.expect)
    return min((deadline_ns for deadline_ns in deadlines if deadline_ns > now_ns), default=None)


def describe(expectation: Expectation) -> str:
    """Return an expectation in words, for a person."""
    parts = [f"no {expectation.event}" if expectation.absent else expectation.event]
    if expectation.text_contains is not None:
        parts.append(f"containing {expectation.text_contains!r}")
    if expectation.text_matches is not None:
        parts.append(f"matching /{expectation.text_matches}/")
    if expectation.text_excludes is not None:
        parts.append(f"without {expectation.text_excludes!r}")
    if expectation.calls:
        parts.append("to " + ", ".join(_signature(call) for call in expectation.calls))
    if expectation.within_ms is not None:
        parts.append(f"within {expectation.within_ms / 1000:g} s")
    return " ".join(parts)


@dataclass(frozen=True)
class _Cursor:
    """From where the next expectation looks: a time, and the reply that is already spoken for."""

    at_ns: int
    matched: bool = False


@dataclass(frozen=True)
class _Window:
    """The facts that belong to a turn."""

    facts: Sequence[TimelineEvent]
    begin_ns: int
    end_ns: int | None

    def named(self, name: str, from_ns: int) -> Iterator[TimelineEvent]:
        for event in self.facts:
            if name in names_of(event) and self._belongs(event, from_ns):
                yield event

    def _belongs(self, event: TimelineEvent, from_ns: int) -> bool:
        at_ns = event.at_ns
        if isinstance(event, AgentSaid) and event.started_ns is not None:
            # Heard words belong to the turn their speech began in. That onset may itself have met the expectation
            # above: then the words are still to come.
            at_ns = event.started_ns
            from_ns -= 1
        return at_ns >= from_ns and (self.end_ns is None or at_ns < self.end_ns)

    def holds_words(self) -> bool:
        return any(isinstance(e, AgentSaid) for e in self.facts)

    def speech_onsets(self, from_ns: int) -> list[int]:
        return [e.at_ns for e in self.facts if isinstance(e, AgentStartedSpeaking) and self._belongs(e, from_ns)]


_Outcome = tuple[Verdict, str, tuple[Evidence, ...]]


class _Search:
    """Looks for one expectation in the facts of its turn."""

    def __init__(
        self, expectation: Expectation, window: _Window, cursor: _Cursor, anchor_ns: int, now_ns: int | None
    ):
        self._expectation = expectation
        self._window = window
        self.cursor = cursor
        self._deadline_ns = anchor_ns + expectation.budget_ms * NS_PER_MS
        self._budget_s = expectation.budget_ms / 1000
        self._now_ns = now_ns

    def run(self) -> _Outcome:
        if self._expectation.absent:
            return self._absent()
        if self._expectation.event in ("function_call", "function_call_stopped"):
            return self._function_calls()
        if self._expectation.event in ("response", "llm_response", "tts_response"):
            return self._response()
        return self._event()

    def _open(self, reason: str, evidence: tuple[Evidence, ...] = ()) -> _Outcome:
        """Return what an expectation is that nothing has met: open while there is time, missed after."""
        if self._now_ns is not None and self._now_ns <= self._deadline_ns:
            return Verdict.PENDING, "", evidence
        return Verdict.MISSED, reason, evidence

    def _met(self, event: TimelineEvent, evidence: tuple[Evidence, ...]) -> _Outcome:
        if event.at_ns > self._deadline_ns:
            late_s = (event.at_ns - self._deadline_ns) / NS_PER_S
            return Verdict.MISSED, f"came {late_s:.2f} s after the {self._budget_s:g} s it had", evidence
        self.cursor = _Cursor(event.at_ns, matched=True)
        return Verdict.MET, "", evidence

    def _absent(self) -> _Outcome:
        name = self._expectation.event
        found: list[TimelineEvent] = list(self._window.named(name, self.cursor.at_ns + int(self.cursor.matched)))
        if name == "response":
            found = [*found, *self._new_speech()]
        if name == "response" and self.cursor.matched:
            # What continues the reply that was matched above is no new one.
            reply_end_ns = self._reply_end_ns()
            found = [e for e in found if reply_end_ns is not None and _began_ns(e) >= reply_end_ns]
        for event in sorted(found, key=lambda e: e.at_ns):
            if event.at_ns <= self._deadline_ns:
                return Verdict.MISSED, f"there was one after all, at {event.at_s:.2f} s", (_evidence(event),)
        if self._now_ns is not None and self._now_ns <= self._deadline_ns:
            return Verdict.PENDING, "", ()
        if not self._observable():
            return self._unobservable("the agent does not speak RTVI")
        return Verdict.MET, f"none came within {self._budget_s:g} s", ()

    def _new_speech(self) -> list[TimelineEvent]:
        return [
            e
            for e in self._window.facts
            if isinstance(e, AgentStartedSpeaking) and e.at_ns in set(self._window.speech_onsets(self.cursor.at_ns))
        ]

    def _reply_end_ns(self) -> int | None:
        return next(
            (e.at_ns for e in self._window.facts if isinstance(e, AgentTurnEnded) and e.at_ns >= self.cursor.at_ns),
            None,
        )

    def _event(self) -> _Outcome:
        expectation = self._expectation
        seen: list[Evidence] = []
        text = ""
        for event in self._window.named(expectation.event, self.cursor.at_ns + int(self.cursor.matched)):
            seen.append(_evidence(event))
            text = f"{text} {_text(event)}".strip()
            if not _text_problem(expectation, text):
                return self._met(event, tuple(seen[-3:]))
        if seen:
            return self._open(_text_problem(expectation, text), tuple(seen[-3:]))
        if not self._observable():
            return self._unobservable("the agent does not speak RTVI")
        return self._open(f"no {expectation.event} within {self._budget_s:g} s")

    def _response(self) -> _Outcome:
        """The agent's words: what was heard, or what it told; either may meet the expectation."""
        expectation = self._expectation
        from_ns = self.cursor.at_ns + int(self.cursor.matched)
        if not expectation.needs_words:
            return self._any_response(from_ns)
        said = [e for e in self._window.named(expectation.event, from_ns) if isinstance(e, AgentSaid)]
        # A transcript of the agent's own is exact; recognition can mishear, so it only ever speaks in favour.
        told = [e for e in said if e.source is Source.TOLD]
        heard = [e for e in said if e.source is Source.HEARD]
        outcomes = [self._words(events) for events in (told, heard) if events]
        if not outcomes:
            if not self._observable():
                return self._unobservable("the agent does not speak RTVI")
            if self._window.speech_onsets(from_ns) and not self._window.holds_words():
                return self._unobservable("the agent spoke, but no words of it are known: not told, not recognised")
            return self._open(f"the agent said nothing within {self._budget_s:g} s")
        if told and any(_excluded(expectation, event.text) for event in told):
            return outcomes[0]
        return next((outcome for outcome in outcomes if outcome[0] is Verdict.MET), outcomes[0])

    def _any_response(self, from_ns: int) -> _Outcome:
        onset = next(iter(self._new_speech()), None) if self._expectation.event == "response" else None
        event = onset or next(self._window.named(self._expectation.event, from_ns), None)
        if event is None:
            if not self._observable():
                return self._unobservable("the agent does not speak RTVI")
            return self._open(f"no {self._expectation.event} within {self._budget_s:g} s")
        said = next(self._window.named(self._expectation.event, from_ns), None)
        return self._met(event, tuple(_evidence(e) for e in (event, said) if e is not None))

    def _words(self, said: Sequence[AgentSaid]) -> _Outcome:
        expectation = self._expectation
        text = ""
        problem = ""
        evidence: list[Evidence] = []
        for event in said:
            text = f"{text} {event.text}".strip()
            evidence.append(_evidence(event))
            problem = _text_problem(expectation, text)
            if not problem and (expectation.text_excludes is None or self._reply_is_over(event)):
                return self._met(event, tuple(evidence))
            if _excluded(expectation, text):
                return Verdict.MISSED, problem, tuple(evidence)
        return self._open(problem or "the reply did not end", tuple(evidence))

    def _reply_is_over(self, event: AgentSaid) -> bool:
        """Whether nothing more is to come that could hold what is excluded."""
        if self._now_ns is None:
            return event is self._last_said(event.source)
        return any(
            isinstance(e, AgentTurnEnded) and e.at_ns >= event.at_ns - TOLD_GRACE_NS for e in self._window.facts
        )

    def _last_said(self, source: Source) -> AgentSaid | None:
        said = [
            e
            for e in self._window.named(self._expectation.event, self.cursor.at_ns)
            if isinstance(e, AgentSaid) and e.source is source
        ]
        return said[-1] if said else None

    def _function_calls(self) -> _Outcome:
        expectation = self._expectation
        wanted = list(expectation.calls or (FunctionCall(),))
        from_ns = self.cursor.at_ns + int(self.cursor.matched)
        seen = [
            e
            for e in self._window.named(expectation.event, from_ns)
            if isinstance(e, AgentCalledFunction | AgentFunctionReturned)
        ]
        used: list[AgentCalledFunction | AgentFunctionReturned] = []
        for call in wanted:
            match = next((e for e in seen if e not in used and _matches(call, e)), None)
            if match is None:
                if not self._rtvi():
                    return self._unobservable("the agent does not speak RTVI, so its function calls can't be seen")
                if seen and all(e.name is None for e in seen):
                    return self._unobservable("the agent does not name its function calls over RTVI")
                if any(_may_match(call, e) for e in seen if e not in used):
                    return self._unobservable("the agent does not tell the arguments of its function calls over RTVI")
                evidence = tuple(_evidence(e) for e in seen)
                return self._open(f"no call of {_signature(call)} within {self._budget_s:g} s", evidence)
            used.append(match)
        last = max(used, key=lambda e: e.at_ns)
        return self._met(last, tuple(_evidence(e) for e in used))

    def _observable(self) -> bool:
        return self._expectation.event in _AUDIBLE or self._rtvi()

    def _rtvi(self) -> bool:
        return any(isinstance(e, BotReady) for e in self._window.facts)

    def _unobservable(self, reason: str) -> _Outcome:
        verdict, _, evidence = self._open(reason)
        return (Verdict.NOT_OBSERVABLE if verdict is Verdict.MISSED else verdict), reason, evidence


def _verdict(
    turn: int,
    index: int,
    expectation: Expectation,
    verdict: Verdict,
    reason: str,
    source: Source | None = None,
    evidence: tuple[Evidence, ...] = (),
) -> ExpectationVerdict:
    return ExpectationVerdict(
        turn=turn,
        index=index,
        event=expectation.event,
        expected=describe(expectation),
        verdict=verdict,
        reason=reason,
        source=source,
        evidence=evidence,
    )


def _text(event: TimelineEvent) -> str:
    return event.text if isinstance(event, AgentSaid | CallerHeardAs) else ""


def _began_ns(event: TimelineEvent) -> int:
    if isinstance(event, AgentSaid) and event.started_ns is not None:
        return event.started_ns
    return event.at_ns


def _evidence(event: TimelineEvent) -> Evidence:
    text = _text(event) or None
    if isinstance(event, AgentCalledFunction | AgentFunctionReturned):
        text = event.name
    source = event.source if isinstance(event, AgentSaid) else None
    return Evidence(event=event.type, at_s=round(event.at_s, 3), text=text, source=source)


def _excluded(expectation: Expectation, text: str) -> bool:
    excluded = expectation.text_excludes
    return excluded is not None and _contains(text, excluded)


def _contains(text: str, part: str) -> bool:
    # Spoken and written forms are equal ("555-0142", "five five five…"); a literal hit counts as well, for
    # parts that are no words (markers, symbols).
    return part in text or contains_words(text, part)


def _text_problem(expectation: Expectation, text: str) -> str:
    """Return what is wrong with the words; empty if nothing is."""
    if _excluded(expectation, text):
        return f"holds {expectation.text_excludes!r}"
    if expectation.text_contains is not None and not _contains(text, expectation.text_contains):
        return f"does not contain {expectation.text_contains!r}"
    if expectation.text_matches is not None and re.search(expectation.text_matches, text, re.IGNORECASE) is None:
        return f"does not match /{expectation.text_matches}/"
    return ""


def _matches(call: FunctionCall, event: AgentCalledFunction | AgentFunctionReturned) -> bool:
    if call.name is not None and call.name != event.name:
        return False
    if call.args is None:
        return True
    actual: dict[str, Any]
    if isinstance(event, AgentCalledFunction):
        actual = event.arguments or {}
    else:
        actual = {"cancelled": event.cancelled, "result": event.result}
    return all(key in actual and actual[key] == value for key, value in call.args.items())


def _may_match(call: FunctionCall, event: AgentCalledFunction | AgentFunctionReturned) -> bool:
    """Whether only arguments that the agent keeps to itself stand between a call and its match."""
    return (
        isinstance(event, AgentCalledFunction)
        and event.arguments is None
        and call.args is not None
        and call.name in (None, event.name)
    )


def _signature(call: FunctionCall) -> str:
    args = ", ".join(f"{key}={value!r}" for key, value in (call.args or {}).items())
    return f"{call.name or 'any function'}({args})"
