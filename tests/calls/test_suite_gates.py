"""What a finished suite is held against, and what that does to its exit code."""

import sys
from pathlib import Path

import anyio
import pytest

from runner.calls.evaluate import evaluate_suite
from runner.calls.suite_facts import runs_of_suite
from runner.calls.suite_file import SuiteResult, read_suite, write_suite
from runner.calls.suite_gates import weigh_suite
from runner.comparison.facts import RunSet
from runner.comparison.gates import Gates
from runner.errors import MissingExtra
from tests.calls.stubs import StubCalls, fails, passes, runner

pytestmark = pytest.mark.anyio

NO_GATES = Gates()


async def made(tmp_path: Path, behaviour: object = passes, repeat: int = 6) -> SuiteResult:
    await anyio.Path(tmp_path).mkdir(exist_ok=True)
    return await runner(tmp_path, StubCalls(behaviour), "a", more=f"repeat: {repeat}").make()  # type: ignore[arg-type]


def some_fail(failing: int) -> object:
    left = [failing]

    async def behaviour(call: object) -> object:
        left[0] -= 1
        return await (fails if left[0] >= 0 else passes)(call)  # type: ignore[arg-type]

    return behaviour


@pytest.mark.parametrize(
    ("failing", "gates", "code"),
    [
        (0, NO_GATES, 0),
        (1, NO_GATES, 1),
        (0, Gates(pass_rate=0.95), 0),
        (1, Gates(pass_rate=0.5), 0),
        (1, Gates(pass_rate=0.95), 2),
        (5, Gates(pass_rate=0.95), 1),
        (1, Gates(p95_latency_ms=900), 1),
        (0, Gates(p95_latency_ms=900), 2),
    ],
)
async def test_gates_make_the_exit_code(tmp_path: Path, failing: int, gates: Gates, code: int) -> None:
    result = await made(tmp_path, some_fail(failing))
    weighed = weigh_suite(tmp_path / "out", result, gates)
    assert weighed.exit_code == code
    assert weighed.statistics is not None and weighed.statistics.all.passed == 6 - failing


async def test_a_baseline_makes_the_exit_code(tmp_path: Path) -> None:
    good, bad = await made(tmp_path / "good"), await made(tmp_path / "bad", fails)
    base, worse = (runs_of_suite(tmp_path / name / "out", of) for name, of in (("good", good), ("bad", bad)))

    def code(name: str, result: SuiteResult, base: RunSet) -> int:
        return weigh_suite(tmp_path / name / "out", result, NO_GATES, base).exit_code

    assert code("bad", bad, base) == 1
    assert code("good", good, worse) == 0
    again = await made(tmp_path / "again", fails)
    assert code("again", again, worse) == 0, "what failed before has not become worse"
    few = await made(tmp_path / "few", repeat=1)
    assert code("few", few, base) == 2


async def test_a_suite_that_was_stopped_is_not_weighed(tmp_path: Path) -> None:
    result = (await made(tmp_path)).model_copy(update={"finished": False, "stopped": "stopped by SIGINT"})
    weighed = weigh_suite(tmp_path / "out", result, Gates(pass_rate=0.1))
    assert (weighed.gates, weighed.exit_code) == ([], 2)


async def test_judging_a_suite_again_judges_its_gates_again(tmp_path: Path) -> None:
    result = await made(tmp_path)
    base = runs_of_suite(tmp_path / "out", result)
    others = base.model_copy(
        update={"runs": tuple(run.model_copy(update={"id": f"b-{run.id}"}) for run in base.runs)}
    )
    weighed = weigh_suite(tmp_path / "out", result, Gates(pass_rate=0.95), others)
    write_suite(tmp_path / "out", weighed)
    again = evaluate_suite(tmp_path / "out")
    assert again.gates == weighed.gates and again.statistics == weighed.statistics
    assert again.comparison is None and "compare it again" in again.warnings[-1]
    assert read_suite(tmp_path / "out") == again
    assert evaluate_suite(tmp_path / "out") == again


async def test_gates_that_can_t_be_judged_again_are_not_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighed = weigh_suite(tmp_path / "out", await made(tmp_path, repeat=1), Gates(pass_rate=0.95))
    write_suite(tmp_path / "out", weighed)
    before = (tmp_path / "out" / "suite.json").read_bytes()
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtra, match="'compare'"):
        evaluate_suite(tmp_path / "out")
    assert (tmp_path / "out" / "suite.json").read_bytes() == before
