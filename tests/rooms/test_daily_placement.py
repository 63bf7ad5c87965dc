"""Audio of a Daily room on the call's clock, which has no timestamps: by counted samples."""

import numpy as np

from bots.clock import NS_PER_MS, samples_to_ns
from runner.rooms.base import AUDIO_RATE_HZ
from runner.rooms.daily.placement import SampleClock, SentTrack

CHUNK_MS = 20


def chunk(ms: int = CHUNK_MS, value: int = 1) -> bytes:
    return np.full(AUDIO_RATE_HZ * ms // 1000, value, dtype=np.int16).tobytes()


def unheeded(at_ns: int, duration_ms: float, late_ms: float) -> None: ...


def place_all(clock: SampleClock, arrivals_ms: list[float]) -> list[int]:
    return [round(p.at_ns / NS_PER_MS) for at in arrivals_ms for p in clock.place(round(at * NS_PER_MS), chunk())]


def test_jitter_moves_nothing():
    clock = SampleClock(AUDIO_RATE_HZ, unheeded)
    arrivals = [20 + 20 * n + (n * 37 % 90) * (n > 0) for n in range(50)]
    assert place_all(clock, arrivals) == [20 * n for n in range(50)]
    assert clock.reanchored == 0


def test_gap_is_kept():
    clock = SampleClock(AUDIO_RATE_HZ, unheeded)
    assert place_all(clock, [20, 40, 540, 560, 580]) == [0, 20, 520, 540, 560]
    assert clock.reanchored == 1


def test_stall_with_burst_moves_nothing():
    clock = SampleClock(AUDIO_RATE_HZ, unheeded)
    arrivals = [20, 40] + [300 + n for n in range(13)] + [320, 340]
    assert place_all(clock, arrivals) == [20 * n for n in range(17)]
    assert clock.reanchored == 0


def test_slow_drift_is_taken_up_past_the_tolerance():
    clock = SampleClock(AUDIO_RATE_HZ, unheeded)
    arrivals = [20 + 20.2 * n for n in range(1500)]  # 1 % slow: 300 ms in 30 s
    placed = place_all(clock, arrivals)
    assert clock.reanchored == 2
    assert max(abs(at - (arrived - 20)) for at, arrived in zip(placed, arrivals, strict=False)) <= 101


def test_held_chunk_is_not_lost_when_nothing_follows():
    clock = SampleClock(AUDIO_RATE_HZ, unheeded)
    assert place_all(clock, [20, 540]) == [0]
    assert [p.at_ns for p in clock.flush()] == [520 * NS_PER_MS]
    assert clock.flush() == []


def ms(value: float) -> int:
    return round(value * NS_PER_MS)


def test_sent_track_is_unbroken_and_places_lines():
    track = SentTrack(AUDIO_RATE_HZ, 0)
    placed = track.silence_until(ms(500))
    track.taken(ms(520))
    placed += track.silence_until(ms(700))  # nothing past the write that is under way
    placed += track.written(ms(520), ms(560), chunk(40))
    track.taken(ms(561))
    placed += track.written(ms(561), ms(607), chunk(40))  # 7 ms late: jitter, not silence
    placed += track.silence_until(ms(1000))
    track.taken(ms(1200))
    placed += track.written(ms(1200), ms(1240), chunk(40))
    end = 0
    for piece in placed:
        assert piece.at_ns == samples_to_ns(end, AUDIO_RATE_HZ)
        end += len(piece.pcm) // 2
    assert [round(p.at_ns / NS_PER_MS) for p in placed if any(p.pcm)] == [540, 580, 1220]


def test_sent_track_counts_an_underrun():
    track = SentTrack(AUDIO_RATE_HZ, 0)
    for taken, done in ((0, 40), (41, 240)):
        track.taken(ms(taken))
        placed = track.written(ms(taken), ms(done), chunk(40))
    assert track.reanchored == 1
    assert round(placed[-1].at_ns / NS_PER_MS) == 220
