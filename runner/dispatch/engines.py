"""Engines for the queue's side of the database."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from runner.records.database import begin_with

LEASE_TIMEOUT_S = 3
"""How long a sign of life may take to be written: less than a worker may stay silent."""


def plain_url(url: str) -> str:
    """Return an address without the name of a driver."""
    scheme, separator, rest = url.partition("://")
    return scheme.partition("+")[0] + separator + rest


def sqlite_engine(url: str, *, timeout_s: float = 30.0) -> sa.Engine:
    """Return an engine whose every transaction takes the write lock when it begins."""
    engine = sa.create_engine(plain_url(url), connect_args={"timeout": timeout_s}, hide_parameters=True)

    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={timeout_s * 1000:.0f}",
            "foreign_keys=ON",
            "journal_mode=WAL",
            "synchronous=NORMAL",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine, "connect", prepare)
    begin_with(engine, "BEGIN IMMEDIATE")
    return engine


def lease_engine(url: str) -> sa.Engine:
    """Return an engine with one connection that gives up soon."""
    if plain_url(url).startswith("sqlite"):
        return sqlite_engine(url, timeout_s=LEASE_TIMEOUT_S)
    limit_ms = LEASE_TIMEOUT_S * 1000
    return sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg"),
        connect_args={
            "connect_timeout": LEASE_TIMEOUT_S,
            "tcp_user_timeout": limit_ms,
            "options": f"-c statement_timeout={limit_ms} -c lock_timeout={limit_ms}",
        },
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,
    )
