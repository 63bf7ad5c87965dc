"""The agents that a suite file can name, and what each can be passed."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr

from runner.errors import UsageError
from runner.rooms.urls import RoomKind, check_data_message, check_start_url, room_kind
from runner.scenarios.nodes import Node
from runner.sessions.local_agent import PORT_PLACEHOLDER
from runner.sessions.pipecat_cloud import AGENT_NAME, CLOUD_URL
from runner.settings import Settings

_WAYS = ("url", "rooms", "start_url", "pipecat_cloud", "command")
AGENT_KEYS = (*_WAYS, "transport", "env", "token", "private_key", "data", "publish", "participant_name")

_BELONGS_TO = {"env": ("command",), "transport": ("start_url", "pipecat_cloud"), "private_key": ("pipecat_cloud",)}
_ROOM_KEYS = ("url", "token")
_TRANSPORTS = {"webrtc": RoomKind.SMALLWEBRTC, "daily": RoomKind.DAILY}
_FROM_VARIABLE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")

_T = TypeVar("_T")


@dataclass(frozen=True)
class AgentAtUrl:
    """An agent that is there: a Daily room, an ``/api/offer`` address, or the base address of a Pipecat runner."""

    url: str


@dataclass(frozen=True)
class AgentToStart:
    """An agent of which each run gets a session by posting to an address; no kind: that side chooses the room."""

    start_url: str
    kind: RoomKind | None


@dataclass(frozen=True)
class FixedRoom:
    """A room that is there, or a Pipecat runner that is; without a token it has the suite's."""

    url: str
    token: SecretStr | None = None


@dataclass(frozen=True)
class AgentInRooms:
    """An agent that is in several rooms: as many runs at a time as there are rooms, each in one of its own."""

    rooms: tuple[FixedRoom, ...]


@dataclass(frozen=True)
class AgentOnPipecatCloud:
    """An agent deployed on Pipecat Cloud: each run gets a session. The suite's token is the key that starts them.

    The private key stops the sessions, and asks how they ended; without it they end by themselves.
    """

    name: str
    kind: RoomKind = RoomKind.DAILY
    private_key: SecretStr | None = None
    cloud_url: str = CLOUD_URL


@dataclass(frozen=True)
class AgentByCommand:
    """An agent that is started on this machine, in the working directory if no folder is given.

    ``{port}`` and ``{python}`` are to be filled in, in the command and in the further environment variables.
    """

    command: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict[str, str])
    folder: Path | None = None


Agent = AgentAtUrl | AgentInRooms | AgentToStart | AgentOnPipecatCloud | AgentByCommand


@dataclass(frozen=True)
class Target:
    """The agent of a suite, and what can be passed to it.

    Attributes:
        kinds: The kinds its rooms have; empty where that is known only when a session was started.
        places: The kinds of rooms that are there already, before a run begins.
    """

    agent: Agent
    kinds: frozenset[RoomKind] = frozenset()
    places: tuple[RoomKind, ...] = ()

    @property
    def most_at_once(self) -> int | None:
        """How many runs there can be at a time; None: as many as the machine can make."""
        if isinstance(self.agent, AgentInRooms):
            return len(self.agent.rooms)
        return 1 if self.places == (RoomKind.DAILY,) else None

    @classmethod
    def read(cls, agent: Node, settings: Settings) -> "Target":
        """Return the agent of a suite file. Raises UsageError: something about it is wrong; names the line."""
        given = [key for key in _WAYS if key in agent]
        if len(given) != 1:
            place = agent[given[1]].place if given else agent.place
            ways = f"{', '.join(_WAYS[:-1])} and {_WAYS[-1]}"
            raise place.error(f"agent must have one of {ways}" + (", and only one" if given else ""))
        for key, ways in _BELONGS_TO.items():
            if key in agent and given[0] not in ways:
                raise agent[key].place.error(f"{key} belongs to {' or '.join(ways)}, not to {given[0]}")
        match given[0]:
            case "url":
                kind = _room(agent["url"], settings)
                return cls(AgentAtUrl(agent["url"].text()), frozenset({kind}), (kind,))
            case "rooms":
                return cls._in_rooms(agent["rooms"], settings)
            case "start_url":
                start_url = agent["start_url"].text()
                checked(agent["start_url"], lambda: check_start_url(start_url))
                kind = agent.get("transport", _transport)
                return cls(AgentToStart(start_url, kind), frozenset() if kind is None else frozenset({kind}))
            case "pipecat_cloud":
                name = agent["pipecat_cloud"].text()
                if not re.fullmatch(AGENT_NAME, name):
                    raise agent["pipecat_cloud"].place.error(
                        "pipecat_cloud: must be the agent's name there: letters, digits and . _ -"
                    )
                kind = agent.get("transport", _transport) or RoomKind.DAILY
                key = agent.get("private_key", read_secret)
                return cls(AgentOnPipecatCloud(name, kind, key), frozenset({kind}))
            case _:
                return cls(_by_command(agent), frozenset({RoomKind.PIPECAT_RUNNER}))

    @classmethod
    def _in_rooms(cls, node: Node, settings: Settings) -> "Target":
        rooms: list[FixedRoom] = []
        kinds: list[RoomKind] = []
        for item in node.some():
            mapping = item.mapping(_ROOM_KEYS)
            room = FixedRoom(mapping["url"].text(), mapping.get("token", read_secret))
            kinds.append(_room(mapping["url"], settings))
            if any(other.url.rstrip("/") == room.url.rstrip("/") for other in rooms):
                raise mapping["url"].place.error("url: this room stands in the list already; each is for one call")
            rooms.append(room)
        return cls(AgentInRooms(tuple(rooms)), frozenset(kinds), tuple(kinds))

    def data(self, node: Node) -> dict[str, Any]:
        if RoomKind.DAILY in self.places:
            raise node.place.error(
                "data: a start takes it along, and a Daily room is there already; use start_url, or publish"
            )
        return json_mapping(node)

    def message(self, node: Node) -> Any:
        value = json_value(node)
        for kind in sorted(self.kinds):
            checked(node, lambda kind=kind: check_data_message(kind, value))
        return value


