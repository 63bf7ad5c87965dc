"""The durable work of the control plane: what must be done once, whichever process of the API is killed meanwhile.

It runs on DBOS, in as many processes as there are, with its tables in the record's database. What is to be done is
written down in the transaction it follows from; a step that is done is not done again, one that fails is tried again.
DBOS takes up nothing that another process left: every process gives signs of life here, and takes over from the dead.
"""

# Of DBOS some names are used that are its own business: its version is pinned, and test_durable holds what they do.
# pyright: reportPrivateUsage=false

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, _workflow_commands
from dbos._utils import INTERNAL_QUEUE_NAME
from loguru import logger
from sqlalchemy.orm import Session

from runner.dispatch.delivering import Delivering
from runner.dispatch.judging import Judging, Try, judge_of
from runner.dispatch.trying import Trying
from runner.errors import UsageError
from runner.records.database import Database
from runner.records.deliveries import purge_deliveries, take_up_overdue
from runner.records.engines import driver_says, prepare_sqlite
from runner.records.processes import forget, give_sign, say_goodbye, silent
from runner.records.retention import purge
from runner.records.runs import JudgeLater, all_awaiting_judge, end_judged
from runner.records.store import ArtefactStore
from runner.records.tables import utc_now
from runner.records.webhooks import DELIVER_LATER
from runner.settings import Settings

APPLICATION = "scenario-runner"
APPLICATION_VERSION = "4"
"""Of what the work consists of, not of the package: what another version has begun is left to the hourly tidying."""

POLL_INTERVAL_S = 2.0
"""How often to look whether there is something to do."""

JOBS_INTERVAL_S = 4.0
"""How often DBOS looks for delays and time limits, of which there are none here. Less than the 5 s of its lock."""

AT_ONCE = 8
"""How many runs are judged at once in a process."""

SIGN_INTERVAL_S = 2.0
SILENT_LIMIT_S = 6.0
"""A process without a sign of life for so long is dead."""

GAP_S = 5.0
"""Who has not looked for so long knows nothing of what others did meanwhile: the database may have been away."""

LEFT_INTERVAL_S = 30.0
"""How often to look for what broke off in this very process, which lives and whose work nobody takes over."""

TIDYING = "0 * * * *"
"""When to tidy up, as cron has it."""

MADE_UP_FOR = timedelta(hours=1)
"""What was to be done by the clock so long before the start is made up for: a server may never be up on the hour."""

REMEMBERED = timedelta(days=1)
"""How long what was done is remembered."""

JUDGING_LIMIT = timedelta(hours=1)
"""After so long a run that nobody has judged ends without."""

STOPPING_LIMIT_S = 2.0
FIRST_WAIT_S = 1.0
"""How long after its first failure a step is tried again. Each time it is twice as long."""

_OVER = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
_CHUNK = 500
"""How many workflows are dealt with at once."""

# DBOS brings a console handler of its own where there is none; what it says goes where everything else does.
logging.getLogger("dbos").addHandler(logging.NullHandler())


