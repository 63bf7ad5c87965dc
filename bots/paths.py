"""Paths in settings."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

__all__ = ["NamedPath"]


def _not_empty(value: object) -> object:
    if value == "":
        raise ValueError("a path is missing; leave the setting out for its default")
    return value


NamedPath = Annotated[Path, BeforeValidator(_not_empty)]
"""A path that is not empty, as that of a variable is that nobody set: it would be the working directory."""
