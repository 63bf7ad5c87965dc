"""What keeps a worker's processes running; the processes are stand-ins, the signals and pipes are real."""

import os
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from runner.errors import UsageError
from runner.serving import listening
from runner.worker import supervisor as supervisors
from runner.worker.health import health_app, serve_health
from runner.worker.status import WorkerStatus
from runner.worker.supervisor import Child, Supervisor
from tests.patience import until

pytestmark = pytest.mark.anyio

# Says that it takes runs, and what it is told; ends when it is told to, or as its mode says.
CHILD = """
import os, sys, threading, time
mode = os.environ["MODE"]
def say(line):
    os.write(1, line.encode() + b"\\n")
def note(line):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{sys.argv[1]} {line}\\n")
note(f"started {os.getpid()}")
if mode == "refused":
    say('{"error": "the record refuses the key"}')
    sys.exit(2)
if mode == "crash":
    sys.exit(1)
if mode == "mute":
    time.sleep(60)
say('{"state": "starting"}')
if mode == "one refused" and sys.argv[1] == "w-1":
    say('{"error": "the record refuses the key"}')
    sys.exit(2)
if mode in ("slow", "one refused"):
    sys.stdin.readline()
    say('{"state": "draining"}')
    sys.exit(0)
say("no status")
if mode == "full" and sys.argv[1] == "w-1":
    say('{"state": "paused", "why": "its disk is full", "executor": "x"}')
else:
    say(f'{{"state": "taking", "executor": "{sys.argv[1]}-{os.getpid()}", "live": 2, "calls": 4}}')
def say_on():
    while True:
        time.sleep(0.02)
        say('{"state": "taking"}')
if mode == "lively":
    threading.Thread(target=say_on, daemon=True).start()
for line in sys.stdin:
    note(line.strip())
    if mode != "stubborn" and (mode != "busy" or line == "force-stop\\n"):
        say('{"state": "draining"}')
        sys.exit(0)
note("orphaned")
time.sleep(60)
"""


@dataclass
class Supervised:
    supervisor: Supervisor
    path: Path
    ready: list[bool] = field(default_factory=list[bool])
    failure: UsageError | None = None
    gone: list[str] = field(default_factory=list[str])

    def notes(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def pids(self, name: str) -> list[int]:
        return [int(line.split()[2]) for line in self.notes() if line.startswith(f"{name} started")]


@asynccontextmanager
async def supervised(
    folder: Path, *, mode: str = "good", names: tuple[str, ...] = ("w-1", "w-2"), drain_limit_s: float = 60.0
) -> AsyncGenerator[Supervised]:
    async with anyio.create_task_group() as tasks:

        async def report_gone(executor: str) -> None:
            await anyio.lowlevel.checkpoint()
            found.gone.append(executor)

        found = Supervised(
            Supervisor(
                names,
                {"MODE": mode, "NOTES": str(folder / "notes")},
                drain_limit_s=drain_limit_s,
                ready=lambda: found.ready.append(True),
                report_gone=report_gone,
                command=[sys.executable, "-S", "-c", CHILD],
            ),
            folder / "notes",
        )

        async def run() -> None:
            try:
                await found.supervisor.run()
            except UsageError as error:
                found.failure = error

        tasks.start_soon(run)
        with anyio.fail_after(20):
            yield found
            found.supervisor.stop()
            while any(child.is_running for child in found.supervisor.children):
                await anyio.sleep(0.01)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisors, "FIRST_WAIT_S", 0.05)


async def test_it_is_ready_once_all_take_runs_and_stops_them_all(tmp_path: Path) -> None:
    async with supervised(tmp_path) as found:
        await until(lambda: found.ready)
        assert [child.takes_runs(time.monotonic()) for child in found.supervisor.children] == [True, True]
    assert found.ready == [True] and found.failure is None
    assert found.gone == [], "they ended in good order"
    assert sorted(line for line in found.notes() if "started" not in line) == ["w-1 drain", "w-2 drain"]


async def test_one_that_is_killed_is_started_again(tmp_path: Path) -> None:
    async with supervised(tmp_path) as found:
        await until(lambda: found.ready)
        first, second = found.supervisor.children
        os.kill(found.pids("w-1")[0], signal.SIGKILL)
        await until(lambda: not first.is_running)
        # What it said last is true no more.
        assert (first.status.state, first.status.live, first.takes_runs(time.monotonic())) == ("starting", 0, False)
        assert first.status.executor is None
        await until(lambda: len(found.pids("w-1")) == 2 and first.takes_runs(time.monotonic()))
        assert (first.restarts, second.restarts) == (1, 0)
        # By the id of the dead one, once: its runs are others' now.
        assert found.gone == [f"w-1-{found.pids('w-1')[0]}"]
    assert found.ready == [True] and len(found.gone) == 1