class Durable:
    """Does durable work, from :meth:`run` on. DBOS is one for the whole process: so is this.

    Where there is nothing for it to do, as without webhooks or a judge and with nothing ever to be deleted, DBOS is
    not started. Without ``delivering``, that is left to others.
    """

    def __init__(
        self, database: Database, store: ArtefactStore, settings: Settings, delivering: Delivering | None = None
    ):
        self._database = database
        self._store = store
        self._settings = settings
        self._judging = Judging(database, store, settings.judge)
        self._delivering = delivering
        if delivering is not None:
            database.info[DELIVER_LATER] = self.deliver_later
        self._url = database.url
        self._serializer = DBOSPortableJSONSerializer()
        self._engines: list[sa.Engine] = []
        self._client: DBOSClient | None = None
        self._is_needed = False
        self._trying = Trying("no durable work is done")
        self._is_stopping = False
        self._under_way: dict[anyio.CancelScope, str] = {}
        """The workflows that are under way here."""
        self._at_once = anyio.CapacityLimiter(AT_ONCE)
        self._ended = anyio.Event()
        self._looked_s: float | None = None
        self._next_left_s = 0.0
        self._left: set[str] = set()
        """What seemed to have broken off when it was looked last."""
        self._believing_from_s = 0.0
        self.executor = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"

    @property
    def judge_later(self) -> JudgeLater | None:
        """Lets a run be judged once the transaction is committed; None where the settings name no judge."""
        return self._judge_later if self._settings.judge.configured else None

    async def prepare(self) -> None:
        """See what there is to do, and make the tables that it takes. Safe if two processes do it at once.

        Raises:
            UsageError: The settings name a judge that can't be made, or the tables can't be made.
        """
        if self._settings.judge.configured:
            await anyio.to_thread.run_sync(judge_of, self._settings.judge)
        left = await self._database.look(lambda session: all_awaiting_judge(session, since=utc_now()))
        self._is_needed = bool(
            self._settings.judge.configured
            or self._settings.server.retention_days is not None
            or self._delivering is not None
            or left
        )
        if self._is_needed:
            await self.make_tables()

    async def make_tables(self) -> None:
        try:
            # With DBOS's own engine: its migration begins a transaction itself, which ours has begun already.
            await anyio.to_thread.run_sync(DBOS.migrate, self._url)
        except Exception as error:
            raise UsageError(
                f"{self._database.name}: its tables for durable work can't be made ({driver_says(self._url, error)})"
            ) from None

    async def run(self) -> None:
        """Do what is to be done, until cancelled. What goes wrong is logged, and tried again."""
        if not self._is_needed:
            return
        while not await self._trying.succeeds(self._launch):  # noqa: ASYNC110 - nobody tells when it would
            await anyio.sleep(SIGN_INTERVAL_S)
        try:
            while True:
                await self._trying.succeeds(self._look_after_each_other)
                await anyio.sleep(SIGN_INTERVAL_S)
        finally:
            with anyio.CancelScope(shield=True):
                await self._stop()

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await anyio.to_thread.run_sync(self._client.destroy)
        for engine in self._engines:
            await anyio.to_thread.run_sync(engine.dispose)

    # What follows from a transaction.

    def _judge_later(self, session: Session, run_id: int, attempt: int) -> None:
        self._enqueue(session, "judge", run_id, attempt)

    def deliver_later(self, session: Session, delivery_id: int, round: int) -> None:
        """See to it, in a transaction, that a webhook is delivered once that is committed."""
        self._enqueue(session, "deliver", delivery_id, round)

    def _enqueue(self, session: Session, name: str, of: int, number: int) -> None:
        """Let a workflow begin once a transaction is committed: once, whoever asks for it again."""
        if self._client is None:
            self._client = DBOSClient(
                system_database_url=self._url,
                system_database_engine=self._engine(),
                application_name=APPLICATION,
                serializer=self._serializer,
                # Connects when it has to, and never for this: the transaction may hold the only write lock there is.
                lazy=True,
                retry_connection_errors=False,
            )
        self._client.enqueue_in_transaction(
            session,
            {
                "workflow_name": name,
                "queue_name": INTERNAL_QUEUE_NAME,
                "workflow_id": f"{name}-{of}-{number}",
                "app_version": APPLICATION_VERSION,
            },
            of,
            number,
        )

    # DBOS.

    async def _launch(self) -> None:
        """Start DBOS on this event loop. Blocks for a moment."""
        tidy = self._declare()
        try:
            await self._database.run(lambda session: give_sign(session, self.executor))
            dbos = DBOS(config=self._config())
            _look_less_often(dbos)
            # To no other queue than its own: each costs a thread, and a look every now and then.
            DBOS.listen_queues([])
            DBOS.launch()
            # What breaks off is taken up again. Waiting for a database is done in threads, which can't be stopped.
            dbos._sys_db._retry_connection_errors = False
            await anyio.to_thread.run_sync(_set_up, tidy)
        except BaseException:
            await anyio.to_thread.run_sync(_destroy)
            raise

    def _declare(self) -> Callable[[datetime, Any], Coroutine[Any, Any, None]]:
        """Tell DBOS what there is to do, which it keeps until it is destroyed; return what is done by the clock."""

        @DBOS.workflow(name="judge", max_recovery_attempts=5)
        async def judge(run_id: int, attempt: int) -> None:  # pyright: ignore[reportUnusedFunction] - known by its name
            await self._within(lambda: self._judge(run_id, attempt))

        # It may last for hours, in which processes come and go.
        @DBOS.workflow(name="deliver", max_recovery_attempts=1_000)
        async def deliver(delivery_id: int, round: int) -> None:  # pyright: ignore[reportUnusedFunction] - likewise
            await self._within(lambda: self._deliver(delivery_id, round))

        @DBOS.workflow(name="tidy")
        async def tidy(at: datetime, context: Any) -> None:
            await self._within(self._tidy)

        return tidy

    def _config(self) -> DBOSConfig:
        config: DBOSConfig = {
            "name": APPLICATION,
            "application_version": APPLICATION_VERSION,
            "executor_id": self.executor,
            "system_database_url": self._url,
            "serializer": self._serializer,
            "run_migrations": False,
            # Nothing waits for a message here, and schedules don't change.
            "use_listen_notify": False,
            "notification_listener_polling_interval_sec": 0.5,
            "scheduler_polling_interval_sec": 30.0,
            # While the database is away each of its threads says so, every second.
            "log_level": "ERROR",
        }
        engine = self._engine()
        if engine is not None:
            config["system_database_engine"] = engine
        else:
            config["sys_db_pool_size"] = 2
            config["db_engine_kwargs"] = {"max_overflow": 2, "pool_use_lifo": True, "pool_pre_ping": False}
        return config

    def _engine(self) -> sa.Engine | None:
        """Return an engine for DBOS to use; None where its own is right."""
        if not self._url.startswith("sqlite"):
            return None
        arguments = {"timeout": 30, "isolation_level": None}
        engine = sa.create_engine(self._url, connect_args=arguments, hide_parameters=True)
        prepare_sqlite(engine, "synchronous = NORMAL", is_writer=True)
        self._engines.append(engine)
        return engine

    async def _judge(self, run_id: int, attempt: int) -> None:
        async with self._at_once:
            await self._judging.judge(run_id, attempt, _step)

    async def _deliver(self, delivery_id: int, round: int) -> None:
        if self._delivering is not None:
            await self._delivering.deliver(delivery_id, round, _step, DBOS.sleep_async)

    async def _within(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work of a workflow. When this process is to stop, or the database is away, it is left as it is."""
        is_done = False
        with anyio.CancelScope() as scope:
            if self._is_stopping:
                scope.cancel()
            self._under_way[scope] = DBOS.workflow_id or ""
            try:
                await anyio.lowlevel.checkpoint()
                await work()
                is_done = True
            except Exception as error:
                # Everything that work comes to is written down: this is about the writing.
                logger.warning("{}: breaks off ({})", DBOS.workflow_id, type(error).__name__)
            finally:
                del self._under_way[scope]
                self._ended.set()
        if not is_done:
            # The one way out of a workflow that writes no outcome.
            raise asyncio.CancelledError

    async def _stop(self) -> None:
        self._is_stopping = True
        for scope in self._under_way:
            scope.cancel()
        with anyio.move_on_after(STOPPING_LIMIT_S):
            while self._under_way:
                self._ended = anyio.Event()
                await self._ended.wait()
        await anyio.to_thread.run_sync(_destroy)
        # DBOS had made its pool the loop's own, which is shut down now.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
        with anyio.move_on_after(STOPPING_LIMIT_S):
            await self._trying.succeeds(lambda: self._database.run(partial(say_goodbye, executor=self.executor)))

    # Each other.

    async def _look_after_each_other(self) -> None:
        """Give a sign of life, and take over from processes that give none any more."""
        now_s = anyio.current_time()
        if self._looked_s is None or now_s - self._looked_s > GAP_S:
            # The others get as long to come back.
            self._believing_from_s = now_s + SILENT_LIMIT_S
        limit_s = SILENT_LIMIT_S if now_s >= self._believing_from_s else None
        await self._database.run(lambda session: give_sign(session, self.executor))
        for executor in await self._database.look(lambda session: silent(session, longer_than_s=limit_s)):
            # Again and by several, if need be: each of its workflows is taken over once.
            taken = await anyio.to_thread.run_sync(DBOS._recover_pending_workflows, [executor])
            logger.bind(executor=executor).log(
                "WARNING" if taken else "INFO", "process {}: gone, leaves {} pieces of work", executor, len(taken)
            )
            await self._database.run(partial(forget, executor=executor, longer_than_s=limit_s))
        if now_s >= self._next_left_s:
            await self._take_up_again()
            self._next_left_s = now_s + LEFT_INTERVAL_S
        self._looked_s = anyio.current_time()

    async def _take_up_again(self) -> None:
        """Take up what this process had begun, and what is not under way any more."""
        left = await anyio.to_thread.run_sync(_begun_by, self.executor)
        left.difference_update(self._under_way.values())
        # What was met with once may just be about to begin.
        again = sorted(left & self._left)
        if again:
            logger.info("{} pieces of work that broke off are taken up again", len(again))
            await anyio.to_thread.run_sync(DBOS.resume_workflows, again)
        self._left = left.difference(again)

    # Tidying.

    async def _tidy(self) -> None:
        """Delete what is old, and end what waits for a judge in vain."""
        try:
            days = self._settings.server.retention_days
            if days is not None:
                purged = await purge(self._database, self._store, older_than=utc_now() - timedelta(days=days))
                logger.info("the artefacts of {} runs were deleted", purged)
            told = utc_now() - timedelta(days=self._settings.server.webhook_log_days)
            while await self._database.run(partial(purge_deliveries, older_than=told)):
                pass
            if self._delivering is not None:
                await self._database.run(take_up_overdue)
            since = utc_now() - JUDGING_LIMIT
            left = await self._database.look(lambda session: all_awaiting_judge(session, since=since))
            for run_id, attempt in left:
                logger.warning("run {}: was not judged in time", run_id)
                await self._database.run(
                    partial(end_judged, run_id=run_id, attempt=attempt, judged="it took the judge too long")
                )
            await anyio.to_thread.run_sync(_prune)
        except Exception as error:
            # In an hour it is tried again.
            logger.opt(exception=True).warning("what is old could not be deleted ({})", type(error).__name__)


async def _step(name: str, attempts: int, work: Callable[[Try], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Do a step of a workflow."""

    async def tried() -> dict[str, Any]:
        status = DBOS.step_status
        number = 1 if status is None or status.current_attempt is None else status.current_attempt + 1
        return await work(Try(number, is_last=number >= attempts))

    return await DBOS.run_step_async(
        {
            "name": name,
            "retries_allowed": True,
            "max_attempts": attempts,
            "interval_seconds": FIRST_WAIT_S,
            "backoff_rate": 2.0,
        },
        tried,
    )


def _look_less_often(dbos: DBOS) -> None:
    """Let DBOS do less of what it does every second: it would cost more than everything else while nothing is on."""
    dbos._registry.get_internal_queue()._polling_interval_sec = POLL_INTERVAL_S
    _workflow_commands._BACKGROUND_JOBS_INTERVAL_SEC = JOBS_INTERVAL_S


def _begun_by(executor: str) -> set[str]:
    """Return the workflows that a process has begun, as far as is written down. Blocks."""
    found = DBOS.list_workflows(
        status="PENDING", executor_id=executor, limit=_CHUNK, load_input=False, load_output=False
    )
    return {one.workflow_id for one in found}


def _set_up(tidy: Callable[[datetime, Any], Coroutine[Any, Any, None]]) -> None:
    """Say what is to be done when. Blocks."""
    DBOS.apply_schedules([{"schedule_name": "tidy", "workflow_fn": tidy, "schedule": TIDYING, "context": None}])
    now = utc_now()
    DBOS.backfill_schedule("tidy", now - MADE_UP_FOR, now)


def _prune() -> None:
    """Forget what was done long ago. Blocks."""
    before = (utc_now() - REMEMBERED).isoformat()
    while True:
        old = DBOS.list_workflows(
            status=_OVER, completed_before=before, limit=_CHUNK, load_input=False, load_output=False
        )
        if not old:
            return
        DBOS.delete_workflows([one.workflow_id for one in old])


def _destroy() -> None:
    DBOS.destroy(destroy_registry=True)
