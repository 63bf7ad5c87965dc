"""Durable work: it is done once, whichever process is killed meanwhile, and nobody loses a call over it."""

# pyright: reportPrivateUsage=false

import inspect
import json
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from dbos import DBOS, DBOSConfig, _workflow_commands
from dbos._sys_db import SystemDatabase
from dbos._sys_db_postgres import BACKGROUND_JOB_LOCK_IDLE_TIMEOUT_MS
from loguru import logger
from pydantic import SecretStr
from sqlalchemy import text, update

from bots.caller.script import Listen, Script, Turn
from bots.timeline import (
    EVENT_ADAPTER,
    AgentJoined,
    AgentSaid,
    CallEnded,
    CallerTurnStarted,
    CallStarted,
    EndedReason,
    RoomEntered,
    Source,
    TimelineEvent,
)
from runner.calls.run_file import Circumstances, Run, judge_run, run_text
from runner.dispatch import durable as durable_work
from runner.dispatch import judging
from runner.dispatch.durable import Durable
from runner.errors import UsageError
from runner.evaluation.asked import Asked
from runner.records.database import Database
from runner.records.runs import Receipt, end_run, request_cancel
from runner.records.store import ArtefactStore, artefact_key, open_store
from runner.records.tables import Project, ResultRow, RunRow, utc_now
from runner.sessions.local_agent import free_port
from runner.settings import JudgeSettings, ServerSettings, Settings
from tests.dispatch.durable_process import FAST, started
from tests.judge.endpoint import HANGS, Body, Reply, completion, prompt, serve, verdict
from tests.patience import until
from tests.postgres import USER, PostgresServer, postgres_binaries
from tests.records.giving import WORKER

pytestmark = pytest.mark.anyio

PROMPT = "must sing an opera"
NAME = "The agent asks for the name"
ASKED = Asked.model_validate({"expected_outcome": PROMPT})
BOTH = Asked.model_validate(
    {"expected_outcome": PROMPT, "conditions": [{"turn": 0, "where": "conditions[1].condition", "when": NAME}]}
)
SCRIPT = Script(name="greeting", turns=(Turn(action=Listen()),))


def outcome(answer: str = "yes") -> Reply:
    return completion(
        json.dumps({"statements": [{"statement": "it sings", "answer": answer, "reason": "so I hear"}]})
    )


def says_yes(body: Body) -> Reply:
    return outcome() if PROMPT in prompt(body) else verdict("yes")


def told(row: RunRow) -> dict[str, Any]:
    """Return what the record holds of a call."""
    assert row.outcome is not None
    return row.outcome


class Scene:
    """A record, a store, and calls that workers have made."""

    def __init__(self, database: Database, folder: Path):
        self.database = database
        self.server = ServerSettings(data_dir=folder, database_url=SecretStr(database.url))
        self.store: ArtefactStore = open_store(self.server)

    def settings(self, judge: JudgeSettings | None = None, **server: Any) -> Settings:
        return Settings(
            judge=judge or JudgeSettings(base_url="http://127.0.0.1:9/v1", model="m", timeout_s=1),
            server=self.server.model_copy(update=server),
        )

    async def called(self, asked: Asked = ASKED) -> Run:
        """Return a call that a worker has made, and whose run it still has."""
        async with self.database.session() as session:
            values = {"status": "running", "executor": WORKER, "started_at": utc_now(), "room_token": b"sealed"}
            session.add(
                row := RunRow(result_id=1, project_id=1, scenario_name="s", snapshot={"script": {}}, **values)
            )
            await session.execute(update(ResultRow).where(ResultRow.id == 1).values(status="running"))
            await session.flush()
            run_id = row.id
        facts: list[TimelineEvent] = [
            CallStarted(at_ns=0, run_id=str(run_id), scenario="s", room="r", wall_time="now", monotonic_ns=1),
            RoomEntered(at_ns=1),
            AgentJoined(at_ns=2),
            AgentSaid(at_ns=3, text="Your name, please?", source=Source.HEARD),
            CallerTurnStarted(at_ns=4, turn=0),
            CallEnded(at_ns=1_000_000_000, reason=EndedReason.CALLER_HUNG_UP),
        ]
        run = judge_run(SCRIPT, facts, Circumstances(asked=asked))
        await self.bring(run_id, "timeline.jsonl", b"".join(EVENT_ADAPTER.dump_json(one) + b"\n" for one in facts))
        await self.bring(run_id, "run.json", run_text(run).encode())
        return run

    async def bring(self, run_id: int, name: str, data: bytes) -> None:
        await self.store.put(artefact_key(run_id, name, 1), data, max_bytes=len(data))
        await self.set_artefact(run_id, name, len(data))

    async def set_artefact(self, run_id: int, name: str, size: int | None) -> None:
        row = await self.row(run_id)
        async with self.database.session() as session:
            await session.execute(
                update(RunRow).where(RunRow.id == run_id).values(artefacts={**row.artefacts, name: size})
            )

    async def report(self, durable: Durable, run: Run) -> Receipt:
        return await self.database.run(
            lambda session: end_run(session, int(run.id), 1, run, executor=WORKER, judge_later=durable.judge_later)
        )

    async def row(self, run_id: int | str) -> RunRow:
        async with self.database.reading() as session:
            return await session.get_one(RunRow, int(run_id))

    async def ended(self, run_id: int | str, timeout_s: float = 20) -> RunRow:
        with anyio.fail_after(timeout_s):
            while (row := await self.row(run_id)).ended_at is None:
                await anyio.sleep(0.05)
        return row

    async def workflows(self, name: str) -> list[str]:
        """Return the states of the workflows of a name."""
        table = "workflow_status" if self.database.url.startswith("sqlite") else "dbos.workflow_status"
        async with self.database.reading() as session:
            rows = await session.execute(text(f"SELECT status FROM {table} WHERE name = :name"), {"name": name})
            return [row[0] for row in rows]

    @asynccontextmanager
    async def working(self, settings: Settings) -> AsyncGenerator[Durable]:
        """Do durable work in this process."""
        async with self.idle(settings) as durable, anyio.create_task_group() as tasks:
            tasks.start_soon(durable.run)
            yield durable
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def idle(self, settings: Settings) -> AsyncGenerator[Durable]:
        """Write down durable work that others do."""
        durable = Durable(self.database, self.store, settings)
        await durable.prepare()
        yield durable
        await durable.close()

    @contextmanager
    def process(self, settings: Settings, *options: str) -> Generator["subprocess.Popen[str]"]:
        """Do durable work in another process. What it logs is its standard error."""
        with started(settings, self.database.url, *options) as process:
            yield process


