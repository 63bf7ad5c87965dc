"""Watching a call as it happens."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from unittest.mock import AsyncMock
from weakref import WeakKeyDictionary

import pytest
from sqlalchemy import update

import runner.api.routes.events
from runner.api.auth import SHARE_HEADER, Reading
from runner.api.routes.events import LiveTimelines, live_timelines, timeline_of
from runner.api.services import Services
from runner.calls.repeating import earlier_attempt
from runner.records.keys import revoke_key
from runner.records.results import share
from runner.records.tables import RunRow, ShareLink, utc_now
from tests.api.conftest import Client
from tests.api.telling import (
    RUNS,
    WORKER,
    begun,
    claimed,
    put,
    release,
    report,
    run_launched,
    services_of,
)
from tests.records.outcomes import no_call, outcome, undecided

pytestmark = pytest.mark.anyio


def messages(text: str) -> list[tuple[str, Any]]:
    """Return the messages of a stream of server-sent events, as ``(event, data)``."""
    found: list[tuple[str, Any]] = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "data" in fields:
            found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


_happened: WeakKeyDictionary[Client, dict[tuple[int, int, int], list[Any]]] = WeakKeyDictionary()
"""What happened in the calls of each worker, by run, attempt and call."""


async def told(worker: Client, run_id: int, *events: dict[str, Any], attempt: int = 1, call: int = 1) -> None:
    """Let events happen in a call, and its worker tell them as far as somebody wants to know."""
    calls = _happened.setdefault(worker, {})
    calls.setdefault((run_id, attempt, call), []).extend(events)
    for (of_run, of_attempt, number), happened in calls.items():
        if not services_of(worker).dispatcher.is_watched(of_run) or (of_run, of_attempt, number + 1) in calls:
            continue
        # Which one is wanted first is known from an answer alone.
        first = 0
        while first is not None:
            part = happened[first : first + 1]
            body = {"attempt": of_attempt, "call": number, "first": first, "events": part}
            answer = await worker.post(f"{WORKER}/{of_run}/events", json=body)
            if answer.status_code == 409:
                break
            assert answer.status_code == 200, answer.text
            after = answer.json()["next"]
            first = after if after is not None and after < len(happened) else None


def event(number: int) -> dict[str, Any]:
    return {"type": "agent_turn_ended", "at_ns": number}


class Watcher:
    """Collects what a watcher of a run is sent, as it comes."""

    def __init__(self, air: "OnAir", last_event_id: str | None = None):
        self._air = air
        self.seen: list[tuple[str, Any]] = []
        self.last_id: str | None = None
        holds = AsyncMock(return_value=True)
        self._stream = timeline_of(air.services, air.timelines, Reading(1), holds, air.run_id, last_event_id)
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async for message in self._stream:
            self.seen.append((message.event or "message", json.loads(str(message.data))))
            self.last_id = message.id or self.last_id

    @property
    def numbers(self) -> list[int]:
        return [data["at_ns"] for kind, data in self.seen if kind == "message"]

    async def sees(self, *numbers: int) -> None:
        """Wait until these events were seen, and no others."""
        async with asyncio.timeout(5):
            while self.numbers != list(numbers):
                await told(self._air.worker, self._air.run_id)
                await asyncio.sleep(0.005)

    async def leave(self) -> str | None:
        """Watch no more; return the id of the last event."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._stream.aclose()
        return self.last_id

    async def end(self) -> Any:
        """Wait for the end, and return the last message."""
        async with asyncio.timeout(5):
            await self._task
        return self.seen[-1]


@dataclass
class OnAir:
    """A run that a worker has begun, and whoever watches it."""

    run_id: int
    worker: Client
    services: Services
    timelines: LiveTimelines

    def watched(self, last_event_id: str | None = None) -> Watcher:
        return Watcher(self, last_event_id)

    async def tells(self, *numbers: int, **of: int) -> None:
        await told(self.worker, self.run_id, *map(event, numbers), **of)

    async def keeps(self, *numbers: int, end: str = "") -> None:
        """Put these events into the timeline that is kept."""
        lines = "".join(json.dumps(event(number)) + "\n" for number in numbers) + end
        assert (await put(self.worker, self.run_id, "timeline.jsonl", lines.encode())).status_code == 200

    async def ends(self, what: Any = None, attempt: int = 1) -> None:
        await report(self.worker, self.run_id, what or outcome(), attempt)


