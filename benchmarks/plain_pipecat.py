"""What a call costs with stock parts in place of ours: the same conversation, the same agent, the same machine.

    python -m benchmarks.plain_pipecat

The plain caller is what one writes with Pipecat alone: its SmallWebRTC transport (aiortc's jitter buffer and decoder,
Pipecat's RawAudioTrack, aiortc's encoder) with the signalling turned round so that it offers, Silero VAD, and a
processor that says its next line one second after the agent fell silent. RTVI and turn tracking are off, as in ours.
It measures nothing, and records nothing unless told to; ours always records both sides and writes its timeline.
"""

import asyncio
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx
from aiortc import RTCSessionDescription
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import (
    Frame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.audio.audio_buffer_processor import AudioBufferProcessor
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from pipecat.workers.runner import WorkerRunner

from benchmarks.calls import Measured, Plan, conversation, measure, turns_for
from benchmarks.common import (
    Claim,
    LoopLag,
    Steady,
    agents,
    in_fresh_process,
    median,
    parser,
    percentile,
    report,
    run_uvloop,
    synthesise,
)
from bots.caller.script import Play, Script, Speak
from bots.caller.speech.voice import RATE_HZ, Line, Voice
from runner.settings import load_settings

CALLS = 4
IN_RATE_HZ = 16_000
TURN_END_S = 0.8
"""After the VAD's own 0.2 s: one second of silence, as in our caller."""

MAX_RATIO = 1.0


class OfferingConnection(SmallWebRTCConnection):
    """Pipecat's connection, which answers offers, turned round so that it makes one."""

    async def offer(self, base_url: str, http: httpx.AsyncClient) -> None:
        """Offer audio, camera, screen and a data channel to a bot, as Pipecat's own clients do."""
        self._pc.addTransceiver("audio", direction="sendrecv")
        for _ in range(2):
            self._pc.addTransceiver("video", direction="recvonly")
        self._pc.emit("datachannel", self._pc.createDataChannel("chat", ordered=True))
        await self._pc.setLocalDescription(await self._pc.createOffer())
        offer = {"sdp": self._pc.localDescription.sdp, "type": self._pc.localDescription.type}
        answer = (await http.post(f"{base_url}/api/offer", json=offer, timeout=20)).raise_for_status().json()
        await self._pc.setRemoteDescription(RTCSessionDescription(sdp=answer["sdp"], type=answer["type"]))


class Speaker(FrameProcessor):
    """Says the next line whenever the agent has been silent for long enough, then is done."""

    def __init__(self, lines: list[Line]):
        super().__init__()
        self._lines = list(lines)
        self._speaking: asyncio.Task[None] | None = None
        self.replies = 0
        self.done = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, VADUserStartedSpeakingFrame) and self._speaking is not None:
            self._speaking.cancel()
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self._speaking = asyncio.create_task(self._go_on())
        await self.push_frame(frame, direction)

    async def _go_on(self) -> None:
        await asyncio.sleep(TURN_END_S)
        self.replies += 1
        if not self._lines:
            self.done.set()
            return
        await self.push_frame(TTSStartedFrame())
        await self.push_frame(TTSAudioRawFrame(audio=self._lines.pop(0).pcm, sample_rate=RATE_HZ, num_channels=1))
        await self.push_frame(TTSStoppedFrame())


@dataclass
class PlainMeasured:
    """What came of the plain calls."""

    finished: int
    cores_per_call: float
    steady_s: float
    rss_mb: float
    threads: int
    lags_ms: list[float]


def measure_plain(urls: tuple[str, ...], calls: int, script: Script, record: bool) -> PlainMeasured:
    """Make plain calls in this process, which should be a fresh one."""
    return run_uvloop(_measure_plain, urls, calls, script, record)


async def _measure_plain(urls: tuple[str, ...], calls: int, script: Script, record: bool) -> PlainMeasured:
    spoken = [turn.action for turn in script.turns if isinstance(turn.action, Speak | Play)]
    lines = await Voice(load_settings().speech).synthesise(spoken)
    for url in urls:
        await _plain_call(url, [], Steady(1), record)
    steady, lag = Steady(calls), LoopLag()
    finished: list[bool] = [False] * calls

    async def one(index: int) -> None:
        finished[index] = await _plain_call(urls[index % len(urls)], lines, steady, record)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lag.run)
        async with anyio.create_task_group() as group:
            for index in range(calls):
                group.start_soon(one, index)
        tasks.cancel_scope.cancel()
    end = steady.ended
    assert end is not None
    return PlainMeasured(
        sum(finished), steady.cores_per_call, steady.duration_s, end.rss_mb, end.threads, steady.lags_ms(lag)
    )


