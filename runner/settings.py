"""The settings: environment first, then a TOML file, then defaults."""

import difflib
import ipaddress
import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from bots.caller.script import TurnTaking
from bots.caller.speech.settings import SpeechSettings
from bots.masking import EVERYTHING, words_of
from bots.paths import NamedPath
from runner.errors import UsageError

ENV_PREFIX = "SCENARIO_RUNNER_"
FILE_VARIABLE = "SCENARIO_RUNNER_CONFIG"
DEFAULT_FILE = Path("config/runner.toml")
_DOCUMENTED = "config/runner.toml documents every setting"


IceUrl = Annotated[str, Field(pattern=r"^(stuns?|turns?):[^\s/]+$")]
"""The address of a STUN or TURN server as RFC 7064 and 7065 have it, such as ``stun:stun.example.com:3478``."""


class IceServer(BaseModel):
    """A STUN or TURN server."""

    model_config = ConfigDict(extra="forbid")

    urls: IceUrl | list[IceUrl]
    username: str | None = None
    credential: SecretStr | None = None


class RoomSettings(BaseModel):
    """How rooms are entered.

    Attributes:
        caller_name: The name the caller shows in a Daily room.
        participant_name: The agent's user name in a Daily room, where agent and run name none; see docs/daily.md.
        daily_domains: Hosts that are Daily rooms, besides ``*.daily.co``.
        ice_servers: STUN and TURN servers for SmallWebRTC.
        join_timeout_s: How long joining a Daily room may take. A server that refuses is asked five times, in 25 s.
        agent_join_timeout_s: How long the agent may take to be in the room with audio.
        bot_ready_timeout_s: How long to wait for the agent to say over RTVI that it is ready.
    """

    model_config = ConfigDict(extra="forbid")

    caller_name: str = "Testing Agent"
    participant_name: str | None = None
    daily_domains: list[str] = Field(default_factory=list)
    ice_servers: list[IceServer] = Field(default_factory=list)
    join_timeout_s: float = Field(default=40.0, gt=0, le=120)
    agent_join_timeout_s: float = Field(default=30.0, gt=0, le=600)
    bot_ready_timeout_s: float = Field(default=3.0, ge=0, le=60)


class JudgeSettings(BaseModel):
    """What judges: an OpenAI-compatible endpoint, or any Pipecat LLM service.

    Whoever makes calls asks about ``eval`` expectations; the server, once a call is over, about what else was asked.

    Attributes:
        base_url: The endpoint, such as ``http://localhost:11434/v1``; OpenAI's own without it.
        model: The model there. Naming one turns the judge on.
        api_key: The endpoint's key, or ``env:NAME`` for that environment variable.
        service: In place of an endpoint: the dotted path of a Pipecat LLM service class.
        params: Keyword arguments of the class.
        settings: Keyword arguments of the class's ``Settings``; ``temperature`` is 0 unless given.
        timeout_s: How long one answer may take.
        usd_per_million_input_tokens: The price, for a run's cost; without it none is stated.
        usd_per_million_output_tokens: The same for what is answered.
    """

    model_config = ConfigDict(extra="forbid")

    base_url: str | None = None
    model: str | None = None
    api_key: SecretStr | None = None
    service: str | None = None
    params: dict[str, Any] = Field(default_factory=dict, repr=False)
    settings: dict[str, Any] = Field(default_factory=dict, repr=False)
    timeout_s: float = Field(default=20.0, gt=0, le=300)
    usd_per_million_input_tokens: float | None = Field(default=None, ge=0)
    usd_per_million_output_tokens: float | None = Field(default=None, ge=0)

    @property
    def configured(self) -> bool:
        """Whether there is a judge."""
        return self.model is not None or self.service is not None

    @model_validator(mode="after")
    def _is_one_kind(self) -> "JudgeSettings":
        if self.service is None and (self.params or self.settings):
            raise ValueError("params and settings belong to a service; name it, or leave them out")
        if self.service is not None and (self.model or self.base_url or self.api_key):
            raise ValueError("give an endpoint (model, base_url, api_key) or a service (service, params, settings)")
        if self.model is None and self.service is None and (self.base_url or self.api_key):
            raise ValueError("an endpoint needs model")
        return self


def _check_network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("must be an address (10.0.0.5) or a network (10.0.0.0/8)") from None
    return text


Network = Annotated[str, AfterValidator(_check_network)]
"""An IP address, or a network of them."""


