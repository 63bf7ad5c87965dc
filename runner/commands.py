"""What all commands share: how one is run, and how it says that it can't be."""

import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from runner.errors import USAGE_EXIT_CODE, MissingExtra, RunnerError

if TYPE_CHECKING:
    from runner.settings import Settings


def run_command(
    command: Callable[[], Awaitable[int]], *, verbose: int = 0, quotes: bool = True, takes_signals: bool = True
) -> NoReturn:
    """Run a command to its exit code, and exit with it; every error is one message, never a traceback.

    Args:
        command: What to run.
        verbose: Above 0 an error of our own comes out with its traceback.
        quotes: Whether an error of our own is quoted. What a database driver says can be long, and hold an address.
        takes_signals: Whether signals end the command in good order; not where it takes care of them itself.
    """
    import anyio

    from runner.interruption import run_interruptibly

    options = {"use_uvloop": sys.platform != "win32"}
    try:
        if takes_signals:
            code = anyio.run(run_interruptibly, command, backend_options=options)
        else:
            code = anyio.run(command, backend_options=options)
    except RunnerError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped")
    except Exception as error:
        if verbose:
            raise
        said = f"{type(error).__name__}: {error}" if quotes else type(error).__name__
        fail(f"our own error: {said} (run again with --verbose for where it came from)")
    sys.exit(code)


def fail(message: str) -> NoReturn:
    """Say in one line why the command can't be done, and exit."""
    click.echo(f"error: {message}", err=True)
    sys.exit(USAGE_EXIT_CODE)


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


@contextmanager
def needing_server_extra() -> Generator[None]:
    """Within this context a package of the extra ``server`` that is missing is said to be so.

    Raises:
        MissingExtra: One is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("runner"):
            raise
        raise MissingExtra(
            f"this needs the extra 'server' ({error.name} is not installed): "
            "pip install 'pipecat-scenario-runner[server]'"
        ) from error
