"""Scenarios: ``/test_framework/v1/scenarios``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import anyio.to_thread
from fastapi import Query
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import BadRequest, missing, refusals
from runner.api.paging import Page, PageAsked
from runner.api.resources import Resource, agent_names
from runner.api.routing import CompatRouter, read_json
from runner.api.schemas import scenarios as schemas
from runner.api.schemas.common import of_row
from runner.api.schemas.query import PathId, QueryId, Search, Words
from runner.api.schemas.test_profiles import ProfileData, information_of
from runner.api.services import Services
from runner.errors import UsageError
from runner.records.filters import holds_any, in_folder, words_of
from runner.records.honoured import scenario_sentences
from runner.records.tables import Agent, Personality, ScenarioRow, TestProfile
from runner.scenarios.cekura import CONDITIONAL_ACTIONS, INSTRUCTION, PIPECAT_EVAL, read_pipecat_eval
from runner.scenarios.conditional_actions import ConditionalActionsError, read_conditional_actions

router = CompatRouter("/test_framework/v1/scenarios", "/test_framework/v1/scenarios-external", tags=["scenarios"])

_REQUIRED = "This field is required."

_Body = schemas.ScenarioBody | schemas.ScenarioPatch
_Errors = dict[str, list[str]]


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
    listed = _SCENARIOS.listed(
        project, search=search, agent_id=agent_id, project_id=project_id, scenario_type=scenario_type or None
    )
    if wanted := words_of(tags):
        listed = listed.where(holds_any(ScenarioRow.tags, wanted))
    if folder_path:
        listed = listed.where(in_folder(ScenarioRow.folder_path, folder_path))
    return await _SCENARIOS.page(services, paging, listed)


@router.post("/", status_code=201, responses=refusals())
async def create_scenario(services: AppServices, project: ProjectId, body: schemas.ScenarioBody) -> schemas.Scenario:
    """Create a scenario."""
    await _check_pipecat_eval(services, body)
    row = ScenarioRow(project_id=project, scenario_type=INSTRUCTION, tags=[], data={})
    return await _SCENARIOS.create(services, row, body)


@router.get("/{id}/", responses=refusals(404))
async def get_scenario(services: AppServices, project: ProjectId, id: PathId) -> schemas.Scenario:
    """Show a scenario."""
    return await _SCENARIOS.get(services, project, id)


@router.patch("/{id}/", responses=refusals(404))
async def update_scenario(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.ScenarioPatch
) -> schemas.Scenario:
    """Change what is given of a scenario. Runs that were launched before keep it as it was."""
    await _check_pipecat_eval(services, body)
    return await _SCENARIOS.change(services, project, id, body, whole=False)


@router.put("/{id}/", responses=refusals(404))
async def replace_scenario(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.ScenarioBody
) -> schemas.Scenario:
    """Replace a scenario. Runs that were launched before keep it as it was."""
    await _check_pipecat_eval(services, body)
    return await _SCENARIOS.change(services, project, id, body, whole=True)


@router.delete("/{id}/", status_code=204, responses=refusals(404))
async def delete_scenario(services: AppServices, project: ProjectId, id: PathId) -> None:
    """Delete a scenario. Its runs stay."""
    await _SCENARIOS.delete(services, project, id)


async def _check_pipecat_eval(services: Services, body: _Body) -> None:
    """Refuse a text that can't be played. In a thread, and outside of the transaction: a large one takes its time."""
    if not body.pipecat_eval:
        return
    try:
        await anyio.to_thread.run_sync(read_pipecat_eval, body.pipecat_eval, services.settings)
    except UsageError as error:
        raise BadRequest({PIPECAT_EVAL: [str(error)]}) from None


async def _fill(session: AsyncSession, row: ScenarioRow, body: _Body, services: Services, *, whole: bool) -> None:
    errors: _Errors = {}
    await _fill_references(session, row, body, errors, whole=whole)
    if whole or body.given("name"):
        row.name = body.name
    if whole or body.given("tags"):
        row.tags = list(dict.fromkeys(body.tags or ()))
    if whole or body.given("folder_path"):
        row.folder_path = body.folder_path or None
    given = [name for name in schemas.IN_DATA if whole or body.given(name)]
    fields = body.model_dump(mode="json", include=set(given))
    # What stands there already may be written again.
    news = {name: value for name, value in fields.items() if value != row.data.get(name)}
    for name, sentence in scenario_sentences(news, services.settings).items():
        errors.setdefault(name, []).append(sentence)
    said_first = row.data.get("first_message")
    row.data = {**row.data, **fields}
    _fill_content(row, body, errors, said_first, whole=whole)
    has_language = row.personality_id or "personality" in errors or row.data.get("scenario_language")
    if row.scenario_type == CONDITIONAL_ACTIONS and not has_language:
        errors.setdefault("scenario_language", []).append("scenario_language is required")
    if errors:
        raise BadRequest(errors)


