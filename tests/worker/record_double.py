"""A record that keeps what workers tell it, in memory; behind real HTTP semantics, without a socket or with one."""

import json
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import SecretStr

from runner.worker.record_client import RecordClient

KEY = "psw_test"


@dataclass
class RecordDouble:
    """The record, and how it misbehaves.

    Attributes:
        jobs: What claiming a run gives; a run that is not there is not known.
        attempts: Which attempt at a run counts, where it is not the first; nothing that another one tells is taken.
        refusals: Answers to give first, by the last part of a path: HTTP status codes, one for each request.
        is_down: Whether nothing answers.
        cancelled: Runs that are to be cancelled.
        given_to: Who has the runs that nobody claimed here.
        watched: Runs that somebody watches, and how many of their events are known.
        waits_again: Runs that wait again when they are given back; others end.
        told: What was asked for, by the last part of a path, whatever was answered.
    """

    jobs: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    attempts: dict[int, int] = field(default_factory=dict[int, int])
    refusals: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    is_down: bool = False
    cancelled: set[int] = field(default_factory=set[int])
    given_to: str | None = "dead"
    watched: dict[int, int] = field(default_factory=dict[int, int])
    waits_again: set[int] = field(default_factory=set[int])
    told: list[str] = field(default_factory=list[str])
    claims: list[tuple[int, int, str]] = field(default_factory=list[tuple[int, int, str]])
    moves: list[tuple[str, bool, bool]] = field(default_factory=list[tuple[str, bool, bool]])
    latest: dict[int, tuple[str, bool, bool]] = field(default_factory=dict[int, tuple[str, bool, bool]])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    artefacts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    outcomes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    released: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ended: set[int] = field(default_factory=set[int])

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def refuse(request: Request, handle: Any) -> Response:  # pyright: ignore[reportUnusedFunction]
            name = request.url.path.rpartition("/")[2]
            self.told.append(name)
            if request.headers.get("Authorization") != f"Bearer {KEY}":
                return JSONResponse({"detail": "Invalid API key."}, 401)
            if self.refusals.get(name):
                return JSONResponse({"detail": "no"}, self.refusals[name].pop(0))
            return await handle(request)

        @app.post("/worker/v1/runs/{run_id}/claim")
        async def claim(run_id: int, body: dict[str, Any]) -> Response:  # pyright: ignore[reportUnusedFunction]
            if (void := self._void(run_id, body["attempt"])) is not None:
                return void
            if run_id in self.ended:
                return JSONResponse({}, 409)
            self.claims.append((run_id, body["attempt"], body["executor"]))
            return JSONResponse({**self.jobs[run_id], "attempt": body["attempt"]})

        @app.post("/worker/v1/runs/claims")
        async def claims(body: dict[str, Any]) -> Any:  # pyright: ignore[reportUnusedFunction]
            answers = [await claim(told["run_id"], told) for told in body["claims"]]
            return {"jobs": [json.loads(bytes(answer.body)) for answer in answers if answer.status_code == 200]}

        @app.post("/worker/v1/runs/progress")
        async def progress(body: dict[str, Any]) -> Any:  # pyright: ignore[reportUnusedFunction]
            orders: list[dict[str, Any]] = []
            for told in body["runs"]:
                run_id = told["run_id"]
                counts = self._void(run_id, told["attempt"]) is None
                move = (told["status"], told["joined"], told["said"])
                if counts and move != self.latest.get(run_id, ("running", False, False)):
                    self.latest[run_id] = move
                    self.moves.append(move)
                orders.append(
                    {
                        "run_id": run_id,
                        "attempt": told["attempt"],
                        "executor": next((who for run, _, who in self.claims if run == run_id), self.given_to),
                        "counts": counts,
                        "cancel_requested": run_id in self.cancelled,
                        "events_from": self.watched.get(run_id),
                    }
                )
            return {"runs": orders}

        @app.post("/worker/v1/runs/{run_id}/events")
        async def events(run_id: int, body: dict[str, Any]) -> Any:  # pyright: ignore[reportUnusedFunction]
            if (void := self._void(run_id, body["attempt"])) is not None:
                return void
            known = len(self.events)
            assert body["first"] <= known, "some were left out"
            self.events += body["events"][known - body["first"] :]
            if run_id in self.watched:
                self.watched[run_id] = len(self.events)
            return {}

        @app.put("/worker/v1/runs/{run_id}/artefacts/{name}")
        async def artefact(run_id: int, name: str, attempt: int, request: Request) -> Any:  # pyright: ignore[reportUnusedFunction]
            content = await request.body()
            if (void := self._void(run_id, attempt)) is not None:
                return void
            self.artefacts[name] = content
            return {"size": len(content)}

        @app.post("/worker/v1/runs/{run_id}/outcome")
        async def outcome(run_id: int, body: dict[str, Any]) -> Any:  # pyright: ignore[reportUnusedFunction]
            if (void := self._void(run_id, body["attempt"])) is not None:
                return void
            if run_id not in self.ended:
                self.ended.add(run_id)
                self.outcomes.append(body)
            return {"accepted": True}

        @app.post("/worker/v1/runs/outcomes")
        async def outcomes(body: dict[str, Any]) -> Any:  # pyright: ignore[reportUnusedFunction]
            answers: list[dict[str, Any]] = []
            for told in body["outcomes"]:
                error = "status: is none" if told["run"] == {} else None
                accepted = error is None and await outcome(told["run_id"], told) == {"accepted": True}
                answers.append({"accepted": accepted, "error": error})
            return {"answers": answers}

        @app.post("/worker/v1/runs/{run_id}/release")
        async def release(run_id: int, body: dict[str, Any]) -> Any:  # pyright: ignore[reportUnusedFunction]
            if (void := self._void(run_id, body["attempt"])) is not None:
                return void
            if run_id in self.ended:
                return {"again": None}
            self.released.append({"run_id": run_id, **body})
            if run_id in self.waits_again:
                self.attempts[run_id] = body["attempt"] + 1
                return {"again": True}
            self.ended.add(run_id)
            return {"again": False}

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

    def _void(self, run_id: int, attempt: int) -> Response | None:
        if run_id not in self.jobs:
            return JSONResponse({}, 404)
        return JSONResponse({}, 409) if attempt != self.attempts.get(run_id, 1) else None


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, record: RecordDouble):
        self._record = record
        self._app = httpx.ASGITransport(record.app(), raise_app_exceptions=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._record.is_down:
            raise httpx.ConnectError("nobody listens", request=request)
        return await self._app.handle_async_request(request)


def job(run_id: int = 7, **more: Any) -> dict[str, Any]:
    """Return what claiming a run gives."""
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
