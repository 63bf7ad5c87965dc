"""A server with a judge, killed while it is asked: what a worker has reported is judged by the next one."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from bots.caller.script import Script
from bots.timeline import (
    EVENT_ADAPTER,
    AgentJoined,
    CallEnded,
    CallerTurnStarted,
    CallStarted,
    EndedReason,
    RoomEntered,
)
from runner.calls.run_file import Circumstances, judge_run, run_text
from runner.evaluation.asked import Asked
from runner.protocol.messages import VERSION
from tests.judge.endpoint import HANGS, Body, Reply, completion, prompt, serve
from tests.serving import API, Server, launch, serving, until

pytestmark = pytest.mark.slow

PROMPT = "must sing an opera"
EXECUTOR = "host-1-0000"
SCENARIO = {
    "name": "sings",
    "agent": 1,
    "personality": 693,
    "scenario_type": "conditional_actions",
    "expected_outcome_prompt": PROMPT,
    "pipecat_eval": "name: sings\nturns:\n  - expect:\n      - { event: response, within_ms: 10000 }\n",
}


def worker_key(folder: Path) -> str:
    command = [sys.executable, "-m", "runner.cli", "keys", "create", "--kind", "worker", "--name", "w"]
    made = subprocess.run(
        [*command, "--data-dir", str(folder / "data")], cwd=folder, capture_output=True, text=True, check=True
    )
    return made.stdout.split()[-1]


def take(worker: httpx.Client) -> dict[str, Any]:
    """Return a job that a worker is given, which it takes on."""
    who = {"executor": EXECUTOR, "name": "w", "version": "1", "rooms": ["smallwebrtc"], "calls": 1}
    poll: dict[str, Any] = {"protocol": VERSION, "worker": who, "number": 1, "waits": True}
    [job] = worker.post("/worker/v1/poll/", json=poll).raise_for_status().json()["jobs"]
    now = {"run_id": job["run_id"], "attempt": job["attempt"], "joined": True}
    worker.post("/worker/v1/poll/", json={**poll, "number": 2, "waits": False, "runs": [now]}).raise_for_status()
    return job


def report(worker: httpx.Client, job: dict[str, Any]) -> None:
    """Bring what there is of a call, and what it came to."""
    run_id = job["run_id"]
    facts = [
        CallStarted(at_ns=0, run_id=str(run_id), scenario="sings", room="r", wall_time="now", monotonic_ns=1),
        RoomEntered(at_ns=1),
        AgentJoined(at_ns=2),
        CallerTurnStarted(at_ns=3, turn=0),
        CallEnded(at_ns=1_000_000_000, reason=EndedReason.CALLER_HUNG_UP),
    ]
    script = Script.model_validate({**job["script"], "turns": [{"action": {"kind": "listen"}}]})
    run = judge_run(script, facts, Circumstances(asked=Asked.model_validate(job["asked"])))
    files = {
        "timeline.jsonl": b"".join(EVENT_ADAPTER.dump_json(fact) + b"\n" for fact in facts),
        "run.json": run_text(run).encode(),
    }
    of_run = {"attempt": 1, "executor": EXECUTOR}
    for name, data in files.items():
        params = {**of_run, "offset": 0, "size": len(data)}
        path = f"/worker/v1/runs/{run_id}/artefacts/{name}/"
        worker.put(path, params=params, content=data).raise_for_status()
    told = {"run_id": run_id, **of_run, "run": run.model_dump(mode="json", exclude={"script"})}
    assert worker.post("/worker/v1/report/", json=told).raise_for_status().json()["counted"]


def made_and_reported(server: Server, folder: Path) -> str:
    """Return the path of a run that was launched, and whose worker has reported it."""
    with server.client(server.key) as client, server.client(worker_key(folder)) as worker:
        scenario = client.post(f"{API}/scenarios/", json=SCENARIO).raise_for_status().json()["id"]
        launched = launch(client, scenario, "http://localhost:7860/api/offer")
        report(worker, take(worker))
        return f"{API}/runs/{launched['runs'][0]['id']}/"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_reported_is_judged_by_the_next_server(tmp_path: Path, number: signal.Signals) -> None:
    statements = [{"statement": "it sings", "answer": "yes", "reason": "so I hear"}]
    hangs = threading.Event()
    hangs.set()
    asked = threading.Event()

    def answer(body: Body) -> Reply:
        assert PROMPT in prompt(body)
        asked.set()
        return HANGS if hangs.is_set() else completion(json.dumps({"statements": statements}))

    with serve(answer) as endpoint:
        env = {
            "SCENARIO_RUNNER_JUDGE__BASE_URL": endpoint.url,
            "SCENARIO_RUNNER_JUDGE__MODEL": "m",
            "SCENARIO_RUNNER_JUDGE__TIMEOUT_S": "60",
        }
        with serving(tmp_path, "--no-worker", env=env) as server:
            path = made_and_reported(server, tmp_path)
            with server.client(server.key) as client:
                assert client.get(path).json()["status"] == "evaluating"
            assert asked.wait(30)
            assert server.stop(number) in (0, -number)
            log = server.log.read_text()
            assert "Traceback" not in log, log
        hangs.clear()
        with serving(tmp_path, "--no-worker", first=False, env=env) as again, again.client(server.key) as client:
            run = until(client, path, lambda run: run["status"] == "completed")
            assert run["success"] is True, run["scenario_runner"]["detail"]
            assert run["expected_outcome"]["outcome_alignments"][-1]["prompt_part"] == "it sings"
            assert again.stop() == 0
    assert len(endpoint.bodies) == 2
