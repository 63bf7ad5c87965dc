"""Running a suite: how many at a time, in which order, what is kept, and what becomes of agents that die."""

import json
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from bots.timeline import (
    AgentJoined,
    AgentProcessEnded,
    AgentStartedSpeaking,
    CallEnded,
    CallerTurnStarted,
    CallerUnderrun,
    CallStarted,
    EndedReason,
    HarnessStalled,
    RoomEntered,
    TimelineEvent,
)
from runner.calls import headroom
from runner.calls import suite as suites
from runner.calls.headroom import Load
from runner.calls.request import CallRequest, CallWatcher
from runner.calls.run_file import Circumstances, EarlierAttempt, Run, judge_run, read_run, write_run
from runner.calls.suite import SuiteRunner
from runner.calls.suite_file import SuiteResult, SuiteRun, read_suite
from runner.calls.timeline import TimelineWriter, read_timeline
from runner.errors import RoomError, RunnerError, UsageError
from runner.evaluation.failure import FailureKind
from runner.evaluation.outcome import Status
from runner.evaluation.verdicts import Cause
from runner.scenarios.suites import PlannedRun, load_suite
from runner.sessions import local_agent
from runner.settings import Settings

pytestmark = pytest.mark.anyio

AT_URL = "agent: { url: 'http://127.0.0.1:7860' }"
PROCESS_ENDED = "agent_process_ended"
LISTEN = "turns: [{ expect: [{ event: response, within_ms: 1000 }] }]"


class StubCall:
    """A call that takes no time, and ends as it is told to."""

    def __init__(
        self, calls: "StubCalls", request: CallRequest, folder: Path, run_id: str, watcher: CallWatcher
    ) -> None:
        self.calls = calls
        self.watcher = watcher
        self.request = request
        self.folder = folder
        self.run_id = run_id
        self.name = request.script.name.rpartition("/")[2]
        self.cancelled: str | None = None
        self.over = anyio.Event()

    async def make(self) -> Run:
        self.calls.made.append(self)
        self.calls.live.append(self.name)
        self.calls.live_at.append(len(self.calls.live))
        self.calls.most_at_a_time = max(self.calls.most_at_a_time, len(self.calls.live))
        try:
            with anyio.move_on_after(30):
                reason, answered = await self.calls.behaviour(self)
        finally:
            self.calls.live.remove(self.name)
        return self.run(reason, answered)

    def cancel(self, detail: str | None = None) -> None:
        self.cancelled = detail
        self.over.set()

    def run(self, reason: EndedReason, answered: bool) -> Run:
        facts: list[TimelineEvent] = [
            CallStarted(
                at_ns=0,
                run_id=self.run_id,
                scenario=self.request.script.name,
                room="http://127.0.0.1",
                wall_time="2026-01-01T00:00:00.000Z",
                monotonic_ns=1,
            )
        ]
        if reason is not EndedReason.ROOM_UNREACHABLE:
            facts += [RoomEntered(at_ns=1), AgentJoined(at_ns=2), CallerTurnStarted(at_ns=3, turn=0)]
        if answered:
            facts.append(AgentStartedSpeaking(at_ns=4))
        facts.append(CallEnded(at_ns=2_000_000_000, reason=reason, detail=self.cancelled))
        self.folder.mkdir()
        with TimelineWriter(self.folder / "timeline.jsonl") as timeline:
            for fact in facts:
                timeline.write(fact)
                self.watcher.fact(fact)
            run = judge_run(self.request.script, facts, Circumstances(timeline=timeline.stamp))
        write_run(self.folder, run)
        return run


Behaviour = Callable[[StubCall], Awaitable[tuple[EndedReason, bool]]]


async def passes(call: StubCall) -> tuple[EndedReason, bool]:
    await anyio.lowlevel.checkpoint()
    return EndedReason.CALLER_HUNG_UP, True


async def until_cancelled(call: StubCall) -> tuple[EndedReason, bool]:
    await call.over.wait()
    return EndedReason.CANCELLED, False


class StubCalls:
    """Makes stubs in place of calls, and keeps account of them."""

    def __init__(self, behaviour: Behaviour = passes, **by_name: Behaviour) -> None:
        self.made: list[StubCall] = []
        self.live: list[str] = []
        self.live_at: list[int] = []
        self.most_at_a_time = 0
        self._behaviour = behaviour
        self._by_name = by_name

    def __call__(
        self, request: CallRequest, settings: Settings, folder: Path, run_id: str, watcher: CallWatcher
    ) -> StubCall:
        return StubCall(self, request, folder, run_id, watcher)

    async def behaviour(self, call: StubCall) -> tuple[EndedReason, bool]:
        return await self._by_name.get(call.name, self._behaviour)(call)


class Watcher:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def begun(self, run: PlannedRun) -> None:
        self.seen.append(f"begun {run.title}")

    def call_over(self, run: PlannedRun) -> None:
        self.seen.append(f"over {run.title}")

    def ended(self, run: PlannedRun, result: SuiteRun | None) -> None:
        self.seen.append(f"ended {run.title}: {None if result is None else result.success}")

    def repeats(self, run: PlannedRun, attempt: EarlierAttempt) -> None:
        self.seen.append(f"repeats {run.title}: {attempt.repeated_because}")

    def limited(self, allowed: int, warning: str | None) -> None:
        self.seen.append(f"limited to {allowed}: {warning}")


