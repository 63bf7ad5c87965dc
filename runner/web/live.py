"""Calls as they happen: all that are under way, and one with its words."""

import json
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

import anyio
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from bots.timeline import (
    EVENT_ADAPTER,
    AgentCalledFunction,
    AgentError,
    AgentJoined,
    AgentLeft,
    AgentSaid,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    CallEnded,
    CallerPressedKeys,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerTurnSettled,
    Source,
    TimelineEvent,
)
from runner.api.errors import Conflict
from runner.api.live_sound import RATE_HZ, live_sounds
from runner.api.routes.events import (
    CHECK_EVERY_S,
    HEARTBEAT_S,
    LOOK_EVERY_S,
    LiveTimelines,
    live_timelines,
    status_of,
    timeline_of,
)
from runner.api.routes.runs import find_run
from runner.calls.recording import wav_header
from runner.records.statuses import FINAL_RUN, RunStatus
from runner.records.tables import ResultRow, RunRow, utc_now
from runner.reports.html.run_page import ENDED
from runner.reports.html.shown import clock, words
from runner.web import lists
from runner.web.answers import render
from runner.web.visits import Visit, holds

MAX_FOLLOWED = 12
"""So many calls at once show their last words: each of these is told by its worker as it happens."""

MAX_LISTED = 100
JUST_ENDED = timedelta(minutes=10)
MAX_ENDED = 20

BOARD_EVERY_S = 0.5
"""How often the list is made anew while somebody looks at it."""

HEARD = frozenset({RunStatus.PENDING, RunStatus.RUNNING})
"""Statuses of a run in which there is, or will be, something to listen to."""

_WORDS, _LAST_WORDS, _LOOKED_BACK = 1_000, 160, 200
_HEADERS = {"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff"}
_SOUND_HEADERS = {
    **_HEADERS,
    "Cache-Control": "private, no-store",
    # Or a proxy keeps it until there is much of it.
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True)
class Row:
    """A line of what happens.

    Attributes:
        who: ``Caller``, ``Agent``, ``Tool``, ``Error``, or nothing for a note.
        at: When, in the call.
        note: How it is known.
    """

    who: str
    text: str
    at: str
    note: str = ""


@dataclass(frozen=True)
class Card:
    """A run on the list."""

    id: int
    scenario: str
    result: str
    result_id: int
    agent: str
    status: str
    kind: str
    reason: str
    since: datetime | None
    last: Row | None = None


@dataclass(frozen=True)
class Board:
    """The runs that are under way, those that wait, and those that have just ended."""

    on: list[Card]
    waiting: list[Card]
    ended: list[Card]


class Story:
    """What was told of a call so far."""

    def __init__(self) -> None:
        self._is_told = False

    def tells(self, event: TimelineEvent | None) -> bool:
        """Return whether an event says something new: what the agent told is also heard, much later."""
        if not isinstance(event, AgentSaid):
            return True
        self._is_told = self._is_told or event.source is Source.TOLD
        return event.source is Source.TOLD or not self._is_told


async def show_live(visit: Visit) -> Response:
    """Show the calls that are under way."""
    return visit.show("live.html", board=await _board(visit))


async def follow_live(visit: Visit) -> Response:
    """Send the list of calls, whenever something changes in it."""
    return EventSourceResponse(_boards(visit), ping=HEARTBEAT_S, headers=_HEADERS)


async def follow_run(visit: Visit) -> Response:
    """Send what happens in a call, line by line."""
    await _run(visit)
    return EventSourceResponse(_rows(visit), ping=HEARTBEAT_S, headers=_HEADERS)


async def listen_in(visit: Visit) -> Response:
    """Send the sound of a call while it is on: a WAV file that ends with the call."""
    if (await _run(visit)).status not in HEARD:
        raise Conflict("The call is over.")
    live_sounds(visit.request.app).see_that_there_is_room()
    return _Sound(_sound(visit), media_type="audio/wav", headers=_SOUND_HEADERS)


class _Sound(StreamingResponse):
    """What somebody listens to: once they are gone nobody does any more."""

    async def stream_response(self, send: Send) -> None:
        """Send it, until its end or until nobody takes it."""
        async with aclosing(cast(AsyncGenerator[bytes], self.body_iterator)):
            await super().stream_response(send)