async def test_one_that_takes_nothing_for_now_and_says_why_has_started(tmp_path: Path) -> None:
    async with supervised(tmp_path, mode="full") as found:
        await until(lambda: found.ready)
        first, second = found.supervisor.children
        assert (first.state(time.monotonic()), first.status.why) == ("paused", "its disk is full")
        assert not first.takes_runs(time.monotonic()) and second.takes_runs(time.monotonic())


async def test_one_that_keeps_dying_is_started_more_and_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(supervisors, "LONGEST_WAIT_S", 0.2)
    monkeypatch.setattr(supervisors.logger, "bind", lambda **_: Waits(waits))
    async with supervised(tmp_path, mode="crash", names=("w-1",)):
        await until(lambda: len(waits) > 3, 10)
    assert waits[:4] == [0.05, 0.1, 0.2, 0.2]


class Waits:
    def __init__(self, waits: list[float]):
        self.waits = waits

    def warning(self, text: str, *values: object) -> None:
        assert isinstance(values[-1], float)
        self.waits.append(values[-1])

    def info(self, text: str, *values: object) -> None:
        """Nothing of interest."""


async def test_what_can_t_be_started_as_it_was_told_to_is_said_once(tmp_path: Path) -> None:
    async with supervised(tmp_path, mode="refused") as found:
        await until(lambda: found.failure)
    assert str(found.failure) == "the record refuses the key"
    assert len(found.pids("w-1")) <= 1 and found.ready == []


async def test_one_that_can_t_be_started_is_told_though_another_can(tmp_path: Path) -> None:
    async with supervised(tmp_path, mode="one refused") as found:
        await until(lambda: found.failure)
    assert str(found.failure) == "the record refuses the key" and found.ready == []


async def test_stopped_while_they_start_they_were_never_ready(tmp_path: Path) -> None:
    async with supervised(tmp_path, mode="slow") as found:
        await until(lambda: all(child.said_s is not None for child in found.supervisor.children))
    assert found.ready == [] and found.failure is None


async def test_what_worked_before_is_tried_again(tmp_path: Path) -> None:
    async with supervised(tmp_path, names=("w-1",)) as found:
        await until(lambda: found.ready)
        found.supervisor._env["MODE"] = "refused"
        os.kill(found.pids("w-1")[0], signal.SIGKILL)
        await until(lambda: len(found.pids("w-1")) > 2)
        found.supervisor._env["MODE"] = "good"
        await until(lambda: found.supervisor.children[0].takes_runs(time.monotonic()))
        found.supervisor._env["MODE"] = "refused"
        os.kill(found.pids("w-1")[-1], signal.SIGKILL)
        await until(lambda: found.supervisor.children[0].error)
    assert found.failure is None


async def test_a_second_signal_hurries(tmp_path: Path) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with supervised(tmp_path, mode="busy", names=("w-1",)) as found, anyio.create_task_group() as tasks:
            tasks.start_soon(found.supervisor.obey, signals)
            await until(lambda: found.ready)
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: "w-1 drain" in found.notes())
            os.kill(os.getpid(), signal.SIGINT)
            await until(lambda: "w-1 force-stop" in found.notes())
            tasks.cancel_scope.cancel()


async def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisors, "END_LIMIT_S", 0.2)
    async with supervised(tmp_path, mode="stubborn", names=("w-1",), drain_limit_s=0.1) as found:
        await until(lambda: found.ready)
    assert found.failure is None
    assert found.gone == [f"w-1-{pid}" for pid in found.pids("w-1")], "whatever it had, it has no more"


async def test_one_that_is_frozen_is_killed_and_another_one_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisors, "SILENCE_LIMIT_S", 0.2)
    monkeypatch.setattr(supervisors, "HUNG_LIMIT_S", 1.0)
    monkeypatch.setattr(supervisors, "LOOK_INTERVAL_S", 0.1)
    async with supervised(tmp_path, mode="lively") as found:
        await until(lambda: found.ready)
        (frozen,) = found.pids("w-1")
        os.kill(frozen, signal.SIGSTOP)
        await until(lambda: len(found.pids("w-1")) == 2, 10)
        first, second = found.supervisor.children
        await until(lambda: first.takes_runs(time.monotonic()))
        with pytest.raises(ProcessLookupError):
            os.kill(frozen, 0)
        assert (first.restarts, second.restarts) == (1, 0)


