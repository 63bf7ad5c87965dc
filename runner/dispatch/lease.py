"""A worker's sign of life, and what it says of itself: a row of its own in the queue's database.

A thread of its own writes it every second, so that a busy event loop does not look like a dead worker. A worker that
can't show that it lives gives its calls up by itself, before anybody else may be given what it had:

- its process stood still (stopped, swapped out, a frozen machine): its calls are spoilt;
- somebody gave it up for lost;
- neither the database nor the record has answered for a while: it is cut off, and may have been given up. While one
  of them answers, it goes on: where the database is away, nobody can give anybody up.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa
from loguru import logger
from sqlalchemy.exc import SQLAlchemyError

from runner.dispatch.engines import lease_engine
from runner.dispatch.errors import QueueError
from runner.dispatch.states import WorkerState
from runner.records.database import driver_says
from runner.records.tables import WorkerRow, utc_now

PROTOCOL = 2
"""Of what workers and record tell each other. A worker of another one is given nothing."""

BEAT_INTERVAL_S = 1.0
SILENCE_LIMIT_S = 5.0
"""After so long without a sign of life a worker gives its calls up."""

LOST_AFTER_S = 6.0
"""After so long without one, by the clock of whoever watches, it is given up for lost."""


@dataclass(frozen=True)
class Load:
    """How a worker fares.

    Attributes:
        loop_lag_ms: The longest its event loop was late within the last seconds.
        underruns: How often a call of its had no audio to send, since it started.
        calls_made: How many calls it made, since it started.
    """

    loop_lag_ms: float = 0.0
    underruns: int = 0
    calls_made: int = 0


@dataclass(frozen=True)
class Beat:
    """What a worker says of itself with a sign of life.

    Attributes:
        state: What it is ready for.
        live: The runs it works on, from before they are claimed until their outcome is reported or on its disk.
        held: The runs of which it has something to report on disk, and has not been able to.
        outcomes: Those of them that may end by it, each with its attempt: the rest waits for another worker.
        load: How it fares.
    """

    state: WorkerState = WorkerState.TAKING
    live: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    outcomes: tuple[tuple[int, int], ...] = ()
    load: Load = field(default_factory=Load)


@dataclass(frozen=True)
class Registration:
    """Who a worker is, and what it can do.

    Attributes:
        executor: Its id (see :func:`new_executor_id`).
        name: Its machine and place there.
        version: The version of this program.
        rooms: The kinds of rooms it can enter, as :class:`runner.rooms.urls.RoomKind` has them.
        calls: How many calls it makes at once.
    """

    executor: str
    name: str
    version: str
    rooms: tuple[str, ...]
    calls: int


def new_executor_id() -> str:
    """Return an id for a worker's process that no other has, nor one before it."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Lease:
    """Keeps a worker's row, from :meth:`start` to :meth:`stop`.

    Args:
        database_url: The queue's database.
        registration: Who the worker is.
        beat: Returns what to say. Called in a thread.
        lost: Is called once, in a thread, with the reason when the worker must give its calls up.
        heard_s: Returns when the record last answered, on the clock of :func:`time.monotonic`. Called in a thread.
    """

    def __init__(
        self,
        database_url: str,
        registration: Registration,
        *,
        beat: Callable[[], Beat],
        lost: Callable[[str], None],
        heard_s: Callable[[], float],
    ):
        self._url = database_url
        self._registration = registration
        self._beat = beat
        self._lost = lost
        self._heard_s = heard_s
        self._engine = lease_engine(database_url)
        self._nudged = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._last_s = 0.0
        self.is_lost = False
        """Whether the worker had to give its calls up."""

    def start(self) -> None:
        """Write the row, and begin to keep it. Blocks.

        Raises:
            QueueError: The database can't be used.
        """
        now = utc_now()
        registration = self._registration
        values = {
            "executor": registration.executor,
            "name": registration.name,
            "version": registration.version,
            "protocol": PROTOCOL,
            "rooms": list(registration.rooms),
            "calls": registration.calls,
            "beat": 1,
            "started_at": now,
            **_said(self._beat()),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(WorkerRow).values(values))
        except SQLAlchemyError as error:
            self._engine.dispose()
            raise QueueError(f"the worker can't register: {driver_says(self._url, error)}") from error
        self._last_s = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def nudge(self) -> None:
        """Write what changed now, and not only at the next beat. Does not block."""
        self._nudged.set()

    def stop(self) -> None:
        """Say that the worker ended in good order: what it still had goes to others at once. Blocks."""
        self._stopped.set()
        self._nudged.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            try:
                self._write({**_said(self._beat()), "state": WorkerState.STOPPED.value, "gone_at": utc_now()})
            except SQLAlchemyError as error:
                # It will be given up for lost, a few seconds later.
                said = "worker {}: could not say that it ended ({})"
                logger.warning(said, self._registration.name, type(error).__name__)
        self._engine.dispose()

    def _keep(self) -> None:
        while not self._stopped.is_set() and not self.is_lost:
            waited_since_s = time.monotonic()
            self._nudged.wait(BEAT_INTERVAL_S)
            self._nudged.clear()
            stood_still_s = time.monotonic() - waited_since_s - BEAT_INTERVAL_S
            if self._stopped.is_set():
                return
            if stood_still_s > SILENCE_LIMIT_S:
                self._lose(f"the worker stood still for {stood_still_s:.0f} s")
                return
            beat = self._beat()
            try:
                is_alive = self._write(_said(beat))
            except SQLAlchemyError as error:
                logger.debug("worker {}: no sign of life ({})", self._registration.name, type(error).__name__)
                silent_since_s = max(self._last_s, self._heard_s())
                if (beat.live or beat.held) and time.monotonic() - silent_since_s > SILENCE_LIMIT_S:
                    self._lose("the worker was cut off from the database and from the record")
                continue
            if not is_alive:
                self._lose("the worker was given up for lost")
                return
            self._last_s = time.monotonic()

    def _write(self, values: Mapping[str, Any]) -> bool:
        """Write the row; return whether it is still the worker's."""
        of_mine = (WorkerRow.executor == self._registration.executor) & WorkerRow.gone_at.is_(None)
        with self._engine.begin() as connection:
            statement = sa.update(WorkerRow).where(of_mine).values(beat=WorkerRow.beat + 1, **values)
            return connection.execute(statement).rowcount == 1

    def _lose(self, reason: str) -> None:
        self.is_lost = True
        # First of all: whoever reads the log may be slow.
        self._lost(reason)
        logger.warning("worker {}: gives its calls up: {}", self._registration.name, reason)


def _said(beat: Beat) -> dict[str, Any]:
    return {
        "state": beat.state.value,
        "runs": {
            "live": list(beat.live),
            "held": list(beat.held),
            "outcomes": [list(outcome) for outcome in beat.outcomes],
        },
        "load": asdict(beat.load),
        "beat_at": utc_now(),
    }
