"""The API's description says what everything means."""

from typing import Any

import pytest
from fastapi import FastAPI

from runner.api.descriptions import attributes_of

_made: list[dict[str, Any]] = []
"""The description: it takes a second to make, and is the same for every app."""


@pytest.fixture
def document(app: FastAPI) -> dict[str, Any]:
    if not _made:
        _made.append(app.openapi())
    return _made[0]


def test_every_field_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    silent = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, shown in schema.get("properties", {}).items()
        if not shown.get("description", "").strip()
    ]
    assert silent == []
    assert (
        sum("examples" in shown for schema in schemas.values() for shown in schema.get("properties", {}).values())
        > 30
    )


def test_every_parameter_and_operation_is_described(document: dict[str, Any]) -> None:
    operations = [(path, way, shown) for path, ways in document["paths"].items() for way, shown in ways.items()]
    assert [f"{way} {path}" for path, way, shown in operations if not shown.get("description")] == []
    silent = [
        f"{way} {path} {one['name']}"
        for path, way, shown in operations
        for one in shown.get("parameters", ())
        if not one.get("description")
    ]
    assert silent == []


def test_what_is_for_workers_stands_apart_and_last(document: dict[str, Any]) -> None:
    tags = [tag["name"] for tag in document["tags"]]
    used = {tag for ways in document["paths"].values() for shown in ways.values() for tag in shown["tags"]}
    assert set(tags) == used and tags[-1] == "worker"
    for path, ways in document["paths"].items():
        for shown in ways.values():
            assert (shown["tags"] == ["worker"]) == path.startswith("/worker/"), path


class _Base:
    """A base.

    Attributes:
        old: Said below, and
            on two lines.
    """


class _Documented(_Base):
    """Something.

    Attributes:
        first: One thing: with ``code``.
        second, third: Two things.

    Raises:
        ValueError: Never.
    """


def test_docstrings_are_read() -> None:
    assert attributes_of(_Base) == {"old": "Said below, and on two lines."}
    assert attributes_of(_Documented) == {
        "first": "One thing: with `code`.", "second": "Two things.", "third": "Two things."
    }  # fmt: skip
