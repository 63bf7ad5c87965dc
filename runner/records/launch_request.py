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
    """One scenario of a launch."""

    scenario_id: int
    room_url: str | None = None
    """Where it is played; None where a session is started for it."""
    token: SecretStr | None = None
    data_message: dict[str, Any] | None = field(default=None, repr=False)
    """``{"value": …}`` where a message is to be published."""
    personality_id: int | None = None
    """In place of the scenario's own, as the test profile."""
    test_profile_id: int | None = None
    session_data: dict[str, Any] = field(default_factory=dict[str, Any])
    """Goes into the body of a started session, over everything else."""
    participant_name: str | None = None
    """The agent's user name in a Daily room, in place of what is saved with the agent."""


@dataclass(frozen=True)
class Launch:
    """What is to be run in a project: nothing of another is seen."""

    project_id: int
    key_id: int | None
    """The key that launches; None for the server itself."""
    agent_id: int | None
    """The agent; None takes the first scenario's."""
    entries: Sequence[LaunchEntry]
    run_type: RunType
    name: str = ""
    frequency: int = 1
    """How often each is run."""
    personality_ids: Sequence[int] = ()
    """Every entry is run with each of these, in place of its own. So it is with test profiles."""
    test_profile_ids: Sequence[int] = ()
    concurrency_limit: int | None = None
    """How many of the runs may be on at once."""
    priority: int = DEFAULT_PRIORITY
    """Runs with a lower one go first; from 1."""
    delay_s: float = 0.0
    """None of the runs begins before so many seconds have passed."""
    idempotency_key: str | None = None
    """A launch with the same one is this one."""
    digest: str | None = None
    """A launch with the same one, and no idempotency key, is this one for a short while."""
    run_settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """What was asked for, as it is shown."""
    pipecat_data: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """``{pipecat_agent_name, config, room_properties}`` in place of what is saved with the agent. Kept encrypted, and
    not shown."""
    mock_tool_names: Sequence[str] | None = None
    """Tools to be mocked; None for all."""
    is_cronjob: bool = False
    """Whether a schedule launches."""
