"""Two suites in turns."""

from pathlib import Path

import anyio
import pytest

from runner.calls.interleaved import LEAD, Interleaved, Turns
from runner.calls.suite import SuiteRunner
from runner.errors import UsageError
from tests.calls.stubs import StubCalls, fails, runner, slowly, until_cancelled

pytestmark = pytest.mark.anyio


class NamedCalls(StubCalls):
    """Keeps account of both sides in one list."""

    def __init__(self, side: str, order: list[str], behaviour: object = slowly) -> None:
        super().__init__(self.note)
        self.side, self.order, self.then = side, order, behaviour

    async def note(self, call: object) -> object:  # type: ignore[override]
        self.order.append(self.side)
        return await self.then(call)  # type: ignore[operator]


def both(tmp_path: Path, order: list[str], behaviour: object = slowly, more: str = "") -> Interleaved:
    def side(name: str) -> SuiteRunner:
        (tmp_path / name).mkdir()
        return runner(tmp_path / name, NamedCalls(name, order, behaviour), "abcdef", more=more)

    return Interleaved(side("base"), side("current"))


def most_ahead(order: list[str]) -> int:
    """Return by how many runs one side was ahead of the other at most."""
    return max(abs(order[:n].count("base") - order[:n].count("current")) for n in range(len(order)))


async def test_runs_of_both_sides_take_turns(tmp_path: Path) -> None:
    order: list[str] = []
    base, current = await both(tmp_path, order).make()
    assert most_ahead(order) <= 2, order
    assert (len(base.runs), len(current.runs)) == (6, 6)
    assert base.session is not None and current.session is not None
    assert base.session.id == current.session.id, "they are compared as interleaved"


async def test_together_they_are_no_more_than_one_suite_at_once(tmp_path: Path) -> None:
    order: list[str] = []
    at_once = {"now": 0, "most": 0}

    async def counted(call: object) -> object:
        at_once["now"] += 1
        at_once["most"] = max(at_once["most"], at_once["now"])
        result = await slowly(call)  # type: ignore[arg-type]
        at_once["now"] -= 1
        return result

    await both(tmp_path, order, counted, more="concurrency: 2").make()
    assert at_once["most"] == 2
    assert most_ahead(order) <= 3


async def test_both_stop_in_good_order(tmp_path: Path) -> None:
    order: list[str] = []
    suites = both(tmp_path, order, until_cancelled)
    async with anyio.create_task_group() as tasks:

        async def stop() -> None:
            while not order:
                await anyio.sleep(0.01)
            suites.cancel("stopped by SIGINT")

        tasks.start_soon(stop)
        base, current = await suites.make()
    assert (base.finished, current.finished) == (False, False)


async def test_where_one_side_ends_at_its_first_failure_the_other_is_stopped(tmp_path: Path) -> None:
    suites = both(tmp_path, [], slowly)
    suites.current.fail_fast, suites.current.make_call = True, StubCalls(a=fails)
    base, current = await suites.make()
    assert current.failed_fast and current.exit_code == 1
    assert not base.finished and len(base.runs) < 6 and base.stopped == current.stopped


async def test_where_one_side_can_t_be_run_the_other_is_stopped(tmp_path: Path) -> None:
    suites = both(tmp_path, [], until_cancelled)
    suites.base.folder.mkdir()
    (suites.base.folder / "suite.json").write_text("{}")
    with pytest.raises(UsageError, match="holds a suite's results already"):
        await suites.make()


async def test_a_side_that_may_do_less_at_once_holds_the_other_back() -> None:
    turns, begun, leads = Turns(3), {"base": 0, "current": 0}, list[int]()
    left = {"base": 6, "current": 6}

    async def work(side: str) -> None:
        while left[side]:
            left[side] -= 1
            async with turns.turn(side):
                begun[side] += 1
                leads.append(begun["current"] - begun["base"])
                await anyio.sleep(0.002)

    async def whole(side: str, at_once: int) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(at_once):
                tasks.start_soon(work, side)
        await turns.end(side)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(whole, "base", 1)
            tasks.start_soon(whole, "current", 2)
    assert begun == {"base": 6, "current": 6} and max(map(abs, leads)) <= LEAD