async def _sound(visit: Visit) -> AsyncGenerator[bytes]:
    with live_sounds(visit.request.app).listened(visit.number) as listener:
        yield wav_header(RATE_HZ)
        looked_s = checked_s = time.monotonic()
        while True:
            piece = await listener.next(timeout_s=LOOK_EVERY_S)
            if piece is not None:
                yield piece
            now_s = time.monotonic()
            if now_s - looked_s >= LOOK_EVERY_S:
                status = await status_of(visit.services, visit.reading, visit.number)
                if status not in HEARD:
                    return
                looked_s = now_s
            if now_s - checked_s > CHECK_EVERY_S:
                if not await holds(visit):
                    return
                checked_s = now_s


async def _run(visit: Visit) -> RunRow:
    async with visit.services.database.reading() as session:
        return await find_run(session, visit.reading, visit.number)


async def _rows(visit: Visit) -> AsyncGenerator[ServerSentEvent]:
    known = visit.request.headers.get("Last-Event-ID", "")[:20] or None
    timelines = live_timelines(visit.request.app)
    messages = timeline_of(visit.services, timelines, visit.reading, partial(holds, visit), visit.number, known)
    story, is_under_way = Story(), False
    async for message in messages:
        if not is_under_way and message.event != "end":
            # The page may have been opened while it waited.
            is_under_way = True
            yield ServerSentEvent(render("live_state.html", run=await _run(visit)), event="state")
        if message.event == "end":
            yield ServerSentEvent(render("live_end.html", run=visit.number, end=_end(message.data)), event="end")
        elif message.event == "restart":
            story, is_under_way = Story(), False
            yield ServerSentEvent(render("live_restart.html"), event="restart", id=message.id)
        elif (row := row_of(event := _event(str(message.data)))) is not None:
            if story.tells(event):
                yield ServerSentEvent(render("live_row.html", row=row), event="row", id=message.id)
        elif (speaking := speaking_of(event)) is not None:
            yield ServerSentEvent(speaking, event="speaking", id=message.id)


def _end(data: Any) -> dict[str, Any]:
    end: dict[str, Any] = json.loads(str(data))
    success = None if end["inconclusive"] else end["success"]
    kind, verdict = lists.verdict_of(RunStatus(end["status"]), success)
    return {"kind": kind, "verdict": verdict, "detail": words(end["detail"] or "", _WORDS)}


async def _boards(visit: Visit) -> AsyncGenerator[ServerSentEvent]:
    timelines = live_timelines(visit.request.app)
    shown = ""
    checked_s = time.monotonic()
    followed: dict[int, ExitStack] = {}
    try:
        while True:
            if time.monotonic() - checked_s > CHECK_EVERY_S:
                if not await holds(visit):
                    return
                checked_s = time.monotonic()
            board = await _board(visit)
            wanted = {card.id for card in board.on[:MAX_FOLLOWED]}
            for run_id in followed.keys() - wanted:
                followed.pop(run_id).close()
            for run_id in wanted - followed.keys():
                stack = followed[run_id] = ExitStack()
                stack.enter_context(timelines.watched(run_id))
            text = render("live_board.html", board=board)
            if text != shown:
                yield ServerSentEvent(text, event="board")
                shown = text
            await anyio.sleep(BOARD_EVERY_S)
    finally:
        for stack in followed.values():
            stack.close()


async def _board(visit: Visit) -> Board:
    project = visit.project
    timelines = live_timelines(visit.request.app)
    # However many look: one look at the record is for all of them.
    found = await visit.services.database.look(
        lambda session: _read(session, project), shared=("live calls", project)
    )
    on = [
        replace(card, last=last_words(timelines, card.id)) if index < MAX_FOLLOWED else card
        for index, card in enumerate(found.on)
    ]
    return Board(on, found.waiting, found.ended)


def _read(session: Session, project: int) -> Board:
    on, waiting, ended = _ids(session, project)
    columns = (
        RunRow.id,
        RunRow.scenario_name,
        RunRow.result_id,
        RunRow.status,
        RunRow.success,
        RunRow.error_message,
        RunRow.ended_reason,
        RunRow.executor,
        RunRow.created_at,
        RunRow.started_at,
        RunRow.ended_at,
        RunRow.outcome["detail"].as_string().label("detail"),
        RunRow.outcome["failure"].label("failure"),
        ResultRow.name.label("result_name"),
        ResultRow.agent_name,
    )
    runs = select(*columns).join(ResultRow, ResultRow.id == RunRow.result_id).where(RunRow.project_id == project)
    rows = {row.id: row for row in session.execute(runs.where(RunRow.id.in_([*on, *waiting, *ended])))}
    return Board(*([_card(rows[run_id]) for run_id in ids if run_id in rows] for ids in (on, waiting, ended)))