@dataclass(frozen=True)
class GivenAgent:
    """An agent, and what it is passed in every run that says nothing else; see the suite and its runs."""

    target: Target
    token: SecretStr | None = None
    participant_name: str | None = None
    data: dict[str, Any] | None = None
    publish: Any = None

    @classmethod
    def read(cls, agent: Node, settings: Settings, token: SecretStr | None = None) -> "GivenAgent":
        """Return the agent of a suite file; a token that is given goes before the file's."""
        target = Target.read(agent, settings)
        return cls(
            target,
            token or agent.get("token", read_secret),
            agent.get("participant_name", Node.text),
            agent.get("data", target.data),
            agent.get("publish", target.message),
        )


def _room(node: Node, settings: Settings) -> RoomKind:
    url = node.text()
    return checked(node, lambda: room_kind(url, settings.room.daily_domains))


def _by_command(agent: Node) -> AgentByCommand:
    command = tuple(node.text() for node in agent["command"].items())
    env = agent.get("env", _environment) or {}
    if not command:
        raise agent["command"].place.error("command must hold a program and its arguments")
    if not any(PORT_PLACEHOLDER in text for text in (*command, *env.values())):
        raise agent["command"].place.error(
            f"command: must hold {PORT_PLACEHOLDER}, where the port goes that the agent is to listen on"
        )
    return AgentByCommand(command, env)


def checked(node: Node, check: Callable[[], _T]) -> _T:
    """Return what a check returns; what it refuses is told with the line it stands in."""
    try:
        return check()
    except UsageError as error:
        raise node.place.error(str(error)) from error


def _transport(node: Node) -> RoomKind:
    kind = _TRANSPORTS.get(node.text())
    if kind is None:
        raise node.place.error(f"transport must be {' or '.join(_TRANSPORTS)}, not {node.text()!r}")
    return kind


def _environment(node: Node) -> dict[str, str]:
    if not node.is_mapping():
        raise node.place.error("env must be a mapping (NAME: value)")
    names: list[Any] = list(node.plain())
    for name in names:
        if not isinstance(name, str) or not name or "=" in name:
            raise node.place.error(
                f"env: {name!r} is no name of a variable; quote it if it is one (YAML reads ON as true)"
            )
    mapping = node.mapping(names)
    # An empty variable is one that is set, and says so to the agent.
    return {name: "" if mapping[name].plain() == "" else mapping[name].text() for name in mapping}


def read_secret(node: Node) -> SecretStr:
    """Return what an environment variable holds that is named as ``env:NAME``."""
    named = _FROM_VARIABLE.fullmatch(node.text())
    if named is None:
        # What stands there may be a token: it is not quoted.
        what = f"{node.label} must be env:NAME, where the variable NAME holds it"
        raise node.place.error(f"{what}; no {node.label.replace('_', ' ')} belongs in a file")
    value = os.environ.get(named[1])
    if not value:
        raise node.place.error(f"{node.label}: the environment variable {named[1]} is not set")
    return SecretStr(value)


def json_value(node: Node) -> Any:
    value = node.plain()
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise node.place.error(f"{node.label} must be plain JSON: {error}") from error
    return value


def json_mapping(node: Node) -> dict[str, Any]:
    value = json_value(node)
    if not isinstance(value, dict):
        raise node.place.error(f"{node.label} must be a mapping (key: value)")
    return value
