"""What a launch asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from runner.errors import RunnerError
from runner.records.jobs import RunType

DEFAULT_PRIORITY = 100

Errors = dict[str, Any]
"""What is wrong, by field."""


class LaunchRefused(RunnerError):
    """A launch is wrong, and nothing of it was created.

    Args:
        errors: What is wrong, by field; for ``scenarios`` a list as long as the launch's, empty where all is well.
    """

    def __init__(self, errors: Errors):
        super().__init__("the launch was refused")
        self.errors = errors


@dataclass(frozen=True)
class LaunchEntry:
    """One scenario of a launch.

    Attributes:
        scenario_id: The scenario.
        room_url: Where it is played; None where a session is started for it.
        token: The room's token.
        data_message: ``{"value": …}`` where a message is to be published.
        personality_id: In place of the scenario's own.
        test_profile_id: In place of the scenario's own.
        session_data: Goes into the body of a started session, over everything else.
        participant_name: The agent's user name in a Daily room, in place of what is saved with the agent.
    """

    scenario_id: int
    room_url: str | None = None
    token: SecretStr | None = None
    data_message: dict[str, Any] | None = field(default=None, repr=False)
    personality_id: int | None = None
    test_profile_id: int | None = None
    session_data: dict[str, Any] = field(default_factory=dict[str, Any])
    participant_name: str | None = None


@dataclass(frozen=True)
class Launch:
    """What is to be run.

    Attributes:
        project_id: The project; nothing of another is seen.
        key_id: The key that launches; None for the server itself.
        agent_id: The agent; None takes the first scenario's.
        entries: The scenarios, in order.
        run_type: How the runs come to their rooms.
        name: A label.
        frequency: How often each is run.
        personality_ids: Every entry is run with each of these, in place of its own.
        test_profile_ids: The same with test profiles.
        concurrency_limit: How many of the runs may be on at once.
        priority: Runs with a lower one go first; from 1.
        delay_s: None of the runs begins before so many seconds have passed.
        idempotency_key: A launch with the same one is this one.
        digest: A launch with the same one, and no idempotency key, is this one for a short while.
        run_settings: What was asked for, as it is shown.
        pipecat_data: ``{pipecat_agent_name, config, room_properties}`` in place of what is saved with the agent. Kept
            encrypted, and not shown.
        mock_tool_names: Tools to be mocked; None for all.
        is_cronjob: Whether a schedule launches.
    """

    project_id: int
    key_id: int | None
    agent_id: int | None
    entries: Sequence[LaunchEntry]
    run_type: RunType
    name: str = ""
    frequency: int = 1
    personality_ids: Sequence[int] = ()
    test_profile_ids: Sequence[int] = ()
    concurrency_limit: int | None = None
    priority: int = DEFAULT_PRIORITY
    delay_s: float = 0.0
    idempotency_key: str | None = None
    digest: str | None = None
    run_settings: dict[str, Any] = field(default_factory=dict[str, Any])
    pipecat_data: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    mock_tool_names: Sequence[str] | None = None
    is_cronjob: bool = False
