"""What the tables of the record are made of."""

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, DateTime, Float, Integer
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

JsonValue = JSON().with_variant(JSONB(), "postgresql")
Id = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite counts up only plain integers."""


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time. SQLite keeps no zone: what comes back is UTC, as what went in."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Take in a time, in UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Give it out again."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


NEVER_AGAIN = {"sqlite_autoincrement": True}
"""An id is never given out again after its row is deleted: the queue and the store know runs by it."""


class Base(DeclarativeBase):
    """The tables' metadata."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime, dict[str, Any]: JsonValue, float: Float}


class Made(Base):
    """What has an id."""

    __abstract__ = True
    __table_args__: Any = NEVER_AGAIN

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Changed(Made):
    """What is changed after it was made."""

    __abstract__ = True

    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)
