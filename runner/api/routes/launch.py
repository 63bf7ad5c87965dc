"""Launches: ``run_scenarios_pipecat`` and ``run_scenarios_pipecat_v2``."""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Header, Request
from pydantic import JsonValue
from sqlalchemy import select

from runner.api.auth import AppServices, UserKey
from runner.api.errors import BadRequest, missing, refusals
from runner.api.filters import holds_any, in_folder
from runner.api.routing import CompatRouter, read_json
from runner.api.schemas import launch as schemas
from runner.api.schemas.runs import numbers
from runner.api.services import Services
from runner.records.jobs import RunType
from runner.records.keys import KeyIdentity
from runner.records.launches import DEFAULT_PRIORITY, Launch, LaunchEntry, LaunchRefused, launch
from runner.records.results import counts_of, read_lines
from runner.records.statuses import ResultStatus
from runner.records.tables import ResultRow, ScenarioRow

router = CompatRouter(
    "/test_framework/v1/scenarios",
    "/test_framework/v1/scenarios-external",
    "/test_framework/v2/scenarios",
    tags=["launch"],
)

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Ours: the same launch with the same key is the same result, however often it is sent.",
    ),
]


@router.post("/run_scenarios_pipecat/", responses=refusals())
async def run_scenarios_pipecat(
    request: Request,
    services: AppServices,
    key: UserKey,
    body: schemas.RoomLaunch,
    idempotency_key: IdempotencyKey = None,
) -> schemas.Launched:
    """Play scenarios in rooms that are there.

    All of it is launched, or nothing. The same body from the same key within a short while is the same launch.
    """
    digest = await body_digest(request, key, "run_scenarios_pipecat")
    entries = [
        LaunchEntry(
            scenario_id=entry.scenario,
            room_url=entry.pipecat_room_url,
            token=entry.token,
            data_message=_data_message(entry),
        )
        for entry in body.scenarios
    ]
    asked = _launch(body, key, RunType.ROOMS, entries, digest, idempotency_key)
    return await launched(services, asked)


@router.post("/run_scenarios_pipecat_v2/", responses=refusals())
async def run_scenarios_pipecat_v2(
    request: Request,
    services: AppServices,
    key: UserKey,
    body: schemas.SessionLaunch,
    idempotency_key: IdempotencyKey = None,
) -> schemas.Launched:
    """Start a session of the agent for every run, and play scenarios in the rooms these come with.

    All of it is launched, or nothing. The same body from the same key within a short while is the same launch.
    """
    digest = await body_digest(request, key, "run_scenarios_pipecat_v2")
    if body.project_id is not None and body.project_id != key.project_id:
        raise BadRequest({"project_id": [missing(body.project_id)]})
    entries = await _session_entries(services, key, body)
    asked = _launch(
        body,
        key,
        RunType.SESSIONS,
        entries,
        digest,
        idempotency_key,
        personality_ids=_merged(body.personality_ids, body.personality_id),
        test_profile_ids=_merged(body.test_profile_ids, body.test_profile_id),
        pipecat_data={} if body.pipecat_data is None else body.pipecat_data.model_dump(exclude_none=True),
    )
    return await launched(services, asked)


async def launched(services: Services, asked: Launch) -> schemas.Launched:
    """Launch, and return what is answered.

    Raises:
        BadRequest: Something is wrong with the launch.
    """
    try:
        result = await launch(services, asked)
    except LaunchRefused as error:
        raise BadRequest(error.errors) from None
    return await show_launched(services, result)


async def show_launched(services: Services, result: ResultRow) -> schemas.Launched:
    """Return a result as a launch answers with it."""
    async with services.database.reading() as session:
        lines = await read_lines(session, result.id)
    runs: list[schemas.LaunchedRun] = []
    for line in lines:
        outbound, inbound = numbers(line.agent)
        runs.append(
            schemas.LaunchedRun(
                id=line.id,
                status=line.status,
                scenario=line.scenario_id,
                number=outbound,
                inbound_number=inbound,
                scenario_name=line.scenario_name,
                test_profile_data=line.test_profile,
            )
        )
    return schemas.Launched(
        id=result.id,
        agent=result.agent_id,
        name=result.name,
        status=ResultStatus(result.status),
        success_rate=counts_of(lines).success_rate,
        run_as_text=result.run_as_text,
        is_cronjob=result.is_cronjob,
        created_at=result.created_at,
        updated_at=result.updated_at,
        runs=runs,
    )


