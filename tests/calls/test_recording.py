"""The recording: both sides at their place on the call's clock, readable whatever happens."""

import shutil
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.clock import NS_PER_MS, NS_PER_S, samples_to_ns
from runner.calls import recording as recordings
from runner.calls.recording import AGENT, CALLER, RecordingWriter, read_recording
from runner.errors import UsageError
from tests.examples import examples

RATE_HZ = 24_000


def at(sample: int) -> int:
    return samples_to_ns(sample, RATE_HZ)


def pcm(*samples: int) -> bytes:
    return np.array(samples, dtype=np.int16).tobytes()


def ramp(count: int, start: int = 1) -> bytes:
    return (np.arange(count) % 30_000 + start).astype(np.int16).tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording.wav"


@pytest.fixture
def writer(path: Path) -> Iterator[RecordingWriter]:
    writer = RecordingWriter(path, RATE_HZ)
    yield writer
    writer.close()


def test_audio_lies_at_its_sample(writer: RecordingWriter, path: Path) -> None:
    writer.put(CALLER, at(100), pcm(1, 2, 3))
    writer.put(AGENT, at(102), pcm(7, 8))
    writer.flush(at(200))
    samples, rate_hz = read_recording(path)
    assert rate_hz == RATE_HZ
    assert samples.shape == (2, 200)
    assert samples[CALLER, 99:104].tolist() == [0, 1, 2, 3, 0]
    assert samples[AGENT, 101:105].tolist() == [0, 7, 8, 0]


@given(
    pieces=st.lists(
        st.tuples(st.sampled_from([CALLER, AGENT]), st.integers(0, 400), st.integers(1, 90)), max_size=20
    ),
    flushes=st.lists(st.integers(0, 600), max_size=5),
)
@settings(max_examples=examples(60), deadline=None)
def test_any_pieces_and_flushes_give_the_picture_that_was_put(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, int, int]], flushes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("r") / "recording.wav"
    writer, expected, on_disk = RecordingWriter(path, 1_000), np.zeros((2, 600), dtype=np.int16), 0
    for index, (channel, start, count) in enumerate(pieces):
        samples = np.full(count, index + 1, dtype=np.int16)
        writer.put(channel, start * NS_PER_MS, samples.tobytes())
        first = max(start, on_disk)
        if first < start + count:
            expected[channel, first : start + count] = index + 1
        if index < len(flushes):
            writer.flush(flushes[index] * NS_PER_MS)
            on_disk = max(on_disk, flushes[index])
        for side in (CALLER, AGENT):
            read = np.frombuffer(writer.read(side, 0, 600 * NS_PER_MS), dtype=np.int16)
            assert read.tolist() == expected[side, : read.size].tolist()
            assert not expected[side, read.size :].any()
    writer.flush(600 * NS_PER_MS)
    writer.close()
    assert read_recording(path)[0].tolist() == expected.tolist()


