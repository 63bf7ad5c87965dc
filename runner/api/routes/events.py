"""A call as it happens: ``…/runs/{id}/events``, as server-sent events."""

import json
import re
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import FastAPI, Header, Request
from sqlalchemy import select
from sse_starlette import EventSourceResponse, ServerSentEvent

from runner.api.auth import AppServices, Reader, Reading, still_reads
from runner.api.errors import NotFound, refusals
from runner.api.routes.runs import find_run
from runner.api.routing import CompatRouter
from runner.api.schemas.common import PathId
from runner.api.services import Services
from runner.records.statuses import FINAL_RUN, RunStatus
from runner.records.store import ArtefactMissing, artefact_key
from runner.records.tables import RunRow

TIMELINE = "timeline.jsonl"

MAX_LIVE_RUNS = 256
MAX_RUN_BYTES = 4_000_000
"""How much of a call is kept in memory; of a longer one the beginning goes first."""

CHECK_EVERY_S = 5.0
"""How often it is checked whether whoever watches may still do so."""

LOOK_EVERY_S = 1.0
"""How often a watcher looks whether its run has ended without anybody telling."""

HEARTBEAT_S = 15

Holds = Callable[[], Awaitable[bool]]
"""Says whether whoever watches may still do so."""

_EVENT_ID = re.compile(r"(?:([0-9]+)-([0-9]+)-)?([0-9]+)")

router = CompatRouter("/test_framework/v1/runs", "/test_framework/v1/runs-external", tags=["runs"])


@dataclass
class _Live:
    """The events of one call of a run.

    Attributes:
        key: The attempt, and which call of it this is.
        dropped: How many at the beginning are not kept, or never came.
        events: The others, as JSON.
    """

    key: tuple[int, int]
    dropped: int = 0
    events: deque[str] = field(default_factory=deque[str])
    size: int = 0

    @property
    def known(self) -> int:
        """How many events there were so far."""
        return self.dropped + len(self.events)

    def add(self, events: Sequence[str], first: int) -> None:
        """Append events, of which the first has so many before it. What is known already is passed over."""
        if first > self.known:
            # Some never came: what is there from now on is at its own place all the same.
            self.dropped, self.size = first, 0
            self.events.clear()
        for event in events[max(self.known - first, 0) :]:
            self.events.append(event)
            self.size += len(event)
        while self.size > MAX_RUN_BYTES and len(self.events) > 1:
            self.size -= len(self.events.popleft())
            self.dropped += 1

    def after(self, position: int) -> list[tuple[int, str]]:
        """Return the events from a position on, each with the position after it."""
        start = max(0, position - self.dropped)
        return [(self.dropped + index + 1, event) for index, event in enumerate(self.events) if index >= start]


