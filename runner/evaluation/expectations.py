"""Expectations: pure functions of the timeline, with the evidence for what they say.

The same functions serve twice: while a call is on, to tell when the caller may go on, and when it is over, to
judge it. Expectations of a turn are met in order, each looked for only from where the one above it was met, as
in Pipecat Evals.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from bots.caller.event_names import names_of
from bots.caller.script import (
    AGENT_HANGS_UP,
    AGENT_NEVER_TALKS_OVER,
    AGENT_SPEAKS,
    AGENT_STOPS,
    BEHAVIOURS,
    AfterEvent,
    Expectation,
    FunctionCall,
    Listen,
    Play,
    Script,
    Speak,
    Turn,
    compile_pattern,
)
from bots.caller.speech.wording import contains_words, normalise_words
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import (
    AgentCalledFunction,
    AgentFunctionReturned,
    AgentSaid,
    AgentStartedSpeaking,
    AgentTurnEnded,
    BotReady,
    CallEnded,
    CallerTurnStarted,
    EndedReason,
    MessageReceived,
    Source,
    TimelineEvent,
)
from runner.evaluation.behaviour import find_behaviour
from runner.evaluation.verdicts import (
    KNOWN_LATE_NS,
    UNDECIDED,
    Evidence,
    ExpectationVerdict,
    Finding,
    Judgements,
    Question,
    Verdict,
    evidence_of,
    words_of,
)

TOLD_GRACE_NS = 250 * NS_PER_MS
"""Words are told a little before they are heard: the message overtakes the audio."""

RECOGNITION_NS = 15 * NS_PER_S
"""How long words that were spoken in time may take to be recognised."""

UNOBSERVABLE_NS = 5 * NS_PER_S
"""How long to wait for an agent to show that it reports what it has not reported so far."""

_REPLIES = frozenset({"response", "llm_response", "tts_response"})
_CALLS = frozenset({"function_call", "function_call_stopped"})

_AUDIBLE = frozenset({"response", "bot_started_speaking", "bot_stopped_speaking"})
"""What can be told from the audio alone; everything else takes an agent that speaks RTVI."""

_ON_REQUEST = {
    "llm_marker": "the agent does not report its LLM's markers",
    "vad_user_started_speaking": "the agent does not report raw VAD events",
    "vad_user_stopped_speaking": "the agent does not report raw VAD events",
}
"""What an agent that speaks RTVI reports only where its observer was told to."""

_BEHAVIOURS_IN_WORDS = {
    AGENT_SPEAKS: "the agent speaks within {budget_s:g} s",
    AGENT_STOPS: "the agent stops within {budget_s:g} s of the barge-in",
    AGENT_NEVER_TALKS_OVER: "the agent lets the caller finish",
    AGENT_HANGS_UP: "the agent hangs up",
}

_WAITED_FOR_AN_EVENT = frozenset({EndedReason.CALLER_HUNG_UP, EndedReason.MAX_DURATION})
"""How a call ends whose caller waits for an event that never comes."""

_NO_RTVI = "the agent does not speak RTVI"
NO_JUDGE = "no judge is configured (the setting judge)"


def evaluate(
    script: Script,
    facts: Sequence[TimelineEvent],
    *,
    judgements: Judgements | None = None,
    now_ns: int | None = None,
) -> list[ExpectationVerdict]:
    """Return the verdict on every expectation of a script, in order.

    Args:
        script: The script that was played.
        facts: The facts of the call, in any order.
        judgements: What a judge answered so far; None where there is no judge.
        now_ns: The time on the call's clock while the call is on. None once it is over: nothing stays pending.
    """
    ordered = sorted(facts, key=lambda event: event.at_ns)
    starts = turn_starts(ordered)
    unreachable = None if now_ns is not None else unobservable_start(script, ordered)
    verdicts: list[ExpectationVerdict] = []
    for index, turn in enumerate(script.turns):
        if unreachable is not None and index >= unreachable[0] and index not in starts:
            found = Finding(verdict=Verdict.NOT_OBSERVABLE, reason=unreachable[1])
            verdicts.extend(_verdict(index, i, e, found) for i, e in enumerate(turn.expect))
        else:
            verdicts.extend(evaluate_turn(index, turn, ordered, starts, judgements=judgements, now_ns=now_ns))
    return verdicts


def unobservable_start(script: Script, facts: Sequence[TimelineEvent]) -> tuple[int, str] | None:
    """Return the first turn that was not taken up, if its agent does not report what it was to start after.

    Args:
        script: The script that was played.
        facts: The facts of a finished call.

    Returns:
        The turn's place in the script, and why; None if there is no such turn.
    """
    starts = turn_starts(facts)
    first = next((i for i in range(len(script.turns)) if i not in starts), None)
    if first is None or first == 0:
        return None
    start = script.turns[first].start
    ended = next((e for e in facts if isinstance(e, CallEnded)), None)
    if not isinstance(start, AfterEvent) or start.event is None:
        return None
    passed_over = any(i > first for i in starts)
    if not passed_over and (ended is None or ended.reason not in _WAITED_FOR_AN_EVENT):
        return None
    why = hidden_reason(start.event, facts)
    return None if why is None else (first, f"turn {first + 1} starts after {start.event}, and {why}")


def hidden_reason(event: str, facts: Sequence[TimelineEvent]) -> str | None:
    """Return why an event can't be seen with the agent of a call; None where it can."""
    if event in _AUDIBLE:
        return None
    if not any(isinstance(e, BotReady) for e in facts):
        return _NO_RTVI
    reports = any(event in names_of(e) for e in facts)
    return None if reports else _ON_REQUEST.get(event)


