"""Pipecat's Daily transport, with what a measured call needs besides: stamps, one agent, bounded times.

Pipecat's transport takes every participant's audio into the pipeline and stamps nothing. Here the library's
callbacks are stamped on the library's own thread, before they reach the event loop, and only the audio asked for
with :meth:`RoomClient.capture` is received.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from daily import AudioData, Daily
from loguru import logger
from pipecat.frames.frames import OutputAudioRawFrame, StartFrame, UserAudioRawFrame
from pipecat.transports.daily.transport import (
    DailyCallbacks,
    DailyInputTransport,
    DailyParams,
    DailyTransport,
    DailyTransportClient,
    _CallState,  # pyright: ignore[reportPrivateUsage]  # the only record of whether messages can be sent
)
from pydantic import SecretStr

from bots.masking import masked
from runner.rooms.base import AUDIO_RATE_HZ, PIPELINE_RATE_HZ, SampleFilter
from runner.rooms.daily.failures import JOIN_TIMED_OUT, RETRIES_USED_UP
from runner.rooms.daily.library_log import LogMark, library_log
from runner.rooms.daily.session import RoomSession

RECEIVE_INTERVAL_MS = 20
"""How often the library hands over received audio."""

TICK_S = 0.1
RELEASE_LIMIT_S = 2.0
LEAVE_LIMIT_S = 2.0
SEND_LIMIT_S = 5.0
NOT_CONFIRMED = f"not confirmed within {SEND_LIMIT_S:.0f} s"
"""In place of the library's word on a message, where there is none in time."""

WRITTEN_AHEAD_BYTES = AUDIO_RATE_HZ * 2 * 200 // 1_000
"""So much of the caller's audio, 200 ms, is written before it is due."""

WORKER_THREADS = 4
"""Threads the library shares among all calls of the process; it has 2 unless told otherwise."""


class JoinFailed(Exception):
    """The room could not be joined; the events have been told why."""


class _Library:
    """The library's client. What it completes after the end of the event loop that asked for it comes to nothing."""

    def __init__(self, client: Any):
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def join(self, *args: Any, completion: Callable[..., None], **kwargs: Any) -> None:
        self._client.join(*args, completion=_while_the_loop_runs(completion), **kwargs)

    def leave(self, completion: Callable[..., None] | None = None) -> None:
        self._client.leave(completion=completion and _while_the_loop_runs(completion))


def _while_the_loop_runs(completion: Callable[..., None]) -> Callable[..., None]:
    def complete(*args: Any) -> None:
        try:
            completion(*args)
        except RuntimeError:
            # The loop has been closed: the library can outlive the call by the time a pending join takes.
            logger.trace("the library completed something after the end of the call")

    return complete


