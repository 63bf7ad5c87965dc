"""Scenarios: ``/test_framework/v1/scenarios``."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import anyio.to_thread
from fastapi import Query
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import REQUIRED, BadRequest, refusals
from runner.api.paging import Page, PageAsked
from runner.api.resources import Errors, Resource, agent_names
from runner.api.routing import CompatRouter, read_json
from runner.api.schemas import scenarios as schemas
from runner.api.schemas.common import QueryId, Search, Words, of_kept, of_row
from runner.api.schemas.test_profiles import ProfileData, information_of
from runner.api.services import Services
from runner.errors import UsageError
from runner.records.filters import holds_any, in_folder, words_of
from runner.records.record import Record
from runner.records.tables import Agent, Personality, ScenarioRow, TestProfile
from runner.scenarios.cekura import CONDITIONAL_ACTIONS, INSTRUCTION, PIPECAT_EVAL, read_pipecat_eval
from runner.scenarios.conditional_actions import ConditionalActionsError, read_conditional_actions

router = CompatRouter("/test_framework/v1/scenarios", "/test_framework/v1/scenarios-external", tags=["scenarios"])

_Body = schemas.ScenarioBody | schemas.ScenarioPatch


@router.get("/", responses=refusals(404))
async def list_scenarios(
    services: AppServices,
    project: ProjectId,
    paging: PageAsked,
    agent_id: QueryId = None,
    project_id: QueryId = None,
    search: Search = None,
    tags: Words = None,
    folder_path: Annotated[str | None, Query(max_length=400, description="A folder, with those in it.")] = None,
    scenario_type: Annotated[str | None, Query(max_length=40)] = None,
) -> Page[schemas.Scenario]:
    """List the scenarios of the key's project."""
    listed = SCENARIOS.listed(
        project, search=search, agent_id=agent_id, project_id=project_id, scenario_type=scenario_type or None
    )
    if wanted := words_of(tags):
        listed = listed.where(holds_any(ScenarioRow.tags, wanted))
    if folder_path:
        listed = listed.where(in_folder(ScenarioRow.folder_path, folder_path))
    return await SCENARIOS.page(services, paging, listed)


def _new(project: int) -> ScenarioRow:
    return ScenarioRow(project_id=project, scenario_type=INSTRUCTION, tags=[], data={})


async def _check(services: Services, project: int, body: _Body, number: int | None, whole: bool) -> None:
    """Refuse a text that can't be played. In a thread, and outside of the transaction: a large one takes its time."""
    if not body.pipecat_eval:
        return
    try:
        await anyio.to_thread.run_sync(read_pipecat_eval, body.pipecat_eval, services.settings)
    except UsageError as error:
        raise BadRequest({PIPECAT_EVAL: [str(error)]}) from None


async def _fill(
    session: AsyncSession, row: ScenarioRow, body: _Body, record: Record, errors: Errors, whole: bool
) -> None:
    if body.agent is None and body.assistant_id:
        agents = await session.scalars(select(Agent).where(Agent.project_id == row.project_id).order_by(Agent.id))
        found = next((one.id for one in agents if one.provider.get("agent_id") == body.assistant_id), None)
        if found is None:
            errors["assistant_id"] = ["There is no agent with this id at its provider."]
        row.agent_id = found
    _fill_content(row, body, errors, whole=whole)
    has_language = row.personality_id or "personality" in errors or row.data.get("scenario_language")
    if row.scenario_type == CONDITIONAL_ACTIONS and not has_language:
        errors.setdefault("scenario_language", []).append("scenario_language is required")


