"""The detail of a result: made in threads, run by run; kept for as long as a run does not change; sent in pieces."""

import gzip
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import anyio.to_thread
from fastapi import FastAPI, Request, Response
from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from runner.api.errors import NotFound
from runner.api.paging import Paging
from runner.api.schemas.results import Contribution, Result, contribution, result
from runner.api.schemas.runs import ResultRun, result_run
from runner.api.streaming import enclosed, in_pieces, streamed
from runner.records.database import Database
from runner.records.filters import AT_ONCE
from runner.records.results import Mark, count_runs, read_marks, read_state, short_runs
from runner.records.sharing import Sharing
from runner.records.tables import ResultRow

MAX_KEPT_BYTES = 48_000_000
"""How much is kept of runs that were shown, some fifteen thousand; of answers; of what precedes them."""

MADE_AT_ONCE = 1_000
"""How many runs are made before others have a turn: a fifth of a second's work."""

PIECE = 100
"""How many runs are sent at once: about 200 kB."""

MIN_PACKED = 20
"""From so many runs on an answer is compressed for those who take it so: to a tenth."""

_PACKING = 1
"""The fastest way: 20 ms for a thousand runs, made once for all who ask."""

_MARK_BYTES = 200
_RUN_BYTES = 1_000
"""What a mark takes, and a kept run besides its text."""

