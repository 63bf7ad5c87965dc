"""What a comparison knows of a suite or a call, from its folder."""

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

from bots.caller.script import Play, Script
from bots.caller.speech.settings import OFFLINE, OFFLINE_SEED, ServiceSettings
from runner.calls import run_file, suite_file
from runner.calls.run_file import RunReport, installed_versions, read_run
from runner.calls.suite_file import SuiteResult, SuiteRun, read_suite
from runner.comparison.facts import (
    MAX_CHARACTERS,
    RunFacts,
    RunSet,
    SessionFacts,
    headline_of,
    latencies_by_turn,
)
from runner.errors import UsageError
from runner.rooms.urls import RoomKind, room_kind
from runner.scenarios.suites import AUTO, PlannedRun, Suite
from runner.scenarios.targets import AgentAtUrl, AgentByCommand, AgentInRooms, AgentOnPipecatCloud, AgentToStart
from runner.settings import Settings
from runner.text import public_url

_HASH_CHARACTERS = 12
_NAMED_ROOMS = 3


def session_facts(suite: Suite, settings: Settings, session: str, started_at: str) -> SessionFacts:
    """Return in what circumstances the runs of a suite are made."""
    seed = {"seed": str(OFFLINE_SEED)} if settings.speech.tts.service == OFFLINE else {}
    judge = settings.judge.model or settings.judge.service
    match suite.agent:
        case AgentAtUrl(url):
            agent, transport = public_url(url), room_kind(url, settings.room.daily_domains)
        case AgentToStart(start_url, kind):
            agent, transport = public_url(start_url), kind
        case AgentInRooms(rooms):
            agent = ", ".join(public_url(room.url) for room in rooms[:_NAMED_ROOMS])
            agent += f" and {len(rooms) - _NAMED_ROOMS} more" if len(rooms) > _NAMED_ROOMS else ""
            transport = room_kind(rooms[0].url, settings.room.daily_domains)
        case AgentOnPipecatCloud(name, kind):
            agent, transport = f"{name} on Pipecat Cloud", kind
        case AgentByCommand():
            agent, transport = "started by a command", RoomKind.PIPECAT_RUNNER
    return SessionFacts(
        id=session,
        started_at=started_at,
        versions=installed_versions() | ({"judge": judge} if judge else {}),
        host=platform.node() or None,
        agent=agent[:MAX_CHARACTERS],
        transport=transport and transport.value,
        concurrency=suite.concurrency or AUTO,
        settings={
            "tts": _service(settings.speech.tts),
            **seed,
            "stt": _service(settings.speech.stt),
            "level_dbfs": f"{settings.speech.level_dbfs:g}",
            "turn_taking": settings.turn_taking.model_dump_json(exclude_defaults=True),
        },
    )


def _service(service: ServiceSettings) -> str:
    """Return a service with its voice and model: the rest can hold keys."""
    chosen = {name: service.settings[name] for name in ("voice", "model") if name in service.settings}
    return " ".join([service.service, *(f"{name}={value}" for name, value in chosen.items())])


def scenario_hash(script: Script, data: Any = None, publish: Any = None) -> str:
    """Return a digest of what is played and sent along. Where a recording lies does not count."""
    played = script.model_copy(
        update={
            "turns": tuple(
                turn.model_copy(
                    update={"action": turn.action.model_copy(update={"path": Path(turn.action.path.name)})}
                )
                if isinstance(turn.action, Play)
                else turn
                for turn in script.turns
            )
        }
    )
    text = json.dumps([played.model_dump(mode="json"), data, publish], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARACTERS]


def planned_hash(planned: PlannedRun) -> str:
    """Return the digest of a run that is planned."""
    return scenario_hash(planned.script, planned.data, planned.publish)


def read_runs(folder: Path) -> RunSet:
    """Return the runs of a folder: of a suite's, or that of a single call.

    Raises:
        UsageError: It holds neither, or a run of the suite can't be read.
    """
    if (folder / suite_file.FILE_NAME).exists():
        return runs_of_suite(folder, read_suite(folder))
    if (folder / run_file.FILE_NAME).exists():
        run = read_run(folder)
        session = SessionFacts(id=run.id, started_at=run.started_at, versions=run.versions)
        facts = run_facts(run, session=session.id, scenario=run.scenario, scenario_hash=scenario_hash(run.script))
        return RunSet(sessions=(session,), runs=(facts,))
    raise UsageError(f"{folder}: holds no {suite_file.FILE_NAME} and no {run_file.FILE_NAME}")


def runs_of_suite(folder: Path, result: SuiteResult) -> RunSet:
    """Return the runs of a suite; latencies are read of each run's folder.

    Raises:
        UsageError: A run can't be read.
    """
    session = result.session or SessionFacts(id=f"{result.suite} {result.started_at}", started_at=result.started_at)

    def facts(run: SuiteRun) -> RunFacts:
        name = run.compared_as or run.scenario
        if run.folder is not None:
            return run_facts(
                read_run(folder / run.folder), session=session.id, scenario=name, scenario_hash=run.scenario_hash
            )
        return RunFacts(
            # Two suites in turns share the session, and lie in folders of their own.
            id=f"{session.id}:{folder.name}:{run.file}:{run.title}",
            scenario=name,
            scenario_hash=run.scenario_hash,
            session=session.id,
            started_at=run.started_at,
            success=run.success,
            cause=run.cause,
            headline=headline_of(run.failure),
        )

    return RunSet(sessions=(session,), runs=tuple(facts(run) for run in result.runs))


def run_facts(run: RunReport, *, session: str, scenario: str, scenario_hash: str | None) -> RunFacts:
    """Return what a comparison knows of a call with its verdict."""
    return RunFacts(
        id=run.id,
        scenario=scenario,
        scenario_hash=scenario_hash,
        session=session,
        started_at=run.started_at,
        success=run.success,
        cause=run.cause,
        headline=headline_of(run.failure),
        latencies_ms=latencies_by_turn(run.turns),
    )
