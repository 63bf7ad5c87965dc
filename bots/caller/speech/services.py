"""Speech services made from settings, and run alone in a small pipeline."""

import asyncio
import contextlib
import difflib
import importlib
import inspect
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from pipecat.frames.frames import EndFrame, ErrorFrame, Frame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.ai_service import AIService
from pipecat.services.llm_service import LLMService
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService
from pipecat.workers.runner import WorkerRunner

from bots.caller.speech.errors import MissingSpeechPackage, SpeechError
from bots.caller.speech.settings import OFFLINE, SECRET_NAME, ServiceSettings, from_environment
from bots.masking import masked

__all__ = ["RunningService", "make_llm", "make_stt", "make_tts", "running"]

_Service = TypeVar("_Service", bound=AIService)

_END_TIMEOUT_S = 10.0


def make_tts(settings: ServiceSettings) -> TTSService:
    """Make the service that speaks: ``offline``, or any Pipecat TTS service.

    Raises:
        ValueError: The settings name no TTS service, or one that can't be made with them.
        MissingSpeechPackage: The service is ``offline`` and the extra of that name is not installed.
    """
    return _made(settings, TTSService, "tts", "bots.caller.speech.hibari.HibariTTSService")


def make_stt(settings: ServiceSettings) -> STTService:
    """Make the service that recognises speech, as :func:`make_tts`. The offline one hears 16 kHz audio only."""
    return _made(settings, STTService, "stt", "bots.caller.speech.whisper.OfflineWhisperSTTService")


def make_llm(settings: ServiceSettings) -> LLMService[Any]:
    """Make a service that answers, as :func:`make_tts`; there is no offline one."""
    return _made(settings, LLMService, "llm", None)


def _made(settings: ServiceSettings, base: type[_Service], name: str, offline: str | None) -> _Service:
    path = offline if offline is not None and settings.service == OFFLINE else settings.service
    return _construct(_service_class(path, base, f"{name}.service"), settings, name)


def _service_class(path: str, base: type[_Service], where: str) -> type[_Service]:
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        raise ValueError(f"{where}: {path!r} is no service of this kind; give the dotted path of a {base.__name__}.")
    try:
        module = importlib.import_module(module_name)
    except MissingSpeechPackage:
        raise
    except ImportError as error:
        raise ValueError(
            f"{where}: the module {module_name!r} can't be imported ({error}). Check its name, and that the package "
            "it needs is installed (Pipecat's services are extras: pip install 'pipecat-ai[...]')."
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        classes = [other for other, value in vars(module).items() if _is_kind_of(value, base)]
        raise ValueError(f"{where}: {module_name!r} has no {class_name!r}.{_meant(class_name, classes)}")
    if not _is_kind_of(found, base):
        raise ValueError(f"{where}: {path!r} is not a {base.__name__}. Name a class derived from Pipecat's.")
    return found


def _is_kind_of(value: Any, base: type[AIService]) -> bool:
    # Not issubclass: Pipecat's base classes are abstract, and the check would wake warnings in deprecated ones.
    return inspect.isclass(value) and base in value.__mro__


def _construct(service: type[_Service], settings: ServiceSettings, name: str) -> _Service:
    params, param_secrets = from_environment(settings.params, f"{name}.params")
    values, value_secrets = from_environment(settings.settings, f"{name}.settings")
    secrets = param_secrets | value_secrets | {str(params[key]) for key in params if SECRET_NAME.search(key)}
    _check_names(service, params, f"{name}.params", f"{settings.service}")
    given: dict[str, Any] = dict(params)
    if "settings" in given:
        raise ValueError(f"{name}.params: 'settings' can't be given here; its values belong into {name}.settings.")
    try:
        if values:
            settings_class = getattr(service, "Settings", None)
            if settings_class is None:
                raise ValueError(f"{name}.settings: {settings.service} takes none. Leave it out.")
            _check_names(settings_class, values, f"{name}.settings", f"{settings.service}.Settings")
            given["settings"] = settings_class(**values)
        return service(**given)
    except ImportError:
        raise
    except Exception as error:
        # Without the cause: its traceback could show the key.
        message = masked(str(error), secrets)
        if message.startswith(f"{name}."):
            raise ValueError(message) from None
        raise ValueError(
            f"{name}: {settings.service} can't be made from {name}.params and {name}.settings "
            f"({type(error).__name__}: {message}). Correct what it complains of."
        ) from None


def _check_names(callee: type[Any], values: dict[str, Any], where: str, what: str) -> None:
    """Refuse keywords that nothing takes: Pipecat's base classes would swallow them in silence."""
    known: set[str] = set()
    takes_more = True
    for cls in callee.__mro__:
        if "__init__" not in vars(cls) or cls is object or not takes_more:
            continue
        parameters = inspect.signature(cls.__init__).parameters.values()
        known |= {p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}} - {"self"}
        takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for keyword in values:
        if keyword not in known:
            raise ValueError(f"{where}.{keyword}: {what} knows no {keyword!r}.{_meant(keyword, sorted(known))}")


