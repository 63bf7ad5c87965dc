"""What is known of a call in a Daily room: who the agent is, where its audio belongs, what was lost."""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import soxr
from loguru import logger

from bots.clock import NS_PER_MS, NS_PER_S, CallClock, samples_to_ns
from bots.daily_library import PLACE_OFF_MS, RECEIVE_DELAY_NS
from bots.levels import is_quiet
from bots.timeline import CallerAudioQuality, EndedReason
from runner.errors import RoomError
from runner.rooms.base import AUDIO_RATE_HZ, PIPELINE_RATE_HZ, RoomListener, Timeliness, agent_vanished
from runner.rooms.daily import failures
from runner.rooms.daily.people import KeptMessage, Participant, People
from runner.rooms.daily.placement import (
    BYTES_PER_SAMPLE,
    DRIFT_TOLERANCE_NS,
    PlacedAudio,
    SampleClock,
    SentTrack,
)

MEDIA_STOPPED_AFTER_S = 2.5
"""The agent's audio has stopped when nothing of it arrived for this long."""

GONE_AFTER_S = 3.5
"""An agent of which nothing arrives for this long, though its microphone is on, is gone."""

CONNECTION_LOST_AFTER_S = 15.0
"""The library reconnects by itself; a connection that is away for this long is given up."""

MEDIA_LIMIT_S = 10.0
"""The caller waits so long for the media connections of an agent that is there; then it goes on, and says so."""

SENDING = "sendTransport"
RECEIVING = "recvTransport"
SIGNALLING = "signalling"
"""The library's names of its connections."""

PACKET_NS = 20 * NS_PER_MS
"""The library sends Opus in packets of this length, silence included."""


class Carrier(Protocol):
    def capture(self, participant_id: str) -> None: ...

    def send_to(self, participant_id: str, message: Any) -> None: ...

    def push_placed(self, at_ns: int, pcm: bytes, participant_id: str) -> None:
        """Give the pipeline agent audio at :data:`PIPELINE_RATE_HZ`."""


