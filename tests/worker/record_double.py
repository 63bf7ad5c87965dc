"""A record that keeps what workers tell it, in memory; behind real HTTP semantics, without a socket."""

from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import SecretStr

from runner.worker.record_client import RecordClient

KEY = "psw_test"


@dataclass
class RecordDouble:
    """The record, and how it misbehaves.

    Attributes:
        jobs: What claiming a run gives; a run that is not there is refused.
        refusals: Answers to give first, by the last part of a path: HTTP status codes, one for each request.
        cancelled: Runs that are to be cancelled.
    """

    jobs: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    refusals: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    cancelled: set[int] = field(default_factory=set[int])
    told: list[str] = field(default_factory=list[str])
    moves: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    artefacts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    outcomes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

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
            assert body["executor"]
            job = self.jobs.get(run_id)
            return JSONResponse({}, 409) if job is None else JSONResponse(job)

        @app.post("/worker/v1/runs/{run_id}/progress")
        async def progress(run_id: int, body: dict[str, Any]) -> Any:  # pyright: ignore[reportUnusedFunction]
            self.moves.append((body["status"], body["joined"]))
            return {"cancel_requested": run_id in self.cancelled}

        @app.get("/worker/v1/runs/{run_id}")
        async def state(run_id: int, attempt: int) -> Any:  # pyright: ignore[reportUnusedFunction]
            return {"status": "running", "cancel_requested": run_id in self.cancelled}

        @app.post("/worker/v1/runs/{run_id}/events")
        async def events(run_id: int, body: dict[str, Any]) -> Any:  # pyright: ignore[reportUnusedFunction]
            self.events += body["events"]
            return {}

        @app.put("/worker/v1/runs/{run_id}/artefacts/{name}")
        async def artefact(run_id: int, name: str, request: Request) -> Any:  # pyright: ignore[reportUnusedFunction]
            self.artefacts[name] = await request.body()
            return {"size": len(self.artefacts[name])}

        @app.post("/worker/v1/runs/{run_id}/outcome")
        async def outcome(run_id: int, body: dict[str, Any]) -> Any:  # pyright: ignore[reportUnusedFunction]
            self.outcomes.append(body)
            return {"accepted": True}

        return app

    def client(self, key: str = KEY) -> RecordClient:
        transport = httpx.ASGITransport(self.app(), raise_app_exceptions=False)
        return RecordClient(httpx.AsyncClient(transport=transport, base_url="http://record.invalid"), SecretStr(key))


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
