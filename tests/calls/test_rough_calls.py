"""Calls in which something of our own side fails, and calls that take a judge: in a simulated room."""

import asyncio
import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from bots.agents.metronome import DEFAULT_TEXT
from bots.caller.script import Expectation, Listen, Script, Speak, Turn, Words
from bots.timeline import (
    CallEnded,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallStarted,
    EndedReason,
    LineEnd,
    RecordingMeasured,
    TimelineEvent,
)
from runner.calls.call import Call
from runner.calls.recording import read_recording
from runner.calls.request import Afterwards, CallRequest
from runner.calls.run_file import Run, read_run
from runner.calls.timeline import TimelineWriter, read_timeline
from runner.evaluation.outcome import Status
from runner.evaluation.verdicts import Cause, Judgement, JudgeUsage, Question
from runner.rooms.open import RoomAddress
from runner.settings import Settings
from tests.simulated.agent import Behaviour, OneSentence
from tests.simulated.call import ADDRESS, Simulation
from tests.simulated.virtual_time import run_virtually

ANSWERED = (Expectation(within_ms=10_000),)
LONG_LINE = "This is a rather long line, and somebody will break it off before the caller comes to its end."
ROOM = Simulation(behaviour=Behaviour(dialogue=OneSentence, speaks_rtvi=False))


def listening(*expect: Expectation) -> Script:
    return Script(name="test", turns=(Turn(action=Listen(), expect=expect or ANSWERED),))


def saying(text: str) -> Script:
    return Script(name="test", turns=(Turn(action=Speak(parts=(Words(text=text),)), expect=ANSWERED),))


def request(script: Script, *, allow_unjudged: bool = False) -> CallRequest:
    return CallRequest(script, ADDRESS, transcribe=False, allow_unjudged=allow_unjudged)


@pytest.mark.anyio
async def test_a_call_cancelled_before_it_begins_is_a_cancelled_run(tmp_path: Path) -> None:
    nowhere = CallRequest(saying("Hello."), RoomAddress("http://127.0.0.1:1"))
    call = Call(nowhere, Settings(), tmp_path / "run")
    call.cancel("not today")
    run = await call.make()
    assert (run.status, run.ended_reason, run.detail) == (Status.CANCELLED, EndedReason.CANCELLED, "not today")
    facts = read_timeline(tmp_path / "run" / "timeline.jsonl")
    assert [type(e) for e in facts if not isinstance(e, RecordingMeasured)] == [CallStarted, CallEnded]
    assert read_run(tmp_path / "run") == run


def test_a_line_that_the_end_of_the_call_breaks_off_is_marked_so(tmp_path: Path) -> None:
    class Watcher:
        def fact(self, event: TimelineEvent) -> None:
            if isinstance(event, CallerStartedSpeaking):
                asyncio.get_running_loop().call_later(0.5, made.call.cancel)

        def verdicts(self, verdicts: object) -> None: ...

        def audio(self, channel: int, at_ns: int, pcm: bytes) -> None: ...

    made = ROOM.prepare(request(saying(LONG_LINE)), tmp_path / "run", watcher=Watcher())
    run_virtually(made.clock, made.call.make)
    facts = read_timeline(tmp_path / "run" / "timeline.jsonl")
    (stopped,) = [e for e in facts if isinstance(e, CallerStoppedSpeaking)]
    assert stopped.end is LineEnd.CUT
    (ended,) = [e for e in facts if isinstance(e, CallEnded)]
    assert stopped.at_ns <= ended.at_ns


