import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bots.caller.speech.level import from_pcm16, speech_dbfs, to_level, to_pcm16


def tone(amplitude: float, duration_s: float = 1.0) -> np.ndarray:
    times = np.arange(int(24_000 * duration_s)) / 24_000
    return (amplitude * np.sin(2 * np.pi * 300 * times)).astype(np.float32)


@pytest.mark.parametrize("amplitude", [0.001, 0.05, 0.5, 1.0])
def test_speech_is_brought_to_level(amplitude: float) -> None:
    assert speech_dbfs(to_level(tone(amplitude), -20.0)) == pytest.approx(-20.0, abs=0.05)


def test_pauses_do_not_count() -> None:
    speech = tone(0.05)
    with_pauses = np.concatenate([np.zeros(24_000, np.float32), speech, np.zeros(48_000, np.float32), speech])
    assert speech_dbfs(to_level(with_pauses, -20.0)) == pytest.approx(-20.0, abs=0.2)
    assert np.abs(to_level(with_pauses)).max() == pytest.approx(np.abs(to_level(speech)).max(), rel=0.02)


def test_a_peak_limits_the_gain() -> None:
    samples = tone(0.01)
    samples[100] = 0.9
    levelled = to_level(samples, -10.0)
    assert np.abs(levelled).max() <= 0.981
    assert speech_dbfs(levelled) < -10.0


def test_silence_and_nothing_stay() -> None:
    assert not to_level(np.zeros(1000, np.float32)).any()
    assert to_level(np.zeros(0, np.float32)).size == 0


def test_pcm_there_and_back() -> None:
    pcm = to_pcm16(tone(0.5))
    assert to_pcm16(from_pcm16(pcm) * np.float32(32768 / 32767)) == pcm
    assert from_pcm16(pcm + b"\x01").size == len(pcm) // 2


@given(arrays.arrays(np.float32, st.integers(0, 3000), elements=st.floats(-1, 1, width=32)), st.floats(-60, 0))
def test_it_never_clips(samples: np.ndarray, dbfs: float) -> None:
    assert np.abs(to_level(samples, dbfs)).max(initial=0.0) <= 0.99
