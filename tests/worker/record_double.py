"""A record that keeps what workers tell it, in memory; behind real HTTP semantics, without a socket or with one."""

import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import SecretStr

from runner.protocol.messages import PART_BYTES, VERSION, Events, Poll, Report, hold_s
from runner.worker.record_client import RecordClient

KEY = "psw_test"


@dataclass
class RecordDouble:
    """The record, and how it misbehaves.

    Attributes:
        jobs: The runs that are to be made. Each is handed out until a worker tells of it.
        attempts: Which attempt at a run counts, where it is not the first; nothing that another one tells is taken.
        refusals: Answers to give first, by what :attr:`told` says: HTTP status codes, one for each request.
        is_down: Whether nothing answers.
        breaks_after: How many parts of files are taken until one connection breaks.
        is_unanswered: Whether polls are never answered.
        lease_s: How long a lease is.
        protocol: The version of the messages that it speaks.
        cancelled: Runs that are to be cancelled.
        watched: Runs that somebody watches.
        waits_again: Runs that wait again when they are released; others end.
        gone: Workers that were given up.
        told: What was asked for, by the last part of a path, whatever was answered; with a ``?`` where it was only
            asked whether it is there.
    """

    jobs: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    attempts: dict[int, int] = field(default_factory=dict[int, int])
    refusals: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    is_down: bool = False
    breaks_after: int | None = None
    is_unanswered: bool = False
    lease_s: float = 20.0
    protocol: int = VERSION
    cancelled: set[int] = field(default_factory=set[int])
    watched: set[int] = field(default_factory=set[int])
    waits_again: set[int] = field(default_factory=set[int])
    gone: set[str] = field(default_factory=set[str])
    told: list[str] = field(default_factory=list[str])
    polls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    moves: list[tuple[bool, bool, bool]] = field(default_factory=list[tuple[bool, bool, bool]])
    """How far runs came: whether the call is over, the room entered, something said."""
    latest: dict[int, tuple[bool, bool, bool]] = field(default_factory=dict[int, tuple[bool, bool, bool]])
    taken: dict[int, str] = field(default_factory=dict[int, str])
    """Which worker told first of a run: it is that one's."""
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    sound: bytes = b""
    artefacts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    parts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    outcomes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    released: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    reported_gone: list[str] = field(default_factory=list[str])
    ended: set[int] = field(default_factory=set[int])

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def refuse(request: Request, handle: Any) -> Response:  # pyright: ignore[reportUnusedFunction]
            path, is_get = request.url.path, request.method == "GET"
            name = request.url.path.rpartition("/")[2] + ("?" if "/artefacts/" in path and is_get else "")
            self.told.append(name)
            if request.headers.get("Authorization") != f"Bearer {KEY}":
                return JSONResponse({"detail": "Invalid API key."}, 401)
            if self.refusals.get(name):
                return JSONResponse({"detail": "no"}, self.refusals[name].pop(0))
            return await handle(request)

        @app.get("/worker/v1/hello")
        async def hello() -> Any:  # pyright: ignore[reportUnusedFunction]
            return {"protocol": self.protocol, "version": "9.9.9", "lease_s": self.lease_s}

        @app.post("/worker/v1/poll")
        async def poll(body: dict[str, Any]) -> Response:  # pyright: ignore[reportUnusedFunction]
            Poll.model_validate(body)
            self.polls.append(body)
            executor = body["worker"]["executor"]
            deadline = anyio.current_time() + (
                hold_s(self.lease_s, has_runs=bool(body["runs"])) if body["waits"] else 0
            )
            self._take_in(executor, body)
            while True:
                if executor in self.gone:
                    return JSONResponse({"detail": "gone"}, 410)
                orders = [self._order(executor, told) for told in body["runs"]]
                jobs = self._to_hand_out(executor, body)
                news = any(
                    (not told["is_ending"] and (not order["counts"] or order["is_cancelled"]))
                    or (order["counts"] and told["is_watched"] != order["is_watched"])
                    for told, order in zip(body["runs"], orders, strict=True)
                )
                is_over = anyio.current_time() >= deadline
                if (jobs or news or is_over) and not self.is_unanswered:
                    return JSONResponse({"lease_s": self.lease_s, "jobs": jobs, "orders": orders})
                await anyio.sleep(0.01)

        @app.post("/worker/v1/gone", status_code=204)
        async def gone(body: dict[str, Any]) -> None:  # pyright: ignore[reportUnusedFunction]
            self.reported_gone.append(body["executor"])

        @app.post("/worker/v1/report")
        async def report(body: dict[str, Any]) -> Any:  # pyright: ignore[reportUnusedFunction]
            Report.model_validate(body)
            run_id, attempt, executor = body["run_id"], body["attempt"], body["executor"]
            if body["run"] == {}:
                return JSONResponse({"run": ["status: is none"]}, 400)
            if self._is_void(run_id, attempt, executor):
                return {"counted": False}
            if body["release"] is None:
                if run_id not in self.ended:
                    self.ended.add(run_id)
                    self.outcomes.append(body)
                return {"counted": True}
            if run_id in self.ended:
                return {"counted": False}
            self.released.append(body)
            if run_id in self.waits_again:
                self.attempts[run_id] = attempt + 1
                self.taken.pop(run_id, None)
                return {"counted": True, "waits_again": True}
            self.ended.add(run_id)
            return {"counted": True}

        @app.post("/worker/v1/runs/{run_id}/events")
        async def events(run_id: int, body: dict[str, Any]) -> Any:  # pyright: ignore[reportUnusedFunction]
            Events.model_validate(body)
            if self._is_void(run_id, body["attempt"]):
                return JSONResponse({}, 409)
            known = len(self.events)
            assert body["first"] <= known, "some were left out"
            self.events += body["events"][known - body["first"] :]
            return {"next": len(self.events) if run_id in self.watched else None}

        @app.post("/worker/v1/runs/{run_id}/sound", status_code=204)
        async def sound(run_id: int, attempt: int, request: Request) -> None:  # pyright: ignore[reportUnusedFunction]
            assert not self._is_void(run_id, attempt)
            self.sound += await request.body()

        @app.get("/worker/v1/runs/{run_id}/artefacts/{name}")
        async def found(run_id: int, name: str, attempt: int, executor: str) -> Any:  # pyright: ignore[reportUnusedFunction]
            if self._is_void(run_id, attempt, executor):
                return JSONResponse({}, 409)
            if name in self.artefacts:
                return {"size": len(self.artefacts[name]), "is_whole": True}
            return {"size": len(self.parts.get(name, b"")), "is_whole": False}

        @app.put("/worker/v1/runs/{run_id}/artefacts/{name}")
        async def artefact(  # pyright: ignore[reportUnusedFunction]
            run_id: int, name: str, attempt: int, executor: str, offset: int, size: int, request: Request
        ) -> Any:
            content = await request.body()
            there = self.parts.get(name, b"")
            if self._is_void(run_id, attempt, executor) or offset != len(there):
                return JSONResponse({}, 409)
            assert len(content) == min(PART_BYTES, size - offset)
            self.parts[name] = there + content
            if len(self.parts[name]) < size:
                return {"size": len(self.parts[name]), "is_whole": False}
            self.artefacts[name] = self.parts.pop(name)
            return {"size": size, "is_whole": True}

        return app

    def client(self, key: str = KEY) -> RecordClient:
        return RecordClient(self.http(), SecretStr(key))

    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=_Transport(self), base_url="http://record.invalid")

    @contextmanager
    def listening(self) -> Generator[str]:
        """Answer on a socket, and yield the address."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(self.app(), log_config=None, lifespan="off"))
            thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
            thread.start()
            try:
                while not server.started:
                    time.sleep(0.01)
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join()

    def _take_in(self, executor: str, body: dict[str, Any]) -> None:
        for told in body["runs"]:
            run_id = told["run_id"]
            if self._is_void(run_id, told["attempt"], executor) or run_id in self.ended:
                continue
            self.taken.setdefault(run_id, executor)
            move = (told["is_evaluating"], told["joined"], told["said"])
            if move != self.latest.get(run_id, (False, False, False)):
                self.latest[run_id] = move
                self.moves.append(move)

    def _order(self, executor: str, told: dict[str, Any]) -> dict[str, Any]:
        run_id, attempt = told["run_id"], told["attempt"]
        counts = not self._is_void(run_id, attempt, executor) and run_id not in self.ended
        return {
            "run_id": run_id,
            "attempt": attempt,
            "counts": counts,
            "is_cancelled": counts and run_id in self.cancelled,
            "is_watched": counts and run_id in self.watched,
        }

    def _to_hand_out(self, executor: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the runs that wait: as many as the worker has room for."""
        if body["state"] != "taking":
            return []
        has = {told["run_id"] for told in [*body["runs"], *body["kept"]]}
        waits = [run_id for run_id in self.jobs if run_id not in {*self.taken, *self.ended, *has}]
        free = max(body["worker"]["calls"] - len(body["runs"]), 0)
        return [{**self.jobs[run_id], "attempt": self.attempts.get(run_id, 1)} for run_id in waits[:free]]

    def _is_void(self, run_id: int, attempt: int, executor: str | None = None) -> bool:
        is_anothers = executor is not None and self.taken.get(run_id, executor) != executor
        return run_id not in self.jobs or attempt != self.attempts.get(run_id, 1) or is_anothers


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, record: RecordDouble):
        self._record = record
        self._app = httpx.ASGITransport(record.app(), raise_app_exceptions=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._record.is_down:
            raise httpx.ConnectError("nobody listens", request=request)
        if request.method == "PUT" and self._record.breaks_after is not None:
            if not self._record.breaks_after:
                self._record.breaks_after = None
                raise httpx.WriteError("broken", request=request)
            self._record.breaks_after -= 1
        return await self._app.handle_async_request(request)


def job(run_id: int = 7, **more: Any) -> dict[str, Any]:
    """Return a run as it is handed out."""
    script = {"name": "greeting", "turns": [{"action": {"kind": "listen"}, "expect": []}]}
    return {
        "run_id": run_id,
        "attempt": 1,
        "scenario": "greeting",
        "script": script,
        "notes": ["a note"],
        "room_url": "http://127.0.0.1:7860/api/offer",
        "token": None,
        "data_message": None,
        "session": None,
        **more,
    }
