"""Expectations: pure functions of the timeline, with the evidence for what they say.

The same functions serve twice: while a call is on, to tell when the caller may go on, and when it is over, to
judge it. Expectations of a turn are met in order, each looked for only from where the one above it was met, as
in Pipecat Evals.
"""

from collections.abc import Sequence

from bots.caller.script import (
    AGENT_HANGS_UP,
    AGENT_NEVER_TALKS_OVER,
    AGENT_SPEAKS,
    AGENT_STOPS,
    BEHAVIOURS,
    Expectation,
    Listen,
    Play,
    PressKeys,
    Script,
    Speak,
    Turn,
)
from bots.timeline import TimelineEvent
from runner.evaluation.behaviour import find_behaviour
from runner.evaluation.ending import EndedBy, Ending
from runner.evaluation.replies import ReplySearch
from runner.evaluation.search import CALLS, AbsenceSearch, CallSearch, EventSearch, Search, signature
from runner.evaluation.verdicts import UNDECIDED, ExpectationVerdict, Finding, Judgements, Verdict
from runner.evaluation.view import CallView
from runner.evaluation.window import REPLIES, Cursor, Window, unobservable_start

ABOVE_FAILED = "the expectation above it failed"
"""Why an expectation was not looked for: it comes after one that failed in the same turn."""

_BEHAVIOURS_IN_WORDS = {
    AGENT_SPEAKS: "the agent speaks within {budget_s:g} s",
    AGENT_STOPS: "the agent stops within {budget_s:g} s of the barge-in",
    AGENT_NEVER_TALKS_OVER: "the agent lets the caller finish",
    AGENT_HANGS_UP: "the agent hangs up",
}


def evaluate(
    script: Script,
    facts: CallView | Sequence[TimelineEvent],
    *,
    judgements: Judgements | None = None,
    now_ns: int | None = None,
    doubted: frozenset[int] = frozenset(),
) -> list[ExpectationVerdict]:
    """Return the verdict on every expectation of a script, in order.

    Args:
        facts: The call, or its facts in any order.
        judgements: What a judge answered so far; None where there is no judge.
        now_ns: The time on the call's clock; None once the call is over: then nothing stays pending.
        doubted: The identities of told words that were not heard (see :mod:`runner.evaluation.dropped`).
    """
    view = facts if isinstance(facts, CallView) else CallView(facts)
    unreachable = None if now_ns is not None else unobservable_start(script, view)
    verdicts: list[ExpectationVerdict] = []
    for index, turn in enumerate(script.turns):
        if unreachable is not None and index >= unreachable[0] and index not in view.starts:
            found = Finding(verdict=Verdict.NOT_OBSERVABLE, reason=unreachable[1])
            verdicts.extend(_verdict(index, i, e, found) for i, e in enumerate(turn.expect))
        else:
            verdicts.extend(evaluate_turn(index, turn, view, judgements=judgements, now_ns=now_ns, doubted=doubted))
    return verdicts


def evaluate_turn(
    index: int,
    turn: Turn,
    view: CallView,
    *,
    judgements: Judgements | None = None,
    now_ns: int | None = None,
    doubted: frozenset[int] = frozenset(),
) -> list[ExpectationVerdict]:
    """Return the verdicts on the expectations of one turn, by its place in the script; see :func:`evaluate`."""
    anchor_ns = view.starts.get(index)
    ending = None if now_ns is not None else view.ending
    if anchor_ns is None:
        unreached = _unreached(ending, now_ns)
        return [_verdict(index, i, e, unreached) for i, e in enumerate(turn.expect)]
    # A greeting may begin before the caller begins to listen for it.
    greets = index == 0 and isinstance(turn.action, Listen)
    window = Window(
        view,
        turn=index,
        acts=isinstance(turn.action, Speak | Play | PressKeys),
        anchor_ns=anchor_ns,
        begin_ns=0 if greets else anchor_ns,
        end_ns=view.next_start_ns(index),
        now_ns=now_ns,
        ending=ending,
        doubted=doubted,
        judgements=judgements,
    )
    cursor = Cursor(window.begin_ns)
    blocked: Finding | None = None
    verdicts: list[ExpectationVerdict] = []
    for position, expectation in enumerate(turn.expect):
        if expectation.event in BEHAVIOURS:
            found = find_behaviour(expectation, index, turn.action, view, now_ns=now_ns)
        elif blocked is not None:
            found = blocked
        else:
            search = _search(expectation)(expectation, position, window, cursor)
            found = search.run()
            cursor = search.cursor
            if found.broken_off:
                blocked = Finding(verdict=found.verdict, reason=found.reason)
            elif found.verdict is not Verdict.MET and found.verdict not in UNDECIDED:
                blocked = Finding(verdict=found.verdict, reason=ABOVE_FAILED, follows=True)
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
        parts.append("to " + ", ".join(signature(call) for call in expectation.calls))
    if expectation.criterion is not None:
        parts.append(f"judged: {expectation.criterion!r}")
    if expectation.marker is not None:
        parts.append(f"meaning {expectation.marker}")
    if expectation.within_ms is not None:
        parts.append(f"within {budget_s:g} s")
    return " ".join(parts)


def _search(expectation: Expectation) -> type[Search]:
    if expectation.absent:
        return AbsenceSearch
    if expectation.event in CALLS:
        return CallSearch
    return ReplySearch if expectation.event in REPLIES else EventSearch


def _unreached(ending: Ending | None, now_ns: int | None) -> Finding:
    """Return what became of what was expected of a turn that was not taken up."""
    if now_ns is not None:
        return Finding(verdict=Verdict.PENDING)
    if ending is not None and ending.by is EndedBy.LIMIT:
        return Finding(verdict=Verdict.NOT_JUDGED, reason=ending.before)
    return Finding(verdict=Verdict.MISSED, reason="the turn was never reached", follows=True)


def _verdict(turn: int, index: int, expectation: Expectation, found: Finding) -> ExpectationVerdict:
    return ExpectationVerdict(
        turn=turn,
        index=index,
        event=expectation.event,
        expected=describe(expectation),
        source=next((e.source for e in reversed(found.evidence) if e.source is not None), None),
        **dict(found),
    )
