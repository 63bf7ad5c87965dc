"""The caller's track: what is written is encoded ahead, and comes out in order with silence around it."""

import threading
import time

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.rooms.base import AUDIO_RATE_HZ
from runner.rooms.smallwebrtc import outgoing
from runner.rooms.smallwebrtc.outgoing import (
    BATCH_FRAMES,
    FRAME_BYTES,
    FRAME_SAMPLES,
    SETTLED_FRAMES,
    CallerTrack,
    Frame,
    Punctuality,
)
from tests.examples import examples

Samples = npt.NDArray[np.int16]


@pytest.fixture
def track() -> CallerTrack:
    return CallerTrack()


def encoded() -> None:
    """Wait until all that was written is encoded: one thread does it, in order."""
    outgoing._ENCODING.submit(lambda: None).result(10)  # pyright: ignore[reportPrivateUsage]


def write(track: CallerTrack, pcm: bytes) -> None:
    track.write(pcm)
    encoded()


def take(track: CallerTrack, count: int) -> list[Frame]:
    return [track.take() for _ in range(count)]


def audio(frames: list[Frame]) -> bytes:
    return b"".join(frame.pcm for frame in frames)


def ramp(frames: int, start: int = 1) -> bytes:
    """Samples that can be told apart."""
    return (np.arange(frames * FRAME_SAMPLES) % 30_000 + start).astype(np.int16).tobytes()


def decoded(frames: list[Frame]) -> npt.NDArray[np.float64]:
    decoder = av.CodecContext.create("libopus", "r")
    assert isinstance(decoder, av.AudioCodecContext)
    decoder.format, decoder.layout, decoder.sample_rate = "s16", "mono", 48_000
    return np.concatenate(
        [piece.to_ndarray()[0] for frame in frames for piece in decoder.decode(av.Packet(frame.payload))]
    ).astype(float)