def turn_starts(facts: Sequence[TimelineEvent]) -> dict[int, int]:
    """Return when each turn was taken up, in nanoseconds on the call's clock."""
    return {event.turn: event.at_ns for event in facts if isinstance(event, CallerTurnStarted)}


def evaluate_turn(
    index: int,
    turn: Turn,
    facts: Sequence[TimelineEvent],
    starts: dict[int, int],
    *,
    judgements: Judgements | None = None,
    now_ns: int | None = None,
) -> list[ExpectationVerdict]:
    """Return the verdicts on one turn's expectations.

    Args:
        index: The turn's place in the script, from 0.
        turn: The turn.
        facts: The facts of the call so far, ordered by time.
        starts: When each turn was taken up (see :func:`turn_starts`).
        judgements: See :func:`evaluate`.
        now_ns: See :func:`evaluate`.
    """
    anchor_ns = starts.get(index)
    verdicts: list[ExpectationVerdict] = []
    if anchor_ns is None:
        unreached = (
            Finding(verdict=Verdict.PENDING)
            if now_ns is not None
            else Finding(verdict=Verdict.MISSED, reason="the turn was never reached")
        )
        return [_verdict(index, i, e, unreached) for i, e in enumerate(turn.expect)]
    next_turn_ns = min((at for i, at in starts.items() if i > index), default=None)
    # A greeting may begin before the caller begins to listen for it.
    greets = index == 0 and isinstance(turn.action, Listen)
    window = _Window(facts, begin_ns=0 if greets else anchor_ns, end_ns=next_turn_ns)
    cursor = _Cursor(window.begin_ns)
    blocked: Verdict | None = None
    for position, expectation in enumerate(turn.expect):
        if expectation.event in BEHAVIOURS:
            found = find_behaviour(
                expectation,
                index,
                speaks=isinstance(turn.action, Speak | Play),
                listens=isinstance(turn.action, Listen),
                facts=facts,
                began_ns=anchor_ns,
                next_ns=next_turn_ns,
                now_ns=now_ns,
            )
        elif blocked is not None:
            found = Finding(verdict=blocked, reason="the expectation above it was not met")
        else:
            search = _Search(
                expectation, window, cursor, anchor_ns, now_ns, judgements=judgements, place=(index, position)
            )
            found = search.run()
            cursor = search.cursor
            if found.verdict is not Verdict.MET and found.verdict not in UNDECIDED:
                blocked = found.verdict
        verdicts.append(_verdict(index, position, expectation, found))
    return verdicts


