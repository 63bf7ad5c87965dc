"""Which rooms a launch may name: hosts that the settings allow, at addresses that they allow.

Without this a launch could make the server call anything that it can reach and whoever launches can't.
"""

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from runner.errors import RunnerError, UsageError
from runner.rooms.urls import RoomKind, check_start_url, room_kind
from runner.settings import ServerSettings, Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str], Awaitable[list[str]]]

RESOLVE_TIMEOUT_S = 3.0
RESOLVED_AT_ONCE = 16

_ICE_URL = re.compile(r"(?:stun|turn)s?:(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?(?:\?.*)?")
"""Only what everybody reads in the same way: whoever opens it must come to the host that was checked."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOCALHOST = "localhost"
_SETTING = "server.allowed_rooms"


class RoomRefused(RunnerError):
    """The settings do not allow a room or start URL; the text says which setting would."""


async def resolve(host: str) -> list[str]:
    """Return the addresses of a name; none where it has none, or its name server does not answer in time."""

    def look_up() -> list[str]:
        return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]

    with anyio.move_on_after(RESOLVE_TIMEOUT_S):
        try:
            # Not the loop's own executor: a queue may have taken that over.
            return await anyio.to_thread.run_sync(look_up, abandon_on_cancel=True)
        except (OSError, UnicodeError):
            return []
    return []


class RoomGuard:
    """Tells which addresses may be opened. Good for one launch: it asks for every name once.

    Args:
        settings: Name what is allowed.
        resolve: Returns the addresses of a name; by default this machine's resolver.
    """

    def __init__(self, settings: Settings, resolve: Resolve | None = None):
        self._server = settings.server
        self._daily_domains = settings.room.daily_domains
        self._resolve = resolve
        self._refusals: dict[str, str | None] = {}

    async def check_room(self, url: str) -> RoomKind:
        """Return what kind of room an address is.

        Raises:
            UsageError: It is no address of a room.
            RoomRefused: It is one that must not be opened.
        """
        kind = room_kind(url, self._daily_domains)
        await self._check_host(url)
        return kind

    async def check_start_url(self, url: str) -> None:
        """Refuse what no session must be started at.

        Raises:
            UsageError: It is no address that a session can be started at.
            RoomRefused: It is one that must not be used.
        """
        check_start_url(url)
        await self._check_host(url)

    async def check_ice_server(self, url: str) -> None:
        """Refuse a STUN or TURN server that must not be asked.

        Raises:
            UsageError: It is no address of one.
            RoomRefused: It is one that must not be used.
        """
        found = _ICE_URL.fullmatch(url)
        if found is None:
            raise UsageError("the address of a STUN or TURN server names no host that can be checked")
        await self._check_host(f"//{found['host']}")

    async def look_up(self, urls: list[str]) -> None:
        """Ask for the names in many addresses at once, so that checking each of them does not wait for its own."""
        limit = anyio.CapacityLimiter(RESOLVED_AT_ONCE)

        async def one(host: str) -> None:
            async with limit:
                await self._refusal(host)

        async with anyio.create_task_group() as tasks:
            for host in {host for url in urls if (host := _host(url)) is not None}:
                tasks.start_soon(one, host)

    async def _check_host(self, url: str) -> None:
        host = _host(url)
        if host is None:
            raise UsageError("room URL: names no host")
        refusal = await self._refusal(host)
        if refusal is not None:
            raise RoomRefused(refusal)

    async def _refusal(self, host: str) -> str | None:
        if host not in self._refusals:
            self._refusals[host] = await self._judge(host)
        return self._refusals[host]

    async def _judge(self, host: str) -> str | None:
        rules = _Rules(self._server)
        literal = _address(host)
        if literal is not None:
            return rules.refusal_of_literal(literal)
        if host == _LOCALHOST or host.endswith(f".{_LOCALHOST}"):
            return None if rules.allow_loopback else _loopback_refusal(host)
        named = rules.names(host)
        if not named and not rules.networks:
            return _name_refusal(host)
        found = await (self._resolve or resolve)(host)
        addresses = [address for text in found if (address := _address(text)) is not None]
        if not named:
            inside = bool(addresses) and all(rules.holds(address) for address in addresses)
            return None if inside else _name_refusal(host)
        # Without an address there is nothing to be reached: such a run fails for its room, when it is made.
        return next(filter(None, (rules.refusal_of_resolved(host, address) for address in addresses)), None)


class _Rules:
    """The settings, taken apart."""

    def __init__(self, server: ServerSettings):
        self.allow_loopback = server.allow_loopback
        self.networks: list[Network] = []
        self._names: set[str] = set()
        self._suffixes: list[str] = []
        for entry in server.allowed_rooms:
            text = entry.strip().lower().rstrip(".")
            network = _network(text)
            if network is not None:
                self.networks.append(network)
            elif text.startswith("*."):
                self._suffixes.append(text[1:])
            else:
                self._names.add(text)

    def names(self, host: str) -> bool:
        """Return whether a name is allowed."""
        return host in self._names or any(host.endswith(s) and host != s[1:] for s in self._suffixes)

    def holds(self, address: Address) -> bool:
        """Return whether an address is allowed as such."""
        return any(address.version == network.version and address in network for network in self.networks)

    def refusal_of_literal(self, address: Address) -> str | None:
        if self.holds(address):
            return None
        if address.is_loopback:
            return None if self.allow_loopback else _loopback_refusal(str(address))
        return f"the address {address} is not allowed; add it, or its network, to the setting {_SETTING}"

    def refusal_of_resolved(self, host: str, address: Address) -> str | None:
        if self.holds(address):
            return None
        if address.is_loopback:
            return None if self.allow_loopback else _loopback_refusal(f"{host} ({address})")
        if address.is_global and not address.is_multicast:
            return None
        return (
            f"{host} is at {address}, which is no public address; to allow it, add the address or its network to the "
            f"setting {_SETTING}"
        )


def _host(url: str) -> str | None:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    return host.rstrip(".") if host else None


def _address(text: str) -> Address | None:
    """Return a text as an address: the one that is reached, where it stands inside another."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return _legacy_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is not None:
            return inner
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _legacy_address(text: str) -> ipaddress.IPv4Address | None:
    """Return an address in the forms that resolvers take for one as well: ``127.1``, ``2130706433``, ``0x7f.1``."""
    if not text or not text[0].isdigit():
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except (OSError, UnicodeError):
        return None


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def _name_refusal(host: str) -> str:
    return f"the host {host} is not allowed; add it to the setting {_SETTING}"


def _loopback_refusal(host: str) -> str:
    return f"{host} is this machine itself, which is not allowed; the setting server.allow_loopback allows it"
