"""The restaurant: a good agent to call. A real Pipecat bot that takes a table booking, with nothing left to chance.

    python -m bots.agents.restaurant -t webrtc --port 7860

What it understands and says is in :mod:`bots.agents.restaurant_dialogue`, when a turn of the caller is over in
:mod:`bots.agents.turns`, and how it fails on purpose (``--fault NAME``) in :mod:`bots.agents.faults`.

Recognition (Whisper tiny.en) and speech (Hibari) need neither network nor key. It is stock Pipecat throughout:
context aggregators, function calls (``check_availability``, ``book_table``), interruptions and everything told over
RTVI come from Pipecat, only the language model is replaced by the dialogue. DTMF is taken for the number of people
and the telephone number, ended by ``#``. Messages that are not RTVI are kept, and acknowledged by the RTVI server
message ``{"type": "data-message-received", "message": <unchanged>, "count": <how many so far>}``.
Pipecat's own eval harness can talk to it as well, at ``ws://<host>:<port>/ws`` of the same server.

``--background NAME --background-dbfs N`` puts one of :mod:`bots.agents.backgrounds` behind it. A single session may
ask for one in the body of its start, and for a plain agent, which takes no keys and tells nothing of itself:
``{"restaurant": {"background": "crowd", "background_dbfs": -38, "rtvi": false}}``.

Options come from the environment:

    RESTAURANT_END_OF_TURN_MS   silence after which the caller's turn is over, once the VAD hears it (default 800:
                                synthetic callers pause for 750 ms between two sentences)
    RESTAURANT_SILENCE_MS       silence after which the caller is asked whether they are still there (default 10000)
    RESTAURANT_HANG_UP_MS       silence after a booking, after which it says goodbye by itself (default 5000)
    RESTAURANT_THINKING_MS      how much later than it could it answers each turn of the caller (default 0)
    RESTAURANT_RTVI             0 to speak no RTVI (default 1)
"""

import argparse
import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any

