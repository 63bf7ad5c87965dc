"""Whether a secret key is the record's: with another one nothing that is kept encrypted could be opened."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy import delete, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from runner.errors import UsageError
from runner.records.database import Database
from runner.records.jobs import sealed_pipecat_data
from runner.records.schedules import seal_erased_rooms
from runner.records.secrets import Vault
from runner.records.statuses import OPEN_RUN
from runner.records.tables import Agent, CronJob, KeyCheck, Project, ResultRow, RunRow
from runner.records.webhooks import erase_webhooks

_NAME = "secret_key"
_KNOWN_TEXT = "the record's secret key"


@dataclass(frozen=True)
class Lost:
    """How many agents lost credentials with a secret key, projects and agents their webhooks, schedules their rooms;
    and how many runs wait that will fail, each with the reason.
    """

    agents: int = 0
    webhooks: int = 0
    schedules: int = 0
    runs: int = 0


async def check_secret_key(database: Database, vault: Vault) -> None:
    """See that a record, its tables up to date, is encrypted with this key.

    One that does not say so yet does from now on.

    Safe while other processes do the same: the first key counts.

    Raises:
        UsageError: It is encrypted with another one; says what to do.
    """
    async with database.session() as session:
        if await _kept(session) is None:
            async for sealed in _all_sealed(session):
                _see_that_it_opens(database, vault, sealed)
            await _keep(session, vault)
        kept = await _kept(session)
    if kept is not None:
        _see_that_it_opens(database, vault, kept)


async def take_secret_key(database: Database, vault: Vault) -> Lost:
    """Let a record be encrypted with this key from now on. What it does not open is erased, and can be given anew.

    What runs have is left: those that wait fail once a worker asks for them, and say why. Return what was lost.
    """
    agents = webhooks = schedules = 0
    async with database.session() as session:
        for agent in await session.scalars(select(Agent).order_by(Agent.id)):
            if not _opens(vault, agent.credentials):
                agent.credentials = None
                agents += 1
            webhooks += _erase_webhooks(vault, agent)
        for project in await session.scalars(select(Project).order_by(Project.id)):
            webhooks += _erase_webhooks(vault, project)
        for job in await session.scalars(select(CronJob).order_by(CronJob.id)):
            if not _opens(vault, job.rooms):
                job.rooms = seal_erased_rooms(vault)
                schedules += 1
        runs = await _unopened_runs(session, vault)
        await session.execute(delete(KeyCheck))
        await _keep(session, vault)
    return Lost(agents, webhooks, schedules, runs)


def _erase_webhooks(vault: Vault, row: Agent | Project) -> bool:
    if _opens(vault, row.webhook_secrets):
        return False
    erase_webhooks(row)
    return True


async def _unopened_runs(session: AsyncSession, vault: Vault) -> int:
    """Return how many runs have not ended, and need something that a key does not open."""
    launched = sealed_pipecat_data(ResultRow.run_settings)
    asked = (
        select(RunRow.room_token, launched)
        .join(ResultRow, ResultRow.id == RunRow.result_id)
        .where(RunRow.status.in_(OPEN_RUN))
        .where(or_(RunRow.room_token.is_not(None), launched.is_not(None)))
    )
    # A value within JSON can be null, which its type does not say.
    rows = cast(Sequence[tuple[bytes | None, str | None]], (await session.execute(asked)).all())
    return sum(
        not (_opens(vault, token) and _opens(vault, None if data is None else data.encode("ascii")))
        for token, data in rows
    )


async def _kept(session: AsyncSession) -> bytes | None:
    return await session.scalar(select(KeyCheck.sealed).where(KeyCheck.name == _NAME))


async def _keep(session: AsyncSession, vault: Vault) -> None:
    """Write down what this key can open, unless another process does: its transaction is waited for."""
    postgres = session.get_bind().dialect.name == "postgresql"
    new = (postgresql.insert if postgres else sqlite.insert)(KeyCheck)
    await session.execute(new.values(name=_NAME, sealed=vault.seal(_KNOWN_TEXT)).on_conflict_do_nothing())


async def _all_sealed(session: AsyncSession) -> AsyncIterator[bytes]:
    """Yield what there is that a record's key opens: every agent's, and the latest of what there is much of."""
    for credentials in await session.scalars(select(Agent.credentials).where(Agent.credentials.is_not(None))):
        if credentials is not None:
            yield credentials
    waiting = RunRow.status.in_(OPEN_RUN)
    secrets = select(RunRow.room_token).where(RunRow.room_token.is_not(None), waiting)
    if (token := await session.scalar(secrets.order_by(RunRow.id.desc()).limit(1))) is not None:
        yield token
    data = sealed_pipecat_data(ResultRow.run_settings)
    latest = select(data).where(data.is_not(None)).order_by(ResultRow.id.desc()).limit(1)
    if (launched := await session.scalar(latest)) is not None:
        yield str(launched).encode("ascii")


def _opens(vault: Vault, sealed: bytes | None) -> bool:
    """Return whether there is nothing to open, or a key opens it."""
    try:
        if sealed is not None:
            vault.open(sealed)
    except UsageError:
        return False
    return True


def _see_that_it_opens(database: Database, vault: Vault, sealed: bytes) -> None:
    if not _opens(vault, sealed):
        raise UsageError(
            f"{vault.source}: is not the secret key that {database.name} is encrypted with; use that one. If it is "
            "lost, `scenario-runner migrate --new-secret-key` takes this one, and erases what it does not open"
        )
