"""What a new record begins with."""

from typing import Any

import anyio
import pytest
from sqlalchemy import func, select

from runner.records.database import Database
from runner.records.seed import DEFAULT_PROJECT, DEMO_AGENT, DEMO_SCENARIO, seed
from runner.records.tables import Agent, Personality, Project, ScenarioRow
from runner.scenarios.cekura import read_pipecat_eval
from runner.settings import Settings

pytestmark = pytest.mark.anyio


async def plant(database: Database) -> None:
    async with database.session() as session:
        await seed(session)


async def counts(database: Database) -> list[int]:
    async with database.reading() as session:
        return [
            await session.scalar(select(func.count()).select_from(table)) or 0
            for table in (Project, Personality, Agent, ScenarioRow)
        ]


async def test_a_new_record_has_a_project_an_agent_and_a_scenario(seeded: Database) -> None:
    async with seeded.reading() as session:
        project = await session.get_one(Project, DEFAULT_PROJECT)
        agent = await session.get_one(Agent, DEMO_AGENT)
        scenario = await session.get_one(ScenarioRow, DEMO_SCENARIO)
    assert (project.id, project.name) == (1, "default")
    assert (agent.id, agent.name, agent.inbound, agent.session, agent.project_id) == (1, "restaurant", True, {}, 1)
    assert (scenario.id, scenario.name, scenario.agent_id, scenario.project_id) == (1, "Book a table", 1, 1)


async def test_the_scenario_can_be_played(seeded: Database) -> None:
    async with seeded.reading() as session:
        scenario = await session.get_one(ScenarioRow, DEMO_SCENARIO)
    assert scenario.pipecat_eval is not None
    assert len(read_pipecat_eval(scenario.pipecat_eval, Settings()).playable().turns) > 5


@pytest.mark.parametrize(
    ("number", "name", "language"), [(1, "Normal", "en"), (693, "Normal Male", "en"), (362, "Normal Spanish", "es")]
)
async def test_the_personalities_that_scripts_name_are_there(
    seeded: Database, number: int, name: str, language: str
) -> None:
    async with seeded.reading() as session:
        personality = await session.get_one(Personality, number)
        assert await session.get_one(Personality, 4710)
    assert (personality.name, personality.language, personality.project_id) == (name, language, None)


async def test_seeding_again_changes_nothing(seeded: Database) -> None:
    before = await counts(seeded)
    async with seeded.session() as session:
        (await session.get_one(Agent, DEMO_AGENT)).name = "mine"
        await session.delete(await session.get_one(ScenarioRow, DEMO_SCENARIO))
    await plant(seeded)
    assert await counts(seeded) == [*before[:3], 0]
    async with seeded.reading() as session:
        assert (await session.get_one(Agent, DEMO_AGENT)).name == "mine"


async def test_a_record_with_another_project_is_left_alone(database: Database) -> None:
    async with database.session() as session:
        session.add(Project(id=7, name="other"))
    await plant(database)
    assert await counts(database) == [1, 0, 0, 0]


async def test_those_who_seed_at_once_seed_once(database: Database, database_url: str) -> None:
    others = [Database(database_url) for _ in range(3)]
    async with anyio.create_task_group() as tasks:
        for each in (database, *others):
            tasks.start_soon(plant, each)
    assert await counts(database) == [1, 4, 1, 1]
    for other in others:
        await other.close()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (lambda: Project(name="next"), 2),
        (lambda: Personality(name="next"), 4711),
        (lambda: Agent(project_id=1, name="next"), 2),
        (lambda: ScenarioRow(project_id=1, name="next", scenario_type="instruction"), 2),
    ],
)
async def test_ids_go_on_from_those_of_the_seed(seeded: Database, row: Any, expected: int) -> None:
    async with seeded.session() as session:
        session.add(made := row())
    assert made.id == expected