@pytest.fixture
async def air(client: Client, worker: Client, services: Services, app: Any) -> OnAir:
    return OnAir(await begun(client, worker), worker, services, live_timelines(app))


async def test_a_watcher_sees_what_was_and_then_each_event_as_it_comes(air: OnAir) -> None:
    early = air.watched()
    await air.tells(1, 2)
    await early.sees(1, 2)
    late, knowing = air.watched(), air.watched("1")
    await late.sees(1, 2)
    await knowing.sees(2)
    await air.tells(3)
    for watcher in (early, late):
        await watcher.sees(1, 2, 3)
    await air.tells(4)
    await air.ends()
    for watcher in (early, late):
        kind, end = await watcher.end()
        assert kind == "end" and (end["status"], end["success"]) == ("completed", True)
        assert watcher.numbers == [1, 2, 3, 4]
    await knowing.end()
    assert knowing.numbers == [2, 3, 4]


async def test_a_run_that_has_ended_is_told_from_what_is_kept_of_it(air: OnAir, client: Client) -> None:
    await air.tells(1)
    await air.keeps(1, 2, 3, end='{"cut')
    await air.ends(no_call())
    answer = await client.get(f"{RUNS}/{air.run_id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, (kind, end) = messages(answer.text)
    assert [data["at_ns"] for _, data in events] == [1, 2, 3]
    assert kind == "end" and (end["status"], end["cause"]) == ("failed", "room")
    again = await client.get(f"{RUNS}/{air.run_id}/events/", headers={"Last-Event-ID": "2"})
    assert [data.get("at_ns") for _, data in messages(again.text)] == [3, None]


async def test_over_http_the_stream_ends_with_its_run(air: OnAir, client: Client) -> None:
    await air.tells(1)
    watching = asyncio.create_task(client.get(f"{RUNS}/{air.run_id}/events"))
    await asyncio.sleep(0.1)
    assert not watching.done()
    await air.ends()
    async with asyncio.timeout(5):
        kinds = [kind for kind, _ in messages((await watching).text)]
    assert kinds in (["message", "end"], ["end"])


async def test_a_run_that_ends_without_a_word_ends_the_stream_too(
    client: Client, worker: Client, services: Services, app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.api.routes.events, "LOOK_EVERY_S", 0.05)
    (run_id,) = await run_launched(client)
    watcher = OnAir(run_id, worker, services, live_timelines(app)).watched()
    await client.post(f"{RUNS}/{run_id}/end_call")
    assert (await watcher.end())[1]["status"] == "cancelled"


async def test_who_may_not_read_any_more_watches_no_more(
    client: Client,
    anonymous: Client,
    services: Services,
    user_key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner.api.routes.events, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(runner.api.routes.events, "CHECK_EVERY_S", 0.0)
    (run_id,) = await run_launched(client)
    async with services.database.session() as session:
        result_id = (await session.get_one(RunRow, run_id)).result_id
        link = {SHARE_HEADER: await share(session, result_id, None)}
    by_key = asyncio.create_task(client.get(f"{RUNS}/{run_id}/events"))
    by_link = asyncio.create_task(anonymous.get(f"{RUNS}/{run_id}/events", headers=link))
    await asyncio.sleep(0.2)
    assert not by_key.done() and not by_link.done()
    async with services.database.session() as session:
        await revoke_key(session, user_key)
        await session.execute(update(ShareLink).values(expires_at=utc_now()))
    async with asyncio.timeout(5):
        assert ((await by_key).text, (await by_link).text) == ("", "")


async def test_another_attempt_begins_anew(air: OnAir, client: Client) -> None:
    watcher = air.watched()
    await air.tells(1)
    await watcher.sees(1)
    assert (await release(air.worker, air.run_id)).json()["waits_again"]
    await claimed(air.worker, air.run_id, 2)
    await air.tells(5, attempt=2)
    await watcher.sees(1, 5)
    assert ("restart", {"attempt": 2}) in watcher.seen
    await air.ends(attempt=2)
    await watcher.end()


async def test_who_returns_in_another_attempt_sees_it_from_the_start(air: OnAir) -> None:
    watcher = air.watched()
    await air.tells(1, 2)
    await watcher.sees(1, 2)
    first = await watcher.leave()
    await release(air.worker, air.run_id)
    await claimed(air.worker, air.run_id, 2)
    back = air.watched(first)
    await air.tells(3, 4, attempt=2)
    await back.sees(3, 4)
    assert back.seen[0] == ("restart", {"attempt": 2})
    again = air.watched(await back.leave())
    await air.tells(5, attempt=2)
    await again.sees(5)
    await air.ends(attempt=2)
    await again.end()
    assert [kind for kind, _ in again.seen] == ["message", "end"]
    assert air.timelines.live(air.run_id) is None


async def test_untold_last_events_come_from_what_is_kept(air: OnAir) -> None:
    watcher = air.watched()
    await air.tells(1)
    await watcher.sees(1)
    await air.keeps(1, 2, 3)
    await air.ends()
    await watcher.end()
    assert watcher.numbers == [1, 2, 3]


async def test_a_call_made_again_is_told_from_its_own_beginning(air: OnAir, client: Client) -> None:
    watcher = air.watched()
    await air.tells(1, 2, 3)
    await watcher.sees(1, 2, 3)
    cut_off = watcher.last_id
    await air.tells(4, call=2)
    await watcher.sees(1, 2, 3, 4)
    in_second = watcher.last_id
    await air.keeps(4, 5)
    await air.ends(outcome(earlier_attempts=[earlier_attempt(undecided(), "network")]))
    await watcher.end()
    assert watcher.numbers == [1, 2, 3, 4, 5]
    assert [kind for kind, _ in watcher.seen].count("restart") == 1
    for known, kinds in ((cut_off, ["restart", "message", "message", "end"]), (in_second, ["message", "end"])):
        again = await client.get(f"{RUNS}/{air.run_id}/events", headers={"Last-Event-ID": str(known)})
        assert [kind for kind, _ in messages(again.text)] == kinds


async def test_nothing_is_wanted_of_a_call_that_nobody_watches(air: OnAir) -> None:
    run_id, timelines = air.run_id, air.timelines
    with timelines.watched(run_id), timelines.watched(run_id):
        assert timelines.wanted_from(run_id, 1) == 0
    await air.tells(1)
    timelines.post(run_id, 1, [event(1)])
    assert timelines.wanted_from(run_id, 1) is None and timelines.live(run_id) is None


def test_events_told_twice_count_once_and_gaps_keep_their_place() -> None:
    timelines = LiveTimelines()
    with timelines.watched(1):
        timelines.post(1, 1, [event(0), event(1)])
        timelines.post(1, 1, [event(1), event(2)], first=1)
        live = timelines.live(1)
        assert live is not None and [json.loads(text)["at_ns"] for _, text in live.after(0)] == [0, 1, 2]
        assert timelines.wanted_from(1, 1) == 3 and timelines.wanted_from(1, 2) == 0
        timelines.post(1, 1, [event(7)], first=7)
        assert [(place, json.loads(text)["at_ns"]) for place, text in live.after(3)] == [(8, 7)]


def test_events_under_way_while_nobody_watches_leave_no_gap() -> None:
    timelines = LiveTimelines()
    with timelines.watched(1):
        timelines.post(1, 1, [event(0), event(1)])
    timelines.post(1, 1, [event(2)], first=2)
    with timelines.watched(1):
        timelines.post(1, 1, [event(3)], first=3)
        live = timelines.live(1)
        assert live is not None and [place for place, _ in live.after(0)] == [1, 2, 3, 4]
        assert timelines.wanted_from(1, 1) == 4


async def test_of_who_leaves_while_nothing_happens_nothing_is_left() -> None:
    timelines = LiveTimelines()
    watching = asyncio.create_task(timelines.change(1, timeout_s=30))
    await asyncio.sleep(0)
    watching.cancel()
    await asyncio.wait([watching])
    assert not timelines._changes


def test_of_a_long_call_the_beginning_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.api.routes.events, "MAX_RUN_BYTES", 200)
    monkeypatch.setattr(runner.api.routes.events, "MAX_LIVE_RUNS", 2)
    timelines = LiveTimelines()
    with timelines.watched(1), timelines.watched(2), timelines.watched(3):
        for number in range(100):
            timelines.post(1, 1, [event(number)], first=number)
        live = timelines.live(1)
        assert live is not None and live.size <= 200
        assert live.after(0)[-1][0] == 100
        assert live.after(99) == [(100, json.dumps(event(99), separators=(",", ":")))]
        assert live.after(100) == []
        timelines.post(2, 1, [event(1)])
        timelines.post(3, 1, [event(1)])
        assert timelines.live(1) is None and timelines.live(3) is not None
        timelines.post(3, 0, [event(9)])
        assert len(timelines.live(3).after(0)) == 1  # type: ignore[union-attr]