class ServerSettings(BaseModel):
    """The API and the record.

    Attributes:
        data_dir: Where the record's database, its artefacts and its secret key are kept, unless named otherwise.
        database_url: ``postgresql://user@host/name``; without it a SQLite file in ``data_dir``.
        secret_key: What tokens and credentials are encrypted with (32 bytes, urlsafe base64). Without it one is made
            and kept in ``data_dir``.
        artefacts_url: ``s3://bucket/prefix``; without it the folder ``artefacts`` in ``data_dir``.
        artefacts_options: Options of the S3 client, such as ``endpoint`` and ``region``; credentials come from the
            environment (``AWS_ACCESS_KEY_ID``, …).
        retention_days: After so many days the artefacts of a run go; without it they stay.
        schedules_file: A YAML file of schedules, applied when the server starts; see docs/schedules.md. Without it
            there are those alone that were made over the API.
        public_url: How clients reach the API, for the links it gives out; without it as they addressed it.
        allowed_rooms: Hosts that rooms and start URLs may be on: a name, ``*.name``, or an address or network
            (``10.0.0.0/8``).
        allowed_webhooks: Hosts that webhooks may be sent to, written likewise.
        allow_loopback: Whether this machine itself is allowed; ``serve`` on a loopback address turns it on.
        webhook_log_days: How long it is kept which webhooks were sent.
        max_calls: How many calls may be on at once, of all workers; without it as many as they make.
        max_calls_per_agent: How many calls an agent may be in at once that has no ``max_calls`` of its own; without
            it likewise.
        lease_s: How long a worker keeps its runs without being answered: the API may be away for so long and no call
            ends; and a run whose worker vanished without a word waits for a quarter more than that.
        duplicate_window_s: For so long the same launch from the same key is answered with the first one's result.
        max_body_bytes: The largest body of a request; what workers send may be larger.
        max_artefact_bytes: The largest artefact.
        requests_per_minute: For each user's key, and for all that comes from an address without a right key.
        trusted_proxies: Addresses and networks of proxies that are believed whom they ask for
            (``X-Forwarded-For``, ``X-Forwarded-Proto``).
    """

    model_config = ConfigDict(extra="forbid")

    data_dir: NamedPath = Path("data")
    database_url: SecretStr | None = None
    secret_key: SecretStr | None = None
    artefacts_url: str | None = None
    artefacts_options: dict[str, str] = Field(default_factory=dict)
    retention_days: float | None = Field(default=None, gt=0)
    schedules_file: NamedPath | None = None
    public_url: str | None = None
    allowed_rooms: list[str] = Field(default_factory=lambda: ["*.daily.co"])
    allowed_webhooks: list[str] = Field(default_factory=lambda: ["hooks.slack.com", "hooks.slack-gov.com"])
    allow_loopback: bool = False
    webhook_log_days: float = Field(default=30.0, gt=0, le=3_650)
    max_calls: int | None = Field(default=None, ge=1)
    max_calls_per_agent: int | None = Field(default=None, ge=1)
    lease_s: float = Field(default=20.0, ge=1, le=600)
    duplicate_window_s: float = Field(default=10.0, ge=0, le=600)
    max_body_bytes: int = Field(default=2_000_000, ge=1_000)
    max_artefact_bytes: int = Field(default=500_000_000, ge=1_000)
    requests_per_minute: int = Field(default=1_200, ge=1)
    trusted_proxies: list[Network] = Field(default_factory=lambda: ["127.0.0.1", "::1"])


class WorkerSettings(BaseModel):
    """What makes the calls: processes of their own, which know the API's address and a key.

    Attributes:
        record_url: Where the API is reached.
        key: A worker's key for it (``psw_…``).
        data_dir: Where outcomes wait that are not reported yet.
        min_free_bytes: With less free space there, no more runs are taken.
        processes: How many processes make calls.
        calls: How many calls each of them makes at once.
        name: What it is called in logs and lists; the machine's name without it.
        retry_inconclusive: How often a call is made again that is inconclusive because of our own side or of the
            network.
        drain_limit_s: How long calls that are on may last once the worker is told to stop.
        health_port: Where ``/healthz``, ``/readyz`` and ``/metrics`` are answered; nowhere without it.
        health_host: On which address.
    """

    model_config = ConfigDict(extra="forbid")

    record_url: str | None = None
    key: SecretStr | None = None
    data_dir: NamedPath = Path("data")
    min_free_bytes: int = Field(default=500_000_000, ge=0)
    processes: int = Field(default=1, ge=1, le=256)
    calls: int = Field(default=4, ge=1, le=64)
    name: str | None = Field(default=None, pattern=r"^[\w.:-]{1,100}$")
    retry_inconclusive: int = Field(default=1, ge=0, le=5)
    drain_limit_s: float = Field(default=300.0, ge=0, le=86_400)
    health_port: int | None = Field(default=None, ge=1, le=65_535)
    health_host: str = "127.0.0.1"


def _has_words(key: str) -> str:
    if key != EVERYTHING and not words_of(key):
        raise ValueError(f"must be a name such as card_number, or {EVERYTHING}")
    return key


