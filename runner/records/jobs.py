"""What a worker needs to make the call of a run: its room or session, with everything secret about them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, SecretStr

from runner.evaluation.asked import NOTHING, Asked
from runner.records.secrets import Vault
from runner.records.tables import Agent
from runner.sessions.pipecat_cloud import AGENT_NAME, CLOUD_URL
from runner.sessions.pipecat_cloud import start_url as cloud_start_url

_SEALED = "sealed_pipecat_data"


class RunType(StrEnum):
    """How the runs of a result come to their rooms."""

    ROOMS = "pipecat"
    """Every run names its own."""
    SESSIONS = "pipecat_v2"
    """A session of the agent is started for every run."""


@dataclass(frozen=True)
class SessionStart:
    """How a session of the agent is started.

    Attributes:
        start_url: Where to post.
        transport: ``daily`` or ``webrtc``; None leaves it to the other side.
        data: The body that reaches the agent.
        room_properties: Of the Daily room that comes with it.
        credential: Goes along as a bearer header, if there is one.
        private_key: Asks Pipecat Cloud about sessions, and stops them; ``credential`` starts them.
        start_timeout_s: How long starting may take; None as the worker has it.
        agent_join_timeout_s: How long the agent may take to be in the room; None as the worker's settings have it.
        bot_ready_timeout_s: How long to wait for the agent to say that it is ready; None likewise.
    """

    start_url: str
    transport: str | None
    data: dict[str, Any] = field(repr=False)
    room_properties: dict[str, Any] = field(repr=False)
    credential: SecretStr | None
    private_key: SecretStr | None = None
    start_timeout_s: float | None = None
    agent_join_timeout_s: float | None = None
    bot_ready_timeout_s: float | None = None


@dataclass(frozen=True)
class Job:
    """What a worker needs to make a call.

    Attributes:
        run_id: The run.
        attempt: Which attempt at it this is, from 1; every report names it.
        scenario: The scenario's name.
        script: What the caller does.
        notes: What of the scenario is played otherwise than it says.
        room_url: The room; None where a session is to be started.
        token: The room's token.
        data_message: ``{"value": …}`` where a message is to be published.
        session: How a session is started; None where there is a room.
        session_data: What an agent gets that is started in ``room_url``, where that is a Pipecat runner.
        asked: What is asked for besides the script.
        participant_name: The agent's user name in a Daily room; None: as the worker's settings have it.
    """

    run_id: int
    attempt: int
    scenario: str
    script: dict[str, Any]
    notes: tuple[str, ...]
    room_url: str | None
    token: SecretStr | None
    data_message: dict[str, Any] | None
    session: SessionStart | None
    session_data: dict[str, Any]
    asked: Asked = NOTHING
    participant_name: str | None = None


class RoomSecrets(BaseModel):
    """What of a room must not stand in the record in clear."""

    model_config = ConfigDict(frozen=True)

    token: SecretStr | None = None
    url: SecretStr | None = None
    """The whole address, where it has a query: Daily takes a token there as well."""

    def seal(self, vault: Vault) -> bytes | None:
        """Return them encrypted; None if there are none."""
        plain = {key: value.get_secret_value() for key, value in (("token", self.token), ("url", self.url)) if value}
        return vault.seal(json.dumps(plain)) if plain else None

    @classmethod
    def open(cls, vault: Vault, sealed: bytes | None) -> "RoomSecrets":
        """Return what :meth:`seal` made."""
        return cls() if sealed is None else cls.model_validate_json(vault.open(sealed))


def session_start(
    agent: Agent | None, vault: Vault, overrides: Mapping[str, Any], data: dict[str, Any] | None = None
) -> SessionStart | None:
    """Return how a session of an agent is started; None if there is no way.

    An agent has a start URL of its own, or a name at Pipecat Cloud and the key for it. A launch's ``config`` and
    ``room_properties`` stand in place of what is saved with the agent; they are not merged.

    Args:
        agent: The agent.
        vault: Opens its credentials.
        overrides: A launch's ``pipecat_data``.
        data: Goes into the body that reaches the agent, over what is saved with it.
    """
    if agent is None:
        return None
    kept = _credentials(agent, vault)
    saved = kept.config
    name = overrides.get("pipecat_agent_name") or saved.get("pipecat_agent_name")
    start_url, transport = agent.session.get("start_url"), agent.session.get("transport")
    if not start_url and name and kept.api_key is not None:
        if not re.fullmatch(AGENT_NAME, str(name)):
            return None
        start_url, transport = cloud_start_url(CLOUD_URL, str(name)), transport or "daily"
    if not start_url:
        return None
    body = overrides.get("config")
    if body is None:
        body = {**_object(saved.get("config")), **_object(agent.session.get("data"))}
    properties = overrides.get("room_properties")
    return SessionStart(
        start_url=str(start_url),
        transport=None if transport is None else str(transport),
        data={**_object(body), **(data or {})},
        room_properties=_object(saved.get("room_properties") if properties is None else properties),
        credential=kept.api_key,
        private_key=kept.private_api_key,
        start_timeout_s=agent.session.get("start_timeout_s"),
        agent_join_timeout_s=agent.session.get("agent_join_timeout_s"),
        bot_ready_timeout_s=agent.session.get("bot_ready_timeout_s"),
    )


def seal_pipecat_data(vault: Vault, pipecat_data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a launch's ``pipecat_data`` goes into ``run_settings``: encrypted, as an agent's is."""
    if not pipecat_data:
        return {}
    shown = {"pipecat_agent_name": pipecat_data.get("pipecat_agent_name"), "replaces": sorted(pipecat_data)}
    return {"pipecat_data": shown, _SEALED: vault.seal(json.dumps(pipecat_data)).decode("ascii")}


def open_pipecat_data(vault: Vault, run_settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what :func:`seal_pipecat_data` sealed."""
    sealed = run_settings.get(_SEALED)
    return {} if sealed is None else _object(json.loads(vault.open(str(sealed).encode("ascii"))))


def shown_settings(run_settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``run_settings`` of a result as they may be seen."""
    return {key: value for key, value in run_settings.items() if key != _SEALED}


@dataclass(frozen=True)
class _Credentials:
    api_key: SecretStr | None
    private_api_key: SecretStr | None
    config: dict[str, Any]


def _credentials(agent: Agent, vault: Vault) -> _Credentials:
    kept = _object(None if agent.credentials is None else json.loads(vault.open(agent.credentials)))

    def key(name: str) -> SecretStr | None:
        return SecretStr(str(kept[name])) if kept.get(name) else None

    return _Credentials(key("api_key"), key("private_api_key"), _object(kept.get("config")))


def _object(value: Any) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}
