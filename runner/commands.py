"""What all commands share: how one is run, and how it says that it can't be."""

import os
import select
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from runner.errors import USAGE_EXIT_CODE, MissingExtra, RunnerError

if TYPE_CHECKING:
    from runner.settings import Settings


class _NamedPath(click.Path):
    """A path that is not empty, as that of a variable is that nobody set: it would be the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path.

        Raises:
            click.BadParameter: It is empty.
        """
        if value == "":
            self.fail("a path is missing", param, ctx)
        return super().convert(value, param, ctx)


class Concurrency(click.IntRange):
    """How many calls at once: a number, or ``auto``."""

    def __init__(self) -> None:
        super().__init__(1, 64)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or ``auto``.

        Raises:
            click.BadParameter: It is neither.
        """
        return value if value == "auto" else super().convert(value, param, ctx)


PATH = _NamedPath(path_type=Path)
"""What every argument and option is that names a file or a folder."""


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
        if _holds_broken_pipe(error) and _reader_is_gone():
            sys.exit(USAGE_EXIT_CODE)
        if verbose:
            raise
        said = f"{type(error).__name__}: {error}" if quotes else type(error).__name__
        fail(f"our own error: {said} (run again with --verbose for where it came from)")
    sys.exit(code)


def _holds_broken_pipe(error: Exception) -> bool:
    """Return whether an error is that of a closed pipe, or one of several that came together is."""
    if isinstance(error, ExceptionGroup):
        return error.subgroup(BrokenPipeError) is not None
    return isinstance(error, BrokenPipeError)


def _reader_is_gone() -> bool:
    """Return whether nobody reads what is printed any more, as behind ``| head -1``; then there is nothing to say."""
    output = sys.__stdout__.fileno() if sys.__stdout__ is not None else None
    if output is None:
        return False
    poll = select.poll()
    poll.register(output, select.POLLOUT)
    if not any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
        return False
    # What is left is flushed once more when Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


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


def needing_server_extra() -> AbstractContextManager[None]:
    """Within this context a package of the extra ``server`` that is missing is said to be so.

    Raises:
        MissingExtra: One is.
    """
    return _needing("server")


def needing_worker_extra() -> AbstractContextManager[None]:
    """Within this context a package of the extra ``worker`` that is missing is said to be so.

    Raises:
        MissingExtra: One is.
    """
    return _needing("worker")


@contextmanager
def _needing(extra: str) -> Generator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("runner"):
            raise
        raise MissingExtra(
            f"this needs the extra {extra!r} ({error.name} is not installed): "
            f"pip install 'pipecat-scenario-runner[{extra}]'"
        ) from error
