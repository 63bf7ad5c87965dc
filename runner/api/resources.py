"""What the routes of all resources do alike: list a project's rows, create, show, change and delete them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import AppServices, ProjectId
from runner.api.errors import BadRequest, Forbidden, NotFound, missing, refusals
from runner.api.paging import Page, Paging
from runner.api.routing import CompatRouter
from runner.api.schemas.common import PathId
from runner.api.services import Services
from runner.records.record import Record
from runner.records.tables import Agent, CronJob, Personality, ScenarioRow, TestProfile
from runner.records.written import RequestBody, kept_in, sentences

Errors = dict[str, list[str]]

_Row = TypeVar("_Row", Agent, CronJob, Personality, ScenarioRow, TestProfile)
_Body = TypeVar("_Body", bound=RequestBody)
_Shown = TypeVar("_Shown", bound=BaseModel)


async def _nothing_else(*_: Any) -> None: ...


@dataclass(frozen=True)
class Resource(Generic[_Row, _Body, _Shown]):
    """One kind of rows that users write.

    Its methods raise ``NotFound`` for what a project does not see, ``Forbidden`` for a change to a row that is not
    its own, and ``BadRequest`` for a body that is wrong: the row is not kept then.

    Attributes:
        table: The rows.
        new: Returns an empty row of a project.
        show: Returns rows as they are answered, in their order.
        fill: Puts into a row what a body gives besides fields that are kept as they are, with ``True`` the defaults
            of what it does not give; what is wrong goes into the errors.
        check: Refuses a body before it is written: a project's, for a row or a new one, as a whole or not.
        newest_first: Whether lists begin with the newest row.
        shared: Why rows that belong to no project can't be changed, where every project sees such rows.
        refusal: Says why a row can't be changed.
    """

    table: type[_Row]
    new: Callable[[int], _Row]
    show: Callable[[AsyncSession, Sequence[_Row]], Awaitable[list[_Shown]]]
    fill: Callable[[AsyncSession, _Row, _Body, Record, Errors, bool], Awaitable[None]] = _nothing_else
    check: Callable[[Services, int, _Body, int | None, bool], Awaitable[None]] = _nothing_else
    newest_first: bool = True
    shared: str | None = None
    refusal: Callable[[_Row], str | None] = lambda _: None

    def add_routes(
        self,
        router: CompatRouter,
        what: str,
        answer: type[_Shown],
        whole: type[_Body],
        part: type[_Body],
        told: Mapping[str, str] = MappingProxyType({}),
        *,
        noun: str = "",
        creates: bool = True,
    ) -> None:
        """Let a router create, show, change and delete rows.

        Args:
            router: The router.
            what: What they are called, with the article.
            answer: How one is answered.
            whole: What is sent of a whole one.
            part: What is sent to change one.
            told: What the description says besides, by ``update``, ``replace`` and ``delete``.
            noun: What they are called in the routes' names, if not like that.
            creates: Whether they are created here, and not by a route of their own.
        """

        async def create(services: AppServices, project: ProjectId, body: Any) -> Any:
            return await self.create(services, project, body)

        async def get(services: AppServices, project: ProjectId, id: PathId) -> Any:
            return await self.get(services, project, id)

        async def update(services: AppServices, project: ProjectId, id: PathId, body: Any) -> Any:
            return await self.change(services, project, id, body, whole=False)

        async def replace(services: AppServices, project: ProjectId, id: PathId, body: Any) -> Any:
            return await self.change(services, project, id, body, whole=True)

        async def delete(services: AppServices, project: ProjectId, id: PathId) -> None:
            await self.delete(services, project, id)

        create.__annotations__["body"] = replace.__annotations__["body"] = whole
        update.__annotations__["body"] = part
        for endpoint, method, status, text in (
            (create, "POST", 201, "Create"),
            (get, "GET", 200, "Show"),
            (update, "PATCH", 200, "Change what is given of"),
            (replace, "PUT", 200, "Replace"),
            (delete, "DELETE", 204, "Delete"),
        ):
            verb = endpoint.__name__
            if verb == "create" and not creates:
                continue
            router.add_api_route(
                "/" if verb == "create" else "/{id}/",
                endpoint,
                methods=[method],
                name=f"{verb}_{noun or what.split(' ', 1)[1].replace(' ', '_')}",
                description=f"{text} {what}. {told.get(verb, '')}".rstrip(),
                status_code=status,
                response_model=None if verb == "delete" else answer,
                responses=refusals() if verb == "create" else refusals(404),
            )

    def listed(self, project: int, *, search: str | None = None, **equal: Any) -> Select[_Row]:
        """Return what selects the rows that a project sees, in order.

        Args:
            project: The project.
            search: What their names hold, whatever the case.
            equal: Columns and the values they have; None leaves a column aside.
        """
        number = self.table.id
        statement = select(self.table).where(self._seen(project))
        for name, value in equal.items():
            if value is not None:
                statement = statement.where(getattr(self.table, name) == value)
        if search:
            statement = statement.where(self.table.name.icontains(search, autoescape=True))
        return statement.order_by(number.desc() if self.newest_first else number)

    async def page(self, services: Services, paging: Paging, listed: Select[_Row]) -> Page[_Shown]:
        """Return a page of a list."""
        async with services.database.reading() as session:
            rows, count = await paging.rows(session, listed)
            shown = await self.show(session, rows)
        return paging.page_of(shown, count)

    async def create(self, services: Services, project: int, body: _Body, row: _Row | None = None) -> _Shown:
        """Fill a new row, keep it, and return it as it is answered."""
        await self.check(services, project, body, None, True)
        async with services.database.session() as session:
            row = row or self.new(project)
            await self.write(session, row, body, services, whole=True)
            session.add(row)
            await session.flush()
            return await self.show_one(session, row)

    async def get(self, services: Services, project: int, number: int) -> _Shown:
        """Return a row as it is answered."""
        async with services.database.reading() as session:
            return await self.show_one(session, await self.find(session, project, number))

    async def change(self, services: Services, project: int, number: int, body: _Body, *, whole: bool) -> _Shown:
        """Fill a row with what a body gives, and return it as it is answered."""
        await self.check(services, project, body, number, whole)
        async with services.database.session() as session:
            row = await self.find_own(session, project, number)
            await self.write(session, row, body, services, whole=whole)
            await session.flush()
            await session.refresh(row)
            return await self.show_one(session, row)

    async def delete(self, services: Services, project: int, number: int) -> None:
        """Delete a row."""
        async with services.database.session() as session:
            await session.delete(await self.find_own(session, project, number))

    async def find(self, session: AsyncSession, project: int, number: int) -> _Row:
        """Return a row that a project sees."""
        row = await session.scalar(select(self.table).where(self._seen(project), self.table.id == number))
        if row is None:
            raise NotFound
        return row

    async def find_own(self, session: AsyncSession, project: int, number: int) -> _Row:
        """Return a row that a project may change."""
        row = await self.find(session, project, number)
        refusal = self.shared if row.project_id is None else self.refusal(row)
        if refusal is not None:
            raise Forbidden(refusal)
        return row

    async def show_one(self, session: AsyncSession, row: _Row) -> _Shown:
        """Return a row as it is answered."""
        (shown,) = await self.show(session, [row])
        return shown

    async def write(self, session: AsyncSession, row: _Row, body: _Body, record: Record, *, whole: bool) -> None:
        """Put into a row what a body gives, and with ``whole`` the defaults of what it does not."""
        errors: Errors = {}
        if getattr(body, "project", None) not in (None, row.project_id):
            errors["project"] = [missing(getattr(body, "project"))]  # noqa: B009 - not every body has it
        fields = {name: kept for name, _, kept in kept_in(type(body)) if whole or body.given(name)}
        values = body.model_dump(mode="json", include=set(fields), exclude_unset=not whole)
        data: dict[str, Any] = dict(getattr(row, "data", {}))
        before = {name: getattr(row, kept.column) if kept.column else data.get(name) for name, kept in fields.items()}
        # What stands there already may be written again.
        news = {name: value for name, value in values.items() if body.given(name) and value != before[name]}
        saved = [name for name, kept in fields.items() if kept.when_played]
        errors |= {name: [text] for name, text in sentences(type(body), news, record.settings, but=saved).items()}
        # First all that is looked up, for each question writes the row as it is by then.
        for name, kept in fields.items():
            if kept.of is not None and (unknown := await unknown_ids(session, kept.of, row.project_id, values[name])):
                errors[name] = [missing(number) for number in unknown[:100]]
        for name, kept in fields.items():
            if name in errors:
                continue
            if kept.column:
                setattr(row, kept.column, kept.as_kept(values[name]))
            else:
                data[name] = kept.as_kept(values[name])
        if not isinstance(row, Agent | TestProfile):
            row.data = data
        await self.fill(session, row, body, record, errors, whole)
        if errors:
            raise BadRequest(errors)

    def _seen(self, project: int) -> ColumnElement[bool]:
        own = self.table.project_id == project
        return own if self.shared is None else or_(self.table.project_id.is_(None), own)


async def unknown_ids(session: AsyncSession, table: Any, project: int | None, named: Any) -> list[int]:
    """Return of an id, or several, those of which a project sees nothing in a table; other values name none."""
    several: list[int] = [named] if isinstance(named, int) else named if isinstance(named, list) else []
    ids = list(dict.fromkeys(several))
    if not ids:
        return []
    seen = or_(table.project_id.is_(None), table.project_id == project)
    found = set((await session.scalars(select(table.id).where(table.id.in_(ids), seen))).all())
    return [number for number in ids if number not in found]


async def agent_names(session: AsyncSession, rows: Sequence[ScenarioRow | TestProfile]) -> dict[int, str]:
    """Return the names of the agents that rows refer to, by id."""
    ids = {row.agent_id for row in rows if row.agent_id is not None}
    if not ids:
        return {}
    named = await session.execute(select(Agent.id, Agent.name).where(Agent.id.in_(ids)))
    return {number: name for number, name in named}