def runner(
    tmp_path: Path, calls: StubCalls, names: str = "abc", agent: str = AT_URL, more: str = "", **options: Any
) -> SuiteRunner:
    scenarios = "\n".join(f"  - {{ name: {name}, {LISTEN} }}" for name in names)
    (tmp_path / "all.yaml").write_text(f"name: all\nscenarios:\n{scenarios}\n")
    (tmp_path / "suite.yaml").write_text(f"name: night\n{agent}\n{more}\nscenarios: [all.yaml]\n")
    suite = load_suite(tmp_path / "suite.yaml", Settings())
    return SuiteRunner(suite, Settings(), tmp_path / "out", make_call=calls, **options)


def names_of(runs: Any) -> list[str]:
    return [run.title.removeprefix("all/") for run in runs]


# Order, bounds, results.


async def test_runs_are_made_in_order_and_no_more_at_once_than_allowed(tmp_path: Path) -> None:
    calls = StubCalls(slowly)
    result = await runner(tmp_path, calls, "abcdefg", more="concurrency: 3").make()
    assert [call.name for call in calls.made] == list("abcdefg")
    assert calls.most_at_a_time == 3
    assert names_of(result.runs) == list("abcdefg")
    assert result.finished
    assert result.exit_code == 0


async def slowly(call: StubCall) -> tuple[EndedReason, bool]:
    await anyio.sleep(0.01)
    return await passes(call)


async def test_one_at_a_time_is_one_at_a_time(tmp_path: Path) -> None:
    calls = StubCalls(slowly)
    await runner(tmp_path, calls, "abcd").make()
    assert calls.most_at_a_time == 1


async def fails(call: StubCall) -> tuple[EndedReason, bool]:
    return EndedReason.CALLER_HUNG_UP, False


async def loses_the_network(call: StubCall) -> tuple[EndedReason, bool]:
    return EndedReason.ICE_FAILED, False


@pytest.mark.parametrize(
    ("behaviours", "code", "totals"),
    [
        ({}, 0, (3, 0, 0)),
        ({"b": fails}, 1, (2, 1, 0)),
        ({"b": loses_the_network}, 2, (2, 0, 1)),
        ({"a": loses_the_network, "b": fails}, 1, (1, 1, 1)),
    ],
)
async def test_the_exit_code_is_that_of_the_worst_run(
    tmp_path: Path, behaviours: dict[str, Behaviour], code: int, totals: tuple[int, int, int]
) -> None:
    result = await runner(tmp_path, StubCalls(**behaviours)).make()
    assert result.exit_code == code
    assert (result.totals.passed, result.totals.failed, result.totals.inconclusive) == totals
    assert result.totals.runs == 3 and result.totals.open == 0


async def test_a_run_says_what_became_of_it(tmp_path: Path) -> None:
    result = await runner(tmp_path, StubCalls(b=fails), "ab").make()
    passed, failed = result.runs
    assert (passed.status, passed.success, passed.cause, passed.exit_code) == (Status.COMPLETED, True, None, 0)
    assert passed.ended_reason is EndedReason.CALLER_HUNG_UP
    assert passed.duration_s == 2.0
    assert passed.folder is not None and (tmp_path / "out" / passed.folder / "run.json").exists()
    assert (failed.success, failed.cause, failed.exit_code) == (False, Cause.AGENT, 1)
    assert failed.detail is not None and "response" in failed.detail
    assert [verdict.turn for verdict in failed.unmet] == [0]
    assert read_suite(tmp_path / "out") == result


