"""Where the agent's speech begins and ends, heard live: bursts at known places, against backgrounds."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from bots.caller.hearing import Edge, Heard, Hearing
from bots.clock import NS_PER_MS, NS_PER_S, samples_to_ns

RATE_HZ = 16_000
Samples = npt.NDArray[np.float64]


class Model:
    """Takes for speech what it is told to be speech: all that is loud, or nothing."""

    def __init__(self, probability: float = 1.0):
        self._probability = probability

    def probability(self, window: npt.NDArray[np.float32]) -> float:
        return self._probability

    def reset(self) -> None:
        return None


def at(seconds: float) -> int:
    return round(seconds * NS_PER_S)


def bursts(*stretches: tuple[float, float], dbfs: float = -20.0, seconds: float = 6.0) -> Samples:
    """A buzz with a voice's spectrum in each stretch, given as (start, end) in seconds."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    audio = np.zeros(t.size)
    buzz = sum(np.sin(2 * np.pi * 200 * k * t) / k for k in range(1, 12))
    buzz = np.asarray(buzz) / np.sqrt(np.mean(np.square(buzz)))
    for start_s, end_s in stretches:
        inside = (t >= start_s) & (t < end_s)
        audio[inside] = buzz[inside] * 10 ** (dbfs / 20)
    return audio


def noise(dbfs: float, seconds: float = 6.0, seed: int = 1) -> Samples:
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ)) * 10 ** (dbfs / 20)


def pieces(audio: Samples, piece_ms: float = 20, start_ns: int = 0) -> Iterator[tuple[int, bytes]]:
    pcm = (np.clip(audio, -1, 1) * 32_767).astype(np.int16)
    step = round(RATE_HZ * piece_ms / 1000)
    for start in range(0, pcm.size, step):
        yield start_ns + samples_to_ns(start, RATE_HZ), pcm[start : start + step].tobytes()


def heard(audio: Samples, *, piece_ms: float = 20, start_ns: int = 0, model: Model | None = None) -> list[Edge]:
    hearing = Hearing(model or Model())
    edges = [edge for at_ns, pcm in pieces(audio, piece_ms, start_ns) for edge in hearing.hear(at_ns, pcm)]
    return edges + hearing.stop()