class RoomClient(DailyTransportClient):
    """Pipecat's client of the library, with stamped callbacks that never make the library wait for the loop."""

    def __init__(
        self,
        room_url: str,
        token: SecretStr | None,
        *,
        bot_name: str,
        params: DailyParams,
        callbacks: DailyCallbacks,
        transport_name: str,
        events: RoomSession,
        join_timeout_s: float,
        samples: SampleFilter | None,
    ):
        super().__init__(
            room_url, token.get_secret_value() if token else None, bot_name, params, callbacks, transport_name
        )
        self._client: Any = _Library(self._client)
        self.agent_input: RoomInput | None = None
        self._events = events
        self._join_timeout_s = join_timeout_s
        self._samples = samples
        self._joining = False
        self._captured: str | None = None
        self._log_mark: LogMark | None = None
        self._written: deque[asyncio.Future[int]] = deque()
        events.attach(self)

    def scrub(self, text: str) -> str:
        return masked(text, [self._token])

    # On the library's threads.

    def _post(self, handler: Callable[..., None], *args: Any) -> None:
        if self._task_manager is None:
            return
        try:
            self._task_manager.get_event_loop().call_soon_threadsafe(handler, *args)
        except RuntimeError:
            logger.trace("an event of the library came after the end of the call")

    def _call_async_callback(
        self, queue: asyncio.Queue[tuple[Any, ...]], callback: Callable[..., Any], *args: Any
    ) -> None:
        # Pipecat makes the library's thread wait until the loop has taken the event. A thread that waits for a busy
        # loop stamps what follows too late, and can never serve a call the loop itself is waiting for.
        self._post(queue.put_nowait, (callback, *args))

    def _agent_audio(self, participant_id: str, audio: AudioData, audio_source: str) -> None:
        stamp_ns = time.monotonic_ns()
        self._post(self._events.audio_arrived, stamp_ns, participant_id, audio.audio_frames)

    def on_error(self, message: str) -> None:
        self._post(self._events.library_error, self.scrub(message))

    def on_participant_joined(self, participant: Mapping[str, Any]) -> None:
        self._post(self._events.participant_seen, time.monotonic_ns(), participant)
        super().on_participant_joined(participant)

    def on_participant_updated(self, participant: Mapping[str, Any]) -> None:
        self._post(self._events.participant_seen, time.monotonic_ns(), participant)
        super().on_participant_updated(participant)

    def on_participant_left(self, participant: Mapping[str, Any], reason: str) -> None:
        self._post(self._events.participant_left, time.monotonic_ns(), participant["id"], reason)
        super().on_participant_left(participant, reason)

    def on_app_message(self, message: Any, sender: str) -> None:
        self._post(self._events.message_arrived, time.monotonic_ns(), message, sender)
        super().on_app_message(message, sender)

    def on_network_connection_status_updated(self, status: Mapping[str, Any]) -> None:
        connected = status.get("event") == "connected"
        self._post(self._events.connection_changed, time.monotonic_ns(), str(status.get("connection")), connected)
        super().on_network_connection_status_updated(status)

    def on_active_speaker_changed(self, participant: Mapping[str, Any]) -> None:
        self._post(self._events.speaker_changed, time.monotonic_ns(), str(participant.get("id")))
        super().on_active_speaker_changed(participant)

    # On the event loop.

    def capture(self, participant_id: str) -> None:
        """Receive the microphone of one participant, and of nobody else."""

        def subscribe(to: str, state: str) -> None:
            self._client.update_subscriptions(participant_settings={to: {"media": {"microphone": state}}})

        if self._captured is not None and self._captured != participant_id:
            subscribe(self._captured, "unsubscribed")
        self._captured = participant_id
        subscribe(participant_id, "subscribed")
        self._client.set_audio_renderer(
            participant_id,
            self._agent_audio,
            audio_source="microphone",
            sample_rate=AUDIO_RATE_HZ,
            callback_interval_ms=RECEIVE_INTERVAL_MS,
        )

    def can_send(self) -> bool:
        """Return whether an app message would be sent now: the library drops it silently otherwise."""
        return self._call_state == _CallState.JOINED

    def send_to(self, participant_id: str, message: Any) -> None:
        """Send an app message to one participant, without waiting for its confirmation."""

        def log(error: str | None) -> None:
            if error:
                logger.warning(f"a message to {participant_id} was not sent: {self.scrub(error)}")

        self._client.send_app_message(message, participant_id, completion=log)

    async def send(self, message: Any) -> str | None:
        """Send an app message to everyone; return the library's error, if any.

        Raises:
            ValueError: The library cannot send this value.
            TypeError: The library cannot send a value of this type.
        """
        sent: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

        def settle(error: str | None) -> None:
            if not sent.done():
                sent.set_result(error)

        self._client.send_app_message(message, None, completion=lambda error: self._post(settle, error))
        try:
            error = await asyncio.wait_for(sent, SEND_LIMIT_S)
        except TimeoutError:
            return NOT_CONFIRMED
        return self.scrub(error) if error else None

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        """Write audio to the microphone track, and stamp when it was taken and when it had left."""
        if frame.transport_destination or not self._microphone_track:
            return await super().write_audio_frame(frame)
        pcm = frame.audio if self._samples is None else self._samples(frame.audio)
        written: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        taken_ns = time.monotonic_ns()

        def done(samples: int) -> None:
            self._post(settle, time.monotonic_ns(), samples)

        def settle(done_ns: int, samples: int) -> None:
            # Noted here and not after the await: what the library took leaves even if the line is interrupted.
            self._events.audio_sent(taken_ns, done_ns, pcm[: samples * frame.num_channels * 2])
            if not written.done():
                written.set_result(samples)

        self._microphone_track.source.write_frames(pcm, completion=done)
        self._events.audio_taken(taken_ns)
        self._written.append(written)
        # The library plays what it has by itself: with some of it in hand, a line has no gap where this loop is late.
        if len(self._written) * len(pcm) > WRITTEN_AHEAD_BYTES:
            return await self._written.popleft() > 0
        return True

    def push_placed(self, at_ns: int, pcm: bytes, participant_id: str) -> None:
        """Give the pipeline agent audio at :data:`PIPELINE_RATE_HZ`."""
        if self.agent_input is not None:
            self.agent_input.push_placed(at_ns, pcm, participant_id)

    async def leave_now(self) -> None:
        """Leave the room at once, whatever the pipeline is doing; Pipecat's own leave then has nothing to do."""
        if self._client is None:
            # Pipecat clears it on cleanup.
            return
        if self._in_call():
            self._call_state = _CallState.LEFT
            await self._leave()
        elif self._joining:
            # The library does one thing after the other: it leaves as soon as it has joined, and nobody waits.
            self._client.leave()
        if self._task_manager is None:
            # The pipeline was never set up, so it will never release the client.
            await asyncio.to_thread(self._cleanup)

    async def join(self) -> None:
        """Join the room; a join that fails is for whoever hears the events, and no error of the pipeline."""
        try:
            await super().join()
        except JoinFailed as e:
            logger.debug(f"joining {self._room_url}: {e}")

    async def _join(self) -> tuple[Any, Any]:
        self._joining = True
        # Nobody's microphone comes unasked: a tester's open tab is not to cost, nor to be heard.
        self._client.update_subscription_profiles(
            {"base": {"camera": "unsubscribed", "screenVideo": "unsubscribed", "microphone": "unsubscribed"}}
        )
        self._log_mark = library_log.open()
        try:
            data, error = await asyncio.wait_for(super()._join(), self._join_timeout_s)
            self._joining = False
        except TimeoutError:
            # The library is still at it.
            data, error = None, JOIN_TIMED_OUT
        refusal = library_log.refusal_since(self._log_mark)
        if not self._joining:
            self._stop_reading_the_log()
        if error:
            error = self.scrub(str(error))
            if refusal is not None and (error == JOIN_TIMED_OUT or RETRIES_USED_UP in error):
                error = self.scrub(refusal)
            self._events.join_failed(error)
            # Pipecat would report what is returned here as an error of its own, three times over.
            raise JoinFailed(error)
        return data, error

    async def _leave(self) -> str | None:
        # Pipecat waits for the library's word for ever, and with it the end of the pipeline.
        try:
            return await asyncio.wait_for(super()._leave(), LEAVE_LIMIT_S)
        except TimeoutError:
            return f"not confirmed within {LEAVE_LIMIT_S:.0f} s"

    async def _handle_call_state_updated(self, state: str) -> None:
        # Leaving on purpose moves out of the call before the library says so.
        ended_under_us = state == "left" and self._in_call()
        await super()._handle_call_state_updated(state)
        if ended_under_us:
            self._events.call_ended()

    def _cleanup(self) -> None:
        # The library's release waits for a join in progress, which nothing can end before its own 19 s are over.
        # The thread is a daemon so that neither the call's end nor the process waits for that.
        clean_up = super()._cleanup

        def release() -> None:
            try:
                clean_up()
            finally:
                # A join that was given up goes on until here, and logs.
                self._stop_reading_the_log()

        releasing = threading.Thread(target=release, name="daily-release", daemon=True)
        releasing.start()
        releasing.join(RELEASE_LIMIT_S)

    def _stop_reading_the_log(self) -> None:
        mark, self._log_mark = self._log_mark, None
        if mark is not None:
            library_log.close(mark)


