"""Schedules that fire, managed with the unmodified client: on a server that calls the reference agent."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from cekura import Cekura
from standardwebhooks import Webhook

from tests.compat.conftest import Stage, until
from tests.compat.test_cli import Run, cekura, json_of, result_id
from tests.doubles.receiver import receiving

__all__ = ["cekura"]

pytestmark = [pytest.mark.webrtc, pytest.mark.slow]

JOBS = "/schedules/v1/cron-jobs-external"
TWO_MINUTES_S = 150
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def history(http: httpx.Client, job: int) -> list[dict[str, Any]]:
    return http.get(f"{JOBS}/{job}/history").json()["results"]


@pytest.mark.timeout(600)
def test_a_schedule_of_the_client_fires_and_is_compared(
    cekura: Run, sdk: Cekura, http: httpx.Client, agent: int, scenarios: dict[str, int], tmp_path: Path
) -> None:
    launched = cekura(
        *("run", "start", "--agent-id", agent, "--scenario-ids", scenarios["listens"], "--mode", "pipecat")
    )
    base = result_id(launched)
    assert sdk.results.wait(base, poll_interval=1, timeout=60)["status"] == "completed"
    file = tmp_path / "job.json"
    file.write_text(json.dumps({"baseline": base, "overlap": "skip"}))
    flags = ("--name", "minutely", "--agent-id", agent, "--schedule", "* * * * *", "--mode", "pipecat_v2")
    made = json_of(
        cekura("cron", "create", "--from-file", file, *flags, "--scenario-ids", scenarios["listens"], "-f", "json")
    )
    job = made["id"]
    assert (made["is_active"], made["created_via"], made["baseline"]) == (True, "cli", base)
    listed = json_of(cekura("cron", "list", "--agent-id", agent, "--format", "json"))
    assert job in [one["id"] for one in listed]
    (firing,) = until(
        lambda: [one for one in history(http, job) if one["ended_at"]][-1:], bool, timeout_s=TWO_MINUTES_S
    )
    assert (firing["trigger"], firing["state"]) == ("clock", "passed"), firing
    assert f"compared with result {base}: suite TOO FEW RUNS 1/1→1/1" in firing["reason"]
    assert (firing["comparison"]["baseline"], firing["comparison"]["change"]) == ([base], "too_few")
    result = sdk.results.get(firing["result"])
    assert (result["is_cronjob"], result["name"], result["status"]) == (True, "minutely", "completed")
    paused = tmp_path / "paused.json"
    paused.write_text(json.dumps({"is_active": False}))
    assert json_of(cekura("cron", "update", job, "--from-file", paused, "-f", "json"))["next_due_at"] is None
    before = len(history(http, job))
    time.sleep(65)
    assert len(history(http, job)) == before
    assert cekura("cron", "delete", job, "--yes").returncode == 0
    assert cekura("cron", "get", job).returncode == 2


@pytest.mark.timeout(300)
def test_fixed_rooms_and_running_now(http: httpx.Client, room: str, agent: int, scenarios: dict[str, int]) -> None:
    rooms = [{"scenario": scenarios["listens"], "pipecat_room_url": room, "pipecat_token": "t"} for _ in range(2)]
    body = {"crontab_expression": "0 0 1 1 *", "agent": agent, "rooms": rooms, "is_active": False}
    job = http.post(JOBS, json=body).json()["id"]
    assert http.post(f"{JOBS}/{job}/run_now").json()["trigger"] == "manual"
    (firing,) = until(lambda: history(http, job), lambda found: found[0]["ended_at"], timeout_s=90)
    assert (firing["state"], firing["reason"]) == ("passed", "2 of 2 runs passed")


@pytest.mark.timeout(300)
def test_the_webhook_of_a_firing_comes_once_and_signed(
    http: httpx.Client, sdk: Cekura, stage: Stage, scenarios: dict[str, int]
) -> None:
    with receiving() as receiver:
        told = sdk.agents.create(
            name="told of",
            provider={"type": "pipecat"},
            session={"start_url": f"{stage.agent}/start", "transport": "webrtc"},
            webhook_url=receiver.url(),
            webhook_secret=SECRET,
        )["id"]
        body = {"agent": told, "scenarios": [scenarios["listens"]], "notify_on": "both"}
        job = http.post(JOBS, json={**body, "crontab_expression": "0 0 1 1 *"}).json()["id"]
        http.post(f"{JOBS}/{job}/run_now").raise_for_status()
        (received,) = until(lambda: receiver.of("result.completed"), bool, timeout_s=90)
        message = Webhook(SECRET).verify(received.content, received.headers)
        assert message["data"]["is_cronjob"] is True
        (firing,) = history(http, job)
        assert (message["data"]["id"], firing["state"]) == (firing["result"], "passed")
        time.sleep(5)
        assert len(receiver.of("result.completed")) == 1
