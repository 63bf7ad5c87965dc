"""The agent's packets become samples on the call's clock: real Opus, made-up arrivals."""

import fractions
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import av
import numpy as np
import numpy.typing as npt
import pytest
from aiortc.rtp import RtpPacket
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.clock import NS_PER_MS, NS_PER_S, CallClock, ns_to_samples, samples_to_ns
from runner.rooms.base import AUDIO_RATE_HZ
from runner.rooms.smallwebrtc.incoming import PIPELINE_RATE_HZ, AgentStream, ArrivalBuffer
from tests.examples import examples

PACKET_NS = 20 * NS_PER_MS
UNITS = 960
DELAY_NS = 25 * NS_PER_MS
START_NS = 2 * NS_PER_S
Samples = npt.NDArray[np.int16]
ORIGIN_NS = 77 * NS_PER_S
SILENT_OPUS = b"\xf8\xff\xfe"


def encode(samples: Samples, rate_hz: int, channels: int = 1) -> list[bytes]:
    """Encode mono samples to 20 ms packets of Opus, as a sender would."""
    codec = av.CodecContext.create("libopus", "w")
    assert isinstance(codec, av.AudioCodecContext)
    codec.format, codec.layout, codec.sample_rate = "s16", "stereo" if channels == 2 else "mono", rate_hz
    codec.bit_rate = 32_000 * channels
    codec.time_base = fractions.Fraction(1, rate_hz)
    step = rate_hz // 50
    packets: list[bytes] = []
    for index in range(len(samples) // step):
        piece = np.repeat(samples[index * step : (index + 1) * step], channels)[np.newaxis, :]
        frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="stereo" if channels == 2 else "mono")
        frame.sample_rate, frame.pts = rate_hz, index * step
        packets += [bytes(packet) for packet in codec.encode(frame)]
    return packets


def tone(duration_s: float, onset_s: float, rate_hz: int, end_s: float | None = None, hz: float = 700) -> Samples:
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    on = (t >= onset_s) & (t < (duration_s if end_s is None else end_s))
    return np.where(on, 12_000 * np.sin(2 * np.pi * hz * (t - onset_s)), 0).astype(np.int16)


def packets(duration_s: float, onset_s: float, end_s: float | None = None) -> list[bytes]:
    """Return a tone as a sender sends it."""
    return encode(tone(duration_s, onset_s, 48_000, end_s), 48_000)


def rtp(payload: bytes, index: int, *, ssrc: int = 7, sequence: int = 0, timestamp: int = 0) -> RtpPacket:
    packet = RtpPacket(
        payload_type=96,
        sequence_number=(sequence + index) % (1 << 16),
        timestamp=(timestamp + index * UNITS) % (1 << 32),
        ssrc=ssrc,
    )
    packet.payload = payload
    return packet


@dataclass
class Sink:
    """Puts together what a lane hands over, and insists that it neither overlaps nor leaves gaps."""

    rate_hz: int
    start_ns: int | None = None
    parts: list[bytes] = field(default_factory=list)
    samples: int = 0

    def put(self, at_ns: int, pcm: bytes) -> None:
        assert pcm and len(pcm) % 2 == 0
        if self.start_ns is None:
            self.start_ns = at_ns
        assert at_ns == self.start_ns + samples_to_ns(self.samples, self.rate_hz), "the lane tore or went back"
        self.parts.append(pcm)
        self.samples += len(pcm) // 2

    @property
    def audio(self) -> Samples:
        return np.frombuffer(b"".join(self.parts), dtype=np.int16)

    @property
    def end_ns(self) -> int:
        assert self.start_ns is not None
        return self.start_ns + samples_to_ns(self.samples, self.rate_hz)

    def between(self, start_ns: int, end_ns: int) -> Samples:
        assert self.start_ns is not None
        start, end = (ns_to_samples(at - self.start_ns, self.rate_hz) for at in (start_ns, end_ns))
        return self.audio[start:end]

    def onset_ns(self, level: int = 1_500) -> int:
        assert self.start_ns is not None
        return self.start_ns + samples_to_ns(int(np.argmax(np.abs(self.audio.astype(int)) > level)), self.rate_hz)


