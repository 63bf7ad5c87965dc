"""Calls as they happen, as pages show them."""

import asyncio
import io
import re
import wave
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import StreamingResponse

from bots.timeline import EVENT_ADAPTER
from runner.api.auth import Reading
from runner.api.errors import Unavailable
from runner.api.live_sound import KEPT_PIECES, MAX_LISTENERS, live_sounds
from runner.api.routes.events import live_timelines
from runner.api.services import Services
from runner.calls.recording import wav_header
from runner.protocol.messages import MAX_SOUND_BYTES
from runner.records.keys import find_key, revoke_key
from runner.web import live
from runner.web.visits import SESSION_COOKIE, Visit
from tests.api.conftest import client_of, other_project
from tests.api.telling import claimed, report, run_launched
from tests.api.test_events import told
from tests.api.test_results import ended
from tests.records.outcomes import agent_failed, no_call, outcome, undecided
from tests.web.conftest import sign_in

pytestmark = pytest.mark.anyio

S = 1_000_000_000
SAID = {"type": "agent_said", "at_ns": 2 * S, "text": "<b>Hello</b>", "source": "told", "started_ns": S}
HEARD = {**SAID, "source": "heard", "text": "hello", "at_ns": 9 * S}
LINE = {"type": "caller_started_speaking", "at_ns": 3 * S, "turn": 0, "text": "Good evening"}
CALL = {"type": "agent_called_function", "at_ns": 4 * S, "call_id": "1", "name": "book", "arguments": {"people": 4}}
STARTED = {
    "type": "call_started", "at_ns": 0, "run_id": "1", "scenario": "s", "room": "r", "wall_time": "x",
    "monotonic_ns": 1,
}  # fmt: skip


async def visit_of(app: FastAPI, services: Services, key: str, **path: Any) -> Visit:
    """Return the visit of somebody who signed in."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://testserver") as visitor:
        await sign_in(visitor, key)
        cookie = f"{SESSION_COOKIE}={visitor.cookies[SESSION_COOKIE]}".encode()
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"cookie", cookie)], "app": app}
    async with services.database.session() as session:
        identity = await find_key(session, key)
    return Visit(Request({**scope, "path_params": path}), services, Reading(1), identity, "")


class Follower:
    """Collects what a page is sent."""

    def __init__(self, stream: Any):
        self.seen: list[tuple[str, str]] = []
        self._stream = stream
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for message in self._stream:
            self.seen.append((message.event or "", str(message.data)))

    async def sees(self, text: str, within_s: float = 5.0) -> None:
        async with asyncio.timeout(within_s):
            while not any(text in data for _, data in self.seen):
                await asyncio.sleep(0.005)

    async def leave(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        await self._stream.aclose()


async def test_four_see_what_happens_within_a_second(
    app: FastAPI, services: Services, user_key: str, client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    visit = await visit_of(app, services, user_key, id=run_id)
    followers = [Follower(live._rows(visit)) for _ in range(4)]
    await asyncio.sleep(0.05)
    await claimed(worker_client, run_id)
    await told(worker_client, run_id, STARTED, SAID, LINE, CALL, HEARD)
    for follower in followers:
        await follower.sees("people = 4", within_s=1)
    await report(worker_client, run_id, outcome())
    for follower in followers:
        await follower.sees("Open the report")
        # The page was opened while the run waited.
        assert follower.seen[0][0] == "state" and "Under way" in follower.seen[0][1]
        rows = [data for event, data in follower.seen if event == "row"]
        assert len(rows) == 3 and "&lt;b&gt;Hello&lt;/b&gt;" in rows[0] and "Good evening" in rows[1]
        assert follower.seen[-1][0] == "end" and "Passed" in follower.seen[-1][1]
        await follower.leave()


async def test_a_call_ends_with_the_word_that_its_report_has(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    _, ids = await ended(client, worker_client, no_call(), undecided(), agent_failed())
    ends = [(await visitor.get(f"/runs/{run_id}/follow")).text for run_id in ids]
    assert [re.findall(r"<b>(\w+)\.</b>", end) for end in ends] == [["Inconclusive"], ["Inconclusive"], ["Failed"]]


class Ear:
    """Listens to a call, as a page does."""

    def __init__(self, answer: StreamingResponse):
        self.heard = b""
        self.task = asyncio.create_task(answer.stream_response(self._hear))

    @classmethod
    async def of(cls, visit: Visit) -> "Ear":
        """Begin to listen."""
        answer = await live.listen_in(visit)
        assert isinstance(answer, StreamingResponse) and answer.media_type == "audio/wav"
        ear = cls(answer)
        await ear.hears(wav_header(24_000))
        return ear

    async def _hear(self, message: Any) -> None:
        self.heard += message.get("body", b"")

    async def hears(self, pcm: bytes) -> None:
        async with asyncio.timeout(5):
            while not self.heard.endswith(pcm):
                await asyncio.sleep(0.005)

    async def leave(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def sound(worker: httpx.AsyncClient, run_id: int, pcm: bytes, attempt: int = 1) -> int:
    """Pass on sound of a call; return the answer's status."""
    path = f"/worker/v1/runs/{run_id}/sound"
    headers = {"Content-Type": "application/octet-stream"}
    return (await worker.post(path, params={"attempt": attempt}, content=pcm, headers=headers)).status_code


