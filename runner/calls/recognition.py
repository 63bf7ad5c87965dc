"""What the agent says, in words: recognised turn by turn while the call is on, and the rest of it afterwards."""

import itertools
import math
from collections.abc import Callable, Sequence

import anyio
from loguru import logger

from bots.caller.speech.errors import MissingSpeechPackage, SpeechError
from bots.caller.speech.settings import ServiceSettings
from bots.clock import NS_PER_MS
from bots.timeline import AgentSaid, Source
from runner.calls.surroundings import Surroundings
from runner.rooms.base import AUDIO_RATE_HZ

PADDING_NS = 100 * NS_PER_MS
"""So much before and after a turn is given to the recogniser with it."""

Span = tuple[int, int]
"""Onset and end of a turn of the agent, in nanoseconds on the call's clock."""


class Recognition:
    """Recognises what the agent said in a call.

    Args:
        read: Returns the agent's audio between two times: 16-bit PCM at :data:`runner.rooms.base.AUDIO_RATE_HZ`.
        warn: Takes why it could not be recognised.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        stt: ServiceSettings,
        *,
        read: Callable[[int, int], bytes],
        note: Callable[[AgentSaid], None],
        warn: Callable[[str], None],
    ):
        self._surroundings = surroundings
        self._stt = stt
        self._read = read
        self._note = note
        self._warn = warn
        self._asked, self._waiting = anyio.create_memory_object_stream[Span](math.inf)
        self.turns: list[Span] = []
        """The turns that were recognised, or are being so."""

    def ask(self, turn: Span) -> None:
        """Let a turn be recognised while the call is on."""
        self._asked.send_nowait(turn)

    def close(self) -> None:
        """Take no more turns."""
        self._asked.close()
        self._waiting.close()

    async def get_ready(self) -> None:
        """Load what it takes."""
        try:
            await self._surroundings.preload(self._stt)
        except Exception:
            # What is wrong with it is told when there is something to recognise.
            logger.opt(exception=True).debug("recognition is not ready")

    async def run(self) -> None:
        """Recognise the turns that are asked for, until cancelled."""
        while True:
            await self._recognise([await self._waiting.receive()], None)

    async def finish(self, turns: Sequence[Span], tell: Callable[[float], None]) -> None:
        """Recognise turns of a call that is over.

        Args:
            tell: Is told again and again which share of them is done, from 0 to 1.
        """
        so_far_ns = [0, *itertools.accumulate(end_ns - onset_ns for onset_ns, end_ns in turns)]
        await self._recognise(turns, lambda pieces: tell(so_far_ns[pieces] / (so_far_ns[-1] or 1)))

    async def _recognise(self, turns: Sequence[Span], done: Callable[[int], None] | None) -> None:
        if not turns:
            return
        if done is not None:
            done(0)
        self.turns.extend(turns)
        audio = [self._read(onset_ns - PADDING_NS, end_ns + PADDING_NS) for onset_ns, end_ns in turns]
        try:
            texts = await self._surroundings.transcribe(audio, AUDIO_RATE_HZ, self._stt, done=done)
        except (MissingSpeechPackage, SpeechError, ValueError) as error:
            self._warn(f"what the agent said could not be recognised: {error}")
            return
        except Exception as error:
            # Whatever a service throws: words that are missing are no reason to lose the call.
            logger.opt(exception=True).debug("recognition failed")
            self._warn(f"what the agent said could not be recognised: {type(error).__name__}")
            return
        for (onset_ns, end_ns), text in zip(turns, texts, strict=True):
            if text:
                self._note(AgentSaid(at_ns=end_ns, text=text, source=Source.HEARD, started_ns=onset_ns))
