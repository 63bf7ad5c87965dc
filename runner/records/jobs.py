"""What a worker needs to make the call of a run: its room or session, with everything secret about them."""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy import ColumnElement, bindparam, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from runner.evaluation.asked import Asked
from runner.protocol.messages import Job, SessionStart
from runner.records.secrets import Vault
from runner.records.tables import RESULTS, RUNS, Agent
from runner.sessions.pipecat_cloud import AGENT_NAME, CLOUD_URL
from runner.sessions.pipecat_cloud import start_url as cloud_start_url

_SEALED = "sealed_pipecat_data"


class RunType(StrEnum):
    """How the runs of a result come to their rooms."""

    ROOMS = "pipecat"
    """Every run names its own."""
    SESSIONS = "pipecat_v2"
    """A session of the agent is started for every run."""


class RoomSecrets(BaseModel):
    """What of a run must not stand in the record in clear."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    token: SecretStr | None = None
    url: SecretStr | None = None
    """The whole address, where it has a query: Daily takes a token there as well."""
    data_message: Any = Field(default=None, repr=False)
    """The whole message, where not all of it may be shown. Null is none: no room delivers it."""

    @property
    def names(self) -> list[str]:
        """Which of them there are."""
        there = {
            "token": self.token is not None and bool(self.token.get_secret_value()),
            "url": self.url is not None and bool(self.url.get_secret_value()),
            "data_message": self.data_message is not None,
        }
        return [name for name, is_there in there.items() if is_there]

    def seal(self, vault: Vault) -> bytes | None:
        """Return them encrypted; None if there are none."""
        plain = {name: _revealed(getattr(self, name)) for name in self.names}
        return vault.seal(json.dumps(plain)) if plain else None

    @classmethod
    def open(cls, vault: Vault, sealed: bytes | None) -> "RoomSecrets":
        """Return what :meth:`seal` made."""
        return cls() if sealed is None else cls.model_validate_json(vault.open(sealed))


_GIVEN = (
    select(
        *RUNS.c["attempt", "agent_id", "scenario_name", "snapshot", "room_url", "room_token", "data_message"],
        RUNS.c.session_data,
        *RESULTS.c["run_type", "run_settings"],
    )
    .join_from(RUNS, RESULTS, RESULTS.c.id == RUNS.c.result_id)
    .where(
        RUNS.c.id == bindparam("of_run"),
        RUNS.c.attempt == bindparam("of_attempt"),
        RUNS.c.executor == bindparam("of_executor"),
        RUNS.c.ended_at.is_(None),
    )
)


def job_of(session: Session, vault: Vault, run_id: int, attempt: int, executor: str) -> Job | None:
    """Return what a worker needs to make a call, in the attempt that was given to it.

    None if the run has ended, is another worker's, or is not there.

    Raises:
        UsageError: The record's key is not the one that the run's secrets were encrypted with.
    """
    run = session.execute(_GIVEN, {"of_run": run_id, "of_attempt": attempt, "of_executor": executor}).first()
    if run is None:
        return None
    secrets, played, message = RoomSecrets.open(vault, run.room_token), run.snapshot, run.data_message
    if message is not None and secrets.data_message is not None:
        message = {"value": secrets.data_message, "shown": message["value"]}
    data = {**run.session_data, "cekura_run_id": run_id}
    start: SessionStart | None = None
    agent = None if run.agent_id is None else session.get(Agent, run.agent_id)
    if run.run_type == RunType.SESSIONS:
        start = session_start(agent, vault, open_pipecat_data(vault, run.run_settings), data)
    # Where that is not there it was launched by a version that judged no prompts.
    asked = played.get("asked") or {"expected_outcome": played.get("expected_outcome_prompt") or None}
    return Job(
        run_id=run_id,
        attempt=run.attempt,
        scenario=run.scenario_name,
        script=played["script"],
        notes=tuple(played.get("notes", ())),
        room_url=run.room_url if secrets.url is None else secrets.url.get_secret_value(),
        token=secrets.token,
        data_message=message,
        session=start,
        session_data=data,
        asked=Asked.model_validate(asked),
        participant_name=played.get("participant_name")
        or (None if agent is None else agent.session.get("participant_name")),
    )


def session_start(
    agent: Agent | None, vault: Vault, overrides: Mapping[str, Any], data: dict[str, Any] | None = None
) -> SessionStart | None:
    """Return how a session of an agent is started; None if there is no way.

    An agent has a start URL of its own, or a name at Pipecat Cloud and the key for it. ``overrides``, a launch's
    ``pipecat_data``, stand in place of what is saved with the agent; they are not merged. ``data`` goes into the body
    that reaches the agent, over what is saved.
    """
    if agent is None:
        return None
    kept = _object(None if agent.credentials is None else json.loads(vault.open(agent.credentials)))
    saved = _object(kept.get("config"))
    key, private_key = (
        SecretStr(str(kept[name])) if kept.get(name) else None for name in ("api_key", "private_api_key")
    )
    name = overrides.get("pipecat_agent_name") or saved.get("pipecat_agent_name")
    start_url, transport = agent.session.get("start_url"), agent.session.get("transport")
    if not start_url and name and key is not None:
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
        credential=key,
        private_key=private_key,
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


def sealed_pipecat_data(run_settings: InstrumentedAttribute[dict[str, Any]]) -> ColumnElement[str]:
    """Return what :func:`seal_pipecat_data` sealed, as an expression for a query; null where there is nothing."""
    return cast("ColumnElement[str]", run_settings[_SEALED].as_string())


def shown_settings(run_settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``run_settings`` of a result as they may be seen."""
    return {key: value for key, value in run_settings.items() if key != _SEALED}


def _revealed(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _object(value: Any) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}
