"""The parent of a worker's processes: gives them their settings, and tells the record of one that died."""

import os
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
from loguru import logger
from pydantic import SecretStr

from runner.errors import UsageError
from runner.protocol.messages import MAX_RUNS, Gone, Kept, Report
from runner.settings import ENV_PREFIX, FILE_VARIABLE, Settings
from runner.worker.checks import OUTBOX, REPORT
from runner.worker.record_client import RecordClient, RecordError, retried
from runner.worker.supervisor import Supervisor

TELLING_LIMIT_S = 30.0
"""How long it is tried to tell of a dead process; by then its lease is as good as over."""


async def supervise(
    settings: Settings,
    config: Path | None,
    signals: AsyncIterator[signal.Signals],
    *,
    ready: Callable[[], None],
    health: socket.socket | None = None,
) -> None:
    """Keep a worker's processes running until a signal; then wait for their calls, which a second one ends.

    Args:
        config: The settings file that it was told to read, if it was.
        ready: Is called once, when all processes take runs, or say why they don't for now.
        health: Where to answer how the processes fare, if anywhere.

    Raises:
        UsageError: They can't be started, or the record's address is none.
    """
    failure: UsageError | None = None
    async with _supervisor(settings, config, ready) as supervisor, anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.obey, signals)
        if health is not None:
            from runner.worker.health import serve_health

            tasks.start_soon(serve_health, supervisor.children, health)
        try:
            await supervisor.run()
        except UsageError as error:
            # Raised here it would come out wrapped in a group.
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def _supervisor(
    settings: Settings, config: Path | None, ready: Callable[[], None]
) -> AsyncGenerator[Supervisor]:
    worker = settings.worker
    name = worker.name or socket.gethostname()
    try:
        client = httpx.AsyncClient(base_url=worker.record_url or "")
    except httpx.InvalidURL as error:
        raise UsageError(f"the server's address is none: {error}") from None
    async with client as http:
        record = RecordClient(http, worker.key or SecretStr(""))

        async def report_gone(executor: str) -> None:
            with anyio.move_on_after(TELLING_LIMIT_S):
                folder = worker.data_dir.expanduser().absolute() / OUTBOX / executor
                kept = await anyio.to_thread.run_sync(_left_in, folder)
                try:
                    await retried(lambda: record.gone(Gone(executor=executor, kept=kept)))
                except RecordError as error:
                    logger.warning("the server was not told that worker {} is dead: {}", executor, error)

        yield Supervisor(
            [f"{name}-{number}" for number in range(1, worker.processes + 1)],
            environment(settings, config),
            drain_limit_s=worker.drain_limit_s,
            ready=ready,
            report_gone=report_gone,
        )


def _left_in(folder: Path) -> tuple[Kept, ...]:
    """Return the outcomes that a dead worker left in its folder: whoever finds them there delivers them."""
    kept: list[Kept] = []
    for path in sorted(folder.glob(f"*/{REPORT}"))[:MAX_RUNS]:
        # What can't be read, or is none, nobody can deliver.
        with suppress(OSError, ValueError):
            kept.append(Report.model_validate_json(path.read_bytes()).kept)
    return tuple(kept)


def environment(settings: Settings, config: Path | None) -> dict[str, str]:
    """Return the environment that gives a worker's processes their settings, the key among them.

    What belongs to the server alone, such as its database, is none of theirs.
    """
    worker = settings.worker
    told: dict[str, str] = {
        f"{ENV_PREFIX}LOG_LEVEL": settings.log_level,
        f"{ENV_PREFIX}WORKER__CALLS": str(worker.calls),
        f"{ENV_PREFIX}WORKER__RECORD_URL": worker.record_url or "",
        f"{ENV_PREFIX}WORKER__DATA_DIR": str(worker.data_dir.expanduser().absolute()),
        f"{ENV_PREFIX}WORKER__DRAIN_LIMIT_S": str(worker.drain_limit_s),
        f"{ENV_PREFIX}WORKER__KEY": "" if worker.key is None else worker.key.get_secret_value().strip(),
    }
    if config is not None:
        told[FILE_VARIABLE] = str(config.absolute())

    def is_theirs(name: str) -> bool:
        # However it is written: of two that mean the same, nobody could say which one counts.
        return name not in told and not name.startswith(f"{ENV_PREFIX}SERVER")

    return {**{name: value for name, value in os.environ.items() if is_theirs(name.upper())}, **told}
