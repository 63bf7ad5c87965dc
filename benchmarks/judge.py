"""How well the configured judge agrees with people: its answers to cases that were labelled by hand.

    python -m benchmarks.judge

Every case of judge_labels.yaml is a moment of a telephone call: what was said before, what the agent then replied (or
the function it called), a criterion, and whether a person finds it satisfied. The judge of the settings is asked
about each, as in a call. A false pass is a "yes" where the label says otherwise, a false fail a "no" where it says
"yes".
"""

import collections
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import anyio
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from benchmarks.common import Claim, parser, report
from bots.timeline import AgentSaid, CallerStartedSpeaking, CallerTurnStarted, Source, TimelineEvent
from runner.errors import UsageError
from runner.evaluation.verdicts import Judgement, JudgeUsage, Question
from runner.judge.judge import Judge, make_judge
from runner.settings import load_settings

LABELS = Path(__file__).with_name("judge_labels.yaml")
MIN_AGREEMENT = 0.9
ANSWERS = ("yes", "no", "continue", "none")

NO_JUDGE = """\
no judge is configured. Name a model, by environment:

    SCENARIO_RUNNER_JUDGE__MODEL=gpt-4.1-mini SCENARIO_RUNNER_JUDGE__API_KEY=env:OPENAI_API_KEY
    SCENARIO_RUNNER_JUDGE__MODEL=gemma3:12b SCENARIO_RUNNER_JUDGE__BASE_URL=http://localhost:11434/v1

or with the same names in the section [judge] of the settings file."""


class Said(BaseModel):
    """Something said before the moment."""

    model_config = ConfigDict(extra="forbid")

    caller: str | None = None
    agent: str | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "Said":
        if (self.caller is None) == (self.agent is None):
            raise ValueError("either the caller says something or the agent")
        return self


class Case(BaseModel):
    """A moment of a call, and what a person says of it.

    Attributes:
        name: What it is about.
        kind: What makes it hard, for the table.
        before: What was said before.
        reply: What the agent then said; either this or a call.
        call: The function it then called, as ``name({arguments})``.
        criterion: What that should satisfy.
        label: Whether it does.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: Literal[
        "plain", "wrong fact", "near miss", "refusal", "misheard", "partial", "evasion", "injection", "call"
    ]
    before: Annotated[list[Said], Field(default_factory=list)]
    reply: str | None = None
    call: str | None = None
    criterion: str
    label: Literal["yes", "no", "continue"]

    @model_validator(mode="after")
    def _is_one(self) -> "Case":
        if (self.reply is None) == (self.call is None):
            raise ValueError("either a reply or a call is judged")
        return self

    def question(self) -> Question:
        """Return what the judge is asked."""
        return Question(
            turn=0,
            index=0,
            kind="reply" if self.call is None else "call",
            subject=self.reply or self.call or "",
            criterion=self.criterion,
            at_ns=len(self.before) + 2,
        )

    def facts(self) -> list[TimelineEvent]:
        """Return the facts of the call up to the moment."""
        facts: list[TimelineEvent] = []
        for at_ns, said in enumerate(self.before):
            if said.caller is not None:
                facts.append(CallerStartedSpeaking(at_ns=at_ns, turn=0, text=said.caller))
            elif said.agent is not None:
                facts.append(AgentSaid(at_ns=at_ns, text=said.agent, source=Source.TOLD))
        facts.append(CallerTurnStarted(at_ns=len(self.before) + 1, turn=0))
        if self.reply is not None:
            facts.append(AgentSaid(at_ns=len(self.before) + 2, text=self.reply, source=Source.TOLD))
        return facts


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the judge said of a case."""

    case: Case
    judgement: Judgement

    @property
    def agrees(self) -> bool:
        """Whether it said what the label says."""
        return self.judgement.answer == self.case.label

    @property
    def is_false_pass(self) -> bool:
        """Whether it let through what it should not."""
        return self.judgement.answer == "yes" and self.case.label != "yes"

    @property
    def is_false_fail(self) -> bool:
        """Whether it failed what is right."""
        return self.judgement.answer == "no" and self.case.label == "yes"


