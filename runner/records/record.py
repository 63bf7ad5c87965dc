"""The result record as a whole: its database and what belongs to it."""

from dataclasses import dataclass

from runner.records.database import Database
from runner.records.secrets import Vault
from runner.records.store import ArtefactStore
from runner.settings import Settings


@dataclass(frozen=True)
class Record:
    """What keeps results.

    Attributes:
        settings: The settings.
        database: The database.
        vault: Encrypts what must not stand in the database in clear.
        store: Holds recordings and timelines.
    """

    settings: Settings
    database: Database
    vault: Vault
    store: ArtefactStore