def describe(expectation: Expectation) -> str:
    """Return an expectation in words, for a person."""
    budget_s = expectation.budget_ms / 1000
    if expectation.event in _BEHAVIOURS_IN_WORDS:
        return _BEHAVIOURS_IN_WORDS[expectation.event].format(budget_s=budget_s)
    parts = [f"no {expectation.event}" if expectation.absent else expectation.event]
    if expectation.text_contains is not None:
        parts.append(f"containing {expectation.text_contains!r}")
    if expectation.text_matches is not None:
        parts.append(f"matching /{expectation.text_matches}/")
    if expectation.text_excludes is not None:
        parts.append(f"without {expectation.text_excludes!r}")
    if expectation.calls:
        parts.append("to " + ", ".join(_signature(call) for call in expectation.calls))
    if expectation.criterion is not None:
        parts.append(f"judged: {expectation.criterion!r}")
    if expectation.marker is not None:
        parts.append(f"meaning {expectation.marker}")
    if expectation.within_ms is not None:
        parts.append(f"within {budget_s:g} s")
    return " ".join(parts)


@dataclass(frozen=True)
class _Cursor:
    """From where the next expectation looks: a time, and the reply that is already spoken for.

    Attributes:
        at_ns: Where the expectation above was met.
        matched: Whether one was.
        used: The events that expectations above were met by, by identity.
        answered: Those that a response without words was met by: its onset, and the first words after that.
    """

    at_ns: int
    matched: bool = False
    used: frozenset[int] = field(default_factory=frozenset[int])
    answered: frozenset[int] = field(default_factory=frozenset[int])


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

    def onsets(self, from_ns: int) -> list[AgentStartedSpeaking]:
        return [e for e in self.facts if isinstance(e, AgentStartedSpeaking) and self._belongs(e, from_ns)]


