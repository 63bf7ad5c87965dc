"""What was asked for besides the script: what must be true afterwards, and when a line was to be said.

A run that passes by its script passes only if all of this was judged and had. Nothing here asks anybody: judgements
are facts, so that judging the same facts again comes to the same.
"""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bots.timeline import AgentSaid, CallEnded, CallerTurnStarted, EndedReason, Source, TimelineEvent
from runner.evaluation.failure import Failure, FailureKind
from runner.evaluation.outcome import Outcome
from runner.evaluation.speech import began_ns
from runner.evaluation.trouble import Trouble
from runner.evaluation.verdicts import Cause, Judgements, Question

MAX_QUOTED = 200
"""How many characters of a condition or a prompt stand in a sentence about it."""

NO_JUDGE_ASKED = "no judge was asked (judge.model or judge.service in the server's settings names one)"

_TERM = r'contains\s+"([^"]+)"'
_CONTAINS = re.compile(_TERM, re.IGNORECASE)
_EXPRESSION = re.compile(rf"\s*{_TERM}(?:\s+(?:AND|OR)\s+{_TERM})*\s*", re.IGNORECASE)
_OR = re.compile(r'(?<=")\s+OR\s+(?=contains\s+")', re.IGNORECASE)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Condition(_Model):
    """What the agent must have done before a line of the caller.

    Attributes:
        turn: The turn that was to wait for it, from 0.
        where: The field it stands in, such as ``conditions[1].condition``.
        when: What the agent must have done: ``contains "word"`` (joined by AND and OR), or a sentence for a judge.
        hangs_up: Whether the caller was to hang up then, in place of a turn of its own.
    """

    turn: int
    where: str
    when: str
    hangs_up: bool = False


class Asked(_Model):
    """What was asked of a run besides its script.

    Attributes:
        expected_outcome: What must be true of the whole call, for a judge; None where nothing was asked.
        conditions: What must have happened before lines of the caller.
        not_honoured: What is known beforehand not to be had: a sentence each, which begins with the field.
    """

    expected_outcome: str | None = None
    conditions: tuple[Condition, ...] = ()
    not_honoured: tuple[str, ...] = ()

    @property
    def needs_judge(self) -> bool:
        """Whether a judge has something to say to it."""
        return bool(self.expected_outcome) or any(not is_expression(one.when) for one in self.conditions)


NOTHING = Asked()
"""Nothing besides the script."""


class Statement(_Model):
    """One statement of an expected outcome, and what the judge says to it.

    Attributes:
        answer: ``yes``: true. ``no``: not. ``unreached``: the call did not come so far, or it can't be told.
    """

    statement: str
    answer: Literal["yes", "no", "unreached"]
    reason: str


class OutcomeJudgement(_Model):
    """What a judge says to an expected outcome.

    Attributes:
        score: 100: every statement holds. 0: one does not. 50: neither. None: the judge could not be asked, or gave
            no answer.
        statements: What the prompt consists of.
    """

    prompt: str
    score: Literal[0, 50, 100] | None
    reason: str
    statements: tuple[Statement, ...] = ()
    model: str | None = None


def judged(prompt: str, statements: Sequence[Statement], model: str | None) -> OutcomeJudgement:
    """Return what answers to the statements of a prompt come to: any no is 0, else any open one 50, else 100."""
    refuted = [one for one in statements if one.answer == "no"]
    unreached = [one for one in statements if one.answer == "unreached"]
    score: Literal[0, 50, 100] = 0 if refuted else 50 if unreached or not statements else 100
    first = (refuted or unreached or list(statements))[:1]
    reason = f"{first[0].statement}: {first[0].reason}" if first else "the judge found no statement in it"
    return OutcomeJudgement(prompt=prompt, score=score, reason=reason, statements=tuple(statements), model=model)


def is_expression(when: str) -> bool:
    """Return whether a condition is told from the words alone: ``contains "a" OR contains "b"``."""
    return _EXPRESSION.fullmatch(when) is not None


def open_questions(asked: Asked, facts: Sequence[TimelineEvent], judgements: Judgements) -> list[Question]:
    """Return what a judge must still be asked about the conditions of lines that were said."""
    questions = [_question(one, facts) for one in asked.conditions if not is_expression(one.when)]
    return [one for one in questions if one is not None and one.subject and one not in judgements]


def not_honoured(asked: Asked, facts: Sequence[TimelineEvent], judgements: Judgements | None) -> list[str]:
    """Return what of what was asked for was not had, a sentence each: known beforehand, or told by the call."""
    return [
        *asked.not_honoured,
        *(s for one in asked.conditions if (s := _unmet(one, facts, judgements)) is not None),
    ]


