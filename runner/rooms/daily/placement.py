"""Where audio without timestamps belongs on a clock: by counted samples, held to the clock by arrival stamps.

Daily hands audio over as bare samples. A stamp taken at each hand-over tells roughly where they belong, the count
of samples exactly how they follow each other. Everything here is pure: stamps come in, nothing reads a clock.
"""

from collections import deque
from typing import NamedTuple

from bots.clock import NS_PER_MS, ns_to_samples, samples_to_ns
from runner.rooms.lags import Lags
from runner.rooms.late_audio import LateAudio, LateSink

BYTES_PER_SAMPLE = 2

DRIFT_TOLERANCE_NS = 100 * NS_PER_MS
"""How far count and stamps may differ before the stamps win."""

SOURCE_AHEAD_NS = 20 * NS_PER_MS
"""The library's source keeps so much ahead: a write is done when its last sample has come in, and leaves later.

Measured: a write may follow the one before up to 19 ms late without a gap, and is then done so much sooner.
"""

SOURCE_IDLE_NS = SOURCE_AHEAD_NS
"""A source without a write for this long has sent silence."""

SILENCE_MARGIN_NS = 100 * NS_PER_MS
"""Silence is laid out only this far behind the present, so a line can never begin before it."""


class PlacedAudio(NamedTuple):
    """16-bit mono PCM, and when its first sample was there, on the clock of the stamps."""

    at_ns: int
    pcm: bytes


