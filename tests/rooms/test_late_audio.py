"""Audio that came later than its place says is found: where, for how long, and how late."""

import random

from bots.clock import NS_PER_MS
from runner.rooms.late_audio import CAUGHT_UP_WITHIN_NS, IN_A_ROW, NOTED_NS, LateAudio

PACKET_NS = 20 * NS_PER_MS
LATE_MS = NOTED_NS // NS_PER_MS + 20


class Heard:
    """Late audio, and what it reported, in milliseconds."""

    def __init__(self) -> None:
        self.stretches: list[tuple[int, float, float]] = []
        self.late = LateAudio(lambda at_ns, *rest: self.stretches.append((at_ns // NS_PER_MS, *rest)))
        self.at_ns = 0

    def come(self, *late_ms: float) -> "Heard":
        for late in late_ms:
            self.late.add(self.at_ns, self.at_ns + PACKET_NS, round(late * NS_PER_MS))
            self.at_ns += PACKET_NS
        return self


def test_audio_on_time_is_not_late() -> None:
    heard = Heard().come(*[5] * 500)
    heard.late.flush()
    assert heard.stretches == []


def test_a_sender_that_stood_still_was_late_until_it_caught_up() -> None:
    heard = Heard().come(*[5] * 50, *range(200, 0, -20), *[5] * 50)
    # Its tenth packet is on time again; what is late together with four others is late.
    assert heard.stretches == [(1_000, 180.0, 200.0)]


def test_jitter_leaves_an_early_packet_in_any_row() -> None:
    dice = random.Random(3)
    late = [dice.randrange(150) if index % (IN_A_ROW - 1) else 0 for index in range(2_000)]
    heard = Heard().come(*late)
    heard.late.flush()
    assert heard.stretches == []


def test_what_is_late_again_soon_is_one_stretch() -> None:
    heard = Heard().come(*[LATE_MS] * 8, *[5] * 8, *[LATE_MS + 30] * 8, *[5] * 100, *[LATE_MS] * 8)
    heard.late.flush()
    assert heard.stretches == [(0, 480.0, LATE_MS + 30), (2_480, 160.0, LATE_MS)]


def test_a_stretch_is_reported_when_nothing_can_join_it() -> None:
    heard = Heard().come(*[LATE_MS] * 8)
    heard.late.tick(heard.at_ns + 400 * NS_PER_MS)
    assert heard.stretches == []
    heard.late.tick(heard.at_ns + 401 * NS_PER_MS)
    assert heard.stretches == [(0, 160.0, LATE_MS)]


def test_a_stream_moved_back_soon_had_been_late() -> None:
    heard = Heard().come(*[5] * 10)
    heard.late.moved(heard.at_ns, heard.at_ns + 300 * NS_PER_MS)
    heard.at_ns += 300 * NS_PER_MS
    heard.come(0, -100, -200, -300)
    heard.late.flush()
    assert heard.stretches == [(200, 300.0, 300.0)]


def test_a_sender_that_paused_and_was_late_was_not_late_by_both() -> None:
    heard = Heard().come(*[5] * 10)
    heard.late.moved(heard.at_ns, heard.at_ns + 9_000 * NS_PER_MS)
    heard.at_ns += 9_000 * NS_PER_MS
    heard.come(0, -30, -60, -60)
    heard.late.flush()
    assert heard.stretches == [(9_140, 60.0, 60.0)]


def test_a_sender_that_paused_was_not_late() -> None:
    heard = Heard().come(*[5] * 10)
    heard.late.moved(heard.at_ns, heard.at_ns + 300 * NS_PER_MS)
    heard.at_ns += 300 * NS_PER_MS
    heard.come(*[0] * (CAUGHT_UP_WITHIN_NS // PACKET_NS + 2), -60)
    heard.late.flush()
    assert heard.stretches == []
