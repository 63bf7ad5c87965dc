"""A background behind a Pipecat bot: given to its transport, it is heard under speech and silence alike."""

import asyncio

import numpy as np
from pipecat.audio.mixers.base_audio_mixer import BaseAudioMixer
from pipecat.frames.frames import MixerControlFrame

from bots.agents.backgrounds import DEFAULT_SEED, BackgroundLoop


class BackgroundMixer(BaseAudioMixer):
    """Mixes a background into what a transport sends, all the time; mono only. The same in every call.

    It can be neither turned off nor turned down, and is made when the rate is known.
    """

    def __init__(self, name: str, dbfs: float, seed: int = DEFAULT_SEED) -> None:
        self._name = name
        self._dbfs = dbfs
        self._seed = seed
        self._loop: BackgroundLoop | None = None

    async def start(self, sample_rate: int) -> None:
        self._loop = await asyncio.to_thread(BackgroundLoop, self._name, self._dbfs, sample_rate, self._seed)

    async def stop(self) -> None:
        pass

    async def process_frame(self, frame: MixerControlFrame) -> None:
        pass

    async def mix(self, audio: bytes) -> bytes:
        """Add the background to a piece of 16-bit mono PCM; before :meth:`start` there is none."""
        if self._loop is None:
            return audio
        return self._loop.mixed_into(np.frombuffer(audio, np.int16)).tobytes()
