"""Backgrounds: loud as promised, repeatable, and to a detector like the real thing."""

import sys
from hashlib import sha256
from pathlib import Path
from subprocess import run

import numpy as np
import pytest

from bots.agents.background_mixer import BackgroundMixer
from bots.agents.backgrounds import LOOP_S, BackgroundLoop, BackgroundName, Samples, background

RATE_HZ = 16_000
SECONDS = 12.0
STEADY = (BackgroundName.WHITE, BackgroundName.OFFICE, BackgroundName.CROWD, BackgroundName.CITY)
WITH_VOICES = (BackgroundName.OFFICE, BackgroundName.CROWD, BackgroundName.BABBLE)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def level_db(samples: Samples, piece_s: float = 0.02) -> Samples:
    length = round(RATE_HZ * piece_s)
    pieces = samples[: len(samples) // length * length].reshape(-1, length)
    return 20 * np.log10(np.sqrt(np.mean(np.square(pieces), axis=1)) + 1e-9)


def speech_share(samples: Samples) -> float:
    """Return the share of time in which Silero hears speech."""
    from pipecat.audio.vad.silero import SileroVADAnalyzer

    vad = SileroVADAnalyzer(sample_rate=RATE_HZ)
    vad.set_sample_rate(RATE_HZ)
    pcm = (np.clip(samples * 10 ** (-38 / 20), -1, 1) * 32767).astype(np.int16)
    heard = [np.ravel(vad.voice_confidence(pcm[i : i + 512].tobytes()))[0] for i in range(0, len(pcm) - 511, 512)]
    return float(np.mean(np.array(heard) > 0.5))


def tonality(samples: Samples) -> float:
    """Return which share of the energy lies in the strongest hundredth of all frequencies."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    return float(np.sort(power)[-len(power) // 100 :].sum() / power.sum())


EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name in WITH_VOICES)) for name in BackgroundName]
"""Voices are synthesised: that takes seconds."""


@pytest.mark.parametrize("name", EACH)
def test_its_level_is_that_of_the_whole_loop_at_every_rate(name: BackgroundName) -> None:
    for rate_hz in (RATE_HZ, 8_000, 48_000) if name is BackgroundName.KEYBOARD else (RATE_HZ,):
        samples = background(name, rate_hz, SECONDS, 3)
        assert samples.dtype == np.float32
        assert len(samples) == SECONDS * rate_hz
        assert np.sqrt(np.mean(np.square(samples, dtype=np.float64))) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", EACH)
def test_its_end_fits_its_beginning(name: BackgroundName) -> None:
    samples = background(name, RATE_HZ, SECONDS, 3)
    steps = np.abs(np.diff(samples))
    assert abs(samples[0] - samples[-1]) <= np.percentile(steps, 99.9)
    if name in STEADY:
        around = level_db(np.concatenate([samples[-RATE_HZ // 4 :], samples[: RATE_HZ // 4]]), 0.25)
        assert abs(around[0] - around[1]) < 6


@pytest.mark.slow
def test_a_seed_gives_the_same_again_and_another_seed_does_not() -> None:
    # Of those with voices in them the babble is made in the shortest time.
    names = [n for n in BackgroundName if n is BackgroundName.BABBLE or n not in WITH_VOICES]
    code = (
        "import hashlib; from bots.agents.backgrounds import background\n"
        f"for name in {[str(name) for name in names]}:\n"
        "    print(hashlib.sha256(background(name, 8000, 5, 7).tobytes()).hexdigest())"
    )
    root = Path(__file__).parents[2]
    fresh = run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout.split()
    loops = [background(name, 8_000, 5, 7) for name in names]
    assert [sha256(loop.tobytes()).hexdigest() for loop in loops] == fresh
    for name, loop in zip(names, loops, strict=True):
        assert not np.array_equal(loop, background(name, 8_000, 5, 8)), name


@pytest.mark.parametrize(("name", "share"), [("babble", 0.8), pytest.param("crowd", 0.5, marks=pytest.mark.slow)])
def test_voices_are_speech_to_a_speech_model(name: str, share: float) -> None:
    assert speech_share(background(name, RATE_HZ, SECONDS, 3)) > share


@pytest.mark.parametrize("name", [n for n in BackgroundName if n not in WITH_VOICES])
def test_what_has_no_voices_is_no_speech(name: BackgroundName) -> None:
    assert speech_share(background(name, RATE_HZ)) < 0.02


@pytest.mark.slow
def test_a_crowd_has_no_gaps_and_a_babble_has_pauses() -> None:
    crowd, babble = (
        level_db(background(n, RATE_HZ, SECONDS, 3)) for n in (BackgroundName.CROWD, BackgroundName.BABBLE)
    )
    assert np.percentile(crowd, 1) > -9
    assert np.percentile(babble, 1) < -12


def test_keys_are_clicks_with_silence_in_between() -> None:
    samples = background(BackgroundName.KEYBOARD, RATE_HZ)
    levels = level_db(samples)
    assert 20 * np.log10(np.abs(samples).max()) > 20, "its peaks stand far above its RMS"
    assert 0.4 < np.mean(levels < -60) < 0.9
    silent = np.diff(np.flatnonzero(np.diff((levels < -60).astype(int))))
    assert silent.max() * 0.02 > 0.7, "the typist stops now and then"


def test_music_is_tonal_and_has_gaps() -> None:
    music = background(BackgroundName.HOLD_MUSIC, RATE_HZ)
    assert tonality(music) > 0.7
    assert tonality(background(BackgroundName.WHITE, RATE_HZ)) < 0.1
    levels = level_db(music)
    assert 0.03 < np.mean(levels < -40) < 0.3
    assert np.percentile(levels, 90) - np.percentile(levels, 30) > 3, "its notes die away"


def test_a_city_is_low_and_swells() -> None:
    samples = background(BackgroundName.CITY, RATE_HZ)
    power = np.abs(np.fft.rfft(samples)) ** 2
    assert power[: len(power) // 8].sum() / power.sum() > 0.7, "most of it lies below 1 kHz"
    slow = level_db(samples, 0.5)
    assert slow.max() - slow.min() > 6


def test_an_office_is_mostly_steady_with_events() -> None:
    levels = level_db(background(BackgroundName.OFFICE, RATE_HZ))
    assert np.percentile(levels, 50) - np.percentile(levels, 5) < 5
    assert np.percentile(levels, 99) - np.percentile(levels, 50) > 5


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no background is called 'beach'; there are: white, office, crowd"):
        background("beach", RATE_HZ)
    with pytest.raises(ValueError, match="at least 5 s"):
        background("white", RATE_HZ, 1.0)


def test_a_loop_goes_on_from_piece_to_piece_at_its_level() -> None:
    loop = BackgroundLoop("white", -38.0, 8_000)
    played = np.concatenate([loop.next(7_000) for _ in range(60)])
    length = round(8_000 * LOOP_S)
    assert np.array_equal(played[:length], background("white", 8_000) * np.float32(10 ** (-38 / 20)))
    assert np.array_equal(played[length : 2 * length], played[:length])


def test_what_is_too_loud_is_cut_and_does_not_turn_over() -> None:
    loop = BackgroundLoop("white", -20.0, 8_000)
    assert loop.mixed_into(np.full(80_000, 32_767, np.int16)).min() > 10_000


@pytest.mark.anyio
async def test_the_mixer_adds_it_to_speech_and_silence() -> None:
    mixer = BackgroundMixer("keyboard", -30.0)
    await mixer.start(8_000)
    loop = BackgroundLoop("keyboard", -30.0, 8_000)
    for pcm in (np.zeros(8_000, np.int16), np.full(8_000, 1_000, np.int16)):
        assert np.array_equal(np.frombuffer(await mixer.mix(pcm.tobytes()), np.int16), loop.mixed_into(pcm))
