"""Whole calls over real WebRTC on loopback, against the reference agents."""

import json
import os
import signal
import subprocess
import sys
import time
import wave
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from rich.console import Console

from bots.agents.metronome import DEFAULT_TEXT
from bots.caller.script import Action, Expectation, Listen, PressKeys, Script, Speak, Turn, Words
from bots.timeline import (
    CallCalibrated,
    CallEnded,
    CallerAudioQuality,
    CallerStoppedSpeaking,
    CallerTurnStarted,
    CallStarted,
    EndedReason,
    MessageReceived,
    TimelineEvent,
)
from runner.calls.call import Call
from runner.calls.request import CallRequest, DataMessage
from runner.calls.run_file import Run, read_run
from runner.calls.timeline import read_timeline
from runner.evaluation.outcome import Status
from runner.evaluation.verdicts import Cause
from runner.reports.replay import replay
from runner.reports.terminal import TerminalReport
from runner.rooms.open import RoomAddress
from runner.sessions.local_agent import free_port, local_agent, reference_agent_command
from runner.settings import Settings
from tests.patience import best_of_three
from tests.recognition import sounds_like

pytestmark = [pytest.mark.anyio, pytest.mark.webrtc]

ANSWERED = (Expectation(within_ms=10_000),)


def say(text: str, **turn: Any) -> Turn:
    return Turn(action=Speak(parts=(Words(text=text),)), **turn)


def script(*turns: Turn | Action, **options: Any) -> Script:
    made = tuple(turn if isinstance(turn, Turn) else Turn(action=turn) for turn in turns)
    return Script(name="test", turns=made, **options)


@asynccontextmanager
async def metronome(folder: Path, **env: str) -> AsyncGenerator[tuple[str, Path]]:
    port = free_port()
    log = folder / "truth.jsonl"
    async with local_agent(
        reference_agent_command("metronome", port), port, env={"METRONOME_LOG": str(log), **env}
    ) as base_url:
        yield base_url, log


async def make(base_url: str, played: Script, folder: Path, **request: Any) -> tuple[Run, list[TimelineEvent]]:
    call = Call(CallRequest(played, RoomAddress(base_url), **request), Settings(), folder)
    run = await call.make()
    return run, read_timeline(folder / "timeline.jsonl")


@best_of_three
async def test_latencies_are_those_of_the_agents_own_log(tmp_path: Path) -> None:
    async with metronome(tmp_path, METRONOME_ANSWER_MS="400,1200,700") as (base_url, log):
        turns = [say(f"This is line number {n}.", expect=ANSWERED) for n in (1, 2, 3)]
        run, facts = await make(base_url, script(*turns), tmp_path / "run", transcribe=False)
    assert run.success, run.detail
    assert run.caller_underruns == 0
    truth = [json.loads(line) for line in log.read_text().splitlines()]
    ends = [e["at_ns"] for e in truth if e["event"] == "caller_speech_ended"]
    answers = [e["at_ns"] for e in truth if e["event"] == "answer_started" and e["kind"] == "answer"]
    measured = [turn.response_latency_ms for turn in run.turns]
    assert len(measured) == len(ends) == len(answers)
    for latency_ms, end_ns, answer_ns in zip(measured, ends, answers, strict=True):
        assert latency_ms == pytest.approx((answer_ns - end_ns) / 1e6, abs=60)
    # The same clock: our own edges lie where the agent's log has them.
    started = next(e for e in facts if isinstance(e, CallStarted))
    ours = [started.monotonic_ns + e.at_ns for e in facts if isinstance(e, CallerStoppedSpeaking)]
    for our_ns, their_ns in zip(ours, ends, strict=True):
        assert abs(our_ns - their_ns) < 60e6


