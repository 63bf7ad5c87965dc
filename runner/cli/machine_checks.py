"""Checks that this machine can make calls, and says what is missing and how to get it."""

import importlib.util
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from loguru import logger

from bots.caller.script import Expectation, Listen, Script, Speak, Turn, Words
from bots.caller.speech.errors import MissingSpeechPackage, SpeechError
from bots.caller.speech.settings import OFFLINE, ServiceSettings
from runner.errors import RunnerError
from runner.rooms.open import RoomAddress
from runner.settings import Settings

SENTENCE = "The line is clear."


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        detail: What was found, and how to mend it where it is not fine.
        required: Whether a call needs it.
    """

    check: str
    ok: bool
    detail: str
    required: bool = True


Check = Callable[[Settings], Awaitable[Finding]]


async def examine(settings: Settings, report: Callable[[Finding], None]) -> bool:
    """Check this machine; return whether everything a call needs is there."""
    fine = True
    for name, check in CHECKS.items():
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
    from runner.evaluation.wording import same_words

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


CHECKS: dict[str, Check] = {
    "speaking": _speaks,
    "recognising": _hears,
    "a WebRTC call on this machine": _calls,
    "judging (eval)": _judges,
    "Daily": _daily,
    "--listen": _speakers,
}


def _named(service: ServiceSettings) -> str:
    return "offline" if service.service == OFFLINE else service.service.rpartition(".")[2]
