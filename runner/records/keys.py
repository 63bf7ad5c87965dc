"""Keys: what clients and workers show to be let in."""

import hashlib
import hmac
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from runner.errors import UsageError
from runner.records.database import Database
from runner.records.tables import ApiKey, Project, utc_now

PREFIX_LENGTH = 12
"""So much of a key is kept in clear, to tell keys apart."""

_RANDOM_BYTES = 40
"""Of which 32 remain unknown to who sees the prefix."""
_USE_NOTED_EVERY = timedelta(minutes=1)
_MAX_LENGTH = 200
_LARGEST_ID = 2**63 - 1
"""Databases refuse larger numbers."""

_being_noted: set[tuple[str, int]] = set()
"""The keys whose use is just being noted, by their databases: of many who show the same at once, one does."""


class KeyKind(StrEnum):
    """What a key is for."""

    USER = "user"
    """Everything in its project."""
    WORKER = "worker"
    """Taking runs and reporting on them, whichever project they are of."""


_BEGINNINGS = {KeyKind.USER: "psr_", KeyKind.WORKER: "psw_"}


@dataclass(frozen=True)
class KeyIdentity:
    """Who presented a key: whose project it is scoped to, None for a worker's, and what it was called when made."""

    id: int
    kind: KeyKind
    project_id: int | None
    name: str


async def create_key(session: AsyncSession, kind: KeyKind, *, project_id: int | None, name: str) -> str:
    """Make a key and return its text, which nobody can be told again.

    Raises:
        UsageError: There is no such project, a user's key is given none, or the name is empty or too long.
    """
    name = name.strip()
    if not 0 < len(name) <= 200:
        raise UsageError("key: needs a name of up to 200 characters")
    if (kind is KeyKind.USER) != (project_id is not None):
        raise UsageError("key: a user's key is of one project, and a worker's of none")
    if project_id is not None and (project_id > _LARGEST_ID or await session.get(Project, project_id) is None):
        raise UsageError(f"key: there is no project {project_id}; `scenario-runner projects list` shows them")
    text = _BEGINNINGS[kind] + secrets.token_urlsafe(_RANDOM_BYTES)
    session.add(
        ApiKey(kind=kind, project_id=project_id, name=name, prefix=text[:PREFIX_LENGTH], digest=digest_of(text))
    )
    await session.flush()
    return text


async def find_key(session: AsyncSession, presented: str) -> KeyIdentity | None:
    """Return whose key this is; None where it is nobody's or revoked. That it was used is not noted."""
    row = await session.run_sync(_find, presented)
    return None if row is None else identity_of(row)


async def identify(database: Database, presented: str) -> KeyIdentity | None:
    """Return the same, and note that it was used, at most once a minute."""
    try:
        row = await database.look(lambda session: _find(session, presented), shared=("key", presented))
    except DBAPIError:
        # Whoever looks may be the one who finds out that the server was away.
        async with database.reading() as session:
            row = await session.run_sync(_find, presented)
    if row is None:
        return None
    noting = (database.url, row.id)
    is_due = row.last_used_at is None or utc_now() - row.last_used_at >= _USE_NOTED_EVERY
    if is_due and noting not in _being_noted:
        _being_noted.add(noting)
        try:
            async with database.session() as session:
                await session.execute(update(ApiKey).where(ApiKey.id == row.id).values(last_used_at=utc_now()))
        finally:
            _being_noted.discard(noting)
    return identity_of(row)


async def which_exist(database: Database, digests: Collection[str]) -> set[str]:
    """Return which of these are digests of keys that are not revoked."""
    async with database.reading() as session:
        there = select(ApiKey.digest).where(ApiKey.digest.in_(list(digests)), ApiKey.revoked_at.is_(None))
        return set((await session.scalars(there)).all())


async def list_keys(session: AsyncSession) -> Sequence[ApiKey]:
    """Return every key, revoked ones too, oldest first."""
    return (await session.scalars(select(ApiKey).order_by(ApiKey.id))).all()


async def revoke_key(session: AsyncSession, id_or_prefix: str) -> bool:
    """Revoke a key, by its id, its prefix or itself: it is refused from now on. Return whether there is such a key.

    One that was revoked before stays so since then.

    Raises:
        UsageError: Several keys begin so.
    """
    given = id_or_prefix.strip()
    if given.isascii() and given.isdigit():
        # No id has more digits; databases refuse larger numbers.
        condition = ApiKey.id == int(given[:18])
    elif len(given) > PREFIX_LENGTH:
        condition = ApiKey.digest == digest_of(given)
    else:
        condition = ApiKey.prefix == given
    ids = (await session.scalars(select(ApiKey.id).where(condition))).all()
    if len(ids) > 1:
        raise UsageError(f"key: {len(ids)} keys begin with {given}; give the id of one ({', '.join(map(str, ids))})")
    if not ids:
        return False
    await session.execute(
        update(ApiKey).where(ApiKey.id == ids[0], ApiKey.revoked_at.is_(None)).values(revoked_at=utc_now())
    )
    return True


def could_be_key(presented: str) -> bool:
    """Return whether this looks like a key. What does not is nobody's, and need not be looked for."""
    return presented.isascii() and len(presented) <= _MAX_LENGTH and presented.startswith(tuple(_BEGINNINGS.values()))


def _find(session: Session, presented: str) -> ApiKey | None:
    if not could_be_key(presented):
        return None
    digest = digest_of(presented)
    row = session.scalar(select(ApiKey).where(ApiKey.digest == digest, ApiKey.revoked_at.is_(None)))
    return row if row is not None and hmac.compare_digest(row.digest, digest) else None


def identity_of(row: ApiKey) -> KeyIdentity:
    """Return who presented a key."""
    return KeyIdentity(row.id, KeyKind(row.kind), row.project_id, row.name)


def digest_of(text: str) -> str:
    """Return what is kept of a key. A plain digest is enough: there is nothing to guess in 320 random bits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
