"""A good agent with something behind it: nobody is blamed for it, and its latencies are true or refused."""

from pathlib import Path

import numpy as np
import pytest

from bots.agents.backgrounds import BackgroundName
from bots.timeline import RecordingMeasured
from runner.calls.run_file import Run
from runner.calls.timeline import FILE_NAME, read_timeline
from runner.evaluation.verdicts import Cause
from runner.scenarios.evals import load_scenario
from runner.settings import Settings
from tests.simulated.agent import Behaviour
from tests.simulated.call import Simulation
from tests.simulated.conditions import bed

SCRIPT = load_scenario("config/scenarios/restaurant.yaml:answers_in_time", Settings()).playable()
PLAIN = Behaviour(speaks_rtvi=False)
"""It tells nothing of its words: all that is known of it is heard."""


def play(folder: Path, name: str | None, dbfs: float, seed: int = 5) -> Run:
    background = None if name is None else bed(name, dbfs, from_s=3)
    return Simulation(seed=seed, behaviour=PLAIN, background=background).play(SCRIPT, folder)


@pytest.fixture(scope="module")
def truth_ms(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The same agent's latency on a quiet line, which is known within some milliseconds."""
    run = play(tmp_path_factory.mktemp("quiet") / "run", None, 0)
    assert run.success is True
    latency_ms = run.turns[1].response_latency_ms
    assert latency_ms is not None
    return latency_ms


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != BackgroundName.HOLD_MUSIC)) for name in BackgroundName],
)
def test_nobody_is_blamed_for_a_background(tmp_path: Path, name: BackgroundName, truth_ms: float) -> None:
    run = play(tmp_path / "run", name, -38)
    # Before anything of the agent was heard, voices behind it may be taken for it: then our hearing is the cause.
    assert run.success is True or (run.success is None and run.cause is Cause.CALLER), run.detail
    turn = run.turns[1]
    if turn.response_latency_ms is not None:
        assert turn.uncertainty_ms is not None
        assert abs(turn.response_latency_ms - truth_ms) <= turn.uncertainty_ms + 30
    assert turn.refused is None or "background" in turn.refused or "uncertain" in turn.refused


@pytest.mark.slow
def test_what_is_too_loud_to_tell_is_said_to_be(tmp_path: Path) -> None:
    run = play(tmp_path / "run", BackgroundName.CROWD, -20)
    assert run.success is not False, run.detail
    assert run.success is True or run.cause is Cause.CALLER, run.detail
    facts = read_timeline(tmp_path / "run" / FILE_NAME)
    (recording,) = [e for e in facts if isinstance(e, RecordingMeasured)]
    doubtful = recording.too_loud or all(t.refused for t in run.turns if t.agent_onset_s is not None)
    assert doubtful, "a crowd as loud as the agent itself can't be told from it"


@pytest.mark.slow
def test_a_background_is_as_loud_as_it_is_asked_for() -> None:
    for name in BackgroundName:
        rms = np.sqrt(np.mean(np.square(bed(name, -38).astype(np.float64))))
        assert 20 * np.log10(rms / 32768) == pytest.approx(-38, abs=0.5)
