"""Scenarios with every key of the language are played against the restaurant, and come to what the table says."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
import yaml

from bots.caller.event_names import EVENT_NAMES
from bots.timeline import TimelineEvent
from runner.calls.call import Call
from runner.calls.request import CallRequest
from runner.calls.run_file import Run
from runner.evaluation.verdicts import Judgement, JudgeUsage, Question, Verdict
from runner.rooms.open import RoomAddress
from runner.scenarios import evals
from runner.scenarios.typed import FileModel
from runner.sessions.local_agent import free_port, local_agent, reference_agent_command
from tests.calls import played
from tests.calls.played import TABLE, Expected, Place, Played
from tests.scenarios.models import models_of
from tests.simulated.call import Simulation

AT_ONCE = 4
"""Calls at a time: what two busy cores do without making the agent hear badly."""

A_ROOM_HAS_NOT = {"context", "image"}
OF_SERVICES = {"modality", "speech", "transcription"}
OF_SELECTION = {"tags"}
OF_MARKERS = {"marker", "marker_first", "markers", "text_after"}
"""The restaurant's LLM writes none."""

NOT_LOOKED_FOR = {"the expectation above it failed", "the turn was never reached"}


class RuleJudge:
    """Judges by the rule that Pipecat's judge goes by as well."""

    def __init__(self) -> None:
        self._asked = 0

    async def ask(self, question: Question, facts: Sequence[TimelineEvent]) -> Judgement:
        self._asked += 1
        answer = "yes" if played.satisfies(question.criterion, question.subject) else "no"
        return Judgement(question=question, answer=answer, reason="by the rule", confidence=1, model="rule")

    def usage(self) -> JudgeUsage:
        return JudgeUsage(model="rule", questions=self._asked)


async def play(prepared: Played, names: Sequence[str], folder: Path) -> dict[str, Run]:
    """Play scenarios, some at a time, against one restaurant; those of many turns first."""
    runs: dict[str, Run] = {}
    limit = anyio.CapacityLimiter(AT_ONCE)
    port = free_port()

    async def play_one(name: str, base_url: str) -> None:
        scenario = prepared.scenarios[name]
        request = CallRequest(scenario.playable(), RoomAddress(base_url), transcribe=False, notes=scenario.notes)
        async with limit:
            call = Call(request, prepared.settings, folder / name.replace("/", "-"), judge=RuleJudge())
            runs[name] = await call.make()

    async with (
        local_agent(reference_agent_command("restaurant", port), port) as base_url,
        anyio.create_task_group() as tasks,
    ):
        for name in sorted(names, key=lambda name: -len(prepared.scenarios[name].playable().turns)):
            tasks.start_soon(play_one, name, base_url)
    return runs


def places(run: Run, verdict: Verdict) -> frozenset[Place]:
    """Return the expectations that were looked for and came to a verdict."""
    looked_for = (v for v in run.expectations if v.reason not in NOT_LOOKED_FOR)
    return frozenset((v.turn, v.index) for v in looked_for if v.verdict is verdict)


def came_to(run: Run) -> Expected:
    return Expected(missed=places(run, Verdict.MISSED), not_observable=places(run, Verdict.NOT_OBSERVABLE))


def is_as(run: Run, expected: Expected) -> bool:
    came = came_to(run)
    return (run.success, came.missed, came.not_observable) == (
        expected.success,
        expected.missed,
        expected.not_observable,
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return anyio.run(played.prepare, tmp_path_factory.mktemp("played") / "scenarios")


def test_each_scenario_has_its_line_in_the_table(prepared: Played) -> None:
    assert list(prepared.scenarios) == list(TABLE)


# Seven of eight apart from the main suite: each is a whole call.
PARTED = [pytest.param(name, marks=[pytest.mark.slow] * bool(place % 8)) for place, name in enumerate(TABLE)]


@pytest.mark.parametrize("name", PARTED)
def test_a_scenario_comes_to_what_the_table_says(prepared: Played, tmp_path: Path, name: str) -> None:
    script = prepared.scenarios[name].playable()
    simulation = Simulation(seed=list(TABLE).index(name))
    run = simulation.play(script, tmp_path / "run", settings=prepared.settings, judge=RuleJudge())
    assert is_as(run, TABLE[name]), (run.success, came_to(run), run.detail)


@pytest.mark.webrtc
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.anyio
async def test_they_do_so_over_webrtc_as_well(tmp_path: Path) -> None:
    prepared = await played.prepare(tmp_path / "scenarios")
    runs = await play(prepared, list(TABLE), tmp_path / "runs")
    disturbed = [name for name, run in runs.items() if not is_as(run, TABLE[name])]
    # A line that was sent late by a busy machine, a word misheard: once more, and alone. What is wrong is so again.
    for name in disturbed:
        runs |= await play(prepared, [name], tmp_path / "again")
    others = {
        name: (run.success, came_to(run), run.detail) for name, run in runs.items() if not is_as(run, TABLE[name])
    }
    assert others == {}
    assert set(runs) == set(TABLE)


def test_they_hold_every_key_and_event_that_can_be_played() -> None:
    keys: set[str] = set()
    events: set[str] = set()

    def collect(node: yaml.Node) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                keys.add(key.value)
                if key.value == "event":
                    events.add(value.value)
                collect(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                collect(value)

    for path in played.FOLDER.rglob("*.yaml"):
        collect(yaml.compose(path.read_text()))
    known = set[str]().union(*(model.keys() for model in models_of(FileModel, evals)))
    playable = known - A_ROOM_HAS_NOT - OF_SERVICES - OF_SELECTION - OF_MARKERS
    assert playable - keys == set()
    assert EVENT_NAMES - events == {"bot_ready", "vad_user_started_speaking", "user_backchannel"}
