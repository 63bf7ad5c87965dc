"""A minimal SmallWebRTC client, far from our own room code: plain aiortc, and RTVI written out by hand."""

import asyncio
import contextlib
import fractions
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Self

import httpx
import numpy as np
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame

RATE_HZ = 48_000
FRAME = 960


class Mouth(MediaStreamTrack):
    """Sends silence, or the clip it was given, and knows when each sample was handed over."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._origin_ns: int | None = None
        self._n = 0
        self._pcm = np.zeros(0, np.int16)
        self._pos = 0
        self.started_ns: int | None = None
        self.ended_ns: int | None = None
        self.done = asyncio.Event()

    def say(self, pcm: np.ndarray) -> None:
        """Play mono 48 kHz from the next frame on."""
        self._pcm, self._pos = pcm, 0
        self.started_ns = self.ended_ns = None
        self.done.clear()

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic_ns()
        if self._origin_ns is None:
            self._origin_ns = now
        at = self._origin_ns + self._n * FRAME * 1_000_000_000 // RATE_HZ
        if at > now:
            await asyncio.sleep((at - now) / 1e9)
        chunk = self._pcm[self._pos : self._pos + FRAME]
        if len(chunk):
            if self.started_ns is None:
                self.started_ns = at
            self._pos += len(chunk)
            if self._pos >= len(self._pcm):
                self.ended_ns = at + len(chunk) * 1_000_000_000 // RATE_HZ
                self.done.set()
        data = np.zeros(FRAME, np.int16)
        data[: len(chunk)] = chunk
        frame = AudioFrame.from_ndarray(data[np.newaxis, :], layout="mono")
        frame.sample_rate = RATE_HZ
        frame.pts = self._n * FRAME
        frame.time_base = fractions.Fraction(1, RATE_HZ)
        self._n += 1
        return frame


class Client:
    """One call."""

    def __init__(self, base: str) -> None:
        self._base = base
        self.pc = RTCPeerConnection()
        self.mouth = Mouth()
        self.pc.addTransceiver(self.mouth, direction="sendrecv")
        self.pc.addTransceiver("video", direction="sendrecv")
        self.pc.addTransceiver("video", direction="sendrecv")
        self.channel = self.pc.createDataChannel("chat", ordered=True)
        self.messages: list[dict[str, Any]] = []
        self.stamps_ns: list[int] = []
        self._changed = asyncio.Condition()
        self.loud_ns: list[int] = []
        """When audible frames of the agent were received, after the jitter buffer."""
        self.left = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._read = 0
        self.session_id: str | None = None

        @self.channel.on("message")
        async def _(raw: str) -> None:
            message = json.loads(raw)
            if message.get("type") == "signalling" and message["message"].get("type") == "peerLeft":
                self.left.set()
            async with self._changed:
                self.messages.append(message)
                self.stamps_ns.append(time.monotonic_ns())
                self._changed.notify_all()

        @self.pc.on("track")
        def _(track: Any) -> None:
            if track.kind == "audio":
                self._tasks.append(asyncio.create_task(self._hear(track)))

        @self.pc.on("connectionstatechange")
        def _() -> None:
            if self.pc.connectionState in ("closed", "failed"):
                self.left.set()

    async def _hear(self, track: Any) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if np.abs(frame.to_ndarray().astype(np.int32)).max() > 300:
                    self.loud_ns.append(time.monotonic_ns())

    async def _ping(self) -> None:
        n = 0
        while self.channel.readyState == "open":
            self.channel.send(f"ping: {n}")
            n += 1
            await asyncio.sleep(1)

    async def connect(self, body: dict[str, Any] | None = None, *, start: bool = True) -> None:
        """Start a session, exchange offer and answer, and wait for the data channel."""
        opened = asyncio.Event()
        self.channel.on("open", opened.set)
        await self.pc.setLocalDescription(await self.pc.createOffer())
        description = self.pc.localDescription
        async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
            url = f"{self._base}/api/offer"
            if start:
                answer = await http.post(f"{self._base}/start", json={"transport": "webrtc", "body": body or {}})
                answer.raise_for_status()
                self.session_id = answer.json()["sessionId"]
                url = f"{self._base}/sessions/{self.session_id}/api/offer"
            answer = await http.post(url, json={"sdp": description.sdp, "type": description.type})
            answer.raise_for_status()
            got = answer.json()
        await self.pc.setRemoteDescription(RTCSessionDescription(got["sdp"], got["type"]))
        await asyncio.wait_for(opened.wait(), 10)
        self._tasks.append(asyncio.create_task(self._ping()))

    def send(self, kind: str, data: Any = None) -> None:
        """Send an RTVI message."""
        message = {"label": "rtvi-ai", "type": kind, "id": f"{kind}-1"}
        self.channel.send(json.dumps(message if data is None else {**message, "data": data}))

    def ready(self) -> None:
        self.send("client-ready", {"version": "2.2.0", "about": {"library": "tests"}})

    async def expect(self, kind: str, timeout_s: float = 20, **data: Any) -> dict[str, Any]:
        """Wait for a message of a type, with these in its data, that was not waited for before; return its data."""

        def find() -> dict[str, Any] | None:
            for index in range(self._read, len(self.messages)):
                message = self.messages[index]
                got = message.get("data") or {}
                if message.get("type") == kind and all(got.get(key) == value for key, value in data.items()):
                    self._read = index + 1
                    return got
            return None

        async with self._changed:
            try:
                async with asyncio.timeout(timeout_s):
                    while (found := find()) is None:
                        await self._changed.wait()
            except TimeoutError:
                seen = [message.get("type") for message in self.messages[self._read :]]
                raise AssertionError(f"no {kind} {data} within {timeout_s} s; came: {seen}") from None
        return found

    async def said(self, words: str, timeout_s: float = 10) -> str:
        """Wait until the agent tells (``bot-output``) a text with these words."""
        async with asyncio.timeout(timeout_s):
            while True:
                text = str((await self.expect("bot-output", timeout_s)).get("text", ""))
                if words.lower() in text.lower():
                    return text

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.pc.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@contextlib.asynccontextmanager
async def call(base: str, body: dict[str, Any] | None = None, *, start: bool = True) -> AsyncIterator[Client]:
    """Call an agent, and be ready."""
    async with Client(base) as client:
        await client.connect(body, start=start)
        client.ready()
        await client.expect("bot-ready")
        yield client
