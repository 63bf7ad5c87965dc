"""Asks the judge, once a call is over, about what was asked for besides the script."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread

from runner.calls import timeline as timelines
from runner.calls.run_file import Run, judge_run, write_run
from runner.calls.timeline import read_timeline
from runner.evaluation.asked import Asked, open_questions
from runner.evaluation.outcome import Status
from runner.evaluation.verdicts import JudgeUsage, by_question
from runner.settings import JudgeSettings

if TYPE_CHECKING:
    from runner.judge.judge import LLMJudge

_Number = TypeVar("_Number", int, float)


def judge_for(asked: Asked, settings: JudgeSettings) -> "LLMJudge | None":
    """Return the judge that is to be asked; None where there is none, or nothing to ask.

    Raises:
        UsageError: The settings name no LLM service that can be made.
    """
    if not (asked.needs_judge and settings.configured):
        return None
    from runner.judge.judge import make_judge

    return make_judge(settings)


async def ask(run: Run, folder: Path, judge: "LLMJudge") -> Run:
    """Return a run with what the judge says to it; its ``run.json`` says so too.

    Of a call that did not take place, or was broken off, nothing is asked.

    Args:
        run: The run, not judged in this yet.
        folder: Where its facts are.
        judge: The judge.

    Raises:
        UsageError: The facts can't be read.
        OSError: The run can't be written.
    """
    if run.status is not Status.COMPLETED:
        return run
    facts = await anyio.to_thread.run_sync(read_timeline, folder / timelines.FILE_NAME)
    judgements = list(run.judgements or [])
    for question in open_questions(run.asked, facts, by_question(judgements)):
        judgements.append(await judge.ask(question, facts))
    prompt = run.asked.expected_outcome
    answer = await judge.ask_outcome(prompt, facts) if prompt else None
    circumstances = replace(
        run.circumstances,
        judgements=judgements,
        judge=_together(run.judge, judge.usage()),
        expected_outcome=answer,
    )

    def judged_again() -> Run:
        judged = judge_run(run.script, facts, circumstances)
        write_run(folder, judged)
        return judged

    return await anyio.to_thread.run_sync(judged_again)


def _together(first: JudgeUsage | None, second: JudgeUsage) -> JudgeUsage:
    """Return what judging took in two goes; what either does not say is not known of both."""
    if first is None:
        return second

    return JudgeUsage(
        model=second.model,
        questions=first.questions + second.questions,
        input_tokens=_sum(first.input_tokens, second.input_tokens),
        output_tokens=_sum(first.output_tokens, second.output_tokens),
        cost_usd=_sum(first.cost_usd, second.cost_usd),
    )


def _sum(one: _Number | None, other: _Number | None) -> _Number | None:
    return None if one is None or other is None else one + other