@pytest.mark.parametrize("file", ["timeline", "recording"])
def test_a_full_disk_ends_the_call_as_our_own_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if file == "timeline":
        write = TimelineWriter.write

        def writing(self: TimelineWriter, event: TimelineEvent) -> None:
            if isinstance(event, CallerStartedSpeaking):
                raise full
            write(self, event)

        monkeypatch.setattr(TimelineWriter, "write", writing)
    else:
        pwrite = os.pwrite

        def pwriting(fd: int, data: bytes, offset: int) -> int:
            if offset > 100_000:
                raise full
            return pwrite(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", pwriting)
    run = ROOM.play(saying(LONG_LINE), tmp_path / "run")
    assert (run.status, run.success, run.cause) == (Status.FAILED, None, Cause.HARNESS)
    assert run.ended_reason is EndedReason.RUNNER_ERROR
    assert run.detail == f"the {file} can't be written (No space left on device)"
    samples, _ = read_recording(tmp_path / "run" / "recording.wav")
    assert samples.shape[1] > 0, "what was written before is readable"


def test_stopping_after_the_call_keeps_its_verdict(tmp_path: Path) -> None:
    recognising = anyio.Event()

    async def never(*_: object, **__: object) -> list[str]:
        recognising.set()
        await anyio.sleep_forever()
        return []

    made = ROOM.prepare(CallRequest(listening(), ADDRESS), tmp_path / "run")
    made.call.surroundings = replace(made.call.surroundings, transcribe=never)

    async def course() -> Run:
        async def stop() -> None:
            await recognising.wait()
            made.call.cancel("stopped by SIGINT")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop)
            return await made.call.make()

    run = run_virtually(made.clock, course)
    assert (run.success, run.ended_reason) == (True, EndedReason.CALLER_HUNG_UP)
    # On a busy machine there may be others.
    assert "stopped before all of the agent's words were recognised and judged" in run.warnings


def test_it_is_told_what_is_done_after_the_call(tmp_path: Path) -> None:
    told: list[tuple[Afterwards, float]] = []
    made = ROOM.prepare(CallRequest(listening(), ADDRESS), tmp_path / "run")
    made.call.progress = lambda step, share: told.append((step, share))
    run_virtually(made.clock, made.call.make)
    assert told == [(Afterwards.MEASURING, 0), (Afterwards.RECOGNISING, 0), (Afterwards.RECOGNISING, 1)]


class StubJudge:
    """Answers every question alike, after a while."""

    def __init__(self, answer: str, delay_s: float = 0.0):
        self.answer = answer
        self.delay_s = delay_s
        self.asked: list[Question] = []

    async def ask(self, question: Question, facts: Sequence[TimelineEvent]) -> Judgement:
        self.asked.append(question)
        await anyio.sleep(self.delay_s)
        if self.answer == "raise":
            raise ZeroDivisionError
        return Judgement.model_validate(
            {"question": question, "answer": self.answer, "reason": "because", "model": "stub"}
        )

    def usage(self) -> JudgeUsage:
        return JudgeUsage(model="stub", questions=len(self.asked))


JUDGED = Expectation(criterion="says that it is on time", within_ms=8_000)


@pytest.mark.parametrize(
    ("answer", "success", "exit_code"),
    [("yes", True, 0), ("no", False, 1), ("none", None, 2), ("raise", None, 2)],
)
def test_a_judge_decides_while_the_call_is_on(
    tmp_path: Path, answer: str, success: bool | None, exit_code: int
) -> None:
    # Later than the budget: how long a judge thinks is not the agent's fault.
    judge = StubJudge(answer, delay_s=6.0 if answer == "yes" else 0.0)
    run = ROOM.play(listening(JUDGED), tmp_path / "run", judge=judge)
    assert (run.success, run.exit_code) == (success, exit_code), run.detail
    assert len(judge.asked) == 1
    question = judge.asked[0]
    assert question.subject == DEFAULT_TEXT and question.criterion == JUDGED.criterion
    assert run.judge == JudgeUsage(model="stub", questions=1)
    assert run.judgements is not None and [j.question for j in run.judgements] == [question]
    assert read_run(tmp_path / "run").expectations == run.expectations


def test_without_a_judge_the_call_goes_on_and_is_not_passed(tmp_path: Path) -> None:
    patient = JUDGED.model_copy(update={"within_ms": 60_000})
    run = ROOM.play(listening(patient), tmp_path / "run")
    assert (run.success, run.cause, run.exit_code) == (None, None, 2)
    assert run.detail is not None and "not judged: no judge is configured" in run.detail
    assert run.duration_s < 50, "the caller does not wait for a judge that is not there"
    allowed = ROOM.prepare(request(listening(JUDGED), allow_unjudged=True), tmp_path / "allowed")
    run = run_virtually(allowed.clock, allowed.call.make)
    assert (run.success, run.exit_code, run.allow_unjudged) == (True, 0, True)
