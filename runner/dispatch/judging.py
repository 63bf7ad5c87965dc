"""Judges what was asked of a call besides its script, once the call is over.

That is what must be true afterwards, and whether each line was said at its time. The facts are those that the worker
brought: they are read from the store. It is done in steps: each is tried again if it fails, and not done again once
it is done, whichever process goes on.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import anyio.to_thread
from loguru import logger
from pydantic import BaseModel, ConfigDict

from bots.timeline import TimelineEvent
from runner.calls import run_file, timeline
from runner.calls.run_file import Run, judge_run, run_text
from runner.errors import RunnerError, UsageError
from runner.evaluation.asked import NO_JUDGE_ASKED, OutcomeJudgement, open_questions
from runner.evaluation.verdicts import Judgement, JudgeUsage, Question, by_question
from runner.files import parse_model
from runner.records.database import Database
from runner.records.runs import awaiting_judge, end_judged
from runner.records.store import ArtefactMissing, ArtefactStore, artefact_key
from runner.settings import JudgeSettings

if TYPE_CHECKING:
    from runner.judge.judge import LLMJudge

FACTS_ATTEMPTS = 10
ASKING_ATTEMPTS = 6
ENDING_ATTEMPTS = 10
STORING_ATTEMPTS = 4
"""How often it is tried to write what the judge said into ``run.json``: the record has it all the same."""

_Number = TypeVar("_Number", int, float)


class NothingToJudge(RunnerError):
    """The run does not wait for a judge (any more)."""


class NotThereYet(RunnerError):
    """Facts of a call are still to come."""


class NoAnswer(RunnerError):
    """The judge gave no answer."""


class Try(NamedTuple):
    """Which attempt at a step this is, from 1."""

    number: int
    is_last: bool


class Step(Protocol):
    """Does a step: again, some time later, if it raises. If it was done before, it returns what that came to."""

    async def __call__(
        self, name: str, attempts: int, work: Callable[[Try], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Do it, at most so many times. What it comes to is JSON."""
        ...


class Facts(NamedTuple):
    """A call as its worker left it: not judged in this yet."""

    run: Run
    events: Sequence[TimelineEvent]


class ToAsk(BaseModel):
    """One thing to ask: about the condition of a line, or about what was expected of the whole call."""

    model_config = ConfigDict(frozen=True)

    question: Question | None = None
    prompt: str = ""


class Answer(BaseModel):
    """What a judge says to one thing, and what that took."""

    model_config = ConfigDict(frozen=True)

    judgement: Judgement | None = None
    outcome: OutcomeJudgement | None = None
    usage: JudgeUsage

    @property
    def problem(self) -> str | None:
        """Why it is no answer, if it is none."""
        if self.judgement is not None and self.judgement.answer == "none":
            return self.judgement.reason
        return self.outcome.reason if self.outcome is not None and self.outcome.score is None else None


class Found(BaseModel):
    """What a step came to: what is to be asked, or what the judge says, or why the call can't be judged."""

    model_config = ConfigDict(frozen=True)

    to_ask: tuple[ToAsk, ...] = ()
    answer: Answer | None = None
    problem: str | None = None
    is_over: bool = False


class Judging:
    """Judges calls, and ends their runs: in any case, so that nobody loses a call over a judge."""

    def __init__(self, database: Database, store: ArtefactStore, settings: JudgeSettings):
        self._database = database
        self._store = store
        self._settings = settings

    async def judge(self, run_id: int, attempt: int, step: Step) -> None:
        """Ask the judge about a call, and end its run."""
        call = _Call(self._database, self._store, run_id, attempt)

        async def find_out(this: Try) -> Found:
            return Found(to_ask=tuple(what_to_ask(await call.facts())))

        async def ask(to_ask: ToAsk, this: Try) -> Found:
            await call.see_that_it_waits()
            answer = await self._ask(to_ask, await call.facts())
            if answer.problem is not None and not this.is_last:
                raise NoAnswer(answer.problem)
            return Found(answer=answer)

        async def end(this: Try) -> Found:
            await self._end(call, answers, found.problem, this)
            return Found()

        with logger.contextualize(run_id=run_id, attempt=attempt):
            found = await _done(step, "find out what to ask", FACTS_ATTEMPTS, find_out)
            answers: list[Answer] = []
            for to_ask in found.to_ask:
                found = await _done(step, "ask", ASKING_ATTEMPTS, lambda this, one=to_ask: ask(one, this))
                if found.answer is None:
                    break
                answers.append(found.answer)
            if not found.is_over:
                await _done(step, "end", ENDING_ATTEMPTS, end)

    async def _ask(self, to_ask: ToAsk, facts: Facts) -> Answer:
        """Ask the judge. Where it can't be reached, the answer says so."""
        judge = await anyio.to_thread.run_sync(judge_of, self._settings)
        if to_ask.question is not None:
            return Answer(judgement=await judge.ask(to_ask.question, facts.events), usage=judge.usage())
        return Answer(outcome=await judge.ask_outcome(to_ask.prompt, facts.events), usage=judge.usage())

    async def _end(self, call: "_Call", answers: Sequence[Answer], problem: str | None, this: Try) -> None:
        judged: Run | str
        try:
            judged = problem or await anyio.to_thread.run_sync(conclude, await call.facts(), answers)
        except UsageError as error:
            judged = str(error)
        size: int | None = None
        if isinstance(judged, str):
            logger.warning("run {}: could not be judged: {}", call.run_id, judged)
        elif this.number <= STORING_ATTEMPTS:
            text = run_text(judged).encode()
            size = await self._store.put(call.key(run_file.FILE_NAME), text, max_bytes=len(text))
        await self._database.run(
            lambda session: end_judged(session, call.run_id, call.attempt, judged, run_file_bytes=size)
        )


