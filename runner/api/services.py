"""What the routes work with."""

from collections.abc import Callable
from dataclasses import dataclass

from runner.records.database import Database
from runner.records.secrets import Vault
from runner.records.store import ArtefactStore
from runner.settings import Settings


def _nobody() -> None:
    """Wake nobody."""


def _always() -> bool:
    """Return that runs are given to workers."""
    return True


@dataclass(frozen=True)
class Services:
    """Everything a request may need.

    Attributes:
        settings: The settings.
        database: The record.
        vault: Encrypts what must not stand in the record in clear.
        store: Holds recordings and timelines.
        wake: Is called when a run may have become free to go, or a place for one: once that is committed. Must not
            block.
        dispatching: Returns whether somebody has lately looked which runs can go to which workers.
    """

    settings: Settings
    database: Database
    vault: Vault
    store: ArtefactStore
    wake: Callable[[], None] = _nobody
    dispatching: Callable[[], bool] = _always
