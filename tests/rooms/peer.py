"""A scripted peer that answers the room's offer: real HTTP, ICE, DTLS and RTP on loopback."""

import asyncio
import fractions
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import av
import httpx
import numpy as np
import psutil
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from pydantic import SecretStr

from bots.clock import CallClock
from runner.rooms.smallwebrtc.room import SmallWebRTCRoom
from tests.patience import until
from tests.rooms.listener import Listener

TOKEN = "s3cr3t-t0ken-4711"
PATH = "/sessions/ab-12/api/offer"
RENEGOTIATE = {"type": "signalling", "message": {"type": "renegotiate"}}
PEER_LEFT = {"type": "signalling", "message": {"type": "peerLeft"}}
STEP_S = 0.02
PATIENCE_S = 8.0
"""How long anything that is to happen may take on a machine that is busy."""


@dataclass
class Request:
    """What came in over HTTP."""

    target: str
    headers: dict[str, str]
    body: bytes


Respond = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """An HTTP server that says whatever it is told to, well-formed or not."""

    respond: Respond
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.requests.append(Request(head[0].split(" ")[1], headers, body))
            await self.respond(self.requests[-1], writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(respond: Respond) -> AsyncIterator[Server]:
    server = Server(respond)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}{PATH}"
    try:
        yield server
    finally:
        listening.close()
        for task in server.serving:
            task.cancel()
        if server.serving:
            await asyncio.wait(server.serving)