class RoomInput(DailyInputTransport):
    """Pipecat's input, fed with the agent's placed audio only."""

    _client: RoomClient

    def __init__(self, transport: DailyTransport, client: RoomClient, params: DailyParams, **kwargs: Any):
        super().__init__(transport, client, params, **kwargs)
        self._call_events = client._events  # pyright: ignore[reportPrivateUsage]  # same module
        self._ticker: asyncio.Task[None] | None = None

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        if self._ticker is None:
            self._ticker = self.create_task(self._tick())

    async def cleanup(self) -> None:
        if self._ticker is not None:
            await self.cancel_task(self._ticker)
            self._ticker = None
        await super().cleanup()

    async def capture_participant_audio(
        self, participant_id: str, audio_source: str = "microphone", sample_rate: int = PIPELINE_RATE_HZ
    ) -> None:
        """Do nothing: Pipecat asks for everybody's audio, and the room takes only the agent's."""

    def push_placed(self, at_ns: int, pcm: bytes, participant_id: str) -> None:
        """Push agent audio at :data:`PIPELINE_RATE_HZ` into the pipeline, with its place as ``pts``."""
        if self._ticker is None or self._audio_task is None or self._paused:
            return
        frame = UserAudioRawFrame(user_id=participant_id, audio=pcm, sample_rate=PIPELINE_RATE_HZ, num_channels=1)
        frame.pts = at_ns
        frame.transport_source = "microphone"
        self._audio_in_queue.put_nowait(frame)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._call_events.tick(time.monotonic_ns())


