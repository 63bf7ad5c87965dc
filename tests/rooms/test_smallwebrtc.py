"""The offering room against a scripted peer that answers: real HTTP, ICE, DTLS and RTP on loopback."""

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from aiortc.sdp import SessionDescription

from bots.caller.script import Listen, Script, Turn
from bots.clock import NS_PER_S
from bots.levels import QUIET_PEAK
from bots.timeline import AgentJoined, ClientReadySent, EndedReason
from runner.calls.call import Call
from runner.calls.request import CallRequest
from runner.calls.timeline import read_timeline
from runner.errors import RoomError
from runner.http import MAX_ANSWER_BYTES
from runner.rooms.open import RoomAddress
from runner.rooms.smallwebrtc import connection
from runner.rooms.smallwebrtc import room as room_module
from runner.rooms.smallwebrtc.outgoing import FRAME_NS
from runner.settings import Settings
from tests.patience import until
from tests.rooms.listener import Listener
from tests.rooms.peer import (
    PATH,
    PATIENCE_S,
    PEER_LEFT,
    RENEGOTIATE,
    TOKEN,
    Agent,
    Request,
    Respond,
    answering,
    entered,
    held,
    http_response,
    leaves_nothing,
    opened,
    ports,
    saying,
    serving,
)

pytestmark = [pytest.mark.anyio, pytest.mark.webrtc]