class SampleClock:
    """Places a received stream by counting its samples from one anchor, so that arrival jitter moves nothing.

    A chunk that is later than the tolerance means one of two things: the stream had a gap, or this machine
    stalled and the chunks behind it arrive in a burst. The next arrival tells them apart, so such a chunk is
    held back until then.

    Args:
        late: Takes every stretch that came late.

    Attributes:
        reanchored: How often the stream's place had to be set anew.
        lags: How much later than by count chunks arrived.
    """

    def __init__(self, rate_hz: int, late: LateSink):
        self._rate_hz = rate_hz
        self._late_audio = LateAudio(late)
        self._anchor_ns: int | None = None
        self._counted = 0
        self._held: PlacedAudio | None = None
        """Where it would begin by its arrival."""
        self.reanchored = 0
        self.lags = Lags()

    def place(self, arrived_ns: int, pcm: bytes) -> list[PlacedAudio]:
        """Return what can be placed now, in order: nothing while a late chunk is held back.

        Args:
            arrived_ns: When the chunk was handed over, which is when its last sample was there.
            pcm: The chunk, 16-bit mono PCM.
        """
        arrival = PlacedAudio(arrived_ns - self._duration_ns(pcm), pcm)
        placed = self._resolve_held(arrived_ns)
        if self._anchor_ns is None:
            self._anchor_ns = arrival.at_ns
        else:
            drift_ns = arrival.at_ns - self._next_ns()
            self.lags.add(drift_ns)
            if drift_ns > DRIFT_TOLERANCE_NS:
                self._held = arrival
                return placed
            if drift_ns < -DRIFT_TOLERANCE_NS:
                self._reanchor(arrival)
        placed.append(self._by_count(arrival))
        return placed

    def flush(self) -> list[PlacedAudio]:
        """Place the chunk that is held back, if there is one: nothing follows it, so it stood after a gap."""
        placed = self._resolve_held(None)
        self._late_audio.flush()
        return placed

    def _resolve_held(self, now_ns: int | None) -> list[PlacedAudio]:
        held, self._held = self._held, None
        if held is None:
            return []
        duration_ns = self._duration_ns(held.pcm)
        in_burst = now_ns is not None and now_ns - held.at_ns - duration_ns < duration_ns // 2
        if not in_burst:
            self._reanchor(held)
        return [self._by_count(held)]

    def _by_count(self, arrival: PlacedAudio) -> PlacedAudio:
        at_ns = self._next_ns()
        self._counted += len(arrival.pcm) // BYTES_PER_SAMPLE
        self._late_audio.add(at_ns, at_ns + self._duration_ns(arrival.pcm), arrival.at_ns - at_ns)
        return PlacedAudio(at_ns, arrival.pcm)

    def _next_ns(self) -> int:
        return (self._anchor_ns or 0) + samples_to_ns(self._counted, self._rate_hz)

    def _duration_ns(self, pcm: bytes) -> int:
        return samples_to_ns(len(pcm) // BYTES_PER_SAMPLE, self._rate_hz)

    def _reanchor(self, arrival: PlacedAudio) -> None:
        self._late_audio.moved(self._next_ns(), arrival.at_ns)
        self._anchor_ns, self._counted = arrival.at_ns, 0
        self.lags.clear()
        self.reanchored += 1


class SentTrack:
    """Lays out what left on an outgoing track as one unbroken stream: the writes, and the silence between them.

    The library's audio source is drained in real time and sends silence when nothing is written, so the stream
    has no holes: where no write belongs, silence left.

    Args:
        opened_ns: When the track began to send.

    Attributes:
        reanchored: How often a write was so late that silence must have left inside a line.
        latest_ns: By how much the latest of those was late.
    """

    def __init__(self, rate_hz: int, opened_ns: int):
        self._rate_hz = rate_hz
        self._opened_ns = opened_ns
        self._laid_out = 0
        self._last_done_ns: int | None = None
        self._pending_ns: deque[int] = deque()
        self.reanchored = 0
        self.latest_ns = 0

    def taken(self, taken_ns: int) -> None:
        """Note that a write was handed to the source; its samples leave after this."""
        self._pending_ns.append(taken_ns)

    def written(self, taken_ns: int, done_ns: int, pcm: bytes) -> list[PlacedAudio]:
        """Lay out a finished write, and the silence that left before it.

        Args:
            taken_ns: When the write was handed to the source.
            done_ns: When the source had taken in its last sample, :data:`SOURCE_AHEAD_NS` before it is sent.
            pcm: The samples that were sent, 16-bit mono PCM.
        """
        if self._pending_ns:
            self._pending_ns.popleft()
        samples = len(pcm) // BYTES_PER_SAMPLE
        start_ns = max(done_ns + SOURCE_AHEAD_NS - samples_to_ns(samples, self._rate_hz), taken_ns)
        placed: list[PlacedAudio] = []
        if self._last_done_ns is None or taken_ns - self._last_done_ns > SOURCE_IDLE_NS:
            placed += self._silence_to(start_ns)
        elif start_ns - self._end_ns() > DRIFT_TOLERANCE_NS:
            self.reanchored += 1
            self.latest_ns = max(self.latest_ns, start_ns - self._end_ns())
            placed += self._silence_to(start_ns)
        self._last_done_ns = done_ns
        if samples:
            placed.append(PlacedAudio(self._end_ns(), pcm))
            self._laid_out += samples
        return placed

    def silence_until(self, now_ns: int) -> list[PlacedAudio]:
        """Lay out the silence that has surely left by ``now_ns``."""
        limit_ns = now_ns - SILENCE_MARGIN_NS
        if self._pending_ns:
            limit_ns = min(limit_ns, self._pending_ns[0])
        return self._silence_to(limit_ns)

    @property
    def duration_ns(self) -> int:
        """How much was laid out so far."""
        return samples_to_ns(self._laid_out, self._rate_hz)

    def _end_ns(self) -> int:
        return self._opened_ns + self.duration_ns

    def _silence_to(self, until_ns: int) -> list[PlacedAudio]:
        samples = ns_to_samples(until_ns - self._opened_ns, self._rate_hz) - self._laid_out
        if samples <= 0:
            return []
        silence = PlacedAudio(self._end_ns(), bytes(samples * BYTES_PER_SAMPLE))
        self._laid_out += samples
        return [silence]
