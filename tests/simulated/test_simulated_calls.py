"""Simulated calls are repeatable, cost their work and not their length, and come to what real ones come to."""

import functools
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from bots.caller.script import Expectation, Listen, Script, Speak, StaySilent, Turn, Words
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import (
    AgentAudioLost,
    AgentSaid,
    CallerAudioLost,
    CallerHeardAs,
    CallerUnderrun,
    HarnessStalled,
    TimelineEvent,
    UnderrunKind,
)
from runner.calls.timeline import FILE_NAME, read_timeline
from runner.evaluation.verdicts import Verdict
from runner.scenarios.evals import load_scenario
from tests.faults import FAULTS, GOOD, SETTINGS, Caught, came_to, make_all
from tests.recognition import sounds_like
from tests.simulated.agent import Behaviour, OneSentence
from tests.simulated.call import Simulation
from tests.simulated.conditions import Condition, bed, simulation
from tests.simulated.faults import BEHAVIOURS
from tests.simulated.room import Network
from tests.simulated.virtual_time import Stall

ANSWERED = (Expectation(within_ms=10_000),)
SENTENCE = "One, two, three, four, five, six, seven, eight, nine, ten."
ONE_SENTENCE = Behaviour(dialogue=lambda: OneSentence(SENTENCE), speaks_rtvi=False)
GREETED = Script(name="greeted", turns=(Turn(action=Listen(), expect=ANSWERED),))
LONG_LINE = "This is a rather long line, and something will happen to it before the caller comes to its end."
SPOKEN = Script(
    name="spoken",
    turns=(
        Turn(action=Listen(), expect=ANSWERED),
        Turn(action=Speak(parts=(Words(text=LONG_LINE),)), expect=ANSWERED),
    ),
)


def facts_of(made: Simulation, script: Script, folder: Path) -> list[TimelineEvent]:
    made.play(script, folder)
    return read_timeline(folder / FILE_NAME)


@pytest.fixture(scope="module")
def line_begins_ns(tmp_path_factory: pytest.TempPathFactory) -> int:
    """When the caller's line begins where nothing happens to it."""
    facts = facts_of(Simulation(behaviour=ONE_SENTENCE), SPOKEN, tmp_path_factory.mktemp("undisturbed") / "run")
    return next(e.at_ns for e in facts if e.type == "caller_started_speaking")