@pytest.fixture
def log(log_text: list[str], caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Everything anybody logs, at every level."""
    with caplog.at_level(logging.DEBUG):
        yield log_text
    log_text += [record.getMessage() for record in caplog.records]


async def refusal(url: str, **kwargs: Any) -> RoomError:
    """Return why a room can't be entered: one line for a person, and nothing secret down to the first cause."""
    async with opened(url, **kwargs) as visit:
        began_s = time.monotonic()
        with pytest.raises(RoomError) as caught:
            await visit.room.enter()
        assert time.monotonic() - began_s < PATIENCE_S
    assert "\n" not in str(caught.value)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert visit.listener == Listener()
    return caught.value


# The offer.


async def test_the_offer_is_what_a_pipecat_bot_looks_for() -> None:
    async with entered() as meeting:
        (offer,) = meeting.agent.offers
        media = SessionDescription.parse(offer["sdp"]).media
    assert offer.keys() == {"sdp", "type"}
    assert offer["type"] == "offer"
    assert [(m.kind, m.direction) for m in media if m.kind != "application"] == [
        ("audio", "sendrecv"),
        ("video", "recvonly"),
        ("video", "recvonly"),
    ]
    assert media[3].kind == "application" and len(media) == 4
    assert [codec.mimeType for codec in media[0].rtp.codecs] == ["audio/opus"]
    for m in media:
        assert m.ice_candidates_complete
        assert m.ice_candidates


async def test_the_token_is_a_bearer_header_and_shows_nowhere_else(log: list[str]) -> None:
    async with entered(request_data={"restaurant": "Luigi"}) as meeting:
        (request,) = meeting.server.requests
        assert request.target == PATH
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert TOKEN not in request.body.decode()
        assert json.loads(request.body)["request_data"] == {"restaurant": "Luigi"}
        await meeting.room.publish({"type": "hello"})
    assert log
    assert TOKEN not in "".join(log)


@pytest.mark.parametrize("token", [None, ""])
async def test_without_a_token_there_is_no_header(token: str | None) -> None:
    async with serving(saying(status=500)) as server:
        await refusal(server.url, token=token)
        assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("token", [f"{TOKEN}\n", f" {TOKEN}", f"{TOKEN}…", f"a\r\nX: {TOKEN}"])
async def test_a_token_that_no_header_takes_is_refused_and_not_quoted(token: str, log: list[str]) -> None:
    async with serving(saying()) as server:
        error = await refusal(server.url, token=token)
        assert server.requests == []
    assert error.reason is EndedReason.TOKEN_REFUSED
    assert TOKEN not in "".join(log)


# Answers that are none.


async def test_a_redirect_is_not_followed_and_gets_no_token() -> None:
    async with serving(saying()) as elsewhere, serving(saying(status=307, Location=elsewhere.url)) as server:
        error = await refusal(server.url)
        assert elsewhere.requests == []
    assert error.reason is EndedReason.ROOM_UNREACHABLE and "HTTP 307" in str(error)


def answer_of(*media: str, kind: str = "answer") -> bytes:
    head = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
    return json.dumps({"sdp": head + "".join(media), "type": kind}).encode()


SECURED = f"a=ice-ufrag:abcd\r\na=ice-pwd:{'x' * 22}\r\na=setup:active\r\na=fingerprint:sha-256 {'00:' * 31}00\r\n"
BODIES = {
    "empty": b"",
    "HTML": b"<html>It works!</html>",
    "no text": b"\xff\xfe\x00",
    "nested without end": b"[" * 100_000,
    "null": b"null",
    "list": b"[]",
    "nothing in it": b"{}",
    "null SDP": b'{"sdp": null, "type": "answer"}',
    "number for SDP": b'{"sdp": 5, "type": "answer"}',
    "text for SDP": b'{"sdp": "hello", "type": "answer"}',
    "empty SDP": b'{"sdp": "", "type": "answer"}',
    "an offer": answer_of(kind="offer"),
    "a type there is not": answer_of(kind="maybe"),
    "broken media line": answer_of("m=nonsense\r\n"),
    "unknown payload type": answer_of("m=audio 9 UDP/TLS/RTP/SAVPF 96\r\na=rtcp-fb:97 nack\r\n"),
    "too few media": answer_of("m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n", SECURED),
}


async def another_codec(request: Request, writer: asyncio.StreamWriter) -> None:
    agent = Agent()
    answer = await agent.answer(json.loads(request.body))
    answer["sdp"] = answer["sdp"].replace("opus/48000/2", "PCMU/8000")
    writer.write(http_response(json.dumps(answer).encode()))
    await agent.close()


async def hanging(request: Request, writer: asyncio.StreamWriter) -> None:
    await anyio.sleep_forever()


async def trickling(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await anyio.sleep(0.05)


REFUSALS: dict[str, tuple[Respond, EndedReason, str]] = {
    **{
        str(status): (saying(f"no such token: {TOKEN}".encode(), status), EndedReason.TOKEN_REFUSED, f"HTTP {status}")
        for status in (401, 403)
    },
    **{
        str(status): (saying(b'{"detail": "no"}', status), EndedReason.ROOM_UNREACHABLE, f"HTTP {status}")
        for status in (400, 404, 429, 500, 503)
    },
    **{name: (saying(body), EndedReason.ROOM_UNREACHABLE, "answer") for name, body in BODIES.items()},
    "another codec": (another_codec, EndedReason.ROOM_UNREACHABLE, "answer"),
    "never": (hanging, EndedReason.ROOM_UNREACHABLE, "did not answer the offer"),
    "bit by bit": (trickling, EndedReason.ROOM_UNREACHABLE, "did not answer the offer"),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_an_offer_without_an_answer_says_why(
    case: str, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    respond, reason, says = REFUSALS[case]
    if says.startswith("did not"):
        monkeypatch.setattr(room_module, "OFFER_TIMEOUT_S", 0.4)
    async with serving(respond) as server:
        error = await refusal(server.url)
        assert len(server.requests) == 1
    assert error.reason is reason
    assert says in str(error)
    assert "HTTP" not in says or server.url in str(error)
    assert TOKEN not in "".join(log)


async def test_an_answer_without_end_is_cut_off() -> None:
    sent_bytes = 0

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent_bytes
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b" " * 65_536)
            sent_bytes += 65_536
            await writer.drain()

    async with serving(respond) as server:
        error = await refusal(server.url)
    assert error.reason is EndedReason.ROOM_UNREACHABLE
    assert str(MAX_ANSWER_BYTES) in str(error)
    assert sent_bytes < 64 * MAX_ANSWER_BYTES


async def test_where_nothing_listens_the_error_asks_for_the_agent() -> None:
    async with serving(saying()) as server:
        pass
    error = await refusal(server.url)
    assert error.reason is EndedReason.ROOM_UNREACHABLE
    assert "is the agent running" in str(error)


@pytest.mark.parametrize("host", ["ex☎ample.com", "a..b"])
async def test_a_host_that_can_not_be_is_unreachable(host: str) -> None:
    assert (await refusal(f"http://{host}{PATH}")).reason is EndedReason.ROOM_UNREACHABLE


# ICE.


def answering_from_nowhere(change: Callable[[str], str] = str) -> Respond:
    """Answer as an agent does that nobody can reach."""

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        agent = Agent()
        answer = await agent.answer(json.loads(request.body))
        await agent.close()
        writer.write(http_response(json.dumps(answer | {"sdp": change(answer["sdp"])}).encode()))

    return respond


def without_candidates(sdp: str) -> str:
    return "".join(line for line in sdp.splitlines(keepends=True) if not line.startswith("a=candidate"))


async def test_an_agent_whose_addresses_can_not_be_reached_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 0.6)
    async with leaves_nothing(), serving(answering_from_nowhere()) as server:
        began_s = time.monotonic()
        error = await refusal(server.url)
        assert 0.5 < time.monotonic() - began_s < 5
    assert error.reason is EndedReason.ICE_FAILED
    assert "TURN" in str(error)


async def test_an_answer_without_addresses_fails_at_once() -> None:
    async with leaves_nothing(), serving(answering_from_nowhere(without_candidates)) as server:
        began_s = time.monotonic()
        error = await refusal(server.url)
        assert time.monotonic() - began_s < connection.CONNECT_TIMEOUT_S / 3
    assert error.reason is EndedReason.ICE_FAILED


@pytest.mark.slow
async def test_no_media_connection_is_waited_for_longer_than_it_says() -> None:
    async with serving(answering_from_nowhere()) as server, opened(server.url) as visit:
        began_s = time.monotonic()
        with pytest.raises(RoomError) as caught:
            await visit.room.enter()
        assert time.monotonic() - began_s == pytest.approx(connection.CONNECT_TIMEOUT_S, abs=3)
    assert caught.value.reason is EndedReason.ICE_FAILED


# The call.


async def test_silence_leaves_from_the_start() -> None:
    async with entered(speaking=False) as meeting:
        await until(lambda: len(meeting.agent.heard) >= 15)
        assert max(meeting.agent.heard) <= QUIET_PEAK
        assert not any(any(pcm) for _, pcm in meeting.listener.caller)
        assert meeting.listener.joined == []
        places_ns = [at_ns for at_ns, _ in meeting.listener.caller]
        assert {(place_ns - places_ns[0]) % FRAME_NS for place_ns in places_ns} == {0}


async def test_the_agent_is_there_with_its_first_packet_and_not_before() -> None:
    async with entered(speaking=False) as meeting:
        with anyio.move_on_after(0.4) as waiting:
            await meeting.room.wait_for_agent()
        assert waiting.cancelled_caught
        assert meeting.room.participants() == []
        meeting.agent.track.speaking.set()
        with anyio.fail_after(PATIENCE_S):
            await meeting.room.wait_for_agent()
        ((joined_ns, _),) = meeting.listener.joined
        assert meeting.room.participants() == ["agent"]
        first_ns = meeting.agent.track.first_ns
        assert first_ns is not None
        assert first_ns <= meeting.clock.origin_ns + joined_ns <= time.monotonic_ns()
        await until(lambda: len(meeting.listener.agent) > 5)
    quality = meeting.room.agent_audio_quality(0)
    assert quality is not None and quality.packets > 5 and quality.lost == 0


async def test_client_ready_goes_out_after_the_agents_first_packet(tmp_path: Path) -> None:
    script = Script(name="test", turns=(Turn(action=Listen()),))
    async with answering(speaking=False) as (agent, server):
        call = Call(CallRequest(script, RoomAddress(server.url), transcribe=False), Settings(), tmp_path / "run")

        async def speak_late() -> None:
            await until(lambda: agent.channel is not None)
            await anyio.sleep(0.7)
            assert agent.messages == []
            agent.track.speaking.set()
            await until(lambda: agent.messages)
            call.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(speak_late)
            await call.make()
        assert [message["type"] for message in agent.messages] == ["client-ready"]
    facts = read_timeline(tmp_path / "run" / "timeline.jsonl")
    joined, ready = (next(e for e in facts if isinstance(e, kind)) for kind in (AgentJoined, ClientReadySent))
    assert facts.index(joined) < facts.index(ready)
    assert joined.at_ns <= ready.at_ns


async def test_a_ping_goes_once_a_second_as_long_as_the_call_lives() -> None:
    async with entered() as meeting:
        agent = meeting.agent
        await until(lambda: len(agent.pings) >= 6, 20)
        # A Pipecat bot takes 3 s without a ping for a disconnect.
        assert np.median(np.diff(agent.pings)) == pytest.approx(1.0, abs=0.3)


async def test_video_is_said_to_be_off() -> None:
    async with entered() as meeting:
        await until(lambda: len(meeting.agent.signalling) >= 2)
        assert meeting.agent.signalling == [
            {"type": "trackStatus", "receiver_index": index, "enabled": False} for index in (1, 2)
        ]


async def test_messages_go_once_and_unchanged_both_ways() -> None:
    message = {"type": "hello", "nested": {"ü": [1, 2.5, None, True, "☎\n\u2028"]}, "data": "x" * 20_000}
    async with entered() as meeting:
        await meeting.room.publish(message)
        await meeting.room.send_client_message({"label": "rtvi-ai", "type": "client-ready"})
        await until(lambda: len(meeting.agent.messages) == 2)
        for sent in (message, [1, "two"], "text", None):
            meeting.agent.send(json.dumps(sent))
        await until(lambda: len(meeting.listener.messages) == 4)
        await anyio.sleep(0.3)
        assert meeting.agent.messages == [message, {"label": "rtvi-ai", "type": "client-ready"}]
        assert meeting.listener.messages == [message, [1, "two"], "text", None]


NO_MESSAGES: list[Any] = [
    "hello",
    b"\xff\x00",
    "[" * 60_000,
    '"' + "ü" * 131_073 + '"',
    {"type": "signalling"},
    {"type": "signalling", "message": ["renegotiate"]},
    {"type": "signalling", "message": {"type": {}}},
]


async def test_a_message_that_is_none_is_left_out_and_the_call_goes_on() -> None:
    async with entered() as meeting:
        # The agent's own library keeps to the limit we state.
        meeting.agent.pc.sctp._remote_max_message_size = 0
        for raw in NO_MESSAGES:
            meeting.agent.send(raw)
            meeting.agent.send({"type": "after", "what": str(raw)[:20]})
        await until(lambda: len(meeting.listener.messages) >= len(NO_MESSAGES))
        assert meeting.listener.messages == [{"type": "after", "what": str(raw)[:20]} for raw in NO_MESSAGES]
        assert len(meeting.agent.offers) == 1
        assert meeting.listener.left == meeting.listener.lost == []


@pytest.mark.parametrize("message", [{"type": "x", "data": "x" * 300_000}, {"type": "half a pair: \ud83d"}])
async def test_a_message_that_can_not_be_sent_says_so(message: Any) -> None:
    async with entered() as meeting:
        with pytest.raises(RoomError, match="can't be sent"):
            await meeting.room.publish(message)
        await meeting.room.publish({"type": "after"})
        await until(lambda: meeting.agent.messages)
        assert meeting.agent.messages == [{"type": "after"}]


async def test_a_wish_to_renegotiate_gets_the_same_connection() -> None:
    async with entered() as meeting:
        agent = meeting.agent
        agent.send(RENEGOTIATE)
        await until(lambda: len(agent.offers) == 2)
        assert agent.offers[1]["pc_id"] == "peer-7"
        assert agent.offers[1]["restart_pc"] is False
        agent.refuses = True
        agent.send(RENEGOTIATE)
        await until(lambda: len(agent.offers) == 3)
        agent.refuses = False
        agent.send(RENEGOTIATE)
        await until(lambda: len(agent.offers) == 4)
        heard = len(meeting.listener.agent)
        await meeting.room.publish({"type": "after"})
        await until(lambda: agent.messages and len(meeting.listener.agent) > heard + 10)
        assert len(meeting.listener.joined) == 1
        assert meeting.listener.messages == meeting.listener.left == meeting.listener.lost == []


async def test_leaving_while_a_renegotiation_is_under_way_is_leaving() -> None:
    async with leaves_nothing(), entered() as meeting:
        meeting.agent.answers_after = anyio.Event()
        meeting.agent.send(RENEGOTIATE)
        await until(lambda: len(meeting.server.requests) == 2)
        meeting.agent.send(RENEGOTIATE)
        meeting.agent.send({"type": "after"})
        await until(lambda: meeting.listener.messages)
        await meeting.room.leave()
        meeting.agent.answers_after.set()
        await anyio.sleep(0.2)
    assert len(meeting.server.requests) == 2
    assert meeting.listener.left == meeting.listener.lost == []


# The end.


@pytest.mark.parametrize("says", [True, False])
async def test_an_agent_that_leaves_has_left_once(says: bool) -> None:
    async with entered() as meeting:
        if says:
            meeting.agent.send(PEER_LEFT)
        await meeting.agent.pc.close()
        await until(lambda: meeting.listener.left)
        await anyio.sleep(0.2)
    ((_, detail),) = meeting.listener.left
    assert (detail == "it said that it leaves") is says
    assert meeting.listener.lost == meeting.listener.messages == []


async def test_the_agent_sees_us_leave_and_is_told_nothing() -> None:
    async with entered() as meeting:
        await until(lambda: len(meeting.agent.signalling) >= 2)
        await meeting.room.leave()
        await until(lambda: meeting.agent.pc.connectionState == "closed")
        assert PEER_LEFT["message"] not in meeting.agent.signalling
    assert meeting.listener.left == meeting.listener.lost == []


async def test_a_dark_agent_is_noticed_within_3_s_and_gone_soon_after() -> None:
    async with entered() as meeting:
        listener, clock = meeting.listener, meeting.clock
        await until(lambda: listener.joined)
        meeting.agent.go_dark()
        dark_ns = clock.now_ns()
        # A stall of this process of over a second, which the agent is not blamed for, begins the time anew.
        await until(lambda: listener.stopped, 20)
        # The last sign of life, not when it was missed.
        alive_ns = listener.stopped[0]
        assert alive_ns > dark_ns - NS_PER_S
        assert 2.5 <= (clock.now_ns() - alive_ns) / NS_PER_S < 15
        await until(lambda: listener.lost, 20)
        assert 3.5 <= (clock.now_ns() - alive_ns) / NS_PER_S < 15
        assert listener.lost[0].reason is EndedReason.AGENT_VANISHED
        assert "for 3.5 s" in str(listener.lost[0])
        # Its media is dead, and its server is not.
        assert listener.probed == [True]
    assert (len(listener.stopped), len(listener.lost)) == (1, 1)
    assert listener.resumed == listener.left == []


async def test_an_agent_that_comes_back_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MEDIA_TIMEOUT_NS", NS_PER_S // 2)
    monkeypatch.setattr(connection, "GONE_TIMEOUT_NS", 60 * NS_PER_S)
    async with entered() as meeting:
        listener = meeting.listener
        await until(lambda: listener.joined)
        back = meeting.agent.go_dark()
        await until(lambda: listener.stopped)
        back()
        await until(lambda: listener.resumed)
        heard = len(listener.agent)
        await until(lambda: len(listener.agent) > heard + 10)
    assert listener.stopped[0] < listener.resumed[0]
    assert listener.lost == listener.left == []


async def test_after_our_own_sleep_an_absent_agent_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MEDIA_TIMEOUT_NS", NS_PER_S // 2)
    monkeypatch.setattr(connection, "GONE_TIMEOUT_NS", 2 * NS_PER_S)
    async with entered() as meeting:
        listener = meeting.listener
        await until(lambda: listener.joined)
        meeting.agent.go_dark()
        await until(lambda: listener.stopped)
        time.sleep(2.5)  # noqa: ASYNC251 - that is the point
        await anyio.sleep(2 * connection.WATCH_INTERVAL_S)
        assert listener.resumed == listener.lost == []
        await until(lambda: listener.lost, 20)
    assert listener.resumed == []


@pytest.mark.slow
async def test_an_agent_that_only_sends_no_audio_is_not_taken_for_gone() -> None:
    async with entered() as meeting:
        await until(lambda: meeting.listener.joined)
        meeting.agent.track.speaking.clear()
        await anyio.sleep(2 * connection.GONE_TIMEOUT_NS / NS_PER_S)
        assert meeting.listener.lost == meeting.listener.left == []


@pytest.mark.parametrize("fails_on", ["caller_audio", "agent_audio", "message_received"])
async def test_what_fails_on_our_side_is_not_blamed_on_the_agent(fails_on: str) -> None:
    async with entered(fails_on=fails_on) as meeting:
        meeting.agent.send({"type": "hello"})
        await until(lambda: meeting.listener.lost)
        await anyio.sleep(0.1)
    (error,) = meeting.listener.lost
    assert error.reason is EndedReason.RUNNER_ERROR
    assert "no space left" in str(error)
    assert meeting.listener.left == []


# Leaving.


async def test_leaving_closes_everything_and_is_done_once() -> None:
    async with leaves_nothing(), answering() as (agent, server), opened(server.url) as visit:
        before = held()
        await visit.room.enter()
        await until(lambda: len(visit.listener.agent) > 5)
        offered = SessionDescription.parse(agent.offers[0]["sdp"]).media[0]
        mine = {candidate.port for candidate in offered.ice_candidates}
        assert mine & ports()
        began_s = time.monotonic()
        for _ in range(3):
            await visit.room.leave()
        assert time.monotonic() - began_s < room_module.LEAVE_TIMEOUT_S + 1
        assert not mine & ports()
        heard = len(visit.listener.agent)
        await agent.close()
        await until(lambda: not any(kind == "thread" for kind, _ in held() - before))
        with pytest.raises(RoomError):
            await visit.room.publish({"type": "too late"})
        assert len(visit.listener.agent) == heard


async def test_a_room_that_was_not_entered_can_be_left() -> None:
    async with leaves_nothing(), opened("http://127.0.0.1:1/api/offer") as visit:
        await visit.room.leave()
        with pytest.raises(RoomError):
            await visit.room.publish({"type": "too early"})


async def test_a_connection_that_does_not_close_does_not_keep_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "LEAVE_TIMEOUT_S", 0.2)
    async with entered() as meeting:
        kept = meeting.room._connection
        assert kept is not None
        close = kept.close
        monkeypatch.setattr(kept, "close", anyio.sleep_forever)
        began_s = time.monotonic()
        await meeting.room.leave()
        assert time.monotonic() - began_s < 2
        await close()


@pytest.mark.parametrize("respond", [hanging, answering_from_nowhere()], ids=["answer awaited", "ICE under way"])
async def test_cancelled_while_entering_nothing_is_left(respond: Respond) -> None:
    async with leaves_nothing(), serving(respond) as server, opened(server.url) as visit:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(visit.room.enter)
            await until(lambda: server.requests)
            await anyio.sleep(0.3)
            tasks.cancel_scope.cancel()
        await visit.room.leave()
