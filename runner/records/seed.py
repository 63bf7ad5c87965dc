"""What a new record begins with: a project, personalities, and the demo's agent and scenario."""

from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from runner.records.tables import Agent, Personality, Project, ScenarioRow
from runner.scenarios.examples import example_file

DEFAULT_PROJECT = 1
DEMO_AGENT = 1
DEMO_SCENARIO = 1
NORMAL = 1


def _personality(number: int, name: str, language: str, **more: str) -> dict[str, Any]:
    plain = {"background_noise": "off", "voice_model": "default", "interruption_level": "off", "speed": 1.0}
    return {"id": number, "name": name, "language": language, "data": {**plain, "end_call_enabled": True, **more}}


_PERSONALITIES = (
    _personality(NORMAL, "Normal", "en", gender="neutral"),
    # The ids that scenarios from Cekura name.
    _personality(693, "Normal Male", "en", gender="male", accent="American"),
    _personality(362, "Normal Spanish", "es", gender="neutral", accent="Spanish"),
    _personality(4710, "Normal Spanish and English", "multi", gender="neutral"),
)


async def seed(session: AsyncSession) -> None:
    """Fill a record that has no project; leave any other alone. Safe while other processes do the same.

    Project 1 is ``default``; agent 1 ``restaurant``, who takes calls; scenario 1 ``Book a table``, which it passes.
    """
    if await session.scalar(select(Project.id).limit(1)) is not None or not await _first(session):
        return
    await session.execute(insert(Personality), list(_PERSONALITIES))
    session.add(
        Agent(
            id=DEMO_AGENT,
            project_id=DEFAULT_PROJECT,
            name="restaurant",
            description="The reference agent that takes bookings: scenario-runner agent restaurant",
        )
    )
    await session.flush()
    session.add(
        ScenarioRow(
            id=DEMO_SCENARIO,
            project_id=DEFAULT_PROJECT,
            agent_id=DEMO_AGENT,
            personality_id=NORMAL,
            name="Book a table",
            scenario_type="pipecat_eval",
            tags=["demo"],
            pipecat_eval=example_file("booking").read_text(encoding="utf-8"),
            data={"scenario_language": "en"},
        )
    )
    await session.flush()
    await _count_on_from_here(session)


async def _first(session: AsyncSession) -> bool:
    """Make the project, unless another process does: its transaction is waited for."""
    postgres = session.get_bind().dialect.name == "postgresql"
    new = (postgresql.insert if postgres else sqlite.insert)(Project).values(id=DEFAULT_PROJECT, name="default")
    return await session.scalar(new.on_conflict_do_nothing().returning(Project.id)) is not None


async def _count_on_from_here(session: AsyncSession) -> None:
    """Let PostgreSQL give out the ids after those that were given here."""
    if session.get_bind().dialect.name != "postgresql":
        return
    for table in (Project, Personality, Agent, ScenarioRow):
        last = select(func.max(table.id)).scalar_subquery()
        await session.execute(select(func.setval(func.pg_get_serial_sequence(table.__tablename__, "id"), last)))
