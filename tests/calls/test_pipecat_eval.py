"""Pipecat's own harness comes to the same verdicts: on each scenario, and where it fails on turn and expectation.

It talks to the same restaurant over its WebSocket; the scenario files name its voice, ears and judge. Ours come to
the verdicts of the same table in :mod:`tests.calls.test_played`.

Where the two can differ, which nothing in the files that both run hangs on:

- Pipecat looks for words as they are written. Here neither case nor punctuation counts, nor how a number is written:
  ``text_contains: tuesday`` finds "Tuesday", and ``text_excludes: tuesday`` does too.
- A ``response`` by voice is known to Pipecat once it has recognised the speech, after ``bot_stopped_speaking``. Here
  both orders are met, since an agent that tells its words needs no recognition.
- ``llm_response`` is known here when its words have been spoken: ``send_after`` counts from there, and what was
  generated but never spoken, because the caller interrupted, is none.
- ``text_excludes`` alone looks at the first part of a reply there, and at all of it here.
- Where the agent's turn taking interrupts, its report of that empties Pipecat's queue, and what came just before
  (``user_started_speaking``) is lost.
- ``within_ms: 0`` is the default of a minute there, and no time at all here.
- By text every line interrupts, so that ``bot_interrupted`` comes with each, and there is no ``user_transcription``.
- An agent in a room is not asked for raw VAD events and markers: *not observable* here.
"""

from collections.abc import Iterable
from pathlib import Path

import anyio
import pytest
from loguru import logger
from pipecat.evals.results import EvalAssertionFailure, EvalScriptResult
from pipecat.evals.scenario import EvalScenarioFile, EvalScriptScenario
from pipecat.evals.session import EvalSession, EvalSessionParams

from runner.sessions.local_agent import free_port, local_agent, reference_agent_command
from tests.calls import played
from tests.calls.played import TABLE, Place

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

FILES = ("text.yaml", "audio.yaml")
"""Those that hang on no keys of our own."""

AT_ONCE = 3


async def evaluate(folder: Path) -> dict[str, EvalScriptResult]:
    """Have Pipecat's harness run what it can, some at a time."""
    prepared = await played.prepare(folder / "scenarios")
    params = EvalSessionParams(cache_dir=str(folder / "voice"))
    results: dict[str, EvalScriptResult] = {}
    limit = anyio.CapacityLimiter(AT_ONCE)
    port = free_port()

    async def run(scenario: EvalScriptScenario) -> None:
        async with limit:
            session = EvalSession.from_scenario(scenario, f"ws://127.0.0.1:{port}/ws", params=params)
            results[scenario.name] = await session.run()

    async with (
        local_agent(reference_agent_command("restaurant", port), port),
        anyio.create_task_group() as tasks,
    ):
        for file in FILES:
            for scenario in EvalScenarioFile.load(prepared.folder / file).scenarios:
                assert isinstance(scenario, EvalScriptScenario)
                tasks.start_soon(run, scenario)
    return results


def first_of_each_turn(places: Iterable[Place]) -> dict[int, int]:
    """Return where each turn failed first: Pipecat may go on to the expectations below, where we do not."""
    first: dict[int, int] = {}
    for turn, index in sorted(places):
        first.setdefault(turn, index)
    return first


def place(failure: EvalAssertionFailure) -> Place:
    return failure.turn_index, failure.expectation_index


@pytest.mark.timeout(400)
async def test_pipecat_comes_to_the_same_verdicts(tmp_path: Path) -> None:
    logger.disable("pipecat")
    try:
        results = await evaluate(tmp_path)
    finally:
        logger.enable("pipecat")
    theirs = {name: first_of_each_turn(map(place, result.failures)) for name, result in results.items()}
    ours = {
        name: first_of_each_turn(expected.missed_by_pipecat)
        for name, expected in TABLE.items()
        if not expected.ours_alone
    }
    assert theirs == ours, {name: [f.reason for f in result.failures] for name, result in results.items()}
    assert {name for name, result in results.items() if result.passed} == {name for name in ours if not ours[name]}
