"""Calls to make reports of: facts with times in seconds, judged as real ones are."""

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bots.caller.script import Expectation, FunctionCall, Listen, Script, Turn
from bots.timeline import (
    AgentCalledFunction,
    AgentFunctionReturned,
    CallerHeardAs,
    CallStarted,
    EndedReason,
    MessageReceived,
    TimelineEvent,
)
from runner.calls.run_file import Circumstances, Run, judge_run, write_run
from runner.calls.suite_file import SuiteRun
from runner.calls.timeline import TimelineWriter
from runner.evaluation.outcome import Status
from tests.evaluation.facts import JOINED, READY, asks, ended, line, over, s, script, speech, taken_up, told

STARTED = CallStarted(
    at_ns=0,
    run_id="r1",
    scenario="booking/table_for_four",
    room="http://localhost:7860",
    wall_time="2026-11-28T04:29:48.000Z",
    monotonic_ns=5,
)
RATE_HZ = 8_000


def calls_with(people: Any, *, wanted: Any = 4, name: str = "check_availability") -> Script:
    wanted_call = FunctionCall(name=name, args={"people": wanted})
    return script(
        Turn(action=Listen(), expect=(Expectation(text_contains="help"),)),
        asks(Expectation(event="function_call", calls=(wanted_call,), within_ms=6_000)),
        asks(Expectation(text_contains="booked")),
    )


WRONG_CALL = calls_with(5)


def call_facts(
    *, people: Any = 5, understood: Sequence[str] = ("I'd like a table for 4.",), reply: str = "For five people."
) -> list[TimelineEvent]:
    """Return the facts of a call whose agent calls a function, with times in seconds: it does so at 8.2."""
    return [
        STARTED,
        JOINED,
        READY,
        taken_up(0.6),
        *speech(1.0, 3.0),
        told(3.0, "How can I help?"),
        over(3.4),
        taken_up(3.5, 1),
        *line(4.0, 6.0, 1, "I'd like a table for four."),
        *[CallerHeardAs(at_ns=s(6.5 + i / 10), text=text) for i, text in enumerate(understood)],
        AgentCalledFunction(
            at_ns=s(8.2), call_id="c", name="check_availability", arguments={"people": people, "day": "Friday"}
        ),
        AgentFunctionReturned(at_ns=s(8.3), call_id="c", name="check_availability", result={"available": True}),
        *speech(8.5, 10.0),
        told(10.0, reply),
        over(10.5),
        ended(15.0),
    ]


def metrics(at_s: float, **data: Any) -> TimelineEvent:
    return MessageReceived(at_ns=s(at_s), message={"label": "rtvi-ai", "type": "metrics", "data": data})


def judged(played: Script, facts: Sequence[TimelineEvent], **given: Any) -> Run:
    return judge_run(played, facts, Circumstances(versions={"pipecat-scenario-runner": "0.1.0"}, **given))


def recorded(folder: Path, seconds: float, **beeps: tuple[float, float]) -> None:
    """Write a recording with a tone in each side, from and until so many seconds."""
    sides = np.zeros((2, round(seconds * RATE_HZ)), dtype=np.int16)
    tone = (np.sin(np.arange(sides.shape[1]) * 0.3) * 12_000).astype(np.int16)
    for channel, side in enumerate(("caller", "agent")):
        if side in beeps:
            begin, end = (round(at_s * RATE_HZ) for at_s in beeps[side])
            sides[channel, begin:end] = tone[begin:end]
    with wave.open(str(folder / "recording.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(np.ascontiguousarray(sides.T).tobytes())


def kept(folder: Path, played: Script, facts: Sequence[TimelineEvent]) -> Run:
    """Leave a call in a folder as one that was made leaves it."""
    folder.mkdir(parents=True)
    with TimelineWriter(folder / "timeline.jsonl") as timeline:
        for fact in facts:
            timeline.write(fact)
    run = judged(played, facts)
    write_run(folder, run)
    recorded(folder, 15.0, caller=(4.0, 6.0), agent=(8.5, 10.0))
    return run


def in_suite(run: Run | None, folder: str | None, **given: Any) -> SuiteRun:
    values: dict[str, Any] = {
        "scenario": "booking/table_for_four",
        "file": "b.yaml",
        "repeat": 1,
        "status": Status.FAILED,
        "success": None,
        "cause": "room",
        "ended_reason": EndedReason.ROOM_UNREACHABLE,
        "detail": "nothing answers at http://localhost:1",
        "started_at": "2026-11-28T04:29:48.000Z",
        "duration_s": 1.0,
        "folder": folder,
    }
    made = SuiteRun.model_validate(values | given)
    return made if run is None else made.judged(run)