class Receiver:
    """An agent stream, its two lanes, and a machine clock of its own."""

    def __init__(self) -> None:
        self.recording = Sink(AUDIO_RATE_HZ)
        self.pipeline = Sink(PIPELINE_RATE_HZ)
        self.holes: list[tuple[int, float]] = []
        self.late: list[tuple[int, float, float]] = []
        self.stream = AgentStream(
            CallClock(ORIGIN_NS),
            recording=self.recording.put,
            pipeline=self.pipeline.put,
            hole=lambda at_ns, duration_ms: self.holes.append((at_ns, duration_ms)),
            late=lambda at_ns, duration_ms, late_ms: self.late.append((at_ns, duration_ms, late_ms)),
        )

    def arrive(self, packet: RtpPacket, at_ns: int) -> None:
        self.stream.packet_arrived(packet, ORIGIN_NS + at_ns)

    def receive(
        self,
        payloads: Sequence[bytes],
        *,
        delay_ns: Callable[[int], int] = lambda index: 0,
        lost: frozenset[int] = frozenset(),
        start_ns: int = START_NS,
        tick: bool = True,
        **kwargs: int,
    ) -> "Receiver":
        """Let packets arrive in the order of their arrivals, the caller's track ticking in between."""
        events: list[tuple[int, int, RtpPacket | None]] = []
        for index, payload in enumerate(payloads):
            arrival_ns = start_ns + index * PACKET_NS + DELAY_NS + delay_ns(index)
            if index not in lost:
                events.append((arrival_ns, index, rtp(payload, index, **kwargs)))
            if tick:
                events.append((start_ns + index * PACKET_NS + 1, index, None))
        for at_ns, _, packet in sorted(events, key=lambda event: event[:2]):
            if packet is None:
                self.stream.tick(at_ns)
            else:
                self.arrive(packet, at_ns)
        return self


TRUTH_NS = START_NS + DELAY_NS
"""Where the first sample of a stream belongs."""


def held_up(first_ms: int, per_packet_ms: int, since: int) -> Callable[[int], int]:
    """Return the delays of a sender that stands still and catches up, a bit with every packet."""
    return lambda index: max(first_ms - per_packet_ms * (index - since), 0) * NS_PER_MS if index >= since else 0


