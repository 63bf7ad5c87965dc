"""Suite files: which scenarios are run against which agent, how often, and how many at a time."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import SecretStr

from bots.caller.script import Script
from runner.comparison.gates import Gates
from runner.errors import UsageError
from runner.rooms.urls import RoomKind, check_data_message, check_start_url, room_kind
from runner.scenarios.evals import load_file, scenario_named, split_spec
from runner.scenarios.model import Scenario
from runner.scenarios.nodes import Mapping, Node, read_yaml
from runner.sessions.local_agent import PORT_PLACEHOLDER
from runner.settings import Settings

MAX_REPEAT = 1_000
MAX_CONCURRENCY = 64
AUTO: Final = "auto"
MAX_RETRIES = 5
MAX_RUNS = 2_000
"""All results are written again after each run, which takes a tenth of a second for so many."""

_SUITE_KEYS = ("name", "agent", "repeat", "concurrency", "retry_inconclusive", "gates", "scenarios")
_GATE_KEYS = tuple(Gates.model_fields)
_AGENT_KEYS = ("url", "start_url", "command", "transport", "env", "token", "data", "publish", "participant_name")
_ENTRY_KEYS = ("scenario", "repeat", "data", "publish")
_TRANSPORTS = {"webrtc": RoomKind.SMALLWEBRTC, "daily": RoomKind.DAILY}
_WAYS = ("url", "start_url", "command")
_TOKEN = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")

_T = TypeVar("_T")


@dataclass(frozen=True)
class AgentAtUrl:
    """An agent that is there: a Daily room, an ``/api/offer`` address, or the base address of a Pipecat runner."""

    url: str


@dataclass(frozen=True)
class AgentToStart:
    """An agent of which each run gets a session by posting to an address.

    Attributes:
        start_url: Where to post.
        kind: What kind of room to ask for; None leaves it to the other side.
    """

    start_url: str
    kind: RoomKind | None


@dataclass(frozen=True)
class AgentByCommand:
    """An agent that is started on this machine.

    Attributes:
        command: What starts it; ``{port}`` and ``{python}`` are to be filled in.
        env: Further environment variables, in which the same are to be filled in.
    """

    command: tuple[str, ...]
    env: dict[str, str]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a suite.

    Attributes:
        index: Its place in the suite, from 0.
        scenario: The scenario.
        script: What is played.
        repeat: Which run of this scenario it is, from 1.
        data: Reaches the bot as its runner arguments' ``body``.
        publish: The data message, if there is one.
    """

    index: int
    scenario: Scenario
    script: Script
    repeat: int
    data: dict[str, Any] | None
    publish: Any = None

    @property
    def title(self) -> str:
        """The scenario's name, with the number of the run from the second on."""
        return run_title(self.scenario.name, self.repeat)


@dataclass(frozen=True)
class Suite:
    """A suite, checked and ready to be run.

    Attributes:
        name: Its name.
        path: The file it was read from.
        agent: The agent under test.
        token: Goes along to the agent's side.
        participant_name: The agent's user name in Daily rooms; None: as the settings have it.
        concurrency: How many runs are made at a time; None: as many as the machine has headroom for.
        runs: The runs, in order.
        skipped: The scenarios that can't be played in a room, of the files that are named as a whole.
        most_at_once: How many there may be at once in any case.
        retry_inconclusive: How often a run is made again that is inconclusive because of our own side or the network.
        gates: The thresholds that are judged at the suite's end.
    """

    name: str
    path: Path
    agent: AgentAtUrl | AgentToStart | AgentByCommand
    token: SecretStr | None
    participant_name: str | None
    concurrency: int | None
    runs: tuple[PlannedRun, ...]
    skipped: tuple[Scenario, ...] = ()
    most_at_once: int = MAX_CONCURRENCY
    retry_inconclusive: int = 1
    gates: Gates = field(default_factory=Gates)


def run_title(scenario: str, repeat: int) -> str:
    """Return what a run is called in reports."""
    return scenario if repeat == 1 else f"{scenario} #{repeat}"