def settle(
    outcome: Outcome,
    asked: Asked,
    missing: Sequence[str],
    judgement: OutcomeJudgement | None,
    *,
    trouble: Trouble | None = None,
    allow_unjudged: bool = False,
) -> Outcome:
    """Return an outcome that takes into account what was asked for besides the script.

    What failed by the script stays failed, and what is inconclusive stays inconclusive.

    Args:
        judgement: What a judge says to the expected outcome; None where none was asked.
        trouble: What may have led the agent astray; None where nothing did.
        allow_unjudged: Whether a run passes although something was not judged or not had.
    """
    if outcome.success is not True:
        return outcome
    if missing and not allow_unjudged:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        return _inconclusive(outcome, f"what was asked for was not all had: {missing[0]}{more}")
    if not asked.expected_outcome:
        return outcome
    if judgement is None or judgement.score is None:
        reason = NO_JUDGE_ASKED if judgement is None else judgement.reason
        unjudged = _inconclusive(outcome, f"expected_outcome_prompt was not judged: {reason}")
        return outcome if allow_unjudged else unjudged
    if judgement.score == 0 and trouble is not None:
        kind = FailureKind.of_trouble(trouble.cause)
        headline = kind.says("before", what=trouble.what, then=judgement.reason)
        return _with(outcome, Failure.of(kind, headline))
    if judgement.score == 0:
        headline = FailureKind.WRONG.says("outcome", reason=judgement.reason)
        return _with(outcome, Failure.of(FailureKind.WRONG, headline, expected=_quoted(asked.expected_outcome)))
    if judgement.score == 50 and not allow_unjudged:
        return _inconclusive(outcome, f"the expected outcome is inconclusive: {judgement.reason}")
    return outcome


def _inconclusive(outcome: Outcome, headline: str) -> Outcome:
    return _with(outcome, Failure.of(FailureKind.NOT_JUDGED, headline))


def _with(outcome: Outcome, failure: Failure) -> Outcome:
    success = False if failure.cause is Cause.AGENT else None
    changed = {"success": success, "cause": failure.cause, "detail": failure.headline, "failure": failure}
    return outcome.model_copy(update=changed)


def _unmet(condition: Condition, facts: Sequence[TimelineEvent], judgements: Judgements | None) -> str | None:
    """Return why a line can't be said to have been said at its condition; None if it can, or was never said."""
    question = _question(condition, facts)
    if question is None:
        return None
    told = f"{condition.where}: {_quoted(condition.when)!r}"
    then = "the caller hung up" if condition.hangs_up else "its line was said"
    if is_expression(condition.when):
        holds = _holds(condition.when, _spoken(condition, facts))
        return None if holds else f"{told} had not come true when {then}"
    if not question.subject:
        return f"{told} had not come true when {then}: the agent had said nothing"
    if judgements is None:
        return f"{told} takes a judge: {NO_JUDGE_ASKED}"
    found = judgements.get(question)
    if found is None or found.answer == "none":
        return f"{told} was not judged: {'nobody was asked' if found is None else found.reason}"
    return None if found.answer == "yes" else f"{told} had not come true when {then}: {found.reason}"


def _question(condition: Condition, facts: Sequence[TimelineEvent]) -> Question | None:
    at_ns = _said_ns(condition, facts)
    if at_ns is None:
        return None
    [subject, *_] = [*_spoken(condition, facts), ""]
    return Question(
        turn=condition.turn, index=0, kind="reply", subject=subject, criterion=condition.when, at_ns=at_ns
    )


def _spoken(condition: Condition, facts: Sequence[TimelineEvent]) -> list[str]:
    """Return what the agent said since the caller's turn before: as it was heard, and as it tells it if it does."""
    until_ns = _said_ns(condition, facts)
    if until_ns is None:
        return []
    from_ns = _turn_started(condition.turn - 1, facts) or 0
    said = [e for e in facts if isinstance(e, AgentSaid) and from_ns <= began_ns(e) < until_ns]
    said.sort(key=lambda e: e.at_ns)
    texts = (" ".join(e.text for e in said if e.source is one).strip() for one in (Source.HEARD, Source.TOLD))
    return [text for text in texts if text]


def _said_ns(condition: Condition, facts: Sequence[TimelineEvent]) -> int | None:
    """Return when a line was said, or the caller hung up in its place; None if that never came."""
    if not condition.hangs_up:
        return _turn_started(condition.turn, facts)
    ended = next((event for event in facts if isinstance(event, CallEnded)), None)
    return ended.at_ns if ended is not None and ended.reason is EndedReason.CALLER_HUNG_UP else None


def _turn_started(turn: int, facts: Sequence[TimelineEvent]) -> int | None:
    return next((e.at_ns for e in facts if isinstance(e, CallerTurnStarted) and e.turn == turn), None)


def _holds(expression: str, texts: Sequence[str]) -> bool:
    """Return whether an expression holds of one of several texts of the same; AND binds more tightly than OR."""
    spoken = [_plain(text) for text in texts]
    return any(
        all(_plain(part[1]) in text for part in _CONTAINS.finditer(either))
        for either in _OR.split(expression)
        for text in spoken
    )


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _quoted(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_QUOTED else f"{line[:MAX_QUOTED]}…"
