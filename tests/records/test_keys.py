"""Keys of the API."""

import string
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from runner.errors import UsageError
from runner.records import keys
from runner.records.database import Database
from runner.records.keys import KeyIdentity, KeyKind, create_key, find_key, identify, list_keys, revoke_key
from runner.records.seed import seed
from runner.records.tables import ApiKey, utc_now
from tests.records.away import Away, away

__all__ = ["away"]

pytestmark = pytest.mark.anyio


async def make(database: Database, kind: KeyKind = KeyKind.USER, name: str = "ci") -> str:
    async with database.session() as session:
        return await create_key(session, kind, project_id=1 if kind is KeyKind.USER else None, name=name)


async def find(database: Database, presented: str) -> KeyIdentity | None:
    async with database.reading() as session:
        return await find_key(session, presented)


async def test_a_key_is_found_again(seeded: Database) -> None:
    user, worker = await make(seeded), await make(seeded, KeyKind.WORKER, "one")
    assert user.startswith("psr_")
    assert worker.startswith("psw_")
    assert await find(seeded, user) == KeyIdentity(1, KeyKind.USER, 1, "ci")
    assert await find(seeded, worker) == KeyIdentity(2, KeyKind.WORKER, None, "one")


async def test_a_key_has_256_bits_beyond_what_a_list_shows(seeded: Database) -> None:
    key = await make(seeded)
    unseen = key[keys.PREFIX_LENGTH :]
    assert set(unseen) <= {*string.ascii_letters, *string.digits, "-", "_"}
    assert len(unseen) * 6 - 8 >= 256
    assert len({await make(seeded) for _ in range(5)}) == 5


async def test_the_text_of_a_key_is_nowhere_in_the_record(seeded: Database) -> None:
    key = await make(seeded)
    async with seeded.reading() as session:
        (row,) = (await session.execute(text("SELECT * FROM api_keys"))).all()
    assert key[keys.PREFIX_LENGTH :] not in repr(row)
    assert key[: keys.PREFIX_LENGTH] in repr(row)


@pytest.mark.parametrize(
    "presented",
    [
        "",
        "psr_",
        "psr_" + "A" * 54,
        "psr_" + "é" * 54,
        "psr_\ud800",
        "psr_\x00",
        "psr_" + "A" * 1_000_000,
        "' OR 1=1 --",
    ],
)
async def test_what_is_no_key_is_nobodys(seeded: Database, presented: str) -> None:
    await make(seeded)
    assert await find(seeded, presented) is None
    assert await identify(seeded, presented) is None


async def test_what_is_almost_a_key_is_nobodys(seeded: Database) -> None:
    key = await make(seeded)
    for other in ("psw_" + key[4:], key.swapcase(), key[:-1], key + "A"):
        assert await find(seeded, other) is None


