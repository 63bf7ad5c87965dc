"""Where packets land on the call's clock, with a virtual clock and made-up networks."""

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.clock import NS_PER_MS, NS_PER_S
from runner.rooms.smallwebrtc.placement import RTP_CLOCK_HZ, Placement, RtpUnwrapper
from tests.examples import examples

PACKET_NS = 20 * NS_PER_MS
UNITS = RTP_CLOCK_HZ // 50
MODULO = 1 << 32


@dataclass(frozen=True)
class Sent:
    """A packet: its timestamp, when it was really sent, and when it arrived."""

    timestamp: int
    sent_ns: int
    arrival_ns: int
    quiet: bool = False


def stream(
    count: int,
    delay_ns: Callable[[int], int] = lambda index: 30 * NS_PER_MS,
    *,
    ppm: float = 0.0,
    quiet: Callable[[int], bool] = lambda index: False,
    start_ns: int = 5 * NS_PER_S,
) -> list[Sent]:
    """Packets of a sender whose clock runs ``ppm`` too fast, delayed by the network, in order of arrival."""
    packets = []
    for index in range(count):
        sent_ns = start_ns + round(index * PACKET_NS / (1 + ppm * 1e-6))
        packets.append(Sent(index * UNITS, sent_ns, sent_ns + delay_ns(index), quiet(index)))
    return sorted(packets, key=lambda packet: packet.arrival_ns)


def errors_ms(packets: Iterable[Sent], placement: Placement, base_delay_ns: int = 30 * NS_PER_MS) -> list[float]:
    """How far each packet lands from where it belongs: when it was sent, plus the network's shortest delay."""
    return [
        (placement.place(p.timestamp, p.arrival_ns, quiet=p.quiet) - p.sent_ns - base_delay_ns) / NS_PER_MS
        for p in packets
    ]


def place(placement: Placement, packets: Iterable[Sent], *, ahead: int = 0) -> list[int]:
    """Place packets of speech whose timestamps are so far ahead."""
    return [placement.place(p.timestamp + ahead, p.arrival_ns, quiet=False) for p in packets]


def jitter(seed: int, spread_ms: float = 60.0) -> Callable[[int], int]:
    dice = random.Random(seed)
    return lambda index: 30 * NS_PER_MS + round(min(dice.expovariate(5 / spread_ms), spread_ms) * NS_PER_MS)


@pytest.mark.parametrize("seed", range(5))
def test_jitter_does_not_move_samples(seed: int) -> None:
    packets = stream(3_000, jitter(seed))
    errors = dict(zip((p.timestamp for p in packets), errors_ms(packets, Placement()), strict=True))
    later = [error for timestamp, error in errors.items() if timestamp > RTP_CLOCK_HZ]
    assert max(map(abs, later)) <= 3
    assert max(later) - min(later) <= 3


@given(st.lists(st.integers(0, 100), min_size=60, max_size=120), st.booleans())
@settings(max_examples=examples(60), deadline=None)
def test_under_any_jitter_neighbouring_packets_stay_neighbours(delays_ms: list[int], quiet: bool) -> None:
    """Once the stream has settled, delays below the stall limit never tear it or fold it."""
    delays_ms[::25] = [0] * len(delays_ms[::25])
    packets = stream(len(delays_ms), lambda index: delays_ms[index] * NS_PER_MS, quiet=lambda index: quiet)
    placement = Placement()
    for settling in stream(60, start_ns=0):
        placement.place(settling.timestamp, settling.sent_ns, quiet=False)
    placed = sorted(
        (p.timestamp, placement.place(p.timestamp + 250 * UNITS, p.arrival_ns, quiet=p.quiet)) for p in packets
    )
    steps = {after[1] - before[1] for before, after in itertools.pairwise(placed)}
    assert steps == {PACKET_NS}


