"""Parameters of paths and queries."""

from typing import Annotated

from fastapi import Path, Query

from runner.records.written import MAX_ID

PathId = Annotated[int, Path(ge=1, le=MAX_ID)]
"""An id in a path. Whatever is none is a 404."""

QueryId = Annotated[int | None, Query(ge=1, le=MAX_ID)]
"""An id that a list is narrowed down to."""

Search = Annotated[str | None, Query(max_length=1_000, description="What the name holds, whatever the case.")]

Words = Annotated[str | None, Query(max_length=10_000, description="Separated by commas; any of them.")]
