"""Which agent the tests call, and with what."""

import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from runner.cli.options import read_token
from runner.errors import UsageError
from runner.rooms.urls import check_start_url, room_kind
from runner.scenarios.model import Scenario
from runner.scenarios.suites import PlannedRun, Suite, load_agent
from runner.scenarios.targets import AgentAtUrl, AgentInRooms, AgentToStart, GivenAgent, Target
from runner.settings import Settings, load_settings


@dataclass(frozen=True)
class CalledAgent:
    """The agent that the tests of this process call.

    Attributes:
        given: The agent, and what it is passed.
        settings: How calls are made.
    """

    given: GivenAgent
    settings: Settings

    def suite_of(self, scenario: Scenario) -> Suite:
        """Return the suite of one run.

        Raises:
            UsageError: The scenario can't be played in a room.
        """
        run = PlannedRun(0, scenario, scenario.playable(), 1, self.given.data, self.given.publish)
        return Suite(
            name="pytest",
            path=scenario.path,
            agent=self.given.target.agent,
            token=self.given.token,
            participant_name=self.given.participant_name,
            concurrency=1,
            runs=(run,),
        )


AGENT = pytest.StashKey[CalledAgent]()


def read_agent(config: pytest.Config) -> CalledAgent:
    """Return the agent that the options of this pytest name.

    Raises:
        pytest.UsageError: It can't be called so, or not by as many processes.
    """
    named = config.getoption("agent_config")
    try:
        settings = load_settings(None if named is None else Path(named))
        # Before Pipecat is imported, which would tell of it.
        _log_as(settings.log_level)
        given = _given(config, settings)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    processes = _number(config.getoption("numprocesses", None))
    most = given.target.most_at_once
    if most is not None and processes > most:
        raise pytest.UsageError(
            f"-n {processes}: the agent's rooms hold {most} at a time; list more, or use -n {most}"
        )
    return CalledAgent(_of_this_process(given, config), settings)


def _given(config: pytest.Config, settings: Settings) -> GivenAgent:
    token = read_token(None)
    if (url := config.getoption("agent_url")) is not None:
        kind = room_kind(url, settings.room.daily_domains)
        return GivenAgent(Target(AgentAtUrl(url), frozenset({kind}), (kind,)), token)
    if (url := config.getoption("agent_start_url")) is not None:
        check_start_url(url)
        return GivenAgent(Target(AgentToStart(url, None)), token)
    return load_agent(Path(str(config.getoption("agent_suite"))), settings, token)


def _number(given: Any) -> int:
    """Return how many processes xdist was asked for; 1 without it."""
    return given if isinstance(given, int) and given > 0 else 1


def _of_this_process(given: GivenAgent, config: pytest.Config) -> GivenAgent:
    """Return the agent with the one room that this process of xdist has to itself, where it is in several."""
    agent = given.target.agent
    if not isinstance(agent, AgentInRooms):
        return given
    worker = getattr(config, "workerinput", {}).get("workerid", "gw0")
    room = agent.rooms[int(worker.removeprefix("gw")) % len(agent.rooms)]
    target = replace(given.target, agent=AgentAtUrl(room.url))
    return replace(given, target=target, token=room.token or given.token)


@cache
def _log_as(level: str) -> None:
    """Log at a level and no more, once: to standard error as it is then, which pytest captures."""
    with suppress(ValueError):
        # loguru's own way, which shows everything.
        logger.remove(0)
    logger.add(lambda message: print(message, end="", file=sys.stderr), level=level, diagnose=False)
