"""Launches: ``run_scenarios_pipecat`` and ``run_scenarios_pipecat_v2``."""

import hashlib
import json
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Annotated, Any, cast

from fastapi import Header, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import JsonValue, TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from runner.api.auth import AppServices, UserKey, project_of_user, services_of
from runner.api.errors import BadRequest, field_errors, missing, refusals
from runner.api.routing import LARGE_BYTES, CompatRouter, JsonRoute, off_the_loop, read_json
from runner.api.schemas import launch as schemas
from runner.api.schemas.common import of_row
from runner.api.schemas.runs import numbers
from runner.api.services import Services
from runner.records.filters import holds_any, in_folder
from runner.records.jobs import RunType
from runner.records.keys import KeyIdentity
from runner.records.launch_request import Errors, Launch, LaunchEntry, LaunchRefused
from runner.records.launches import PATIENCE_S, launch, mistakes
from runner.records.results import count_runs, launched_runs
from runner.records.tables import ResultRow, ScenarioRow


class _LaunchRoute(JsonRoute):
    """Answers with all that is wrong with a launch at once, also where some of it can't be read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what handles a request."""
        handle = super().get_route_handler()

        async def with_all_mistakes(request: Request) -> Response:
            if len(request.headers.get("Content-Length", "")) > len(str(LARGE_BYTES)):
                await services_of(request).database.let_readers_go_first(time.monotonic() + PATIENCE_S)
            try:
                return await handle(request)
            except RequestValidationError as error:
                if not isinstance(error.body, dict):
                    raise
                raise BadRequest(await all_mistakes(request, error)) from None

        return with_all_mistakes


router = CompatRouter(
    "/test_framework/v1/scenarios",
    "/test_framework/v1/scenarios-external",
    "/test_framework/v2/scenarios",
    tags=["launch"],
)
router.route_class = _LaunchRoute

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
    return await launched(services, *await asked_by(services, body, key, digest, idempotency_key))


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
    return await launched(services, *await asked_by(services, body, key, digest, idempotency_key))


async def launched(services: Services, asked: Launch, wrong: Errors | None = None) -> schemas.Launched:
    """Launch, and return what is answered.

    Raises:
        BadRequest: Something is wrong with the launch: all of it is named.
    """
    if wrong:
        raise BadRequest(_together(wrong, await mistakes(services, asked)))
    try:
        result = await launch(services, asked)
    except LaunchRefused as error:
        raise BadRequest(error.errors) from None
    return await show_launched(services, result)


async def show_launched(services: Services, result: ResultRow) -> schemas.Launched:
    """Return a result as a launch answers with it."""

    def read(session: Session) -> schemas.Launched:
        runs: list[schemas.LaunchedRun] = []
        for run in launched_runs(session, result.id):
            outbound, inbound = numbers(run.agent)
            runs.append(
                schemas.LaunchedRun(
                    **of_row(run, "id", "status", "scenario_name"),
                    scenario=run.scenario_id,
                    number=outbound,
                    inbound_number=inbound,
                    test_profile_data=run.test_profile,
                )
            )
        return schemas.Launched(
            **of_row(result, "id", "name", "status", "run_as_text", "is_cronjob", "created_at", "updated_at"),
            agent=result.agent_id,
            success_rate=count_runs(session, [result.id])[result.id].success_rate,
            runs=runs,
        )

    # Not among those who read much: a small launch would wait for them.
    return await services.database.look(read)


