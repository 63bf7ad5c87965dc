"""Does durable work in a process of its own, which can be killed: ``python -m tests.dispatch.durable_process``.

It gets its settings as JSON, and ``often`` if it is to tidy up every second, or ``delivers`` if it is to deliver
webhooks, and to try each again every second; or ``delivers as shipped``, with no time shortened. It says its executor
once it does work, and ends with its standard input.
"""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
from loguru import logger

from runner.api.webhook_bodies import WebhookBodies
from runner.dispatch import durable as durable_work
from runner.dispatch.delivering import Delivering
from runner.dispatch.durable import Durable
from runner.records import deliveries
from runner.records.database import Database, database_url
from runner.records.record import Record
from runner.records.secrets import open_vault
from runner.records.store import open_store
from runner.settings import Settings

FAST: dict[str, Any] = {
    "POLL_INTERVAL_S": 0.1,
    "SIGN_INTERVAL_S": 0.2,
    "SILENT_LIMIT_S": 1.0,
    "FIRST_WAIT_S": 0.02,
    "LEFT_INTERVAL_S": 0.5,
}
"""How a process goes about it in tests."""


@contextmanager
def started(settings: Settings, database_url: str, *options: str) -> Generator["subprocess.Popen[str]"]:
    """Start one, wait until it does work, and kill it in the end."""
    revealed = settings.model_dump(mode="json", exclude_defaults=True)
    revealed["server"]["database_url"] = database_url
    command = [sys.executable, "-m", "tests.dispatch.durable_process", json.dumps(revealed), *options]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip(), process.communicate()[1]
        try:
            yield process
        finally:
            process.kill()


async def main(settings: Settings, *, tidies_every_second: bool, delivers: bool, as_shipped: bool) -> None:
    if not as_shipped:
        for name, value in FAST.items():
            setattr(durable_work, name, value)
        deliveries.RETRY_WAITS_S = (1,) * 60
    if tidies_every_second:
        durable_work.TIDYING, durable_work.MADE_UP_FOR = "* * * * * *", timedelta()
    database = Database(database_url(settings.server))
    store, vault = open_store(settings.server), open_vault(settings.server)
    record = Record(settings, database, vault, store)
    delivering = Delivering(record, WebhookBodies("http://runner.example.com").make) if delivers else None
    durable = Durable(database, store, settings, delivering)
    await durable.prepare()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(durable.run)
        print(durable.executor, flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        tasks.cancel_scope.cancel()
    await durable.close()
    await database.close()


if __name__ == "__main__":
    logger.remove()
    logger.add(sys.stderr, level="INFO", format="{level} {message}")
    does = {
        "tidies_every_second": "often" in sys.argv,
        "delivers": "delivers" in sys.argv,
        "as_shipped": "shipped" in sys.argv,
    }
    anyio.run(partial(main, Settings.model_validate_json(sys.argv[1]), **does))