def _meant(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f" Did you mean {' or '.join(repr(name) for name in close)}?"
    return f" There is: {', '.join(known)}." if known else ""


class _Tap(FrameProcessor):
    """Passes every frame on and hands it to a queue: those going down behind the service, errors before it."""

    def __init__(self, frames: "asyncio.Queue[Frame | None]", direction: FrameDirection) -> None:
        super().__init__()
        self._frames = frames
        self._taken = direction

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if direction is self._taken and (direction is FrameDirection.DOWNSTREAM or isinstance(frame, ErrorFrame)):
            self._frames.put_nowait(frame)
        await self.push_frame(frame, direction)


class RunningService:
    """A service running alone in a pipeline: frames are given to it, and what it pushes is read."""

    def __init__(self, worker: PipelineWorker, frames: "asyncio.Queue[Frame | None]", name: str) -> None:
        self._worker = worker
        self._frames = frames
        self._name = name
        self._has_ended = False

    async def give(self, *frames: Frame) -> None:
        await self._worker.queue_frames(frames)

    async def end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            await self._worker.queue_frame(EndFrame())

    async def next_frame(self, timeout_s: float) -> Frame | None:
        """Return the next frame the service pushed, or ``None`` when none came in time.

        Raises SpeechError: the service reported an error, or its pipeline has ended.
        """
        try:
            async with asyncio.timeout(timeout_s):
                frame = await self._frames.get()
        except TimeoutError:
            return None
        if isinstance(frame, ErrorFrame):
            raise SpeechError(f"{self._name}: {frame.error}")
        if frame is None:
            raise SpeechError(f"{self._name}: its pipeline has ended")
        return frame


@contextlib.asynccontextmanager
async def running(
    service: TTSService | STTService, *, input_rate_hz: int = 16_000, output_rate_hz: int = 24_000
) -> AsyncGenerator[RunningService]:
    """Run a service, once, in a pipeline of its own while the context is open, and end it in good order."""
    frames: asyncio.Queue[Frame | None] = asyncio.Queue()
    worker = PipelineWorker(
        Pipeline([_Tap(frames, FrameDirection.UPSTREAM), service, _Tap(frames, FrameDirection.DOWNSTREAM)]),
        params=PipelineParams(audio_in_sample_rate=input_rate_hz, audio_out_sample_rate=output_rate_hz),
        enable_rtvi=False,
        enable_turn_tracking=False,
        idle_timeout_secs=None,
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    run = asyncio.create_task(runner.run(), name=f"run {service.name}")
    run.add_done_callback(lambda _: frames.put_nowait(None))
    try:
        at_work = RunningService(worker, frames, service.name)
        yield at_work
        await at_work.end()
        await asyncio.wait({run}, timeout=_END_TIMEOUT_S)
    finally:
        if not run.done():
            await runner.cancel()
        await run
