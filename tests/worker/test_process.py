"""A process that makes calls: what it says of itself, how it drains, and how it goes on when it was given up."""

import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from loguru import logger
from pydantic import SecretStr

from bots.timeline import AgentStartedSpeaking, CallerUnderrun
from runner.protocol.messages import Report
from runner.settings import Settings, WorkerSettings
from runner.worker import outbox as outboxes
from runner.worker import process as processes
from runner.worker.outbox import Outbox
from runner.worker.process import WorkerProcess
from tests.patience import until
from tests.worker.calls_double import StubCalls
from tests.worker.record_double import KEY, RecordDouble, job

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load nothing, and freeze nothing: what is there now would never be collected by later tests."""
    monkeypatch.setattr(processes, "load", lambda: None)
    monkeypatch.setattr(processes, "spare_what_is_loaded", lambda: None)
    monkeypatch.setattr(processes, "LOOK_INTERVAL_S", 0.02)


@dataclass
class Started:
    """A process that runs."""

    record: RecordDouble
    process: WorkerProcess
    full: str
    changes: list[str]

    @property
    def state(self) -> str:
        return self.process.status.state

    @property
    def told(self) -> dict[str, Any]:
        """What it told the record last."""
        return self.record.polls[-1]

    @property
    def executor(self) -> str:
        """Its id; none is told of that is not known to the record."""
        executor = self.process.status.executor
        assert executor is not None and any(poll["worker"]["executor"] == executor for poll in self.record.polls)
        return executor


@pytest.fixture
def start(record: RecordDouble, tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def starting(
        calls: StubCalls, *, drain_limit_s: float = 5.0, waits: bool = True, full: str = ""
    ) -> AsyncGenerator[Started]:
        settings = Settings(worker=WorkerSettings(drain_limit_s=drain_limit_s, data_dir=tmp_path / "data"))
        changes: list[str] = []

        def changed() -> None:
            if (state := started.state) != (changes[-1] if changes else "starting"):
                changes.append(state)

        async with record.http() as http:
            process = WorkerProcess(
                settings,
                http,
                SecretStr(KEY),
                "w-1",
                on_change=changed,
                make_call=calls,
                free=lambda: started.full,
            )
            started = Started(record, process, full, changes)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(process.run)
                if waits:
                    await until(lambda: record.polls)
                yield started
                process.stop()

    return starting


@pytest.fixture
def warnings() -> Generator[list[str]]:
    """What is logged of the worker, from warnings on."""
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="WARNING")
    yield said
    logger.remove(sink)


def left(folder: Path) -> list[str]:
    outbox = folder / "data" / "outbox"
    return [path.name for path in outbox.iterdir()] if outbox.exists() else []


async def test_it_says_who_it_is_what_it_can_do_and_that_it_ended(
    record: RecordDouble, start: Callable[..., Any], tmp_path: Path
) -> None:
    record.jobs.clear()
    async with start(StubCalls()) as started:
        me = started.told["worker"]
        assert me["executor"] == started.executor and me["name"] == "w-1"
        assert set(me["rooms"]) == {"daily", "smallwebrtc"} and me["calls"] == 4
        assert (started.told["state"], started.told["why"], started.told["runs"]) == ("taking", "", [])
        assert started.state == "taking"
    assert record.polls[-1]["state"] == "stopped"
    assert record.polls[-1]["number"] == max(poll["number"] for poll in record.polls)
    assert started.changes == ["taking", "draining"] and left(tmp_path) == []


async def test_what_it_works_on_and_what_it_keeps_is_in_its_polls(
    record: RecordDouble, start: Callable[..., Any]
) -> None:
    record.refusals["report"] = [503] * 10_000
    async with start(StubCalls(lasts_s=0.2)) as started:
        await until(lambda: record.moves)
        assert [run["run_id"] for run in started.told["runs"]] == [7] and started.process.status.live == 1
        await until(lambda: started.told["kept"] == [{"run_id": 7, "attempt": 1, "may_end": True}])
        assert started.process.status.kept == 1
        # As long as it is on its way it is a run of the worker's as well.
        assert started.told["runs"][0]["is_evaluating"]
        record.refusals.clear()
        await until(lambda: started.told["kept"] == started.told["runs"] == [])
        assert started.process.status.calls_made == 1
    assert len(record.outcomes) == 1


async def test_a_dead_worker_s_outcome_that_was_found_is_told_at_once(
    record: RecordDouble, start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "SWEEP_INTERVAL_S", 0.02)
    record.taken[7] = "dead"
    record.refusals["report"] = [503] * 10_000
    async with start(StubCalls()) as started:
        await until(lambda: started.told["waits"])
        dead = Outbox(tmp_path / "data" / "outbox", record.client())
        await dead.open("dead").put(Report(run_id=7, attempt=1, executor="dead", run={"id": "7"}))
        dead.close()
        await until(lambda: started.told["kept"])
        assert not started.told["waits"]
        record.refusals.clear()
        await until(lambda: not started.told["kept"])
    assert [(outcome["executor"], outcome["run"]) for outcome in record.outcomes] == [("dead", {"id": "7"})]


async def test_while_the_server_is_silent_it_says_so_and_calls_go_on(
    record: RecordDouble, start: Callable[..., Any], warnings: list[str]
) -> None:
    record.lease_s = 4.0
    async with start(StubCalls(lasts_s=60)) as started:
        await until(lambda: record.moves)
        record.is_down = True
        await until(lambda: started.state == "paused")
        assert started.process.status.why == "the server does not answer" and started.process.status.live == 1
        await anyio.sleep(0.2)
        record.is_down = False
        await until(lambda: started.state == "taking")
        record.cancelled.add(7)
        await until(lambda: record.outcomes)
    # Each once, however often it is tried.
    assert len([line for line in warnings if "does not answer (ConnectError)" in line]) == 1
    assert warnings.count("worker w-1: paused: the server does not answer") == 1
    assert record.outcomes[0]["run"]["ended_reason"] == "cancelled"


async def test_without_an_answer_or_a_right_key_it_is_no_worker(
    record: RecordDouble, start: Callable[..., Any], warnings: list[str]
) -> None:
    record.is_down = True
    async with start(StubCalls(), waits=False) as started:
        await until(lambda: warnings)
        record.refusals = {"hello": [401] * 10_000}
        record.is_down = False
        await until(lambda: len(warnings) > 1)
        assert record.polls == [] and started.state == "starting" and started.process.status.executor is None
        record.refusals.clear()
        await until(lambda: started.state == "taking")
    away, refused = warnings
    assert "the server does not answer" in away and "HTTP 401" in refused


async def test_it_can_be_stopped_while_it_waits(record: RecordDouble, start: Callable[..., Any]) -> None:
    record.is_down = True
    with anyio.fail_after(20):
        async with start(StubCalls(), waits=False) as started:
            await anyio.sleep(0.05)
    assert started.changes == ["draining"]


async def test_told_to_stop_it_finishes_its_calls_and_takes_no_more(
    record: RecordDouble, start: Callable[..., Any]
) -> None:
    async with start(StubCalls(lasts_s=0.4)) as started:
        await until(lambda: record.moves)
        record.jobs[8] = job(8)
        started.process.stop()
        await until(lambda: started.told["state"] == "draining")
        assert started.state == "draining" and [run["run_id"] for run in started.told["runs"]] == [7]
    assert record.outcomes[0]["run"]["status"] == "completed" and record.released == []
    assert record.polls[-1]["state"] == "stopped" and record.polls[-1]["runs"] == record.polls[-1]["kept"] == []


async def test_what_is_left_when_the_limit_has_passed_is_given_back(
    record: RecordDouble, start: Callable[..., Any], tmp_path: Path
) -> None:
    record.waits_again.add(7)
    async with start(StubCalls(lasts_s=60), drain_limit_s=0.1):
        await until(lambda: record.moves)
    assert [told["release"]["detail"] for told in record.released] == ["its worker was stopped"]
    assert left(tmp_path) == []


async def test_a_forced_stop_gives_everything_back_at_once(record: RecordDouble, start: Callable[..., Any]) -> None:
    with anyio.fail_after(20):
        async with start(StubCalls(lasts_s=60), drain_limit_s=60) as started:
            await until(lambda: record.moves)
            started.process.stop()
            await anyio.sleep(0.05)
            assert record.released == []
            started.process.force_stop()
    assert len(record.released) == 1


async def test_one_that_can_t_say_that_it_ended_ends_all_the_same(
    record: RecordDouble, start: Callable[..., Any], warnings: list[str]
) -> None:
    record.jobs.clear()
    with anyio.fail_after(20):
        async with start(StubCalls()):
            record.is_down = True
    assert any("could not say that it ended" in line for line in warnings)


async def test_one_that_is_given_up_hangs_up_and_becomes_another(
    record: RecordDouble, start: Callable[..., Any], tmp_path: Path
) -> None:
    calls = StubCalls(lasts_s=60)
    async with start(calls) as started:
        await until(lambda: record.moves)
        first = started.executor
        # Somebody else has the run by now.
        record.taken[7] = "another"
        record.gone.add(first)
        await until(lambda: started.process.status.executor not in (None, first))
        assert calls.left == ["7"]
        calls.lasts_s = 0.05
        record.jobs[8] = job(8)
        await until(lambda: record.outcomes)
        assert started.executor == record.taken[8]
        assert started.changes == ["taking", "lost", "starting", "taking"]
    assert [outcome["run"]["id"] for outcome in record.outcomes] == ["8"]
    assert record.released == [] and left(tmp_path) == []
    # Of the first one nothing was told any more.
    after = [poll["worker"]["executor"] for poll in record.polls]
    assert first not in after[after.index(started.record.taken[8]) :]


async def test_one_unanswered_for_a_lease_hangs_up_and_becomes_another(
    record: RecordDouble, start: Callable[..., Any], tmp_path: Path, warnings: list[str]
) -> None:
    record.lease_s = 0.8
    record.waits_again.add(7)
    calls = StubCalls(lasts_s=60)
    calls.facts = [AgentStartedSpeaking(at_ns=3)]
    async with start(calls) as started:
        await until(lambda: any(said for _, _, said in record.moves))
        first = started.executor
        record.is_unanswered = True
        began_s = time.monotonic()
        await until(lambda: calls.left == ["7"])
        assert time.monotonic() - began_s >= record.lease_s - 0.3
        await until(lambda: started.process.status.executor not in (None, first))
        await until(lambda: record.released)
        # The outcome of its call is still that one's, and the same run comes back as another attempt.
        assert (record.released[0]["executor"], record.released[0]["attempt"]) == (first, 1)
        calls.lasts_s = 0.05
        record.is_unanswered = False
        await until(lambda: record.outcomes)
    detail = record.released[0]["release"]["detail"]
    assert detail.startswith("worker lost: the server did not answer the worker for ")
    assert record.outcomes[0]["attempt"] == 2 and record.outcomes[0]["executor"] != first
    assert any(line.startswith("worker w-1: lost") for line in warnings) and left(tmp_path) == []


async def test_one_that_is_given_up_while_it_drains_hangs_up(record: RecordDouble, start: Callable[..., Any]) -> None:
    calls = StubCalls(lasts_s=60)
    with anyio.fail_after(20):
        async with start(calls, drain_limit_s=60) as started:
            await until(lambda: record.moves)
            first = started.executor
            started.process.stop()
            await anyio.sleep(0.05)
            record.gone.add(first)
            record.taken[7] = "another"
    assert calls.left == ["7"] and {poll["worker"]["executor"] for poll in record.polls} == {first}


async def test_one_whose_disk_is_full_takes_nothing_and_says_why(
    record: RecordDouble, start: Callable[..., Any], warnings: list[str]
) -> None:
    calls = StubCalls(lasts_s=0.2)
    async with start(calls, full="its disk is full") as started:
        await until(lambda: started.told["waits"])
        # From its first poll on.
        assert {(poll["state"], poll["why"]) for poll in record.polls} == {("paused", "its disk is full")}
        assert (started.state, started.process.status.why) == ("paused", "its disk is full")
        await anyio.sleep(0.1)
        assert calls.made == []
        started.full = ""
        await until(lambda: record.moves)
        assert started.state == "taking"
        # It sees through what it has.
        started.full = "its disk is full (again)"
        await until(lambda: started.told["state"] == "paused" and started.told["runs"])
        await until(lambda: record.outcomes)
    assert "worker w-1: paused: its disk is full" in warnings


async def test_a_call_without_audio_is_told_and_so_is_its_recovery(
    record: RecordDouble, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.worker.watch.WINDOW_S", 0.5)
    calls = StubCalls(lasts_s=60)
    calls.facts = [CallerUnderrun(at_ns=3, turn=0, duration_ms=40)]
    async with start(calls) as started:
        await until(lambda: started.told["state"] == "paused")
        assert started.told["load"]["underruns"] == 1 and started.told["why"].startswith("it is overloaded (")
        record.jobs[8] = job(8)
        await until(lambda: started.told["state"] == "taking")
        await until(lambda: len(calls.made) == 2)
        record.cancelled |= {7, 8}
        await until(lambda: len(record.outcomes) == 2)


async def test_a_late_event_loop_is_told_while_calls_are_on(record: RecordDouble, start: Callable[..., Any]) -> None:
    waiting = record.jobs.pop(7)
    async with start(StubCalls(lasts_s=60)) as started:
        await anyio.sleep(0.15)
        time.sleep(1.2)  # noqa: ASYNC251 - that is the point
        await anyio.sleep(0.15)
        # One call it can always try.
        assert started.process.load.loop_lag_ms > 1_000 and started.state == "taking"
        record.jobs[7] = waiting
        await until(lambda: record.moves)
        for _ in range(3):
            time.sleep(0.25)  # noqa: ASYNC251 - that is the point
            await anyio.sleep(0.12)
        await until(lambda: started.told["state"] == "paused")
        record.cancelled.add(7)
        await until(lambda: started.told["state"] == "taking")


async def test_what_its_own_beginning_takes_is_no_overload(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "spare_what_is_loaded", lambda: time.sleep(1.2))
    async with start(StubCalls(lasts_s=0.5)) as started:
        await anyio.sleep(0.3)
        assert started.state == "taking"


async def test_a_process_that_is_cut_off_gives_its_runs_back(
    record: RecordDouble, start: Callable[..., Any], tmp_path: Path
) -> None:
    record.waits_again.add(7)
    with pytest.raises(BaseExceptionGroup):
        async with start(StubCalls(lasts_s=60)):
            await until(lambda: record.moves)
            raise RuntimeError("something else broke")
    assert len(record.released) == 1 and left(tmp_path) == []
    assert record.polls[-1]["state"] == "stopped"
