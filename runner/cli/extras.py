"""Optional packages that a command needs: a missing one is named, with the extra that brings it."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec

from runner.cli.running import fail
from runner.errors import MissingExtra


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


def needing_compare_extra() -> AbstractContextManager[None]:
    """Within this context a package of the extra ``compare`` that is missing is said to be so.

    Raises:
        MissingExtra: One is.
    """
    return _needing("compare")


@contextmanager
def _needing(extra: str) -> Generator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("runner"):
            raise
        raise MissingExtra.named(extra, str(error.name)) from error


def need_agents_extra() -> None:
    """End with one line where Pipecat's own runner, which serves the reference agents, is not installed."""
    if find_spec("fastapi") is None or find_spec("pipecat_ai_prebuilt") is None:
        fail(str(MissingExtra.named("agents", "Pipecat's runner")))