def spans_s(edges: Sequence[Edge]) -> list[tuple[float, float]]:
    assert [edge.heard for edge in edges] == [Heard.ONSET, Heard.END] * (len(edges) // 2)
    return [(a.at_ns / NS_PER_S, b.at_ns / NS_PER_S) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def close_to(*spans: tuple[float, float], within_s: float = 0.01) -> list[tuple[object, object]]:
    return [(pytest.approx(a, abs=within_s), pytest.approx(b, abs=within_s)) for a, b in spans]


@pytest.mark.parametrize("dbfs", [-6, -20, -38, -45])
@pytest.mark.parametrize("start_s", [1.0, 1.0037, 2.4512])
def test_speech_over_silence_is_placed_within_10_ms(dbfs: float, start_s: float) -> None:
    # As words are: with stops in them.
    stops = [(start_s, start_s + 0.22), (start_s + 0.28, start_s + 0.6), (start_s + 0.66, start_s + 1)]
    assert spans_s(heard(bursts(*stops, dbfs=dbfs))) == close_to((start_s, start_s + 1))


@pytest.mark.parametrize("start_s", [0.0, 1.0])
def test_an_even_soft_sound_at_the_beginning_is_a_bed(start_s: float) -> None:
    even = noise(-38, 12.0)
    even[: round(start_s * RATE_HZ)] = 0
    assert spans_s(heard(even)) == []
    # What comes out of it is heard.
    assert spans_s(heard(even + bursts((6, 7), seconds=12.0))) == close_to((6, 7), within_s=0.03)


def test_an_even_soft_sound_that_stops_was_a_voice() -> None:
    spoken = ((1.0, 4.0), (6.0, 7.5), (9.0, 11.0))
    assert spans_s(heard(bursts(*spoken, dbfs=-38, seconds=12.0))) == close_to(*spoken, within_s=0.03)


def test_an_even_soft_sound_that_stops_and_is_no_speech_was_none() -> None:
    assert spans_s(heard(bursts((1.0, 4.0), dbfs=-38, seconds=8.0), model=Model(0.3))) == []


def test_a_soft_voice_is_not_measured_by_the_assumed_level() -> None:
    # Its stressed vowels lie well above what is in between, as in speech.
    spoken = [(1 + 0.5 * n, 1.15 + 0.5 * n) for n in range(5)]
    between = [(1 + 0.5 * n, 1.5 + 0.5 * n) for n in range(5)]
    audio = bursts(*spoken, dbfs=-36, seconds=9.0) + bursts(*between, dbfs=-52, seconds=9.0)
    assert spans_s(heard(audio, model=Model(0.3))) == close_to((1, 3.5), within_s=0.1)


@pytest.mark.parametrize("bed_dbfs", [-60, -50, -42, -35])
def test_speech_over_steady_noise_is_placed_within_30_ms(bed_dbfs: float) -> None:
    edges = heard(bursts((2, 3), (4, 5)) + noise(bed_dbfs))
    # Before anything else was heard a bed may be taken for the agent, for a moment.
    assert spans_s(edges)[-2:] == close_to((2, 3), (4, 5), within_s=0.03)


def test_an_onset_is_noticed_within_125_ms_and_an_end_within_270() -> None:
    hearing = Hearing(Model())
    noticed = {
        edge.heard: at_ns + 20 * NS_PER_MS - edge.at_ns
        for at_ns, pcm in pieces(bursts((1, 2)))
        for edge in hearing.hear(at_ns, pcm)
    }
    assert noticed[Heard.ONSET] <= 125 * NS_PER_MS
    assert noticed[Heard.END] <= 270 * NS_PER_MS


@pytest.mark.parametrize(
    ("piece_ms", "start_ns"), [(1, 123_456_789), (7.3, 0), (7.3, 123_456_789), (20, 0), (20, 123_456_789), (500, 0)]
)
def test_the_pieces_audio_comes_in_move_nothing(piece_ms: float, start_ns: int) -> None:
    (start_s, end_s), *more = spans_s(heard(bursts((1, 2)), piece_ms=piece_ms, start_ns=start_ns))
    assert not more
    assert start_s - start_ns / NS_PER_S == pytest.approx(1, abs=0.01)
    assert end_s - start_ns / NS_PER_S == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize(
    ("audio", "spans"),
    [
        pytest.param(
            bursts((1.05, 1.2), (1.8, 1.95), dbfs=-45) + bursts((1.2, 1.8)), [(1.05, 1.95)], id="soft edges"
        ),
        pytest.param(bursts((1, 1.2), (1.27, 1.5), (1.56, 2)), [(1, 2)], id="stops within words"),
        pytest.param(bursts((1, 1.5), (2, 2.5)), [(1, 1.5), (2, 2.5)], id="a pause parts two speeches"),
        pytest.param(bursts((0.9, 0.91), (2, 2.5)), [(2, 2.5)], id="a click is none"),
    ],
)
def test_what_belongs_to_a_speech(audio: Samples, spans: list[tuple[float, float]]) -> None:
    assert spans_s(heard(audio)) == close_to(*spans)


def test_what_the_model_never_takes_for_speech_is_none() -> None:
    assert heard(bursts((1, 1.5), (2, 2.5)), model=Model(0.0)) == []


def test_a_bed_taken_for_speech_does_not_hide_the_agent() -> None:
    crowd = noise(-40, seconds=20) * np.repeat(10 ** (np.random.default_rng(2).normal(0, 2, 100) / 20), 3_200)
    spans = spans_s(heard(bursts((8, 9.5), (14, 15), seconds=20) + crowd))
    assert spans[-2:] == close_to((8, 9.5), (14, 15), within_s=0.06)


@pytest.mark.parametrize(
    "bed_dbfs", [pytest.param(-50, marks=pytest.mark.slow), -35, pytest.param(-20, marks=pytest.mark.slow)]
)
def test_a_bed_that_begins_in_mid_call_does_not_block_a_turn(bed_dbfs: float) -> None:
    audio = bursts((1, 2), seconds=40)
    audio[4 * RATE_HZ :] += noise(bed_dbfs, seconds=36)
    edges = heard(audio)
    assert edges[-1].heard is Heard.END
    assert edges[-1].at_ns < at(16)


def test_a_bed_from_the_start_is_soon_not_taken_for_the_agent() -> None:
    edges = heard(noise(-30, seconds=20))
    assert not edges or edges[-1].at_ns < at(6)


def test_a_long_speech_is_one_or_more_and_ends_where_it_ends() -> None:
    syllables = [(1 + 0.25 * k, 1.2 + 0.25 * k) for k in range(100)]
    spans = spans_s(heard(bursts(*syllables, seconds=30)))
    assert spans[0][0] == pytest.approx(1, abs=0.01)
    assert spans[-1][1] == pytest.approx(syllables[-1][1], abs=0.01)


def test_a_gap_in_the_audio_is_silence() -> None:
    hearing = Hearing(Model())
    edges: list[Edge] = []
    for at_ns, pcm in pieces(bursts((1, 3))):
        if not at(2) <= at_ns < at(2.5):
            edges += hearing.hear(at_ns, pcm)
    assert spans_s(edges) == close_to((1, 2), (2.5, 3))


def test_audio_that_stops_coming_ends_the_speech() -> None:
    hearing = Hearing(Model())
    edges = [edge for at_ns, pcm in pieces(bursts((1, 6))) for edge in hearing.hear(at_ns, pcm)]
    assert hearing.speaking
    edges += hearing.stop()
    assert not hearing.speaking
    assert spans_s(edges)[0][1] == pytest.approx(6, abs=0.02)
    assert hearing.stop() == []


def test_speech_that_goes_on_after_a_long_time_is_still_placed() -> None:
    hearing = Hearing(Model())
    edges: list[Edge] = []
    for lap in range(12):
        for at_ns, pcm in pieces(bursts((1, 2)), start_ns=at(6 * lap)):
            edges += hearing.hear(at_ns, pcm)
    assert spans_s(edges) == close_to(*((6 * lap + 1.0, 6 * lap + 2.0) for lap in range(12)))
