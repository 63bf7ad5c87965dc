"""Asks the judge what the script wants to know of a call: while it is on, and after it what is left."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import anyio
from loguru import logger

from bots.caller.script import Script
from bots.timeline import TimelineEvent
from runner.evaluation.outcome import judge_expectations
from runner.evaluation.verdicts import Judgement, Question

if TYPE_CHECKING:
    from runner.judge.judge import Judge


class Judging:
    """The questions of one call.

    Args:
        facts: What has happened; grows.
    """

    def __init__(self, judge: "Judge | None", facts: Sequence[TimelineEvent]):
        self.judge = judge
        self._facts = facts
        self._to_judge, self._questions = anyio.create_memory_object_stream[Question](math.inf)
        self._asked: set[Question] = set()
        self._known: dict[Question, Judgement] = {}

    @property
    def known(self) -> Mapping[Question, Judgement] | None:
        """The judgements so far, by their questions; None without a judge."""
        return None if self.judge is None else self._known

    def ask_later(self, question: Question) -> None:
        """Have a question asked, once."""
        if question not in self._asked:
            self._asked.add(question)
            self._to_judge.send_nowait(question)

    async def run(self, answered: Callable[[], None]) -> None:
        """Ask while the call is on, until cancelled; tell of every answer."""
        async for question in self._questions:
            await self._ask(question)
            answered()

    async def finish(self, script: Script, progress: Callable[[float], None]) -> None:
        """Ask what could not be asked while the call was on; tell how much of it is done, from 0 to 1."""
        while self.judge is not None:
            verdicts = judge_expectations(script, self._facts, self._known)
            open_questions = [verdict.question for verdict in verdicts if verdict.question is not None]
            if not open_questions:
                return
            for number, question in enumerate(open_questions):
                progress(number / len(open_questions))
                await self._ask(question)

    def close(self) -> None:
        """Take no more questions."""
        self._to_judge.close()
        self._questions.close()

    async def _ask(self, question: Question) -> None:
        if self.judge is None:
            return
        try:
            self._known[question] = await self.judge.ask(question, self._facts)
        except Exception as error:
            logger.opt(exception=True).debug("the judge failed")
            reason = f"our own error: {type(error).__name__}"
            self._known[question] = Judgement(question=question, answer="none", reason=reason)
