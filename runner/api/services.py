"""What the routes work with."""

from dataclasses import dataclass

from runner.dispatch.dispatcher import Dispatcher
from runner.dispatch.durable import Durable
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
        dispatcher: Answers the polls of workers.
        durable: Does what follows from outcomes.
    """

    settings: Settings
    database: Database
    vault: Vault
    store: ArtefactStore
    dispatcher: Dispatcher
    durable: Durable
