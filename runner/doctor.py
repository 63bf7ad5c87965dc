"""Checks that this machine can make calls, and says what is missing and how to get it."""

import importlib.util
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx
import numpy as np
from loguru import logger

from bots.caller.script import Expectation, Listen, Script, Speak, Turn, Words
from bots.caller.speech.errors import MissingSpeechPackage, SpeechError
from bots.caller.speech.settings import OFFLINE, ServiceSettings
from bots.clock import CallClock
from runner.errors import RoomError, RunnerError
from runner.rooms.base import AUDIO_RATE_HZ
from runner.rooms.open import RoomAddress, open_room
from runner.rooms.urls import room_kind
from runner.settings import Settings

SENTENCE = "The line is clear."
LEAVE_TIMEOUT_S = 10.0
LOOK_AROUND_S = 3.0
"""How long to look around in a room once in it: others are announced a moment after."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was checked.
        ok: Whether it is fine.
        detail: What was found, and how to mend it where it is not fine.
        required: Whether a call needs it.
    """

    check: str
    ok: bool
    detail: str
    required: bool = True


Check = Callable[[Settings], Awaitable[Finding]]


async def examine(settings: Settings, report: Callable[[Finding], None]) -> bool:
    """Check this machine; return whether everything a call needs is there.

    Args:
        settings: What calls would be made with.
        report: Takes each finding as it is made.
    """
    fine = True
    for name, check in _CHECKS.items():
        try:
            finding = await check(settings)
        except Exception as error:
            # One check that breaks says so, and keeps none of the others from being made.
            logger.opt(exception=True).debug("{} could not be checked", name)
            finding = Finding(name, False, f"could not be checked: {type(error).__name__}: {error}")
        report(finding)
        fine = fine and (finding.ok or not finding.required)
    return fine


async def _speaks(settings: Settings) -> Finding:
    from bots.caller.speech.voice import Voice

    name = f"speaking ({_named(settings.speech.tts)})"
    began_s = time.monotonic()
    try:
        # What was kept from last time proves nothing.
        with TemporaryDirectory(prefix="scenario-runner-") as folder:
            fresh = settings.speech.model_copy(update={"cache_dir": Path(folder)})
            (line,) = await Voice(fresh).synthesise([Speak(parts=(Words(text=SENTENCE),))])
    except (MissingSpeechPackage, SpeechError, ValueError, OSError) as error:
        return Finding(name, False, str(error))
    seconds = len(line.pcm) / 2 / 24_000
    return Finding(name, True, f"{seconds:.1f} s of speech in {time.monotonic() - began_s:.1f} s")


async def _hears(settings: Settings) -> Finding:
    from bots.caller.speech.wording import same_words

    name = f"recognising ({_named(settings.speech.stt)})"
    try:
        from bots.caller.speech.recognition import transcribe
        from bots.caller.speech.voice import Voice

        try:
            (line,) = await Voice(settings.speech).synthesise([Speak(parts=(Words(text=SENTENCE),))])
        except (MissingSpeechPackage, SpeechError, ValueError, OSError):
            return Finding(name, False, "could not be tried: nothing can be spoken to it (see above)")
        (text,) = await transcribe([line.pcm], 24_000, settings.speech.stt)
    except (MissingSpeechPackage, SpeechError, ValueError, OSError) as error:
        return Finding(name, False, str(error))
    if not same_words(text, SENTENCE):
        return Finding(name, False, f"{SENTENCE!r} was heard as {text!r}")
    return Finding(name, True, f"heard {text!r}")


async def _calls(settings: Settings) -> Finding:
    from runner.calls.call import Call
    from runner.calls.request import CallRequest
    from runner.sessions.local_agent import free_port, local_agent, reference_agent_command

    script = Script(
        name="doctor",
        turns=(
            Turn(action=Listen(), expect=(Expectation(within_ms=10_000),)),
            Turn(action=Speak(parts=(Words(text=SENTENCE),)), expect=(Expectation(within_ms=10_000),)),
        ),
    )
    name = "a WebRTC call on this machine"
    port = free_port()
    try:
        with TemporaryDirectory(prefix="scenario-runner-") as folder:
            async with local_agent(reference_agent_command("metronome", port), port) as base_url:
                request = CallRequest(script, RoomAddress(f"{base_url}/api/offer"), transcribe=False)
                run = await Call(request, settings, Path(folder) / "run").make()
    except RunnerError as error:
        return Finding(name, False, str(error))
    if not run.success:
        return Finding(name, False, f"{run.ended_reason.value}: {run.detail}")
    latency_ms = next((t.response_latency_ms for t in run.turns if t.response_latency_ms is not None), None)
    return Finding(name, True, f"measured {latency_ms:.0f} ms (expected 800)" if latency_ms else "")