@pytest.mark.parametrize("gap_ms", ["850", "1100"])
async def test_a_second_phrase_about_the_end_of_the_turn_is_heard(tmp_path: Path, gap_ms: str) -> None:
    phrases = {"METRONOME_TEXT": "Of course. | Which order is this about?", "METRONOME_GAP_MS": gap_ms}
    async with metronome(tmp_path, METRONOME_GREET="0", **phrases) as (base_url, _):
        asked = Expectation(text_contains="which order", within_ms=7_000)
        played = script(say("Where is my order?", expect=(asked,)))
        run, _ = await make(base_url, played, tmp_path / "run")
    # It tells none of its words: they are recognised, of each phrase when its turn is over.
    assert run.success is not False, run.detail
    assert run.success is True or run.cause is Cause.HARNESS, run.detail


@pytest.mark.parametrize("background", ["crowd", "hold_music"])
async def test_an_agent_with_something_behind_it_is_timed_by_its_voice(tmp_path: Path, background: str) -> None:
    behind = {"METRONOME_BACKGROUND": background, "METRONOME_BACKGROUND_DBFS": "-38", "METRONOME_ANSWER_MS": "1676"}
    async with metronome(tmp_path, **behind) as (base_url, log):
        turns = [say(f"This is line number {n}.", expect=ANSWERED) for n in (1, 2, 3)]
        run, _ = await make(base_url, script(*turns), tmp_path / "run", transcribe=False)
    assert run.success is not False, run.detail
    truth = [json.loads(line) for line in log.read_text().splitlines()]
    ends = [e["at_ns"] for e in truth if e["event"] == "caller_speech_ended"]
    answers = [e["at_ns"] for e in truth if e["event"] == "answer_started" and e["kind"] == "answer"]
    for turn, end_ns, answer_ns in zip(run.turns, ends, answers, strict=False):
        # What is not sure enough is refused; what is stated is so.
        if turn.response_latency_ms is not None:
            assert turn.uncertainty_ms is not None
            assert abs(turn.response_latency_ms - (answer_ns - end_ns) / 1e6) <= turn.uncertainty_ms + 60


async def test_a_call_says_how_punctual_it_was_before_it_begins_and_when_it_is_over(tmp_path: Path) -> None:
    async with metronome(tmp_path) as (base_url, _):
        spoken = script(say("Hello, are you there?", expect=ANSWERED))
        _, facts = await make(base_url, spoken, tmp_path / "run", transcribe=False)
    (calibrated,) = [fact for fact in facts if isinstance(fact, CallCalibrated)]
    begun = next(fact for fact in facts if isinstance(fact, CallerTurnStarted))
    assert facts.index(calibrated) < facts.index(begun)
    assert min(calibrated.loop_lag_ms, calibrated.send_lag_ms, calibrated.arrival_jitter_ms) >= 0
    (quality,) = [fact for fact in facts if isinstance(fact, CallerAudioQuality)]
    # How many were lost is the agent's to say: a busy one drops some of its own.
    assert quality.packets > 100 and quality.lost is not None and quality.jitter_ms is not None


async def test_what_the_agent_said_is_recognised_from_the_recording(tmp_path: Path) -> None:
    async with metronome(tmp_path) as (base_url, _):
        run, _ = await make(base_url, script(Turn(action=Listen(), expect=ANSWERED)), tmp_path / "run")
    said = [entry.content for entry in run.transcript_object if entry.role == "Main Agent"]
    # Two pieces where the machine stalled.
    assert sounds_like(" ".join(said), DEFAULT_TEXT)


@best_of_three
async def test_words_are_recognised_live_where_the_agent_does_not_tell_them(tmp_path: Path) -> None:
    heard = Expectation(text_contains="on time", within_ms=15_000)
    port = free_port()
    command = [sys.executable, "-m", "tests.calls.no_rtvi_bot", "-t", "webrtc", "--port", str(port)]
    async with local_agent(command, port) as base_url:
        run, _ = await make(base_url, script(Turn(action=Listen(), expect=(heard,))), tmp_path / "run")
    assert run.expectations[0].verdict == "met", run.detail
    assert run.expectations[0].source == "heard"


