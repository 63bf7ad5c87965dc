"""The metronome's log against a clock of our own, over a real WebRTC connection."""

import asyncio
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiortc import RTCRtpReceiver
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtp import RtpPacket

from bots.agents.backgrounds import BackgroundLoop
from bots.agents.metronome import MetronomeSettings
from bots.agents.metronome_audio import FRAME_SAMPLES, BackgroundTrack, Clip, MetronomeTrack, Utterance, load_clip
from bots.agents.rtp_arrivals import JITTER_BUFFER_ATTRIBUTE, RtpArrivals
from tests.agents.client import RATE_HZ, call
from tests.agents.conftest import Agents
from tests.patience import best_of_three

MS = 1_000_000


def over_webrtc(test: Any) -> Any:
    return pytest.mark.webrtc(pytest.mark.anyio(pytest.mark.slow(best_of_three(test))))


def tone(duration_s: float) -> np.ndarray:
    """A voice-like hum: several harmonics, abrupt at both ends."""
    t = np.arange(int(duration_s * RATE_HZ)) / RATE_HZ
    wave = sum(np.cos(2 * np.pi * 150 * k * t) / k for k in range(1, 12))
    return (wave / np.abs(wave).max() * 10_000).astype(np.int16)


def test_aiortc_keeps_its_jitter_buffer_where_we_tap_it() -> None:
    receiver = RTCRtpReceiver("audio", SimpleNamespace(state="new", _stats_id="x"))  # pyright: ignore
    assert isinstance(getattr(receiver, JITTER_BUFFER_ATTRIBUTE), JitterBuffer)


def test_an_arrival_is_that_of_the_packet_itself() -> None:
    buffer = JitterBuffer(capacity=16, prefetch=4)
    arrivals = RtpArrivals(SimpleNamespace(**{JITTER_BUFFER_ATTRIBUTE: buffer}))  # pyright: ignore
    sent: dict[int, tuple[int, int]] = {}
    frames = []
    for n in range(12):
        packet = RtpPacket(sequence_number=n, timestamp=5_000 + n * 960)
        packet._data = b"x"  # pyright: ignore
        before_ns = time.monotonic_ns()
        frame = buffer.add(packet)[1]
        sent[packet.timestamp] = (before_ns, time.monotonic_ns())
        if frame is not None:
            raw = frame.timestamp
            frame.timestamp -= 5_000  # as aiortc's timestamp mapper does
            frames.append((raw, frame.timestamp))
        time.sleep(0.002)
    assert len(frames) >= 6
    for raw, pts in frames:
        arrived_ns = arrivals.arrival_ns(pts)
        assert arrived_ns is not None
        before_ns, after_ns = sent[raw]
        assert before_ns <= arrived_ns <= after_ns
    assert arrivals.arrival_ns(1) is None


@pytest.mark.parametrize(
    ("body", "answer_ms", "greet"),
    [
        (None, (800.0,), True),
        ({"metronome": {"answer_ms": 500, "greet": False}}, (500.0,), False),
        ({"metronome": {"answer_ms": [400, 900]}}, (400.0, 900.0), True),
        ({"metronome": "nonsense"}, (800.0,), True),
    ],
)
def test_a_session_may_set_its_own_times(body: Any, answer_ms: tuple[float, ...], greet: bool) -> None:
    settings = MetronomeSettings.load(body)
    assert (settings.answer_ms, settings.greet) == (answer_ms, greet)


def test_a_session_may_set_what_is_heard() -> None:
    own = {"background": "crowd", "background_dbfs": -42, "background_from_s": 3, "level_dbfs": -26, "gap_ms": 300}
    settings = MetronomeSettings.load({"metronome": own})
    assert own.items() <= settings.model_dump().items()