class LiveTimelines:
    """What workers tell of the calls they are making, for whoever watches. In memory: the artefact is the truth.

    Args:
        watching: Is called when somebody begins to watch a run, or the last one has ceased to.
    """

    def __init__(self, watching: Callable[[], None] = lambda: None) -> None:
        self._watching = watching
        self.elsewhere: Callable[[int], bool] = lambda run_id: False
        """Returns whether somebody watches a run in another process."""
        self.pass_on: Callable[..., None] = lambda *told: None
        """Takes what is told here, for those who watch in another process: the arguments of :meth:`post`."""
        self._runs: OrderedDict[int, _Live] = OrderedDict()
        self._changes: dict[int, anyio.Event] = {}
        self._watchers: Counter[int] = Counter()

    @contextmanager
    def watched(self, run_id: int) -> Generator[None]:
        """Within this context somebody watches a run: its worker is asked for events."""
        self._watchers[run_id] += 1
        self._watching()
        try:
            yield
        finally:
            self._watchers[run_id] -= 1
            if not self._watchers[run_id]:
                # What was told stays: events may be under way, and whoever comes back goes on from there.
                del self._watchers[run_id]
                self._watching()

    def is_watched(self, run_id: int) -> bool:
        """Return whether somebody watches a run, here or in another process."""
        return run_id in self._watchers or self.elsewhere(run_id)

    @property
    def watched_here(self) -> list[int]:
        """The runs that somebody watches here."""
        return sorted(self._watchers)

    def wanted_from(self, run_id: int, attempt: int, call: int = 1) -> int | None:
        """Return how many events of a call are there already; None if nobody watches the run."""
        if not self.is_watched(run_id):
            return None
        live = self._runs.get(run_id)
        return live.known if live is not None and live.key == (attempt, call) else 0

    def post(
        self, run_id: int, attempt: int, events: Sequence[dict[str, Any]], first: int = 0, call: int = 1
    ) -> None:
        """Take in events of a run that is watched, or was, with how many of the call came before the ``first``.

        Those of a call before the latest are passed over.
        """
        if not self.is_watched(run_id) and run_id not in self._runs:
            return
        if self.elsewhere(run_id):
            self.pass_on(run_id, attempt, events, first, call)
        self.take(run_id, attempt, events, first, call)

    def take(self, run_id: int, attempt: int, events: Sequence[dict[str, Any]], first: int, call: int) -> None:
        """Take in events without passing them on."""
        live, key = self._runs.get(run_id), (attempt, call)
        if live is None or live.key < key:
            live = self._runs[run_id] = _Live(key)
        elif live.key > key:
            return
        self._runs.move_to_end(run_id)
        while len(self._runs) > MAX_LIVE_RUNS:
            self._runs.popitem(last=False)
        live.add([json.dumps(event, separators=(",", ":")) for event in events], first)
        self._wake(run_id)

    def pass_on_all(self, run_id: int) -> None:
        """Pass on what is known of a run: somebody has just begun to watch it in another process."""
        if (live := self._runs.get(run_id)) is not None:
            (attempt, call), events = live.key, [json.loads(event) for event in live.events]
            self.pass_on(run_id, attempt, events, live.dropped, call)

    def end(self, run_id: int) -> None:
        """Let go of a run that has ended."""
        self._runs.pop(run_id, None)
        self._wake(run_id)

    def live(self, run_id: int) -> _Live | None:
        """Return what is there of a run."""
        return self._runs.get(run_id)

    async def change(self, run_id: int, *, timeout_s: float) -> None:
        """Wait until something is told of a run, or for so long."""
        changed = self._changes.setdefault(run_id, anyio.Event())
        try:
            with anyio.move_on_after(timeout_s):
                await changed.wait()
        finally:
            if self._changes.get(run_id) is changed:
                self._wake(run_id)

    def _wake(self, run_id: int) -> None:
        changed = self._changes.pop(run_id, None)
        if changed is not None:
            changed.set()


def live_timelines(app: FastAPI) -> LiveTimelines:
    """Return the application's."""
    found: LiveTimelines = app.state.live_timelines
    return found


