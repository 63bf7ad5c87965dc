"""When a line was said: stamped where its samples left, whatever the audio around it."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.caller.mouth import LATE_NS, Mouth
from bots.caller.speech.voice import Line
from bots.clock import NS_PER_MS, NS_PER_S, samples_to_ns
from bots.timeline import (
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerUnderrun,
    LineEnd,
    TimelineEvent,
    UnderrunKind,
)
from tests.examples import examples

RATE_HZ = 24_000
FRAME = RATE_HZ // 50
FRAME_NS = 20 * NS_PER_MS
START_NS = 3 * NS_PER_S
SILENCE = bytes(2 * FRAME)


def line(*stretches: tuple[int, int], faint: int = 0) -> Line:
    """A line of stretches, each so many samples at a level; samples of ``faint`` level or less are not voiced."""
    samples = np.concatenate([np.full(count, level, dtype=np.int16) for count, level in stretches])
    voiced = np.flatnonzero(samples > faint)
    return Line("Hello", samples.tobytes(), int(voiced[0]), int(voiced[-1]))


def frames(pcm: bytes, samples: int = FRAME) -> Iterator[bytes]:
    for start in range(0, len(pcm), 2 * samples):
        yield pcm[start : start + 2 * samples].ljust(2 * samples, b"\0")


class Sending:
    """Audio that leaves without a gap, with a line under way or none, and what the mouth noted of it."""

    def __init__(self, spoken: Line | None = None) -> None:
        self.noted: list[TimelineEvent] = []
        self.now_ns = START_NS
        self.mouth = Mouth(RATE_HZ, self.noted.append)
        if spoken is not None:
            self.mouth.begin(0, spoken)

    def send(self, *pieces: bytes, late_ns: int | None = 0) -> "Sending":
        for pcm in pieces:
            self.mouth.sent(self.now_ns, pcm, late_ns=late_ns)
            self.now_ns += samples_to_ns(len(pcm) // 2, RATE_HZ)
        return self

    def stand_still(self, duration_ns: int) -> "Sending":
        self.now_ns += duration_ns
        return self

    @property
    def underruns(self) -> list[tuple[UnderrunKind, int, float]]:
        """Kind, place after the start in frames, and duration in ms of each underrun."""
        return [
            (e.kind, (e.at_ns - START_NS) // FRAME_NS, e.duration_ms)
            for e in self.noted
            if isinstance(e, CallerUnderrun)
        ]

    @property
    def said(self) -> tuple[float, float] | None:
        """Where the line began and ended, in frames after the start, if it ended as it should."""
        match self.noted:
            case [CallerStartedSpeaking(at_ns=start_ns), *_, CallerStoppedSpeaking(at_ns=end_ns, end=LineEnd.SAID)]:
                return (start_ns - START_NS) / FRAME_NS, (end_ns - START_NS) / FRAME_NS
            case _:
                return None


def started(at_ns: int, turn: int = 0) -> CallerStartedSpeaking:
    return CallerStartedSpeaking(at_ns=at_ns, turn=turn, text="Hello")


def stopped(at_ns: int, turn: int = 0, end: LineEnd = LineEnd.SAID) -> CallerStoppedSpeaking:
    return CallerStoppedSpeaking(at_ns=at_ns, turn=turn, end=end)


@given(
    before=st.integers(0, 5),
    quiet=st.integers(0, 2_000),
    faint=st.integers(0, 2_000),
    voiced=st.integers(1, 5_000),
    after=st.integers(0, 2_000),
    piece=st.sampled_from([FRAME, FRAME // 2, 2 * FRAME]),
)
@settings(max_examples=examples(80), deadline=None)
def test_first_and_last_voiced_samples_are_stamped_as_sent(
    before: int, quiet: int, faint: int, voiced: int, after: int, piece: int
) -> None:
    spoken = line((quiet, 0), (faint, 1), (voiced, 3_000), (after, 0), faint=1)
    sending = Sending(spoken)
    sending.send(*[bytes(2 * piece)] * before, *frames(spoken.pcm, piece))
    first = before * piece + quiet + faint
    assert sending.noted == [
        started(START_NS + samples_to_ns(first, RATE_HZ)),
        stopped(START_NS + samples_to_ns(first + voiced, RATE_HZ)),
    ]


def test_a_line_lasts_from_its_start_to_its_last_voiced_sample() -> None:
    spoken = line((2 * FRAME, 3_000), (2 * FRAME, 0))
    sending = Sending()
    assert not sending.mouth.busy
    sending.mouth.begin(0, spoken)
    assert sending.mouth.busy
    first, second, *_ = frames(spoken.pcm)
    sending.send(SILENCE, first)
    assert sending.mouth.busy
    sending.send(second)
    assert not sending.mouth.busy


def test_audio_without_a_line_is_no_speech_of_the_caller() -> None:
    assert Sending().send(*frames(line((5 * FRAME, 3_000)).pcm)).noted == []


def test_lines_are_told_apart_by_their_turns() -> None:
    spoken = line((FRAME, 3_000))
    sending = Sending()
    for turn in (2, 5):
        sending.mouth.begin(turn, spoken)
        sending.send(SILENCE, spoken.pcm, SILENCE)
    assert sending.noted == [
        started(START_NS + FRAME_NS, 2),
        stopped(START_NS + 2 * FRAME_NS, 2),
        started(START_NS + 4 * FRAME_NS, 5),
        stopped(START_NS + 5 * FRAME_NS, 5),
    ]


PAUSE = line((2 * FRAME, 3_000), (5 * FRAME, 0), (2 * FRAME, 3_000))


FOUR = line((4 * FRAME, 3_000))
LONG_PAUSE = line((2 * FRAME, 3_000), (3 * FRAME, 0), (FRAME, 2_000), (2 * FRAME, 3_000))
LEADING_PAUSE = line((3 * FRAME, 0), (FRAME, 2_000), (FRAME, 3_000))
NOTHING = Line("Hello", bytes(2 * 3 * FRAME), 0, 3 * FRAME - 1)
SILENT = UnderrunKind.SILENCE


@pytest.mark.parametrize(
    ("spoken", "silence_at", "underruns", "said"),
    [
        pytest.param(FOUR, (1, 1), [(SILENT, 1, 40)], (0, 6), id="silence within a line"),
        pytest.param(FOUR, (1, 2, 2), [(SILENT, 1, 20), (SILENT, 3, 40)], (0, 7), id="every one by itself"),
        pytest.param(PAUSE, (), [], (0, 9), id="not a pause of the line itself"),
        pytest.param(PAUSE, (7, 7, 7), [(SILENT, 7, 60)], (0, 12), id="a pause longer than the line says"),
        # It went out after the first 20 ms of the pause: from outside, the pause only lasts longer.
        pytest.param(LONG_PAUSE, (3, 3), [(SILENT, 5, 40)], (0, 10), id="silence in its own pause, noticed after it"),
        pytest.param(LEADING_PAUSE, (0, 0), [], (5, 7), id="not silence before a leading pause"),
        pytest.param(NOTHING, (3, 3), [], (0, 3), id="not a line of nothing but silence"),
    ],
)
def test_silence_in_place_of_a_line_is_an_underrun(
    spoken: Line, silence_at: tuple[int, ...], underruns: list[object], said: tuple[float, float]
) -> None:
    sending = Sending(spoken)
    for number, piece in enumerate([*frames(spoken.pcm), b""]):
        sending.send(*[SILENCE] * silence_at.count(number), *([piece] if piece else []))
    assert (sending.underruns, sending.said) == (underruns, said)
    assert all(isinstance(e, CallerUnderrun) and e.turn == 0 for e in sending.noted[1:-1])


@pytest.mark.parametrize("sent_frames", [1, 3])
def test_a_line_that_is_broken_off_ends_where_it_was_cut(sent_frames: int) -> None:
    spoken = line((5 * FRAME, 3_000))
    sending = Sending(spoken)
    sending.send(*list(frames(spoken.pcm))[:sent_frames])
    sending.mouth.cut(sending.now_ns)
    assert sending.noted[-1] == stopped(START_NS + sent_frames * FRAME_NS, end=LineEnd.CUT)
    assert not sending.mouth.busy


def test_after_a_cut_the_rest_of_the_line_is_not_noted() -> None:
    spoken = line((5 * FRAME, 3_000))
    first, *rest = frames(spoken.pcm)
    sending = Sending(spoken)
    sending.send(first)
    sending.mouth.cut(sending.now_ns)
    noted = len(sending.noted)
    sending.send(*rest)
    sending.mouth.cut(sending.now_ns)
    assert len(sending.noted) == noted


def test_a_line_that_was_cut_before_it_was_heard_was_never_said() -> None:
    sending = Sending(PAUSE)
    sending.send(SILENCE, SILENCE)
    sending.mouth.cut(sending.now_ns)
    assert sending.noted == []
    assert not sending.mouth.busy


@pytest.mark.parametrize(
    ("spoken", "frame", "stood_still_ms"), [(FOUR, 2, 5), (FOUR, 2, 20), (FOUR, 2, 1_000), (PAUSE, 7, 1_000)]
)
def test_a_leap_in_the_places_of_a_line_or_its_pause_is_a_gap(spoken: Line, frame: int, stood_still_ms: int) -> None:
    pieces = list(frames(spoken.pcm))
    sending = Sending(spoken).send(*pieces[:frame]).stand_still(stood_still_ms * NS_PER_MS).send(*pieces[frame:])
    assert sending.underruns == [(UnderrunKind.GAP, frame, stood_still_ms)]
    assert sending.said == (0, len(pieces) + stood_still_ms / 20)


def test_a_leap_before_or_after_a_line_is_not_its_own() -> None:
    spoken = line((2 * FRAME, 3_000))
    sending = Sending()
    sending.send(SILENCE).stand_still(NS_PER_S)
    sending.mouth.begin(0, spoken)
    sending.send(SILENCE).stand_still(NS_PER_S).send(spoken.pcm).stand_still(NS_PER_S).send(SILENCE)
    assert sending.underruns == []


def test_a_rounding_of_places_is_no_gap() -> None:
    sending = Sending(PAUSE)
    for pcm in frames(PAUSE.pcm):
        sending.send(pcm).stand_still(NS_PER_MS)
    assert sending.underruns == []


def test_audio_that_left_later_than_a_receiver_waits_is_late() -> None:
    spoken = line((6 * FRAME, 3_000))
    pieces = list(frames(spoken.pcm))
    sending = Sending(spoken)
    sending.send(pieces[0]).send(pieces[1], pieces[2], late_ns=LATE_NS + 1).send(*pieces[3:], late_ns=LATE_NS)
    assert sending.underruns == [(UnderrunKind.LATE, 1, 40)]
    assert sending.noted[-1] == stopped(START_NS + 6 * FRAME_NS)


def test_silence_around_a_line_may_be_late() -> None:
    spoken = line((2 * FRAME, 3_000))
    sending = Sending(spoken)
    sending.send(SILENCE, late_ns=10 * LATE_NS).send(spoken.pcm).send(SILENCE, late_ns=10 * LATE_NS)
    assert sending.underruns == []


@pytest.mark.parametrize("cut", [False, True])
def test_trouble_at_the_end_of_a_line_is_noted_with_its_end(cut: bool) -> None:
    spoken = line((3 * FRAME, 3_000))
    first, second, last = frames(spoken.pcm)
    sending = Sending(spoken)
    sending.send(first, second, *([] if cut else [last]), late_ns=2 * LATE_NS)
    if cut:
        sending.send(SILENCE)
        sending.mouth.cut(sending.now_ns)
    expected = [(UnderrunKind.LATE, 0, 40 if cut else 60)] + [(UnderrunKind.SILENCE, 2, 20)] * cut
    assert sorted(sending.underruns) == sorted(expected)
    assert isinstance(sending.noted[-1], CallerStoppedSpeaking)


def test_silence_that_ends_in_a_leap_is_both() -> None:
    spoken = line((3 * FRAME, 3_000))
    first, *rest = frames(spoken.pcm)
    sending = Sending(spoken)
    sending.send(first, SILENCE).stand_still(NS_PER_S).send(SILENCE, *rest)
    assert sending.underruns == [
        (UnderrunKind.SILENCE, 1, 20),
        (UnderrunKind.GAP, 2, 1_000),
        (UnderrunKind.SILENCE, 52, 20),
    ]


@pytest.mark.parametrize("dropped", [0, 3, 9])
def test_an_unsent_piece_is_a_gap_and_the_line_still_ends(dropped: int) -> None:
    spoken = line((10 * FRAME, 500))
    sending = Sending(spoken)
    for number, piece in enumerate(frames(spoken.pcm)):
        sending.send(piece, late_ns=None if number == dropped else 0)
    sending.send(SILENCE, SILENCE)
    assert not sending.mouth.busy
    assert isinstance(sending.noted[-1], CallerStoppedSpeaking)
    assert [(kind, ms) for kind, _, ms in sending.underruns] == [(UnderrunKind.GAP, 20)]