def test_a_loss_leaves_its_place_open() -> None:
    packets = [p for p in stream(500) if p.timestamp // UNITS not in (100, 101, 102)]
    assert set(errors_ms(packets, Placement())) == {0.0}


def test_reordered_packets_land_at_their_own_place() -> None:
    packets = stream(500, lambda index: (30 + (45 if index % 7 == 0 else 0)) * NS_PER_MS)
    assert [p.timestamp for p in packets] != sorted(p.timestamp for p in packets)
    placement = Placement()
    placed = sorted(
        (p.timestamp, placement.place(p.timestamp, p.arrival_ns, quiet=p.quiet)) for p in packets if p.timestamp > 0
    )
    steps = {after[1] - before[1] for before, after in itertools.pairwise(placed)}
    assert steps <= {PACKET_NS, 0, 45 * NS_PER_MS + PACKET_NS} and list(steps).count(PACKET_NS) == 1


@pytest.mark.parametrize(
    ("timestamps", "extended"),
    [
        pytest.param([0, 960, 1920], [0, 960, 1920], id="plain"),
        pytest.param([MODULO - 960, 0, 960], [MODULO - 960, MODULO, MODULO + 960], id="wrap"),
        pytest.param(
            [MODULO - 960, 960, 0, 1920], [MODULO - 960, MODULO + 960, MODULO, MODULO + 1920], id="reordered at it"
        ),
        pytest.param(
            [MODULO - 1920, 0, MODULO - 960, 960], [MODULO - 1920, MODULO, MODULO - 960, MODULO + 960], id="late"
        ),
        pytest.param([960, 0, 1920], [960, 0, 1920], id="reordered from the start"),
        pytest.param([0, MODULO - 960, 960], [0, -960, 960], id="before the first"),
        pytest.param([7, 7], [7, 7], id="twice"),
    ],
)
def test_timestamps_go_on_past_32_bits(timestamps: list[int], extended: list[int]) -> None:
    unwrapper = RtpUnwrapper()
    assert [unwrapper.unwrap(timestamp) for timestamp in timestamps] == extended


@given(st.integers(0, MODULO - 1), st.lists(st.integers(0, (1 << 31) - 1), max_size=40))
def test_unwrapping_is_the_inverse_of_wrapping(start: int, steps: list[int]) -> None:
    unwrapper, at = RtpUnwrapper(), start
    assert unwrapper.unwrap(at) == at
    for step in steps:
        at += step
        assert unwrapper.unwrap(at % MODULO) == at


def test_a_timestamp_wrap_is_not_seen_in_the_placement() -> None:
    unwrapper, placement = RtpUnwrapper(), Placement()
    packets = stream(400)
    placed = [
        placement.place(unwrapper.unwrap((p.timestamp - 200 * UNITS) % MODULO), p.arrival_ns, quiet=False)
        for p in packets
    ]
    assert placed == [p.arrival_ns for p in packets]
    assert placement.reanchored == 0


@pytest.mark.parametrize("stall_ms", [130, 400, 5_000, 60_000])
def test_after_the_sender_stood_still_speech_lies_where_it_came(stall_ms: int) -> None:
    """The timestamps go on as if nothing had been: only the arrivals tell."""
    placement = Placement()
    before, after = stream(200), stream(200, start_ns=9 * NS_PER_S + stall_ms * NS_PER_MS)
    place(placement, before)
    assert place(placement, after, ahead=200 * UNITS) == [p.arrival_ns for p in after]
    assert placement.reanchored == 1


def test_a_short_delay_is_jitter_and_moves_nothing() -> None:
    packets = stream(400, lambda index: (30 + (110 if index == 200 else 0)) * NS_PER_MS)
    placement = Placement()
    assert set(errors_ms(packets, placement)) == {0.0}
    assert placement.reanchored == 0


def catch_up(stall_ms: int) -> Callable[[int], int]:
    """Packets from the 200th on are held up, then all arrive at once."""
    stalled = stall_ms // 20

    def delay_ns(index: int) -> int:
        waits = max(0, stalled - (index - 200)) if index >= 200 else 0
        return 30 * NS_PER_MS + waits * PACKET_NS

    return delay_ns


@pytest.mark.parametrize("stall_ms", [160, 400, 900, 1_400, 3_000])
def test_a_burst_after_a_network_stall_loses_no_speech(stall_ms: int) -> None:
    packets = stream(500, catch_up(stall_ms))
    placement = Placement()
    placed = place(placement, packets)
    assert all(b - a >= PACKET_NS for a, b in itertools.pairwise(placed)), "speech was folded"
    assert all(at >= p.arrival_ns - 120 * NS_PER_MS for at, p in zip(placed, packets, strict=True)), (
        "speech lies long before it could be heard"
    )


def test_after_a_network_stall_the_next_silence_realigns() -> None:
    packets = stream(600, catch_up(400), quiet=lambda index: index >= 300)
    errors = errors_ms(packets, Placement())
    assert errors[299] == pytest.approx(400, abs=1)
    assert errors[330] == pytest.approx(0, abs=10)
    assert errors[-1] == pytest.approx(0, abs=10)


@pytest.mark.parametrize("leap_s", [-3_600, -10, -1.5, 1.5, 10, 3_600])
def test_timestamps_that_begin_anew_are_placed_by_arrival(leap_s: float) -> None:
    placement = Placement()
    place(placement, stream(200))
    again = stream(200, start_ns=9 * NS_PER_S)
    ahead = 200 * UNITS + round(leap_s * RTP_CLOCK_HZ)
    assert place(placement, again, ahead=ahead) == [p.arrival_ns for p in again]
    assert placement.reanchored == 1


def test_a_restart_forgets_the_old_stream() -> None:
    placement = Placement()
    placement.place(0, NS_PER_S, quiet=False)
    placement.restart()
    assert placement.place(123_456_789, 2 * NS_PER_S, quiet=False) == 2 * NS_PER_S
    assert placement.reanchored == 1


@pytest.mark.parametrize("ppm", [-100.0, -30.0, 30.0, 100.0])
def test_ten_minutes_of_drift_stay_within_12_ms_and_cut_nothing(ppm: float) -> None:
    """The agent speaks for 8 s and is silent for 2 s, over and over."""
    packets = stream(30_000, jitter(1, 40.0), ppm=ppm, quiet=lambda index: index % 500 >= 400)
    placement = Placement()
    for p in packets:
        at_ns = placement.place(p.timestamp, p.arrival_ns, quiet=p.quiet)
        if p.sent_ns > 7 * NS_PER_S:
            assert abs(at_ns - p.sent_ns - 30 * NS_PER_MS) <= 12 * NS_PER_MS
    placement = Placement()
    speech_end_ns = 0
    for p in stream(30_000, ppm=ppm, quiet=lambda index: index % 500 >= 400):
        at_ns = placement.place(p.timestamp, p.arrival_ns, quiet=p.quiet)
        if not p.quiet:
            assert at_ns >= speech_end_ns - NS_PER_MS // 10, "speech was folded over what came before it"
            speech_end_ns = at_ns + PACKET_NS
    assert 1 <= placement.reanchored <= 8


@pytest.mark.parametrize("late_ms", [20, 60, 100, 400, 900])
def test_late_first_packets_are_put_right_within_a_second(late_ms: int) -> None:
    packets = stream(300, lambda index: (30 + (late_ms if index < 5 else 0)) * NS_PER_MS)
    errors = {p.timestamp: e for p, e in zip(packets, errors_ms(packets, Placement()), strict=True)}
    assert {errors[index * UNITS] for index in range(50, 300)} == {0.0}


def test_a_sender_far_ahead_of_real_time_is_pulled_back() -> None:
    """Someone who sends a minute of speech in a second does not push the call's audio into the future."""
    placement = Placement()
    ahead_s = [
        (placement.place(index * UNITS, NS_PER_S + index * NS_PER_MS, quiet=False) - index * NS_PER_MS) / NS_PER_S
        for index in range(3_000)
    ]
    assert max(ahead_s) <= 12
