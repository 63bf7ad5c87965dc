"""Two suites in turns, as `run --against` shows them."""

import os
import signal
from pathlib import Path

import anyio
import pytest

from runner.cli.interleaving import run_interleaved
from runner.cli.interruption import run_interruptibly
from runner.reports.console import make_console
from tests.calls.stubs import StubCalls, runner, until_cancelled

pytestmark = pytest.mark.anyio


async def test_both_sides_are_shown_and_the_base_is_handed_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    current = runner(tmp_path, StubCalls(), "ab")
    result, base = await run_interleaved(make_console(), current, current.suite, tmp_path / "base")
    assert base is not None and result.finished
    assert {run.session for run in base.runs} == {current.session}
    shown = capsys.readouterr().out
    assert "4/4  passed" in shown and "base: all/a" in shown and "current: all/b" in shown


async def test_a_base_that_was_stopped_leaves_the_suite_stopped(tmp_path: Path) -> None:
    calls = StubCalls(x=until_cancelled)
    current = runner(tmp_path, calls, "ab", more="concurrency: 2")
    (tmp_path / "other").mkdir()
    other = runner(tmp_path / "other", calls, "x").suite
    outcome: list[object] = []

    async def command() -> int:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(interrupt)
            outcome.extend(await run_interleaved(make_console(), current, other, tmp_path / "base"))
        return 0

    async def interrupt() -> None:
        while len(calls.made) < 3 or calls.live != ["x"]:
            await anyio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    await run_interruptibly(command)
    result, base = outcome
    assert base is None
    assert result.exit_code == 2 and result.stopped == "stopped by SIGINT"  # type: ignore[attr-defined]
