"""What is heard of an agent over real WebRTC: a second phrase, and a voice with something behind it.

tests/simulated plays the same in virtual time.
"""

import json
from pathlib import Path

import pytest

from bots.caller.script import Expectation
from runner.evaluation.verdicts import Cause
from tests.calls.real import ANSWERED, make, metronome, say, script

pytestmark = [pytest.mark.anyio, pytest.mark.webrtc, pytest.mark.slow]


@pytest.mark.parametrize("gap_ms", ["850", "1100"])
async def test_a_second_phrase_about_the_end_of_the_turn_is_heard(tmp_path: Path, gap_ms: str) -> None:
    phrases = {"METRONOME_TEXT": "Of course. | Which order is this about?", "METRONOME_GAP_MS": gap_ms}
    async with metronome(tmp_path, METRONOME_GREET="0", **phrases) as (base_url, _):
        asked = Expectation(text_contains="which order", within_ms=7_000)
        played = script(say("Where is my order?", expect=(asked,)))
        run, _ = await make(base_url, played, tmp_path / "run")
    # It tells none of its words: they are recognised, of each phrase when its turn is over.
    assert run.success is not False, run.detail
    assert run.success is True or run.cause is Cause.HARNESS, run.detail


@pytest.mark.parametrize("background", ["hold_music", "crowd"])
async def test_an_agent_with_something_behind_it_is_timed_by_its_voice(tmp_path: Path, background: str) -> None:
    behind = {"METRONOME_BACKGROUND": background, "METRONOME_BACKGROUND_DBFS": "-38", "METRONOME_ANSWER_MS": "1676"}
    async with metronome(tmp_path, **behind) as (base_url, log):
        turns = [say(f"This is line number {n}.", expect=ANSWERED) for n in (1, 2)]
        run, _ = await make(base_url, script(*turns), tmp_path / "run", transcribe=False)
    assert run.success is not False, run.detail
    truth = [json.loads(line) for line in log.read_text().splitlines()]
    ends = [e["at_ns"] for e in truth if e["event"] == "caller_speech_ended"]
    answers = [e["at_ns"] for e in truth if e["event"] == "answer_started" and e["kind"] == "answer"]
    for turn, end_ns, answer_ns in zip(run.turns, ends, answers, strict=False):
        # What is not sure enough is refused; what is stated is so.
        if turn.response_latency_ms is not None:
            assert turn.uncertainty_ms is not None
            assert abs(turn.response_latency_ms - (answer_ns - end_ns) / 1e6) <= turn.uncertainty_ms + 60
