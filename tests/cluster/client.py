"""The API of a cluster, as a script uses it that does not give up while the API is away."""

import itertools
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.cluster.agent import Agent
from tests.patience import wait_until

API = "/test_framework/v1"
AGENTS = "/test_framework/v2/aiagents"
AWAY_LIMIT_S = 60.0
TOKEN = "planted-room-token"  # must stand in no log

GREETING_MS = 10_000
PASSES = f"name: passes\nturns:\n  - agent_speaks_within_ms: {GREETING_MS}\n    expect: [{{ event: response }}]\n"
"""Listens to the greeting, and hangs up: three seconds or so."""

FAILS = "name: fails\nturns:\n  - agent_speaks_within_ms: 150\n    expect: [{ event: response }]\n"
"""The same; the metronome never greets so soon, so it fails."""

WAITS = "name: waits\nturns:\n  - silence_ms: 100000\n"
"""Stays until it is ended."""

SLOWLY_S = 15.0

_FINAL = frozenset({"completed", "failed", "cancelled"})
_names = itertools.count(1)


@dataclass(frozen=True)
class Launched:
    id: int
    runs: tuple[int, ...]
    success: bool | None
    starts_anew: bool


class Client:
    def __init__(self, url: str, key: str, agent: Agent):
        self._http = httpx.Client(
            base_url=url, headers={"X-CEKURA-API-KEY": key}, timeout=30, trust_env=False, follow_redirects=True
        )
        self._agent = agent
        self._scenarios: dict[tuple[str, str], int] = {}
        self.launched: list[Launched] = []

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> httpx.Response:
        """Get what is at a path, when the API is there."""

        def answer() -> httpx.Response | None:
            try:
                found = self._http.get(path)
            except httpx.TransportError:
                return None
            return None if found.status_code >= 500 else found

        return wait_until(answer, f"the API answers {path}", AWAY_LIMIT_S, every_s=0.2).raise_for_status()

    def json(self, path: str) -> Any:
        return self.get(f"{API}{path}").json()

    def post(self, path: str, body: Any = None) -> Any:
        """Post once to a path of the API."""
        return self._send("POST", f"{API}{path}", body)

    def _send(self, method: str, path: str, body: Any) -> Any:
        answer = self._http.request(method, path, json=body)
        assert answer.is_success, f"{path}: HTTP {answer.status_code}: {answer.text[:500]}"
        return answer.json() if answer.content else None

    def scenario(self, text: str, *, greets: bool = True) -> int:
        kind = (text, str(greets))
        if kind not in self._scenarios:
            body: dict[str, Any] = {
                "name": f"scenario {len(self._scenarios)}",
                "agent": 1,
                "personality": 693,
                "scenario_type": "conditional_actions",
                "pipecat_eval": text,
            }
            if not greets:
                information = {"main_agent_variables": {"metronome": {"greet": 0}}, "testing_agent_variables": {}}
                profile = {"name": "silent", "agent": 1, "information": information}
                body["test_profile"] = self.post("/test-profiles/", profile)["id"]
            self._scenarios[kind] = self.post("/scenarios/", body)["id"]
        return self._scenarios[kind]

    def launch(
        self,
        text: str,
        count: int,
        *,
        success: bool | None = None,
        sessions: bool = False,
        greets: bool = True,
        limit: int | None = None,
        slow: Collection[int] = (),
    ) -> Launched:
        scenario = self.scenario(text, greets=greets)
        name = f"launch-{os.getpid()}-{next(_names)}"
        body: dict[str, Any] = {"agent": 1, "name": name, "concurrency_limit": limit}
        if sessions:
            body["scenarios"] = [scenario] * count
        else:
            rooms = [self._agent.room(f"{name}-{index}", SLOWLY_S * (index in slow)) for index in range(count)]
            body["scenarios"] = [
                {"scenario": scenario, "pipecat_room_url": room, "pipecat_token": TOKEN} for room in rooms
            ]
        made = self.post(f"/scenarios/run_scenarios_pipecat{'_v2' if sessions else ''}/", body)
        runs = tuple(run["id"] for run in made["runs"])
        assert len(runs) == count
        launched = Launched(made["id"], runs, success, sessions)
        self.launched.append(launched)
        return launched

    def delete(self, launched: Launched) -> None:
        self.post(f"/results/{launched.id}/delete_runs/", {"run_ids": launched.runs})
        self.launched.remove(launched)

    def end(self, launched: Sequence[Launched]) -> None:
        for each in launched:
            self.post(f"/results/{each.id}/end_calls/")
        self.until_ended(launched)

    def start_sessions_at(self, start_url: str) -> None:
        self._send("PATCH", f"{AGENTS}/1/", {"session": {"start_url": start_url, "transport": "webrtc"}})

    def run(self, run_id: int) -> Any:
        return self.json(f"/runs/{run_id}/")

    def statuses(self, launched: Launched) -> dict[int, str]:
        return {run["id"]: run["status"] for run in self.json(f"/results/{launched.id}/")["runs"].values()}

    def until_ended(self, launched: Sequence[Launched], timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        for each in launched:
            wait_until(
                lambda each=each: set(self.statuses(each).values()) <= _FINAL,
                lambda each=each: f"result {each.id} ends: {self.statuses(each)}",
                max(0.0, deadline - time.monotonic()),
                every_s=0.2,
            )
