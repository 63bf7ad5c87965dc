"""Rows to write, and to count."""

from collections.abc import Callable

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from runner.records.database import Database
from runner.records.tables import Project


async def count(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(Project)) or 0


def add(name: str) -> Callable[[Session], None]:
    def work(session: Session) -> None:
        session.add(Project(name=name))
        session.flush()

    return work