@pytest.fixture
def scene(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    for name, value in FAST.items():
        monkeypatch.setattr(durable_work, name, value)
    monkeypatch.setattr(judging, "ASKING_ATTEMPTS", 3)
    return Scene(database, tmp_path / "data")


class Crashing(PostgresServer):
    """A PostgreSQL server of its own that can crash, reached by TCP."""

    def url(self, name: str) -> str:
        return f"postgresql://{USER}@127.0.0.1/{name}"


@pytest.fixture
async def crashing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncGenerator[tuple[Scene, Crashing]]:
    """A record in a database that can crash."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    port = free_port()
    monkeypatch.setenv("PGPORT", str(port))
    for name, value in FAST.items():
        monkeypatch.setattr(durable_work, name, value)
    options = ("listen_addresses=127.0.0.1", f"port={port}", "max_connections=50")
    server = Crashing(binaries, options, survives_crashes=True)
    database = Database(server.url(server.create()))
    await database.migrate()
    async with database.session() as session:
        session.add_all([Project(id=1, name="p"), ResultRow(id=1, project_id=1, run_type="pipecat")])
    yield Scene(database, tmp_path), server
    await database.close()
    server.stop()


@pytest.mark.parametrize(("answer", "success"), [("yes", True), ("unreached", None), ("no", False)])
async def test_what_was_asked_is_judged_once_its_call_is_reported(
    scene: Scene, answer: str, success: bool | None
) -> None:
    run = await scene.called()
    with serve(outcome(answer)) as endpoint:
        async with scene.idle(scene.settings(endpoint.settings())) as durable:
            receipt = await scene.report(durable, run)
            assert receipt.accepted and receipt.is_new and not receipt.has_ended
            waiting = await scene.row(run.id)
            assert (waiting.status, waiting.success, waiting.room_token) == ("evaluating", None, None)
            assert "the judge has not answered yet" in told(waiting)["detail"]
        async with scene.working(scene.settings(endpoint.settings())) as durable:
            ended = await scene.ended(run.id)
            # Whoever did not hear the answer reports again.
            again = await scene.report(durable, run)
        assert again.accepted and not again.is_new and again.has_ended
    assert [PROMPT in prompt(body) for body in endpoint.bodies] == [True]
    assert (ended.status, ended.success) == ("completed", success)
    assert told(ended)["expected_outcome"]["statements"][0]["reason"] == "so I hear"
    assert told(ended)["judge"]["questions"] == 1
    kept = b"".join([piece async for piece in scene.store.get(artefact_key(ended.id, "run.json", 1))])
    assert {name: value for name, value in json.loads(kept).items() if name != "script"} == told(ended)
    assert ended.artefacts["run.json"] == len(kept)
    async with scene.database.reading() as session:
        assert (await session.get_one(ResultRow, 1)).status == "completed"


@pytest.mark.slow
async def test_a_killed_process_loses_nothing_and_asks_nothing_again(scene: Scene) -> None:
    hangs = threading.Event()
    hangs.set()

    def answer(body: Body) -> Reply:
        return HANGS if PROMPT in prompt(body) and hangs.is_set() else says_yes(body)

    run = await scene.called(BOTH)
    with serve(answer) as endpoint:
        settings = scene.settings(endpoint.settings(timeout_s=60))
        with scene.process(settings) as first:
            async with scene.idle(settings) as durable:
                await scene.report(durable, run)
            await until(lambda: any(PROMPT in prompt(body) for body in endpoint.bodies))
            with scene.process(settings):
                hangs.clear()
                first.send_signal(signal.SIGKILL)
                ended = await scene.ended(run.id)
    asked = Counter("outcome" if PROMPT in prompt(body) else "condition" for body in endpoint.questions)
    assert asked == {"condition": 1, "outcome": 2}
    assert (ended.status, ended.success, told(ended)["not_honoured"]) == ("completed", True, [])
    # The question that was answered before, and the one that was answered afterwards.
    assert told(ended)["judge"]["questions"] == 2


async def test_a_process_that_is_stopped_leaves_at_once_what_it_was_at(scene: Scene) -> None:
    replies = iter([HANGS])
    run = await scene.called()
    with serve(lambda body: next(replies, outcome())) as endpoint:
        settings = scene.settings(endpoint.settings(timeout_s=60))
        async with scene.working(settings) as durable:
            await scene.report(durable, run)
            await until(lambda: endpoint.bodies)
            stopping_s = anyio.current_time()
        assert anyio.current_time() - stopping_s < 5
        assert await scene.workflows("judge") == ["PENDING"]
        async with scene.working(settings):
            assert (await scene.ended(run.id)).success is True
    assert len(endpoint.bodies) == 2


async def test_a_judge_that_fails_is_asked_again_later(scene: Scene) -> None:
    replies = iter([Reply(status=400), Reply(status=400)])
    run = await scene.called()
    with serve(lambda body: next(replies, outcome())) as endpoint:
        async with scene.working(scene.settings(endpoint.settings())) as durable:
            await scene.report(durable, run)
            assert (await scene.ended(run.id)).success is True
    assert len(endpoint.bodies) == 3


async def test_a_judge_that_is_away_passes_nothing_and_fails_nothing(scene: Scene) -> None:
    run = await scene.called()
    async with scene.working(scene.settings()) as durable:
        await scene.report(durable, run)
        ended = await scene.ended(run.id)
    assert (ended.status, ended.success) == ("completed", None)
    assert "the judge gave no answer" in told(ended)["detail"]


@pytest.mark.parametrize("name", ["run.json", "timeline.jsonl"])
async def test_without_its_facts_a_call_ends_as_it_was_reported(scene: Scene, name: str) -> None:
    run = await scene.called()
    await scene.store.delete(artefact_key(int(run.id), name, 1))
    async with scene.working(scene.settings()) as durable:
        await scene.report(durable, run)
        ended = await scene.ended(run.id)
    assert (ended.status, ended.success) == ("completed", None)
    assert told(ended)["detail"] == f"expected_outcome_prompt was not judged: its {name} is not there"
    assert ended.error_message == f"inconclusive: {told(ended)['detail']}"


async def test_facts_that_come_late_are_waited_for(scene: Scene) -> None:
    run = await scene.called()
    size = (await scene.row(run.id)).artefacts["timeline.jsonl"]
    await scene.set_artefact(int(run.id), "timeline.jsonl", None)
    with serve(outcome()) as endpoint:
        async with scene.working(scene.settings(endpoint.settings())) as durable:
            await scene.report(durable, run)
            with anyio.fail_after(20):
                while await scene.workflows("judge") != ["PENDING"]:
                    await anyio.sleep(0.05)
            await scene.set_artefact(int(run.id), "timeline.jsonl", size)
            assert (await scene.ended(run.id)).success is True


async def test_a_run_cancelled_meanwhile_ends_with_what_there_is(scene: Scene) -> None:
    run = await scene.called()
    with serve(HANGS) as endpoint:
        async with scene.working(scene.settings(endpoint.settings(timeout_s=60))) as durable:
            await scene.report(durable, run)
            await until(lambda: endpoint.bodies)
            await scene.database.run(lambda session: request_cancel(session, [int(run.id)]))
            ended = await scene.row(run.id)
            endpoint.closed.set()
            with anyio.fail_after(20):
                while await scene.workflows("judge") != ["SUCCESS"]:
                    await anyio.sleep(0.05)
    assert (ended.status, ended.success, ended.cause) == ("completed", None, None)
    assert "cancelled before the judge had answered" in told(ended)["detail"]
    assert (await scene.row(run.id)).updated_at == ended.updated_at


async def test_where_the_judge_was_removed_runs_end_without(scene: Scene) -> None:
    run = await scene.called()
    async with scene.idle(scene.settings()) as durable:
        await scene.report(durable, run)
    async with scene.working(scene.settings(JudgeSettings())):
        ended = await scene.ended(run.id)
    assert ended.success is None and "no judge was asked" in told(ended)["detail"]


@pytest.mark.slow
async def test_while_the_database_is_away_nothing_is_lost(crashing: tuple[Scene, Crashing]) -> None:
    scene, server = crashing
    run = await scene.called()
    is_away = threading.Event()

    def answer(body: Body) -> Reply:
        is_away.wait(30)
        return outcome()

    said: list[str] = []
    sink = logger.add(said.append, level="WARNING", format="{message}")
    with serve(answer) as endpoint:
        async with scene.working(scene.settings(endpoint.settings(timeout_s=60))) as durable:
            await scene.report(durable, run)
            await until(lambda: endpoint.bodies)
            server.crash()
            is_away.set()
            await anyio.sleep(2)
            server.start()
            ended = await scene.ended(run.id, timeout_s=40)
    logger.remove(sink)
    # What could not be written down is asked again.
    assert ended.success is True and len(endpoint.bodies) <= 2
    assert len([one for one in said if "no durable work is done" in one]) == 1


@pytest.mark.slow
async def test_a_process_can_be_stopped_while_the_database_is_away(crashing: tuple[Scene, Crashing]) -> None:
    scene, server = crashing
    run = await scene.called()
    is_away = threading.Event()

    def answer(body: Body) -> Reply:
        is_away.wait(30)
        return outcome()

    with serve(answer) as endpoint:
        settings = scene.settings(endpoint.settings(timeout_s=60))
        with scene.process(settings) as process:
            async with scene.idle(settings) as durable:
                await scene.report(durable, run)
            await until(lambda: endpoint.bodies)
            server.crash()
            is_away.set()
            await anyio.sleep(2)
            _, said = process.communicate(timeout=30)
            assert process.returncode == 0, said


async def test_what_nobody_judges_ends_with_the_next_tidying(scene: Scene) -> None:
    run = await scene.called()
    async with scene.idle(scene.settings()) as durable:
        receipt = await scene.database.run(
            lambda session: end_run(session, int(run.id), 1, run, judge_later=lambda *_: None)
        )
        assert not receipt.has_ended and durable.judge_later is not None
    async with scene.database.session() as session:
        await session.execute(update(RunRow).values(updated_at=utc_now() - timedelta(hours=2)))
    # What should have been done on the hour is made up for.
    async with scene.working(scene.settings()):
        ended = await scene.ended(run.id)
    assert ended.success is None and "it took the judge too long" in told(ended)["detail"]


@pytest.mark.slow
async def test_timed_work_is_done_once_by_all_processes_together(scene: Scene) -> None:
    settings = scene.settings(JudgeSettings(), retention_days=1.0)
    with scene.process(settings, "often") as first, scene.process(settings, "often") as second:
        with anyio.fail_after(30):
            while (await scene.workflows("tidy")).count("SUCCESS") < 4:
                await anyio.sleep(0.1)
        said = [process.communicate()[1] for process in (first, second)]
    done = sum(one.count("the artefacts of 0 runs were deleted") for one in said)
    states = await scene.workflows("tidy")
    assert done == states.count("SUCCESS") >= 4


async def test_without_anything_to_do_nothing_is_started(scene: Scene) -> None:
    async with scene.idle(scene.settings(JudgeSettings())) as durable:
        with anyio.fail_after(1):
            await durable.run()
        assert durable.judge_later is None
    with pytest.raises(Exception, match="workflow_status"):
        await scene.workflows("judge")


async def test_a_judge_that_can_not_be_made_is_said_at_the_start(scene: Scene) -> None:
    durable = Durable(scene.database, scene.store, scene.settings(JudgeSettings(service="no.such.Service")))
    with pytest.raises(UsageError, match="judge"):
        await durable.prepare()


def test_the_private_names_of_dbos_are_what_they_were() -> None:
    config: DBOSConfig = {"name": "names", "system_database_url": "sqlite:///", "log_level": "ERROR"}
    dbos = DBOS(config=config)
    try:
        assert dbos._registry.get_internal_queue()._polling_interval_sec == 1.0
    finally:
        DBOS.destroy(destroy_registry=True)
    assert _workflow_commands._BACKGROUND_JOBS_INTERVAL_SEC in (1.0, durable_work.JOBS_INTERVAL_S)
    # Its lock is taken from who holds it for longer.
    assert durable_work.JOBS_INTERVAL_S * 1_000 < BACKGROUND_JOB_LOCK_IDLE_TIMEOUT_MS
    assert "self._retry_connection_errors = retry_connection_errors" in inspect.getsource(SystemDatabase.__init__)