from pipecat.audio.mixers.base_audio_mixer import BaseAudioMixer
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import (
    EndFrame,
    EndWorkerFrame,
    Frame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMRunFrame,
    LLMTextFrame,
    TTSSpeakFrame,
    UserIdleTimeoutUpdateFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.dtmf_aggregator import DTMFAggregator
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.processors.frameworks.rtvi import RTVIFunctionCallReportLevel, RTVIObserverParams
from pipecat.runner.utils import create_transport
from pipecat.services.llm_service import FunctionCallFromLLM, FunctionCallParams, LLMService
from pipecat.services.settings import LLMSettings
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.turns.empty_user_turn import EmptyUserTurnConfig
from pipecat.turns.user_start import (
    BaseUserTurnStartStrategy,
    TranscriptionUserTurnStartStrategy,
    VADUserTurnStartStrategy,
)
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pydantic import BaseModel, ConfigDict, Field

from bots.agents.background_mixer import BackgroundMixer
from bots.agents.backgrounds import BACKGROUND_DBFS, Background, BackgroundName
from bots.agents.faults import FAULTS, Fault, fault_of_session, slow_answers
from bots.agents.restaurant_dialogue import RestaurantDialogue, Step, book_table, check_availability
from bots.agents.serve import options_of, run_agent, run_call
from bots.agents.turns import DTMF_PREFIX, SegmentSTTService, SpeechTurnStartStrategy, WholeTurnStopStrategy

if TYPE_CHECKING:
    from pipecat.runner.types import RunnerArguments

GREET_UNASKED_AFTER_S = 2.0
"""A client that speaks no RTVI never says that it is ready: it is greeted so long after it connected."""

TURN_TIMEOUT_S = 10.0
"""A turn ends at the latest so long after the last sign of it, in case no more audio comes."""

NOTHING_UNDERSTOOD = "The caller spoke, but nothing was understood."
NOTHING_UNDERSTOOD_ROLE = "developer"
"""The role in which Pipecat puts that into the context."""


class RestaurantSettings(BaseModel):
    """How the restaurant takes turns, and how it is heard: the options that the module's documentation tells of."""

    model_config = ConfigDict(frozen=True)

    end_of_turn_ms: float = Field(default=800, ge=0)
    silence_ms: float = Field(default=10_000, ge=0)
    hang_up_ms: float = Field(default=5_000, ge=0)
    thinking_ms: float = Field(default=0, ge=0)
    rtvi: bool = True
    background: Background = None
    background_dbfs: float = Field(default=BACKGROUND_DBFS, le=0)

    @classmethod
    def load(cls, body: Any = None, options: argparse.Namespace | None = None) -> "RestaurantSettings":
        """Read the command line, over it the environment, and over both ``restaurant`` in the body of a session.

        Raises ValueError: a value is of the wrong kind or out of bounds, or there is no such background.
        """
        names = cls.model_fields
        told = {name: value for name, value in vars(options or argparse.Namespace()).items() if name in names}
        return cls.model_validate({**told, **options_of("restaurant", body, names)})

    def mixer(self, fault: Fault) -> BaseAudioMixer | None:
        """Return what is mixed into its speech and its silence: the background, or else the fault's."""
        if self.background is not None:
            return BackgroundMixer(self.background, self.background_dbfs)
        return fault.background() if fault.background else None


class DialogueLLMService(LLMService[Any]):
    """Answers like a language model, with function calls and all, but from :class:`RestaurantDialogue`."""

    def __init__(self, dialogue: RestaurantDialogue) -> None:
        # Every setting has a value, or Pipecat warns of those left open.
        open_ones = ("temperature", "max_tokens", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")
        values: dict[str, Any] = dict.fromkeys((*open_ones, "system_instruction", "user_turn_completion_config"))
        settings = LLMSettings(model="restaurant-dialogue", filter_incomplete_user_turns=False, **values)
        super().__init__(settings=settings)
        self._dialogue = dialogue
        self._greeted = False
        self._seen = 0
        self._pending: tuple[str, str] | None = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        step = self._decide(frame.context)
        if step is None:
            return
        await self.push_frame(LLMFullResponseStartFrame())
        if step.say:
            await self.push_frame(LLMTextFrame(step.say))
        if step.call:
            call_id = f"call_{uuid.uuid4().hex[:12]}"
            self._pending = (call_id, step.call.name)
            await self.run_function_calls(
                [
                    FunctionCallFromLLM(
                        function_name=step.call.name,
                        tool_call_id=call_id,
                        arguments=step.call.arguments,
                        context=frame.context,
                    )
                ]
            )
        await self.push_frame(LLMFullResponseEndFrame())
        if step.end:
            await self.push_frame(EndWorkerFrame(), FrameDirection.UPSTREAM)

    def _decide(self, context: LLMContext) -> Step | None:
        """Return what to do next, or None where a context brings nothing that was not answered already."""
        messages: list[Any] = list(context.get_messages())
        step: Step | None = None
        if self._pending and (content := _result(messages, self._pending[0])) is not None:
            name, self._pending = self._pending[1], None
            if isinstance(content, dict):
                step = self._dialogue.function_returned(name, content)
        new, self._seen = messages[self._seen :], len(messages)
        heard = [_text(message) for message in new if message.get("role") == "user"]
        greeted, self._greeted = self._greeted, True
        if heard:
            return self._dialogue.hear(" ".join(heard))
        if step:
            return step
        if not greeted:
            return self._dialogue.greet()
        if any(message.get("role") == NOTHING_UNDERSTOOD_ROLE for message in new):
            return self._dialogue.hear("")
        return None


def _result(messages: list[Any], call_id: str) -> dict[str, Any] | str | None:
    """Return a call's result, a word where it has none, or None while it runs."""
    for message in reversed(messages):
        if message.get("role") == "tool" and message.get("tool_call_id") == call_id:
            content = _text(message)
            if content == "IN_PROGRESS":
                return None
            try:
                return json.loads(content)
            except ValueError:
                return content
    return None


def _text(message: Any) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content or [])


async def _check_availability(params: FunctionCallParams) -> None:
    await params.result_callback(check_availability(**params.arguments))


async def _book_table(params: FunctionCallParams) -> None:
    await params.result_callback(book_table(**params.arguments))


def _turn_starts(fault: Fault) -> list[BaseUserTurnStartStrategy]:
    kinds = (
        [SpeechTurnStartStrategy]
        if fault.lets_listeners_hum
        else [VADUserTurnStartStrategy, TranscriptionUserTurnStartStrategy]
    )
    return [kind(enable_interruptions=fault.can_be_interrupted) for kind in kinds]


async def run_restaurant(
    transport: BaseTransport, settings: RestaurantSettings, fault: Fault, idle_timeout_s: float | None
) -> None:
    """Run one call over a transport; ``idle_timeout_s`` is how long it may go on without anyone speaking."""
    dialogue = fault.dialogue()
    llm = DialogueLLMService(dialogue)
    llm.register_function("check_availability", _check_availability)
    llm.register_function("book_table", _book_table)
    aggregators = LLMContextAggregatorPair(
        LLMContext(),
        user_params=LLMUserAggregatorParams(
            vad_analyzer=SileroVADAnalyzer(),
            user_turn_strategies=UserTurnStrategies(
                start=_turn_starts(fault),
                stop=[WholeTurnStopStrategy(silence_ms=settings.end_of_turn_ms)],
            ),
            user_turn_stop_timeout=TURN_TIMEOUT_S,
            user_idle_timeout=settings.silence_ms / 1000 if fault.asks_after_silence else 0,
            empty_user_turn=EmptyUserTurnConfig(
                interrupted_prompt=NOTHING_UNDERSTOOD, idle_prompt=NOTHING_UNDERSTOOD
            ),
        ),
    )
    user = aggregators.user()
    worker = PipelineWorker(
        Pipeline(
            [
                transport.input(),
                *([fault.ears()] if fault.ears else []),
                SegmentSTTService(),
                DTMFAggregator(prefix=DTMF_PREFIX),
                user,
                *([slow_answers(settings.thinking_ms / 1000)] if settings.thinking_ms else []),
                *([fault.mind()] if fault.mind else []),
                llm,
                fault.voice(),
                *([fault.mouth()] if fault.mouth else []),
                transport.output(),
                aggregators.assistant(),
            ]
        ),
        params=PipelineParams(audio_in_sample_rate=16_000, audio_out_sample_rate=24_000, enable_metrics=True),
        rtvi_observer_params=RTVIObserverParams(function_call_report_level={"*": RTVIFunctionCallReportLevel.FULL}),
        enable_rtvi=settings.rtvi,
        idle_timeout_secs=idle_timeout_s,
    )
    data_messages = 0
    greeting: asyncio.Task[None] | None = None

    async def greet(after_s: float) -> None:
        await asyncio.sleep(after_s)
        await worker.queue_frame(LLMRunFrame())

    async def on_client_connected(_transport: Any, _client: Any) -> None:
        nonlocal greeting
        if greeting is None:
            greeting = asyncio.create_task(greet(GREET_UNASKED_AFTER_S if fault.waits_for_client else 0))

    async def on_client_ready(_rtvi: Any) -> None:
        nonlocal greeting
        if greeting is None or not greeting.done():
            if greeting is not None:
                greeting.cancel()
            greeting = asyncio.create_task(greet(0))

    async def on_app_message(_transport: Any, message: Any, _sender: str) -> None:
        nonlocal data_messages
        if not settings.rtvi or (isinstance(message, dict) and message.get("label") == "rtvi-ai"):
            return
        data_messages += 1
        await worker.rtvi.send_server_message(
            {"type": "data-message-received", "message": message, "count": data_messages}
        )

    async def on_user_turn_idle(_aggregator: Any) -> None:
        step = dialogue.silent()
        await worker.queue_frame(TTSSpeakFrame(step.say))
        if step.end:
            await worker.queue_frame(EndFrame())

    async def on_function_calls_started(_llm: Any, calls: list[FunctionCallFromLLM]) -> None:
        if any(call.function_name == "book_table" for call in calls):
            await worker.queue_frame(UserIdleTimeoutUpdateFrame(timeout=settings.hang_up_ms / 1000))

    transport.add_event_handler("on_client_connected", on_client_connected)
    transport.add_event_handler("on_app_message", on_app_message)
    if settings.rtvi and fault.waits_for_client:
        worker.rtvi.add_event_handler("on_client_ready", on_client_ready)
    user.add_event_handler("on_user_turn_idle", on_user_turn_idle)
    llm.add_event_handler("on_function_calls_started", on_function_calls_started)
    try:
        await run_call(worker, transport)
    finally:
        if greeting is not None:
            greeting.cancel()


async def bot(runner_args: "RunnerArguments") -> None:
    """Run one call. Raises ValueError: the session asks for a fault or a background that there is not."""
    settings = RestaurantSettings.load(runner_args.body, runner_args.cli_args)
    fault = fault_of_session(runner_args.body, getattr(runner_args.cli_args, "fault", None))
    if not fault.joins:
        return
    audio: dict[str, Any] = {"audio_in_enabled": True, "audio_out_enabled": True}
    mixed: dict[str, Any] = {**audio, "audio_out_end_silence_secs": 1, "audio_out_mixer": settings.mixer(fault)}

    def daily_params() -> TransportParams:
        from pipecat.transports.daily.transport import DailyParams

        return DailyParams(**mixed)

    def eval_params() -> TransportParams:
        from pipecat.evals.transport import EvalTransportParams

        return EvalTransportParams(**audio)

    kinds = {"webrtc": lambda: TransportParams(**mixed), "daily": daily_params, "eval": eval_params}
    transport = await create_transport(runner_args, kinds)
    await run_restaurant(transport, settings, fault, runner_args.pipeline_idle_timeout_secs)


def preload() -> None:
    """Load the models, which all calls of the process share; blocks for two to three seconds."""
    from bots.caller.speech import hibari, whisper

    hibari.preload()
    whisper.preload()


def main() -> None:
    """Serve the restaurant with Pipecat's development runner."""
    RestaurantSettings.load()  # wrong options are told at start, not in the first call
    parser = argparse.ArgumentParser(description="The restaurant, an agent that takes bookings")
    faults = "; ".join(f"{name}: {fault.summary}" for name, fault in FAULTS.items())
    parser.add_argument("--fault", metavar="NAME", choices=list(FAULTS), help=f"Fail in one way. {faults}")
    parser.add_argument("--background", metavar="NAME", choices=list(BackgroundName), help="What is heard behind it")
    parser.add_argument(
        "--background-dbfs", metavar="N", type=float, default=BACKGROUND_DBFS, help="How loud (default: %(default)s)"
    )
    run_agent(parser, preload)


if __name__ == "__main__":
    main()
