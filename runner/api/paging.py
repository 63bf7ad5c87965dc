"""Lists in pages: ``{count, next, previous, results}``, with addresses that lead to the pages around."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel
from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.auth import services_of
from runner.api.errors import NotFound

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 500
"""Larger pages are cut down to this, and say so by their length and ``next``."""

_T = TypeVar("_T")


class Page(BaseModel, Generic[_T]):
    """One page of a list.

    Attributes:
        count: How many there are on all pages.
        next: The absolute address of the page after this one; null on the last.
        previous: That of the page before; null on the first.
        results: What is on this page.
    """

    count: int
    next: str | None
    previous: str | None
    results: list[_T]


@dataclass(frozen=True)
class Paging:
    """Which page was asked for.

    Attributes:
        page: Its number, from 1.
        size: How many are on a page.
        url: The absolute address of the list with its filters.
    """

    page: int
    size: int
    url: str

    async def rows(self, session: AsyncSession, statement: Select[Any]) -> tuple[Sequence[Any], int]:
        """Return the rows of the page, and how many there are on all.

        Args:
            session: The record.
            statement: Selects what the list holds, in order; one entity a row.

        Raises:
            NotFound: There is no such page.
        """
        counting = select(func.count()).select_from(statement.order_by(None).subquery())
        count = (await session.execute(counting)).scalar_one()
        offset = (self.page - 1) * self.size
        if self.page > 1 and offset >= count:
            raise NotFound("Invalid page.")
        rows = (await session.execute(statement.offset(offset).limit(self.size))).scalars().all()
        return rows, count

    def page_of(self, results: list[_T], count: int) -> Page[_T]:
        """Return a page that holds results.

        Args:
            results: What is on it.
            count: How many there are on all pages.
        """
        has_next = self.page * self.size < count
        return Page(
            count=count,
            next=self._address(self.page + 1) if has_next else None,
            previous=self._address(self.page - 1) if self.page > 1 else None,
            results=results,
        )

    def _address(self, page: int) -> str:
        separator = "&" if "?" in self.url else "?"
        return f"{self.url}{separator}page={page}"


def absolute_url(request: Request, path: str) -> str:
    """Return the address of a path of this server, as clients reach it.

    Args:
        request: The request that is answered.
        path: Begins with a slash.
    """
    base = services_of(request).settings.server.public_url or str(request.base_url)
    return f"{base.rstrip('/')}{path}"


def _paging(
    request: Request,
    page: Annotated[int, Query(ge=1, le=1_000_000_000, description="The page, from 1.")] = 1,
    page_size: Annotated[
        int, Query(ge=1, le=1_000_000_000, description=f"How many on a page; at most {MAX_PAGE_SIZE} are.")
    ] = DEFAULT_PAGE_SIZE,
) -> Paging:
    filters = request.url.remove_query_params("page").query
    path = request.url.path
    return Paging(
        page, min(page_size, MAX_PAGE_SIZE), absolute_url(request, f"{path}?{filters}" if filters else path)
    )


PageAsked = Annotated[Paging, Depends(_paging)]
"""Which page was asked for, from ``page`` and ``page_size``."""