async def _plain_call(url: str, lines: list[Line], steady: Steady, record: bool) -> bool:
    connection = OfferingConnection()
    transport = SmallWebRTCTransport(connection, TransportParams(audio_in_enabled=True, audio_out_enabled=True))
    speaker = Speaker(lines)
    buffer = AudioBufferProcessor(num_channels=2) if record else None
    pipeline = Pipeline(
        [
            transport.input(),
            VADProcessor(vad_analyzer=SileroVADAnalyzer()),
            speaker,
            transport.output(),
            *([buffer] if buffer is not None else []),
        ]
    )
    worker = PipelineWorker(
        pipeline,
        params=PipelineParams(audio_in_sample_rate=IN_RATE_HZ, audio_out_sample_rate=RATE_HZ),
        enable_rtvi=False,
        enable_turn_tracking=False,
        idle_timeout_secs=None,
    )

    async def on_client_connected(_transport: Any, _client: Any) -> None:
        steady.joined()
        if buffer is not None:
            await buffer.start_recording()

    transport.add_event_handler("on_client_connected", on_client_connected)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    async with httpx.AsyncClient() as http, anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run)
        await connection.offer(url, http)
        with anyio.move_on_after(20 + 20 * len(lines)):
            await speaker.done.wait()
        steady.call_ended()
        await runner.cancel()
    return speaker.done.is_set()


@dataclass
class Figures:
    """The repetitions of each kind of caller."""

    ours: list[Measured]
    plain: list[PlainMeasured]
    recording: list[PlainMeasured]


async def run_figures(options: Any) -> Figures:
    """Measure ours and the plain ones in turn, against the same agent."""
    script = conversation(turns_for(options.seconds))
    synthesise(script)
    figures = Figures([], [], [])
    with TemporaryDirectory(prefix="benchmark-truth-") as folder:
        async with agents("metronome", 1, Path(folder)) as urls:
            for _ in range(options.repeat):
                plan = Plan(tuple(urls), CALLS, script, Path(folder))
                figures.ours.append(await anyio.to_thread.run_sync(in_fresh_process, measure, plan))
                for record, into in ((False, figures.plain), (True, figures.recording)):
                    arguments = (measure_plain, tuple(urls), CALLS, script, record)
                    into.append(await anyio.to_thread.run_sync(in_fresh_process, *arguments))
    return figures


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=30, help="length of a call")
    options.add_argument("--repeat", type=int, default=2)
    options.add_argument("--max-ratio", type=float, default=MAX_RATIO, help="of ours to plain, that is claimed")
    chosen = options.parse_args()
    figures = anyio.run(run_figures, chosen)
    ours = median([repeat.cores_per_call for repeat in figures.ours])
    kinds = (
        ("ours: records, measures, judges", figures.ours, sum(repeat.passed for repeat in figures.ours)),
        ("plain", figures.plain, sum(repeat.finished for repeat in figures.plain)),
        ("plain, with AudioBufferProcessor", figures.recording, sum(repeat.finished for repeat in figures.recording)),
    )
    rows: list[list[str]] = []
    for name, repeats, finished in kinds:
        cores = [repeat.cores_per_call for repeat in repeats]
        lags = [lag for repeat in repeats for lag in repeat.lags_ms]
        rows.append(
            [
                name,
                f"{finished}/{CALLS * chosen.repeat}",
                f"{median(cores):.3f} ({min(cores):.3f}-{max(cores):.3f})",
                f"{ours / median(cores):.2f}",
                f"{median([repeat.rss_mb for repeat in repeats]):.0f}",
                str(max(repeat.threads for repeat in repeats)),
                f"{median(lags):.1f} / {percentile(lags, 99):.1f} / {max(lags):.1f}",
            ]
        )
    ratio = ours / median([repeat.cores_per_call for repeat in figures.plain])
    return report(
        f"A caller of stock parts, {CALLS} calls at once to the metronome",
        ("caller", "finished", "cores per call (range)", "ours / this", "RSS MB", "threads", "loop lag ms"),
        rows,
        [
            Claim("every call came to its end", all(n == CALLS * chosen.repeat for _, _, n in kinds)),
            Claim(
                f"ours takes at most {chosen.max_ratio:g} of what the plain one takes ({ratio:.2f})",
                ratio <= chosen.max_ratio,
            ),
        ],
        raw=dataclasses.asdict(figures),
        json_file=chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