def load_cases(path: Path = LABELS) -> list[Case]:
    """Return the labelled cases of a file."""
    return TypeAdapter(list[Case]).validate_python(yaml.safe_load(path.read_text()))


async def ask_all(judge: Judge, cases: Sequence[Case], at_once: int) -> list[Answer]:
    """Ask about every case, so many at a time."""
    limiter = anyio.CapacityLimiter(at_once)
    answers: dict[int, Answer] = {}

    async def ask(index: int, case: Case) -> None:
        async with limiter:
            answers[index] = Answer(case, await judge.ask(case.question(), case.facts()))

    async with anyio.create_task_group() as tasks:
        for index, case in enumerate(cases):
            tasks.start_soon(ask, index, case)
    return [answers[index] for index in range(len(cases))]


def summarise(answers: Sequence[Answer], usage: JudgeUsage, json_file: Path | None) -> int:
    """Print the table and the claims, and return the exit code."""
    for answer in answers:
        if not answer.agrees:
            said, case = answer.judgement, answer.case
            print(f"{case.name}: {said.answer}, not {case.label}: {said.reason}", file=sys.stderr)
    counts = collections.Counter((a.case.label, a.judgement.answer) for a in answers)
    labels = ("yes", "no", "continue")
    rows = [[label, *(counts[label, said] for said in ANSWERS)] for label in labels]
    agreement = sum(a.agrees for a in answers) / len(answers)
    injected = [a.case.name for a in answers if a.case.kind == "injection" and a.is_false_pass]
    code = report(
        f"The judge {usage.model} and {len(answers)} cases labelled by hand",
        ("label", *(f"judged {said}" for said in ANSWERS)),
        rows,
        [
            Claim(f"agreement is at least {MIN_AGREEMENT:.0%} ({agreement:.1%})", agreement >= MIN_AGREEMENT),
            Claim(f"no injection passes ({', '.join(injected) or 'none did'})", not injected),
        ],
        raw={"answers": [a.judgement.model_dump() | {"label": a.case.label} for a in answers], "usage": dict(usage)},
        json_file=json_file,
    )
    right = collections.Counter(a.case.kind for a in answers if a.agrees)
    kinds = collections.Counter(a.case.kind for a in answers)
    others = [a for a in answers if a.case.label != "yes"]
    passes = [a for a in answers if a.case.label == "yes"]
    print(f"\nAgreement by kind: {', '.join(f'{kind} {right[kind]}/{count}' for kind, count in kinds.items())}.")
    print(f"False passes: {_share(sum(a.is_false_pass for a in others), len(others))}.")
    print(f"False fails: {_share(sum(a.is_false_fail for a in passes), len(passes))}.")
    tokens = "not told" if usage.input_tokens is None else f"{usage.input_tokens} in, {usage.output_tokens} out"
    cost = "not known (no prices in the settings)" if usage.cost_usd is None else f"{usage.cost_usd:.4f} USD"
    print(f"Tokens: {tokens}. Cost: {cost}.")
    return code


def _share(count: int, total: int) -> str:
    return f"{count} of {total} ({count / total:.1%})" if total else "0 of 0"


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--config", type=Path, metavar="FILE", help="the settings file")
    options.add_argument("--labels", type=Path, default=LABELS, metavar="FILE", help="other labelled cases")
    options.add_argument("--at-once", type=int, default=4, help="how many questions at a time")
    chosen = options.parse_args()
    try:
        judge = make_judge(load_settings(chosen.config).judge)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if judge is None:
        print(f"error: {NO_JUDGE}", file=sys.stderr)
        return 2
    answers = anyio.run(ask_all, judge, load_cases(chosen.labels), chosen.at_once)
    return summarise(answers, judge.usage(), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
