"""Agents: ``/test_framework/v2/aiagents``."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import BadRequest, missing, refusals
from runner.api.paging import Page, PageAsked
from runner.api.resources import Resource
from runner.api.routes.webhooks import check_addresses, fill_webhooks
from runner.api.routing import CompatRouter
from runner.api.schemas import agents as schemas
from runner.api.schemas.common import JsonObject, of_row
from runner.api.schemas.query import PathId, QueryId, Search
from runner.api.schemas.webhooks import configuration_of
from runner.api.services import Services
from runner.records.honoured import agent_sentences
from runner.records.secrets import Vault
from runner.records.tables import Agent
from runner.settings import Settings

router = CompatRouter("/test_framework/v2/aiagents", "/test_framework/v2/aiagents-external", tags=["agents"])

_Body = schemas.AgentPatch | schemas.AgentBody


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
    listed = _AGENTS.listed(project, search=search, project_id=project_id, inbound=inbound)
    return await _AGENTS.page(services, paging, listed)


@router.post("/", status_code=201, responses=refusals())
async def create_agent(services: AppServices, project: ProjectId, body: schemas.AgentBody) -> schemas.Agent:
    """Create an agent."""
    await check_addresses(services, body)
    return await _AGENTS.create(services, Agent(project_id=project, provider={}, session={}), body)


@router.get("/{id}/", responses=refusals(404))
async def get_agent(services: AppServices, project: ProjectId, id: PathId) -> schemas.Agent:
    """Show an agent."""
    return await _AGENTS.get(services, project, id)


@router.patch("/{id}/", responses=refusals(404))
async def update_agent(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.AgentPatch
) -> schemas.Agent:
    """Change what is given of an agent."""
    await check_addresses(services, body)
    return await _AGENTS.change(services, project, id, body, whole=False)


@router.put("/{id}/", responses=refusals(404))
async def replace_agent(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.AgentBody
) -> schemas.Agent:
    """Replace an agent. Its credentials stay where none are given."""
    await check_addresses(services, body)
    return await _AGENTS.change(services, project, id, body, whole=True)


@router.delete("/{id}/", status_code=204, responses=refusals(404))
async def delete_agent(services: AppServices, project: ProjectId, id: PathId) -> None:
    """Delete an agent. Its scenarios, results and runs stay, without it."""
    await _AGENTS.delete(services, project, id)


def _check(row: Agent, body: _Body, settings: Settings) -> None:
    """Refuse what can't be had. What stands there already may be written again."""
    errors: dict[str, list[str]] = {}
    if body.project not in (None, row.project_id):
        errors["project"] = [missing(body.project)]
    language = body.language if body.given("language") and body.language != row.language else None
    errors |= {name: [sentence] for name, sentence in agent_sentences(language, settings).items()}
    if errors:
        raise BadRequest(errors)


async def _fill(session: AsyncSession, row: Agent, body: _Body, services: Services, *, whole: bool) -> None:
    _check(row, body, services.settings)
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
        _fill_provider(row, body.provider or schemas.ProviderBody(), services.vault, whole=whole)
    if whole or body.given("session"):
        given = (body.session or schemas.AgentSession()).model_dump(exclude_unset=True)
        row.session = given if whole or body.session is None else {**row.session, **given}
    fill_webhooks(row, body.webhooks(whole=whole), services)


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


async def _show(session: AsyncSession, rows: Sequence[Agent]) -> list[schemas.Agent]:
    return [_shown(row) for row in rows]


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
        **configuration_of(row),
    )


_AGENTS = Resource(Agent, _fill, _show)