def loudness(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the peak of every 20 ms."""
    return np.abs(samples.reshape(-1, 960)).max(axis=1)


def test_with_nothing_written_there_is_silence(track: CallerTrack) -> None:
    frames = take(track, 50)
    assert audio(frames) == bytes(50 * FRAME_BYTES)
    assert np.abs(decoded(frames)).max() <= 2


def test_what_was_written_comes_out_in_its_order(track: CallerTrack) -> None:
    first, second = ramp(3), ramp(2 * BATCH_FRAMES + 1, start=7)
    track.write(first)
    write(track, second)
    assert audio(take(track, 2 * BATCH_FRAMES + 6)) == first + second + bytes(2 * FRAME_BYTES)


def test_an_incomplete_frame_is_filled_up_with_silence(track: CallerTrack) -> None:
    write(track, ramp(1)[:300])
    assert audio(take(track, 2)) == ramp(1)[:300] + bytes(2 * FRAME_BYTES - 300)


def test_a_line_is_not_begun_before_enough_of_it_is_ready(track: CallerTrack) -> None:
    track.write(ramp(3_000))
    began_s = time.monotonic()
    while not any(track.take().pcm):
        assert time.monotonic() - began_s < 10
    assert all(any(frame.pcm) for frame in take(track, BATCH_FRAMES - 1))


def test_writing_waits_for_nothing(track: CallerTrack) -> None:
    held = threading.Event()
    outgoing._ENCODING.submit(held.wait)  # pyright: ignore[reportPrivateUsage]
    try:
        track.write(ramp(100))
        assert not any(track.take().pcm)
    finally:
        held.set()
    encoded()
    assert audio(take(track, 100)) == ramp(100)


@pytest.mark.parametrize("level", [3_000, 20_000])
def test_the_packets_reproduce_line_after_line(track: CallerTrack, level: int) -> None:
    t = np.arange(40 * FRAME_SAMPLES) / AUDIO_RATE_HZ
    said: Samples = (level * np.sin(2 * np.pi * 500 * t)).astype(np.int16)
    frames: list[Frame] = []
    for _ in range(3):
        frames += take(track, 15)
        write(track, said.tobytes())
        frames += take(track, 40)
    frames += take(track, 15)
    heard = decoded(frames)
    line = np.repeat(said, 2).astype(float)
    silent = np.zeros(15 * 960)
    expected = np.concatenate([*[silent, line] * 3, silent])
    # The encoder looks ahead 6.5 ms.
    lag = max(range(250, 380), key=lambda lag: float(np.dot(heard[lag:], expected[: expected.size - lag])))
    heard, expected = heard[lag:], expected[: expected.size - lag]
    for number in range(3):
        start = silent.size + number * (silent.size + line.size)
        inside = slice(start + 960, start + line.size - 960)
        assert np.corrcoef(heard[inside], expected[inside])[0, 1] > 0.98
        # No click where a line begins or ends: nothing louder than the line, and silence before and after.
        assert np.abs(heard[start - 2_000 : start + line.size + 2_000]).max() < 1.3 * level
        assert np.abs(heard[start - 2_000 : start - 500]).max() < 0.05 * level
        assert np.abs(heard[start + line.size + 1_500 : start + line.size + 4_000]).max() < 0.05 * level


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(1, 40), st.sampled_from([300, 3_000, 20_000]), st.booleans()),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=examples(30), deadline=None)
@pytest.mark.slow
def test_encoding_ahead_clicks_no_more_than_encoding_in_step(lines: list[tuple[int, int, int, bool]]) -> None:
    track, in_step = CallerTrack(), outgoing._Encoder()  # pyright: ignore[reportPrivateUsage]
    in_step.encode(bytes(FRAME_BYTES * SETTLED_FRAMES))
    rng = np.random.default_rng(5)
    frames: list[Frame] = []
    for silent, voiced, level, tone in lines:
        frames += take(track, silent)
        t = np.arange(voiced * FRAME_SAMPLES) / AUDIO_RATE_HZ
        said = level * np.sin(3_000 * t) if tone else rng.normal(0, level / 4, t.size)
        write(track, said.astype(np.int16).tobytes())
        frames += take(track, voiced)
    frames += take(track, 60)
    ahead, expected = loudness(decoded(frames)), loudness(decoded(in_step.encode(audio(frames))))
    around = np.max([np.roll(expected, shift) for shift in (-1, 0, 1)], axis=0)
    assert (ahead <= 1.5 * around + 50).all()


def test_silence_that_has_lasted_costs_no_encoding(track: CallerTrack) -> None:
    write(track, ramp(1))
    frames = take(track, 1 + SETTLED_FRAMES + 100)
    assert len({id(frame) for frame in frames[SETTLED_FRAMES:]}) == 1


def test_clearing_drops_what_has_not_left(track: CallerTrack) -> None:
    write(track, ramp(50))
    said = take(track, 3)
    track.clear()
    assert audio(said + take(track, 2)) == ramp(50)[: 3 * FRAME_BYTES] + bytes(2 * FRAME_BYTES)


def test_what_is_encoded_while_cleared_does_not_come_out(track: CallerTrack, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, reached, go_on = track._encoder.encode, threading.Event(), threading.Event()  # pyright: ignore[reportPrivateUsage]

    def slowly(pcm: bytes) -> list[Frame]:
        if any(pcm):
            reached.set()
            go_on.wait(10)
        return encode(pcm)

    monkeypatch.setattr(track._encoder, "encode", slowly)  # pyright: ignore[reportPrivateUsage]
    track.write(ramp(2))
    assert reached.wait(10)
    track.clear()
    track.write(ramp(3, start=9))
    go_on.set()
    encoded()
    assert audio(take(track, 4)) == ramp(3, start=9) + bytes(FRAME_BYTES)


def test_a_stopped_track_gives_silence_and_takes_nothing(track: CallerTrack) -> None:
    write(track, ramp(50))
    track.stop()
    write(track, ramp(50))
    assert audio(take(track, 5)) == bytes(5 * FRAME_BYTES)


def test_packets_are_late_beyond_20_ms_and_the_latest_is_kept() -> None:
    sent = Punctuality()
    for late_ns in (0, 20_000_000, 20_000_001, 90_000_000, 30_000_000):
        sent.add(late_ns)
    assert (sent.packets, sent.late, sent.latest_ns) == (5, 3, 90_000_000)