def http_response(body: bytes = b"", status: int = 200, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def saying(body: bytes = b"", status: int = 200, **headers: str) -> Respond:
    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(http_response(body, status, **headers))

    return respond


class AgentTrack(MediaStreamTrack):
    """20 ms of a tone at a time while it may speak; otherwise no packet leaves at all."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.speaking = asyncio.Event()
        self.first_ns: int | None = None
        self._due_s = 0.0
        self._samples = 0

    async def recv(self) -> av.AudioFrame:
        await self.speaking.wait()
        if self.readyState != "live":
            raise MediaStreamError
        now_s = time.monotonic()
        self._due_s = max(self._due_s + 0.02, now_s - 0.1)
        await asyncio.sleep(max(self._due_s - now_s, 0))
        t = (np.arange(960) + self._samples) / 48_000
        frame = av.AudioFrame.from_ndarray((8_000 * np.sin(2_500 * t)).astype(np.int16)[np.newaxis], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, self._samples, fractions.Fraction(1, 48_000)
        self._samples += 960
        self.first_ns = self.first_ns or time.monotonic_ns()
        return frame


class Agent:
    """A scripted peer that answers offers as a Pipecat bot does, and keeps what it is told."""

    def __init__(self, *, speaking: bool = True) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self.track = AgentTrack()
        if speaking:
            self.track.speaking.set()
        self.channel: RTCDataChannel | None = None
        self.offers: list[dict[str, Any]] = []
        self.received: list[tuple[float, str | bytes]] = []
        self.heard: list[int] = []
        self.refuses = False
        self.answers_after: anyio.Event | None = None
        self._listening: asyncio.Task[None] | None = None
        self.pc.on("datachannel", self._on_channel)
        self.pc.on("track", self._on_track)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        self.channel = channel
        channel.on("message", lambda raw: self.received.append((time.monotonic(), raw)))

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._listening = asyncio.create_task(self._listen(track))

    async def _listen(self, track: MediaStreamTrack) -> None:
        with suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                assert isinstance(frame, av.AudioFrame)
                self.heard.append(int(np.abs(frame.to_ndarray().astype(int)).max()))

    async def answer(self, offer: dict[str, Any]) -> dict[str, Any]:
        self.offers.append(offer)
        await self.pc.setRemoteDescription(RTCSessionDescription(offer["sdp"], offer["type"]))
        if len(self.offers) == 1:
            self.pc.addTrack(self.track)
        await self.pc.setLocalDescription(await self.pc.createAnswer())
        return {"sdp": self.pc.localDescription.sdp, "type": "answer", "pc_id": "peer-7"}

    async def respond(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if self.answers_after is not None:
            await self.answers_after.wait()
        if self.refuses or self.pc.signalingState == "closed":
            self.offers.append(json.loads(request.body))
            writer.write(http_response(b"no", 500))
            return
        writer.write(http_response(json.dumps(await self.answer(json.loads(request.body))).encode()))

    def send(self, message: Any) -> None:
        assert self.channel is not None
        self.channel.send(message if isinstance(message, str | bytes) else json.dumps(message))

    @property
    def pings(self) -> list[float]:
        return [at_s for at_s, raw in self.received if raw == "ping"]

    @property
    def messages(self) -> list[Any]:
        """What it was sent, without the pings and what belongs to SmallWebRTC itself."""
        return [message for message in self._decoded() if message.get("type") != "signalling"]

    @property
    def signalling(self) -> list[Any]:
        return [message["message"] for message in self._decoded() if message.get("type") == "signalling"]

    def _decoded(self) -> list[Any]:
        return [json.loads(raw) for _, raw in self.received if raw != "ping"]

    def go_dark(self) -> Callable[[], None]:
        """Let nothing out any more, as a process that died; return what ends it."""
        ice = self.pc.getTransceivers()[0].receiver.transport.transport
        send = ice._send

        async def drop(data: bytes) -> None:
            pass

        def back() -> None:
            ice._send = send

        ice._send = drop
        return back

    async def close(self) -> None:
        self.track.stop()
        self.track.speaking.set()
        await self.pc.close()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])


@dataclass
class Visit:
    """A room, and everything around it."""

    room: SmallWebRTCRoom
    listener: Listener
    clock: CallClock


@asynccontextmanager
async def opened(url: str, *, token: str | None = TOKEN, fails_on: str = "", **options: Any) -> AsyncIterator[Visit]:
    """A room that was not entered yet; it is left in the end."""
    clock, listener = CallClock(), Listener(fails_on=fails_on)
    async with httpx.AsyncClient() as http, anyio.create_task_group() as tasks:
        room = SmallWebRTCRoom(
            url,
            None if token is None else SecretStr(token),
            clock=clock,
            listener=listener,
            http=http,
            tasks=tasks,
            ice_servers=[],
            **options,
        )
        try:
            yield Visit(room, listener, clock)
        finally:
            await room.leave()
            tasks.cancel_scope.cancel()


@dataclass
class Meeting(Visit):
    """A room that was entered, and the agent in it."""

    agent: Agent
    server: Server


@asynccontextmanager
async def answering(**agent: Any) -> AsyncIterator[tuple[Agent, Server]]:
    peer = Agent(**agent)
    async with serving(peer.respond) as server:
        try:
            yield peer, server
        finally:
            await peer.close()


@asynccontextmanager
async def entered(*, speaking: bool = True, **kwargs: Any) -> AsyncIterator[Meeting]:
    async with answering(speaking=speaking) as (agent, server), opened(server.url, **kwargs) as visit:
        await visit.room.enter()
        await until(lambda: agent.channel is not None)
        yield Meeting(visit.room, visit.listener, visit.clock, agent, server)


def held() -> set[tuple[str, Any]]:
    """What this process holds: tasks, threads other than the event loop's own, UDP and TCP sockets."""
    threads = {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}
    return {
        *(("task", str(task.get_coro())) for task in asyncio.all_tasks()),
        *(("thread", f"{thread.name} {thread.ident}") for thread in threads),
        *(("socket", (one.type, one.laddr)) for one in psutil.Process().net_connections("inet")),
    }


def ports() -> set[int]:
    """The local ports that are held."""
    return {what[1].port for kind, what in held() if kind == "socket"}


@asynccontextmanager
async def leaves_nothing() -> AsyncIterator[None]:
    """What begins inside must be over within a moment of its end."""
    before = held()
    yield
    with anyio.move_on_after(3):
        while held() - before:
            await anyio.sleep(STEP_S)
    assert held() - before == set()