class _PipelineAudio:
    """The agent's audio at the pipeline's rate, every chunk with its place."""

    def __init__(self) -> None:
        self._stream: soxr.ResampleStream | None = None
        self._next_in_ns = 0
        self._anchor_ns = 0
        self._emitted = 0

    def resample(self, placed: PlacedAudio) -> PlacedAudio | None:
        """Return the samples that are ready, or None while the filter fills.

        The filter keeps some samples back but shifts none, so places go by the count of what came out.
        """
        # A jump in the stream's place is a gap: what is left in the filter belongs before it and is let go.
        if self._stream is None or abs(placed.at_ns - self._next_in_ns) > NS_PER_MS:
            # In floats, because soxr dithers 16-bit output: digital silence would come out as noise.
            self._stream = soxr.ResampleStream(AUDIO_RATE_HZ, PIPELINE_RATE_HZ, 1, dtype="float32", quality="MQ")
            self._anchor_ns, self._emitted = placed.at_ns, 0
        self._next_in_ns = placed.at_ns + samples_to_ns(len(placed.pcm) // BYTES_PER_SAMPLE, AUDIO_RATE_HZ)
        samples = self._stream.resample_chunk(np.frombuffer(placed.pcm, dtype=np.int16).astype(np.float32))
        if not len(samples):
            return None
        at_ns = self._anchor_ns + samples_to_ns(self._emitted, PIPELINE_RATE_HZ)
        self._emitted += len(samples)
        return PlacedAudio(at_ns, np.rint(samples).clip(-32768, 32767).astype(np.int16).tobytes())


class RoomSession:
    """Takes the events of the call and tells the listener what they mean.

    Args:
        participant_name: The agent's user name; None where it is to be told by what it does (:class:`People`).

    Attributes:
        join_over: Set when we are in the room, or could not get in.
        agent_here: Set when somebody is there who may be the agent.
        media_over: Set when audio can go both ways, or has been waited for long enough.
    """

    def __init__(self, room: str, clock: CallClock, listener: RoomListener, participant_name: str | None):
        self._room = room
        self._clock = clock
        self._listener = listener
        self.people = People(room, participant_name)
        self._carrier: Carrier | None = None
        self._for_whoever_is_the_agent: list[Any] = []
        self._agent_left = False
        self._received = SampleClock(AUDIO_RATE_HZ, listener.agent_audio_late)
        self._for_pipeline = _PipelineAudio()
        self._sent: SentTrack | None = None
        self._last_arrival_ns = 0
        self._anything_arrived = False
        self._media_stopped = False
        self._agent_end_ns = 0
        self._agent_was_quiet = True
        self._excused_until_ns = 0
        self._last_tick_ns = 0
        self._interrupted_ns: dict[str, int] = {}
        self._connected: set[str] = set()
        self._chosen_ns = 0
        self._zeros_since_ns: int | None = None
        self._last_error: str | None = None
        self._lost = False
        self._closed = False
        self.join_error: RoomError | None = None
        self.join_over = asyncio.Event()
        self.agent_here = asyncio.Event()
        self.media_over = asyncio.Event()

    def attach(self, carrier: Carrier) -> None:
        """Set what carries the media. Must come before anything happens in the call."""
        self._carrier = carrier

    def close(self, stamp_ns: int) -> None:
        """Take leave: place what is left, and be silent from now on."""
        if self._closed:
            return
        if self._sent is not None:
            self._emit_caller(self._sent.silence_until(self._clock.at_ns(stamp_ns)))
        self._emit_agent(self._received.flush())
        self._closed = True
        # The resampler's own memory is given back only once nothing holds it, and the library keeps hold of us.
        self._for_pipeline = _PipelineAudio()
        sent_reanchored = self._sent.reanchored if self._sent else 0
        logger.debug(f"Daily audio: re-anchored {self._received.reanchored} in, {sent_reanchored} out")

    def caller_audio_quality(self, at_ns: int) -> CallerAudioQuality | None:
        """Return how the caller's audio left so far. The library tells nothing of its arrival."""
        if self._sent is None:
            return None
        return CallerAudioQuality(
            at_ns=at_ns,
            packets=self._sent.duration_ns // PACKET_NS,
            late=self._sent.reanchored,
            latest_ms=round(self._sent.latest_ns / NS_PER_MS, 3),
        )

    def timeliness(self) -> Timeliness:
        """Return how punctual the agent's audio was so far; of the caller's the library sends silence by itself."""
        return Timeliness(send_lag_ms=0.0, arrival_jitter_ms=self._received.lags.spread_ms, library_ms=PLACE_OFF_MS)

    def sent_to_all(self, message: Any) -> None:
        """Keep a message while somebody else may still turn out to be the agent: it may not have been there."""
        if not self.people.is_settled:
            self._for_whoever_is_the_agent.append(message)

    # Events of the call.

    def joined(self, stamp_ns: int, participants: Mapping[str, Any]) -> None:
        """Note that we are in the room; only now can there be an agent."""
        self._sent = SentTrack(AUDIO_RATE_HZ, self._clock.at_ns(stamp_ns))
        for raw in participants.values():
            self.people.there_already(raw)
        self.join_over.set()
        self._choose_agent(stamp_ns)

    def join_failed(self, detail: str) -> None:
        self.join_error = failures.join_failed(detail, self._room)
        self.join_over.set()

    def participant_seen(self, stamp_ns: int, participant: Mapping[str, Any]) -> None:
        self.people.seen(participant)
        self._choose_agent(stamp_ns)

    def participant_left(self, stamp_ns: int, participant_id: str, reason: str) -> None:
        left = self.people.left(participant_id)
        if participant_id != self.people.agent_id or self._agent_left or self._closed:
            return
        if not self.people.agent_has_shown_itself and (next_best := self.people.best()) is not None:
            # It never said a word, and there is somebody else who may be the agent.
            self._take_agent(next_best, stamp_ns)
            return
        self._emit_agent(self._received.flush())
        self._agent_left = True
        unexplained_s = self._unexplained_s(left, stamp_ns)
        if unexplained_s > MEDIA_STOPPED_AFTER_S:
            # Daily gives no other reason for those it has dropped itself.
            self._lose(agent_vanished(unexplained_s))
            return
        detail = "left the call" if reason == "leftCall" else f"left the call ({reason})"
        if self._media_stopped:
            silent_s = (stamp_ns - self._last_arrival_ns) / NS_PER_S
            detail += f", {silent_s:.1f} s after its audio had stopped"
        elif self._zeros_since_ns is not None and stamp_ns - self._zeros_since_ns > MEDIA_STOPPED_AFTER_S * NS_PER_S:
            # Zeros prove nothing: a silent sender is zeros too. Whoever reads this may know which.
            silent_s = (stamp_ns - self._zeros_since_ns) / NS_PER_S
            detail += f", after {silent_s:.1f} s of digital silence"
        self._listener.agent_left(self._clock.at_ns(stamp_ns), detail)

    def message_arrived(self, stamp_ns: int, message: Any, sender: str) -> None:
        """Note a message: the agent's is passed on; before there is an agent, it is kept until we know."""
        at_ns = self._clock.at_ns(stamp_ns)
        if self._closed:
            return
        if (rival := self.people.outdone_by_message(sender, message)) is not None:
            self._take_agent(rival, stamp_ns)
        if sender == self.people.agent_id:
            self.people.agent_sent(message)
            self._listener.message_received(at_ns, message)
        else:
            self.people.keep(KeptMessage(at_ns, message, sender))

    def speaker_changed(self, stamp_ns: int, participant_id: str) -> None:
        """Note who is speaking, by Daily's own word: who we do not listen to can't be heard."""
        if not self._closed and (rival := self.people.outdone_by_voice(participant_id)) is not None:
            self._take_agent(rival, stamp_ns)

    def audio_arrived(self, stamp_ns: int, participant_id: str, pcm: bytes) -> None:
        if participant_id != self.people.agent_id or self._agent_left or self._closed:
            return
        agent = self.people.agent
        # The library may go on with silence of its own making while nothing comes over the network.
        is_zeros = not pcm.strip(b"\0")
        if not is_zeros:
            self._zeros_since_ns = None
        elif self._zeros_since_ns is None:
            self._zeros_since_ns = stamp_ns
        if agent is None or not agent.interrupted or not is_zeros:
            self._last_arrival_ns = stamp_ns
            self._anything_arrived = True
            if self._media_stopped:
                self._media_stopped = False
                self._listener.agent_media_resumed(self._clock.at_ns(stamp_ns))
        # When it came, and not when the library had decoded it.
        self._emit_agent(self._received.place(self._clock.at_ns(stamp_ns) - RECEIVE_DELAY_NS, pcm))

    def audio_taken(self, stamp_ns: int) -> None:
        """Note that audio of the caller is about to leave."""
        self.people.caller_spoke()
        if self._sent is not None:
            self._sent.taken(self._clock.at_ns(stamp_ns))

    def audio_sent(self, taken_ns: int, done_ns: int, pcm: bytes) -> None:
        if self._sent is not None and not self._closed:
            self._emit_caller(self._sent.written(self._clock.at_ns(taken_ns), self._clock.at_ns(done_ns), pcm))

    def connection_changed(self, stamp_ns: int, connection: str, connected: bool) -> None:
        if connected:
            self._interrupted_ns.pop(connection, None)
            self._connected.add(connection)
            self._look_for_media(stamp_ns)
        else:
            self._interrupted_ns.setdefault(connection, stamp_ns)
            self._connected.discard(connection)

    def message_sent(self, stamp_ns: int, *, sent: bool) -> None:
        """Note whether a message could be sent: the library reports a lost websocket 17 s late."""
        if sent:
            self._interrupted_ns.pop(SIGNALLING, None)
        else:
            self._interrupted_ns.setdefault(SIGNALLING, stamp_ns)

    def library_error(self, message: str) -> None:
        """Keep the library's last words: they tell why a call ends."""
        # Failed requests are reported to whoever made them as well.
        if not message.startswith("Error handling"):
            self._last_error = message

    def call_ended(self) -> None:
        self._lose(failures.room_ended(self._last_error, self._room))

    def tick(self, stamp_ns: int) -> None:
        """Lay out the caller's silence; notice what has not happened for too long."""
        overslept = stamp_ns - self._last_tick_ns > NS_PER_S
        self._last_tick_ns = stamp_ns
        if self._closed or self._sent is None:
            return
        self._emit_caller(self._sent.silence_until(self._clock.at_ns(stamp_ns)))
        for connection, since_ns in self._interrupted_ns.items():
            away_s = (stamp_ns - since_ns) / NS_PER_S
            if away_s > CONNECTION_LOST_AFTER_S:
                self._lose(failures.connection_lost(connection, away_s, self._room))
        if overslept:
            # Whoever slept (a process that was stopped) has heard nothing, and can blame nobody.
            self._last_arrival_ns = stamp_ns
        self._look_for_media(stamp_ns)
        self._watch_agent(stamp_ns)

    def _watch_agent(self, stamp_ns: int) -> None:
        if self.people.agent_id is None or self._agent_left:
            return
        if not self._media_stopped and stamp_ns - self._last_arrival_ns > MEDIA_STOPPED_AFTER_S * NS_PER_S:
            self._media_stopped = True
            self._emit_agent(self._received.flush())
            self._listener.agent_media_stopped(self._clock.at_ns(self._last_arrival_ns))
        unexplained_s = self._unexplained_s(self.people.agent, stamp_ns)
        if unexplained_s == 0.0:
            self._excused_until_ns = stamp_ns
        elif unexplained_s > GONE_AFTER_S:
            self._lose(agent_vanished(unexplained_s))

    def _unexplained_s(self, agent: Participant | None, stamp_ns: int) -> float:
        """Return how long nothing of the agent has arrived that should have, in seconds.

        A muted microphone sends nothing, a connection of ours that is away lets nothing through, and before the
        first audio there is nothing to miss.
        """
        muted = agent is not None and not agent.has_audio
        if muted or self._interrupted_ns or not self._anything_arrived:
            return 0.0
        return max(0, stamp_ns - max(self._last_arrival_ns, self._excused_until_ns)) / NS_PER_S

    def _choose_agent(self, stamp_ns: int) -> None:
        if self._sent is None or self._closed:
            return
        if self.people.agent_id is None and (best := self.people.best()) is not None:
            self._take_agent(best, stamp_ns)
        self._look_for_media(stamp_ns)

    def _take_agent(self, agent: Participant, stamp_ns: int) -> None:
        if self._carrier is None:
            return
        try:
            self._carrier.capture(agent.id)
        except Exception as e:
            logger.exception("the agent's audio could not be received")
            self._lose(
                RoomError(EndedReason.RUNNER_ERROR, f"The agent's audio in {self._room} could not be received: {e}.")
            )
            return
        changed = self.people.agent_id is not None
        if changed:
            self._received = SampleClock(AUDIO_RATE_HZ, self._listener.agent_audio_late)
            self._anything_arrived = self._media_stopped = False
            self._zeros_since_ns = None
        kept = self.people.take(agent)
        self._last_arrival_ns = self._chosen_ns = stamp_ns
        self.agent_here.set()
        if changed and self.media_over.is_set():
            self._listener.agent_joined(self._clock.at_ns(stamp_ns), agent.name)
            for message in self._for_whoever_is_the_agent:
                self._carrier.send_to(agent.id, message)
        for earlier in kept:
            self._listener.message_received(earlier.at_ns, earlier.message)
        self._look_for_media(stamp_ns)

    def _look_for_media(self, stamp_ns: int) -> None:
        """Say that the agent has joined once audio can go both ways, or once that was waited for long enough.

        A join is complete before the connections are: what is sent until then is lost, and the library says nothing.
        """
        if self.people.agent_id is None or self.media_over.is_set():
            return
        agent = self.people.agent
        sending = SENDING in self._connected
        # Whoever has muted itself by now sends nothing that could be waited for.
        muted = agent is not None and not agent.has_audio
        receiving = muted or (RECEIVING in self._connected and agent is not None and agent.playable)
        waited_ns = stamp_ns - self._chosen_ns
        late = waited_ns > MEDIA_LIMIT_S * NS_PER_S
        if not (late or (sending and receiving)):
            return
        at_ns = self._clock.at_ns(stamp_ns)
        self._listener.agent_joined(at_ns, None if agent is None else agent.name)
        if not (sending and receiving):
            self._listener.media_not_connected(
                at_ns, waited_ms=waited_ns / NS_PER_MS, sending=sending, receiving=receiving
            )
        self.media_over.set()

    def _emit_agent(self, chunks: list[PlacedAudio]) -> None:
        for placed in chunks:
            self._note_tear(placed)
            self._listener.agent_audio(placed.at_ns, placed.pcm)
            for_pipeline = self._for_pipeline.resample(placed)
            if for_pipeline and self._carrier and self.people.agent_id:
                self._carrier.push_placed(for_pipeline.at_ns, for_pipeline.pcm, self.people.agent_id)

    def _note_tear(self, placed: PlacedAudio) -> None:
        """Report a hole in the middle of speech. What the network loses, the library covers up and tells nobody."""
        quiet = is_quiet(placed.pcm)
        if not quiet:
            self.people.agent_heard()
        hole_ns = placed.at_ns - self._agent_end_ns
        if not quiet and not self._agent_was_quiet and hole_ns > DRIFT_TOLERANCE_NS // 2:
            self._listener.agent_audio_lost(self._agent_end_ns, hole_ns / NS_PER_MS)
        self._agent_end_ns = placed.at_ns + samples_to_ns(len(placed.pcm) // BYTES_PER_SAMPLE, AUDIO_RATE_HZ)
        self._agent_was_quiet = quiet

    def _emit_caller(self, chunks: list[PlacedAudio]) -> None:
        for placed in chunks:
            self._listener.caller_audio(placed.at_ns, placed.pcm)

    def _lose(self, error: RoomError) -> None:
        if self._lost or self._closed:
            return
        self._lost = True
        self._listener.room_lost(error)