class _Search:
    """Looks for one expectation in the facts of its turn."""

    def __init__(
        self,
        expectation: Expectation,
        window: _Window,
        cursor: _Cursor,
        anchor_ns: int,
        now_ns: int | None,
        *,
        judgements: Judgements | None,
        place: tuple[int, int],
    ):
        self._expectation = expectation
        self._window = window
        self.cursor = cursor
        self._anchor_ns = anchor_ns
        self._deadline_ns = anchor_ns + expectation.budget_ms * NS_PER_MS
        self._budget_s = expectation.budget_ms / 1000
        self._now_ns = now_ns
        self._judgements = judgements
        self._place = place

    def run(self) -> Finding:
        if self._expectation.absent:
            return self._absent()
        if self._expectation.event in _CALLS:
            return self._function_calls()
        if self._expectation.event in _REPLIES:
            return self._response()
        return self._event()

    @property
    def _from_ns(self) -> int:
        if self._expectation.check_from == "turn_start":
            return self._window.begin_ns
        return self.cursor.at_ns + int(self.cursor.matched)

    def _candidates(self) -> list[TimelineEvent]:
        """Return the events that may meet the expectation, in order."""
        found = self._window.named(self._expectation.event, self._from_ns)
        return [event for event in found if id(event) not in self.cursor.used]

    def _open(self, reason: str, evidence: tuple[Evidence, ...] = (), *, late_ns: int = KNOWN_LATE_NS) -> Finding:
        """Return what an expectation is that nothing has met: open while there is time, missed after."""
        until_ns = self._deadline_ns + late_ns
        if self._now_ns is not None and self._now_ns <= until_ns:
            return Finding(verdict=Verdict.PENDING, evidence=evidence, recheck_ns=until_ns + 1)
        return Finding(verdict=Verdict.MISSED, reason=reason, evidence=evidence)

    def _met(self, events: Sequence[TimelineEvent], reason: str = "") -> Finding:
        last = max(events, key=lambda e: e.at_ns)
        evidence = tuple(evidence_of(e) for e in events)
        if last.at_ns > self._deadline_ns:
            late_s = (last.at_ns - self._deadline_ns) / NS_PER_S
            reason = f"came {late_s:.2f} s after the {self._budget_s:g} s it had"
            return Finding(verdict=Verdict.MISSED, reason=reason, evidence=evidence)
        self._use(events)
        return Finding(verdict=Verdict.MET, reason=reason, evidence=evidence)

    def _use(self, events: Sequence[TimelineEvent]) -> None:
        last_ns = max(e.at_ns for e in events)
        used = self.cursor.used | {id(e) for e in events}
        # What was found further back takes nothing from those below.
        self.cursor = replace(self.cursor, at_ns=max(last_ns, self.cursor.at_ns), matched=True, used=used)

    def _absent(self) -> Finding:
        name = self._expectation.event
        found: list[TimelineEvent] = list(self._window.named(name, self.cursor.at_ns + int(self.cursor.matched)))
        if name == "response":
            found = [*found, *self._window.onsets(self.cursor.at_ns)]
        if name == "response" and self.cursor.matched and self._reply_is_under_way():
            # What continues the reply that was matched above is no new one.
            reply_end_ns = self._reply_end_ns()
            found = [e for e in found if reply_end_ns is not None and _began_ns(e) >= reply_end_ns]
        for event in sorted(found, key=lambda e: e.at_ns):
            if event.at_ns <= self._deadline_ns:
                reason = f"there was one after all, at {event.at_s:.2f} s"
                return Finding(verdict=Verdict.MISSED, reason=reason, evidence=(evidence_of(event),))
        waiting = self._open("")
        if waiting.verdict is Verdict.PENDING:
            return waiting
        hidden = self._hidden()
        if hidden is not None:
            return Finding(verdict=Verdict.NOT_OBSERVABLE, reason=hidden)
        return Finding(verdict=Verdict.MET, reason=f"none came within {self._budget_s:g} s")

    def _reply_is_under_way(self) -> bool:
        """Whether the agent was in the middle of a reply where the expectation above was met."""
        so_far = [e for e in self._window.facts if self._window.begin_ns <= _began_ns(e) <= self.cursor.at_ns]
        ended_ns = max((e.at_ns for e in so_far if isinstance(e, AgentTurnEnded)), default=self._window.begin_ns - 1)
        return any(isinstance(e, AgentSaid | AgentStartedSpeaking) and _began_ns(e) > ended_ns for e in so_far)

    def _reply_end_ns(self) -> int | None:
        return next(
            (e.at_ns for e in self._window.facts if isinstance(e, AgentTurnEnded) and e.at_ns >= self.cursor.at_ns),
            None,
        )

    def _event(self) -> Finding:
        expectation = self._expectation
        seen: list[TimelineEvent] = []
        text = problem = ""
        for event in self._candidates():
            seen.append(event)
            text = f"{text} {words_of(event)}".strip()
            problem = _text_problem(expectation, text) or _marker_problem(expectation, event)
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
        return self._open(f"no {expectation.event} within {self._budget_s:g} s")

    def _response(self) -> Finding:
        """The agent's words: what was heard, or what it told; either may meet the expectation."""
        expectation = self._expectation
        if not expectation.needs_words:
            return self._any_response()
        said = [e for e in self._candidates() if isinstance(e, AgentSaid)]
        # A transcript of the agent's own is exact; recognition can mishear, so it only ever speaks in favour.
        told = [e for e in said if e.source is Source.TOLD]
        heard = [e for e in said if e.source is Source.HEARD]
        if not said:
            return self._no_words()
        if expectation.event == "response" and not heard and not self._window.onsets(self._window.begin_ns):
            return self._open("the agent told words, but nothing of it was heard", (evidence_of(told[-1]),))
        cursor = self.cursor
        found: list[tuple[Finding, _Cursor]] = []
        for events in (told, heard):
            if events:
                self.cursor = cursor
                found.append((self._words(events), self.cursor))
        if expectation.criterion is not None or (told and any(_excluded(expectation, e.text) for e in told)):
            # One judge, one answer: on what the agent told, or else on what was heard.
            chosen = found[0]
        else:
            chosen = next((f for f in found if f[0].verdict is Verdict.MET), found[0])
        finding, self.cursor = chosen
        return finding

    def _no_words(self) -> Finding:
        hidden = self._hidden()
        if hidden is not None:
            return self._unobservable(hidden)
        onset = next((e for e in self._window.onsets(self._from_ns) if e.at_ns <= self._deadline_ns), None)
        if onset is None:
            return self._open(f"the agent said nothing within {self._budget_s:g} s")
        # It spoke in time: its words are told when it has said them, or else recognised once its turn is over.
        over = next((e for e in self._window.facts if isinstance(e, AgentTurnEnded) and e.at_ns > onset.at_ns), None)
        until_ns = (self._deadline_ns if over is None else over.at_ns) + RECOGNITION_NS
        if self._now_ns is not None and self._now_ns <= until_ns:
            return Finding(verdict=Verdict.PENDING, recheck_ns=until_ns + 1)
        if not self._window.holds_words():
            reason = "the agent spoke, but no words of it are known: not told, not recognised"
            return Finding(verdict=Verdict.NOT_OBSERVABLE, reason=reason, evidence=(evidence_of(onset),))
        reason = "the agent spoke, but said nothing that could be understood"
        return Finding(verdict=Verdict.MISSED, reason=reason, evidence=(evidence_of(onset),))

    def _any_response(self) -> Finding:
        answered = self.cursor.answered
        onset = None
        if self._expectation.event == "response":
            onsets = self._window.onsets(self._from_ns - int(self.cursor.matched))
            onset = next((e for e in onsets if id(e) not in answered), None)
        said = next((e for e in self._candidates() if id(e) not in answered), None)
        if onset is not None:
            found = self._met([onset])
            words = [] if said is None else [said]
            self.cursor = replace(self.cursor, answered=answered | {id(e) for e in (onset, *words)})
            return found.model_copy(update={"evidence": (*found.evidence, *(evidence_of(e) for e in words))})
        if said is None:
            hidden = self._hidden()
            if hidden is not None:
                return self._unobservable(hidden)
            return self._open(f"no {self._expectation.event} within {self._budget_s:g} s")
        if self._expectation.event == "response" and not self._window.onsets(self._window.begin_ns):
            return self._open("the agent told words, but nothing of it was heard", (evidence_of(said),))
        return self._met([said])

    def _words(self, said: Sequence[AgentSaid]) -> Finding:
        expectation = self._expectation
        text = problem = ""
        judged: Finding | None = None
        seen: list[AgentSaid] = []
        if expectation.criterion is not None:
            in_time = [e for e in said if e.at_ns <= self._deadline_ns]
            if not in_time:
                return self._met(said[:1])
            said = in_time
        for event, following in zip_longest(said, said[1:]):
            text = f"{text} {event.text}".strip()
            seen.append(event)
            problem = _text_problem(expectation, text)
            evidence = tuple(evidence_of(e) for e in seen)
            if _excluded(expectation, text):
                return Finding(verdict=Verdict.MISSED, reason=problem, evidence=evidence)
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
        evidence = tuple(evidence_of(e) for e in seen)
        if judged is not None:
            return judged
        return self._open(problem or "the reply did not end", evidence)

    def _judged(self, kind: str, subject: str, event: TimelineEvent) -> Finding:
        """Return what the judge says of words or a call; with the question where it was not asked yet."""
        turn, index = self._place
        question = Question(
            turn=turn,
            index=index,
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

    def _reply_is_over(self, event: AgentSaid, following: AgentSaid | None) -> bool:
        """Whether nothing more of a reply is to come that could hold what is excluded, or change a judge's mind.

        Args:
            event: Words of the reply.
            following: The words that follow them, of this reply or of the next; None if there are none yet.
        """
        if following is None and self._now_ns is None:
            return True
        return any(
            isinstance(e, AgentTurnEnded)
            and e.at_ns >= event.at_ns - TOLD_GRACE_NS
            and (following is None or e.at_ns < following.at_ns)
            for e in self._window.facts
        )

    def _function_calls(self) -> Finding:
        expectation = self._expectation
        wanted = list(expectation.calls or (FunctionCall(),))
        seen = [e for e in self._candidates() if isinstance(e, AgentCalledFunction | AgentFunctionReturned)]
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
                evidence = tuple(evidence_of(e) for e in seen)
                return self._open(f"no call of {_signature(call)} within {self._budget_s:g} s", evidence)
            used.append(match)
        if expectation.criterion is not None and max(e.at_ns for e in used) <= self._deadline_ns:
            for event in used:
                if isinstance(event, AgentCalledFunction) and event.arguments is None:
                    return self._unobservable("the agent does not tell the arguments of its function calls over RTVI")
                judged = self._judged("call", _call_text(event), event)
                if judged.verdict is not Verdict.MET:
                    return self._settled_by(judged, used)
        return self._met(used)

    def _hidden(self) -> str | None:
        """Why the event can't be seen with this agent; None where it can."""
        return hidden_reason(self._expectation.event, self._window.facts)

    def _rtvi(self) -> bool:
        return any(isinstance(e, BotReady) for e in self._window.facts)

    def _unobservable(self, reason: str) -> Finding:
        """Return that nobody can tell: once the agent had the time to show that it reports such things after all."""
        until_ns = min(self._deadline_ns, self._anchor_ns + UNOBSERVABLE_NS)
        if self._now_ns is not None and self._now_ns <= until_ns:
            return Finding(verdict=Verdict.PENDING, recheck_ns=until_ns + 1)
        return Finding(verdict=Verdict.NOT_OBSERVABLE, reason=reason)


def _verdict(turn: int, index: int, expectation: Expectation, found: Finding) -> ExpectationVerdict:
    return ExpectationVerdict(
        turn=turn,
        index=index,
        event=expectation.event,
        expected=describe(expectation),
        verdict=found.verdict,
        reason=found.reason,
        source=next((e.source for e in reversed(found.evidence) if e.source is not None), None),
        evidence=found.evidence,
        recheck_ns=found.recheck_ns,
        question=found.question,
    )


def _began_ns(event: TimelineEvent) -> int:
    if isinstance(event, AgentSaid) and event.started_ns is not None:
        return event.started_ns
    return event.at_ns


def _excluded(expectation: Expectation, text: str) -> bool:
    excluded = expectation.text_excludes
    return excluded is not None and _contains(text, excluded)


def _contains(text: str, part: str) -> bool:
    # Spoken and written forms are equal ("555-0142", "five five five…"). A part that is no words (a marker, a symbol)
    # is there only as it is written.
    return part in text or (bool(normalise_words(part)) and contains_words(text, part))


def _text_problem(expectation: Expectation, text: str) -> str:
    """Return what is wrong with the words; empty if nothing is."""
    if _excluded(expectation, text):
        return f"holds {expectation.text_excludes!r}"
    if expectation.text_contains is not None and not _contains(text, expectation.text_contains):
        return f"does not contain {expectation.text_contains!r}"
    if expectation.text_matches is not None and compile_pattern(expectation.text_matches).search(text) is None:
        return f"does not match /{expectation.text_matches}/"
    return ""


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


def _call_text(event: AgentCalledFunction | AgentFunctionReturned) -> str:
    arguments = event.arguments if isinstance(event, AgentCalledFunction) else None
    return f"{event.name or 'a function'}({json.dumps(arguments or {}, ensure_ascii=False)})"


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