_MESSAGE: dict[str, Any] = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"enum": ["message", "restart", "end"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
"""One message, as an event stream's schema describes it up to OpenAPI 3.1."""


@router.get(
    "/{id}/events/",
    response_class=EventSourceResponse,
    responses={
        **refusals(404),
        200: {
            "content": {"text/event-stream": {"schema": _MESSAGE}},
            "description": "The timeline, message by message.",
        },
    },
)
async def watch(
    request: Request,
    services: AppServices,
    reader: Reader,
    id: PathId,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> EventSourceResponse:
    """Watch a call: the events of its timeline, first those that were, then each as it happens.

    ``data`` of every message is an event as ``timeline.jsonl`` has it. ``restart`` says that the call is
    made again; ``end`` is the last message, and says what the run came to. Ours.
    """
    async with services.database.reading() as session:
        await find_run(session, reader, id)
    timelines = live_timelines(request.app)
    messages = timeline_of(services, timelines, reader, partial(still_reads, request), id, last_event_id)
    return EventSourceResponse(messages, ping=HEARTBEAT_S)


async def timeline_of(
    services: Services, timelines: LiveTimelines, reader: Reading, holds: Holds, run_id: int, last_id: str | None
) -> AsyncGenerator[ServerSentEvent]:
    """Yield the messages of a run's timeline until the run has ended, or nobody may watch it any more."""
    with timelines.watched(run_id):
        async for message in _messages(services, timelines, reader, holds, run_id, last_id):
            yield message


async def _messages(
    services: Services, timelines: LiveTimelines, reader: Reading, holds: Holds, run_id: int, last_id: str | None
) -> AsyncGenerator[ServerSentEvent]:
    key, position = _known(last_id)
    shown: _Live | None = None
    checked_s = time.monotonic()
    while True:
        if time.monotonic() - checked_s > CHECK_EVERY_S:
            if not await holds():
                return
            checked_s = time.monotonic()
        live = timelines.live(run_id)
        if live is not None and live.key >= key:
            if live.key != key:
                if key:
                    yield _restart(live.key)
                key, position = live.key, 0
            shown = live
        if shown is not None:
            for position, event in shown.after(position):  # noqa: B020 - the position is where it stands
                yield _event(shown.key, position, event)
        status = await status_of(services, reader, run_id)
        if status is None:
            return
        if status in FINAL_RUN:
            timelines.end(run_id)
            break
        if timelines.live(run_id) in (None, live) and (shown is None or not shown.after(position)):
            await timelines.change(run_id, timeout_s=LOOK_EVERY_S)
    if shown is not None:
        for position, event in shown.after(position):  # noqa: B020
            yield _event(shown.key, position, event)
    try:
        async with services.database.reading() as session:
            run = await find_run(session, reader, run_id)
    except NotFound:
        return
    kept = (run.attempt, 1 + len((run.outcome or {}).get("earlier_attempts") or ()))
    if key != kept:
        if key:
            yield _restart(kept)
        position = 0
    # The last ones may not have been told before the end.
    async for place, event in _stored(services, run):
        if place > position:
            yield _event(kept, place, event)
    end = {
        "status": run.status,
        "success": run.passed,
        "inconclusive": run.is_inconclusive,
        "cause": run.cause,
        "ended_reason": run.ended_reason,
        "detail": run.detail,
    }
    yield ServerSentEvent(json.dumps(end), event="end")


def _event(key: tuple[int, int], position: int, event: str) -> ServerSentEvent:
    return ServerSentEvent(event, id=str(position) if key == (1, 1) else f"{key[0]}-{key[1]}-{position}")


def _restart(key: tuple[int, int]) -> ServerSentEvent:
    return ServerSentEvent(json.dumps({"attempt": key[0]}), event="restart")


def _known(last_id: str | None) -> tuple[tuple[int, ...], int]:
    """Return of which call somebody knows events, and how many; of none who knows none."""
    found = _EVENT_ID.fullmatch(last_id or "")
    return ((), 0) if found is None else ((int(found[1] or 1), int(found[2] or 1)), int(found[3]))


async def status_of(services: Services, reader: Reading, run_id: int) -> RunStatus | None:
    """Return how far a run is, and nothing else of it: every watcher asks every second. None if it is not there."""
    wanted = select(RunRow.status, RunRow.result_id).where(
        RunRow.id == run_id, RunRow.project_id == reader.project_id
    )
    async with services.database.reading() as session:
        found = (await session.execute(wanted)).first()
    return RunStatus(found.status) if found is not None and reader.sees(found.result_id) else None


async def _stored(services: Services, run: RunRow) -> AsyncGenerator[tuple[int, str]]:
    """Yield the events of a run that has ended, numbered from 1. A last line that was cut off is left out."""
    if TIMELINE not in run.kept:
        return
    count = 0
    try:
        async for text in _lines(services.store.get(artefact_key(run.id, TIMELINE, run.attempt))):
            try:
                json.loads(text)
            except ValueError:
                continue
            count += 1
            yield count, text
    except ArtefactMissing:
        return


async def _lines(pieces: AsyncIterable[bytes]) -> AsyncGenerator[str]:
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line.strip():
                yield line.decode(errors="replace")
    if rest.strip():
        yield rest.decode(errors="replace")