def load_suite(
    path: Path,
    settings: Settings,
    *,
    token: SecretStr | None = None,
    repeat: int | None = None,
    concurrency: int | Literal["auto"] | None = None,
    retry_inconclusive: int | None = None,
) -> Suite:
    """Return the suite of a file, with all its scenarios.

    Of a file that is named as a whole, what can't be played in a room is skipped. To name such a scenario itself is a
    mistake, and so is a suite of nothing else.

    Args:
        path: The file.
        settings: Give what suite and scenarios do not say themselves.
        token: Takes the place of the one the file names.
        repeat: Takes the place of every ``repeat`` in the file.
        concurrency: Takes the place of the file's.
        retry_inconclusive: Takes the place of the file's.

    Raises:
        UsageError: Something in the file, or in a scenario file, is wrong; names file and line, and how to mend it.
    """
    top = read_yaml(path).mapping(_SUITE_KEYS)
    agent = top["agent"].mapping(_AGENT_KEYS)
    reached = _Reached.read(agent, settings)
    planned: list[PlannedRun] = []
    skipped: dict[tuple[Path, str], Scenario] = {}
    counts: dict[tuple[Path, str], int] = {}

    @cache
    def load(file: Path) -> list[Scenario]:
        return load_file(file, settings)

    entries = top["scenarios"].items()
    if not entries:
        raise top["scenarios"].place.error("scenarios must hold at least one")
    default_repeat = top.get("repeat", _repeat) or 1
    for entry in entries:
        named, given = entry, agent
        if entry.is_mapping():
            own = entry.mapping(_ENTRY_KEYS)
            named, given = own["scenario"], own.over(agent)
        data, publish = given.get("data", reached.data), given.get("publish", reached.message)
        for scenario in _scenarios(named, load):
            key = (scenario.path.resolve(), scenario.name)
            if scenario.refusal is not None:
                skipped.setdefault(key, scenario)
                continue
            script = scenario.playable()
            for _ in range(repeat or given.get("repeat", _repeat) or default_repeat):
                if len(planned) == MAX_RUNS:
                    raise entry.place.error(f"more than {MAX_RUNS} runs")
                counts[key] = counts.get(key, 0) + 1
                planned.append(PlannedRun(len(planned), scenario, script, counts[key], data, publish))
    if not planned:
        first = next(iter(skipped.values()))
        raise top["scenarios"].place.error(
            f"none of the scenarios can be played in a room; {first.name} can't because {first.refusal}"
        )
    at_a_time = concurrency or top.get("concurrency", _concurrency) or 1
    one_room = reached.kind is RoomKind.DAILY and isinstance(reached.agent, AgentAtUrl)
    if at_a_time != AUTO and at_a_time > 1 and one_room:
        raise agent["url"].place.error(
            f"url: one Daily room holds one call at a time, not {at_a_time}; a room for each run takes start_url"
        )
    retries = retry_inconclusive
    if retries is None:
        retries = top.get("retry_inconclusive", lambda node: node.integer(0, MAX_RETRIES))
    return Suite(
        name=top["name"].text(),
        path=path,
        agent=reached.agent,
        token=token or agent.get("token", read_token),
        participant_name=agent.get("participant_name", lambda node: node.text()),
        concurrency=None if at_a_time == AUTO else at_a_time,
        runs=tuple(planned),
        skipped=tuple(skipped.values()),
        most_at_once=1 if one_room else MAX_CONCURRENCY,
        retry_inconclusive=1 if retries is None else retries,
        gates=top.get("gates", _gates) or Gates(),
    )


