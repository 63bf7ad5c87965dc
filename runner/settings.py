"""The settings: environment first, then a TOML file, then defaults."""

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from bots.caller.script import TurnTaking
from bots.caller.speech.settings import SpeechSettings
from runner.errors import UsageError

ENV_PREFIX = "SCENARIO_RUNNER_"
FILE_VARIABLE = "SCENARIO_RUNNER_CONFIG"
DEFAULT_FILE = Path("config/runner.toml")


class IceServer(BaseModel):
    """A STUN or TURN server."""

    model_config = ConfigDict(extra="forbid")

    urls: str | list[str]
    username: str | None = None
    credential: SecretStr | None = None


class RoomSettings(BaseModel):
    """How rooms are entered.

    Attributes:
        caller_name: The name the caller shows in a Daily room.
        agent_name: The agent's user name in a Daily room; without it the first other participant with audio.
        daily_domains: Hosts that are Daily rooms, besides ``*.daily.co``.
        ice_servers: STUN and TURN servers for SmallWebRTC.
        join_timeout_s: How long joining a Daily room may take.
        agent_join_timeout_s: How long the agent may take to be in the room with audio.
        bot_ready_timeout_s: How long to wait for the agent to say over RTVI that it is ready.
    """

    model_config = ConfigDict(extra="forbid")

    caller_name: str = "Testing Agent"
    agent_name: str | None = None
    daily_domains: list[str] = Field(default_factory=list)
    ice_servers: list[IceServer] = Field(default_factory=list)
    join_timeout_s: float = Field(default=20.0, gt=0, le=120)
    agent_join_timeout_s: float = Field(default=30.0, gt=0, le=600)
    bot_ready_timeout_s: float = Field(default=3.0, ge=0, le=60)


class Settings(BaseSettings):
    """Everything that can be set, by environment or in the TOML file.

    Attributes:
        runs_dir: Where finished calls are kept.
        room: How rooms are entered.
        speech: What the caller speaks and hears with.
        turn_taking: How the caller takes turns, where a scenario does not say.
        max_duration_s: The longest a call may take, where a scenario does not say.
        log_level: Lowest level of what is logged.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid")

    runs_dir: Path = Path("runs")
    room: RoomSettings = Field(default_factory=RoomSettings)
    speech: SpeechSettings = Field(default_factory=SpeechSettings)
    turn_taking: TurnTaking = Field(default_factory=TurnTaking)
    max_duration_s: float = Field(default=300.0, gt=0, le=7_200)
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

    class _Loaded(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        return _Loaded()
    except ValidationError as error:
        raise UsageError(_explain(error, path)) from None
    except ValueError as error:
        # tomllib's message holds line and column, and no values.
        raise UsageError(f"{path}: no TOML ({error})") from error


def _explain(error: ValidationError, path: Path | None) -> str:
    """Return the first problem in one line; never the value, which can be a secret."""
    problem: Any = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    variable = ENV_PREFIX + "__".join(str(part) for part in problem["loc"]).upper()
    where = variable if variable in os.environ or path is None else f"{path}: {place}"
    meaning = "there is no such setting" if problem["type"] == "extra_forbidden" else problem["msg"]
    return f"{where}: {meaning} (config/runner.toml documents every setting)"