@pytest.mark.parametrize("rate_hz", [24_000, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("onset_ms", [500, 507, 513])
def test_an_onset_lands_within_8_ms_of_the_truth(rate_hz: int, channels: int, onset_ms: int) -> None:
    receiver = Receiver().receive(encode(tone(1, onset_ms / 1000, rate_hz), rate_hz, channels))
    for lane in (receiver.recording, receiver.pipeline):
        assert abs(lane.onset_ns() - TRUTH_NS - onset_ms * NS_PER_MS) <= 8 * NS_PER_MS


def test_the_audio_comes_out_as_it_went_in() -> None:
    sent = tone(2, 0, 48_000, hz=440)
    heard = Receiver().receive(encode(sent, 48_000)).recording.audio[: 48_000 - 1_000].astype(float)
    expected = sent[::2][: heard.size].astype(float)
    best = max(
        float(np.corrcoef(heard[2_000 + lag : 40_000], expected[2_000 : 40_000 - lag])[0, 1]) for lag in range(240)
    )
    assert best > 0.99


@pytest.mark.parametrize("lost", [(60,), (60, 61), (50, 60, 70), (40, 41, 42, 43, 44)])
def test_a_lost_packet_becomes_silence_of_its_length(lost: tuple[int, ...]) -> None:
    payloads = packets(2, 0)
    whole, holed = Receiver().receive(payloads), Receiver().receive(payloads, lost=frozenset(lost))
    assert abs(whole.recording.samples - holed.recording.samples) <= 20
    audio = np.abs(holed.recording.audio.astype(int))
    silent = int(np.sum(np.convolve(audio[2_000:-1_000] == 0, np.ones(40), "valid") == 40))
    expected = sum(480 for _ in lost)
    runs = sum(1 for index in lost if index - 1 not in lost)
    assert abs(silent + 39 * runs - expected) <= 24 * runs
    assert holed.stream.quality(0).lost == len(lost)
    assert whole.stream.quality(0).lost == 0


@pytest.mark.parametrize(
    ("lost", "holes"),
    [
        ((60,), [(60, 1)]),
        ((60, 61), [(60, 2)]),
        ((60, 62), [(60, 3)]),
        ((50, 60, 70), [(50, 1), (60, 1), (70, 1)]),
        ((40, 41, 42, 43, 44), [(40, 5)]),
    ],
)
def test_every_hole_is_reported_and_neighbours_as_one(lost: tuple[int, ...], holes: list[tuple[int, int]]) -> None:
    receiver = Receiver().receive(packets(2, 0), lost=frozenset(lost))
    for _ in range(2):  # soon, and once
        assert receiver.holes == [(TRUTH_NS + first * PACKET_NS, 20 * count) for first, count in holes]
        receiver.stream.close()


def test_without_loss_there_are_no_holes() -> None:
    payloads = packets(2, 0)
    receiver = Receiver().receive(payloads, delay_ns=lambda index: (index % 5) * 15 * NS_PER_MS)
    receiver.stream.close()
    assert receiver.holes == []


@pytest.mark.parametrize(("onset_s", "holes"), [(0.0, [(TRUTH_NS + 40 * PACKET_NS, 300)]), (1.0, [])])
def test_speech_that_was_torn_apart_is_a_hole_but_silence_is_not(
    onset_s: float, holes: list[tuple[int, int]]
) -> None:
    payloads = packets(2, onset_s)
    receiver = Receiver().receive(payloads, delay_ns=lambda index: 300 * NS_PER_MS if index >= 40 else 0)
    receiver.stream.close()
    assert receiver.holes == holes


@pytest.mark.parametrize("stall_ms", [300, 1_500])
def test_what_we_slept_through_lies_where_it_belongs(stall_ms: int) -> None:
    payloads = packets(4, 2)
    calm, woken = Receiver().receive(payloads), Receiver()
    until_ns = TRUTH_NS + 90 * PACKET_NS + stall_ms * NS_PER_MS
    asleep = True
    for index, payload in enumerate(payloads):
        at_ns = max(TRUTH_NS + index * PACKET_NS, until_ns if index >= 90 else 0)
        if index >= 90 and asleep:
            asleep = False
            woken.stream.stood_still(at_ns)
        woken.stream.tick(at_ns)
        woken.arrive(rtp(payload, index), at_ns)
    assert woken.recording.audio.tobytes() == calm.recording.audio.tobytes()
    assert woken.recording.start_ns == calm.recording.start_ns
    woken.stream.close()
    assert woken.holes == []
    assert woken.stream.quality(0).reanchored == 0


def test_an_agent_halted_longer_than_us_is_heard_on_arrival() -> None:
    payloads = packets(4, 2)
    receiver = Receiver().receive(payloads[:50])
    held_ns = 800 * NS_PER_MS
    receiver.stream.stood_still(TRUTH_NS + 50 * PACKET_NS + 200 * NS_PER_MS)
    for index in range(50, len(payloads)):
        receiver.arrive(rtp(payloads[index], index), TRUTH_NS + index * PACKET_NS + held_ns)
    assert abs(receiver.recording.onset_ns() - TRUTH_NS - 2 * NS_PER_S - held_ns) <= 10 * NS_PER_MS


def test_a_sender_that_was_late_says_where_and_how_late() -> None:
    # It stands still for 100 ms in its tone, and catches up.
    receiver = Receiver().receive(packets(4, 1), delay_ns=held_up(100, 10, 60))
    receiver.stream.close()
    [(at_ns, duration_ms, late_ms)] = receiver.late
    assert abs(at_ns - TRUTH_NS - 1_200 * NS_PER_MS) <= 10 * NS_PER_MS
    assert (round(duration_ms), round(late_ms)) == (140, 100)


def test_a_sender_that_is_late_to_the_end_says_so() -> None:
    receiver = Receiver().receive(packets(2, 1), delay_ns=lambda index: 80 * NS_PER_MS if index >= 90 else 0)
    assert receiver.late == []
    receiver.stream.close()
    assert [round(late_ms) for _, _, late_ms in receiver.late] == [80]


def test_a_sender_moved_and_moved_back_was_late() -> None:
    receiver = Receiver().receive(packets(4, 3), delay_ns=held_up(300, 15, 60))
    receiver.stream.close()
    assert len(receiver.late) == 1
    assert 280 <= receiver.late[0][2] <= 320


def test_speech_that_is_displaced_says_so_to_its_end() -> None:
    # The sender catches up within its tone: there is no pause in which it could be given its place back.
    receiver = Receiver().receive(packets(4, 1, end_s=3.5), delay_ns=held_up(200, 20, 60))
    receiver.stream.close()
    end_ns = TRUTH_NS + 3_500 * NS_PER_MS
    assert any(
        at_ns <= end_ns <= at_ns + duration_ms * NS_PER_MS and late_ms >= 180
        for at_ns, duration_ms, late_ms in receiver.late
    )


def test_over_a_bed_a_stream_goes_back_to_its_place() -> None:
    # The sender stands still for 200 ms and catches up; nothing it sends is silent.
    bed = (800 * np.random.default_rng(1).standard_normal(6 * 48_000)).clip(-3_000, 3_000).astype(np.int16)
    receiver = Receiver().receive(encode(bed + tone(6, 5, 48_000), 48_000), delay_ns=held_up(200, 20, 100))
    assert abs(receiver.recording.onset_ns(6_000) - TRUTH_NS - 5 * NS_PER_S) <= 12 * NS_PER_MS


def test_over_a_bed_no_speech_is_cut_out() -> None:
    # It catches up within its words, and goes back in the pause between them.
    bed = (300 * np.random.default_rng(1).standard_normal(6 * 48_000)).astype(np.int16)
    words = tone(6, 1.5, 48_000, 3) + tone(6, 3.2, 48_000, 4)
    receiver = Receiver().receive(encode(bed + words, 48_000), delay_ns=held_up(200, 20, 100))
    heard = np.abs(receiver.recording.audio.astype(int)).reshape(-1, AUDIO_RATE_HZ // 100).max(axis=1) > 6_000
    assert abs(int(heard.sum()) - 230) <= 3


def test_the_spread_of_arrivals_is_above_the_earliest() -> None:
    receiver = Receiver()
    assert receiver.stream.arrival_jitter_ms == 0
    for index in range(200):
        receiver.arrive(rtp(SILENT_OPUS, index), TRUTH_NS + index * PACKET_NS + (30 * NS_PER_MS if index % 8 else 0))
    assert receiver.stream.arrival_jitter_ms == pytest.approx(30, abs=0.1)


def test_speech_after_a_loss_lies_where_it_would_without() -> None:
    payloads = packets(2, 1.5)
    whole = Receiver().receive(payloads)
    holed = Receiver().receive(payloads, lost=frozenset({10, 20, 30, 31, 32, 60, 70}))
    assert abs(whole.recording.onset_ns() - holed.recording.onset_ns()) <= 2 * NS_PER_MS


def test_order_is_restored() -> None:
    payloads = packets(2, 0)
    in_order = Receiver().receive(payloads)
    shuffled = Receiver().receive(payloads, delay_ns=lambda index: 45 * NS_PER_MS if index % 5 == 3 else 0)
    assert shuffled.recording.audio.tobytes() == in_order.recording.audio.tobytes()
    assert shuffled.pipeline.audio.tobytes() == in_order.pipeline.audio.tobytes()
    assert shuffled.stream.quality(0).lost == shuffled.stream.quality(0).late == 0


def test_a_packet_that_comes_too_late_is_left_out_and_counted() -> None:
    payloads = packets(2, 0)
    receiver = Receiver().receive(payloads, delay_ns=lambda index: 110 * NS_PER_MS if index == 50 else 0)
    quality = receiver.stream.quality(9)
    assert (quality.at_ns, quality.packets, quality.lost, quality.late) == (9, 100, 1, 1)


def test_a_packet_that_comes_twice_is_played_once() -> None:
    payloads = packets(1, 0)
    receiver = Receiver()
    for index, payload in enumerate(payloads):
        for _ in range(2):
            receiver.arrive(rtp(payload, index), TRUTH_NS + index * PACKET_NS)
    assert receiver.recording.audio.tobytes() == Receiver().receive(payloads).recording.audio.tobytes()
    assert receiver.stream.quality(0).lost == 0


@pytest.mark.parametrize("junk", [b"\xff" * 40, b"\x03", b"\xff", b"", bytes(3)])
def test_a_payload_that_is_no_opus_is_lost_and_leaves_the_rest_alone(junk: bytes) -> None:
    payloads = packets(2, 1)
    payloads[20] = payloads[21] = junk
    receiver = Receiver().receive(payloads)
    assert abs(receiver.recording.onset_ns() - TRUTH_NS - NS_PER_S) <= 8 * NS_PER_MS
    assert abs(receiver.recording.end_ns - TRUTH_NS - 2 * NS_PER_S) <= 2 * NS_PER_MS
    if junk in (b"", b"\xff" * 40):
        assert receiver.stream.quality(0).lost == 2
        assert receiver.holes == [(TRUTH_NS + 20 * PACKET_NS, 40)]


def test_with_nothing_arriving_silence_keeps_both_lanes_going() -> None:
    receiver = Receiver().receive(packets(1, 0))
    for lane in (receiver.recording, receiver.pipeline):
        assert abs(lane.end_ns - TRUTH_NS - NS_PER_S) <= 2 * NS_PER_MS
    for at_ms in range(1_000, 4_001, 20):
        receiver.stream.tick(START_NS + at_ms * NS_PER_MS)
    for lane in (receiver.recording, receiver.pipeline):
        assert START_NS + 3_700 * NS_PER_MS <= lane.end_ns <= START_NS + 4_000 * NS_PER_MS
        assert not lane.between(TRUTH_NS + 1_010 * NS_PER_MS, lane.end_ns).any()


def test_before_the_first_packet_there_is_nothing() -> None:
    receiver = Receiver()
    receiver.stream.tick(60 * NS_PER_S)
    assert receiver.recording.samples == receiver.pipeline.samples == 0


def test_a_last_packet_behind_a_loss_is_not_kept_back_for_ever() -> None:
    payloads = packets(1, 0)
    receiver = Receiver().receive(payloads, lost=frozenset({48}), tick=False)
    assert receiver.recording.end_ns < TRUTH_NS + 970 * NS_PER_MS
    receiver.stream.tick(START_NS + 1_100 * NS_PER_MS)
    assert abs(receiver.recording.end_ns - TRUTH_NS - NS_PER_S) <= 2 * NS_PER_MS
    assert receiver.recording.between(receiver.recording.end_ns - 15 * NS_PER_MS, receiver.recording.end_ns).any()


@pytest.mark.parametrize(
    ("sequence", "timestamp"), [(65_500, 0), (0, (1 << 32) - 20 * UNITS), (65_535, (1 << 32) - UNITS)]
)
def test_counters_that_wrap_are_not_noticed(sequence: int, timestamp: int) -> None:
    payloads = packets(2, 1)
    plain = Receiver().receive(payloads)
    wrapped = Receiver().receive(payloads, sequence=sequence, timestamp=timestamp)
    assert wrapped.recording.audio.tobytes() == plain.recording.audio.tobytes()
    assert wrapped.stream.quality(0) == plain.stream.quality(0)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"ssrc": 8, "sequence": 30_000, "timestamp": 1_234_567}, id="new source"),
        pytest.param({"ssrc": 8}, id="new source with the same counters"),
        pytest.param({"sequence": 30_000, "timestamp": 4_000_000_000}, id="leap of both counters"),
        pytest.param({"sequence": 40_000}, id="sequence alone"),
        pytest.param({"sequence": 50, "timestamp": 3_000_000_000}, id="timestamps alone"),
    ],
)
def test_a_stream_that_begins_anew_goes_on_where_it_arrives(change: dict[str, int]) -> None:
    receiver = Receiver().receive(packets(1, 0))
    again_ns = START_NS + 1_500 * NS_PER_MS
    receiver.receive(packets(2, 0.7), start_ns=again_ns, **change)
    audio = receiver.recording.between(again_ns + 500 * NS_PER_MS, receiver.recording.end_ns).astype(int)
    onset_ns = again_ns + 500 * NS_PER_MS + samples_to_ns(int(np.argmax(np.abs(audio) > 1_500)), AUDIO_RATE_HZ)
    assert abs(onset_ns - again_ns - DELAY_NS - 700 * NS_PER_MS) <= 10 * NS_PER_MS