RedactedKey = Annotated[str, AfterValidator(_has_words)]
"""A name whose values are not shown, or ``*`` for all."""


class Settings(BaseSettings):
    """Everything that can be set, by environment or in the TOML file.

    Attributes:
        runs_dir: Where finished calls are kept.
        room: How rooms are entered.
        speech: What the caller speaks and hears with.
        judge: What judges what was said.
        server: The API and the record.
        worker: What makes the calls.
        scenarios_dir: The folder that scenario files may take other files from; by default the working directory, or
            a file's own folder if it lies outside.
        turn_taking: How the caller takes turns, where a scenario does not say.
        max_duration_s: The longest a call may take, where a scenario does not say.
        redact_keys: What stands under these names in a data message is not shown, besides what is secret by its name
            (:data:`bots.masking.SECRET_WORDS`); ``*``: nothing of it is.
        log_level: Lowest level of what is logged.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid")

    runs_dir: NamedPath = Path("runs")
    room: RoomSettings = Field(default_factory=RoomSettings)
    speech: SpeechSettings = Field(default_factory=SpeechSettings)
    judge: JudgeSettings = Field(default_factory=JudgeSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    scenarios_dir: NamedPath | None = None
    turn_taking: TurnTaking = Field(default_factory=TurnTaking)
    max_duration_s: float = Field(default=300.0, gt=0, le=7_200)
    redact_keys: list[RedactedKey] = Field(default_factory=list)
    log_level: str = Field(default="WARNING", pattern="^(TRACE|DEBUG|INFO|WARNING|ERROR)$")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the environment over the file, and both over the defaults."""
        path = cls.model_config.get("toml_file")
        file = [TomlConfigSettingsSource(settings_cls, path)] if path is not None else []
        return (init_settings, env_settings, *file)


def load_settings(file: Path | None = None) -> Settings:
    """Return the settings.

    Args:
        file: The TOML file. Without it the one named by ``SCENARIO_RUNNER_CONFIG``, or ``config/runner.toml``
            where that is there.

    Raises:
        UsageError: The file is not there, is no TOML, or a setting is unknown or wrong.
    """
    named = file or (Path(os.environ[FILE_VARIABLE]) if FILE_VARIABLE in os.environ else None)
    if named is not None and not named.is_file():
        raise UsageError(f"{named}: there is no such settings file")
    path = named or (DEFAULT_FILE if DEFAULT_FILE.is_file() else None)

    _refuse_unknown_variables()

    class _Loaded(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        return _Loaded()
    except ValidationError as error:
        raise UsageError(_explain(error, path)) from None
    except SettingsError as error:
        # What is behind it quotes the value, which can be a secret.
        raise UsageError(f"{_variable_without_json(error)}: must be JSON ({_DOCUMENTED})") from None
    except ValueError as error:
        # tomllib's message holds line and column, and no values.
        raise UsageError(f"{path}: no TOML ({error})") from error


def _refuse_unknown_variables() -> None:
    """Refuse a variable that looks like a setting and is none: pydantic-settings passes over it in silence."""
    known = {*Settings.model_fields, "config", "token", "api_url", "api_key"}
    for name in os.environ:
        if not name.upper().startswith(ENV_PREFIX):
            continue
        setting = name[len(ENV_PREFIX) :].partition("__")[0].lower()
        if setting not in known:
            near = difflib.get_close_matches(setting, known, n=1)
            hint = f"; did you mean {ENV_PREFIX}{near[0].upper()}?" if near else ""
            raise UsageError(f"{name}: there is no such setting{hint} ({_DOCUMENTED})")


def _explain(error: ValidationError, path: Path | None) -> str:
    """Return the first problem in one line; never the value, which can be a secret."""
    problem: Any = error.errors(include_input=False, include_url=False)[0]
    parts = [str(part) for part in problem["loc"]]
    said = str(problem["msg"]).removeprefix("Value error, ")
    meaning = "there is no such setting" if problem["type"] == "extra_forbidden" else said
    return f"{_where(parts, path)}: {meaning} ({_DOCUMENTED})"


def _where(parts: list[str], path: Path | None) -> str:
    """Return where a setting comes from: the environment, if a variable sets it, or else the file."""
    variables = {name.upper() for name in os.environ}
    for count in range(len(parts), 0, -1):
        variable = ENV_PREFIX + "__".join(parts[:count]).upper()
        if variable in variables:
            return ": ".join([variable, *filter(None, [".".join(parts[count:])])])
    return f"{path or 'settings'}: {'.'.join(parts)}"


def _variable_without_json(error: SettingsError) -> str:
    cause = error.__cause__
    value = cause.doc if isinstance(cause, json.JSONDecodeError) else None
    names = (name for name in os.environ if name.upper().startswith(ENV_PREFIX) and os.environ[name] == value)
    return next(names, f"a variable {ENV_PREFIX}…")
