"""Agents: ``/test_framework/v2/aiagents``."""

import json
from typing import Annotated, Any

from fastapi import Query
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import BadRequest, NotFound, missing, refusals
from runner.api.paging import Page, PageAsked
from runner.api.routing import CompatRouter
from runner.api.schemas import agents as schemas
from runner.api.schemas.common import JsonObject, of_row
from runner.api.schemas.query import PathId, QueryId, Search
from runner.records.honoured import agent_sentences
from runner.records.secrets import Vault
from runner.records.tables import Agent
from runner.settings import Settings

router = CompatRouter("/test_framework/v2/aiagents", "/test_framework/v2/aiagents-external", tags=["agents"])


@router.get("/", responses=refusals(404))
async def list_agents(
    services: AppServices,
    project: ProjectId,
    paging: PageAsked,
    project_id: QueryId = None,
    search: Search = None,
    inbound: Annotated[bool | None, Query()] = None,
) -> Page[schemas.Agent]:
    """List the agents of the key's project."""
    statement = _mine(project).order_by(Agent.id.desc())
    if project_id is not None:
        statement = statement.where(Agent.project_id == project_id)
    if search:
        statement = statement.where(Agent.name.icontains(search, autoescape=True))
    if inbound is not None:
        statement = statement.where(Agent.inbound == inbound)
    async with services.database.reading() as session:
        rows, count = await paging.rows(session, statement)
    return paging.page_of([_shown(row) for row in rows], count)


@router.post("/", status_code=201, responses=refusals())
async def create_agent(services: AppServices, project: ProjectId, body: schemas.AgentBody) -> schemas.Agent:
    """Create an agent."""
    row = Agent(project_id=project, provider={}, session={})
    _check(row, body, project, services.settings)
    _fill(row, body, services.vault, whole=True)
    async with services.database.session() as session:
        session.add(row)
        await session.flush()
    return _shown(row)


@router.get("/{id}/", responses=refusals(404))
async def get_agent(services: AppServices, project: ProjectId, id: PathId) -> schemas.Agent:
    """Show an agent."""
    async with services.database.reading() as session:
        return _shown(await find_agent(session, project, id))


@router.patch("/{id}/", responses=refusals(404))
async def update_agent(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.AgentPatch
) -> schemas.Agent:
    """Change what is given of an agent."""
    return await _change(services, project, id, body, whole=False)


@router.put("/{id}/", responses=refusals(404))
async def replace_agent(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.AgentBody
) -> schemas.Agent:
    """Replace an agent. Its credentials stay where none are given."""
    return await _change(services, project, id, body, whole=True)


@router.delete("/{id}/", status_code=204, responses=refusals(404))
async def delete_agent(services: AppServices, project: ProjectId, id: PathId) -> None:
    """Delete an agent. Its scenarios, results and runs stay, without it."""
    async with services.database.session() as session:
        await session.delete(await find_agent(session, project, id))


async def find_agent(session: AsyncSession, project: int, agent_id: int) -> Agent:
    """Return an agent of a project.

    Raises:
        NotFound: There is none.
    """
    row = await session.scalar(_mine(project).where(Agent.id == agent_id))
    if row is None:
        raise NotFound
    return row


def _mine(project: int) -> Select[Agent]:
    return select(Agent).where(Agent.project_id == project)


async def _change(
    services: AppServices, project: int, agent_id: int, body: schemas.AgentPatch | schemas.AgentBody, *, whole: bool
) -> schemas.Agent:
    async with services.database.session() as session:
        row = await find_agent(session, project, agent_id)
        _check(row, body, project, services.settings)
        _fill(row, body, services.vault, whole=whole)
        await session.flush()
        await session.refresh(row)
    return _shown(row)


def _check(row: Agent, body: schemas.AgentFields, project: int, settings: Settings) -> None:
    """Refuse what can't be had. What stands there already may be written again."""
    errors: dict[str, list[str]] = {}
    if body.project is not None and body.project != project:
        errors["project"] = [missing(body.project)]
    language = body.language if body.given("language") and body.language != row.language else None
    errors |= {name: [sentence] for name, sentence in agent_sentences(language, settings).items()}
    if errors:
        raise BadRequest(errors)


def _fill(row: Agent, body: schemas.AgentPatch | schemas.AgentBody, vault: Vault, *, whole: bool) -> None:
    """Put into a row what a body gives, and with ``whole`` the defaults of what it does not."""
    if whole or body.given("name"):
        row.name = body.name
    if whole or body.given("description"):
        row.description = body.description or ""
    if whole or body.given("language"):
        row.language = body.language
    if whole or body.given("telephony"):
        telephony = body.telephony or schemas.TelephonyBody()
        if whole or telephony.given("phone_number"):
            row.phone_number = telephony.phone_number or None
        if whole or telephony.given("inbound"):
            row.inbound = telephony.inbound
    if whole or body.given("provider"):
        _fill_provider(row, body.provider or schemas.ProviderBody(), vault, whole=whole)
    if whole or body.given("session"):
        given = (body.session or schemas.AgentSession()).model_dump(exclude_unset=True)
        row.session = given if whole or body.session is None else {**row.session, **given}


def _fill_provider(row: Agent, provider: schemas.ProviderBody, vault: Vault, *, whole: bool) -> None:
    shown: dict[str, Any] = dict(row.provider or {})
    for name in ("type", "agent_id"):
        if whole or provider.given(name):
            shown[name] = getattr(provider, name)
    if provider.given("credentials"):
        sealed = provider.credentials
        kept = _opened(row, vault) if sealed is not None else {}
        if sealed is not None and sealed.given("api_key"):
            kept["api_key"] = sealed.api_key.get_secret_value() if sealed.api_key is not None else None
        if sealed is not None and sealed.given("private_api_key"):
            private = sealed.private_api_key
            kept["private_api_key"] = private.get_secret_value() if private is not None else None
        if sealed is not None and sealed.given("config"):
            kept["config"] = None if sealed.config is None else sealed.config.model_dump(exclude_unset=True)
        row.credentials = vault.seal(json.dumps(kept)) if any(kept.values()) else None
        # Only the name is shown: what else a start is given can hold secrets.
        name = _agent_name(kept.get("config"))
        shown["config"] = {} if name is None else {"pipecat_agent_name": name}
    row.provider = shown


def _opened(row: Agent, vault: Vault) -> dict[str, Any]:
    return json.loads(vault.open(row.credentials)) if row.credentials else {}


def _agent_name(config: JsonObject | None) -> str | None:
    name = (config or {}).get("pipecat_agent_name")
    return name if isinstance(name, str) else None


def _shown(row: Agent) -> schemas.Agent:
    provider = row.provider or {}
    return schemas.Agent(
        **of_row(row, "id", "name", "description", "language", "created_at", "updated_at"),
        project=row.project_id,
        telephony=schemas.Telephony(phone_number=row.phone_number, inbound=row.inbound),
        provider=schemas.Provider(
            type=provider.get("type"),
            agent_id=provider.get("agent_id"),
            pipecat_agent_name=_agent_name(provider.get("config")),
            credentials_configured=row.credentials is not None,
        ),
        session=schemas.session_of(row.session or {}),
    )
