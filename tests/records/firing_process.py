"""Fires schedules in a process of its own, which can be killed: ``python -m tests.records.firing_process SETTINGS``.

It gets its settings as JSON, and says that it begins.
"""

import sys

import anyio

from runner.dispatch.schedules import Schedules
from runner.records.database import Database, database_url
from runner.records.record import Record
from runner.records.secrets import open_vault
from runner.records.store import open_store
from runner.settings import Settings


async def main(settings: Settings) -> None:
    server = settings.server
    record = Record(settings, Database(database_url(server)), open_vault(server), open_store(server))
    print("begins", flush=True)
    await Schedules(record).run()


if __name__ == "__main__":
    anyio.run(main, Settings.model_validate_json(sys.argv[1]))