_RESULT = TypeAdapter(Result)
_RUN = TypeAdapter(ResultRun)

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Kept(Generic[_K, _V]):
    """Keeps what was made, so long as it is not too much: what was not asked for longest goes first.

    May be used by threads.
    """

    def __init__(self, limit_bytes: int, size_bytes: Callable[[_V], int]):
        self._limit_bytes = limit_bytes
        self._size_bytes = size_bytes
        self._values: OrderedDict[_K, _V] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def find(self, key: _K) -> _V | None:
        """Return what is kept for a key, if anything is."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def keep(self, key: _K, value: _V) -> None:
        """Keep something in place of what was kept for a key."""
        with self._lock:
            if (before := self._values.pop(key, None)) is not None:
                self._bytes -= self._size_bytes(before)
            self._values[key] = value
            self._bytes += self._size_bytes(value)
            while self._bytes > self._limit_bytes:
                self._bytes -= self._size_bytes(self._values.popitem(last=False)[1])


class _Asked(NamedTuple):
    """What is asked for: a result of a project, with all its runs or a page of them."""

    project_id: int
    result_id: int
    paging: Paging | None


@dataclass(frozen=True)
class _Detail:
    """A result as it is shown, but for its runs; its state differs whenever anything that is shown does."""

    state: Hashable
    opening: bytes
    marks: Sequence[Mark]

    @property
    def size_bytes(self) -> int:
        """How much it takes, about."""
        return len(self.opening) + _MARK_BYTES * len(self.marks)


class _ShownRun(NamedTuple):
    """A run as its result shows it."""

    mark: Mark
    contribution: Contribution
    text: bytes


class _Packed(NamedTuple):
    """A compressed answer, and the state of its result then."""

    state: Hashable
    text: bytes


class Details:
    """Shows results.

    Nothing is shown that was not looked up in the record just then: the result in its project, and what state it and
    each of its runs is in. What was made for just that state before is used again.
    """

    def __init__(self, database: Database, limit_bytes: int = MAX_KEPT_BYTES):
        self._database = database
        self._runs: Kept[int, _ShownRun] = Kept(limit_bytes, lambda run: len(run.text) + _RUN_BYTES)
        self._packed: Kept[_Asked, _Packed] = Kept(limit_bytes, lambda packed: len(packed.text))
        self._details: Kept[_Asked, _Detail] = Kept(limit_bytes, lambda detail: detail.size_bytes)
        self._sharing = Sharing()

    async def answer(self, request: Request, project_id: int, result_id: int, paging: Paging | None) -> Response:
        """Answer a request for a result; as :meth:`show`, and compressed if it is large and may be."""
        headers = {"Vary": "Accept-Encoding"}
        if not _takes_gzip(request):
            return await streamed(self.show(project_id, result_id, paging), headers)
        asked = _Asked(project_id, result_id, paging)
        detail = await self._detail(asked)
        if len(detail.marks) < MIN_PACKED:
            return await streamed(self._shown_whole(detail), headers)
        packed = self._packed.find(asked)
        if packed is None or packed.state != detail.state:
            packed = await self._sharing.read((asked, detail.state), partial(self._pack, asked, detail))
        return Response(packed.text, media_type="application/json", headers=headers | {"Content-Encoding": "gzip"})

    async def show(self, project_id: int, result_id: int, paging: Paging | None) -> AsyncGenerator[bytes]:
        """Yield the JSON of a result: with all its runs, or those on a page.

        Its figures and the list of its runs are as of one moment. A run that changes while others are sent may be
        sent as it is then; one that is deleted meanwhile may be left out.

        Raises:
            NotFound: The project has no such result, or the result no such page.
            DatabaseBusy: Too many others wait for the record.
        """
        asked = _Asked(project_id, result_id, paging)
        async for piece in self._shown_whole(await self._detail(asked)):
            yield piece

    async def _detail(self, asked: _Asked) -> _Detail:
        async def read() -> _Detail:
            before: int | None = None
            while True:
                # Where as many are missing as before, nothing stays kept until the next turn: it is the last one.
                found = await self._database.browse(partial(self._read, asked=asked, missing_before=before))
                if isinstance(found, _Detail):
                    return found
                before = found

        return await self._sharing.read(asked, read)

    def _shown_whole(self, detail: _Detail) -> AsyncGenerator[bytes]:
        return enclosed(detail.opening, self._members(detail), b"}}")

    async def _pack(self, asked: _Asked, detail: _Detail) -> _Packed:
        """Return an answer compressed; it is kept, unless some of it is of a later state already."""
        packed = self._packed.find(asked)
        if packed is not None and packed.state == detail.state:
            return packed
        is_of_state = len(self._kept(detail.marks)) == len(detail.marks)
        text = b"".join([piece async for piece in self._shown_whole(detail)])
        packed = _Packed(
            detail.state, await anyio.to_thread.run_sync(partial(gzip.compress, text, _PACKING, mtime=0))
        )
        if is_of_state:
            self._packed.keep(asked, packed)
        return packed

    def _read(self, session: Session, *, asked: _Asked, missing_before: int | None) -> _Detail | int:
        """Return what is asked for; or else how many runs it lacked: others have a turn before the rest is made."""
        wanted = (ResultRow.id == asked.result_id, ResultRow.project_id == asked.project_id)
        row = session.scalar(select(ResultRow).where(*wanted))
        if row is None:
            raise NotFound
        # When an agent is deleted, the database itself takes it from its results.
        state = (row.updated_at, row.agent_id, read_state(session, row.id))
        kept = self._details.find(asked)
        if kept is not None and kept.state == state:
            return kept
        marks: Sequence[Mark] = read_marks(session, row.id)
        shown = {run.mark[0]: run for run in self._kept(marks)}
        missing = [mark for mark in marks if mark[0] not in shown]
        is_last = missing_before is not None and len(missing) >= missing_before
        now = missing if is_last else missing[:MADE_AT_ONCE]
        for some in in_pieces(now, AT_ONCE):
            shown |= {run.mark[0]: run for run in self._made(session, some)}
        if len(now) < len(missing):
            return len(missing)
        following = preceding = None
        contributions = [shown[mark[0]].contribution for mark in marks]
        if asked.paging is not None:
            following, preceding = asked.paging.around(len(marks))
            marks = marks[asked.paging.offset : asked.paging.offset + asked.paging.size]
        counts = count_runs(session, [row.id])[row.id]
        shown_result = result(row, counts, contributions, runs_next=following, runs_previous=preceding)
        text = _RESULT.dump_json(shown_result, exclude={"runs"})
        made = _Detail(state, text[:-1] + b',"runs":{', marks)
        self._details.keep(asked, made)
        return made

    async def _members(self, detail: _Detail) -> AsyncGenerator[list[bytes]]:
        for marks in in_pieces(detail.marks, PIECE):
            runs = self._kept(marks)
            if len(runs) < len(marks):
                # What is read by now may be of a later state.
                runs = await self._database.browse(partial(self._shown, marks=marks), refuses=False)
            yield [run.text for run in runs]

    def _shown(self, session: Session, *, marks: Sequence[Mark]) -> list[_ShownRun]:
        """Return runs as they are shown: those that are kept, and the others made anew if they are still there."""
        shown = {run.mark[0]: run for run in self._kept(marks)}
        made = self._made(session, [mark for mark in marks if mark[0] not in shown])
        shown |= {run.mark[0]: run for run in made}
        return [shown[mark[0]] for mark in marks if mark[0] in shown]

    def _made(self, session: Session, marks: Sequence[Mark]) -> list[_ShownRun]:
        """Make runs, as they are now, and keep them."""
        made: list[_ShownRun] = []
        for row in short_runs(session, [mark[0] for mark in marks]):
            text = b'"%d":%b' % (row.id, _RUN.dump_json(result_run(row)))
            run = _ShownRun((row.id, row.updated_at, row.scenario_id), contribution(row), text)
            self._runs.keep(row.id, run)
            made.append(run)
        return made

    def _kept(self, marks: Sequence[Mark]) -> list[_ShownRun]:
        """Return the runs that are kept just as their marks say."""
        runs = (self._runs.find(mark[0]) for mark in marks)
        return [run for run, mark in zip(runs, marks, strict=True) if run is not None and run.mark == mark]


def _takes_gzip(request: Request) -> bool:
    """Return whether an answer may be compressed with gzip."""
    for one in request.headers.get("Accept-Encoding", "").lower().split(","):
        name, _, weight = one.partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def details(app: FastAPI) -> Details:
    """Return the application's."""
    found: Details = app.state.details
    return found
