"""Somebody in a Daily room who is not Pipecat: a bare client of daily-python, as a test wants them to be."""

import math
import struct
import threading
from typing import Any

from tests.patience import wait_until

RATE_HZ = 16_000
BLOCK_MS = 100
JOIN_LIMIT_S = 20.0
LEAVE_LIMIT_S = 5.0


class Guest:
    """A participant that sends a tone, or silence, and keeps the messages it gets.

    Args:
        url: The room.
        name: Their user name.
        level: Peak of the tone, 0 to 32,767.
        tone_hz: Its frequency.
        microphone: Whether they send from a microphone at all.
    """

    def __init__(self, url: str, name: str, *, level: int = 0, tone_hz: float = 440, microphone: bool = True):
        import daily  # the redirected one, where it is

        from runner.rooms.daily.client import begin_library

        self.name = name
        self.level = level
        self.tone_hz = tone_hz
        self.messages: list[Any] = []
        self._stopped = threading.Event()

        guest = self

        class Handler(daily.EventHandler):
            def on_app_message(self, message: Any, sender: str) -> None:
                guest.messages.append(message)

        begin_library()
        self.client = daily.CallClient(event_handler=Handler())
        self.client.set_user_name(name)
        self._source = daily.CustomAudioSource(RATE_HZ, 1, True)
        track = daily.CustomAudioTrack(self._source)
        joined: list[str | None] = []
        self.client.join(
            url,
            client_settings={
                "inputs": {
                    "camera": {"isEnabled": False},
                    "microphone": {"isEnabled": microphone, "settings": {"customTrack": {"id": track.id}}},
                },
                "publishing": {"camera": {"isPublishing": False}, "microphone": {"isPublishing": microphone}},
            },
            completion=lambda data, error: joined.append(error),
        )
        wait_until(lambda: bool(joined), timeout_s=JOIN_LIMIT_S)
        assert joined == [None], f"{name} could not join {url}: {joined}"
        threading.Thread(target=self._speak, daemon=True).start()

    def _speak(self) -> None:
        block = RATE_HZ * BLOCK_MS // 1_000
        wave = [math.sin(2 * math.pi * self.tone_hz * i / RATE_HZ) for i in range(block)]
        while not self._stopped.is_set():
            pcm = struct.pack(f"<{block}h", *(round(self.level * sample) for sample in wave))
            self._source.write_frames(pcm)

    def say(self, message: Any) -> None:
        self.client.send_app_message(message)

    def leave(self) -> None:
        if not self._stopped.is_set():
            self._stopped.set()
            gone = threading.Event()
            self.client.leave(completion=lambda error: gone.set())
            gone.wait(LEAVE_LIMIT_S)
            # On a busy machine the library's release can wait for ever; nobody is to wait with it.
            releasing = threading.Thread(target=self.client.release, name="guest-release", daemon=True)
            releasing.start()
            releasing.join(LEAVE_LIMIT_S)
