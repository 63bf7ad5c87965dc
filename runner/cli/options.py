"""Options that several commands share, how what they were given is read, and the settings that commands run with."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.errors import UsageError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from runner.settings import Settings

TOKEN_VARIABLE = "SCENARIO_RUNNER_TOKEN"  # noqa: S105 - the name of a variable

_Command = Callable[..., Any]


class _NamedPath(click.Path):
    """A path that is not empty, as that of a variable is that nobody set: it would be the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("a path is missing", param, ctx)
        return super().convert(value, param, ctx)


class Concurrency(click.IntRange):
    """How many calls at once: a number, or ``auto``."""

    def __init__(self) -> None:
        super().__init__(1, 64)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else super().convert(value, param, ctx)


PATH = _NamedPath(path_type=Path)
"""What every argument and option is that names a file or a folder."""

config_option = click.option(
    "--config",
    type=PATH,
    help="Settings file (default: $SCENARIO_RUNNER_CONFIG, else config/runner.toml in the current folder, if it is "
    "there).",
)
verbose_option = click.option("-v", "--verbose", count=True, help="Log more; twice for everything.")
json_option: Callable[[_Command], _Command] = click.option(
    "--json", "as_json", is_flag=True, help="Print it as JSON alone on standard output."
)
_database_option = click.option(
    "--database-url",
    metavar="URL",
    help="sqlite:///path or postgresql://user@host/name. With a password, prefer the environment variable "
    "SCENARIO_RUNNER_SERVER__DATABASE_URL.",
)
_data_option = click.option(
    "--data-dir",
    type=PATH,
    help="The server's folder: database, recordings, secret key. Give the one that the server was started with "
    "(default: the setting server.data_dir, else ./data).",
)


def record_options(command: _Command) -> _Command:
    """Give a command the options that say where the server's data is."""
    return _data_option(_database_option(config_option(command)))


def read_token(given: str | None) -> "SecretStr | None":
    """Return the token that ``--token`` or the environment holds, if any.

    Raises:
        UsageError: It is empty.
    """
    from pydantic import SecretStr

    if given == "-":
        given = sys.stdin.readline().strip()
        if not given:
            raise UsageError("--token -: standard input holds no token")
    elif given == "":
        raise UsageError("--token: is empty")
    if given is None:
        # A variable that is set to nothing, as CI does without a secret, is no token.
        given = os.environ.get(TOKEN_VARIABLE) or None
    return None if given is None else SecretStr(given)


def json_value(text: str, option: str) -> Any:
    """Return what an option's JSON holds.

    Raises:
        UsageError: It is not JSON.
    """
    try:
        value = json.loads(text)
        # Python reads more than JSON is (NaN, halves of surrogate pairs), which no one else could read again.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{option}: not valid JSON ({error})") from error
    return value


def json_object(text: str, option: str) -> dict[str, Any]:
    """Return the object that an option's JSON holds.

    Raises:
        UsageError: It is not JSON, or not an object.
    """
    value = json_value(text, option)
    if not isinstance(value, dict):
        raise UsageError(f'{option}: must be a JSON object, such as \'{{"key": "value"}}\'')
    return value


def server_settings(config: Path | None, data_dir: Path | None, database_url: str | None) -> "Settings":
    """Return the settings, with what a command was told about the record.

    Raises:
        UsageError: A setting is wrong.
    """
    from pydantic import SecretStr

    from runner.settings import load_settings

    settings = load_settings(config)
    told: dict[str, Path | SecretStr] = {} if data_dir is None else {"data_dir": data_dir}
    if database_url is not None:
        told["database_url"] = SecretStr(database_url)
    return settings.model_copy(update={"server": settings.server.model_copy(update=told)})


def log_level(default: str, verbose: int) -> str:
    """Return the level to log at: ``--verbose`` asks for more than the default."""
    return {0: default, 1: "INFO", 2: "DEBUG"}.get(verbose, "TRACE")


def log_to_stderr(level: str) -> None:
    """Log to standard error, for a person."""
    from loguru import logger

    logger.remove()
    logger.add(
        sys.stderr, level=level, format="<level>{level: <7}</level> {message}", backtrace=False, diagnose=False
    )