def _fill_content(row: ScenarioRow, body: _Body, errors: Errors, *, whole: bool) -> None:
    """Fill in what the caller does: instructions, conditional actions, or the text of a scenario file.

    Of conditional actions the first message inside counts, as Cekura has it, and is shown.
    """
    given = [name for name in (PIPECAT_EVAL, CONDITIONAL_ACTIONS, "instructions") if getattr(body, name)]
    if len(given) > 1:
        errors[given[1]] = [f"A scenario has {given[0]} or {given[1]}, not both."]
        return
    inferred = {PIPECAT_EVAL: PIPECAT_EVAL, CONDITIONAL_ACTIONS: CONDITIONAL_ACTIONS}.get(given[0] if given else "")
    kind = body.scenario_type or inferred or (INSTRUCTION if whole else row.scenario_type)
    data = dict(row.data)
    if (whole or body.given("first_message")) and (given or kind != CONDITIONAL_ACTIONS):
        data["first_message"] = body.first_message
    if whole:
        data["conditional_actions"] = data["instructions"] = None
    if whole or body.given(PIPECAT_EVAL):
        row.pipecat_eval = body.pipecat_eval or None
    if given and given[0] != PIPECAT_EVAL:
        # What the caller does is said once: by what was said last.
        row.pipecat_eval = None
    if kind == CONDITIONAL_ACTIONS:
        if given and given[0] != PIPECAT_EVAL:
            data["conditional_actions"], data["instructions"] = _actions(body, errors), None
            data["first_message"] = _first_message(data["conditional_actions"])
        elif not data.get("conditional_actions") and row.pipecat_eval is None:
            errors[CONDITIONAL_ACTIONS] = [REQUIRED]
    elif CONDITIONAL_ACTIONS in given:
        errors[CONDITIONAL_ACTIONS] = ["It belongs to the scenario_type conditional_actions."]
    elif kind == PIPECAT_EVAL and row.pipecat_eval is None:
        errors[PIPECAT_EVAL] = [REQUIRED]
    elif whole or body.given("instructions"):
        data["instructions"], data["conditional_actions"] = body.instructions, None
    if row.pipecat_eval and body.first_message:
        errors["first_message"] = ["The scenario file says itself what the caller says first; leave it out."]
    row.scenario_type = kind
    row.data = data


def _actions(body: _Body, errors: Errors) -> Any:
    """Return the conditional actions that a body gives, as an object or as JSON in its instructions."""
    field = CONDITIONAL_ACTIONS if body.conditional_actions else "instructions"
    try:
        actions = body.conditional_actions or read_json((body.instructions or "").encode())
        read_conditional_actions(actions)
    except ConditionalActionsError as error:
        errors[field] = list(error.errors)
    except json.JSONDecodeError as error:
        errors[field] = [f"Conditional actions in instructions must be JSON: {error.msg}."]
    else:
        return actions
    return None


def _first_message(actions: Any) -> str:
    if actions is None:
        return ""
    first = read_conditional_actions(actions).first
    return first[0].text if first else ""


async def _show(session: AsyncSession, rows: Sequence[ScenarioRow]) -> list[schemas.Scenario]:
    personalities = {row.personality_id for row in rows if row.personality_id is not None}
    named = await session.execute(select(Personality.id, Personality.name).where(Personality.id.in_(personalities)))
    profiles = {row.test_profile_id for row in rows if row.test_profile_id is not None}
    found = await session.scalars(select(TestProfile).where(TestProfile.id.in_(profiles)))
    return _shown(
        rows,
        await agent_names(session, rows),
        {number: name for number, name in named},
        {
            profile.id: ProfileData(id=profile.id, name=profile.name, information=information_of(profile.information))
            for profile in found
        },
    )


def _shown(
    rows: Sequence[ScenarioRow],
    agents: Mapping[int, str],
    personalities: Mapping[int, str],
    profiles: Mapping[int, ProfileData],
) -> list[schemas.Scenario]:
    shown: list[schemas.Scenario] = []
    for row in rows:
        said, actions = row.data.get("instructions"), row.data.get("conditional_actions")
        shown.append(
            schemas.Scenario(
                **of_row(row, "id", "name", "scenario_type", "pipecat_eval", "created_at", "updated_at"),
                **of_kept(row, schemas.ScenarioFields),
                project=row.project_id,
                agent_name=agents.get(row.agent_id or 0),
                personality_name=personalities.get(row.personality_id or 0),
                instructions=said or ("" if actions is None else json.dumps(actions, ensure_ascii=False)),
                conditional_actions=actions,
                first_message=row.data.get("first_message"),
                test_profile_data=profiles.get(row.test_profile_id or 0),
            )
        )
    return shown


SCENARIOS = Resource(ScenarioRow, _new, _show, _fill, _check)
_KEEP = "Runs that were launched before keep it as it was."
SCENARIOS.add_routes(
    router,
    "a scenario",
    schemas.Scenario,
    schemas.ScenarioBody,
    schemas.ScenarioPatch,
    {"update": _KEEP, "replace": _KEEP, "delete": "Its runs stay."},
)