def test_a_silent_sender_that_goes_on_is_heard_where_it_arrives() -> None:
    """The sender's clock stood still for 800 ms, and its numbers say nothing of it."""
    payloads = packets(2, 1)
    held_ns = 800 * NS_PER_MS
    receiver = Receiver().receive(payloads, delay_ns=lambda index: held_ns if index >= 40 else 0)
    assert abs(receiver.recording.onset_ns() - TRUTH_NS - NS_PER_S - held_ns) <= 10 * NS_PER_MS
    assert receiver.stream.quality(0).reanchored == 1


@pytest.mark.slow
def test_two_minutes_of_packets_last_two_minutes() -> None:
    receiver = Receiver()
    count = 6_000
    for index in range(count):
        receiver.arrive(rtp(SILENT_OPUS, index), TRUTH_NS + index * PACKET_NS + (index % 7) * NS_PER_MS)
        if index % 10 == 0:
            receiver.stream.tick(TRUTH_NS + index * PACKET_NS)
    for lane in (receiver.recording, receiver.pipeline):
        assert abs(samples_to_ns(lane.samples, lane.rate_hz) - count * PACKET_NS) <= 2 * NS_PER_MS
    quality = receiver.stream.quality(0)
    assert (quality.packets, quality.lost, quality.late, quality.reanchored) == (count, 0, 0, 0)


