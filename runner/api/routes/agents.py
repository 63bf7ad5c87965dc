"""Agents: ``/test_framework/v2/aiagents``."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import refusals
from runner.api.paging import Page, PageAsked
from runner.api.resources import Errors, Resource
from runner.api.routes.webhooks import check_addresses, fill_webhooks
from runner.api.routing import CompatRouter
from runner.api.schemas import agents as schemas
from runner.api.schemas.common import QueryId, Search, of_kept, of_row
from runner.api.schemas.webhooks import configuration_of
from runner.api.services import Services
from runner.records import fields
from runner.records.record import Record
from runner.records.secrets import Vault
from runner.records.tables import Agent
from runner.records.written import JsonObject

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


def _new(project: int) -> Agent:
    return Agent(project_id=project, provider={}, session={})


async def _check(services: Services, project: int, body: _Body, number: int | None, whole: bool) -> None:
    await check_addresses(services, body)


async def _fill(session: AsyncSession, row: Agent, body: _Body, record: Record, errors: Errors, whole: bool) -> None:
    if whole or body.given("telephony"):
        telephony = body.telephony or fields.TelephonyBody()
        if whole or telephony.given("phone_number"):
            row.phone_number = telephony.phone_number or None
        if whole or telephony.given("inbound"):
            row.inbound = telephony.inbound
    if whole or body.given("provider"):
        _fill_provider(row, body.provider or fields.ProviderBody(), record.vault, whole=whole)
    if whole or body.given("session"):
        given = (body.session or fields.AgentSession()).model_dump(exclude_unset=True)
        row.session = given if whole or body.session is None else {**row.session, **given}
    fill_webhooks(row, body.webhooks(whole=whole), record)


def _fill_provider(row: Agent, provider: fields.ProviderBody, vault: Vault, *, whole: bool) -> None:
    shown: dict[str, Any] = dict(row.provider or {})
    for name in ("type", "agent_id"):
        if whole or provider.given(name):
            shown[name] = getattr(provider, name)
    if provider.given("credentials"):
        kept: dict[str, Any] = {}
        if (sealed := provider.credentials) is not None:
            kept = json.loads(vault.open(row.credentials)) if row.credentials else {}
            for name in ("api_key", "private_api_key"):
                if sealed.given(name):
                    key: SecretStr | None = getattr(sealed, name)
                    kept[name] = None if key is None else key.get_secret_value()
            if sealed.given("config"):
                kept["config"] = None if sealed.config is None else sealed.config.model_dump(exclude_unset=True)
        row.credentials = vault.seal(json.dumps(kept)) if any(kept.values()) else None
        # Only the name is shown: what else a start is given can hold secrets.
        name = _agent_name(kept.get("config"))
        shown["config"] = {} if name is None else {"pipecat_agent_name": name}
    row.provider = shown


def _agent_name(config: JsonObject | None) -> str | None:
    name = (config or {}).get("pipecat_agent_name")
    return name if isinstance(name, str) else None


async def _show(session: AsyncSession, rows: Sequence[Agent]) -> list[schemas.Agent]:
    return [_shown(row) for row in rows]


def _shown(row: Agent) -> schemas.Agent:
    provider = row.provider or {}
    return schemas.Agent(
        **of_row(row, "id", "name", "created_at", "updated_at"),
        **of_kept(row, schemas.AgentFields),
        project=row.project_id,
        telephony=schemas.Telephony(**of_kept(row, fields.TelephonyBody)),
        provider=schemas.Provider(
            type=provider.get("type"),
            agent_id=provider.get("agent_id"),
            pipecat_agent_name=_agent_name(provider.get("config")),
            credentials_configured=row.credentials is not None,
        ),
        session=fields.AgentSession.model_validate(row.session or {}),
        **configuration_of(row),
    )


_AGENTS = Resource(Agent, _new, _show, _fill, _check)
_AGENTS.add_routes(
    router,
    "an agent",
    schemas.Agent,
    schemas.AgentBody,
    schemas.AgentPatch,
    {
        "replace": "Its credentials stay where none are given.",
        "delete": "Its scenarios, results and runs stay, without it.",
    },
)