class RoomTransport(DailyTransport):
    """Pipecat's Daily transport around :class:`RoomClient` and :class:`RoomInput`: carries a session's media."""

    def __init__(
        self,
        room_url: str,
        token: SecretStr | None,
        name: str,
        *,
        events: RoomSession,
        join_timeout_s: float,
        samples: SampleFilter | None = None,
    ):
        params = DailyParams(
            audio_in_enabled=True,
            audio_in_sample_rate=PIPELINE_RATE_HZ,
            audio_out_enabled=True,
            audio_out_sample_rate=AUDIO_RATE_HZ,
            camera_out_enabled=False,
            transcription_enabled=False,
        )
        with library_log.set_up():
            begin_library()
            super().__init__(room_url, None, name, params)
        # Pipecat offers no way to bring one's own client, so the one it made is replaced before anyone has seen it.
        unused = self._client
        self._events = events
        self.client = RoomClient(
            room_url,
            token,
            bot_name=name,
            params=params,
            callbacks=unused._callbacks,  # pyright: ignore[reportPrivateUsage]  # see above
            transport_name=self.name,
            events=events,
            join_timeout_s=join_timeout_s,
            samples=samples,
        )
        self._client = self.client
        unused._cleanup()  # pyright: ignore[reportPrivateUsage]  # see above

    def input(self) -> RoomInput:
        if self.client.agent_input is None:
            self.client.agent_input = RoomInput(self, self.client, self._params, name=self._input_name)
            self._input = self.client.agent_input
        return self.client.agent_input

    async def _on_joined(self, data: Mapping[str, Any]) -> None:
        self._events.joined(time.monotonic_ns(), data.get("participants", {}))
        await super()._on_joined(data)

    async def _on_error(self, error: str) -> None:
        # Pipecat says so of a call that ended under us, which the events tell with its reason.
        logger.debug(self.client.scrub(error))


def begin_library() -> None:
    """Start the library with the threads that many calls in one process need; Pipecat would start it with two.

    A second start would end the process: Pipecat's own mark says whether there was one.
    """
    if not DailyTransportClient._daily_initialized:  # pyright: ignore[reportPrivateUsage]  # its own mark
        DailyTransportClient._daily_initialized = True  # pyright: ignore[reportPrivateUsage]
        Daily.init(worker_threads=WORKER_THREADS)
