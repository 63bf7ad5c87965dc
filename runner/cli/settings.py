"""The settings a command runs with, and how it logs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.settings import Settings


def load_logging_settings(config: Path | None, verbose: int) -> "Settings":
    """Return the settings, and log to standard error as they and ``--verbose`` say.

    Raises:
        UsageError: A setting is wrong.
    """
    from runner.settings import load_settings

    settings = load_settings(config)
    log_to_stderr(log_level(settings.log_level, verbose))
    return settings


def server_settings(config: Path | None, data_dir: Path | None, database_url: str | None) -> "Settings":
    """Return the settings, with what a command was told about the record.

    Raises:
        UsageError: A setting is wrong.
    """
    from pydantic import SecretStr

    from runner.settings import load_settings

    settings = load_settings(config)
    told: dict[str, Path | SecretStr] = {}
    if data_dir is not None:
        told["data_dir"] = data_dir
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