async def test_two_hear_a_call_from_when_they_listen_until_it_is_over(
    app: FastAPI, services: Services, user_key: str, client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    visit = await visit_of(app, services, user_key, id=run_id)
    first = await Ear.of(visit)
    await claimed(worker_client, run_id)
    assert services.dispatcher.is_listened_to(run_id)
    assert await sound(worker_client, run_id, b"\x01\x00\x02\x00" * 3) == 204
    await first.hears(b"\x01\x00\x02\x00" * 3)
    second = await Ear.of(visit)
    assert await sound(worker_client, run_id, b"\x03\x00\x04\x00") == 204
    await first.hears(b"\x01\x00\x02\x00" * 3 + b"\x03\x00\x04\x00")
    await second.hears(b"\x03\x00\x04\x00")
    with wave.open(io.BytesIO(first.heard)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 24_000)
        assert file.readframes(10) == first.heard[44:]
    await first.leave()
    assert services.dispatcher.is_listened_to(run_id)
    await report(worker_client, run_id, outcome())
    async with asyncio.timeout(5):
        await second.task
    assert not services.dispatcher.is_listened_to(run_id)
    assert len(second.heard) == 44 + 4


async def test_sound_that_nobody_wants_is_kept_nowhere(
    app: FastAPI, services: Services, user_key: str, client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    assert await sound(worker_client, run_id, bytes(4)) == 204
    assert await sound(worker_client, run_id, bytes(3)) == 400
    assert await sound(worker_client, run_id, bytes(4), attempt=2) == 409
    assert await sound(worker_client, 4711, bytes(4)) == 404
    assert await sound(worker_client, run_id, bytes(MAX_SOUND_BYTES + 4)) == 413
    assert await sound(client, run_id, bytes(4)) == 403
    # Who does not take what comes hears the latest of it.
    with live_sounds(app).listened(run_id) as listener:
        for number in range(100):
            assert await sound(worker_client, run_id, number.to_bytes(4)) == 204
        pieces = [await listener.next(timeout_s=0) for _ in range(KEPT_PIECES + 1)]
        assert pieces == [*(number.to_bytes(4) for number in range(100 - KEPT_PIECES, 100)), None]


async def test_so_many_listen_at_once_and_no_more(
    app: FastAPI, services: Services, user_key: str, client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    visit = await visit_of(app, services, user_key, id=run_id)
    with ExitStack() as others:
        for number in range(MAX_LISTENERS):
            others.enter_context(live_sounds(app).listened(number))
        with pytest.raises(Unavailable):
            await live.listen_in(visit)
    ear = await Ear.of(visit)
    await ear.leave()
    assert not live_sounds(app).is_listened_to(run_id)


async def test_who_may_not_see_a_run_does_not_hear_it(
    app: FastAPI, services: Services, user_key: str, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = await run_launched(client)
    async with client_of(app) as stranger:
        assert (await stranger.get(f"/runs/{run_id}/listen")).status_code == 303
        _, key = await other_project(services)
        await sign_in(stranger, key)
        assert (await stranger.get(f"/runs/{run_id}/listen")).status_code == 404
    # Nor does who may not see it any more.
    monkeypatch.setattr(live, "CHECK_EVERY_S", 0.0)
    ear = await Ear.of(await visit_of(app, services, user_key, id=run_id))
    async with services.database.session() as session:
        await revoke_key(session, user_key)
    async with asyncio.timeout(5):
        await ear.task


async def test_a_call_that_is_made_again_says_so(
    app: FastAPI, services: Services, user_key: str, client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    follower = Follower(live._rows(await visit_of(app, services, user_key, id=run_id)))
    await asyncio.sleep(0.05)
    await claimed(worker_client, run_id)
    await told(worker_client, run_id, STARTED, SAID)
    await told(worker_client, run_id, STARTED, HEARD, call=2)
    await follower.sees("Another attempt")
    await follower.sees("heard in the audio")
    await follower.leave()


async def test_the_board_shows_last_words_and_watches_while_seen(
    app: FastAPI, services: Services, user_key: str, client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    (run_id,) = await run_launched(client)
    follower = Follower(live._boards(await visit_of(app, services, user_key)))
    await follower.sees("Waiting")
    await claimed(worker_client, run_id)
    async with asyncio.timeout(5):
        while not live_timelines(app).is_watched(run_id):
            await asyncio.sleep(0.01)
    await told(worker_client, run_id, STARTED, LINE)
    await follower.sees("Good evening")
    await report(worker_client, run_id, outcome())
    await follower.sees("Just ended")
    await follower.leave()
    assert not live_timelines(app).is_watched(run_id)


async def test_a_revoked_key_follows_nothing_any_more(
    app: FastAPI, services: Services, user_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "CHECK_EVERY_S", 0.0)
    follower = Follower(live._boards(await visit_of(app, services, user_key)))
    await follower.sees("Under way")
    async with services.database.session() as session:
        await revoke_key(session, user_key)
    async with asyncio.timeout(3):
        await follower.task


@pytest.mark.parametrize(
    ("event", "who", "text"),
    [
        (SAID, "Agent", "<b>Hello</b>"),
        (LINE, "Caller", "Good evening"),
        (CALL, "Tool", "book(people = 4)"),
        ({"type": "agent_error", "at_ns": 1, "text": "boom"}, "Error", "boom"),
        ({"type": "caller_pressed_keys", "at_ns": 1, "turn": 0, "keys": "12#"}, "Caller", "presses 12#"),
        ({"type": "caller_turn_settled", "at_ns": 1, "turn": 1, "failed": True}, "", "Turn 2 failed."),
    ],
)
def test_an_event_is_a_line(event: dict[str, Any], who: str, text: str) -> None:
    row = live.row_of(EVENT_ADAPTER.validate_python(event))
    assert row is not None and (row.who, row.text) == (who, text)


def test_an_event_of_a_newer_worker_is_passed_over() -> None:
    assert live._event('{"type": "unheard_of", "at_ns": 1}') is None
    assert live.row_of(None) is None


def test_hostile_lines_are_cut_and_made_visible() -> None:
    row = live.row_of(EVENT_ADAPTER.validate_python({**LINE, "text": "\u202eabc" + "x" * 1_000_000}))
    assert row is not None and len(row.text) < 1_100 and re.match(r"\[U\+202E\]abc", row.text)
