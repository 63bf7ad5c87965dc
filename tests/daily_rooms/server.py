"""Rooms on this machine that the real daily-python joins: lookup, signalling and media, and what a test orders.

The wire protocol is not documented: what is here was read off :data:`SERVED_VERSION`, and it is all that is served.
Whatever the library says that is not known here is kept under ``unknown`` in the state, and fails the test.
"""

import argparse
import asyncio
import base64
import json
import secrets
import ssl
import sys
import time
import uuid
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from aiohttp import WSMsgType, web

from tests.daily_rooms.media import OPUS_PAYLOAD_TYPE, IceLite, MediaTransport, Producer

SERVED_VERSION = "0.36.0"
"""The version of daily-python whose protocol this is."""

DOMAIN = "acme"
PERMISSIONS = {"hasPresence": True, "canSend": True, "canReceive": {"base": True}, "canAdmin": False}
OPUS = {"mimeType": "audio/opus", "clockRate": 48_000, "channels": 2}
CODEC = {**OPUS, "payloadType": OPUS_PAYLOAD_TYPE}
CAPABILITIES = {**OPUS, "kind": "audio", "preferredPayloadType": OPUS_PAYLOAD_TYPE, "parameters": {}}
CAPABILITIES["rtcpFeedback"] = [{"type": "transport-cc", "parameter": ""}]
MID = {"kind": "audio", "uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "preferredId": 1, "preferredEncrypt": False}
MID["direction"] = "sendrecv"
WORKER = {"dnsName": "sfu.wss.daily.co", "workerId": "sfu", "group": "eu-central-1", "env": "prod"}
WORKER["wssUri"] = "wss://sfu.wss.daily.co:443"
LEAVES = "sig-disconnect"
NOTED_ONLY = frozenset({"sig-logs", "sig-ks-row"})
"""What the library reports for Daily's own statistics."""

CONTROL_OF_PRODUCERS = frozenset({"pause-producer", "resume-producer"})
CONTROL_OF_CONSUMERS = frozenset({"pause-consumer", "resume-consumer", "close-consumer", "set-consumer-layers"})


@dataclass
class Orders:
    """What a test wants of a room.

    Attributes:
        token: The only token that is taken; None takes any, and none.
        lookup_status: HTTP status of the lookup.
        lookup_error: The lookup's ``error``, such as ``exp-room``.
        join_error: Said at the websocket in place of a join.
        most: How many may be in the room at once.
        dtls_delay_s: How long media connections take to be encrypted.
        loss_share: The share of packets that are not passed on.
        microphone_delay_s: How long after somebody begins to send, others are told.
        forget_after_s: How long a participant whose websocket is gone is still shown to the others.
    """

    token: str | None = None
    lookup_status: int = 200
    lookup_error: str | None = None
    join_error: dict[str, Any] | None = None
    most: int | None = None
    dtls_delay_s: float = 0.0
    loss_share: float = 0.0
    microphone_delay_s: float = 0.0
    forget_after_s: float = 0.0


@dataclass
class Room:
    name: str
    orders: Orders = field(default_factory=Orders)
    peers: "dict[str, Peer]" = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    joins_tried: int = 0
    lookups: int = 0
    deleted: bool = False

    def others(self, peer: "Peer") -> "list[Peer]":
        return [other for other in self.peers.values() if other is not peer]

    async def announce_tracks(self) -> None:
        """Tell all who are ready to receive what there is."""
        tracks = [[peer.id, tag] for peer in self.peers.values() for tag in peer.producers]
        for peer in list(self.peers.values()):
            if peer.receiving is not None:
                await peer.send({"tag": "soup", "msgData": {"tracks": tracks}})

    async def drop(self, peer: "Peer") -> None:
        """Take a participant out, and tell the others it has left."""
        if self.peers.get(peer.id) is not peer:
            return
        del self.peers[peer.id]
        for other in self.peers.values():
            await other.send({"msgStr": "sig-presence", "from": peer.id, "msgData": LEAVES})
        await peer.close()

    def state(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "orders": asdict(self.orders),
            "lookups": self.lookups,
            "joins_tried": self.joins_tried,
            "messages": self.messages,
            "peers": {
                peer.name: {
                    "id": peer.id,
                    "sends": sorted(peer.producers),
                    "receives": peer.receives,
                    "packets": sum(t.dtls.received for t in peer.transports.values()),
                }
                for peer in self.peers.values()
            },
        }


class Peer:
    """Somebody in a room, and their websocket."""

    def __init__(self, room: Room, socket: web.WebSocketResponse, join: dict[str, Any]):
        self.room = room
        self.socket = socket
        self.id = str(join["from"])
        self.presence: dict[str, Any] = {**join["msgData"]["presence"], "permissions": PERMISSIONS}
        self.transports: dict[str, MediaTransport] = {}
        self.producers: dict[str, Producer] = {}
        self.receives: list[str] = []
        """Names of those whose media goes to this one, in the order it was asked for."""

    @property
    def name(self) -> str:
        return str(self.presence.get("name"))

    @property
    def receiving(self) -> MediaTransport | None:
        return next((t for t in self.transports.values() if t.direction == "recv"), None)

    async def send(self, message: dict[str, Any]) -> None:
        try:
            await self.socket.send_json(message)
        except ConnectionError:
            return

    async def close(self) -> None:
        for other in self.room.peers.values():
            for producer in other.producers.values():
                for transport in self.transports.values():
                    producer.remove_receiver(transport.dtls)
        for transport in self.transports.values():
            await transport.close()
        await self.socket.close()


class Server:
    """All rooms, and what goes on in them."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self.unknown: list[str] = []
        self._meeting = str(uuid.uuid4())
        self._tasks: set[asyncio.Task[None]] = set()

    def room(self, name: str) -> Room:
        return self.rooms.setdefault(name, Room(name))

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Lookup.

    async def https(self, request: web.Request) -> web.StreamResponse:
        """Serve what the library asks for by HTTPS and by websocket, all of it through its proxy address."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._signalling(request)
        path = request.path
        if "/rooms/check/" in path:
            return self._lookup(self.room(path.rstrip("/").rpartition("/")[2]), request.headers)
        if "/rooms/ice" in path:
            return web.json_response({"iceConfig": {"iceServers": []}})
        if request.method == "POST" and path.rstrip("/").endswith("/log"):
            return web.json_response({})
        self._note_unknown(f"{request.method} {path}")
        return web.json_response({"error": f"the test's room server does not know {path}"}, status=501)

    def _lookup(self, room: Room, headers: Any) -> web.Response:
        room.lookups += 1
        orders = room.orders
        if orders.lookup_status != 200:
            return web.json_response({"error": "refused"}, status=orders.lookup_status)
        if orders.token is not None and headers.get("x-dailyjointoken") != orders.token:
            return web.json_response({"error": "invalid-token"}, status=401)
        if room.deleted:
            return web.json_response({"error": "no-room"}, status=404)
        full = orders.most is not None and len(room.peers) >= orders.most
        error = orders.lookup_error or ("meeting-full" if full else None)
        if error is not None:
            return web.json_response({"error": error})
        return web.json_response(
            {
                "privacy": "public",
                "needToRequest": False,
                "sigAuthz": _session_token(room.name),
                "roomId": str(uuid.uuid5(uuid.NAMESPACE_URL, room.name)),
                "roomName": room.name,
                "apiCreated": True,
                "domainProps": {"api_plan_id": "PLAN_FREE", "signaling_impl": "ws"},
                "roomProps": {},
                "joinProps": {},
                "permissions": PERMISSIONS,
                "worker": WORKER,
                "iceConfig": {"iceServers": []},
                "geoGroup": "eu-central-1",
            }
        )

    # Signalling.

    async def _signalling(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        peer: Peer | None = None
        async for frame in socket:
            if frame.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                continue
            message = json.loads(frame.data)
            if message.get("msgStr") == "join-for-sig":
                peer = await self._join(socket, message)
            elif peer is not None:
                await self._serve(peer, message)
        if peer is not None:
            self._later(self._forget(peer))
        return socket

    async def _forget(self, peer: Peer) -> None:
        await asyncio.sleep(peer.room.orders.forget_after_s)
        await peer.room.drop(peer)

    async def _join(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> Peer | None:
        room = self.room(str(message["mtgStr"]).rpartition("/")[2])
        room.joins_tried += 1
        if room.orders.join_error is not None:
            await socket.send_json(room.orders.join_error)
            return None
        peer = Peer(room, socket, message)
        others = list(room.peers.values())
        room.peers[peer.id] = peer
        await peer.send(
            {
                **self._ack(room),
                "presences": [other.presence for other in others],
                "sigAuthz": _session_token(room.name),
                "permissions": PERMISSIONS,
            }
        )
        for other in others:
            await other.send({"msgStr": "sig-presence", "from": peer.id, "msgData": peer.presence})
        return peer

    def _ack(self, room: Room) -> dict[str, Any]:
        return {
            "msgStr": "sig-ack",
            "fullParticipantsCount": len(room.peers),
            "activeCount": len(room.peers),
            "passiveCount": 0,
            "presences": [],
            "mtgSession": {"id": self._meeting},
        }

    async def _serve(self, peer: Peer, message: dict[str, Any]) -> None:
        kind, body = message.get("msgStr"), message.get("msgData")
        room = peer.room
        if kind in NOTED_ONLY:
            return
        if kind == "sig-ack":
            await peer.send(self._ack(room))
        elif kind == "sig-presence":
            if body is None or body == LEAVES:
                await room.drop(peer)
                return
            peer.presence = {**peer.presence, **body, "permissions": PERMISSIONS}
            for other in room.others(peer):
                await other.send({"msgStr": "sig-presence", "from": peer.id, "msgData": peer.presence})
        elif kind == "sig-msg":
            await self._pass_on(peer, body)
        else:
            answer = await self._answer(peer, str(kind), body)
            if answer is None:
                self._note_unknown(json.dumps(message)[:500])
                answer = {"error": {"msg": f"the test's room server does not know {kind}"}}
            await peer.send({"tag": "soup", "msgData": {"_kTs": body.get("_sendTs"), **answer}})
            if kind == "send-track" or (kind == "create-transport" and body.get("direction") == "recv"):
                self._later(self._announce(room))

    async def _announce(self, room: Room) -> None:
        await asyncio.sleep(room.orders.microphone_delay_s)
        await room.announce_tracks()

    async def _pass_on(self, peer: Peer, body: dict[str, Any]) -> None:
        room, to = peer.room, body.get("envelopeTo", "*")
        room.messages.append({"from": peer.name, "to": to, "at_s": time.time(), "message": body.get("fields")})
        for other in room.others(peer):
            if to in ("*", other.id):
                message = {"msgStr": "sig-msg", "tag": body.get("tag"), "from": peer.id, "to": to}
                sent = {"msgData": body.get("fields"), "serverTS": int(time.time() * 1_000)}
                await other.send({**message, **sent})

    async def _answer(self, peer: Peer, kind: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Return what a request of the media side is answered with; None for one that is not known."""
        match kind:
            case "join-as-new-peer":
                return {"routerRtpCapabilities": {"codecs": [CAPABILITIES], "headerExtensions": [MID]}}
            case "create-transport":
                transport = MediaTransport(await IceLite.open(), body["direction"])
                peer.transports[transport.id] = transport
                return {"transportOptions": transport.options()}
            case "connect-transport":
                peer.transports[body["transportId"]].connect(body["dtlsParameters"], peer.room.orders.dtls_delay_s)
                return {}
            case "send-track":
                producer = Producer(body["rtpParameters"], lambda: peer.room.orders.loss_share)
                peer.producers[body["appData"]["mediaTag"]] = producer
                peer.transports[body["transportId"]].dtls.on_packet = producer.forward
                return {"id": producer.id, "producerInfo": {"id": producer.id}}
            case "recv-track":
                return self._receive(peer, body)
            case "restart-ice":
                return {"iceParameters": peer.transports[body["transportId"]].ice.parameters}
        if kind in CONTROL_OF_PRODUCERS:
            for producer in peer.producers.values():
                if producer.id == body.get("producerId"):
                    producer.silenced = kind == "pause-producer"
            return {}
        return {} if kind in CONTROL_OF_CONSUMERS else None

    def _receive(self, peer: Peer, body: dict[str, Any]) -> dict[str, Any]:
        source = peer.room.peers.get(body.get("mediaPeerId", ""))
        producer = source.producers.get(body.get("mediaTag", "")) if source is not None else None
        transport = peer.transports.get(body.get("transportId", ""), peer.receiving)
        if source is None or producer is None or transport is None:
            return {"error": {"msg": "server-side producer not found", "noProducer": True}}
        ssrc = producer.add_receiver(transport.dtls)
        peer.receives.append(source.name)
        return {
            "consumerParameters": {
                "producerId": producer.id,
                "id": str(uuid.uuid4()),
                "kind": "audio",
                "rtpParameters": {
                    "mid": str(len(peer.receives) - 1),
                    "codecs": [{**CODEC, "parameters": producer.codec_parameters, "rtcpFeedback": []}],
                    "headerExtensions": [],
                    "encodings": [{"ssrc": ssrc}],
                    "rtcp": {"cname": f"c{ssrc}", "reducedSize": True, "mux": True},
                },
                "type": "simple",
                "appData": {},
                "producerPaused": False,
            }
        }

    def _note_unknown(self, what: str) -> None:
        if what not in self.unknown:
            self.unknown.append(what)

    # What a test orders, and the part of Daily's REST API that Pipecat's runner uses.

    async def control(self, request: web.Request) -> web.Response:
        """``GET`` or ``PATCH /control/<room>``: its state; its :class:`Orders`."""
        room = self.room(request.match_info["room"])
        if request.method == "PATCH":
            orders = await request.json()
            if strange := set(orders) - {known.name for known in fields(Orders)}:
                return web.json_response({"error": f"no such order: {sorted(strange)}"}, status=400)
            for name, value in orders.items():
                setattr(room.orders, name, value)
        return web.json_response({**room.state(), "unknown": self.unknown})

    async def act(self, request: web.Request) -> web.Response:
        """``POST /control/<room>/<verb>?name=<participant>``: do something to all of a room, or to one in it."""
        room, verb = self.room(request.match_info["room"]), request.match_info["verb"]
        name = request.query.get("name")
        peers = [peer for peer in room.peers.values() if name in (None, peer.name)]
        for peer in peers:
            match verb:
                case "cut" | "mend":
                    for transport in peer.transports.values():
                        transport.ice.cut = verb == "cut"
                case "silence":
                    for producer in peer.producers.values():
                        producer.silenced = True
                case "close":
                    await peer.socket.close()
                case "drop":
                    await room.drop(peer)
                case "delete":
                    room.deleted = True
                    await peer.send({"msgStr": "room-deleted"})
                case _:
                    return web.json_response({"error": f"no such verb: {verb}"}, status=400)
        return web.json_response({"peers": [peer.name for peer in peers]})

    async def make_room(self, request: web.Request) -> web.Response:
        name = (await request.json()).get("name") or secrets.token_hex(4)
        room = {"id": str(uuid.uuid4()), "name": name, "url": f"https://{DOMAIN}.daily.co/{name}", "config": {}}
        made = {"api_created": True, "privacy": "public", "created_at": "2026-01-01T00:00:00.000Z"}
        return web.json_response({**room, **made})

    async def make_token(self, request: web.Request) -> web.Response:
        return web.json_response({"token": secrets.token_urlsafe(24)})


def _session_token(room: str) -> str:
    """Return a token in the form the library reads; nobody checks its signature."""

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    now_s = int(time.time())
    head = {"alg": "HS256", "typ": "JWT"}
    claims = {"m": f"{DOMAIN}/{room}", "iat": now_s, "exp": now_s + 86_400}
    return ".".join(
        [part(json.dumps(head).encode()), part(json.dumps(claims).encode()), part(secrets.token_bytes(32))]
    )


async def serve(certificate: str, key: str) -> None:
    """Serve on two free ports of 127.0.0.1 until standard input ends; print both, as JSON, when ready."""
    server = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure, plain = web.Application(), web.Application()
    secure.router.add_route("*", "/{path:.*}", server.https)
    plain.router.add_route("*", "/control/{room}", server.control)
    plain.router.add_post("/control/{room}/{verb}", server.act)
    plain.router.add_post("/v1/rooms", server.make_room)
    plain.router.add_post("/v1/meeting-tokens", server.make_token)
    ports: list[int] = []
    for application, ssl_context in ((secure, context), (plain, None)):
        runner = web.AppRunner(application, shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
        await site.start()
        ports.append(runner.addresses[0][1])
    print(json.dumps({"https": ports[0], "http": ports[1]}), flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def main() -> None:
    parser = argparse.ArgumentParser(description="Daily rooms on this machine, for tests")
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.certificate, arguments.key))


if __name__ == "__main__":
    main()
