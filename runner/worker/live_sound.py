"""The sound of a call that is on, both sides laid out on its clock, for whoever listens."""

import numpy as np

from bots.clock import NS_PER_MS, ns_to_samples
from runner.calls.recording import CALLER, CHANNELS
from runner.protocol.messages import MAX_SOUND_BYTES, SOUND_FRAME_BYTES, SOUND_RATE_HZ

LAG_NS = 300 * NS_PER_MS
"""So long before now what is passed on ends: the agent's audio takes a moment to be placed."""

_KEPT = MAX_SOUND_BYTES // SOUND_FRAME_BYTES
_LAG = ns_to_samples(LAG_NS, SOUND_RATE_HZ)


class LiveSound:
    """Keeps the last two seconds of a call until they are taken: a listener gets what is new, or nothing.

    What the caller sends tells the time: it comes every 20 ms, silence included, whatever the agent does.
    """

    def __init__(self) -> None:
        self._frames = np.zeros((_KEPT, CHANNELS), dtype=np.int16)
        self._first: int | None = None
        """The place of the first frame in the call; None until the caller sent something."""
        self._now = 0

    def put(self, channel: int, at_ns: int, pcm: bytes) -> None:
        """Put audio of one side at its place: 16-bit mono PCM at :data:`runner.protocol.messages.SOUND_RATE_HZ`."""
        samples = np.frombuffer(pcm, dtype=np.int16)[-_KEPT:]
        start = ns_to_samples(at_ns, SOUND_RATE_HZ)
        end = start + len(samples)
        if channel == CALLER:
            self._now = max(self._now, end)
            if self._first is None:
                self._first = start
            self._drop(self._now - self._first - _KEPT)
        if self._first is None:
            return
        begin, stop = max(start - self._first, 0), min(end - self._first, _KEPT)
        if begin < stop:
            skipped = begin - (start - self._first)
            self._frames[begin:stop, channel] = samples[skipped : skipped + stop - begin]

    def take(self) -> bytes:
        """Return what is new, silence where nothing was put: a sample of the caller, one of the agent, and so on."""
        count = 0 if self._first is None else min(self._now - _LAG - self._first, _KEPT)
        if count <= 0:
            return b""
        taken = self._frames[:count].tobytes()
        self._drop(count)
        return taken

    def _drop(self, count: int) -> None:
        """Let go of frames at the beginning."""
        if count <= 0 or self._first is None:
            return
        self._first += count
        kept = max(_KEPT - count, 0)
        self._frames[:kept] = self._frames[_KEPT - kept :].copy()
        self._frames[kept:] = 0
