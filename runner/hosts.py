"""Which hosts may be reached: those that settings allow, at addresses that they allow.

Without this whoever uses the API could make the server call anything that it can reach and they can't.
"""

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from runner.errors import RunnerError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str], Awaitable[list[str]]]

RESOLVE_TIMEOUT_S = 3.0

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOCALHOST = "localhost"
_LOOPBACK = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))


class HostRefused(RunnerError):
    """The settings do not allow a host; the text says which setting would."""


class HostUnknown(HostRefused):
    """A host may be allowed by its addresses, and has none at present: a name server may not have answered."""


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


def is_this_machine(host: str) -> bool:
    """Whether a host is known, without asking anybody, to be the machine that asks."""
    address = _address(host)
    named = host == _LOCALHOST or host.endswith(f".{_LOCALHOST}")
    return named if address is None else address.is_loopback


def leads_here(url: str) -> bool:
    """Whether an address is known, without asking anybody, to be on the machine that asks."""
    return is_this_machine(urlsplit(url).hostname or "")


class HostRules:
    """What a setting allows, taken apart.

    Args:
        allowed: Names, ``*.name``, addresses and networks.
        allow_loopback: Whether this machine itself is allowed.
        setting: The setting that ``allowed`` is of, for errors.
    """

    def __init__(self, allowed: Sequence[str], *, allow_loopback: bool, setting: str):
        self._allow_loopback = allow_loopback
        self._setting = setting
        self._networks: list[Network] = []
        self._names: set[str] = set()
        self._suffixes: list[str] = []
        for entry in allowed:
            text = entry.strip().lower().rstrip(".")
            network = _network(text)
            if network is not None:
                self._networks.append(network)
            elif text.startswith("*."):
                self._suffixes.append(text[1:])
            else:
                self._names.add(text)

    async def addresses(self, host: str, resolve: Resolve = resolve) -> list[Address]:
        """Return where a host may be reached: its addresses, all of which are allowed. None where it has none.

        Args:
            host: A name or an address, as :func:`host_of` returns it.
            resolve: Returns the addresses of a name.

        Raises:
            HostRefused: It must not be reached.
        """
        literal = _address(host)
        if literal is not None:
            if refusal := self._refusal_of_literal(literal):
                raise HostRefused(refusal)
            return [literal]
        if is_this_machine(host):
            if not self._allow_loopback:
                raise HostRefused(_loopback_refusal(host))
            # These names are this machine's, whatever a resolver says (RFC 6761, 6.3).
            return list(_LOOPBACK)
        named = self._is_named(host)
        if not named and not self._networks:
            raise HostRefused(self._name_refusal(host))
        found = await resolve(host)
        addresses = [address for text in found if (address := _address(text)) is not None]
        if not named:
            if not addresses:
                raise HostUnknown(
                    f"the host {host} has no address; to allow it by its name, add it to the setting {self._setting}"
                )
            if not all(self._holds(address) for address in addresses):
                raise HostRefused(self._name_refusal(host))
            return addresses
        for address in addresses:
            if refusal := self._refusal_of_resolved(host, address):
                raise HostRefused(refusal)
        return addresses

    def _is_named(self, host: str) -> bool:
        return host in self._names or any(host.endswith(s) and host != s[1:] for s in self._suffixes)

    def _holds(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._networks)

    def _refusal_of_literal(self, address: Address) -> str | None:
        if self._holds(address):
            return None
        if address.is_loopback:
            return None if self._allow_loopback else _loopback_refusal(str(address))
        return f"the address {address} is not allowed; add it, or its network, to the setting {self._setting}"

    def _refusal_of_resolved(self, host: str, address: Address) -> str | None:
        if self._holds(address):
            return None
        if address.is_loopback:
            return None if self._allow_loopback else _loopback_refusal(f"{host} ({address})")
        if address.is_global and not address.is_multicast:
            return None
        return (
            f"{host} is at {address}, which is no public address; to allow it, add the address or its network to the "
            f"setting {self._setting}"
        )

    def _name_refusal(self, host: str) -> str:
        return f"the host {host} is not allowed; add it to the setting {self._setting}"


def host_of(url: str) -> str | None:
    """Return the host of an address; None if it names none."""
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


def _loopback_refusal(host: str) -> str:
    return f"{host} is this machine itself, which is not allowed; the setting server.allow_loopback allows it"
