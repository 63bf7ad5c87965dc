"""Sessions of the page: whoever signed in with a key, until they sign out, it is too old, or the key is revoked."""

import secrets
from datetime import timedelta

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.records.keys import KeyIdentity, digest_of, identity_of
from runner.records.tables import ApiKey, PageSession, utc_now

SESSION_LASTS = timedelta(days=7)

MAX_TOKEN_CHARACTERS = 100

MAX_SESSIONS = 100
"""So many sessions a key may have; with the next one the oldest ends."""


async def begin_session(session: AsyncSession, key: KeyIdentity) -> str:
    """Begin a session of a user's key; return its token, which is kept nowhere."""
    token = secrets.token_urlsafe(32)
    now = utc_now()
    of_key = select(PageSession.id).where(PageSession.key_id == key.id).order_by(PageSession.id.desc())
    too_many = list(await session.scalars(of_key.offset(MAX_SESSIONS - 1)))
    await session.execute(delete(PageSession).where((PageSession.expires_at <= now) | PageSession.id.in_(too_many)))
    await session.execute(
        insert(PageSession).values(
            key_id=key.id, digest=digest_of(token), created_at=now, expires_at=now + SESSION_LASTS
        )
    )
    return token


async def find_session(session: AsyncSession, token: str) -> KeyIdentity | None:
    """Return whose session a token is of; None where there is none, or its key was revoked."""
    if len(token) > MAX_TOKEN_CHARACTERS:
        return None
    found = await session.scalar(
        select(ApiKey)
        .join(PageSession, PageSession.key_id == ApiKey.id)
        .where(
            # A digest of 256 random bits: how long looking it up takes says nothing about it.
            PageSession.digest == digest_of(token),
            PageSession.expires_at > utc_now(),
            ApiKey.revoked_at.is_(None),
        )
    )
    return None if found is None else identity_of(found)


async def end_session(session: AsyncSession, token: str) -> None:
    """End a session, if there is one."""
    await session.execute(delete(PageSession).where(PageSession.digest == digest_of(token)))
