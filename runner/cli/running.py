"""How a command is run to its exit code, with what it needs, and how it says that it can't be."""

import os
import select
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from runner.cli.options import (
    config_option,
    log_level,
    log_to_stderr,
    record_options,
    server_settings,
    verbose_option,
)
from runner.errors import USAGE_EXIT_CODE, MissingExtra, RunnerError

if TYPE_CHECKING:
    from runner.records.database import Database
    from runner.settings import Settings

_Work = Callable[..., Awaitable[int | None]]
"""What a command does; returns its exit code, None for 0."""


def with_settings(work: _Work) -> Callable[..., NoReturn]:
    """Make a command of work that is given the settings; it logs as they and ``--verbose`` say."""

    @wraps(work)
    def command(config: Path | None, verbose: int, **given: Any) -> NoReturn:
        async def run() -> int | None:
            from runner.settings import load_settings

            settings = load_settings(config)
            log_to_stderr(log_level(settings.log_level, verbose))
            return await work(settings, **given)

        run_command(run, verbose=verbose)

    return verbose_option(config_option(command))


def without_settings(work: _Work) -> Callable[..., NoReturn]:
    """Make a command of work that needs no settings; it logs warnings."""

    @wraps(work)
    def command(**given: Any) -> NoReturn:
        log_to_stderr("WARNING")
        run_command(lambda: work(**given))

    return command


def on_database(work: _Work, *, current: bool = False) -> Callable[..., NoReturn]:
    """Make a command of work that is given a database in any state, and the server's settings."""

    @wraps(work)
    def command(config: Path | None, data_dir: Path | None, database_url: str | None, **given: Any) -> NoReturn:
        async def run() -> int | None:
            settings = server_settings(config, data_dir, database_url)
            with needing("server"):
                from runner.records.database import Database
                from runner.records.database import database_url as address
            database = Database(address(settings.server))
            try:
                if current:
                    await database.check_current()
                return await work(database, settings, **given)
            finally:
                await database.close()

        # What a database driver says can be long, and hold an address.
        run_command(run, quotes=False)

    return record_options(command)


def on_record(work: _Work) -> Callable[..., NoReturn]:
    """Make a command of work that is given a record that is there and up to date, and the server's settings."""
    return on_database(work, current=True)


@asynccontextmanager
async def delivering_later(database: "Database", settings: "Settings") -> AsyncGenerator[None]:
    """Let a running server deliver the webhooks that follow from what is done to a record meanwhile.

    Raises:
        UsageError: The tables that this takes can't be made.
    """
    from runner.dispatch.durable import Durable
    from runner.records.store import open_store
    from runner.records.webhooks import DELIVER_LATER

    durable = Durable(database, open_store(settings.server), settings)
    database.info[DELIVER_LATER] = durable.deliver_later
    try:
        await durable.make_tables()
        yield
    finally:
        await durable.close()


@contextmanager
def needing(extra: str) -> Generator[None]:
    """Within this context a package that is missing is said to be so, with the extra that brings it.

    Raises:
        MissingExtra: One is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("runner"):
            raise
        raise MissingExtra.named(extra, str(error.name)) from error


def need_agents_extra() -> None:
    """See that Pipecat's own runner is installed, which serves the reference agents.

    Raises:
        MissingExtra: It is not.
    """
    if find_spec("fastapi") is None or find_spec("pipecat_ai_prebuilt") is None:
        raise MissingExtra.named("agents", "Pipecat's runner")


def run_command(
    command: Callable[[], Awaitable[int | None]], *, verbose: int = 0, quotes: bool = True, takes_signals: bool = True
) -> NoReturn:
    """Run a command to its exit code, and exit with it; every error is one message, never a traceback.

    Args:
        verbose: Above 0 an error of our own comes out with its traceback.
        quotes: Whether an error of our own is quoted.
        takes_signals: Whether signals end the command in good order; not where it takes care of them itself.
    """
    import anyio

    from runner.cli.interruption import run_interruptibly

    work = partial(run_interruptibly, command) if takes_signals else command
    try:
        code = anyio.run(work, backend_options={"use_uvloop": sys.platform != "win32"})
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
    sys.exit(code or 0)


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
