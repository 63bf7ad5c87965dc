"""Personalities: ``/test_framework/v1/personalities``."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import BadRequest, missing, refusals
from runner.api.paging import Page, PageAsked
from runner.api.resources import Resource
from runner.api.routing import CompatRouter
from runner.api.schemas import personalities as schemas
from runner.api.schemas.common import of_row
from runner.api.schemas.query import PathId, QueryId, Search
from runner.api.services import Services
from runner.records.honoured import DESCRIBES, MUST_BE_SENT, personality_sentences
from runner.records.tables import Personality
from runner.settings import Settings

router = CompatRouter(
    "/test_framework/v1/personalities", "/test_framework/v1/personalities-external", tags=["personalities"]
)

_READ_ONLY = "Built-in personalities are shared and can't be changed: fork one, and change the copy."

_Body = schemas.PersonalityBody | schemas.PersonalityPatch


@router.get("/", responses=refusals(404))
async def list_personalities(
    services: AppServices,
    project: ProjectId,
    paging: PageAsked,
    project_id: QueryId = None,
    language: Annotated[str | None, Query(max_length=20)] = None,
    search: Search = None,
) -> Page[schemas.Personality]:
    """List the built-in personalities, and those of the key's project."""
    listed = _PERSONALITIES.listed(project, search=search, language=language or None)
    if project_id is not None and project_id != project:
        listed = listed.where(Personality.project_id.is_(None))
    return await _PERSONALITIES.page(services, paging, listed)


@router.post("/", status_code=201, responses=refusals())
async def create_personality(
    services: AppServices, project: ProjectId, body: schemas.PersonalityBody
) -> schemas.Personality:
    """Create a personality."""
    return await _PERSONALITIES.create(services, Personality(project_id=project, data={}), body)


@router.get("/{id}/", responses=refusals(404))
async def get_personality(services: AppServices, project: ProjectId, id: PathId) -> schemas.Personality:
    """Show a personality."""
    return await _PERSONALITIES.get(services, project, id)


@router.patch("/{id}/", responses=refusals(404))
async def update_personality(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.PersonalityPatch
) -> schemas.Personality:
    """Change what is given of a personality."""
    return await _PERSONALITIES.change(services, project, id, body, whole=False)


@router.put("/{id}/", responses=refusals(404))
async def replace_personality(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.PersonalityBody
) -> schemas.Personality:
    """Replace a personality."""
    return await _PERSONALITIES.change(services, project, id, body, whole=True)


@router.delete("/{id}/", status_code=204, responses=refusals(404))
async def delete_personality(services: AppServices, project: ProjectId, id: PathId) -> None:
    """Delete a personality."""
    await _PERSONALITIES.delete(services, project, id)


@router.post("/{id}/fork/", status_code=201, responses=refusals(404))
async def fork_personality(
    services: AppServices, project: ProjectId, id: PathId, body: schemas.ForkBody | None = None
) -> schemas.Personality:
    """Copy a personality into the key's project, where it can be changed."""
    async with services.database.session() as session:
        origin = await _PERSONALITIES.find(session, project, id)
        copy = Personality(
            project_id=project,
            name=(body.name if body is not None else None) or origin.name,
            language=origin.language,
            data={k: v for k, v in origin.data.items() if k not in DESCRIBES} | {"forked_from": origin.id},
        )
        session.add(copy)
        await session.flush()
        return await _PERSONALITIES.show_one(session, copy)


async def _fill(session: AsyncSession, row: Personality, body: _Body, services: Services, *, whole: bool) -> None:
    errors = {} if body.project in (None, row.project_id) else {"project": [missing(body.project)]}
    errors |= _refused(row, body, services.settings)
    if errors:
        raise BadRequest(errors)
    if whole or body.given("name"):
        row.name = body.name
    if whole or body.given("language"):
        row.language = body.language
    traits = body.model_dump(mode="json", include=set(schemas.TRAITS), exclude_unset=not whole)
    row.data = {**row.data, **traits}


def _refused(row: Personality, body: _Body, settings: Settings) -> dict[str, list[str]]:
    """Return what of a body can't be had, by field. What stands there already may be written again."""
    given = body.model_dump(mode="json", include=set(schemas.TRAITS) - MUST_BE_SENT, exclude_unset=True)
    traits = {name: value for name, value in given.items() if value != row.data.get(name)}
    language = body.language if body.given("language") and body.language != row.language else None
    found = personality_sentences(language, traits, settings)
    return {name: [sentence] for name, sentence in found.items()}


async def _show(session: AsyncSession, rows: Sequence[Personality]) -> list[schemas.Personality]:
    return [
        schemas.Personality(
            **of_row(row, "id", "name", "language", "created_at", "updated_at"),
            project=row.project_id,
            forked_from=row.data.get("forked_from"),
            gender=row.data.get("gender"),
            **{name: row.data[name] for name in schemas.TRAITS if name in row.data},
        )
        for row in rows
    ]


_PERSONALITIES = Resource(Personality, _fill, _show, newest_first=False, shared=_READ_ONLY)
