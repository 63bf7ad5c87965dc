"""Personalities: ``/test_framework/v1/personalities``."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import refusals
from runner.api.paging import Page, PageAsked
from runner.api.resources import Resource
from runner.api.routing import CompatRouter
from runner.api.schemas import personalities as schemas
from runner.api.schemas.common import PathId, QueryId, Search, of_row
from runner.records.fields import DESCRIBES, Traits
from runner.records.tables import Personality

router = CompatRouter(
    "/test_framework/v1/personalities", "/test_framework/v1/personalities-external", tags=["personalities"]
)

_READ_ONLY = "Built-in personalities are shared and can't be changed: fork one, and change the copy."


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


def _new(project: int) -> Personality:
    return Personality(project_id=project, data={})


async def _show(session: AsyncSession, rows: Sequence[Personality]) -> list[schemas.Personality]:
    return [
        schemas.Personality(
            **of_row(row, "id", "name", "language", "created_at", "updated_at"),
            project=row.project_id,
            forked_from=row.data.get("forked_from"),
            gender=row.data.get("gender"),
            **{name: row.data[name] for name in Traits.model_fields if name in row.data},
        )
        for row in rows
    ]


_PERSONALITIES = Resource(Personality, _new, _show, newest_first=False, shared=_READ_ONLY)
_PERSONALITIES.add_routes(
    router, "a personality", schemas.Personality, schemas.PersonalityBody, schemas.PersonalityPatch
)
