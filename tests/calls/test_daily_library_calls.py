"""Whole calls in Daily rooms with the real library on both sides, made as their users make them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from runner.sessions.local_agent import free_port
from tests.daily_rooms import DailyRooms, daily_rooms
from tests.patience import wait_until
from tests.serving import API, launch, make_scenario, serving, until

pytestmark = pytest.mark.webrtc

PATIENCE_S = 90
TOKEN = "header.planted-room-token.signature"
LISTENS = """\
name: listens
turns:
  - expect:
      - { event: response, within_ms: 15000 }
"""
BOOKING = Path(__file__).parents[2] / "config" / "scenarios" / "booking.yaml"


@dataclass
class Agent:
    """A reference agent that Pipecat's runner serves with ``-t daily``.

    Attributes:
        url: The runner's base address.
        process: Its process.
    """

    url: str
    process: "subprocess.Popen[bytes]"

    def start(self, **body: Any) -> str:
        """Start a session in a new room, and return the room's address."""
        answer = httpx.post(f"{self.url}/start", json={"createDailyRoom": True, "body": body}, timeout=30)
        return answer.raise_for_status().json()["dailyRoom"]


@dataclass
class Place:
    """Rooms on this machine, and agents that are started when they are first asked for."""

    rooms: DailyRooms
    folder: Path
    agents: dict[str, Agent] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.rooms.environment()}

    def agent(self, name: str) -> Agent:
        if name not in self.agents:
            port = free_port()
            command = [sys.executable, "-m", f"bots.agents.{name}", "-t", "daily", "--port", str(port)]
            with (self.folder / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
            self.agents[name] = Agent(f"http://127.0.0.1:{port}", process)
        agent = self.agents[name]

        def answers() -> bool:
            try:
                return httpx.get(agent.url, timeout=5).status_code < 500
            except httpx.TransportError:
                return False

        wait_until(answers, timeout_s=PATIENCE_S)
        return agent

    def call(self, room_url: str, folder: Path, *options: str) -> "subprocess.Popen[str]":
        """Make a call from the command line, with the token that the room was given."""
        command = [sys.executable, "-m", "runner.cli", "call", room_url, "--token", TOKEN, "--out", str(folder)]
        return subprocess.Popen(
            [*command, *options],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("daily")
    with daily_rooms(folder) as rooms:
        place = Place(rooms, folder)
        (folder / "listens.yaml").write_text(LISTENS)
        try:
            yield place
            rooms.check()
        finally:
            for agent in place.agents.values():
                agent.process.terminate()
                agent.process.wait(20)


@pytest.fixture(scope="module")
def refused(place: Place) -> "Iterator[subprocess.Popen[str]]":
    """A call that a server refuses five times in 25 s: begun first, so that nobody waits for it alone."""
    place.rooms.order("refused", join_error={"msgStr": "error-meeting", "error": f"the meeting is full, {TOKEN}"})
    process = place.call(place.rooms.url("refused"), place.folder / "refused", "--scenario", "listens.yaml")
    yield process
    process.kill()
    process.wait()


@pytest.mark.usefixtures("refused")
@pytest.mark.slow
def test_a_command_line_call_sends_its_message(place: Place) -> None:
    room = place.agent("metronome").start()
    message = {"customer": {"name": "Zoë", "visits": [1, None, 2.5]}}
    options = ("--scenario", "listens.yaml", "--publish", json.dumps(message))
    process = place.call(room, place.folder / "call", *options)
    said, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said + errors
    assert "passed: 1 of 1 expectations met" in said
    # Nothing of the library's, and no traceback.
    assert errors == ""
    state = place.rooms.state(room.rpartition("/")[2])
    assert [m["from"] for m in state["messages"] if m["message"] == message] == ["Testing Agent"]
    assert "Testing Agent" not in state["peers"]
    facts = [json.loads(line)["type"] for line in (place.folder / "call" / "timeline.jsonl").read_text().splitlines()]
    order = [fact for fact in facts if fact in ("agent_joined", "data_message_published", "client_ready_sent")]
    assert order == ["agent_joined", "data_message_published", "client_ready_sent"]
    run = json.loads((place.folder / "call" / "run.json").read_text())
    assert run["success"] is True and run["latencies_include_jitter"] is True
    kept = b"".join(file.read_bytes() for file in (place.folder / "call").iterdir())
    assert b"planted-room-token" not in kept and "planted-room-token" not in said


@pytest.mark.slow
def test_a_launch_names_a_room_and_a_session_comes_with_one(place: Place, tmp_path: Path) -> None:
    """By HTTP alone: ``run_scenarios_pipecat`` into a room that is there, and a session that is started."""
    metronome = place.agent("metronome")
    with serving(tmp_path, env=place.rooms.environment()) as server, server.client(server.key) as client:
        scenario = make_scenario(client, "listens", LISTENS)
        room = metronome.start()
        entry = {"pipecat_token": TOKEN, "publish_data_message": {"type": "hello"}}
        by_room = launch(client, scenario, room, **entry)
        agent = client.post(
            "/test_framework/v2/aiagents/",
            json={"name": "Metronome", "session": {"start_url": f"{metronome.url}/start", "transport": "daily"}},
        ).json()
        answer = client.post(
            f"{API}/scenarios/run_scenarios_pipecat_v2/", json={"agent": agent["id"], "scenarios": [scenario]}
        )
        by_session = answer.raise_for_status().json()
        for result in (by_room, by_session):
            ended = until(client, f"{API}/results/{result['id']}/", lambda body: body["status"] == "completed", 120)
            assert ended["success_rate"] == 100.0, ended
    messages = place.rooms.state(room.rpartition("/")[2])["messages"]
    assert [m["from"] for m in messages if m["message"] == {"type": "hello"}] == ["Testing Agent"]
    stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"planted-room-token" in content for content in stored)


@pytest.mark.slow
def test_a_refusing_server_is_quoted_after_five_tries(place: Place, refused: "subprocess.Popen[str]") -> None:
    """Its reason is in the library's own log alone, which nobody sees; and no token with it."""
    said, errors = refused.communicate(timeout=PATIENCE_S)
    assert refused.returncode == 2, said + errors
    assert "is full (the meeting is full, ***)" in said.replace("\n", " ")
    assert "signalling" not in errors and "planted-room-token" not in said + errors
    assert place.rooms.state("refused")["joins_tried"] >= 5
    run = json.loads((place.folder / "refused" / "run.json").read_text())
    assert (run["ended_reason"], run["cause"], run["success"]) == ("room-unreachable", "room", None)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(10))
def test_a_table_is_booked_by_voice(place: Place, attempt: int) -> None:
    folder = place.folder / f"booking-{attempt}"
    process = place.call(place.agent("restaurant").start(), folder, "--scenario", str(BOOKING))
    said, errors = process.communicate(timeout=180)
    assert process.returncode == 0, said + errors
    assert "9 of 9 expectations met" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("background", "loss_share"), [("crowd", 0.0), ("office", 0.0), (None, 0.05), ("hold_music", 0.05)]
)
def test_a_good_agent_is_not_blamed_for_its_surroundings(
    place: Place, background: str | None, loss_share: float, tmp_path: Path
) -> None:
    behind = {} if background is None else {"background": background}
    room = place.agent("restaurant").start(restaurant=behind)
    place.rooms.order(room.rpartition("/")[2], loss_share=loss_share)
    process = place.call(room, tmp_path / "call", "--scenario", str(BOOKING))
    said, errors = process.communicate(timeout=240)
    assert process.returncode in (0, 2), said + errors
