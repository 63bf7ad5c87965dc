"""How a command is run to its exit code, and how it says that it can't be."""

import os
import select
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

import click

from runner.errors import USAGE_EXIT_CODE, RunnerError


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

    from runner.cli.interruption import run_interruptibly

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
