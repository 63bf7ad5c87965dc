"""The server as its users start it: a process of its own, a real call by HTTP alone, and an orderly end."""

import json
import os
import signal
import socket
import time
import wave
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import anyio
import httpx
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from bots.agents.metronome import DEFAULT_TEXT
from runner.errors import UsageError
from runner.records.database import Database, database_url
from runner.records.key_check import check_secret_key
from runner.records.secrets import Vault
from runner.server import serve
from runner.sessions.local_agent import free_port
from runner.settings import ServerSettings, Settings
from tests.recognition import sounds_like
from tests.serving import API, launch, make_scenario, metronome, serving, until

pytestmark = pytest.mark.webrtc

LISTENS = "name: listens\nturns:\n  - expect:\n      - { event: response, within_ms: 10000 }\n"
WAITS = "name: waits\nturns:\n  - silence_ms: 60000\n"
TOKEN = "planted-room-token"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with metronome(tmp_path_factory.mktemp("agent")) as offers:
        yield offers


def until_the_agent_spoke(outbox: Path, run: int) -> None:
    deadline = time.monotonic() + 60
    timelines = f"*/{run}-*/timeline.jsonl"
    while not any(b"agent_started_speaking" in path.read_bytes() for path in outbox.glob(timelines)):
        assert time.monotonic() < deadline, "the agent was not heard"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_call_is_made_recorded_and_ended_by_http_alone(tmp_path: Path, agent: str) -> None:
    with serving(tmp_path) as server:
        assert server.key.startswith("psr_")
        with server.client(server.key) as client:
            listens, waits = make_scenario(client, "listens", LISTENS), make_scenario(client, "waits", WAITS)

            made = launch(client, listens, agent, pipecat_token=TOKEN, publish_data_message={"type": "hello"})
            assert made["status"] == "pending" and made["runs"][0]["status"] == "pending"
            result = until(
                client, f"{API}/results/{made['id']}/", lambda r: r["status"] not in ("pending", "running")
            )
            assert result["status"] == "completed", result
            run = client.get(f"{API}/runs/{made['runs'][0]['id']}/").json()
            ours = run["scenario_runner"]
            assert run["status"] == "completed" and ours["success"] is True, run
            assert ours["publish_data_message"]["message"] == {"type": "hello"}
            assert any(sounds_like(line["content"], DEFAULT_TEXT) for line in run["transcript_object"])
            recording = client.get(ours["artefacts"]["recording.wav"])
            with wave.open(BytesIO(recording.content)) as wav:
                assert wav.getnchannels() == 2 and wav.getnframes() / wav.getframerate() > 1
            timeline = client.get(ours["artefacts"]["timeline.jsonl"]).text.splitlines()
            assert json.loads(timeline[0])["type"] == "call_started"

            long = launch(client, waits, agent)
            run_path = f"{API}/runs/{long['runs'][0]['id']}/"
            until(client, run_path, lambda r: r["scenario_runner"]["joined_at"])
            began_s = time.monotonic()
            assert client.post(f"{run_path}end_call/").status_code == 200
            run = until(client, run_path, lambda r: r["status"] == "cancelled")
            # Two on an idle machine; left alone it would last 60.
            assert time.monotonic() - began_s < 10
            assert run["scenario_runner"]["artefacts"].keys() >= {"recording.wav", "timeline.jsonl"}
            assert client.get(f"{API}/results/{long['id']}/").json()["status"] == "cancelled"

            # The last one is on when the server is told to stop, and told again to stop.
            last = launch(client, waits, agent)
            last_path = f"{API}/runs/{last['runs'][0]['id']}/"
            until_the_agent_spoke(tmp_path / "data" / "outbox", last["runs"][0]["id"])
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.stop() == 0, server.log.read_text()
        log = server.log.read_text()
        assert "Traceback" not in log and TOKEN not in log and server.key not in log
    key = server.key
    with serving(tmp_path, "--no-worker", first=False) as server:
        with server.client(key) as client:
            # The agent had spoken, in a room that was given: nobody can make this call again.
            run = client.get(last_path).json()
            assert run["status"] == "failed" and run["error_message"] == "its worker was stopped", run
            assert run["scenario_runner"]["cause"] == "harness"
        assert server.stop(signal.SIGINT) == 0
    kept = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert not [path for path in kept if TOKEN.encode() in path.read_bytes() or key.encode() in path.read_bytes()]
    assert not list((tmp_path / "data" / "outbox").iterdir())


@pytest.mark.anyio
async def test_a_taken_port_is_said_before_anything_else(tmp_path: Path) -> None:
    settings = Settings(server=ServerSettings(data_dir=tmp_path / "data"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}: can't be listened on"):
            await serve(settings, host="127.0.0.1", port=port, with_worker=True, announce=print, announce_key=print)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - not through a path: the test is a coroutine


@pytest.mark.anyio
async def test_the_first_key_is_told_before_anything_is_answered(tmp_path: Path) -> None:
    settings, seen, port = Settings(server=ServerSettings(data_dir=tmp_path / "data")), [], free_port()

    async def until_it_answers() -> None:
        async with httpx.AsyncClient() as client:
            with anyio.fail_after(60):
                while not seen or seen[-1] != "answers":
                    with suppress(httpx.TransportError):
                        await client.get(f"http://127.0.0.1:{port}/healthz")
                        seen.append("answers")
                    await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(until_it_answers)
        how = {"announce": seen.append, "announce_key": lambda _: seen.append("key")}
        await serve(settings, host="127.0.0.1", port=port, with_worker=True, **how)
    assert seen[:2] == ["key", "answers"]


@pytest.mark.anyio
async def test_another_secret_key_is_told_before_anything_is_served(tmp_path: Path) -> None:
    server = ServerSettings(data_dir=tmp_path / "data")
    database = Database(database_url(server))
    await database.migrate()
    await check_secret_key(database, Vault(Fernet.generate_key()))
    await database.close()
    with pytest.raises(UsageError, match=r"is not the secret key that .* is encrypted with"):
        await serve(
            Settings(server=server), host="127.0.0.1", port=0, with_worker=False, announce=print, announce_key=print
        )


@pytest.mark.anyio
async def test_a_key_that_is_none_is_said_before_a_record_is_made(tmp_path: Path) -> None:
    settings = Settings(server=ServerSettings(data_dir=tmp_path / "data", secret_key=SecretStr("short")))
    with pytest.raises(UsageError, match="secret_key: must be 32 bytes"):
        await serve(settings, host="127.0.0.1", port=0, with_worker=False, announce=print, announce_key=print)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - not through a path: the test is a coroutine