async def test_the_data_message_arrives_unchanged_and_once(tmp_path: Path) -> None:
    message = {"type": "hello", "nested": {"ü": [1, 2.5, None, True, "☎"]}, "data": "x" * 2_000}
    port = free_port()
    async with local_agent(reference_agent_command("restaurant", port), port) as base_url:
        run, facts = await make(
            base_url,
            script(Turn(action=Listen(), expect=(Expectation(text_contains="how can I help", within_ms=15_000),))),
            tmp_path / "run",
            data_message=DataMessage(message),
            transcribe=False,
        )
    reports = [
        e.message["data"]
        for e in facts
        if isinstance(e, MessageReceived) and e.message.get("type") == "server-message"
    ]
    arrived = [r for r in reports if r.get("type") == "data-message-received"]
    assert [r["message"] for r in arrived] == [message]
    assert run.publish_data_message is not None
    assert run.publish_data_message.message == message
    assert run.success, run.detail


async def test_the_restaurant_takes_keys_and_is_told_apart_from_what_is_heard(tmp_path: Path) -> None:
    port = free_port()
    async with local_agent(reference_agent_command("restaurant", port), port) as base_url:
        played = script(
            Turn(action=Listen(), expect=(Expectation(text_contains="how can I help", within_ms=15_000),)),
            Turn(action=PressKeys(keys="4#"), expect=(Expectation(text_contains="day", within_ms=10_000),)),
        )
        run, _ = await make(base_url, played, tmp_path / "run")
    assert run.success, run.detail
    assert run.expectations[1].source == "told"
    spoken = [entry for entry in run.transcript_object if entry.role == "Main Agent"]
    assert all(entry.source == "heard" for entry in spoken)
    assert spoken[0].told is not None


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
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    origin_ns = next(e.monotonic_ns for e in facts if isinstance(e, CallStarted))
    ended = next(e for e in facts if isinstance(e, CallEnded))
    assert run.ended_reason is EndedReason.AGENT_VANISHED
    assert run.cause is Cause.AGENT
    assert run.success is False
    # Five at most, but a stall of this machine begins the wait anew.
    assert (origin_ns + ended.at_ns - killed_ns) / 1e9 < 15


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


SCENARIO = """
name: hello
turns:
  - user: "Hello, can you hear me?"
    expect: [{event: response, within_ms: 8000}]
  - user: "Then one more line, please."
    expect: [{event: response, within_ms: 8000}]
"""


async def test_a_killed_runner_leaves_a_timeline_and_a_recording_up_to_the_last_second(tmp_path: Path) -> None:
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


async def test_the_command_prints_the_run_alone_and_a_token_shows_nowhere(tmp_path: Path) -> None:
    scenario = tmp_path / "hello.yaml"
    scenario.write_text(SCENARIO)
    async with metronome(tmp_path) as (base_url, _):
        command = [sys.executable, "-m", "runner.cli", "call", base_url, "--json", "-vv"]
        command += ["--scenario", str(scenario), "--out", str(tmp_path / "run")]
        env = {**os.environ, "SCENARIO_RUNNER_TOKEN": "planted-secret-4711"}
        done = await anyio.run_process(command, env=env, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["success"] is True
    kept = b"".join(path.read_bytes() for path in (tmp_path / "run").iterdir())
    assert b"planted-secret-4711" not in kept + done.stdout + done.stderr


@best_of_three
async def test_a_bot_in_the_quickstart_pattern_is_called_without_a_complaint_in_its_log(tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "bot.log"
    command = ["sh", "-c", f"exec {sys.executable} -m bots.agents.quickstart -t webrtc --port {port} 2> {log}"]
    async with local_agent(command, port) as base_url:
        echo = say("The weather is lovely today.", expect=(Expectation(text_contains="lovely", within_ms=12_000),))
        run, _ = await make(base_url, script(Turn(action=Listen(), expect=ANSWERED), echo), tmp_path / "run")
    assert run.success, run.detail
    complaints = [
        line
        for line in log.read_text().splitlines()
        if ("WARNING" in line or "ERROR" in line) and "Media stream error" not in line
    ]
    assert complaints == []
