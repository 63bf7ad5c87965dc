"""The final measure: the agent's speech in a channel with known edges."""

import subprocess
import sys

import numpy as np
import pytest

from bots.caller.speech.silero import RATE_HZ as MODEL_RATE_HZ
from bots.caller.speech.silero import WINDOW
from bots.timeline import AgentSpeechMeasured, RecordingMeasured
from runner.evaluation.measure import METHOD, Measured, measure_agent, measured_facts
from tests.evaluation.measure.sounds import (
    RATE_HZ,
    Signal,
    all_is_speech,
    at,
    buzz,
    loud_is_speech,
    noise,
    nothing_is_speech,
    pcm,
)

CALLER = ((at(0.2), at(1.6)), (at(5.5), at(7)))
SPEECHES = ((2.0, 3.2), (3.9, 5.0), (8.0, 9.5))


def measured(audio: Signal, **options: object) -> Measured:
    given = {"caller": CALLER, "speech_probability": loud_is_speech, **options}
    return measure_agent(pcm(audio), RATE_HZ, **given)  # type: ignore[arg-type]


def spans(result: Measured) -> list[tuple[float, float]]:
    return [(speech.onset_ns / 1e9, speech.end_ns / 1e9) for speech in result.speeches]


def close_to(*expected: tuple[float, float], within_s: float = 0.01) -> list[tuple[object, object]]:
    return [(pytest.approx(a, abs=within_s), pytest.approx(b, abs=within_s)) for a, b in expected]


@pytest.mark.parametrize("dbfs", [-6, -20, -38])
def test_speech_over_silence_is_placed_within_10_ms(dbfs: float) -> None:
    result = measured(buzz(*SPEECHES, seconds=11, dbfs=dbfs), speech_probability=all_is_speech)
    assert spans(result) == close_to(*SPEECHES)
    assert not result.too_loud


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 44_100, 48_000])
def test_any_rate_gives_the_same_places(rate_hz: int) -> None:
    audio = pcm(buzz(*SPEECHES, seconds=11, rate_hz=rate_hz))
    result = measure_agent(audio, rate_hz, caller=CALLER, speech_probability=loud_is_speech)
    assert spans(result) == close_to(*SPEECHES)


@pytest.mark.parametrize("bed_dbfs", [-60, -50, -42, -38])
@pytest.mark.parametrize("model", [loud_is_speech, all_is_speech])
def test_speech_over_noise_is_placed_within_its_uncertainty(bed_dbfs: float, model: object) -> None:
    result = measured(buzz(*SPEECHES, seconds=11) + noise(bed_dbfs, 11), speech_probability=model)
    assert len(result.speeches) == len(SPEECHES)
    for speech, (start_s, end_s) in zip(result.speeches, SPEECHES, strict=True):
        assert abs(speech.onset_ns - at(start_s)) <= speech.onset_uncertainty_ms * 1e6
        assert abs(speech.end_ns - at(end_s)) <= speech.end_uncertainty_ms * 1e6
        assert speech.bed_dbfs == pytest.approx(bed_dbfs, abs=2)
        assert speech.level_dbfs == pytest.approx(-20, abs=2)
    assert result.bed_dbfs == pytest.approx(bed_dbfs, abs=2)
    assert result.agent_dbfs == pytest.approx(-20, abs=2)


def test_the_louder_the_bed_the_wider_the_uncertainty() -> None:
    widths = [
        measured(buzz(*SPEECHES, seconds=11) + noise(dbfs, 11)).speeches[0].onset_uncertainty_ms
        for dbfs in (-80, -50, -40, -30)
    ]
    assert widths == sorted(widths)
    assert widths[0] <= 20
    assert widths[-1] > 100


def test_a_bed_near_the_voice_is_too_loud_to_tell() -> None:
    result = measured(buzz(*SPEECHES, seconds=11, dbfs=-24) + noise(-28, 11), speech_probability=all_is_speech)
    assert result.too_loud
    assert all(speech.too_loud for speech in result.speeches)


def test_a_loud_bed_alone_is_too_loud_to_find_speech() -> None:
    result = measured(noise(-28, 11), speech_probability=nothing_is_speech)
    assert (result.speeches, result.agent_dbfs, result.too_loud) == ((), None, True)


