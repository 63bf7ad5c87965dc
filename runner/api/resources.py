"""What the routes of all resources do alike: list a project's rows, create, show, change and delete them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import ColumnElement, Select, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.errors import Forbidden, NotFound
from runner.api.paging import Page, Paging
from runner.api.services import Services
from runner.records.tables import Agent, CronJob, Personality, ScenarioRow, TestProfile

_Row = TypeVar("_Row", Agent, CronJob, Personality, ScenarioRow, TestProfile)
_Body = TypeVar("_Body")
_Shown = TypeVar("_Shown")
_Row_contra = TypeVar("_Row_contra", contravariant=True)
_Body_contra = TypeVar("_Body_contra", contravariant=True)


class Fill(Protocol[_Row_contra, _Body_contra]):
    """Puts into a row what a body gives, and with ``whole`` the defaults of what it does not.

    Raises ``BadRequest`` where something in the body is wrong; the row is not kept then.
    """

    async def __call__(
        self, session: AsyncSession, row: _Row_contra, body: _Body_contra, services: Services, *, whole: bool
    ) -> None:
        """Fill a row of the project that asks."""
        ...


@dataclass(frozen=True)
class Resource(Generic[_Row, _Body, _Shown]):
    """One kind of rows that users write.

    Its methods raise ``NotFound`` for what a project does not see, ``Forbidden`` for a change to a shared row, and
    ``BadRequest`` for a body that is wrong.

    Attributes:
        table: The rows.
        fill: Puts into a row what a body gives.
        show: Returns rows as they are answered, in their order.
        newest_first: Whether lists begin with the newest row.
        shared: Why rows that belong to no project can't be changed, where every project sees such rows.
    """

    table: type[_Row]
    fill: Fill[_Row, _Body]
    show: Callable[[AsyncSession, Sequence[_Row]], Awaitable[list[_Shown]]]
    newest_first: bool = True
    shared: str | None = None

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

    async def create(self, services: Services, row: _Row, body: _Body) -> _Shown:
        """Fill a new row, keep it, and return it as it is answered."""
        async with services.database.session() as session:
            await self.fill(session, row, body, services, whole=True)
            session.add(row)
            await session.flush()
            return await self.show_one(session, row)

    async def get(self, services: Services, project: int, number: int) -> _Shown:
        """Return a row as it is answered."""
        async with services.database.reading() as session:
            return await self.show_one(session, await self.find(session, project, number))

    async def change(self, services: Services, project: int, number: int, body: _Body, *, whole: bool) -> _Shown:
        """Fill a row with what a body gives, and return it as it is answered."""
        async with services.database.session() as session:
            row = await self._find_own(session, project, number)
            await self.fill(session, row, body, services, whole=whole)
            await session.flush()
            await session.refresh(row)
            return await self.show_one(session, row)

    async def delete(self, services: Services, project: int, number: int) -> None:
        """Delete a row."""
        async with services.database.session() as session:
            await session.delete(await self._find_own(session, project, number))

    async def find(self, session: AsyncSession, project: int, number: int) -> _Row:
        """Return a row that a project sees."""
        row = await session.scalar(select(self.table).where(self._seen(project), self.table.id == number))
        if row is None:
            raise NotFound
        return row

    async def show_one(self, session: AsyncSession, row: _Row) -> _Shown:
        """Return a row as it is answered."""
        (shown,) = await self.show(session, [row])
        return shown

    async def _find_own(self, session: AsyncSession, project: int, number: int) -> _Row:
        row = await self.find(session, project, number)
        if self.shared is not None and row.project_id is None:
            raise Forbidden(self.shared)
        return row

    def _seen(self, project: int) -> ColumnElement[bool]:
        own = self.table.project_id == project
        return own if self.shared is None else or_(self.table.project_id.is_(None), own)


async def agent_names(session: AsyncSession, rows: Sequence[ScenarioRow | TestProfile]) -> dict[int, str]:
    """Return the names of the agents that rows refer to, by id."""
    ids = {row.agent_id for row in rows if row.agent_id is not None}
    if not ids:
        return {}
    named = await session.execute(select(Agent.id, Agent.name).where(Agent.id.in_(ids)))
    return {number: name for number, name in named}
