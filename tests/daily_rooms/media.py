"""The media side of a Daily room: ICE-lite, DTLS-SRTP, and packets passed on to those who receive."""

import asyncio
import random
import secrets
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aioice import stun
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsFingerprint, RTCDtlsParameters, RTCDtlsTransport

OPUS_PAYLOAD_TYPE = 100
STUN_FIRST_BYTES = range(4)
"""What a STUN packet begins with; DTLS and SRTP begin higher (RFC 7983)."""

RTP_HEADER_BYTES = 12
CANDIDATE = {"foundation": "udpcandidate", "priority": 1_076_302_079, "protocol": "udp", "type": "host"}

Packet = Callable[[bytes], Awaitable[None]]


class IceLite(asyncio.DatagramProtocol):
    """One UDP port that answers every connectivity check, and sends where the last packet came from."""

    role = "controlled"

    def __init__(self) -> None:
        self.user_fragment = secrets.token_hex(4)
        self.password = secrets.token_hex(12)
        self.port = 0
        self.cut = False
        """Packets are dropped in both directions."""
        self.found = asyncio.Event()
        self._remote: tuple[str, int] | None = None
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self._transport: asyncio.DatagramTransport | None = None

    @classmethod
    async def open(cls) -> "IceLite":
        ice = cls()
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: ice, local_addr=("127.0.0.1", 0))
        return ice

    @property
    def parameters(self) -> dict[str, Any]:
        """What the library is told of it."""
        return {"usernameFragment": self.user_fragment, "password": self.password, "iceLite": True}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.cut or not data:
            return
        if data[0] not in STUN_FIRST_BYTES:
            self._arrived.put_nowait(data)
            return
        try:
            request = stun.parse_message(data)
        except ValueError:
            return
        if request.message_class != stun.Class.REQUEST or self._transport is None:
            return
        answer = stun.Message(
            message_method=stun.Method.BINDING,
            message_class=stun.Class.RESPONSE,
            transaction_id=request.transaction_id,
        )
        answer.attributes["XOR-MAPPED-ADDRESS"] = addr
        answer.add_message_integrity(self.password.encode())
        answer.add_fingerprint()
        self._transport.sendto(bytes(answer), addr)
        self._remote = addr
        self.found.set()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # What aiortc's DTLS transport asks of what is below it.

    async def _recv(self) -> bytes:
        return await self._arrived.get()

    async def _send(self, data: bytes) -> None:
        if self._remote is not None and self._transport is not None and not self.cut:
            self._transport.sendto(data, self._remote)


class Dtls(RTCDtlsTransport):
    """aiortc's DTLS-SRTP, which hands decrypted packets on instead of to a receiver."""

    def __init__(self, ice: IceLite, certificate: RTCCertificate):
        super().__init__(ice, [certificate])  # type: ignore[arg-type]
        self.on_packet: Packet | None = None
        self.received = 0

    async def _handle_rtp_data(self, data: bytes, arrival_time_ms: int) -> None:
        self.received += 1
        if self.on_packet is not None:
            await self.on_packet(data)

    async def _handle_rtcp_data(self, data: bytes) -> None:
        """Leave reports alone: nobody here adapts to them."""


class MediaTransport:
    """One of a peer's two transports: what it sends on, or what it receives on."""

    def __init__(self, ice: IceLite, direction: str):
        self.id = str(uuid.uuid4())
        self.direction = direction
        self.ice = ice
        self.dtls = Dtls(ice, RTCCertificate.generateCertificate())
        self._starting: asyncio.Task[None] | None = None

    def options(self) -> dict[str, Any]:
        """Return what the library is told of it."""
        fingerprints = [
            {"algorithm": fingerprint.algorithm, "value": fingerprint.value}
            for fingerprint in self.dtls.getLocalParameters().fingerprints
            if fingerprint.algorithm == "sha-256"
        ]
        return {
            "id": self.id,
            "iceLite": True,
            "iceParameters": self.ice.parameters,
            "iceCandidates": [{**CANDIDATE, "ip": "127.0.0.1", "address": "127.0.0.1", "port": self.ice.port}],
            "dtlsParameters": {"role": "auto", "fingerprints": fingerprints},
        }

    def connect(self, parameters: dict[str, Any], delay_s: float) -> None:
        """Begin the handshake, ``delay_s`` after the library has found the port."""
        self.dtls._set_role("client" if parameters["role"] == "server" else "server")
        fingerprints = [RTCDtlsFingerprint(**fingerprint) for fingerprint in parameters["fingerprints"]]

        async def handshake() -> None:
            await self.ice.found.wait()
            await asyncio.sleep(delay_s)
            await self.dtls.start(RTCDtlsParameters(fingerprints=fingerprints))

        self._starting = asyncio.create_task(handshake())

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        await self.dtls.stop()
        self.ice.close()


class Producer:
    """What one peer sends from one source, and who receives it."""

    def __init__(self, rtp_parameters: dict[str, Any], loss_share: Callable[[], float]):
        self._loss_share = loss_share
        self._chance = random.Random(1)
        self.id = str(uuid.uuid4())
        self.codec_parameters = rtp_parameters["codecs"][0].get("parameters", {})
        self.silenced = False
        """Its packets are taken and not passed on."""
        self._receivers: dict[int, Dtls] = {}

    def add_receiver(self, dtls: Dtls) -> int:
        """Send it to one more; return the SSRC it is sent with."""
        ssrc = secrets.randbelow(2**31) + 1
        self._receivers[ssrc] = dtls
        return ssrc

    def remove_receiver(self, dtls: Dtls) -> None:
        self._receivers = {ssrc: to for ssrc, to in self._receivers.items() if to is not dtls}

    async def forward(self, packet: bytes) -> None:
        if self.silenced or self._chance.random() < self._loss_share():
            return
        for ssrc, dtls in list(self._receivers.items()):
            try:
                await dtls._send_rtp(relabelled(packet, ssrc))
            except ConnectionError:
                continue


def relabelled(packet: bytes, ssrc: int) -> bytes:
    """Return an RTP packet as it goes to a receiver: with its payload type and SSRC, and without extensions."""
    sources, has_extension = packet[0] & 0x0F, packet[0] & 0x10
    payload_at = RTP_HEADER_BYTES + 4 * sources
    if has_extension:
        payload_at += 4 + 4 * int.from_bytes(packet[payload_at + 2 : payload_at + 4], "big")
    marker = packet[1] & 0x80
    return bytes([0x80, marker | OPUS_PAYLOAD_TYPE]) + packet[2:8] + ssrc.to_bytes(4, "big") + packet[payload_at:]
