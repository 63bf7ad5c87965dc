"""The metronome: an agent whose every time is known. For calibrating a caller, and for loading a machine.

It answers a known time after the caller's last voiced sample, stops a known time after it is interrupted, and writes
what really happened to a log of its own, on ``time.monotonic_ns()``. It recognises nothing and says one sentence.

    python -m bots.agents.metronome -t webrtc --port 7861

Options come from the environment, and for a single call from the object ``metronome`` in the body of ``/start``
(``answer_ms``, ``stop_ms``, ``greet``, ``text``, ``gap_ms``, ``level_dbfs``, ``background``, ``background_dbfs``,
``background_from_s``):

    METRONOME_ANSWER_MS   how long after the caller's end it answers (default 800); several, separated by commas, are
                          used in turn. At least 150: that is how late the caller's audio is known.
    METRONOME_STOP_MS     how long after the caller's onset it stops speaking (default 300; at least 150)
    METRONOME_GREET       1 to greet half a second after the client is ready (default), 0 to be silent
    METRONOME_TEXT        the sentence it says; "Of course. | Which order is this about?" is one answer in two phrases
    METRONOME_GAP_MS      silence between two phrases (default 450)
    METRONOME_LEVEL_DBFS  RMS of what is voiced in it (default -20)
    METRONOME_BACKGROUND  what is heard behind it all through the call, its silence included (default: nothing); one
                          of white, office, crowd, babble, keyboard, hold_music, city (:mod:`bots.agents.backgrounds`)
    METRONOME_BACKGROUND_DBFS    RMS of the background, over the whole of its loop (default -38)
    METRONOME_BACKGROUND_FROM_S  where in its loop the background begins (default 0)
    METRONOME_LOG         file to append the log to, one JSON object a line; none by default

It stays cheap (one call takes a few hundredths of a core) by keeping audio out of the Pipecat pipeline: it reads the
connection's track and sets its own outgoing track, with packets that were coded before. Over a background every
packet is mixed and coded as it is sent, which costs a little more; the times are as exact. Everything else
(signalling, RTVI, leaving) is Pipecat's. In a Daily room (``-t daily``) Daily's library codes and decodes, and its
times are as exact as the library hands audio over: some milliseconds.

The log's events, each with ``session`` and ``at_ns``:

    session_started        with ``pc_id``, ``answer_ms``, ``stop_ms``, ``codec_delay_ms``, ``level_dbfs``,
                           ``background`` and ``background_dbfs`` (null without one)
    caller_speech_started  first voiced sample; ``arrival_ns`` of its packet, ``offset_ms`` in the decoded packet
    caller_speech_ended    last voiced sample, known only a moment later
    answer_started         first sample as handed to aiortc; ``kind``, ``due_ns``, ``handed_ns`` (when its packet was)
                           and ``phrases_ms`` (where each begins and ends, from that sample on, if not interrupted)
    answer_ended           last sample; ``interrupted`` tells whether it was cut
    session_ended

A voiced sample's ``at_ns`` is its packet's arrival, plus its place in the packet, less the codec's delay; an answer's
is the place of its first sample on the outgoing track's clock, which receivers see as RTP timestamps.
"""

import argparse
import asyncio
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bots.agents.backgrounds import BACKGROUND_DBFS, Background, BackgroundLoop
from bots.agents.metronome_audio import (
    CODEC_DELAY_MS,
    LEVEL_DBFS,
    PHRASE_GAP_MS,
    RATE_HZ,
    Utterance,
    load_clip,
    silence,
)
from bots.agents.metronome_lines import Line, MetronomeSounds, SmallWebRTCLine
from bots.agents.serve import options_of, run_agent, run_call
from bots.clock import NS_PER_MS, samples_to_ns

if TYPE_CHECKING:
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.runner.types import RunnerArguments
    from pipecat.transports.base_transport import BaseTransport

DEFAULT_TEXT = "Right on time, as ever I am."
SHORTEST_MS = 150
GREET_AFTER_MS = 500
GREET_UNASKED_AFTER_MS = 2_000
"""A client that speaks no RTVI never says that it is ready: it is greeted so long after it connected."""
HANGOVER_MS = 200
"""Silence after which the caller's speech is taken to be over."""
VOICED_DBFS = -50.0
VOICED_AMPLITUDE = int(32768 * 10 ** (VOICED_DBFS / 20))