async def _fill_references(
    session: AsyncSession, row: ScenarioRow, body: _Body, errors: _Errors, *, whole: bool
) -> None:
    """Fill in what a scenario refers to; only what is there, for each question writes the row as it is by then."""
    project = row.project_id
    if body.project not in (None, project):
        errors["project"] = [missing(body.project)]
    if body.agent is None and body.assistant_id:
        agents = (await session.scalars(select(Agent).where(Agent.project_id == project).order_by(Agent.id))).all()
        found = next((agent for agent in agents if agent.provider.get("agent_id") == body.assistant_id), None)
        if found is None:
            errors["assistant_id"] = ["There is no agent with this id at its provider."]
        else:
            row.agent_id = found.id
    elif whole or body.given("agent"):
        agent = None if body.agent is None else await session.get(Agent, body.agent)
        if body.agent is not None and (agent is None or agent.project_id != project):
            errors["agent"] = [missing(body.agent)]
        else:
            row.agent_id = body.agent
    if whole or body.given("personality"):
        personality = None if body.personality is None else await session.get(Personality, body.personality)
        if body.personality is not None and (personality is None or personality.project_id not in (None, project)):
            errors["personality"] = [missing(body.personality)]
        else:
            row.personality_id = body.personality
    if whole or body.given("test_profile"):
        profile = None if body.test_profile is None else await session.get(TestProfile, body.test_profile)
        if body.test_profile is not None and (profile is None or profile.project_id != project):
            errors["test_profile"] = [missing(body.test_profile)]
        else:
            row.test_profile_id = body.test_profile


def _fill_content(row: ScenarioRow, body: _Body, errors: _Errors, said_first: str | None, *, whole: bool) -> None:
    """Fill in what the caller does: instructions, conditional actions, or the text of a scenario file.

    Of conditional actions the first message inside counts, as Cekura has it, and is shown. ``said_first`` is what was
    shown before.
    """
    given = [name for name in (PIPECAT_EVAL, CONDITIONAL_ACTIONS, "instructions") if getattr(body, name)]
    if len(given) > 1:
        errors[given[1]] = [f"A scenario has {given[0]} or {given[1]}, not both."]
        return
    inferred = {PIPECAT_EVAL: PIPECAT_EVAL, CONDITIONAL_ACTIONS: CONDITIONAL_ACTIONS}.get(given[0] if given else "")
    kind = body.scenario_type or inferred or (INSTRUCTION if whole else row.scenario_type)
    data = dict(row.data)
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
            errors[CONDITIONAL_ACTIONS] = [_REQUIRED]
    elif CONDITIONAL_ACTIONS in given:
        errors[CONDITIONAL_ACTIONS] = ["It belongs to the scenario_type conditional_actions."]
    elif kind == PIPECAT_EVAL and row.pipecat_eval is None:
        errors[PIPECAT_EVAL] = [_REQUIRED]
    elif whole or body.given("instructions"):
        data["instructions"], data["conditional_actions"] = body.instructions, None
    if row.pipecat_eval and body.first_message:
        errors["first_message"] = ["The scenario file says itself what the caller says first; leave it out."]
    elif kind == CONDITIONAL_ACTIONS and not given:
        data["first_message"] = said_first
    row.scenario_type = kind
    row.data = data


def _actions(body: _Body, errors: _Errors) -> Any:
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


@dataclass(frozen=True)
class _Around:
    """What rows refer to, by id."""

    agents: dict[int, str]
    personalities: dict[int, str]
    profiles: dict[int, ProfileData]


async def _around(session: AsyncSession, rows: Sequence[ScenarioRow]) -> _Around:
    personalities = {row.personality_id for row in rows if row.personality_id is not None}
    profiles = {row.test_profile_id for row in rows if row.test_profile_id is not None}
    personality_names = await session.execute(
        select(Personality.id, Personality.name).where(Personality.id.in_(personalities))
    )
    found = await session.scalars(select(TestProfile).where(TestProfile.id.in_(profiles)))
    return _Around(
        agents=await agent_names(session, rows),
        personalities={personality_id: name for personality_id, name in personality_names},
        profiles={
            profile.id: ProfileData(id=profile.id, name=profile.name, information=information_of(profile.information))
            for profile in found
        },
    )


async def _show(session: AsyncSession, rows: Sequence[ScenarioRow]) -> list[schemas.Scenario]:
    around = await _around(session, rows)
    return [_shown(row, around) for row in rows]


def _shown(row: ScenarioRow, around: _Around) -> schemas.Scenario:
    data = row.data
    actions = data.get("conditional_actions")
    return schemas.Scenario(
        **of_row(row, "id", "name", "scenario_type", "pipecat_eval", "folder_path", "created_at", "updated_at"),
        project=row.project_id,
        agent=row.agent_id,
        agent_name=around.agents.get(row.agent_id or 0),
        personality=row.personality_id,
        personality_name=around.personalities.get(row.personality_id or 0),
        instructions=data.get("instructions") or ("" if actions is None else json.dumps(actions, ensure_ascii=False)),
        conditional_actions=actions,
        tags=row.tags,
        test_profile=row.test_profile_id,
        test_profile_data=around.profiles.get(row.test_profile_id or 0),
        metrics=data.get("metrics") or [],
        tool_ids=data.get("tool_ids") or [],
        generated_mock_tool_entries=data.get("generated_mock_tool_entries"),
        expected_outcome_prompt=data.get("expected_outcome_prompt"),
        phone_number=data.get("phone_number"),
        first_message=data.get("first_message"),
        scenario_language=data.get("scenario_language"),
        max_duration=data.get("max_duration"),
    )


_SCENARIOS = Resource(ScenarioRow, _fill, _show)