@pytest.mark.slow
@pytest.mark.parametrize("condition", Condition)
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, condition: Condition) -> None:
    made = simulation(condition, seed=7)
    for name in ("once", "again"):
        made.play(SPOKEN, tmp_path / name)
    for file in (FILE_NAME, "recording.wav", "run.json"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


@pytest.mark.slow
def test_another_seed_gives_another_call(tmp_path: Path) -> None:
    for seed in (1, 2):
        Simulation(seed=seed).play(GREETED, tmp_path / str(seed))
    assert (tmp_path / "1" / FILE_NAME).read_bytes() != (tmp_path / "2" / FILE_NAME).read_bytes()


@pytest.mark.slow
def test_two_minutes_take_seconds(tmp_path: Path) -> None:
    script = Script(
        name="long", turns=(*GREETED.turns, Turn(action=StaySilent(duration_ms=120_000))), max_duration_s=400
    )
    began_s = time.process_time()
    run = Simulation(behaviour=ONE_SENTENCE).play(script, tmp_path / "run")
    assert run.success and run.duration_s > 120
    assert time.process_time() - began_s < 30, "measured on this process alone, and some ten times what it takes"


def test_packets_are_lost_in_both_directions(tmp_path: Path) -> None:
    network = Network(loss=0.05, caller_loss=0.05)
    facts = facts_of(Simulation(behaviour=ONE_SENTENCE, network=network), SPOKEN, tmp_path / "run")
    assert any(isinstance(e, AgentAudioLost) for e in facts)
    assert any(isinstance(e, CallerAudioLost) for e in facts)


def test_a_whole_process_halted_leaves_a_gap_in_the_line(tmp_path: Path, line_begins_ns: int) -> None:
    at_ns = line_begins_ns + NS_PER_S
    made = Simulation(behaviour=ONE_SENTENCE, stalls=[Stall(at_ns, at_ns + 800 * NS_PER_MS)])
    facts = facts_of(made, SPOKEN, tmp_path / "run")
    (stalled,) = [e for e in facts if isinstance(e, HarnessStalled)]
    assert abs(stalled.at_ns - at_ns) < 60 * NS_PER_MS and stalled.duration_ms == pytest.approx(800, abs=60)
    (gap,) = [e for e in facts if isinstance(e, CallerUnderrun) and e.kind is UnderrunKind.GAP]
    assert gap.duration_ms == pytest.approx(800, abs=40)


def test_an_event_loop_that_stands_still_leaves_the_line_whole(tmp_path: Path, line_begins_ns: int) -> None:
    at_ns = line_begins_ns + NS_PER_S
    stall = Stall(at_ns, at_ns + 800 * NS_PER_MS, is_whole=False)
    facts = facts_of(Simulation(behaviour=ONE_SENTENCE, stalls=[stall]), SPOKEN, tmp_path / "run")
    assert any(isinstance(e, HarnessStalled) for e in facts)
    assert not any(isinstance(e, CallerUnderrun) for e in facts)


def heard_words(made: Simulation, folder: Path) -> list[str]:
    made.play(GREETED, folder, transcribe=True)
    (said,) = [e for e in read_timeline(folder / FILE_NAME) if isinstance(e, AgentSaid)]
    return said.text.split()


@pytest.mark.slow
def test_words_are_recognised_where_their_sound_is_there(tmp_path: Path) -> None:
    assert heard_words(Simulation(behaviour=ONE_SENTENCE), tmp_path / "clean") == SENTENCE.split()
    noisy = Simulation(behaviour=ONE_SENTENCE, background=bed("office", -38))
    assert heard_words(noisy, tmp_path / "noisy") == SENTENCE.split()
    lossy = Simulation(behaviour=ONE_SENTENCE, network=Network(loss=0.3, burst=15))
    some = heard_words(lossy, tmp_path / "lossy")
    assert 0 < len(some) < 10 and set(some) < set(SENTENCE.split())


def test_the_recogniser_of_real_calls_can_be_asked(tmp_path: Path) -> None:
    words = heard_words(Simulation(behaviour=ONE_SENTENCE, recognises=False), tmp_path / "run")
    assert sounds_like(" ".join(words), SENTENCE)


@pytest.mark.slow
def test_an_agent_hears_less_of_a_line_that_is_damaged(tmp_path: Path) -> None:
    def heard(made: Simulation, name: str) -> int:
        facts = facts_of(made, SPOKEN, tmp_path / name)
        return sum(len(e.text.split()) for e in facts if isinstance(e, CallerHeardAs))

    rtvi = Behaviour(dialogue=OneSentence)
    assert heard(Simulation(behaviour=rtvi), "whole") == len(LONG_LINE.split())
    assert heard(Simulation(behaviour=rtvi, network=Network(caller_loss=0.3)), "damaged") < len(LONG_LINE.split())


QUICK = (None, "wrong_answer", "crashes")


def caught_here(caught: Caught) -> Any:
    """Return a row of the table; most are slow: each is a whole call."""
    is_quick = caught.fault in QUICK and (caught.fault is not None or caught.scenario.startswith("booking"))
    marks = () if is_quick else pytest.mark.slow
    return pytest.param(caught, marks=marks, id=f"{caught.fault or 'good'}-{caught.scenario}")


@pytest.mark.parametrize("caught", map(caught_here, [*FAULTS, *GOOD]))
def test_each_fault_is_caught_as_the_table_says(tmp_path: Path, caught: Caught) -> None:
    script = load_scenario(caught.spec, SETTINGS).playable()
    made = Simulation(seed=3, behaviour=BEHAVIOURS[caught.fault])
    run = made.play(script, tmp_path / "run", settings=SETTINGS, transcribe=caught.transcribe)
    assert came_to(run) == caught.verdict, run.detail
    assert caught.is_told(run), run.failure


@pytest.mark.slow
@pytest.mark.webrtc
@pytest.mark.anyio
async def test_real_calls_come_to_the_same_verdicts(tmp_path: Path) -> None:
    table = [c for c in (*FAULTS, *GOOD) if c.scenario == "restaurant.yaml:answers_in_time"]
    assert {c.fault for c in table} == {None, "slow"}
    real = {caught.fault: run for caught, run in await make_all(table, tmp_path / "real")}
    for caught in table:
        made = Simulation(behaviour=BEHAVIOURS[caught.fault])
        script = load_scenario(caught.spec, SETTINGS).playable()
        play = functools.partial(made.play, script, tmp_path / f"simulated-{caught.fault}", settings=SETTINGS)
        simulated = await anyio.to_thread.run_sync(play)
        run = real[caught.fault]
        # On a busy machine nobody may be able to say; what is said is the same.
        for ours, theirs in zip(simulated.expectations, run.expectations, strict=True):
            assert theirs.verdict in (ours.verdict, Verdict.NOT_JUDGED), (ours, theirs)
        assert run.success in (simulated.success, None), run.detail
        assert run.success is None or came_to(run) == came_to(simulated), run.detail
