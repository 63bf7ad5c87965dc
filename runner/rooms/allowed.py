"""Which rooms a launch may name: hosts that the settings allow, at addresses that they allow.

Without this a launch could make the server call anything that it can reach and whoever launches can't.
"""

import re

import anyio

from runner.errors import UsageError
from runner.hosts import HostRefused, HostRules, Resolve, host_of, resolve
from runner.rooms.urls import RoomKind, check_start_url, room_kind
from runner.settings import Settings

RESOLVED_AT_ONCE = 16

_ICE_URL = re.compile(r"(?:stun|turn)s?:(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?(?:\?.*)?")
"""Only what everybody reads in the same way: whoever opens it must come to the host that was checked."""

_SETTING = "server.allowed_rooms"


class RoomRefused(HostRefused):
    """The settings do not allow a room or start URL; the text says which setting would."""


class RoomGuard:
    """Tells which addresses may be opened. Good for one launch: it asks for every name once.

    Args:
        resolve: Returns the addresses of a name; by default this machine's resolver.
    """

    def __init__(self, settings: Settings, resolve: Resolve | None = None):
        server = settings.server
        self._rules = HostRules(server.allowed_rooms, allow_loopback=server.allow_loopback, setting=_SETTING)
        self._daily_domains = settings.room.daily_domains
        self._resolve = resolve
        self._refusals: dict[str, str | None] = {}

    async def check_room(self, url: str) -> RoomKind:
        """Return what kind of room an address is; raises UsageError for none, RoomRefused for one not allowed."""
        kind = room_kind(url, self._daily_domains)
        await self._check_host(url)
        return kind

    async def check_start_url(self, url: str) -> None:
        """Refuse what no session can, or must, be started at, with the errors of :meth:`check_room`."""
        check_start_url(url)
        await self._check_host(url)

    async def check_ice_server(self, url: str) -> None:
        """Refuse a STUN or TURN server that is none, or must not be asked, with the errors of :meth:`check_room`."""
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
            for host in {host for url in urls if (host := host_of(url)) is not None}:
                tasks.start_soon(one, host)

    async def _check_host(self, url: str) -> None:
        host = host_of(url)
        if host is None:
            raise UsageError("room URL: names no host")
        refusal = await self._refusal(host)
        if refusal is not None:
            raise RoomRefused(refusal)

    async def _refusal(self, host: str) -> str | None:
        if host not in self._refusals:
            try:
                # Without an address there is nothing to be reached: such a run fails for its room, when it is made.
                await self._rules.addresses(host, self._resolve or resolve)
                self._refusals[host] = None
            except HostRefused as error:
                self._refusals[host] = str(error)
        return self._refusals[host]