async def body_digest(request: Request, key: KeyIdentity, action: str) -> str:
    """Return the digest by which a request is known again: of what it does, its key and its body."""

    def digest(content: bytes) -> str:
        value = read_json(content) if content else None
        # Of the value: a client that sends it again may write it otherwise.
        told = json.dumps([action, key.id, value], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(told.encode()).hexdigest()

    return await off_the_loop(digest, await request.body())


async def asked_by(
    services: Services,
    body: schemas.RoomLaunch | schemas.SessionLaunch,
    key: KeyIdentity,
    digest: str | None = None,
    idempotency_key: str | None = None,
) -> tuple[Launch, Errors]:
    """Return what a body asks to launch, and what is wrong with it so far."""
    wrong: Errors = {}
    if body.agent is not None and body.agent_id not in (None, body.agent):
        wrong["agent"] = ["Give agent or agent_id, not two different ones."]
    settings = body.model_dump(include={"frequency", "concurrency_limit", "priority", "delay_s"})
    several: dict[str, Any] = {}
    pipecat_data: dict[str, Any] = {}
    if isinstance(body, schemas.SessionLaunch):
        run_type = RunType.SESSIONS
        if body.project_id not in (None, key.project_id):
            wrong["project_id"] = [missing(body.project_id)]
        entries = await _session_entries(services, key, body, wrong)
        several = {
            "personality_ids": _merged(body.personality_ids, body.personality_id),
            "test_profile_ids": _merged(body.test_profile_ids, body.test_profile_id),
        }
        pipecat_data = {} if body.pipecat_data is None else body.pipecat_data.model_dump(exclude_none=True)
    else:
        run_type = RunType.ROOMS
        entries = [
            LaunchEntry(
                scenario_id=entry.scenario,
                room_url=entry.pipecat_room_url,
                token=entry.token,
                data_message=_data_message(entry),
                participant_name=entry.participant_name,
            )
            for entry in body.scenarios
        ]
    asked = Launch(
        project_id=project_of_user(key),
        key_id=key.id,
        agent_id=body.agent or body.agent_id,
        entries=entries,
        run_type=run_type,
        name=body.name or "",
        **{name: value for name, value in settings.items() if value is not None},
        **several,
        idempotency_key=idempotency_key,
        digest=digest,
        run_settings={k: value for k, value in {**settings, **several}.items() if value not in (None, [])},
        pipecat_data=pipecat_data,
        mock_tool_names=body.mock_tool_names,
    )
    return asked, wrong


async def _session_entries(
    services: Services, key: KeyIdentity, body: schemas.SessionLaunch, wrong: Errors
) -> list[LaunchEntry]:
    """Return the scenarios that a body names, or that its tags or folder stand for.

    What is wrong, such as none, or more than one way to name them, is added to ``wrong``.
    """
    ways = [name for name in ("scenarios", "tags", "folder_path") if getattr(body, name)]
    if not ways:
        wrong["scenarios"] = ["Give scenarios, tags or folder_path."]
    if len(ways) > 1:
        wrong[ways[1]] = [f"Give {' or '.join(ways)}, not both."]
    if body.scenarios:
        return [
            LaunchEntry(scenario_id=entry)
            if isinstance(entry, int)
            else LaunchEntry(scenario_id=entry.scenario, data_message=_data_message(entry))
            for entry in body.scenarios
        ]
    if not ways:
        return []
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
        wrong.setdefault(ways[0], []).append("No scenario matches.")
    return [LaunchEntry(scenario_id=scenario_id) for scenario_id in ids]


async def all_mistakes(request: Request, error: RequestValidationError) -> Errors:
    """Return all that is wrong with a launch of which something can't be read: that, and what the rest means."""
    body = cast(dict[str, Any], error.body)
    wrong: Errors = dict(field_errors(cast(Sequence[Mapping[str, Any]], error.errors()), body))
    is_v2 = request.url.path.rstrip("/").endswith("_v2")
    model = schemas.SessionLaunch if is_v2 else schemas.RoomLaunch
    listed: Any = body.get("scenarios")
    places = _readable(listed, _SESSION_ENTRY if is_v2 else _ROOM_ENTRY) if isinstance(listed, list) else []
    rest = {name: value for name, value in body.items() if name in model.model_fields and name not in wrong}
    rest["scenarios"] = [listed[place] for place in places] or ([] if is_v2 else [_NO_ENTRY])
    services = services_of(request)
    try:
        launch_body = model.model_validate(rest)
    except ValidationError:
        # What can be read by itself can't be in this place: that is told already, and there is nothing to go by.
        return wrong
    asked, more = await asked_by(services, launch_body, cast(KeyIdentity, request.state.key))
    if not places and asked.run_type is RunType.ROOMS:
        asked = replace(asked, entries=[])
    more = _together(more, await mistakes(services, asked))
    if "scenarios" in wrong:
        more["scenarios"] = _back_in_place(more.get("scenarios"), places)
    return _together(wrong, more)


_ROOM_ENTRY = TypeAdapter[Any](schemas.RoomEntry)
_SESSION_ENTRY = TypeAdapter[Any](schemas.SessionScenario)
_NO_ENTRY = {"scenario": 1, "pipecat_room_url": "-"}
"""Stands where no entry can be read, for a body must have one; what is wrong with it is not told."""


def _readable(listed: list[Any], entry: TypeAdapter[Any]) -> list[int]:
    """Return the places of a list at which there are entries that can be read."""
    places: list[int] = []
    for place, value in enumerate(listed[: schemas.MAX_ENTRIES]):
        try:
            entry.validate_python(value)
        except ValidationError:
            continue
        places.append(place)
    return places


def _back_in_place(errors: Any, places: Sequence[int]) -> list[Any]:
    """Return the errors of the entries that could be read, as a list in which they stand where they stood."""
    if not _are_entries(errors):
        return []
    found = dict(zip(places, cast(list[Any], errors), strict=False))
    return [found.get(place, {}) for place in range(max(places, default=-1) + 1)]


def _together(wrong: Errors, more: Errors) -> Errors:
    """Return what is wrong by both. Of one field what the first says counts, entry by entry where it has some."""
    merged = {**more, **wrong}
    for name in wrong.keys() & more.keys():
        first, second = wrong[name], more[name]
        if not _are_entries(second):
            continue
        entries = cast(list[Errors], second)
        if _are_entries(first):
            pairs = zip_longest(cast(list[Errors], first), entries, fillvalue=cast(Errors, {}))
            merged[name] = [{**behind, **before} for before, behind in pairs]
        elif isinstance(first, dict) and all(str(key).isdigit() for key in cast(Errors, first)):
            # By their places: one of them is wrong as a whole.
            merged[name] = {**{str(i): entry for i, entry in enumerate(entries) if entry}, **cast(Errors, first)}
    return merged


def _are_entries(errors: Any) -> bool:
    return isinstance(errors, list) and all(isinstance(one, dict) for one in cast(list[Any], errors))


def _data_message(entry: schemas.RoomEntry | schemas.SessionEntry) -> dict[str, JsonValue] | None:
    # Clients send null where they have none, and neither kind of room delivers a null.
    return None if entry.publish_data_message is None else {"value": entry.publish_data_message}


def _merged(several: Sequence[int] | None, one: int | None) -> list[int]:
    """Return ids of a list and beside it, each once, in order."""
    return list(dict.fromkeys([*(several or ()), *(() if one is None else (one,))]))