async def test_one_that_takes_its_time_to_start_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisors, "SILENCE_LIMIT_S", 0.1)
    monkeypatch.setattr(supervisors, "HUNG_LIMIT_S", 0.2)
    monkeypatch.setattr(supervisors, "LOOK_INTERVAL_S", 0.05)
    monkeypatch.setattr(supervisors, "END_LIMIT_S", 0.1)
    async with supervised(tmp_path, mode="mute", names=("w-1",), drain_limit_s=0.0) as found:
        await until(lambda: found.pids("w-1"))
        await anyio.sleep(1)
        assert len(found.pids("w-1")) == 1
        monkeypatch.setattr(supervisors, "START_LIMIT_S", 0.1)
        await until(lambda: len(found.pids("w-1")) == 2)


def test_a_process_is_healthy_while_it_says_so() -> None:
    child = Child("w-1")
    assert not child.is_healthy(0.0)
    child.is_running = True
    assert child.is_healthy(50.0) and not child.is_healthy(70.0)
    child.said_s = 70.0
    assert child.is_healthy(74.0) and not child.is_healthy(76.0)


@pytest.fixture
def children() -> list[Child]:
    """Two processes: one that takes runs, and one that was started again."""
    good = Child("w-1", is_running=True, said_s=float("inf"), restarts=2)
    good.status = WorkerStatus(
        state="taking",
        live=3,
        calls=4,
        kept=2,
        loop_lag_ms=250,
        underruns=1,
        calls_made=12,
        rooms_entered=10,
        setting_up_s=20,
    )
    return [good, Child("w-2", is_running=True, said_s=float("inf"))]


@pytest.fixture
def asking(children: list[Child]) -> Callable[[], httpx.AsyncClient]:
    transport = httpx.ASGITransport(health_app(children))
    return lambda: httpx.AsyncClient(transport=transport, base_url="http://worker")


async def test_health_is_all_and_readiness_any(
    children: list[Child], asking: Callable[[], httpx.AsyncClient]
) -> None:
    async with asking() as http:
        assert (await http.get("/healthz")).status_code == 200
        ready = await http.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["workers"] == {"w-1": "taking", "w-2": "starting"}
        children[1].is_running = False
        assert (await http.get("/healthz")).json()["workers"] == {"w-1": True, "w-2": False}
        assert (await http.get("/healthz")).status_code == 503
        assert (await http.get("/readyz")).json()["workers"] == {"w-1": "taking", "w-2": "silent"}
        said_s, children[0].said_s = children[0].said_s, time.monotonic() - supervisors.SILENCE_LIMIT_S - 1
        assert (await http.get("/readyz")).status_code == 503
        children[0].said_s = said_s
        assert (await http.get("/readyz")).status_code == 200
        children[0].status = children[0].status.model_copy(update={"state": "paused"})
        assert (await http.get("/readyz")).status_code == 503


async def test_figures_are_what_prometheus_reads(asking: Callable[[], httpx.AsyncClient]) -> None:
    async with asking() as http:
        text = (await http.get("/metrics")).text
    prefix = "scenario_runner_worker_process_"
    found = {
        (sample.name.removeprefix(prefix), *map(sample.labels.get, sorted(sample.labels, reverse=True))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    expected = {
        ("up", "w-1"): 1,
        ("state", "w-1", "taking"): 1,
        ("state", "w-1", "draining"): 0,
        ("state", "w-1", "paused"): 0,
        ("calls_live", "w-1"): 3,
        ("calls_limit", "w-1"): 4,
        ("reports_waiting", "w-1"): 2,
        ("loop_lag_seconds", "w-1"): 0.25,
        ("underruns_total", "w-1"): 1,
        ("calls_made_total", "w-1"): 12,
        ("restarts_total", "w-1"): 2,
        ("setup_seconds_count", "w-1"): 10,
        ("setup_seconds_sum", "w-1"): 20,
        ("state", "w-2", "starting"): 1,
    }
    assert {key: found[key] for key in expected} == expected


async def test_it_answers_on_a_port_of_its_own(children: list[Child]) -> None:
    with listening("127.0.0.1", 0, options="--health-") as listener:
        port = listener.getsockname()[1]
        async with anyio.create_task_group() as tasks, httpx.AsyncClient() as http:
            tasks.start_soon(serve_health, children, listener)
            assert (await http.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
            tasks.cancel_scope.cancel()


def test_an_address_that_is_none_is_said() -> None:
    with (
        pytest.raises(UsageError, match="name another --health-host"),
        listening("a" * 64, 9090, options="--health-"),
    ):
        pass


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(UsageError, match="name another --health-port"),
            listening("127.0.0.1", port, options="--health-"),
        ):
            pass