async def _judges(settings: Settings) -> Finding:
    name = "judging (eval)"
    if not settings.judge.configured:
        detail = "no judge is configured, so eval expectations are not judged: see the setting judge"
        return Finding(name, False, detail, required=False)
    from runner.evaluation.verdicts import Question
    from runner.judge.judge import make_judge

    try:
        judge = make_judge(settings.judge)
    except RunnerError as error:
        return Finding(name, False, str(error))
    question = Question(turn=0, index=0, kind="reply", subject=SENTENCE, criterion="speaks of the line", at_ns=0)
    judgement = None if judge is None else await judge.ask(question, [])
    if judge is None or judgement is None or judgement.answer == "none":
        return Finding(name, False, "" if judgement is None else judgement.reason)
    return Finding(name, True, f"{judge.usage().model} answered {judgement.answer!r} to whether {SENTENCE!r} does")


async def _daily(settings: Settings) -> Finding:
    name = "Daily"
    if importlib.util.find_spec("daily") is None:
        return Finding(name, False, "the library is not there: pip install daily-python")
    return Finding(
        name, True, "daily-python is installed; test a room with: scenario-runner doctor --room URL --token …"
    )


async def _speakers(settings: Settings) -> Finding:
    from runner.reports.listen import Speakers

    try:
        Speakers(24_000)
    except RunnerError as error:
        return Finding("--listen", False, str(error), required=False)
    return Finding("--listen", True, "calls can be heard on this machine's speakers", required=False)


_CHECKS: dict[str, Check] = {
    "speaking": _speaks,
    "recognising": _hears,
    "a WebRTC call on this machine": _calls,
    "judging (eval)": _judges,
    "Daily": _daily,
    "--listen": _speakers,
}


def _named(service: ServiceSettings) -> str:
    return "offline" if service.service == OFFLINE else service.service.rpartition(".")[2]


@dataclass
class Visit:
    """What was seen of a room by entering it."""

    entered_s: float | None = None
    participants: list[str] = field(default_factory=list[str])
    agent: str | None = None
    agent_level_dbfs: float | None = None
    audio_s: float = 0.0
    """How much audio of the agent arrived."""
    messages: int = 0
    error: str | None = None


class _Visitor:
    """Listens to a room without taking part."""

    def __init__(self) -> None:
        self.agent_here = False
        self.participant: str | None = None
        self.peak = 0
        self.samples = 0
        self.messages = 0
        self.lost: RoomError | None = None

    def caller_audio(self, at_ns: int, pcm: bytes, *, late_ns: int | None = 0) -> None: ...

    def agent_audio_lost(self, at_ns: int, duration_ms: float) -> None: ...

    def caller_audio_lost(self, at_ns: int, *, since_ns: int, lost: int, packets: int) -> None: ...

    def agent_audio(self, at_ns: int, pcm: bytes) -> None:
        samples = np.frombuffer(pcm, dtype=np.int16)
        self.samples += samples.size
        if samples.size:
            self.peak = max(self.peak, int(np.abs(samples.astype(np.int32)).max()))

    def agent_joined(self, at_ns: int, participant: str | None) -> None:
        self.agent_here = True
        self.participant = participant

    def media_not_connected(self, at_ns: int, *, waited_ms: float, sending: bool, receiving: bool) -> None: ...

    def agent_left(self, at_ns: int, detail: str | None) -> None: ...

    def agent_media_stopped(self, at_ns: int) -> None: ...

    def agent_media_resumed(self, at_ns: int) -> None: ...

    def agent_probed(self, at_ns: int, *, answers: bool | None) -> None: ...

    def message_received(self, at_ns: int, message: Any) -> None:
        self.messages += 1

    def room_lost(self, error: RoomError) -> None:
        self.lost = error

    def speech_reported(self, at_ns: int) -> None: ...

    def silence_reported(self, at_ns: int) -> None: ...

    def turn_ended(self) -> None: ...


async def visit_room(address: RoomAddress, settings: Settings) -> Visit:
    """Enter a room, look around, and leave.

    Args:
        address: How to get in.
        settings: How rooms are entered.

    Raises:
        UsageError: The address is not that of a room.
    """
    from bots.caller.pipeline import CallerPipeline

    room_kind(address.url, settings.room.daily_domains)
    clock = CallClock()
    visitor = _Visitor()
    visit = Visit()
    async with httpx.AsyncClient() as http, anyio.create_task_group() as tasks:
        try:
            room = await open_room(address, settings.room, clock=clock, listener=visitor, http=http, tasks=tasks)
            pipeline = CallerPipeline(room.transport, settings.turn_taking, visitor)
            tasks.start_soon(pipeline.run)
            try:
                await room.enter()
                visit.entered_s = clock.now_ns() / 1e9
                with anyio.move_on_after(LOOK_AROUND_S):
                    await room.wait_for_agent()
                await anyio.sleep(LOOK_AROUND_S)
                visit.participants = room.participants()
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(LEAVE_TIMEOUT_S):
                    await room.leave()
                    await pipeline.stop()
        except RoomError as error:
            visit.error = f"{error.reason.value}: {error}"
        tasks.cancel_scope.cancel()
    if visitor.lost is not None:
        visit.error = visit.error or f"{visitor.lost.reason.value}: {visitor.lost}"
    visit.audio_s = visitor.samples / AUDIO_RATE_HZ
    if visitor.agent_here:
        visit.agent = visitor.participant or "agent"
        visit.agent_level_dbfs = 20 * float(np.log10(visitor.peak / 32_768)) if visitor.peak else None
    visit.messages = visitor.messages
    return visit
