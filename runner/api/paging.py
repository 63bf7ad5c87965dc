"""Lists in pages: ``{count, next, previous, results}``, with addresses that lead to the pages around."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel, TypeAdapter
from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

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


_PAGE = TypeAdapter(Page[Any])


@dataclass(frozen=True)
class Paging:
    """Which page was asked for."""

    page: int
    size: int
    url: str

    @property
    def offset(self) -> int:
        """How many are on the pages before."""
        return (self.page - 1) * self.size

    async def rows(self, session: AsyncSession, statement: Select[Any]) -> tuple[Sequence[Any], int]:
        """Return what :meth:`select` does."""
        return await session.run_sync(self.select, statement)

    def select(self, session: Session, statement: Select[Any]) -> tuple[Sequence[Any], int]:
        """Return the rows of the page, and how many there are on all.

        Args:
            session: The record.
            statement: Selects what the list holds, in order; one entity a row. Of a list that may be long, the ids
                alone: the rows of all pages before are passed over.

        Raises:
            NotFound: There is no such page.
        """
        counting = select(func.count()).select_from(statement.order_by(None).subquery())
        count = session.execute(counting).scalar_one()
        self._check(count)
        return session.scalars(statement.offset(self.offset).limit(self.size)).all(), count

    def around(self, count: int) -> tuple[str | None, str | None]:
        """Return the addresses of the page after this one, and of the one before.

        Raises:
            NotFound: There is no such page.
        """
        self._check(count)
        following = self._address(self.page + 1) if self.page * self.size < count else None
        return following, self._address(self.page - 1) if self.page > 1 else None

    def page_of(self, results: list[_T], count: int) -> Page[_T]:
        """Return a page that holds results."""
        following, preceding = self.around(count)
        return Page(count=count, next=following, previous=preceding, results=results)

    def opening(self, count: int) -> bytes:
        """Return the JSON of a page, up to where its results follow: they end with ``]}``."""
        return _PAGE.dump_json(self.page_of([], count)).removesuffix(b"]}")

    def _check(self, count: int) -> None:
        if self.page > 1 and self.offset >= count:
            raise NotFound("Invalid page.")

    def _address(self, page: int) -> str:
        separator = "&" if "?" in self.url else "?"
        return f"{self.url}{separator}page={page}"


def absolute_url(request: Request, path: str) -> str:
    """Return the address of a path of this server, as clients reach it."""
    base = services_of(request).settings.server.public_url or str(request.base_url)
    return f"{base.rstrip('/')}{path}"


_Number = Query(ge=1, le=1_000_000_000, description="The page, from 1.")
_Size = Query(ge=1, le=1_000_000_000, description=f"How many on a page; at most {MAX_PAGE_SIZE} are.")


async def _paging(
    request: Request, page: Annotated[int, _Number] = 1, page_size: Annotated[int, _Size] = DEFAULT_PAGE_SIZE
) -> Paging:
    filters = request.url.remove_query_params("page").query
    path = request.url.path
    return Paging(
        page, min(page_size, MAX_PAGE_SIZE), absolute_url(request, f"{path}?{filters}" if filters else path)
    )


async def _paging_if_asked(
    request: Request, page: Annotated[int | None, _Number] = None, page_size: Annotated[int | None, _Size] = None
) -> Paging | None:
    if page is None and page_size is None:
        return None
    return await _paging(request, page or 1, page_size or DEFAULT_PAGE_SIZE)


PageAsked = Annotated[Paging, Depends(_paging)]
"""Which page was asked for, from ``page`` and ``page_size``."""

PageIfAsked = Annotated[Paging | None, Depends(_paging_if_asked)]
"""The same; None where neither was given, and everything is wanted."""