def test_the_environment_sets_what_is_heard_unless_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRONOME_BACKGROUND", "office")
    monkeypatch.setenv("METRONOME_BACKGROUND_DBFS", "-44.5")
    settings = MetronomeSettings.load()
    assert (settings.background, settings.background_dbfs) == ("office", -44.5)
    assert MetronomeSettings.load({"metronome": {"background": None}}).background is None


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"background": "beach"}, "no background is called 'beach'; there are: white"),
        ({"background": "office", "background_dbfs": 3}, "less than or equal to 0"),
        ({"level_dbfs": 1}, "less than or equal to 0"),
        ({"gap_ms": -1}, "greater than or equal to 0"),
    ],
)
def test_what_can_not_be_heard_is_refused(own: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        MetronomeSettings.load({"metronome": own})


@pytest.mark.parametrize("times", [{"answer_ms": (100.0,)}, {"stop_ms": 10.0}, {"answer_ms": ()}])
def test_times_shorter_than_hearing_takes_are_refused(times: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"150|at least 1 item"):
        MetronomeSettings(**times)


def decode(packets: list[bytes]) -> np.ndarray:
    from av import CodecContext
    from av.packet import Packet

    codec: Any = CodecContext.create("libopus", "r")
    codec.format, codec.layout, codec.sample_rate = "s16", "mono", RATE_HZ
    return np.concatenate([f.to_ndarray().reshape(-1) for p in packets for f in codec.decode(Packet(p))])


def edges(pcm: np.ndarray) -> tuple[int, int]:
    loud = np.flatnonzero(np.abs(pcm.astype(np.int32)) > 600)
    return int(loud[0]), int(loud[-1])


def play(
    clip: Clip, due_ms: float, cut: tuple[float, float] | None = None, background: BackgroundLoop | None = None
) -> tuple[Utterance, int, list[bytes]]:
    """Run a track for 0.7 s; ``cut`` is (when it is asked for, when it shall be), in ms after the track's start."""

    async def run() -> tuple[Utterance, int, list[bytes]]:
        ended: list[int] = []
        reports: Any = (lambda _: None, lambda _, at_ns: ended.append(at_ns))
        track = BackgroundTrack(clip, reports, background) if background else MetronomeTrack(clip, reports)
        packets = [bytes(await track.recv())]
        origin_ns = track._origin_ns or 0
        utterance = Utterance("answer", origin_ns + int(due_ms * MS))
        track.planned = utterance
        for n in range(1, 36):
            packets.append(bytes(await track.recv()))
            if cut and n * 20 == cut[0]:
                track.cut(origin_ns + int(cut[1] * MS))
                # Coded in a thread, which a busy machine may be slow to run; the track's clock does not wait.
                if background is None:
                    assert track._cutting is not None
                    await track._cutting
        assert utterance.started_ns is not None
        utterance.started_ns -= origin_ns
        return utterance, ended[0] - origin_ns, packets

    return asyncio.run(run())


def quiet() -> BackgroundLoop:
    return BackgroundLoop("white", -66.0, RATE_HZ)


@pytest.mark.parametrize("background", [None, quiet], ids=["alone", "over a background"])
@pytest.mark.parametrize("due_ms", [40.0, 47.0, 59.0])
def test_the_clip_lies_in_the_packets_where_the_track_says(due_ms: float, background: Any) -> None:
    utterance, ended_ns, packets = play(Clip(tone(0.4)), due_ms, background=background and background())
    first, last = edges(decode(packets))
    assert utterance.started_ns == pytest.approx(due_ms * MS, abs=1 * MS)
    # Opus gives everything out 6.5 ms late, and blurs an edge by a few.
    assert first / 48 - 6.5 == pytest.approx(utterance.started_ns / MS, abs=5)
    assert last / 48 - 6.5 == pytest.approx(ended_ns / MS, abs=5)
    assert ended_ns - utterance.started_ns == pytest.approx(400 * MS, abs=1000)


@pytest.mark.parametrize(
    ("asked_ms", "cut_ms", "tolerance_ms", "background"),
    [(100, 333.0, 5, None), (300, 301.0, 25, None), (100, 333.0, 1, quiet), (300, 301.0, 25, quiet)],
)
def test_a_cut_is_made_to_the_millisecond_or_between_packets(
    asked_ms: int, cut_ms: float, tolerance_ms: float, background: Any
) -> None:
    utterance, ended_ns, packets = play(Clip(tone(0.6)), 40.0, (asked_ms, cut_ms), background and background())
    _, last = edges(decode(packets))
    assert utterance.interrupted
    assert ended_ns / MS == pytest.approx(cut_ms, abs=tolerance_ms)
    assert last / 48 - 6.5 == pytest.approx(ended_ns / MS, abs=12)
    assert len(packets) * FRAME_SAMPLES > last + RATE_HZ // 10, "silence follows"


def test_the_background_is_heard_from_first_to_last_packet() -> None:
    loop = BackgroundLoop("white", -30.0, RATE_HZ)
    _, _, packets = play(Clip(tone(0.2)), 300.0, background=loop)
    heard = decode(packets).astype(float) / 32768
    for begin_s, end_s in ((0.02, 0.28), (0.53, 0.7)):
        piece = heard[int(begin_s * RATE_HZ) : int(end_s * RATE_HZ)]
        assert 20 * np.log10(np.sqrt(np.mean(piece**2))) == pytest.approx(-30, abs=1.5)
    assert len(packets) == 36, "one packet for each 20 ms"


def test_two_phrases_have_the_silence_asked_for_between_them() -> None:
    clip = load_clip("Of course. | Which order is this about?", -26.0, 450.0)
    (begin, first_ends), (second_begins, end) = clip.phrases
    assert (begin, end) == (0, clip.samples)
    assert (second_begins - first_ends) / 48 == pytest.approx(450)
    assert not clip.pcm[first_ends:second_begins].any()
    assert min(first_ends, end - second_begins) > RATE_HZ // 4, "words before and after it"
    voiced = clip.pcm[np.abs(clip.pcm.astype(np.int32)) > 100].astype(float) / 32768
    assert 20 * np.log10(np.sqrt(np.mean(voiced**2))) == pytest.approx(-26, abs=2)


@pytest.mark.parametrize("text", ["", "Yes. | ", "|"])
def test_a_phrase_without_words_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="nothing to say"):
        load_clip(text)


