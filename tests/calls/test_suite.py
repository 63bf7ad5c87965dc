"""Running a suite: how many at a time, in which order, and what is kept."""

import json
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest

from bots.timeline import (
    CallerUnderrun,
    EndedReason,
    HarnessStalled,
)
from runner.calls import headroom
from runner.calls import suite as suites
from runner.calls.headroom import MachineUse
from runner.calls.run_file import read_run
from runner.calls.suite import SuiteRunner
from runner.calls.suite_file import SuiteResult, read_suite
from runner.errors import RoomError, RunnerError, UsageError
from runner.evaluation.outcome import Status
from runner.evaluation.verdicts import Cause
from runner.scenarios.suites import load_suite
from runner.settings import Settings
from tests.calls.stubs import (
    LISTEN,
    Behaviour,
    StubCall,
    StubCalls,
    Watcher,
    cancelled_at,
    fails,
    loses_the_network,
    names_of,
    passes,
    runner,
    slowly,
    until_cancelled,
)

pytestmark = pytest.mark.anyio


# Order, bounds, results.


async def test_runs_are_made_in_order_and_no_more_at_once_than_allowed(tmp_path: Path) -> None:
    async def beside_others(call: StubCall) -> tuple[EndedReason, bool]:
        while calls.most_at_a_time < 3:
            await anyio.sleep(0.01)
        return await slowly(call)

    calls = StubCalls(beside_others)
    result = await runner(tmp_path, calls, "abcdefg", more="concurrency: 3").make()
    assert [call.name for call in calls.made] == list("abcdefg")
    assert calls.most_at_a_time == 3
    assert names_of(result.runs) == list("abcdefg")
    assert result.finished
    assert result.exit_code == 0


async def test_one_at_a_time_is_one_at_a_time(tmp_path: Path) -> None:
    calls = StubCalls(slowly)
    await runner(tmp_path, calls, "abcd").make()
    assert calls.most_at_a_time == 1


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

    def __call__(self, lag_ms: float) -> MachineUse:
        return MachineUse(machine=self.machine, process_cores=0.0, lag_ms=0.0)


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
        tmp_path, calls, names, more="concurrency: auto", measure_use=loads, cores=0.5, watcher=Watcher()
    ).make()
    assert names_of(result.runs) == list(names)
    assert calls.live_at[:1] == [1] and calls.most_at_a_time == 4, "half a core takes four, whatever is measured"
    assert result.warnings == [] and result.finished


async def test_a_busy_machine_makes_one_run_at_a_time(tmp_path: Path, loads: Loads) -> None:
    loads.machine = 0.9
    calls = StubCalls(slowly)
    await runner(tmp_path, calls, "abcdefgh", more="concurrency: auto", measure_use=loads, cores=2).make()
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
    assert watcher.seen[3:9] == [
        "begun all/b",
        "over all/b",
        f"repeats all/b: inconclusive (cause: {cause})",
        "begun all/b",
        "over all/b",
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
