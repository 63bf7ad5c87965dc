"""Suite files: which scenarios are run against which agent, how often, and how many at a time."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import SecretStr

from bots.caller.script import Script
from runner.comparison.gates import Gates
from runner.scenarios.evals import load_file
from runner.scenarios.examples import split_spec
from runner.scenarios.model import Scenario, scenario_named
from runner.scenarios.nodes import Node, read_yaml
from runner.scenarios.targets import AGENT_KEYS, Agent, AgentByCommand, GivenAgent, checked
from runner.settings import Settings

MAX_REPEAT = 1_000
MAX_CONCURRENCY = 64
AUTO: Final = "auto"
MAX_RETRIES = 5
MAX_RUNS = 2_000
"""All results are written again after each run, which takes a tenth of a second for so many."""

_SUITE_KEYS = ("name", "agent", "repeat", "concurrency", "retry_inconclusive", "gates", "scenarios")
_GATE_KEYS = tuple(Gates.model_fields)
_ENTRY_KEYS = ("scenario", "repeat", "data", "publish")
_VARIANT_CHARACTERS = 8


@dataclass(frozen=True)
class PlannedRun:
    """One run of a suite.

    Attributes:
        index: Its place in the suite, from 0.
        repeat: Which run of this scenario it is, from 1.
        data: Reaches the bot as its runner arguments' ``body``.
        agent: Its own agent, in place of the suite's.
        at_a_time: How many runs of its group are made at a time at most; None: as many as of the suite.
        variant: Tells what an entry plays from the suite's first of that name; empty where it is the same.
    """

    index: int
    scenario: Scenario
    script: Script
    repeat: int
    data: dict[str, Any] | None
    publish: Any = None
    agent: AgentByCommand | None = None
    group: int = 0
    at_a_time: int | None = None
    variant: str = ""

    @property
    def title(self) -> str:
        return run_title(self.scenario.name, self.repeat)

    @property
    def compared_as(self) -> str:
        """What it is called in comparisons: the same whichever runs of the suite are made, or were added to it."""
        return f"{self.scenario.name} ({self.variant})" if self.variant else self.scenario.name


@dataclass(frozen=True)
class Suite:
    """A suite, checked and ready to be run.

    Attributes:
        participant_name: The agent's user name in Daily rooms; None: as the settings have it.
        concurrency: How many runs are made at a time; None: as many as the machine has headroom for.
        most_at_once: How many there may be at once in any case.
        retry_inconclusive: How often a run is made again that is inconclusive because of our own side or the network.
        runs_dir: Where its results go; None: where the settings say.
        notes: What of the file is done otherwise than it says, and why.
    """

    name: str
    path: Path
    agent: Agent
    token: SecretStr | None
    participant_name: str | None
    concurrency: int | None
    runs: tuple[PlannedRun, ...]
    skipped: tuple[Scenario, ...] = ()
    most_at_once: int = MAX_CONCURRENCY
    retry_inconclusive: int = 1
    runs_dir: Path | None = None
    notes: tuple[str, ...] = ()
    gates: Gates = field(default_factory=Gates)


def run_title(scenario: str, repeat: int) -> str:
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
    """Return the suite of a file, with all its scenarios; what is given takes the place of the file's.

    Of a file that is named as a whole, what can't be played in a room is skipped. To name such a scenario itself is a
    mistake, and so is a suite of nothing else.

    Raises:
        UsageError: Something in the file, or in a scenario file, is wrong; names file and line, and how to mend it.
    """
    top = read_yaml(path).mapping(_SUITE_KEYS)
    agent = top["agent"].mapping(AGENT_KEYS)
    given_agent = GivenAgent.read(agent, settings, token)
    reached = given_agent.target
    planned: list[PlannedRun] = []
    skipped: dict[tuple[Path, str], Scenario] = {}
    counts: dict[tuple[Path, str], int] = {}
    first_played: dict[str, str] = {}

    @cache
    def load(file: Path) -> list[Scenario]:
        return load_file(file, settings)

    entries = top["scenarios"].some()
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
            played = json.dumps([os.path.relpath(scenario.path, path.parent), data, publish], sort_keys=True)
            is_first = first_played.setdefault(scenario.name, played) == played
            variant = "" if is_first else hashlib.sha256(played.encode()).hexdigest()[:_VARIANT_CHARACTERS]
            for _ in range(repeat or given.get("repeat", _repeat) or default_repeat):
                if len(planned) == MAX_RUNS:
                    raise entry.place.error(f"more than {MAX_RUNS} runs")
                counts[key] = counts.get(key, 0) + 1
                planned.append(
                    PlannedRun(len(planned), scenario, script, counts[key], data, publish, variant=variant)
                )
    if not planned:
        first = next(iter(skipped.values()))
        raise top["scenarios"].place.error(
            f"none of the scenarios can be played in a room; {first.name} can't because {first.refusal}"
        )
    at_a_time = concurrency or top.get("concurrency", _concurrency) or 1
    most = reached.most_at_once
    if most is not None and at_a_time != AUTO and at_a_time > most:
        named = agent["rooms"] if "rooms" in agent else agent["url"]
        what = f"{most} rooms hold" if most > 1 else "one Daily room holds"
        calls = "one call at a time" if most == 1 else f"{most} calls at a time"
        raise named.place.error(
            f"{named.label}: {what} {calls}, not {at_a_time}; list more rooms:, or use start_url for a room each"
        )
    retries = retry_inconclusive
    if retries is None:
        retries = top.get("retry_inconclusive", lambda node: node.integer(0, MAX_RETRIES))
    return Suite(
        name=top["name"].text(),
        path=path,
        agent=reached.agent,
        token=given_agent.token,
        participant_name=given_agent.participant_name,
        concurrency=None if at_a_time == AUTO else at_a_time,
        runs=tuple(planned),
        skipped=tuple(skipped.values()),
        most_at_once=most or MAX_CONCURRENCY,
        retry_inconclusive=1 if retries is None else retries,
        gates=top.get("gates", _gates) or Gates(),
    )


def load_agent(path: Path, settings: Settings, token: SecretStr | None = None) -> GivenAgent:
    """Return the agent of a suite file, whatever scenarios it has; the token is for one that names none.

    Raises UsageError: something in the file is wrong; names the line, and how to mend it.
    """
    top = read_yaml(path).mapping(_SUITE_KEYS)
    given = GivenAgent.read(top["agent"].mapping(AGENT_KEYS), settings)
    return replace(given, token=given.token or token)


def _scenarios(node: Node, load: Callable[[Path], list[Scenario]]) -> list[Scenario]:
    file, name = split_spec(node.text(), node.place.path.parent)
    if not os.path.isfile(file):  # noqa: PTH113 - unlike pathlib's, never an error
        raise node.place.error(f"there is no scenario file {file}")
    scenarios = load(file)
    if not name:
        return scenarios
    scenario = checked(node, lambda: scenario_named(name, scenarios, file))
    checked(node, scenario.playable)
    return [scenario]


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
