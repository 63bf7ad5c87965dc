"""Readings that are shared by all who ask for the same at the same moment."""

import anyio
import pytest

from runner.records.sharing import Sharing

pytestmark = pytest.mark.anyio


class Record:
    """Something that changes, and takes its time to be read."""

    def __init__(self) -> None:
        self.value = 0
        self.readings = 0
        self.at_once = 0
        self.let_go = anyio.Event()

    async def read(self) -> int:
        self.readings += 1
        self.at_once += 1
        assert self.at_once == 1, "two read the same at the same time"
        seen = self.value
        try:
            await self.let_go.wait()
        finally:
            self.at_once -= 1
        return seen


async def settled() -> None:
    """Let everything go on that can."""
    await anyio.wait_all_tasks_blocked()


async def test_a_reading_is_shared_by_those_who_came_before_it_began() -> None:
    record, sharing = Record(), Sharing()
    got: list[tuple[int, int]] = []

    async def ask() -> None:
        asked_at = record.value
        got.append((asked_at, await sharing.read("one", record.read)))

    async with anyio.create_task_group() as tasks:
        for value in (0, 1, 2):
            record.value = value
            for _ in range(50):
                tasks.start_soon(ask)
            await settled()
        assert record.readings == 1
        record.let_go.set()
    assert record.readings == 2
    assert len(got) == 150 and all(asked_at <= seen for asked_at, seen in got)
    assert {seen for asked_at, seen in got if asked_at > 0} == {2}


async def test_what_differs_is_not_shared() -> None:
    sharing = Sharing()
    got: dict[str, str] = {}

    async def ask(key: str) -> None:
        async def read() -> str:
            await anyio.lowlevel.checkpoint()
            return key

        got[key] = await sharing.read(key, read)

    async with anyio.create_task_group() as tasks:
        for key in "abc":
            tasks.start_soon(ask, key)
    assert got == {key: key for key in "abc"}


async def test_an_error_reaches_all_who_share_it_and_nobody_after() -> None:
    record, sharing = Record(), Sharing()
    failed: list[str] = []

    async def fail() -> int:
        await record.read()
        raise LookupError("no")

    async def ask() -> None:
        try:
            await sharing.read("one", fail)
        except LookupError:
            failed.append("one")

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
        await settled()
        record.let_go.set()
    assert len(failed) == 5 and record.readings == 2
    assert await sharing.read("one", record.read) == 0


async def test_when_whoever_was_to_read_goes_away_another_one_reads() -> None:
    record, sharing = Record(), Sharing()
    got: list[int] = []
    first, second = anyio.CancelScope(), anyio.CancelScope()

    async def ask(scope: anyio.CancelScope | None = None) -> None:
        with scope or anyio.CancelScope():
            got.append(await sharing.read("one", record.read))

    async with anyio.create_task_group() as tasks:
        # One reads, one waits to read, and three wait for what that one reads.
        for scope in (first, second, None, None, None):
            tasks.start_soon(ask, scope)
            await settled()
        second.cancel()
        await settled()
        first.cancel()
        await settled()
        record.let_go.set()
    assert got == [0, 0, 0] and record.readings == 2