def test_silence_holds_no_speech() -> None:
    result = measured(np.zeros(RATE_HZ * 5))
    assert result == Measured((), -100.0, None, too_loud=False)


def test_an_empty_recording_holds_no_speech() -> None:
    assert measured(np.zeros(0)).speeches == ()


def test_what_no_model_takes_for_speech_is_dropped() -> None:
    assert measured(buzz(*SPEECHES, seconds=11), speech_probability=nothing_is_speech).speeches == ()


def test_soft_beginnings_and_ends_are_part_of_the_speech() -> None:
    audio = buzz((1.9, 2), (3, 3.15), seconds=11, dbfs=-52) + buzz((2, 3), seconds=11)
    assert spans(measured(audio)) == close_to((1.9, 3.15))


def test_a_pause_shorter_than_250_ms_parts_nothing() -> None:
    assert spans(measured(buzz((2, 3), (3.2, 4), (4.4, 5), seconds=11))) == close_to((2, 4), (4.4, 5))


def test_keys_between_the_words_are_no_speech() -> None:
    keys = [(9.8 + 0.2 * k, 9.81 + 0.2 * k) for k in range(4)]
    assert spans(measured(buzz(*SPEECHES, *keys, seconds=11))) == close_to(*SPEECHES)


def model(*heard: tuple[float, float, float]) -> object:
    """Return a speech model that hears a voice between two times, as surely as it is told to."""

    def probability(samples: Signal) -> Signal:
        at_s = np.arange(samples.size // WINDOW) * WINDOW / MODEL_RATE_HZ
        sure = np.full(at_s.size, 0.02, dtype=np.float32)
        for start_s, end_s, value in heard:
            sure[(at_s >= start_s) & (at_s < end_s)] = value
        return sure

    return probability


SURELY = [(start_s, end_s + 0.1, 1.0) for start_s, end_s in SPEECHES]


def test_a_passing_car_after_the_agent_is_not_its_voice() -> None:
    audio = buzz(*SPEECHES, seconds=11) + noise(-45, 11)
    audio[int(9.5 * RATE_HZ) : int(10.5 * RATE_HZ)] += noise(-33, 1.0)
    result = measured(audio, speech_probability=model(*SURELY))
    assert spans(result) == close_to(*SPEECHES, within_s=0.3)


@pytest.mark.parametrize(("sureness", "begins_s"), [(0.6, 8.0), (1.0, 7.1)])
def test_a_soft_voice_before_the_agent_takes_a_sure_model(sureness: float, begins_s: float) -> None:
    audio = buzz(*SPEECHES, seconds=11) + buzz((7.1, 8.0), seconds=11, dbfs=-34) + noise(-48, 11)
    result = measured(audio, speech_probability=model(*SURELY, (7.1, 8.0, sureness)))
    # The model may notice a voice only so long after it begins.
    assert spans(result)[-1] == close_to((begins_s, 9.5), within_s=0.45)[0]


@pytest.mark.parametrize("sureness", [0.2, 0.6])
def test_over_silence_a_soft_voice_is_the_agents_all_the_same(sureness: float) -> None:
    audio = buzz(*SPEECHES, seconds=13) + buzz((10.5, 11.2), seconds=13, dbfs=-34)
    result = measured(audio, speech_probability=model(*SURELY, (10.5, 11.2, sureness)))
    assert spans(result) == close_to(*SPEECHES, (10.5, 11.2))


def bursts(*starts_s: float, seconds: float) -> Signal:
    """Noise of 100 ms at each of these times, as loud as a bed may be for a moment."""
    audio = noise(-46, seconds)
    for seed, start_s in enumerate(starts_s):
        audio[int(start_s * RATE_HZ) :][: RATE_HZ // 10] += noise(-26, 0.1, seed=seed + 2)
    return audio


BURSTS_S = (0.4, 1.0, 5.6, 6.4, 7.2, 10.0, 10.6)


def test_a_note_just_before_the_agent_is_not_its_onset() -> None:
    audio = buzz(*SPEECHES, seconds=11) + buzz((7.8, 8.0), seconds=11, dbfs=-39) + noise(-34, 11)
    result = measured(audio, speech_probability=model(*[(a + 0.03, b, 1.0) for a, b in SPEECHES]))
    assert 7.87 <= spans(result)[-1][0] <= 8.02


def test_a_beginning_like_the_bed_is_speech_if_the_model_says() -> None:
    audio = buzz(*SPEECHES[:2], (8.15, 9.5), seconds=11) + bursts(*BURSTS_S, seconds=11)
    audio[8 * RATE_HZ : round(8.15 * RATE_HZ)] += noise(-29, 0.15)
    result = measured(audio, speech_probability=model(*SURELY))
    assert spans(result)[-1][0] == pytest.approx(8.0, abs=0.06)


def test_a_model_that_takes_the_bed_for_speech_moves_no_onset() -> None:
    audio = buzz(*SPEECHES, seconds=11) + noise(-42, 11)
    mistaken = model(*SURELY[:2], (7.7, 9.6, 1.0), (0.4, 1.0, 1.0), (5.6, 6.2, 1.0))
    assert spans(measured(audio, speech_probability=mistaken))[-1][0] == pytest.approx(8.0, abs=0.03)


def test_what_the_model_hears_for_a_moment_only_is_no_onset() -> None:
    audio = buzz(*SPEECHES, seconds=11) + noise(-42, 11)
    result = measured(audio, speech_probability=model(*SURELY[:2], (7.75, 7.81, 1.0), (8.03, 9.6, 1.0)))
    assert spans(result)[-1][0] == pytest.approx(8.0, abs=0.03)


@pytest.mark.parametrize(("loud_s", "flagged"), [(36.0, 5), (9.0, 2)])
def test_in_a_call_mostly_too_loud_the_rest_counts_as_too_loud(loud_s: float, flagged: int) -> None:
    bed = noise(-30.5, 60)
    bed[: round(loud_s * RATE_HZ)] = noise(-27.5, loud_s)
    audio = bed + buzz((2, 4), (13, 15), (30, 32), (40, 42), (54, 56), seconds=60)
    result = measured(audio, caller=((at(5), at(8)), (at(57), at(59))), speech_probability=all_is_speech)
    assert [speech.too_loud for speech in result.speeches] == [index < flagged for index in range(5)]


def test_without_a_caller_the_bed_is_found_in_what_is_quiet() -> None:
    result = measured(buzz(*SPEECHES, seconds=11) + noise(-45, 11), caller=())
    assert spans(result) == close_to(*SPEECHES, within_s=0.05)


def test_silence_before_the_agent_is_there_is_not_its_bed() -> None:
    audio = buzz((6, 7), (8, 9.5), seconds=11) + noise(-38, 11)
    audio[: 4 * RATE_HZ] = 0
    assert spans(measured(audio, caller=((at(1), at(3)),))) == close_to((6, 7), (8, 9.5), within_s=0.05)


def test_the_same_recording_gives_the_same_result() -> None:
    audio = buzz(*SPEECHES, seconds=11) + noise(-38, 11)
    assert measured(audio) == measured(audio)


def test_what_was_measured_goes_on_the_timeline() -> None:
    result = measured(buzz((2, 3), seconds=11))
    speech, whole = measured_facts(result, at(11))
    assert isinstance(speech, AgentSpeechMeasured)
    assert (speech.at_ns, speech.end_ns) == (result.speeches[0].onset_ns, result.speeches[0].end_ns)
    assert speech.onset_uncertainty_ms == result.speeches[0].onset_uncertainty_ms
    assert isinstance(whole, RecordingMeasured)
    assert (whole.at_ns, whole.method, whole.agent_dbfs) == (at(11), METHOD, result.agent_dbfs)


def test_silero_is_asked_without_pipecat() -> None:
    code = (
        "import sys, numpy as np\n"
        "from runner.evaluation.measure import measure_agent\n"
        "measure_agent((np.random.default_rng(1).standard_normal(48000) * 3000).astype(np.int16), 24000)\n"
        "assert 'onnxruntime' in sys.modules\n"
        "assert 'pipecat' not in sys.modules, 'imports Pipecat'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