@pytest.mark.parametrize(
    ("packets", "late_ms", "jitter_ms"), [(400, 0, 0.0), (2, 8, 8 / 16), (3, 8, 8 / 16 + 7.5 / 16), (400, 8, 8.0)]
)
def test_jitter_is_measured_as_rfc_3550_defines_it(packets: int, late_ms: int, jitter_ms: float) -> None:
    receiver = Receiver()
    for index in range(packets):
        receiver.arrive(rtp(SILENT_OPUS, index), TRUTH_NS + index * PACKET_NS + (index % 2) * late_ms * NS_PER_MS)
    assert receiver.stream.quality(0).jitter_ms == pytest.approx(jitter_ms, abs=0.01)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 400),
            st.booleans(),
            st.sampled_from([SILENT_OPUS, b"", b"\xff" * 9]),
            st.sampled_from([0, 0, 0, 0, 900, 40_000]),
            st.sampled_from([1, 1, 1, 1, 1, 2]),
        ),
        max_size=80,
    )
)
@settings(max_examples=examples(60), deadline=None)
def test_whatever_arrives_neither_lane_overlaps_nor_goes_back(
    packets: list[tuple[int, bool, bytes, int, int]],
) -> None:
    """The sinks insist on it with every piece they take."""
    receiver = Receiver()
    now_ns = START_NS
    for index, (gap_ms, tick, payload, leap, ssrc) in enumerate(packets):
        now_ns += gap_ms * NS_PER_MS
        receiver.arrive(rtp(payload, index + leap, ssrc=ssrc), now_ns)
        if tick:
            receiver.stream.tick(now_ns)
    assert receiver.stream.quality(0).packets == len(packets)


def test_the_buffer_hands_packets_on_and_decodes_nothing() -> None:
    seen: list[tuple[RtpPacket, int]] = []
    buffer = ArrivalBuffer(lambda packet, at_ns: seen.append((packet, at_ns)))
    packets = [rtp(b"x", index) for index in (3, 1, 2)]
    assert [buffer.add(packet) for packet in packets] == [(False, None)] * 3
    assert [packet for packet, _ in seen] == packets
    assert sorted(at_ns for _, at_ns in seen) == [at_ns for _, at_ns in seen]
