"""How real calls end: the agent leaves or dies, the call is cancelled, the runner is killed."""

import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import anyio
import pytest
from rich.console import Console

from bots.caller.script import Expectation, Listen, Turn
from bots.timeline import (
    CallEnded,
    CallerStoppedSpeaking,
    CallStarted,
    EndedReason,
)
from runner.calls.call import Call
from runner.calls.request import CallRequest
from runner.calls.run_file import read_run
from runner.calls.timeline import read_timeline
from runner.evaluation.outcome import Status
from runner.evaluation.verdicts import Cause
from runner.reports.replay import replay
from runner.reports.terminal import TerminalReport
from runner.rooms.open import RoomAddress
from runner.sessions.local_agent import free_port, local_agent, reference_agent_command
from runner.settings import Settings
from tests.calls.real import ANSWERED, SCENARIO, make, metronome, say, script
from tests.patience import best_of_three

pytestmark = [pytest.mark.anyio, pytest.mark.webrtc]


@pytest.mark.slow
async def test_an_agent_that_hangs_up_has_left(tmp_path: Path) -> None:
    port = free_port()
    async with local_agent(reference_agent_command("restaurant", port), port) as base_url:
        played = script(
            Turn(action=Listen(), expect=ANSWERED),
            say("Goodbye!", expect=(Expectation(text_contains="goodbye", within_ms=10_000),)),
            hang_up=False,
        )
        run, _ = await make(base_url, played, tmp_path / "run", transcribe=False)
    assert run.ended_reason is EndedReason.AGENT_LEFT
    assert run.success, run.detail


@pytest.mark.slow
@best_of_three
async def test_an_agent_that_is_killed_is_reported_soon(tmp_path: Path) -> None:
    port = free_port()
    command = reference_agent_command("metronome", port)
    process = await anyio.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killed_ns = 0

    async def kill_when_it_speaks() -> None:
        nonlocal killed_ns
        while (
            not (folder / "timeline.jsonl").exists()
            or b"agent_started_speaking" not in (folder / "timeline.jsonl").read_bytes()
        ):
            await anyio.sleep(0.05)
        process.kill()
        killed_ns = time.monotonic_ns()

    folder = tmp_path / "run"
    try:
        with anyio.fail_after(60):
            while True:
                try:
                    await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    await anyio.sleep(0.1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill_when_it_speaks)
            run, facts = await make(f"http://127.0.0.1:{port}", script(say("Hello?", expect=ANSWERED)), folder)
            tasks.cancel_scope.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    assert killed_ns, run.detail
    origin_ns = next(e.monotonic_ns for e in facts if isinstance(e, CallStarted))
    ended = next(e for e in facts if isinstance(e, CallEnded))
    assert run.ended_reason is EndedReason.AGENT_VANISHED
    assert run.cause is Cause.AGENT
    assert run.success is False
    # Five at most, but a stall of this machine begins the wait anew.
    assert (origin_ns + ended.at_ns - killed_ns) / 1e9 < 15


@pytest.mark.slow
async def test_a_cancelled_call_leaves_the_room_and_keeps_its_facts(tmp_path: Path) -> None:
    async with metronome(tmp_path) as (base_url, log):
        call = Call(
            CallRequest(script(say("Hello there.", expect=ANSWERED)), RoomAddress(base_url)),
            Settings(),
            tmp_path / "run",
        )
        timeline = tmp_path / "run" / "timeline.jsonl"

        async def cancel_soon() -> None:
            with anyio.fail_after(60):
                while not timeline.exists() or b"client_ready_sent" not in timeline.read_bytes():
                    await anyio.sleep(0.02)
            call.cancel("enough")
            with anyio.fail_after(10):
                while b"session_ended" not in log.read_bytes():
                    await anyio.sleep(0.02)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_soon)
            run = await call.make()
    assert run.status is Status.CANCELLED
    assert run.success is None
    assert run.expectations[0].verdict == "not_judged"
    assert read_run(tmp_path / "run") == run


@pytest.mark.slow
async def test_a_killed_runner_leaves_facts_up_to_the_last_second(tmp_path: Path) -> None:
    scenario = tmp_path / "hello.yaml"
    scenario.write_text(SCENARIO)
    async with metronome(tmp_path) as (base_url, _):
        command = [sys.executable, "-m", "runner.cli", "call", base_url]
        command += ["--scenario", str(scenario), "--out", str(tmp_path / "run")]
        process = await anyio.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        timeline = tmp_path / "run" / "timeline.jsonl"
        with anyio.fail_after(60):
            while not timeline.exists() or b"caller_stopped_speaking" not in timeline.read_bytes():
                await anyio.sleep(0.05)
        await anyio.sleep(4)
        process.send_signal(signal.SIGKILL)
        killed_ns = time.monotonic_ns()
        await process.wait()
    facts = read_timeline(timeline)
    origin_ns = next(e.monotonic_ns for e in facts if isinstance(e, CallStarted))
    with wave.open(str(tmp_path / "run" / "recording.wav")) as file:
        recorded_s = file.getnframes() / file.getframerate()
    # One at most, but a stall of this machine holds it up; had nothing been written since the line it would be four.
    assert (killed_ns - origin_ns) / 1e9 - recorded_s < 3
    assert any(isinstance(e, CallerStoppedSpeaking) for e in facts)
    with TerminalReport(Console(quiet=True)) as report:
        run = await replay(tmp_path / "run", report, speed=0)
    assert (run.status, run.success, run.cause) == (Status.FAILED, None, Cause.HARNESS)
    assert run.transcript_object and run.detail is not None and "breaks off" in run.detail