def test_the_file_opens_at_every_moment_of_its_making(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is taken after every single write: what a killed process would leave behind."""
    copies: list[Path] = []
    really_write = recordings.os.pwrite

    def pwrite(file: int, data: bytes, offset: int) -> int:
        for part in (data[: len(data) // 2], data):
            if offset:  # a header is one block of a disk, but data may be torn
                really_write(file, part, offset)
        if not offset:
            really_write(file, data, offset)
        copies.append(Path(shutil.copy(path, path.with_name(f"{len(copies)}.wav"))))
        return len(data)

    monkeypatch.setattr(recordings.os, "pwrite", pwrite)
    writer = RecordingWriter(path, RATE_HZ)
    for index in range(12):
        writer.put(CALLER, at(index * 480), ramp(480, start=index + 1))
        writer.put(AGENT, at(index * 480 + 7), ramp(480, start=-index))
        if index % 3 == 2:
            writer.flush(at((index - 1) * 480))
    writer.flush(at(12 * 480))
    writer.close()
    whole, _ = read_recording(path)
    frames = []
    for copy in copies:
        with wave.open(str(copy), "rb") as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, RATE_HZ)
            data = file.readframes(file.getnframes())
            assert len(data) == file.getnframes() * 4, "the header promises what is not there"
            frames.append(file.getnframes())
        assert np.frombuffer(data, dtype=np.int16).reshape(-1, 2).T.tolist() == whole[:, : frames[-1]].tolist()
    assert frames == sorted(frames)
    assert frames[0] == 0 and frames[-1] == 12 * 480 and len(set(frames)) == 6


def test_a_new_file_is_an_empty_recording(writer: RecordingWriter, path: Path) -> None:
    assert read_recording(path)[0].shape == (2, 0)


def test_an_existing_file_is_never_overwritten(writer: RecordingWriter, path: Path) -> None:
    with pytest.raises(FileExistsError):
        RecordingWriter(path, RATE_HZ)


def test_what_overlaps_is_replaced_by_what_came_last(writer: RecordingWriter, path: Path) -> None:
    writer.put(AGENT, at(0), pcm(1, 1, 1, 1))
    writer.put(AGENT, at(2), pcm(2, 2, 2))
    writer.flush(at(6))
    assert read_recording(path)[0][AGENT].tolist() == [1, 1, 2, 2, 2, 0]


def test_what_was_written_is_not_written_again(writer: RecordingWriter, path: Path) -> None:
    writer.put(AGENT, at(RATE_HZ - 100), ramp(100))
    for until in (RATE_HZ // 2, RATE_HZ, 2 * RATE_HZ, 3 * RATE_HZ):
        writer.flush(at(until))
    agent = read_recording(path)[0][AGENT]
    assert np.flatnonzero(agent).tolist() == list(range(RATE_HZ - 100, RATE_HZ))


@pytest.mark.parametrize(
    ("start", "kept"), [(0, []), (6, []), (7, [3]), (8, [2, 3]), (9, [1, 2, 3]), (10, [0, 1, 2, 3])]
)
def test_what_comes_after_its_place_was_written_is_left_out(
    writer: RecordingWriter, path: Path, start: int, kept: list[int]
) -> None:
    writer.flush(at(9))
    writer.put(AGENT, at(start), pcm(1, 2, 3))
    writer.flush(at(20))
    agent = read_recording(path)[0][AGENT]
    assert not agent[:9].any()
    assert agent[9 : 9 + len(kept)].tolist() == kept
    assert not agent[9 + max(len(kept), 1) :].any() or start >= 9


@pytest.mark.slow
def test_ten_minutes_of_20_ms_pieces_end_at_ten_minutes(writer: RecordingWriter, path: Path) -> None:
    for index in range(30_000):
        for channel in (CALLER, AGENT):
            writer.put(channel, index * 20 * NS_PER_MS, (np.ones(480, dtype=np.int16) * (index % 100 + 1)).tobytes())
        if index % 25 == 0:
            writer.flush(index * 20 * NS_PER_MS - NS_PER_S // 2)
    writer.flush(600 * NS_PER_S)
    samples, _ = read_recording(path)
    assert samples.shape == (2, 600 * RATE_HZ)
    expected = np.repeat(np.arange(30_000) % 100 + 1, 480)
    assert np.array_equal(samples[CALLER], expected)
    assert np.array_equal(samples[AGENT], expected)


@pytest.mark.parametrize("flushed", [0, 1, 40, 50, 60, 100, 500])
@pytest.mark.parametrize(("start", "end"), [(40, 60), (0, 100), (50, 50), (60, 40), (-30, 20), (99, 130)])
def test_reading_does_not_care_what_is_on_disk_already(
    writer: RecordingWriter, flushed: int, start: int, end: int
) -> None:
    writer.put(CALLER, at(0), ramp(100, start=1_000))
    writer.put(AGENT, at(0), ramp(100))
    writer.flush(at(flushed))
    read = np.frombuffer(writer.read(AGENT, at(start), at(end)), dtype=np.int16).tolist()
    within = list(range(max(start, 0) + 1, min(end, 100) + 1))
    assert read[: len(within)] == within
    assert not any(read[len(within) :])


def test_flushing_back_in_time_changes_nothing(writer: RecordingWriter, path: Path) -> None:
    writer.put(AGENT, 0, ramp(10))
    writer.flush(at(10))
    before = path.read_bytes()
    for until in (10, 3, 0, -5):
        writer.flush(at(until))
    assert path.read_bytes() == before


def test_a_file_is_full_where_wav_can_count_no_further(
    writer: RecordingWriter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "MAX_DATA_BYTES", 402)
    writer.put(AGENT, 0, ramp(200))
    writer.flush(at(60))
    writer.flush(at(200))
    writer.flush(at(300))
    assert read_recording(path)[0][AGENT].tolist() == list(range(1, 101))


def test_reading_what_is_no_recording_says_so(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(UsageError) as caught:
            read_recording(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    assert "No such file" in refused(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("hello")
    assert "no WAV" in refused(tmp_path / "text.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    assert "no WAV" in refused(tmp_path / "empty.wav")
    with wave.open(str(tmp_path / "mono.wav"), "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
        file.writeframes(b"\0\0")
    assert "two channels" in refused(tmp_path / "mono.wav")


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_file_that_lost_its_end_is_read_as_far_as_it_goes(writer: RecordingWriter, path: Path, cut: int) -> None:
    writer.put(AGENT, 0, ramp(100))
    writer.flush(at(100))
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_recording(path)[0][AGENT].tolist() == list(range(1, 101 - -(-cut // 4)))