class _Call:
    """A call that is judged. Its facts are read once."""

    def __init__(self, database: Database, store: ArtefactStore, run_id: int, attempt: int):
        self._database = database
        self._store = store
        self._facts: Facts | None = None
        self.run_id = run_id
        self.attempt = attempt

    def key(self, name: str) -> str:
        return artefact_key(self.run_id, name, self.attempt)

    async def see_that_it_waits(self) -> dict[str, int | None]:
        """Return its artefacts.

        Raises:
            NothingToJudge: Its run does not wait for a judge (any more).
        """
        found = await self._database.look(lambda session: awaiting_judge(session, self.run_id, self.attempt))
        if found is None:
            raise NothingToJudge("the run does not wait for a judge any more")
        return dict(found)

    async def facts(self) -> Facts:
        """Return its facts.

        Raises:
            NotThereYet: Something of them is still to come.
            UsageError: Something of them is not there, or can't be read.
        """
        if self._facts is None:
            artefacts = await self.see_that_it_waits()
            run, events = [await self._read(artefacts, name) for name in (run_file.FILE_NAME, timeline.FILE_NAME)]
            self._facts = await anyio.to_thread.run_sync(
                lambda: Facts(
                    parse_model(run, run_file.FILE_NAME, Run, "run"),
                    timeline.parse_stored(events, timeline.FILE_NAME).events,
                )
            )
        return self._facts

    async def _read(self, artefacts: dict[str, int | None], name: str) -> bytes:
        if name in artefacts and artefacts[name] is None:
            raise NotThereYet(f"its {name} has not come")
        try:
            if name in artefacts:
                return b"".join([piece async for piece in self._store.get(self.key(name))])
        except ArtefactMissing:
            pass
        raise UsageError(f"its {name} is not there")


def judge_of(settings: JudgeSettings) -> "LLMJudge":
    """Return the judge that the settings name. Blocks, the first time for a second or two: much is imported.

    Raises:
        UsageError: They name none, or none that can be made.
    """
    from runner.judge.judge import make_judge

    judge = make_judge(settings)
    if judge is None:
        raise UsageError(NO_JUDGE_ASKED)
    return judge


def what_to_ask(facts: Facts) -> list[ToAsk]:
    """Return what a judge is still to be asked about a call."""
    asked, run = facts.run.asked, facts.run
    questions = open_questions(asked, facts.events, by_question(run.judgements or []))
    to_ask = [ToAsk(question=question) for question in questions]
    return [*to_ask, *([ToAsk(prompt=asked.expected_outcome)] if asked.expected_outcome else [])]


def conclude(facts: Facts, answers: Sequence[Answer]) -> Run:
    """Return what a call comes to by its facts and what the judge says to them.

    Raises:
        UsageError: The facts are not those of a call.
    """
    usage = facts.run.judge
    for answer in answers:
        usage = _together(usage, answer.usage)
    judgements = [answer.judgement for answer in answers if answer.judgement is not None]
    circumstances = replace(
        facts.run.circumstances,
        judgements=[*(facts.run.judgements or []), *judgements],
        judge=usage,
        expected_outcome=next((answer.outcome for answer in answers if answer.outcome is not None), None),
    )
    return judge_run(facts.run.script, facts.events, circumstances)


async def _done(step: Step, name: str, attempts: int, work: Callable[[Try], Awaitable[Found]]) -> Found:
    """Do a step. It comes to something in any case."""

    async def tried(this: Try) -> dict[str, Any]:
        try:
            found = await work(this)
        except NothingToJudge:
            found = Found(is_over=True)
        except UsageError as error:
            # The next time it would be the same.
            found = Found(problem=str(error))
        except Exception as error:
            if not this.is_last:
                logger.info("{}: is tried again ({})", name, type(error).__name__)
                raise
            logger.opt(exception=True).error("{}: was tried in vain", name)
            found = Found(
                problem=str(error) if isinstance(error, RunnerError) else f"our own error: {type(error).__name__}"
            )
        return found.model_dump(mode="json")

    return Found.model_validate(await step(name, attempts, tried))


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
