"""Where speech begins and ends in received audio: tone bursts at known places."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from bots.caller.hearing import GAP_STEPS, HISTORY_NS, SEARCH_NS, STEP_MS, Envelope
from bots.clock import NS_PER_MS, NS_PER_S, ns_to_samples, samples_to_ns

RATE_HZ = 24_000
TOLERANCE_NS = 10 * NS_PER_MS
VAD_DELAY_NS = 200 * NS_PER_MS
Samples = npt.NDArray[np.float64]


def at(seconds: float) -> int:
    return round(seconds * NS_PER_S)


def bursts(*stretches: tuple[float, float], dbfs: float = -20.0, noise_dbfs: float | None = None) -> Samples:
    """Five seconds of audio with a tone in each stretch, given as (start, end) in seconds."""
    t = np.arange(5 * RATE_HZ) / RATE_HZ
    audio = np.zeros(t.size)
    for start_s, end_s in stretches:
        inside = (t >= start_s) & (t < end_s)
        audio[inside] = np.sin(2 * np.pi * 300 * t[inside]) * np.sqrt(2) * 10 ** (dbfs / 20)
    if noise_dbfs is not None:
        audio += np.random.default_rng(1).standard_normal(t.size) * 10 ** (noise_dbfs / 20)
    return audio


def pieces(audio: Samples, piece_ms: float, start_ns: int) -> Iterator[tuple[int, bytes]]:
    pcm = (np.clip(audio, -1, 1) * 32_767).astype(np.int16)
    step = round(RATE_HZ * piece_ms / 1000)
    for start in range(0, pcm.size, step):
        yield start_ns + samples_to_ns(start, RATE_HZ), pcm[start : start + step].tobytes()


def heard(audio: Samples, *, until_ns: int = at(5), piece_ms: float = 20, start_ns: int = 0) -> Envelope:
    """Return the envelope as it is at ``until_ns``: what comes later is not known yet."""
    envelope = Envelope(RATE_HZ)
    for at_ns, pcm in pieces(audio[: ns_to_samples(until_ns, RATE_HZ)], piece_ms, start_ns):
        envelope.add(at_ns, pcm)
    return envelope


def onset(audio: Samples, start_s: float, *, not_before_ns: int = 0) -> int:
    reported_ns = at(start_s) + VAD_DELAY_NS
    return heard(audio, until_ns=reported_ns).onset_before(reported_ns, not_before_ns=not_before_ns)


def end(audio: Samples, start_s: float, end_s: float) -> int:
    reported_ns = at(end_s) + VAD_DELAY_NS
    return heard(audio, until_ns=reported_ns).end_before(reported_ns, onset_ns=at(start_s))


LEVELS = [
    pytest.param(-20, None, id="speech over silence"),
    pytest.param(-6, None, id="loud speech"),
    pytest.param(-45, None, id="quiet speech"),
    pytest.param(-20, -60, id="over a faint noise floor"),
    pytest.param(-20, -40, id="over a loud noise floor"),
    pytest.param(-40, -65, id="quiet speech over noise"),
]


@pytest.mark.parametrize(("dbfs", "noise_dbfs"), LEVELS)
@pytest.mark.parametrize("start_s", [1.0, 1.0037, 2.4512])
def test_an_onset_is_found_within_10_ms(dbfs: float, noise_dbfs: float | None, start_s: float) -> None:
    audio = bursts((start_s, start_s + 1), dbfs=dbfs, noise_dbfs=noise_dbfs)
    assert abs(onset(audio, start_s) - at(start_s)) <= TOLERANCE_NS


@pytest.mark.parametrize(("dbfs", "noise_dbfs"), LEVELS)
@pytest.mark.parametrize("end_s", [2.0, 2.0037, 3.4512])
def test_an_end_is_found_within_10_ms(dbfs: float, noise_dbfs: float | None, end_s: float) -> None:
    audio = bursts((1, end_s), dbfs=dbfs, noise_dbfs=noise_dbfs)
    assert abs(end(audio, 1, end_s) - at(end_s)) <= TOLERANCE_NS


@pytest.mark.parametrize("piece_ms", [1, 7.3, 20, 500])
@pytest.mark.parametrize("start_ns", [0, 123_456_789])
def test_the_pieces_audio_comes_in_move_nothing(piece_ms: float, start_ns: int) -> None:
    envelope = heard(bursts((1, 2)), until_ns=at(2.2), piece_ms=piece_ms, start_ns=start_ns)
    found_ns = envelope.onset_before(at(1.2) + start_ns), envelope.end_before(at(2.2) + start_ns, onset_ns=at(1))
    assert abs(found_ns[0] - start_ns - at(1)) <= TOLERANCE_NS
    assert abs(found_ns[1] - start_ns - at(2)) <= TOLERANCE_NS


def test_a_faint_hiss_around_speech_in_silence_is_not_part_of_it() -> None:
    audio = bursts((0.8, 2.1), dbfs=-70) + bursts((1, 2))
    assert abs(onset(audio, 1) - at(1)) <= TOLERANCE_NS
    assert abs(end(audio, 1, 2) - at(2)) <= TOLERANCE_NS


def test_a_soft_beginning_and_end_are_part_of_the_speech_even_in_a_noisy_room() -> None:
    audio = bursts((1, 1.3), (1.6, 2), dbfs=-28) + bursts((1.3, 1.6), noise_dbfs=-38)
    assert abs(onset(audio, 1.3) - at(1)) <= TOLERANCE_NS
    assert abs(end(audio, 1, 2) - at(2)) <= TOLERANCE_NS


def test_stops_within_words_are_part_of_the_speech() -> None:
    audio = bursts((1, 1.2), (1.27, 1.5), (1.56, 2))
    assert abs(onset(audio, 1.6) - at(1)) <= TOLERANCE_NS


def test_an_utterance_before_a_gap_is_another_one() -> None:
    gap_s = (GAP_STEPS + 3) * STEP_MS / 1000
    audio = bursts((1, 1.5), (1.5 + gap_s, 2.5))
    assert abs(onset(audio, 1.5 + gap_s) - at(1.5 + gap_s)) <= TOLERANCE_NS


def test_a_click_long_before_the_speech_is_not_its_onset() -> None:
    audio = bursts((0.9, 0.905), (1.5, 2.5))
    assert abs(onset(audio, 1.5) - at(1.5)) <= TOLERANCE_NS


def test_an_onset_is_never_before_the_end_of_the_speech_before() -> None:
    audio = bursts((1, 1.5), (1.53, 2.5))
    assert abs(onset(audio, 1.53) - at(1)) <= TOLERANCE_NS
    found_ns = onset(audio, 1.53, not_before_ns=at(1.5))
    assert at(1.5) <= found_ns <= at(1.53) + TOLERANCE_NS


def test_an_onset_is_looked_for_no_further_back_than_speech_can_have_begun() -> None:
    reported_ns = at(4)
    found_ns = heard(bursts((1, 5)), until_ns=reported_ns).onset_before(reported_ns)
    assert found_ns == reported_ns - SEARCH_NS


def test_an_end_is_the_last_one_before_the_report() -> None:
    audio = bursts((1, 1.5), (2, 2.5))
    assert abs(end(audio, 1, 2.5) - at(2.5)) <= TOLERANCE_NS


def test_speech_that_goes_on_after_a_long_time_is_still_placed() -> None:
    envelope = Envelope(RATE_HZ)
    for lap in range(6):
        for at_ns, pcm in pieces(bursts((1, 2)), 20, lap * at(5)):
            envelope.add(at_ns, pcm)
    assert lap * at(5) > HISTORY_NS
    assert abs(envelope.onset_before(at(26.2)) - at(26)) <= TOLERANCE_NS
    assert abs(envelope.end_before(at(27.2), onset_ns=at(26)) - at(27)) <= TOLERANCE_NS


def test_where_no_audio_is_known_the_report_stands() -> None:
    envelope = Envelope(RATE_HZ)
    assert envelope.onset_before(at(3)) == at(3)
    assert envelope.end_before(at(3), onset_ns=at(2)) == at(3)
    envelope = heard(bursts((1, 2)))
    assert envelope.onset_before(at(9)) == at(9)
    assert envelope.end_before(at(9), onset_ns=at(8)) == at(9)