async def test_every_result_is_on_disk_before_the_next_run_begins(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    async def look(call: StubCall) -> tuple[EndedReason, bool]:
        seen.append(json.loads((tmp_path / "out" / "suite.json").read_text()))
        return await passes(call)

    await runner(tmp_path, StubCalls(look)).make()
    assert [[run["scenario"] for run in at["runs"]] for at in seen] == [[], ["all/a"], ["all/a", "all/b"]]
    assert [len(at["open"]) for at in seen] == [3, 2, 1]
    assert not any(at["finished"] for at in seen)
    assert [at["totals"]["passed"] for at in seen] == [0, 1, 2]
    assert all(at["exit_code"] == 2 for at in seen)


async def test_whoever_keeps_results_gets_every_state_in_turn(tmp_path: Path) -> None:
    kept: list[SuiteResult] = []
    under_way = most_at_a_time = 0

    def keep(result: SuiteResult) -> None:
        nonlocal under_way, most_at_a_time
        under_way += 1
        most_at_a_time = max(most_at_a_time, under_way)
        time.sleep(0.02)
        kept.append(result)
        under_way -= 1

    result = await runner(tmp_path, StubCalls(slowly), "abcdef", more="concurrency: 3", keep=keep).make()
    assert most_at_a_time == 1
    counts = [len(state.runs) for state in kept]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert kept[-1] == result


async def test_a_watcher_sees_runs_begin_and_end(tmp_path: Path) -> None:
    watcher = Watcher()
    await runner(tmp_path, StubCalls(b=fails), "ab", watcher=watcher).make()
    assert watcher.seen == [
        "begun all/a", "over all/a", "ended all/a: True", "begun all/b", "over all/b", "ended all/b: False"
    ]  # fmt: skip


async def test_what_the_suite_says_reaches_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_TOKEN", "s3cr3t")
    agent = "agent: { url: 'http://127.0.0.1:7860', token: env:AGENT_TOKEN, data: { a: 1 }, publish: { type: x } }"
    calls = StubCalls()
    await runner(tmp_path, calls, "a", agent, allow_unjudged=True).make()
    request = calls.made[0].request
    assert request.allow_unjudged
    assert request.address.url == "http://127.0.0.1:7860"
    assert request.address.request_data == {"a": 1}
    assert request.address.token is not None and request.address.token.get_secret_value() == "s3cr3t"
    assert request.data_message is not None and request.data_message.value == {"type": "x"}
    assert "s3cr3t" not in (tmp_path / "out" / "suite.json").read_text()


# As many at a time as the machine has headroom for.


class Loads:
    """A machine whose load is made up; looked at far more often than a real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine = 0.0
        monkeypatch.setattr(suites, "LAG_INTERVAL_S", 0.001)
        monkeypatch.setattr(suites, "LOAD_INTERVAL_S", 0.001)
        monkeypatch.setattr(headroom, "SETTLED_AFTER_S", 0.02)

    def __call__(self, lag_ms: float) -> Load:
        return Load(machine=self.machine, process_cores=0.0, lag_ms=0.0)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    return Loads(monkeypatch)


async def a_while(call: StubCall) -> tuple[EndedReason, bool]:
    await anyio.sleep(0.1)
    return await passes(call)


async def test_more_runs_are_made_at_once_while_there_is_headroom(tmp_path: Path, loads: Loads) -> None:
    calls = StubCalls(a_while)
    names = "abcdefghijklmnopqrst"
    result = await runner(
        tmp_path, calls, names, more="concurrency: auto", measure_load=loads, cores=0.5, watcher=Watcher()
    ).make()
    assert names_of(result.runs) == list(names)
    assert calls.live_at[:1] == [1] and calls.most_at_a_time == 4, "half a core takes four, whatever is measured"
    assert result.warnings == [] and result.finished


async def test_a_busy_machine_makes_one_run_at_a_time(tmp_path: Path, loads: Loads) -> None:
    loads.machine = 0.9
    calls = StubCalls(slowly)
    await runner(tmp_path, calls, "abcdefgh", more="concurrency: auto", measure_load=loads, cores=2).make()
    assert calls.most_at_a_time == 1


async def test_late_audio_lowers_concurrency_and_the_suite_says_so(tmp_path: Path) -> None:
    async def late(call: StubCall) -> tuple[EndedReason, bool]:
        await anyio.sleep(0.05)
        if len(calls.live) > 2:
            call.watcher.fact(CallerUnderrun(at_ns=5, turn=0, duration_ms=60))
            call.watcher.fact(HarnessStalled(at_ns=6, duration_ms=300))
        await anyio.sleep(0.05)
        return await passes(call)

    calls, watcher = StubCalls(late), Watcher()
    result = await runner(tmp_path, calls, "abcdefgh", more="concurrency: 4", watcher=watcher).make()
    warning = "4 calls at once were too many for this machine: went down to 2"
    assert calls.most_at_a_time == 4
    assert max(calls.live_at[4:]) == 2
    assert result.warnings == [warning] and read_suite(tmp_path / "out").warnings == [warning]
    assert watcher.seen.count(f"limited to 2: {warning}") == 1
    assert names_of(result.runs) == list("abcdefgh") and result.exit_code == 0


# Runs that are made again.


def spoilt_by(reason: EndedReason, times: int) -> Behaviour:
    """Return a behaviour that comes to nothing so many times, and passes then."""
    spoilt: list[str] = []

    async def behave(call: StubCall) -> tuple[EndedReason, bool]:
        spoilt.append(call.run_id)
        return (reason, False) if len(spoilt) <= times else await passes(call)

    return behave


@pytest.mark.parametrize(
    ("reason", "cause"), [(EndedReason.RUNNER_ERROR, Cause.HARNESS), (EndedReason.ICE_FAILED, Cause.NETWORK)]
)
async def test_a_run_spoilt_by_us_is_made_again_and_both_are_kept(
    tmp_path: Path, reason: EndedReason, cause: Cause
) -> None:
    calls, watcher = StubCalls(b=spoilt_by(reason, 1)), Watcher()
    result = await runner(tmp_path, calls, watcher=watcher).make()
    assert [call.name for call in calls.made] == ["a", "b", "b", "c"]
    assert names_of(result.runs) == ["a", "b", "c"]
    run = result.runs[1]
    (attempt,) = run.earlier_attempts
    assert (run.success, run.folder, result.exit_code) == (True, calls.made[2].run_id, 0)
    assert (attempt.success, attempt.cause, attempt.ended_reason) == (None, cause, reason)
    assert (attempt.folder, attempt.repeated_because) == (calls.made[1].run_id, f"inconclusive (cause: {cause})")
    assert attempt.folder is not None and read_run(tmp_path / "out" / attempt.folder).ended_reason is reason
    assert read_suite(tmp_path / "out") == result
    assert watcher.seen[2:6] == [
        "begun all/b",
        f"repeats all/b: inconclusive (cause: {cause})",
        "begun all/b",
        "ended all/b: True",
    ]


@pytest.mark.parametrize(
    ("more", "calls_made"), [("", 2), ("retry_inconclusive: 0", 1), ("retry_inconclusive: 2", 3)]
)
async def test_a_run_is_made_again_as_often_as_the_suite_says(tmp_path: Path, more: str, calls_made: int) -> None:
    calls = StubCalls(spoilt_by(EndedReason.ICE_FAILED, 9))
    result = await runner(tmp_path, calls, "a", more=more).make()
    (run,) = result.runs
    assert len(calls.made) == calls_made
    assert [attempt.folder for attempt in run.earlier_attempts] == [call.run_id for call in calls.made[:-1]]
    assert (run.success, run.cause, result.finished, result.exit_code) == (None, Cause.NETWORK, True, 2)


@pytest.mark.parametrize("reason", [EndedReason.ROOM_UNREACHABLE, EndedReason.AGENT_FROZE])
async def test_what_the_agent_or_its_room_did_is_not_tried_again(tmp_path: Path, reason: EndedReason) -> None:
    calls = StubCalls(spoilt_by(reason, 9))
    await runner(tmp_path, calls, "a").make()
    assert len(calls.made) == 1


async def test_a_mistake_in_what_is_asked_for_is_not_tried_again(tmp_path: Path) -> None:
    async def refuses(call: StubCall) -> tuple[EndedReason, bool]:
        raise UsageError("the same the next time")

    calls = StubCalls(refuses)
    await runner(tmp_path, calls, "a").make()
    assert len(calls.made) == 1


async def test_of_a_suite_stopped_before_a_retry_the_first_call_counts(tmp_path: Path) -> None:
    the_runner: SuiteRunner

    async def spoilt_and_stopped(call: StubCall) -> tuple[EndedReason, bool]:
        if len(calls.made) == 2:
            the_runner.cancel("stopped by SIGINT")
        return EndedReason.ICE_FAILED, False

    calls = StubCalls(spoilt_and_stopped)
    watcher = Watcher()
    the_runner = runner(tmp_path, calls, "ab", more="concurrency: 2", watcher=watcher)
    result = await the_runner.make()
    assert len(calls.made) == 2
    assert watcher.seen[-1] == "ended all/b: None", "and not that it is made again"
    assert [run.cause for run in result.runs] == [Cause.NETWORK] * 2
    assert result.open == [] and not result.finished


# Runs that can't be made.


@pytest.mark.parametrize(
    ("error", "reason", "cause"),
    [
        (RoomError(EndedReason.ROOM_UNREACHABLE, "nobody there"), EndedReason.ROOM_UNREACHABLE, Cause.ROOM),
        (UsageError("nobody there"), EndedReason.RUNNER_ERROR, Cause.HARNESS),
        (ZeroDivisionError("nobody there"), EndedReason.RUNNER_ERROR, Cause.HARNESS),
    ],
)
async def test_a_run_that_can_t_be_made_does_not_stop_the_rest(
    tmp_path: Path, error: Exception, reason: EndedReason, cause: Cause
) -> None:
    async def breaks(call: StubCall) -> tuple[EndedReason, bool]:
        raise error

    result = await runner(tmp_path, StubCalls(b=breaks)).make()
    broken = result.runs[1]
    assert [run.success for run in result.runs] == [True, None, True]
    assert (broken.status, broken.ended_reason, broken.cause) == (Status.FAILED, reason, cause)
    assert broken.detail is not None and "nobody there" in broken.detail
    assert broken.folder is None
    assert result.finished and result.exit_code == 2


async def test_a_folder_that_holds_a_suite_is_left_alone(tmp_path: Path) -> None:
    await runner(tmp_path, StubCalls()).make()
    before = (tmp_path / "out" / "suite.json").read_bytes()
    calls = StubCalls()
    with pytest.raises(UsageError, match="holds a suite's results already"):
        await runner(tmp_path, calls).make()
    assert calls.made == []
    assert (tmp_path / "out" / "suite.json").read_bytes() == before


async def test_a_folder_that_can_t_be_made_is_known_before_any_call(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    calls = StubCalls()
    with pytest.raises(UsageError, match="can't be written"):
        await runner(tmp_path, calls).make()
    assert calls.made == []


async def test_unwritable_results_end_a_suite_only_before_any_call(tmp_path: Path) -> None:
    written = 0

    def keep(result: SuiteResult) -> None:
        nonlocal written
        written += 1
        if result.runs:
            raise OSError(28, "No space left on device", "junit.xml")

    calls = StubCalls()
    with pytest.raises(RunnerError, match=r"^junit\.xml: can't be written \(No space left on device\)"):
        await runner(tmp_path, calls, keep=keep).make()
    assert written > 3
    assert len(calls.made) == 3
    kept = read_suite(tmp_path / "out")
    assert kept.finished and kept.totals.passed == 3, "the other one goes on being written"

    def refuse(result: SuiteResult) -> None:
        raise OSError(13, "Permission denied", "junit.xml")

    calls = StubCalls()
    (tmp_path / "out").rename(tmp_path / "before")
    with pytest.raises(UsageError, match=r"junit\.xml: can't be written \(Permission denied\)"):
        await runner(tmp_path, calls, keep=refuse).make()
    assert calls.made == []
    assert not (tmp_path / "out").exists()


async def test_results_unwritable_for_a_while_are_not_lost(tmp_path: Path) -> None:
    def keep(result: SuiteResult) -> None:
        if len(result.runs) == 1:
            raise OSError(28, "No space left on device", "junit.xml")

    assert (await runner(tmp_path, StubCalls(), keep=keep).make()).exit_code == 0


async def test_a_suite_json_that_is_lost_is_no_pass(tmp_path: Path) -> None:
    kept: list[SuiteResult] = []

    async def wipe(call: StubCall) -> tuple[EndedReason, bool]:
        if call.name == "c":
            (tmp_path / "out" / "suite.json").unlink()
            (tmp_path / "out" / "suite.json").mkdir()
        return await passes(call)

    with pytest.raises(RunnerError, match=r"suite\.json: can't be written \(Is a directory\)"):
        await runner(tmp_path, StubCalls(wipe), keep=kept.append).make()
    assert kept[-1].finished, "the other one goes on being written"


async def test_a_mistake_of_ours_in_writing_results_is_not_passed_over(tmp_path: Path) -> None:
    def keep(result: SuiteResult) -> None:
        if result.runs:
            raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await runner(tmp_path, StubCalls(), keep=keep).make()
    assert caught.value.subgroup(ZeroDivisionError)


async def test_what_is_under_way_is_on_disk_before_it_begins(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    async def look(call: StubCall) -> tuple[EndedReason, bool]:
        at = read_suite(tmp_path / "out")
        seen.append([run.title for run in at.open if run.under_way])
        return await passes(call)

    result = await runner(tmp_path, StubCalls(look)).make()
    assert seen == [["all/a"], ["all/b"], ["all/c"]]
    assert result.open == []


async def test_a_slots_last_result_does_not_wait_for_the_other_slots(tmp_path: Path) -> None:
    async def outlasts_the_others(call: StubCall) -> tuple[EndedReason, bool]:
        with anyio.fail_after(5):
            while not read_suite(tmp_path / "out").runs:
                await anyio.sleep(0.01)
        return await passes(call)

    result = await runner(tmp_path, StubCalls(a=outlasts_the_others), "ab", more="concurrency: 2").make()
    assert result.exit_code == 0


async def test_a_suite_stopped_between_two_runs_begins_no_more(tmp_path: Path) -> None:
    calls = StubCalls()
    watcher = Watcher()
    the_runner: SuiteRunner

    def keep(result: SuiteResult) -> None:
        if len(result.runs) == 2:
            anyio.from_thread.run_sync(the_runner.cancel, "stopped by SIGINT")

    the_runner = runner(tmp_path, calls, watcher=watcher, keep=keep)
    result = await the_runner.make()
    assert [call.name for call in calls.made] == ["a", "b"]
    assert watcher.seen[-1] == "ended all/b: True"
    assert result.stopped == "stopped by SIGINT"
    assert names_of(result.open) == ["c"] and not result.open[0].under_way


async def test_scenarios_that_can_t_be_played_are_listed(tmp_path: Path) -> None:
    the_runner = runner(tmp_path, StubCalls(), "a")
    (tmp_path / "all.yaml").write_text(
        f"name: all\nscenarios: [{{ name: a, {LISTEN} }}, {{ name: b, persona: x }}]\n"
    )
    the_runner.suite = load_suite(tmp_path / "suite.yaml", Settings())
    result = await the_runner.make()
    assert [(s.scenario, s.file) for s in result.skipped] == [("all/b", str(tmp_path / "all.yaml"))]
    assert "persona:" in result.skipped[0].reason
    assert (result.totals.runs, result.totals.skipped, result.exit_code) == (1, 1, 0)


async def test_a_line_that_can_t_be_spoken_is_known_before_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mute(script: Any, settings: Settings) -> dict[int, Any]:
        if script.name == "all/c":
            raise UsageError("no voice")
        return {}

    monkeypatch.setattr("runner.calls.suite.speech_lines", mute)
    calls = StubCalls()
    with pytest.raises(UsageError, match="no voice"):
        await runner(tmp_path, calls).make()
    assert calls.made == []


# Stopping.


async def cancelled_at(the_runner: SuiteRunner, ready: Callable[[], bool]) -> SuiteResult:
    result: list[SuiteResult] = []

    async def make() -> None:
        result.append(await the_runner.make())

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(make)
            while not ready():
                await anyio.sleep(0.01)
            the_runner.cancel("stopped by SIGINT")
    return result[0]


async def test_a_stopped_suite_cancels_active_runs_and_begins_none(tmp_path: Path) -> None:
    calls = StubCalls(until_cancelled, a=fails)
    watcher = Watcher()
    the_runner = runner(tmp_path, calls, "abcdef", more="concurrency: 2", watcher=watcher)
    result = await cancelled_at(the_runner, lambda: len(calls.live) == 2)
    assert [call.name for call in calls.made] == ["a", "b", "c"]
    assert [call.cancelled for call in calls.made] == [None, "stopped by SIGINT", "stopped by SIGINT"]
    assert names_of(result.runs) == ["a", "b", "c"]
    assert [run.status for run in result.runs[1:]] == [Status.CANCELLED] * 2
    assert names_of(result.open) == ["d", "e", "f"]
    assert (result.finished, result.stopped) == (False, "stopped by SIGINT")
    assert result.exit_code == 2, "although the agent failed in one"
    assert read_suite(tmp_path / "out") == result


async def test_a_suite_that_is_over_can_t_be_stopped_any_more(tmp_path: Path) -> None:
    the_runner = runner(tmp_path, StubCalls(), "a")
    await the_runner.make()
    the_runner.cancel("late")
    assert read_suite(tmp_path / "out").stopped is None


async def test_a_suite_stopped_while_lines_are_spoken_calls_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaking = False

    async def speak(script: Any, settings: Settings) -> dict[int, Any]:
        nonlocal speaking
        speaking = True
        await anyio.sleep_forever()
        return {}

    monkeypatch.setattr("runner.calls.suite.speech_lines", speak)
    calls = StubCalls()
    result = await cancelled_at(runner(tmp_path, calls), lambda: speaking)
    assert calls.made == []
    assert result.runs == [] and len(result.open) == 3
    assert result.exit_code == 2


# Agents of ours.

AGENT = """
import os, socket, sys, time
port, pids, *how = sys.argv[1:]
print("here I am", flush=True)
with open(pids, "a") as file:
    file.write(f"{os.getpid()}\\n")
if "broken" in how:
    sys.exit("the model is not there")
if "raises" in how:
    server = socket.create_server(("127.0.0.1", int(port)))
    while not os.path.exists(pids + ".die"):
        time.sleep(0.01)
    raise KeyError("order")
if "deaf" in how:
    time.sleep(60)
server = socket.create_server(("127.0.0.1", int(port)))
while True:
    server.accept()[0].close()
"""


class Agents:
    """A small agent to start by command, and the processes that were started."""

    def __init__(self, folder: Path) -> None:
        self._pids = folder / "pids"
        self._program = folder / "agent.py"
        self._program.write_text(AGENT)

    def yaml(self, *how: str) -> str:
        command = ["{python}", "-S", "-E", str(self._program), "{port}", str(self._pids), *how]
        return f"agent: {{ command: {json.dumps(command)} }}"

    @property
    def pids(self) -> list[int]:
        return [int(pid) for pid in self._pids.read_text().split()] if self._pids.exists() else []

    def alive(self) -> list[int]:
        return [pid for pid in self.pids if Path(f"/proc/{pid}").exists() and not self._is_zombie(pid)]

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    @staticmethod
    def _is_zombie(pid: int) -> bool:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()


@pytest.fixture
def agents(tmp_path: Path) -> Agents:
    return Agents(tmp_path)


def ports(calls: StubCalls) -> list[str]:
    return [call.request.address.url for call in calls.made]


async def test_an_agent_starts_once_a_slot_and_ends_with_the_suite(tmp_path: Path, agents: Agents) -> None:
    calls = StubCalls(slowly)
    result = await runner(tmp_path, calls, "abcdefgh", agents.yaml(), "concurrency: 2").make()
    assert result.exit_code == 0
    assert len(agents.pids) == 2
    assert len(set(ports(calls))) == 2
    assert agents.alive() == []
    assert (tmp_path / "out" / "agent-1.log").read_text() == "here I am\n"


async def test_no_more_agents_are_started_than_there_are_runs(tmp_path: Path, agents: Agents) -> None:
    await runner(tmp_path, StubCalls(), "a", agents.yaml(), "concurrency: 8").make()
    assert len(agents.pids) == 1


async def test_an_agent_that_dies_in_a_call_does_not_spoil_the_next(tmp_path: Path, agents: Agents) -> None:
    async def dies(call: StubCall) -> tuple[EndedReason, bool]:
        agents.kill(agents.pids[-1])
        await anyio.sleep(0.2)
        return EndedReason.AGENT_VANISHED, False

    calls = StubCalls(b=dies)
    result = await runner(tmp_path, calls, "abcd", agents.yaml()).make()
    assert [run.success for run in result.runs] == [True, False, True, True]
    assert len(agents.pids) == 2
    assert ports(calls)[0] == ports(calls)[1]
    assert ports(calls)[2] == ports(calls)[3]
    died = result.runs[1]
    assert (died.agent_exit_code, died.agent_log) == (-signal.SIGKILL, "agent-1.log")
    assert died.folder is not None
    (end,) = [e for e in read_timeline(tmp_path / "out" / died.folder / "timeline.jsonl") if e.type == PROCESS_ENDED]
    assert isinstance(end, AgentProcessEnded)
    assert (end.exit_code, end.log_tail) == (-signal.SIGKILL, ""), "what it said before is not what it died of"


async def test_what_an_agent_died_of_is_a_fact_and_the_headline(
    tmp_path: Path, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "EXIT_GRACE_S", 10)

    async def raises(call: StubCall) -> tuple[EndedReason, bool]:
        # It takes a moment longer to die than its call does to end.
        (tmp_path / "pids.die").touch()
        return EndedReason.AGENT_LEFT, False

    (run,) = (await runner(tmp_path, StubCalls(raises), "a", agents.yaml("raises")).make()).runs
    assert (run.success, run.cause, run.agent_exit_code) == (False, Cause.AGENT, 1)
    assert run.failure is not None and run.failure.kind is FailureKind.CRASHED
    assert run.detail == "turn 1: the agent's process ended with exit code 1: KeyError: 'order'"
    assert run.folder is not None
    (end,) = [e for e in read_timeline(tmp_path / "out" / run.folder / "timeline.jsonl") if e.type == PROCESS_ENDED]
    assert isinstance(end, AgentProcessEnded)
    assert end.log_tail.splitlines()[0].startswith("Traceback"), "and not what it printed when it was started"
    assert read_run(tmp_path / "out" / run.folder).detail == run.detail


async def test_a_run_that_finds_its_agent_dead_is_made_again(tmp_path: Path, agents: Agents) -> None:
    async def finds_it_dead(call: StubCall) -> tuple[EndedReason, bool]:
        if len(agents.pids) > 1:
            return await passes(call)
        # It dies after it was looked at, and before it is called.
        agents.kill(agents.pids[-1])
        await anyio.sleep(0.1)
        return EndedReason.ROOM_UNREACHABLE, False

    calls = StubCalls(b=finds_it_dead)
    result = await runner(tmp_path, calls, "abc", agents.yaml()).make()
    assert [call.name for call in calls.made] == ["a", "b", "b", "c"]
    assert [run.success for run in result.runs] == [True, True, True]
    assert len(agents.pids) == 2
    (attempt,) = result.runs[1].earlier_attempts
    assert (attempt.folder, attempt.repeated_because) == (
        calls.made[1].run_id,
        "the agent had died of the run before",
    )
    assert (attempt.success, attempt.cause, attempt.ended_reason) == (
        None,
        Cause.ROOM,
        EndedReason.ROOM_UNREACHABLE,
    )
    assert not result.runs[0].earlier_attempts and not result.runs[2].earlier_attempts
    assert (tmp_path / "out" / calls.made[1].run_id / "run.json").exists()


async def test_a_first_attempt_is_known_also_where_there_is_no_second(tmp_path: Path, agents: Agents) -> None:
    async def finds_it_dead(call: StubCall) -> tuple[EndedReason, bool]:
        agents.kill(agents.pids[-1])
        (tmp_path / "agent.py").write_text("raise SystemExit('gone')")
        await anyio.sleep(0.1)
        return EndedReason.ROOM_UNREACHABLE, False

    calls = StubCalls(b=finds_it_dead)
    result = await runner(tmp_path, calls, "ab", agents.yaml()).make()
    assert [call.name for call in calls.made] == ["a", "b"]
    assert result.runs[1].folder is None
    assert [attempt.folder for attempt in result.runs[1].earlier_attempts] == [calls.made[1].run_id]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (EndedReason.AGENT_NEVER_JOINED, True),
        (EndedReason.AGENT_NEVER_SPOKE, True),
        (EndedReason.AGENT_VANISHED, True),
        (EndedReason.AGENT_FROZE, True),
        (EndedReason.ROOM_UNREACHABLE, True),
        (EndedReason.CALLER_HUNG_UP, False),
    ],
)
async def test_the_agents_output_is_named_where_it_may_explain_a_run(
    tmp_path: Path, agents: Agents, reason: EndedReason, told: bool
) -> None:
    async def ends(call: StubCall) -> tuple[EndedReason, bool]:
        return reason, False

    (run,) = (await runner(tmp_path, StubCalls(ends), "a", agents.yaml()).make()).runs
    assert run.agent_log == ("agent-1.log" if told else None)
    (tmp_path / "out").rename(tmp_path / "before")
    (run,) = (await runner(tmp_path, StubCalls(ends), "a").make()).runs
    assert run.agent_log is None


async def test_what_an_agent_printed_is_kept_to_a_limit(
    tmp_path: Path, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.calls.suite.MAX_LOG_BYTES", 1_000)
    log = tmp_path / "out" / "agent-1.log"
    sizes: list[int] = []

    async def chatters(call: StubCall) -> tuple[EndedReason, bool]:
        sizes.append(log.stat().st_size)
        with log.open("a") as file:
            file.writelines(f"line {n}\n" for n in range(1_000))
        return await passes(call)

    await runner(tmp_path, StubCalls(chatters), agent=agents.yaml()).make()
    assert max(sizes) < 1_000
    assert len(sizes) == 3


async def test_an_agent_that_dies_of_calls_is_not_called_forever(tmp_path: Path, agents: Agents) -> None:
    async def dies_at_once(call: StubCall) -> tuple[EndedReason, bool]:
        agents.kill(agents.pids[-1])
        await anyio.sleep(0.1)
        return EndedReason.ROOM_UNREACHABLE, False

    calls = StubCalls(dies_at_once)
    result = await runner(tmp_path, calls, "ab", agents.yaml()).make()
    assert [call.name for call in calls.made] == ["a", "b"]
    assert [run.ended_reason for run in result.runs] == [EndedReason.ROOM_UNREACHABLE] * 2


async def test_an_agent_that_froze_is_not_used_again(tmp_path: Path, agents: Agents) -> None:
    async def freezes(call: StubCall) -> tuple[EndedReason, bool]:
        return EndedReason.AGENT_FROZE, True

    await runner(tmp_path, StubCalls(a=freezes), "abc", agents.yaml()).make()
    assert len(agents.pids) == 2
    assert agents.alive() == []


async def test_an_agent_that_can_t_be_started_is_a_result(tmp_path: Path, agents: Agents) -> None:
    calls = StubCalls()
    result = await runner(tmp_path, calls, "ab", agents.yaml("broken")).make()
    assert calls.made == []
    assert len(agents.pids) == 2, "each run tries"
    for run in result.runs:
        assert (run.success, run.ended_reason, run.cause) == (None, EndedReason.ROOM_UNREACHABLE, Cause.ROOM)
        assert run.detail is not None
        assert "ended with exit code 1" in run.detail
        assert run.detail.endswith("the model is not there")
        assert run.agent_log == "agent-1.log"
        assert "\n" not in run.detail
    assert "here I am" in (tmp_path / "out" / "agent-1.log").read_text()


async def test_a_program_that_is_not_there_is_a_result(tmp_path: Path) -> None:
    agent = 'agent: { command: [/no/such/program, "{port}"] }'
    result = await runner(tmp_path, StubCalls(), "a", agent).make()
    assert result.runs[0].detail is not None
    assert result.runs[0].detail.endswith("/no/such/program"), "and no log, as there is none"


async def test_an_agent_that_never_listens_is_ended(
    tmp_path: Path, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_agent, "START_TIMEOUT_S", 0.3)
    result = await runner(tmp_path, StubCalls(), "a", agents.yaml("deaf")).make()
    assert result.runs[0].detail is not None and "does not listen" in result.runs[0].detail
    assert agents.alive() == []


async def test_a_suite_stopped_while_an_agent_starts_has_no_result(tmp_path: Path, agents: Agents) -> None:
    calls = StubCalls()
    result = await cancelled_at(runner(tmp_path, calls, "ab", agents.yaml("deaf")), lambda: bool(agents.pids))
    assert calls.made == []
    assert agents.alive() == []
    assert result.runs == [] and names_of(result.open) == ["a", "b"]


async def test_agents_end_when_the_suite_is_cut_off_from_outside(tmp_path: Path, agents: Agents) -> None:
    calls = StubCalls(until_cancelled)
    the_runner = runner(tmp_path, calls, "ab", agents.yaml())
    with anyio.move_on_after(5) as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(the_runner.make)
            while not calls.live:
                await anyio.sleep(0.01)
            scope.cancel()
    assert agents.alive() == []


async def test_all_agents_can_be_killed_at_once(tmp_path: Path, agents: Agents) -> None:
    agent = local_agent.LastingAgent(
        ["{python}", "-S", "-E", str(tmp_path / "agent.py"), "{port}", str(tmp_path / "pids")], {}, tmp_path / "log"
    )
    async with agent:
        await agent.address()
        local_agent.kill_local_agents()
        with anyio.fail_after(5):
            while agent.exit_code is None:
                await anyio.sleep(0.01)
        assert agent.exit_code == -signal.SIGKILL
        assert not await agent.is_alive()


async def test_the_environment_is_filled_in(tmp_path: Path) -> None:
    program = tmp_path / "by_env.py"
    program.write_text(
        "import os, socket\n"
        "server = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\n"
        "while True: server.accept()\n"
    )
    async with local_agent.LastingAgent(["{python}", str(program)], {"PORT": "{port}"}, tmp_path / "log") as agent:
        assert (await agent.address()).startswith("http://127.0.0.1:")
    with pytest.raises(RunnerError, match="KeyError"):
        async with local_agent.LastingAgent(["{python}", str(program)], {}, tmp_path / "log") as agent:
            await agent.address()


# Sessions started at an address.


@contextmanager
def start_server(answer: Callable[[int], tuple[int, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Answer posts, and yield the address and what was posted."""
    posted: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, self.headers.get("Authorization"), json.loads(body)))
            status, content = answer(len(posted))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def do_DELETE(self) -> None:
            posted.append((self.path, self.headers.get("Authorization"), None))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_each_run_gets_a_session_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_TOKEN", "pk_s3cr3t")
    server = {"urls": "turn:a", "username": "u", "credential": "c"}
    with start_server(lambda n: (200, {"sessionId": f"s{n}", "iceConfig": {"iceServers": [server]}})) as (
        base,
        posted,
    ):
        agent = f"agent: {{ start_url: '{base}/my-agent/start', token: env:AGENT_TOKEN, data: {{ a: 1 }} }}"
        calls = StubCalls()
        result = await runner(tmp_path, calls, "ab", agent).make()
    assert result.exit_code == 0
    assert posted == [("/my-agent/start", "Bearer pk_s3cr3t", {"body": {"a": 1}})] * 2
    addresses = [call.request.address for call in calls.made]
    assert [a.url for a in addresses] == [f"{base}/my-agent/sessions/s{n}/api/offer" for n in (1, 2)]
    assert [a.ice_servers[0].urls for a in addresses] == ["turn:a"] * 2
    assert all(a.token is not None and a.request_data is None for a in addresses)