def _ids(session: Session, project: int) -> tuple[list[int], list[int], list[int]]:
    """Return the runs that are under way, that wait, and that have just ended, each in the order they are shown.

    As the indexes of what is open, and of when runs ended, have it: neither all runs of the project are looked at for
    that, nor all runs in order.
    """
    ours = RunRow.project_id + 0 == project
    taken = RunRow.ended_at.is_(None) & (RunRow.executor > "")
    free = RunRow.ended_at.is_(None) & RunRow.executor.is_(None)
    given = session.execute(select(RunRow.id, RunRow.status, RunRow.priority).where(ours, taken)).all()
    due = session.execute(select(RunRow.id, RunRow.status, RunRow.priority).where(ours, free)).all()
    lately = RunRow.ended_at > utc_now() - JUST_ENDED
    ended = session.execute(select(RunRow.id, RunRow.ended_at).where(ours, lately)).all()
    on = sorted(run_id for run_id, status, _ in given if status != RunStatus.PENDING.value)
    waiting = sorted((priority, run_id) for run_id, _, priority in due)
    handed_over = sorted(run_id for run_id, status, _ in given if status == RunStatus.PENDING.value)
    latest = sorted(ended, key=lambda row: row.ended_at, reverse=True)
    return (
        on[:MAX_LISTED],
        [*handed_over, *(run_id for _, run_id in waiting)][:MAX_LISTED],
        [row.id for row in latest[:MAX_ENDED]],
    )


def _card(row: Any) -> Card:
    status = RunStatus(row.status)
    kind, verdict = lists.verdict_of(status, row.success)
    if status is RunStatus.EVALUATING:
        verdict = "is judged"
    is_bad = status in FINAL_RUN and not row.success
    since = (
        row.ended_at
        if status in FINAL_RUN
        else (row.started_at if status is not RunStatus.PENDING else row.created_at)
    )
    return Card(
        id=row.id,
        scenario=words(row.scenario_name, 200),
        result=words(row.result_name or f"Result {row.result_id}", 200),
        result_id=row.result_id,
        agent=words(row.agent_name, 200),
        status=verdict,
        kind=kind,
        reason=lists.why(row.failure, row.detail, row.error_message, row.ended_reason) if is_bad else "",
        since=since,
    )


def last_words(timelines: LiveTimelines, run_id: int) -> Row | None:
    """Return the last thing that was said or done in a call, as far as its worker has told."""
    live = timelines.live(run_id)
    if live is None:
        return None
    for number, text in enumerate(reversed(live.events)):
        if number >= _LOOKED_BACK:
            return None
        row = row_of(_event(text), _LAST_WORDS)
        if row is not None and row.who:
            return row
    return None


def row_of(event: TimelineEvent | None, limit: int = _WORDS) -> Row | None:
    """Return the line that an event is shown as; None where it is not shown."""
    if event is None:
        return None
    at = clock(event.at_ns / 1e9)
    match event:
        case CallerStartedSpeaking():
            return Row("Caller", words(event.text, limit), at)
        case AgentSaid():
            note = "heard" if event.source is Source.HEARD else "told"
            start = event.at_ns if event.started_ns is None else event.started_ns
            return Row("Agent", words(event.text, limit), clock(start / 1e9), note)
        case AgentCalledFunction():
            given = ", ".join(f"{key} = {value}" for key, value in (event.arguments or {}).items())
            return Row("Tool", words(f"{event.name or 'a function'}({given})", limit), at)
        case AgentError():
            return Row("Error", words(event.text, limit), at)
        case CallerPressedKeys():
            return Row("Caller", words(f"presses {event.keys}", limit), at)
        case CallerTurnSettled(failed=True):
            return Row("", f"Turn {event.turn + 1} failed.", at, "bad")
        case AgentJoined():
            return Row("", "The agent joined.", at)
        case AgentLeft():
            return Row("", "The agent left.", at)
        case CallEnded():
            return Row("", f"The call is over: {ENDED[event.reason]}. It is judged now.", at)
        case _:
            return None


def speaking_of(event: TimelineEvent | None) -> str | None:
    """Return who speaks from an event on, in words; None where it does not change that."""
    match event:
        case AgentStartedSpeaking():
            return "The agent speaks."
        case AgentStoppedSpeaking() | CallerStoppedSpeaking():
            return "Nobody speaks."
        case _:
            return None


def _event(text: str) -> TimelineEvent | None:
    try:
        return EVENT_ADAPTER.validate_json(text)
    except ValidationError:
        # Of a newer worker, say.
        return None
