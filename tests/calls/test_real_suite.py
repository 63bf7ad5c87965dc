"""Suites over real WebRTC on loopback, with the metronome started by command."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from anyio.abc import Process
from junitparser import Failure, JUnitXml

from runner.calls.run_file import read_run
from runner.calls.suite_file import read_suite
from runner.evaluation.outcome import Status
from tests.patience import until

pytestmark = [pytest.mark.anyio, pytest.mark.webrtc]

# So late that whoever must answer within 300 ms fails, however busy the machine is.
ANSWER_MS = 2_500
ANSWERED = "{ event: response, within_ms: 10000 }"
SCENARIOS = f"""
name: metronome
scenarios:
  - name: greets
    turns: [{{ expect: [{ANSWERED}] }}]
  - name: answers
    turns:
      - user: "Are you there?"
        expect: [{ANSWERED}]
  - name: answers_at_once
    turns: [{{ user: "Are you there?", agent_speaks_within_ms: 300 }}]
  - name: waits
    turns: [{{ expect: [{ANSWERED}] }}, {{ silence_ms: 60000 }}]
"""


def suite(folder: Path, names: Sequence[str], more: str = "") -> Path:
    (folder / "scenarios.yaml").write_text(SCENARIOS)
    path = folder / "suite.yaml"
    path.write_text(
        "name: metronome\n"
        "agent:\n"
        '  command: ["{python}", -m, bots.agents.metronome, -t, webrtc, --host, 127.0.0.1, --port, "{port}"]\n'
        "  token: env:METRONOME_TOKEN\n"
        f'  env: {{METRONOME_ANSWER_MS: "{ANSWER_MS}"}}\n'
        f"{more}\n"
        f"scenarios: [{', '.join(f'scenarios.yaml:{name}' for name in names)}]\n"
    )
    return path


async def start(path: Path, *options: str) -> Process:
    command = [sys.executable, "-m", "runner.cli", "run", str(path), "--out", str(path.parent / "out"), *options]
    return await anyio.open_process(
        command, stderr=subprocess.STDOUT, env={**os.environ, "METRONOME_TOKEN": "planted-s3cr3t"}
    )


async def output_of(process: Process) -> str:
    assert process.stdout is not None
    return b"".join([piece async for piece in process.stdout]).decode()


def agents_of(process: Process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def results(folder: Path) -> list[dict[str, Any]]:
    path = folder / "out" / "suite.json"
    return json.loads(path.read_text())["runs"] if path.exists() else []


def everything_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def live_runs(folder: Path) -> list[Path]:
    """Return the folders of runs in which the caller has heard the agent, and that are not over."""
    timelines = {path: path.read_bytes() for path in (folder / "out").glob("*/timeline.jsonl")}
    return [
        path.parent
        for path, facts in timelines.items()
        if b"agent_started_speaking" in facts and b"call_ended" not in facts
    ]


@pytest.mark.slow
async def test_two_calls_at_a_time_come_to_a_report_and_an_exit_code(tmp_path: Path) -> None:
    path = suite(tmp_path, ["answers", "answers_at_once"], "concurrency: 2\nretry_inconclusive: 3")
    command = [sys.executable, "-m", "runner.cli", "run", str(path), "--out", str(tmp_path / "out"), "--json"]
    command += ["--junit", str(tmp_path / "junit.xml")]
    done = await anyio.run_process(command, check=False, env={**os.environ, "METRONOME_TOKEN": "planted-s3cr3t"})
    assert done.returncode == 1, done.stderr.decode()
    told = json.loads(done.stdout)
    assert told == json.loads((tmp_path / "out" / "suite.json").read_text())
    assert (told["finished"], told["exit_code"]) == (True, 1)
    assert [(run["scenario"], run["success"]) for run in told["runs"]] == [
        ("metronome/answers", True),
        ("metronome/answers_at_once", False),
    ]
    # Where the machine was busy, either may have been made again, one after the other.
    calls = [[*run["earlier_attempts"], run][0] for run in told["runs"]]
    first, second = [read_run(tmp_path / "out" / call["folder"]) for call in calls]
    apart = datetime.fromisoformat(second.started_at) - datetime.fromisoformat(first.started_at)
    assert abs(apart.total_seconds()) < min(first.duration_s, second.duration_s), "one after the other"
    assert first.room != second.room, "an agent for each slot"
    latency_ms = told["runs"][0]["response_latencies_ms"][0]
    # Roughly: the other slot's agent is still starting.
    assert latency_ms == pytest.approx(ANSWER_MS, abs=500)
    (junit,) = list(JUnitXml.fromfile(str(tmp_path / "junit.xml")))
    assert (junit.tests, junit.failures, junit.errors, junit.skipped) == (2, 1, 0, 0)
    failure = list(junit)[1].result[0]
    assert isinstance(failure, Failure)
    assert "(limit 0.3 s)" in failure.message
    assert b"planted-s3cr3t" not in everything_in(tmp_path) + done.stdout + done.stderr
    assert b"2/2" in done.stderr


@pytest.mark.slow
async def test_a_killed_suite_leaves_the_results_of_ended_runs(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    process = await start(suite(tmp_path, ["greets", "waits", "answers"]), "--junit", str(junit))
    agents: list[psutil.Process] = []
    try:
        await until(lambda: results(tmp_path) and live_runs(tmp_path))
        agents = agents_of(process)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    finally:
        for agent in agents:
            agent.kill()
    result = read_suite(tmp_path / "out")
    assert [(run.scenario, run.success) for run in result.runs] == [("metronome/greets", True)]
    assert [(run.scenario, run.under_way) for run in result.open] == [
        ("metronome/waits", True),
        ("metronome/answers", False),
    ]
    assert not result.finished and result.exit_code == 2
    (reported,) = list(JUnitXml.fromfile(str(junit)))
    assert (reported.tests, reported.errors, reported.skipped) == (3, 1, 1)


@pytest.mark.slow
async def test_ctrl_c_leaves_the_rooms_and_keeps_the_facts(tmp_path: Path) -> None:
    process = await start(suite(tmp_path, ["waits", "waits", "answers"], "concurrency: 2"))
    await until(lambda: len(live_runs(tmp_path)) == 2)
    agents = agents_of(process)
    process.send_signal(signal.SIGINT)
    stopped_s = time.monotonic()
    output = await output_of(process)
    assert await process.wait() == 2, output
    assert time.monotonic() - stopped_s < 20
    result = read_suite(tmp_path / "out")
    assert [run.status for run in result.runs] == [Status.CANCELLED] * 2
    assert [run.scenario for run in result.open] == ["metronome/answers"]
    assert result.stopped == "stopped by SIGINT"
    for run in result.runs:
        assert run.folder is not None
        assert read_run(tmp_path / "out" / run.folder).first_response_ms is not None
    assert "1 not made (stopped by SIGINT)" in output
    assert not any(agent.is_running() for agent in agents)


@pytest.mark.slow
async def test_a_second_ctrl_c_ends_everything_at_once(tmp_path: Path) -> None:
    process = await start(suite(tmp_path, ["waits"]))
    await until(lambda: live_runs(tmp_path))
    agents = agents_of(process)
    assert agents
    # Halted until both are there, so that the first has not ended it before.
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        process.send_signal(number)
    with anyio.fail_after(20):
        assert await process.wait() == 2
    assert psutil.wait_procs(agents, timeout=20)[1] == []
    assert read_suite(tmp_path / "out").runs == [], "nothing was ended in good order"
