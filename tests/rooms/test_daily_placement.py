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


def late_of(arrivals_ms: list[float]) -> list[tuple[int, int, int]]:
    """Return what is said to have come late, in milliseconds."""
    late: list[tuple[int, int, int]] = []
    clock = SampleClock(
        AUDIO_RATE_HZ, lambda at_ns, *ms: late.append((round(at_ns / NS_PER_MS), round(ms[0]), round(ms[1])))
    )
    place_all(clock, arrivals_ms)
    clock.flush()
    return late


def test_chunks_that_come_late_together_are_said_to():
    on_time = [20 * (n + 1) for n in range(100)]
    assert late_of(on_time) == []
    held_up = [at + (70 if 40 <= n < 50 else 0) for n, at in enumerate(on_time)]
    assert late_of(held_up) == [(800, 200, 70)]
    to_the_end = [at + (70 if n >= 90 else 0) for n, at in enumerate(on_time)]
    assert late_of(to_the_end) == [(1_800, 200, 70)]


def test_a_stream_that_jumps_and_catches_up_came_late():
    # Two chunks behind a gap of 200 ms, and the rest on time again.
    arrivals = [20.0 * (n + 1) for n in range(20)] + [620.0, 640.0] + [590.0 + 20 * n for n in range(5)]
    assert [late_ms for _, _, late_ms in late_of(sorted(arrivals))] != []


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
