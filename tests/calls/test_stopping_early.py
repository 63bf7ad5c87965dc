"""A suite that stops at the agent's first failure, and one that runs what did not pass the last time."""

import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from bots.timeline import EndedReason, HarnessStalled
from runner.calls.last_failed import NothingFailed, select_last_failed
from runner.calls.suite_file import SuiteResult, read_suite
from runner.errors import UsageError
from runner.scenarios.suites import Suite
from tests.calls.stubs import (
    AT_URL,
    StubCall,
    StubCalls,
    Watcher,
    fails,
    loses_the_network,
    names_of,
    passes,
    runner,
)

pytestmark = pytest.mark.anyio

TWO = "concurrency: 2"


async def test_after_the_first_failure_no_more_runs_are_begun(tmp_path: Path) -> None:
    calls = StubCalls(b=fails)
    result = await runner(tmp_path, calls, "abcd", fail_fast=True).make()
    assert [call.name for call in calls.made] == ["a", "b"]
    assert (names_of(result.runs), names_of(result.open)) == (["a", "b"], ["c", "d"])
    assert result.stopped == "the agent failed in all/b, the first failure"
    assert (result.finished, result.failed_fast, result.exit_code) == (False, True, 1)
    assert read_suite(tmp_path / "out") == result


async def test_a_run_under_way_goes_on_to_its_end(tmp_path: Path) -> None:
    failed = anyio.Event()

    async def outlasts(call: StubCall) -> tuple[EndedReason, bool]:
        await failed.wait()
        await anyio.sleep(0.02)
        assert call.cancelled is None
        return await passes(call)

    async def fails_first(call: StubCall) -> tuple[EndedReason, bool]:
        failed.set()
        return await fails(call)

    calls = StubCalls(a=outlasts, b=fails_first)
    result = await runner(tmp_path, calls, "abcd", more=TWO, fail_fast=True).make()
    assert [(run.title, run.success) for run in result.runs] == [("all/a", True), ("all/b", False)]
    assert names_of(result.open) == ["c", "d"]


async def test_what_is_inconclusive_stops_nothing(tmp_path: Path) -> None:
    result = await runner(tmp_path, StubCalls(a=loses_the_network), "ab", fail_fast=True).make()
    assert (result.finished, result.stopped, result.exit_code) == (True, None, 2)


async def test_a_failure_in_the_last_run_leaves_a_whole_suite(tmp_path: Path) -> None:
    result = await runner(tmp_path, StubCalls(b=fails), "ab", fail_fast=True).make()
    assert (result.finished, result.stopped, result.failed_fast, result.exit_code) == (True, None, False, 1)


async def test_nothing_is_made_again_after_the_first_failure(tmp_path: Path) -> None:
    failed = anyio.Event()

    async def fails_first(call: StubCall) -> tuple[EndedReason, bool]:
        failed.set()
        return await fails(call)

    async def lost_later(call: StubCall) -> tuple[EndedReason, bool]:
        await failed.wait()
        await anyio.sleep(0.02)
        return await loses_the_network(call)

    calls = StubCalls(a=lost_later, b=fails_first)
    await runner(tmp_path, calls, "abc", more=TWO, fail_fast=True).make()
    assert sorted(call.name for call in calls.made) == ["a", "b"]


async def test_a_run_that_waited_to_be_made_again_is_left(tmp_path: Path) -> None:
    watcher = Watcher()
    both = anyio.Event()

    async def fails_later(call: StubCall) -> tuple[EndedReason, bool]:
        both.set()
        while not any(line.startswith("repeats all/b") for line in watcher.seen):
            await anyio.sleep(0.005)
        return await fails(call)

    async def lost_first(call: StubCall) -> tuple[EndedReason, bool]:
        await both.wait()
        call.watcher.fact(HarnessStalled(at_ns=6, duration_ms=2_000))
        return await loses_the_network(call)

    calls = StubCalls(a=fails_later, b=lost_first)
    result = await runner(tmp_path, calls, "ab", more=TWO, fail_fast=True, watcher=watcher).make()
    assert sorted(call.name for call in calls.made) == ["a", "b"]
    assert [(run.title, run.success) for run in result.runs] == [("all/a", False), ("all/b", None)]
    assert (result.finished, result.failed_fast, result.exit_code) == (False, True, 1)
    assert result.stopped == "the agent failed in all/a, the first failure"


async def test_whoever_stops_it_after_a_failure_has_stopped_it(tmp_path: Path) -> None:
    async def until_stopped(call: StubCall) -> tuple[EndedReason, bool]:
        await anyio.sleep(0.02)
        suite.cancel("stopped by SIGINT")
        await call.over.wait()
        return EndedReason.CANCELLED, False

    suite = runner(tmp_path, StubCalls(a=until_stopped, b=fails), "abcd", more=TWO, fail_fast=True)
    result = await suite.make()
    assert (result.stopped, result.failed_fast, result.exit_code) == ("stopped by SIGINT", False, 2)


# What did not pass the last time.


async def earlier(tmp_path: Path, **behaviours: Any) -> tuple[Suite, SuiteResult]:
    suite = runner(tmp_path, StubCalls(**behaviours), "abcd", fail_fast=True)
    return suite.suite, await suite.make()


async def test_the_last_failed_are_those_that_did_not_pass(tmp_path: Path) -> None:
    suite, _ = await earlier(tmp_path, b=loses_the_network, c=fails)
    chosen = select_last_failed(suite, [tmp_path])
    assert [(run.index, run.scenario.short_name) for run in chosen.runs] == [(0, "b"), (1, "c"), (2, "d")]


async def test_the_newest_run_of_this_suite_counts(tmp_path: Path) -> None:
    suite, result = await earlier(tmp_path, c=fails)
    older, other = tmp_path / "older", tmp_path / "zz-other"
    for folder, changed in ((older, {}), (other, {"suite": "day"})):
        folder.mkdir()
        (folder / "suite.json").write_text(
            result.model_copy(update={"runs": [], "open": [], **changed}).model_dump_json()
        )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "suite.json").write_text("{")
    os.utime(older / "suite.json", (1, 1))
    assert names_of(select_last_failed(suite, [tmp_path]).runs) == ["c", "d"]
    os.utime(tmp_path / "out" / "suite.json", (0, 0))
    with pytest.raises(NothingFailed, match=f"nothing to run: every run in {older} passed"):
        select_last_failed(suite, [tmp_path])


async def test_without_an_earlier_run_there_is_a_clear_word(tmp_path: Path) -> None:
    suite = runner(tmp_path, StubCalls(), agent=AT_URL).suite
    with pytest.raises(UsageError, match=f"--last-failed: no earlier run of {suite.path} in {tmp_path}; run it once"):
        select_last_failed(suite, [tmp_path])


async def test_what_is_no_longer_in_the_suite_is_named(tmp_path: Path) -> None:
    suite, _ = await earlier(tmp_path, d=fails)
    renamed = runner(tmp_path, StubCalls(), "xyz").suite
    assert suite.path == renamed.path
    with pytest.raises(UsageError, match=r"no longer has what did not pass in .*: all/d"):
        select_last_failed(renamed, [tmp_path])
