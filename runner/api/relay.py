"""Lets the API's processes watch and listen to calls whose workers poll another of them.

Each says which runs are watched and listened to in it, and passes on what it is told of those that are so in another.
It goes through PostgreSQL's notifications, and nothing of it is kept. With SQLite there is one process alone.
"""

import base64
import json
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
from fastapi import FastAPI
from loguru import logger

from runner.api.live_sound import live_sounds
from runner.api.routes.events import live_timelines

CHANNEL = "scenario_runner_live"
MAX_PART_CHARACTERS = 7_500
"""PostgreSQL takes 8,000 bytes at once; what is longer goes in parts."""

ANNOUNCE_EVERY_S = 1.0
BELIEVED_S = 4.0
"""So long after a process said what it wants, that is believed: it may have died meanwhile."""

MAX_WAITING = 2_000
"""So many parts wait to be sent; of more the oldest are left out: a listener hears a gap."""

RETRY_S = 2.0


@dataclass
class _Wanted:
    """What is wanted in another process, and until when that is believed."""

    watched: frozenset[int]
    heard: frozenset[int]
    until_s: float


class Relay:
    """Passes on between this process and the others, from :meth:`run` on."""

    def __init__(self, app: FastAPI):
        self._database = app.state.services.database
        self._wake = app.state.services.dispatcher.wake
        self._timelines = live_timelines(app)
        self._sounds = live_sounds(app)
        self._me = secrets.token_hex(8)
        self._wanted: dict[str, _Wanted] = {}
        self._parts: dict[tuple[str, int], list[str]] = {}
        self._number = 0
        self._waiting: deque[str] = deque(maxlen=MAX_WAITING)
        self._has_more = anyio.Event()
        if self._database.may_be_shared:
            self._timelines.elsewhere = lambda run_id: self._is_wanted("watched", run_id)
            self._timelines.pass_on = self._pass_events
            self._sounds.elsewhere = lambda run_id: self._is_wanted("heard", run_id)
            self._sounds.pass_on = lambda run_id, pcm: self._send(
                {"run": run_id, "sound": base64.b85encode(pcm).decode()}
            )

    async def run(self) -> None:
        """Say what is wanted here, and pass on what is wanted elsewhere, until cancelled."""
        if not self._database.may_be_shared:
            await anyio.sleep_forever()
        while True:
            try:
                async with (
                    await self._database.connection() as hearing,
                    await self._database.connection() as saying,
                    anyio.create_task_group() as tasks,
                ):
                    tasks.start_soon(self._say, saying)
                    tasks.start_soon(self._announce)
                    await hearing.execute(f"LISTEN {CHANNEL}")
                    async for notice in hearing.notifies():
                        self._hear(notice.payload)
                    tasks.cancel_scope.cancel()
            except Exception as error:
                # As a rule the database is away, of which others complain.
                logger.debug("nothing is passed on between processes: {}", type(error).__name__)
            await anyio.sleep(RETRY_S)

    async def _announce(self) -> None:
        said: tuple[Sequence[int], Sequence[int]] = ((), ())
        while True:
            wanted = (self._timelines.watched_here, self._sounds.listened_here)
            if any(wanted) or wanted != said:
                self._send({"watched": wanted[0], "heard": wanted[1]})
            said = wanted
            await anyio.sleep(ANNOUNCE_EVERY_S)

    async def _say(self, saying: Any) -> None:
        while True:
            while self._waiting:
                await saying.execute("SELECT pg_notify(%s, %s)", (CHANNEL, self._waiting.popleft()))
            self._has_more = anyio.Event()
            await self._has_more.wait()

    def _pass_events(
        self, run_id: int, attempt: int, events: Sequence[dict[str, Any]], first: int, call: int
    ) -> None:
        self._send({"run": run_id, "attempt": attempt, "events": list(events), "first": first, "call": call})

    def _send(self, message: Mapping[str, Any]) -> None:
        text = json.dumps(message, separators=(",", ":"))
        self._number += 1
        size = MAX_PART_CHARACTERS
        parts = [text[begin : begin + size] for begin in range(0, len(text), size)]
        for place, part in enumerate(parts, 1):
            self._waiting.append(f"{self._me} {self._number} {place} {len(parts)} {part}")
        self._has_more.set()

    def _hear(self, payload: str) -> None:
        sender, number, place, count, part = payload.split(" ", 4)
        if sender == self._me:
            return
        key = (sender, int(number))
        if place == "1":
            # Parts come in order: what is not whole by the next message never will be.
            for other in [other for other in self._parts if other[0] == sender]:
                del self._parts[other]
            self._parts[key] = []
        parts = self._parts.get(key)
        if parts is None or len(parts) != int(place) - 1:
            self._parts.pop(key, None)
            return
        parts.append(part)
        if place == count:
            del self._parts[key]
            self._take(sender, json.loads("".join(parts)))

    def _take(self, sender: str, message: Mapping[str, Any]) -> None:
        match message:
            case {"watched": watched, "heard": heard}:
                now_s, before = time.monotonic(), self._wanted.get(sender)
                self._wanted = {who: wanted for who, wanted in self._wanted.items() if wanted.until_s > now_s}
                now = _Wanted(frozenset(watched), frozenset(heard), now_s + BELIEVED_S)
                self._wanted[sender] = now
                for run_id in now.watched - (before.watched if before else frozenset()):
                    self._timelines.pass_on_all(run_id)
                if before is None or (before.watched, before.heard) != (now.watched, now.heard):
                    self._wake()
            case {"run": run_id, "sound": sound}:
                self._sounds.hear(run_id, base64.b85decode(sound))
            case {"run": run_id, "attempt": attempt, "events": events, "first": first, "call": call}:
                self._timelines.take(run_id, attempt, events, first, call)
            case _:
                pass

    def _is_wanted(self, what: str, run_id: int) -> bool:
        now_s = time.monotonic()
        return any(run_id in getattr(wanted, what) for wanted in self._wanted.values() if wanted.until_s > now_s)
