"""The sound of a call, for whoever listens."""

import numpy as np
import numpy.typing as npt

from bots.clock import NS_PER_MS
from runner.calls.recording import AGENT, CALLER
from runner.protocol.messages import MAX_SOUND_BYTES, SOUND_RATE_HZ
from runner.rooms.base import AUDIO_RATE_HZ
from runner.worker.live_sound import LAG_NS, LiveSound

FRAMES_OF_MS = SOUND_RATE_HZ // 1_000


def pcm(value: int, duration_ms: int = 20) -> bytes:
    return np.full(duration_ms * FRAMES_OF_MS, value, dtype=np.int16).tobytes()


def taken(sound: LiveSound) -> npt.NDArray[np.int16]:
    return np.frombuffer(sound.take(), dtype=np.int16).reshape(-1, 2)


def speak(sound: LiveSound, from_ms: int, until_ms: int, value: int = 1) -> None:
    for at_ms in range(from_ms, until_ms, 20):
        sound.put(CALLER, at_ms * NS_PER_MS, pcm(value))


def test_it_is_at_the_rate_of_a_rooms_audio() -> None:
    assert SOUND_RATE_HZ == AUDIO_RATE_HZ


def test_both_sides_are_at_their_place_with_silence_between() -> None:
    sound = LiveSound()
    speak(sound, 0, 400)
    sound.put(AGENT, 40 * NS_PER_MS, pcm(7))
    frames = taken(sound)
    assert len(frames) == 400 * FRAMES_OF_MS - LAG_NS // NS_PER_MS * FRAMES_OF_MS
    assert (frames[:, 0] == 1).all()
    spoken = np.flatnonzero(frames[:, 1])
    assert (spoken[0], spoken[-1]) == (40 * FRAMES_OF_MS, 60 * FRAMES_OF_MS - 1)
    assert taken(sound).size == 0


def test_what_follows_goes_on_where_the_last_part_ended() -> None:
    sound = LiveSound()
    speak(sound, 0, 400, value=1)
    first = taken(sound)
    # In the part that is taken next, and before it: that is too late.
    sound.put(AGENT, 100 * NS_PER_MS, pcm(7))
    sound.put(AGENT, 80 * NS_PER_MS, pcm(9))
    speak(sound, 400, 500, value=2)
    second = taken(sound)
    assert len(first) + len(second) == 200 * FRAMES_OF_MS
    assert (second[: 20 * FRAMES_OF_MS, 1] == 7).all() and not (second == 9).any()


def test_of_what_nobody_takes_the_last_two_seconds_are_kept() -> None:
    sound = LiveSound()
    speak(sound, 0, 5_000, value=1)
    speak(sound, 5_000, 6_000, value=2)
    # However much comes at once, or far ahead.
    sound.put(AGENT, 5_900 * NS_PER_MS, pcm(7, 10_000))
    sound.put(AGENT, 3_600_000 * NS_PER_MS, pcm(8))
    frames = sound.take()
    assert len(frames) < MAX_SOUND_BYTES
    sides = np.frombuffer(frames, dtype=np.int16).reshape(-1, 2)
    assert sides[0, 0] == 1 and sides[-1, 0] == 2 and not (sides == 8).any()


def test_a_leap_of_the_clock_leaves_silence() -> None:
    sound = LiveSound()
    speak(sound, 0, 100)
    speak(sound, 60_000, 60_020, value=3)
    frames = taken(sound)
    assert frames.size and not frames.any()
