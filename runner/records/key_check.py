"""Whether a secret key is the record's: with another one nothing that is kept encrypted could be opened."""

from collections.abc import AsyncIterator

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from runner.errors import UsageError
from runner.records.database import Database
from runner.records.jobs import sealed_pipecat_data
from runner.records.secrets import Vault
from runner.records.statuses import OPEN_RUN
from runner.records.tables import Agent, KeyCheck, ResultRow, RunRow

_NAME = "secret_key"
_KNOWN_TEXT = "the record's secret key"


async def check_secret_key(database: Database, vault: Vault) -> None:
    """See that a record is encrypted with this key. One that does not say so yet does from now on.

    Safe while other processes do the same: the first key counts.

    Args:
        database: The record, with its tables up to date.
        vault: Has the key.

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


async def take_secret_key(database: Database, vault: Vault) -> int:
    """Let a record be encrypted with this key from now on. Credentials of agents that it does not open are erased.

    Runs that wait with secrets it does not open fail, each with the reason.

    Args:
        database: The record, with its tables up to date.
        vault: Has the key.

    Returns:
        How many agents' credentials were erased.
    """
    erased = 0
    async with database.session() as session:
        for agent in await session.scalars(select(Agent).where(Agent.credentials.is_not(None)).order_by(Agent.id)):
            if agent.credentials is not None and not _opens(vault, agent.credentials):
                agent.credentials = None
                erased += 1
        await session.execute(delete(KeyCheck))
        await _keep(session, vault)
    return erased


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
    waiting = RunRow.status.in_([status.value for status in OPEN_RUN])
    secrets = select(RunRow.room_token).where(RunRow.room_token.is_not(None), waiting)
    if (token := await session.scalar(secrets.order_by(RunRow.id.desc()).limit(1))) is not None:
        yield token
    data = sealed_pipecat_data(ResultRow.run_settings)
    latest = select(data).where(data.is_not(None)).order_by(ResultRow.id.desc()).limit(1)
    if (launched := await session.scalar(latest)) is not None:
        yield str(launched).encode("ascii")


def _opens(vault: Vault, sealed: bytes) -> bool:
    try:
        vault.open(sealed)
    except UsageError:
        return False
    return True


def _see_that_it_opens(database: Database, vault: Vault, sealed: bytes) -> None:
    if not _opens(vault, sealed):
        raise UsageError(
            f"{vault.source}: is not the secret key that {database.name} is encrypted with; use that one. If it is "
            "lost, `scenario-runner migrate --new-secret-key` takes this one, and erases the agents' credentials"
        )
