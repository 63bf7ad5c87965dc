"""What the routes work with."""

from dataclasses import dataclass

from runner.dispatch.queue import Queue
from runner.records.database import Database
from runner.records.secrets import Vault
from runner.records.store import ArtefactStore
from runner.settings import Settings


@dataclass(frozen=True)
class Services:
    """Everything a request may need.

    Attributes:
        settings: The settings.
        database: The record.
        vault: Encrypts what must not stand in the record in clear.
        store: Holds recordings and timelines.
        queue: Hands runs to workers.
    """

    settings: Settings
    database: Database
    vault: Vault
    store: ArtefactStore
    queue: Queue
