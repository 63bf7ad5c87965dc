"""Whom what was missed may be blamed on: the agent, only where the harness was able to judge."""

from collections.abc import Sequence

from bots.timeline import CallerTurnSettled, EndedReason
from runner.evaluation.trouble import Trouble
from runner.evaluation.verdicts import Cause, ExpectationVerdict, Verdict
from runner.evaluation.view import CallView

DIFFERS = "the caller gave up in turn {turn}, which the recording shows to have passed"

_NEEDS_NO_LINE = frozenset({EndedReason.AGENT_VANISHED, EndedReason.AGENT_NEVER_JOINED})
"""Endings that an agent comes to whatever it heard of the caller."""


def fairly(
    view: CallView, verdicts: Sequence[ExpectationVerdict], troubles: Sequence[Trouble]
) -> list[ExpectationVerdict]:
    """Return verdicts in which nothing is missed that the harness can't blame on the agent.

    Args:
        view: A finished call.
        verdicts: What the facts say of each expectation.
        troubles: What kept the harness from judging.
    """
    gave_up = gave_up_in_error(view, verdicts)
    fair: list[ExpectationVerdict] = []
    excused: ExpectationVerdict | None = None
    for verdict in verdicts:
        if verdict.verdict is not Verdict.MISSED:
            fair.append(verdict)
            continue
        unreached = verdict.turn not in view.starts
        trouble = _touching(view, verdict.turn, troubles)
        if gave_up is not None and verdict.turn > gave_up and unreached:
            judged = _inconclusive(verdict, Cause.HARNESS, DIFFERS.format(turn=gave_up + 1))
        elif excused is not None and excused.cause is not None and verdict.follows:
            judged = _inconclusive(verdict, excused.cause, f"turn {excused.turn + 1} is inconclusive")
        elif trouble is not None:
            judged = excused = _inconclusive(verdict, trouble.cause, f"{trouble.what}; then: {verdict.reason}")
        else:
            judged = verdict
        fair.append(judged)
    return fair


def gave_up_in_error(view: CallView, verdicts: Sequence[ExpectationVerdict]) -> int | None:
    """Return the turn that the caller took for failed and that had not failed; None if there is none."""
    for settled in view.of(CallerTurnSettled):
        missed = any(v.turn == settled.turn and v.verdict is Verdict.MISSED for v in verdicts)
        if settled.failed and not missed:
            return settled.turn
    return None


def excuse(view: CallView, reason: EndedReason, troubles: Sequence[Trouble]) -> Trouble | None:
    """Return the trouble that an ending may owe to; None if the agent alone can have brought it about."""
    able = [t for t in troubles if not (t.lasting and reason in _NEEDS_NO_LINE and t.to_ns < view.end_ns)]
    turn = max(view.starts, default=None)
    begin_ns = 0 if turn is None else view.starts[turn]
    return next((t for t in able if t.touches(begin_ns, view.end_ns)), None)


def _touching(view: CallView, turn: int, troubles: Sequence[Trouble]) -> Trouble | None:
    if turn not in view.starts:
        return None if view.ended is None else excuse(view, view.ended.reason, troubles)
    begin_ns = view.starts[turn] if turn else 0
    until_ns = view.next_start_ns(turn)
    return next((t for t in troubles if t.touches(begin_ns, view.end_ns if until_ns is None else until_ns)), None)


def _inconclusive(verdict: ExpectationVerdict, cause: Cause, reason: str) -> ExpectationVerdict:
    return verdict.model_copy(update={"verdict": Verdict.NOT_JUDGED, "cause": cause, "reason": reason})