@dataclass(frozen=True)
class _Reached:
    """How the agent is reached, and what can be passed to it on that way.

    Attributes:
        agent: The agent.
        kind: The kind of room; None where it is known only when a session was started.
    """

    agent: AgentAtUrl | AgentToStart | AgentByCommand
    kind: RoomKind | None

    @classmethod
    def read(cls, agent: Mapping, settings: Settings) -> "_Reached":
        given = [key for key in _WAYS if key in agent]
        if len(given) != 1:
            place = agent[given[1]].place if given else agent.place
            raise place.error(
                "agent must have one of url, start_url and command" + (", and only one" if given else "")
            )
        for key, way in (("env", "command"), ("transport", "start_url")):
            if key in agent and way not in agent:
                raise agent[key].place.error(f"{key} belongs to {way}, not to {given[0]}")
        if "url" in agent:
            url = agent["url"].text()
            kind = _checked(agent["url"], lambda: room_kind(url, settings.room.daily_domains))
            return cls(AgentAtUrl(url), kind)
        if "start_url" in agent:
            start_url = agent["start_url"].text()
            _checked(agent["start_url"], lambda: check_start_url(start_url))
            kind = agent.get("transport", _transport)
            return cls(AgentToStart(start_url, kind), kind)
        command = tuple(node.text() for node in agent["command"].items())
        env = agent.get("env", _environment) or {}
        if not command:
            raise agent["command"].place.error("command must hold a program and its arguments")
        if not any(PORT_PLACEHOLDER in text for text in (*command, *env.values())):
            raise agent["command"].place.error(
                f"command: must hold {PORT_PLACEHOLDER}, where the port goes that the agent is to listen on"
            )
        return cls(AgentByCommand(command, env), RoomKind.PIPECAT_RUNNER)

    def data(self, node: Node) -> dict[str, Any]:
        """Return what reaches the bot's runner arguments."""
        if self.kind is RoomKind.DAILY and isinstance(self.agent, AgentAtUrl):
            raise node.place.error(
                "data: a start takes it along, and a Daily room is there already; use start_url, or publish"
            )
        value = _json_value(node)
        if not isinstance(value, dict):
            raise node.place.error("data must be a mapping (key: value)")
        return value

    def message(self, node: Node) -> Any:
        """Return the data message."""
        value = _json_value(node)
        if self.kind is not None:
            kind = self.kind
            _checked(node, lambda: check_data_message(kind, value))
        return value


def _scenarios(node: Node, load: Callable[[Path], list[Scenario]]) -> list[Scenario]:
    """Return the scenarios that ``FILE`` (all) or ``FILE:NAME`` (one) names, relative to the suite's file.

    Raises:
        UsageError: There is no such file, or no such scenario in it, or the one that is named can't be played.
    """
    file, name = split_spec(node.text(), node.place.path.parent)
    if not os.path.isfile(file):  # noqa: PTH113 - unlike pathlib's, never an error
        raise node.place.error(f"there is no scenario file {file}")
    scenarios = load(file)
    if not name:
        return scenarios
    scenario = _checked(node, lambda: scenario_named(name, scenarios, file))
    _checked(node, scenario.playable)
    return [scenario]


def _checked(node: Node, check: Callable[[], _T]) -> _T:
    """Return what a check returns; what it refuses gets its place."""
    try:
        return check()
    except UsageError as error:
        raise node.place.error(str(error)) from error


def _concurrency(node: Node) -> int | Literal["auto"]:
    given = node.plain()
    if given == AUTO:
        return AUTO
    if isinstance(given, str):
        raise node.place.error(f"concurrency must be a whole number, or {AUTO}")
    return node.integer(1, MAX_CONCURRENCY)


def _gates(node: Node) -> Gates:
    given = node.mapping(_GATE_KEYS)
    if not list(given):
        raise node.place.error(f"gates must hold {' or '.join(_GATE_KEYS)}")
    return Gates(
        pass_rate=given.get("pass_rate", lambda limit: limit.number(0.01, 1)),
        p95_latency_ms=given.get("p95_latency_ms", lambda limit: limit.number(1, 60_000)),
    )


def _repeat(node: Node) -> int:
    return node.integer(1, MAX_REPEAT)


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
    return {name: mapping[name].text() for name in mapping}


def read_token(node: Node) -> SecretStr:
    named = _TOKEN.fullmatch(node.text())
    if named is None:
        # What stands there may be a token: it is not quoted.
        raise node.place.error("token must be env:NAME, where the variable NAME holds it; no token belongs in a file")
    token = os.environ.get(named[1])
    if not token:
        raise node.place.error(f"token: the environment variable {named[1]} is not set")
    return SecretStr(token)


def _json_value(node: Node) -> Any:
    value = node.plain()
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise node.place.error(f"{node.label} must be plain JSON: {error}") from error
    return value