def _numbers(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else [value] if isinstance(value, int | float) else value


_Time = Annotated[float, Field(ge=SHORTEST_MS)]


class MetronomeSettings(BaseModel):
    """How a metronome behaves: the options that the module's documentation tells of."""

    model_config = ConfigDict(frozen=True)

    answer_ms: Annotated[tuple[_Time, ...], BeforeValidator(_numbers), Field(min_length=1)] = (800.0,)
    stop_ms: _Time = 300.0
    greet: bool = True
    text: str = DEFAULT_TEXT
    gap_ms: float = Field(default=PHRASE_GAP_MS, ge=0)
    level_dbfs: float = Field(default=LEVEL_DBFS, le=0)
    background: Background = None
    background_dbfs: float = Field(default=BACKGROUND_DBFS, le=0)
    background_from_s: float = Field(default=0.0, ge=0)
    log: Path | None = None

    @classmethod
    def load(cls, body: Any = None) -> "MetronomeSettings":
        """Read the environment, and over it the object ``metronome`` in the body of a session's start.

        Raises ValueError: a value is of the wrong kind or out of bounds, or there is no such background.
        """
        # Where the log is written is not for a session to say.
        names = [name for name in cls.model_fields if name != "log"]
        return cls.model_validate({**options_of("metronome", None, ["log"]), **options_of("metronome", body, names)})

    def prepare(self) -> "MetronomeSounds":
        """Make what is to be heard; blocks for some seconds the first time in a process."""
        clip = load_clip(self.text, self.level_dbfs, self.gap_ms)
        if self.background is None:
            clip.code()
            return MetronomeSounds(clip, None)
        loop = BackgroundLoop(self.background, self.background_dbfs, RATE_HZ, from_s=self.background_from_s)
        return MetronomeSounds(clip, loop)


class Metronome:
    """The metronome's side of one call: hears onsets and ends, and plans the answers. Takes over its audio."""

    def __init__(
        self, line: Line, settings: MetronomeSettings, sounds: MetronomeSounds, session: str, worker: "PipelineWorker"
    ) -> None:
        self._settings = settings
        self._session = session
        self._log = settings.log.open("a", encoding="utf-8") if settings.log else None
        self._answers = 0
        self._onset_ns: int | None = None
        self._voiced_ns = 0
        self._voiced_detail: dict[str, Any] = {}
        self._worker = worker
        self._tasks: set[asyncio.Task[None]] = set()
        self.write(
            "session_started",
            time.monotonic_ns(),
            pc_id=line.peer,
            answer_ms=list(settings.answer_ms),
            stop_ms=settings.stop_ms,
            codec_delay_ms=CODEC_DELAY_MS,
            level_dbfs=settings.level_dbfs,
            background=settings.background,
            background_dbfs=settings.background_dbfs if settings.background else None,
        )
        self._phrases_ms = [[round(edge * 1000 / RATE_HZ, 3) for edge in phrase] for phrase in sounds.clip.phrases]
        self._track = line.track(sounds, (self._answer_started, self._answer_ended))
        self._listening = asyncio.create_task(self._listen(line))

    def greet(self, after_ms: float) -> None:
        """Plan the greeting, ``after_ms`` from now; a greeting already said or planned earlier stays."""
        planned = self._track.planned
        due_ns = time.monotonic_ns() + int(after_ms * NS_PER_MS)
        if self._answers or self._track.playing or (planned and planned.due_ns <= due_ns):
            return
        self._track.planned = Utterance("greeting", due_ns)

    def close(self) -> None:
        self._listening.cancel()
        self._track.stop()
        self.write("session_ended", time.monotonic_ns())
        if self._log:
            self._log.close()
            self._log = None

    def write(self, event: str, at_ns: int, **detail: Any) -> None:
        if self._log:
            line = {"event": event, "session": self._session, "at_ns": at_ns, **detail}
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()

    async def _listen(self, line: Line) -> None:
        async for piece in line.heard():
            self._hear(piece.samples, piece.start_ns, piece.arrival_ns)

    def _hear(self, samples: Any, start_ns: int, arrival_ns: int) -> None:
        if int(samples.max()) < VOICED_AMPLITUDE and int(samples.min()) > -VOICED_AMPLITUDE:
            if self._onset_ns is not None and start_ns - self._voiced_ns > HANGOVER_MS * NS_PER_MS:
                self._caller_ended()
            return
        voiced = np.flatnonzero(np.abs(samples.astype(np.int32)) >= VOICED_AMPLITUDE)
        first, last = int(voiced[0]), int(voiced[-1])
        if self._onset_ns is None:
            self._onset_ns = start_ns + samples_to_ns(first, RATE_HZ)
            self.write("caller_speech_started", self._onset_ns, **_place(arrival_ns, first))
        self._voiced_ns = start_ns + samples_to_ns(last, RATE_HZ)
        self._voiced_detail = _place(arrival_ns, last)
        playing = self._track.playing
        if playing and playing.started_ns is not None:
            # Speech that was already under way when the metronome began interrupts it from its beginning on.
            onset_ns = max(self._onset_ns, playing.started_ns)
            self._track.cut(onset_ns + int(self._settings.stop_ms * NS_PER_MS))
        wait_ms = self._settings.answer_ms[self._answers % len(self._settings.answer_ms)]
        self._track.planned = Utterance("answer", self._voiced_ns + int(wait_ms * NS_PER_MS))

    def _caller_ended(self) -> None:
        self._onset_ns = None
        self.write("caller_speech_ended", self._voiced_ns, **self._voiced_detail)

    def _answer_started(self, utterance: Utterance) -> None:
        from pipecat.frames.frames import BotStartedSpeakingFrame

        if utterance.kind == "answer":
            if self._onset_ns is not None:
                self._caller_ended()
            self._answers += 1
        self.write(
            "answer_started",
            utterance.started_ns or 0,
            kind=utterance.kind,
            due_ns=utterance.due_ns,
            handed_ns=utterance.handed_ns,
            phrases_ms=self._phrases_ms,
        )
        self._tell(BotStartedSpeakingFrame())

    def _answer_ended(self, utterance: Utterance, at_ns: int) -> None:
        from pipecat.frames.frames import BotStoppedSpeakingFrame

        self.write("answer_ended", at_ns, kind=utterance.kind, interrupted=utterance.interrupted)
        self._tell(BotStoppedSpeakingFrame())

    def _tell(self, frame: Any) -> None:
        # The output transport says over RTVI when the bot speaks, but here it has no audio to know it from.
        task = asyncio.create_task(self._worker.queue_frame(frame))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def bot(runner_args: "RunnerArguments") -> None:
    """Run one call.

    Raises:
        TypeError: The session is neither a SmallWebRTC one nor in a Daily room.
        ValueError: The options of the session are wrong.
    """
    from pipecat.pipeline.capabilities import BotCapabilities
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineWorker

    settings = MetronomeSettings.load(runner_args.body)
    sounds = await asyncio.to_thread(settings.prepare)
    transport, line_to = _transport(runner_args)
    worker = PipelineWorker(
        Pipeline([transport.input(), transport.output()]),
        enable_turn_tracking=False,
        idle_timeout_secs=None,
        capabilities=BotCapabilities(audio_in=True, audio_out=True),
    )
    metronome: Metronome | None = None
    ready = False

    async def on_client_connected(_transport: Any, peer: Any) -> None:
        nonlocal metronome
        if metronome is not None:
            return
        line = line_to(peer)
        metronome = Metronome(line, settings, sounds, runner_args.session_id or line.peer, worker)
        if settings.greet:
            metronome.greet(GREET_AFTER_MS if ready else GREET_UNASKED_AFTER_MS)

    async def on_client_ready(_rtvi: Any) -> None:
        nonlocal ready
        ready = True
        if metronome and settings.greet:
            metronome.greet(GREET_AFTER_MS)

    transport.add_event_handler("on_client_connected", on_client_connected)
    worker.rtvi.add_event_handler("on_client_ready", on_client_ready)
    try:
        await run_call(worker, transport)
    finally:
        if metronome is not None:
            metronome.close()


def _transport(runner_args: Any) -> tuple["BaseTransport", Callable[[Any], Line]]:
    from pipecat.runner.types import DailyRunnerArguments, SmallWebRTCRunnerArguments

    if isinstance(runner_args, DailyRunnerArguments):
        from bots.agents.metronome_daily import daily_line

        return daily_line(runner_args.room_url, runner_args.token)
    if not isinstance(runner_args, SmallWebRTCRunnerArguments):
        raise TypeError("the metronome works over SmallWebRTC and in Daily rooms only")
    from pipecat.transports.base_transport import TransportParams
    from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport

    return SmallWebRTCTransport(runner_args.webrtc_connection, TransportParams()), SmallWebRTCLine


def preload() -> None:
    importlib.import_module("pipecat.workers.runner")
    MetronomeSettings.load().prepare()
    silence()


def _place(arrival_ns: int, offset_samples: int) -> dict[str, Any]:
    return {"arrival_ns": arrival_ns, "offset_ms": round(offset_samples * 1000 / RATE_HZ, 3)}


def main() -> None:
    MetronomeSettings.load()  # wrong options are told at start, not in the first call
    run_agent(argparse.ArgumentParser(description="The metronome, an agent with known timing"), preload)


if __name__ == "__main__":
    main()