async def test_a_session_in_a_daily_room_is_entered_with_its_own_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_TOKEN", "pk_s3cr3t")
    answer = {"dailyRoom": "https://acme.daily.co/r", "dailyToken": "room-s3cr3t", "sessionId": "x"}
    with start_server(lambda n: (200, answer)) as (base, posted):
        agent = f"agent: {{ start_url: '{base}/start', transport: daily, token: env:AGENT_TOKEN }}"
        calls = StubCalls()
        await runner(tmp_path, calls, "a", agent).make()
    assert posted[0][2] == {"createDailyRoom": True, "body": {}}
    address = calls.made[0].request.address
    assert address.url == "https://acme.daily.co/r"
    assert address.token is not None and address.token.get_secret_value() == "room-s3cr3t"
    assert "s3cr3t" not in (tmp_path / "out" / "suite.json").read_text()


@pytest.mark.parametrize(
    ("status", "content", "reason"),
    [
        (401, {}, EndedReason.TOKEN_REFUSED),
        (503, {"detail": "no room"}, EndedReason.ROOM_UNREACHABLE),
        (200, {"hello": 1}, EndedReason.ROOM_UNREACHABLE),
    ],
)
async def test_a_session_not_started_is_a_result_and_the_next_is_tried(
    tmp_path: Path, status: int, content: Any, reason: EndedReason
) -> None:
    def answer(n: int) -> tuple[int, Any]:
        return (status, content) if n == 1 else (200, {"sessionId": "x"})

    with start_server(answer) as (base, _):
        result = await runner(tmp_path, StubCalls(), "ab", f"agent: {{ start_url: '{base}/start' }}").make()
    assert [run.success for run in result.runs] == [None, True]
    assert (result.runs[0].ended_reason, result.runs[0].cause) == (reason, Cause.ROOM)