@pytest.fixture(scope="module")
def metronome(agents: Agents, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    log = tmp_path_factory.mktemp("metronome") / "truth.jsonl"
    return agents.start("metronome", METRONOME_LOG=str(log)), log


def events(log: Path, session: str | None) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return [line for line in lines if line["session"] == session]


def first(got: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    found = [event for event in got if fields.items() <= event.items()]
    assert found, f"no {fields} in {got}"
    return found[0]


@over_webrtc
async def test_the_log_tells_the_truth(metronome: tuple[str, Path]) -> None:
    base, log = metronome
    connected_ns = time.monotonic_ns()
    async with call(base) as client:
        ready_ns = time.monotonic_ns()
        await client.expect("bot-started-speaking")
        await client.expect("bot-stopped-speaking")
        await asyncio.sleep(0.3)
        client.mouth.say(tone(0.6))
        await client.mouth.done.wait()
        await client.expect("bot-started-speaking")
        await asyncio.sleep(0.4)
        spoken = (client.mouth.started_ns, client.mouth.ended_ns)
        # Answered: now break in.
        client.mouth.say(tone(0.5))
        await client.mouth.done.wait()
        await client.expect("bot-stopped-speaking")
        broke_in_ns = client.mouth.started_ns
        loud_ns = list(client.loud_ns)
    await asyncio.sleep(0.3)
    got = events(log, client.session_id)
    kinds = [event["event"] for event in got]
    assert kinds[:3] == ["session_started", "answer_started", "answer_ended"]
    assert connected_ns < got[0]["at_ns"] < ready_ns + 100 * MS
    greeting = got[1]
    assert greeting["kind"] == "greeting"
    assert greeting["at_ns"] - ready_ns == pytest.approx(500 * MS, abs=60 * MS)
    started, ended = (first(got, event=f"caller_speech_{what}") for what in ("started", "ended"))
    assert started["at_ns"] == pytest.approx(spoken[0], abs=40 * MS)
    assert ended["at_ns"] == pytest.approx(spoken[1], abs=40 * MS)
    answer = first(got, event="answer_started", kind="answer")
    assert answer["at_ns"] - ended["at_ns"] == pytest.approx(800 * MS, abs=20 * MS)
    assert answer["handed_ns"] == pytest.approx(answer["at_ns"], abs=40 * MS)
    stop = first(got, event="answer_ended", interrupted=True)
    assert stop["at_ns"] - (broke_in_ns or 0) == pytest.approx(300 * MS, abs=40 * MS)
    # What was received, some 80 to 130 ms of jitter buffer later, agrees.
    heard = next(ns for ns in loud_ns if ns > answer["at_ns"])
    assert 0 < heard - answer["at_ns"] < 200 * MS
    assert kinds[-1] == "session_ended"


@over_webrtc
async def test_sessions_in_one_process_keep_their_own_times(metronome: tuple[str, Path]) -> None:
    base, log = metronome

    async def one(answer_ms: int) -> float:
        async with call(base, {"metronome": {"answer_ms": answer_ms, "greet": False}}) as client:
            client.mouth.say(tone(0.3))
            await client.expect("bot-started-speaking")
        got = events(log, client.session_id)
        ended = first(got, event="caller_speech_ended")
        answer = first(got, event="answer_started")
        assert answer["kind"] == "answer"
        return (answer["at_ns"] - ended["at_ns"]) / MS

    assert await asyncio.gather(one(400), one(700), one(1000)) == pytest.approx([400, 700, 1000], abs=20)


@over_webrtc
async def test_over_a_background_times_stay_and_the_log_names_it(metronome: tuple[str, Path]) -> None:
    base, log = metronome
    own = {"answer_ms": 700, "background": "white", "background_dbfs": -35, "text": "Of course. | What for?"}
    async with call(base, {"metronome": own}) as client:
        await client.expect("bot-stopped-speaking")
        client.loud_ns.clear()
        await asyncio.sleep(0.5)
        assert len(client.loud_ns) > 10, "there is noise while it is silent"
        client.mouth.say(tone(0.6))
        await client.expect("bot-started-speaking")
        await client.expect("bot-stopped-speaking")
    got = events(log, client.session_id)
    started = first(got, event="session_started")
    assert (started["background"], started["background_dbfs"], started["level_dbfs"]) == ("white", -35, -20)
    ended, answer = first(got, event="caller_speech_ended"), first(got, event="answer_started", kind="answer")
    assert answer["at_ns"] - ended["at_ns"] == pytest.approx(700 * MS, abs=20 * MS)
    (_, first_ends), (second_begins, _) = answer["phrases_ms"]
    assert second_begins - first_ends == pytest.approx(450)
