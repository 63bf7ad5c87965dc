"""The sound of calls that are on: what workers pass on, for whoever listens. Nothing is kept of it."""

from collections import defaultdict, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

import anyio
from fastapi import FastAPI

from runner.api.errors import Unavailable
from runner.protocol.messages import SOUND_RATE_HZ

RATE_HZ = SOUND_RATE_HZ
"""Sample rate of what is heard, for those who may not know how workers talk to the API."""

MAX_LISTENERS = 32
"""How many may listen to calls at once: each takes 96 kB a second."""

KEPT_PIECES = 8
"""How many pieces, of a quarter of a second most often, wait for a listener; of more the oldest is left out."""


class Listener:
    """Gets the sound of a call as it comes."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque(maxlen=KEPT_PIECES)
        self._came = anyio.Event()

    def hear(self, pcm: bytes) -> None:
        """Take a piece in."""
        self._pieces.append(pcm)
        self._came.set()

    async def next(self, *, timeout_s: float) -> bytes | None:
        """Return the next piece; None if there is none within the time."""
        if not self._pieces:
            self._came = anyio.Event()
            with anyio.move_on_after(timeout_s):
                await self._came.wait()
        return self._pieces.popleft() if self._pieces else None


class LiveSounds:
    """Hands on what workers pass on of the calls they are making.

    Args:
        changed: Is called when somebody begins to listen to a run, or the last one has ceased to.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.elsewhere: Callable[[int], bool] = lambda run_id: False
        """Returns whether somebody listens to a run in another process."""
        self.pass_on: Callable[[int, bytes], None] = lambda run_id, pcm: None
        """Takes what is heard here, for those who listen in another process."""
        self._listeners: defaultdict[int, list[Listener]] = defaultdict(list)

    @contextmanager
    def listened(self, run_id: int) -> Generator[Listener]:
        """Within this context somebody listens to a run: its worker is asked for its sound.

        Raises:
            Unavailable: Too many listen already.
        """
        self.see_that_there_is_room()
        listener = Listener()
        self._listeners[run_id].append(listener)
        self._changed()
        try:
            yield listener
        finally:
            self._listeners[run_id].remove(listener)
            if not self._listeners[run_id]:
                del self._listeners[run_id]
                self._changed()

    def see_that_there_is_room(self) -> None:
        """See that one more can listen.

        Raises:
            Unavailable: Too many listen already.
        """
        if sum(map(len, self._listeners.values())) >= MAX_LISTENERS:
            raise Unavailable(f"{MAX_LISTENERS} people are listening to calls, and no more can. Try again later.")

    def is_listened_to(self, run_id: int) -> bool:
        """Return whether somebody listens to a run, here or in another process."""
        return run_id in self._listeners or self.elsewhere(run_id)

    @property
    def listened_here(self) -> list[int]:
        """The runs that somebody listens to here."""
        return sorted(self._listeners)

    def post(self, run_id: int, pcm: bytes) -> None:
        """Let whoever listens to a run hear more of it."""
        if self.elsewhere(run_id):
            self.pass_on(run_id, pcm)
        self.hear(run_id, pcm)

    def hear(self, run_id: int, pcm: bytes) -> None:
        """Let whoever listens to a run here hear more of it."""
        for listener in self._listeners.get(run_id, ()):
            listener.hear(pcm)


def live_sounds(app: FastAPI) -> LiveSounds:
    """Return the application's."""
    found: LiveSounds = app.state.live_sounds
    return found