async def body_digest(request: Request, key: KeyIdentity, action: str) -> str:
    """Return the digest by which a request is known again: of what it does, its key and its body.

    Args:
        request: The request; its body has been read.
        key: Who sent it.
        action: What it does.
    """
    content = await request.body()
    value = read_json(content) if content else None
    # Of the value: a client that sends it again may write it otherwise.
    told = json.dumps([action, key.id, value], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()


def _launch(
    body: schemas.LaunchCommon,
    key: KeyIdentity,
    run_type: RunType,
    entries: Sequence[LaunchEntry],
    digest: str,
    idempotency_key: str | None,
    *,
    personality_ids: Sequence[int] = (),
    test_profile_ids: Sequence[int] = (),
    pipecat_data: dict[str, Any] | None = None,
) -> Launch:
    if body.agent is not None and body.agent_id is not None and body.agent != body.agent_id:
        raise BadRequest({"agent": ["Give agent or agent_id, not two different ones."]})
    if key.project_id is None:
        raise BadRequest({"non_field_errors": ["The key belongs to no project."]})
    settings: dict[str, Any] = {
        "frequency": body.frequency,
        "concurrency_limit": body.concurrency_limit,
        "priority": body.priority,
        "delay_s": body.delay_s,
        "personality_ids": list(personality_ids),
        "test_profile_ids": list(test_profile_ids),
    }
    return Launch(
        project_id=key.project_id,
        key_id=key.id,
        agent_id=body.agent or body.agent_id,
        entries=entries,
        run_type=run_type,
        name=body.name or "",
        frequency=body.frequency or 1,
        personality_ids=personality_ids,
        test_profile_ids=test_profile_ids,
        concurrency_limit=body.concurrency_limit,
        priority=DEFAULT_PRIORITY if body.priority is None else body.priority,
        delay_s=body.delay_s or 0.0,
        idempotency_key=idempotency_key,
        digest=digest,
        run_settings={name: value for name, value in settings.items() if value not in (None, [])},
        pipecat_data=pipecat_data or {},
        mock_tool_names=body.mock_tool_names,
    )


async def _session_entries(services: Services, key: KeyIdentity, body: schemas.SessionLaunch) -> list[LaunchEntry]:
    """Return the scenarios that a body names, or that its tags or folder stand for.

    Raises:
        BadRequest: It names none, or in more than one way.
    """
    ways = [name for name in ("scenarios", "tags", "folder_path") if getattr(body, name)]
    if not ways:
        raise BadRequest({"scenarios": ["Give scenarios, tags or folder_path."]})
    if len(ways) > 1:
        raise BadRequest({ways[1]: [f"Give {' or '.join(ways)}, not both."]})
    if body.scenarios:
        return [
            LaunchEntry(scenario_id=entry)
            if isinstance(entry, int)
            else LaunchEntry(scenario_id=entry.scenario, data_message=_data_message(entry))
            for entry in body.scenarios
        ]
    agent_id = body.agent or body.agent_id
    wanted = select(ScenarioRow.id).where(ScenarioRow.project_id == key.project_id).order_by(ScenarioRow.id)
    if agent_id is not None:
        wanted = wanted.where(ScenarioRow.agent_id == agent_id)
    if body.tags:
        wanted = wanted.where(holds_any(ScenarioRow.tags, body.tags))
    if body.folder_path:
        wanted = wanted.where(in_folder(ScenarioRow.folder_path, body.folder_path))
    async with services.database.reading() as session:
        ids = (await session.scalars(wanted)).all()
    if not ids:
        raise BadRequest({ways[0]: ["No scenario matches."]})
    return [LaunchEntry(scenario_id=scenario_id) for scenario_id in ids]


def _data_message(entry: schemas.RoomEntry | schemas.SessionEntry) -> dict[str, JsonValue] | None:
    # Clients send null where they have none, and neither kind of room delivers a null.
    return None if entry.publish_data_message is None else {"value": entry.publish_data_message}


def _merged(several: Sequence[int] | None, one: int | None) -> list[int]:
    """Return ids of a list and beside it, each once, in order."""
    return list(dict.fromkeys([*(several or ()), *(() if one is None else (one,))]))