async def test_a_digest_is_compared_as_a_whole(seeded: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return False

    key = await make(seeded)
    monkeypatch.setattr("runner.records.keys.hmac.compare_digest", compare)
    assert await find(seeded, key) is None
    assert len(compared) == 1


@pytest.mark.parametrize("by", ["id", "prefix", "key"])
async def test_a_revoked_key_opens_nothing_and_stays_so(seeded: Database, by: str) -> None:
    key, other = await make(seeded), await make(seeded)
    given = {"id": "1", "prefix": key[: keys.PREFIX_LENGTH], "key": key}[by]
    times = []
    for _ in range(2):
        async with seeded.session() as session:
            assert await revoke_key(session, given)
        async with seeded.reading() as session:
            times.append((await list_keys(session))[0].revoked_at)
    assert times[0] is not None and times[0] == times[1]
    assert await find(seeded, key) is None is await identify(seeded, key)
    assert await find(seeded, other) is not None


@pytest.mark.parametrize("given", ["2", "psr_", "", "9" * 40, "psr_" + "A" * 54, "%"])
async def test_what_is_not_there_is_not_revoked(seeded: Database, given: str) -> None:
    key = await make(seeded)
    async with seeded.session() as session:
        assert not await revoke_key(session, given)
    assert await find(seeded, key) is not None


async def test_a_prefix_of_several_keys_revokes_none(seeded: Database) -> None:
    await make(seeded)
    await make(seeded)
    async with seeded.session() as session:
        await session.execute(update(ApiKey).values(prefix="psr_AAAAAAAA"))
    with pytest.raises(UsageError, match=r"give the id of one \(1, 2\)"):
        async with seeded.session() as session:
            await revoke_key(session, "psr_AAAAAAAA")


async def test_use_is_noted_once_a_minute(seeded: Database) -> None:
    key = await make(seeded)

    async def use() -> object:
        assert await identify(seeded, key)
        async with seeded.reading() as session:
            return (await list_keys(session))[0].last_used_at

    first = await use()
    assert first is not None
    assert await use() == first
    async with seeded.session() as session:
        await session.execute(update(ApiKey).values(last_used_at=utc_now() - timedelta(seconds=61)))
    assert await use() > first  # pyright: ignore[reportOperatorIssue]


async def test_the_list_shows_every_key(seeded: Database) -> None:
    key = await make(seeded)
    await make(seeded, KeyKind.WORKER, "one")
    async with seeded.reading() as session:
        user, worker = await list_keys(session)
    assert (user.id, user.kind, user.project_id, user.name) == (1, KeyKind.USER, 1, "ci")
    assert (worker.id, worker.kind, worker.project_id, worker.name) == (2, KeyKind.WORKER, None, "one")
    assert user.prefix == key[: keys.PREFIX_LENGTH]


@pytest.mark.parametrize(
    ("kind", "project_id", "name", "reason"),
    [
        (KeyKind.USER, 7, "ci", "no project 7"),
        (KeyKind.USER, None, "ci", "of one project"),
        (KeyKind.WORKER, 1, "ci", "of none"),
        (KeyKind.USER, 1, "  ", "name"),
        (KeyKind.USER, 1, "x" * 201, "name"),
    ],
)
async def test_a_wrong_key_is_not_made(
    seeded: Database, kind: KeyKind, project_id: int | None, name: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        async with seeded.session() as session:
            await create_key(session, kind, project_id=project_id, name=name)
    async with seeded.reading() as session:
        assert not await list_keys(session)


async def test_a_key_shown_by_many_at_once_is_looked_up_once(
    seeded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = [await make(seeded) for _ in range(2)]
    looks: list[Any] = []
    look = seeded.look

    async def counted(work: Callable[[Session], Any], **how: Any) -> Any:
        def counting(session: Session) -> Any:
            looks.append(work(session))
            return looks[-1]

        return await look(counting, **how)

    monkeypatch.setattr(seeded, "look", counted)
    found: dict[str, set[KeyIdentity | None]] = {key: set() for key in shown}

    async def show(key: str) -> None:
        found[key].add(await identify(seeded, key))

    async with anyio.create_task_group() as tasks:
        for key in shown * 20:
            tasks.start_soon(show, key)
    assert [len(identities) for identities in found.values()] == [1, 1]
    assert found[shown[0]] != found[shown[1]] and {None} not in found.values()
    assert len(looks) == 4, "of each of the two the first one looks, and one for all others"
    await identify(seeded, shown[0])
    assert len(looks) == 5


async def test_of_many_uses_of_a_key_at_once_one_is_noted(seeded: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await make(seeded)
    session = seeded.session
    noting = 0
    enough = anyio.Event()
    found: list[KeyIdentity | None] = []

    @asynccontextmanager
    async def slowly() -> AsyncGenerator[AsyncSession]:
        nonlocal noting
        noting += 1
        await enough.wait()
        async with session() as opened:
            yield opened

    async def show() -> None:
        found.append(await identify(seeded, key))

    monkeypatch.setattr(seeded, "session", slowly)
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(show)
        with anyio.fail_after(5):
            while len(found) < 19:
                await anyio.sleep(0.005)
        enough.set()
    assert noting == 1 and len(found) == 20 and None not in found
    async with seeded.reading() as reading:
        assert None not in (await reading.scalars(select(ApiKey.last_used_at))).all()


async def test_a_key_is_found_after_the_server_was_away(away: Away) -> None:
    async with away.database.session() as session:
        await seed(session)
    key = await make(away.database)
    assert await identify(away.database, key) is not None
    await away.cut()
    assert await identify(away.database, key) is not None
