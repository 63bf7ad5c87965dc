"""Whole calls over real WebRTC on loopback, against the reference agents."""

import json
import os
import sys
from pathlib import Path

import anyio
import pytest

from bots.agents.metronome import DEFAULT_TEXT
from bots.caller.script import Expectation, Listen, PressKeys, Turn
from bots.timeline import (
    CallCalibrated,
    CallerAudioQuality,
    CallerStoppedSpeaking,
    CallerTurnStarted,
    CallStarted,
    MessageReceived,
)
from runner.calls.request import DataMessage
from runner.sessions.local_agent import free_port, local_agent, reference_agent_command
from tests.calls.real import ANSWERED, SCENARIO, make, metronome, say, script
from tests.patience import best_of_three
from tests.recognition import sounds_like

pytestmark = [pytest.mark.anyio, pytest.mark.webrtc]


@best_of_three
@pytest.mark.slow
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


@pytest.mark.slow
async def test_a_call_says_how_punctual_it_was_before_and_after(tmp_path: Path) -> None:
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


@pytest.mark.slow
async def test_what_the_agent_said_is_recognised_from_the_recording(tmp_path: Path) -> None:
    async with metronome(tmp_path) as (base_url, _):
        run, _ = await make(base_url, script(Turn(action=Listen(), expect=ANSWERED)), tmp_path / "run")
    said = [entry.content for entry in run.transcript_object if entry.role == "Main Agent"]
    # Two pieces where the machine stalled.
    assert sounds_like(" ".join(said), DEFAULT_TEXT)


@pytest.mark.slow
@best_of_three
async def test_words_are_recognised_live_if_the_agent_tells_none(tmp_path: Path) -> None:
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


@pytest.mark.slow
async def test_the_restaurant_takes_keys_and_tells_them_from_words(tmp_path: Path) -> None:
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


@pytest.mark.slow
async def test_the_command_prints_the_run_alone_and_shows_no_token(tmp_path: Path) -> None:
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


@pytest.mark.slow
@best_of_three
async def test_a_quickstart_bot_is_called_without_a_complaint(tmp_path: Path) -> None:
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
