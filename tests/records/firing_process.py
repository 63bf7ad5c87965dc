"""Fires schedules in a process of its own, which can be killed: ``python -m tests.records.firing_process SETTINGS``.

It gets its settings as JSON, and says that it begins. With the path of a file after them, the time is what that file
says, in seconds since 1970, and it looks for what is due a hundred times a second.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import anyio
from loguru import logger

from runner.dispatch import schedules
from runner.dispatch.schedules import Schedules
from runner.records.database import Database, database_url
from runner.records.record import Record
from runner.records.secrets import open_vault
from runner.records.store import open_store
from runner.settings import Settings

VIRTUAL_LOOK_INTERVAL_S = 0.01


async def main(settings: Settings, clock: Path | None) -> None:
    server = settings.server
    record = Record(settings, Database(database_url(server)), open_vault(server), open_store(server))
    print("begins", flush=True)
    if clock is None:
        await Schedules(record).run()
    else:
        schedules.LOOK_INTERVAL_S = VIRTUAL_LOOK_INTERVAL_S
        await Schedules(record, lambda _: datetime.fromtimestamp(float(clock.read_text()), UTC)).run()


if __name__ == "__main__":
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    given = Settings.model_validate_json(sys.argv[1])
    anyio.run(main, given, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
