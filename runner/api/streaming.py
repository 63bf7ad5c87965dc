"""Answers that are made in threads and sent piece by piece, once for all who ask for the same at the same moment."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from typing import TypeVar

from fastapi import FastAPI
from starlette.responses import StreamingResponse

from runner.records.sharing import Sharing

_T = TypeVar("_T")


def sharing_of(app: FastAPI) -> Sharing:
    """Return what those share who ask an application for the same list."""
    found: Sharing = app.state.sharing
    return found


async def streamed(
    pieces: AsyncGenerator[bytes],
    headers: Mapping[str, str] | None = None,
    *,
    status: int = 200,
    kind: str = "application/json",
) -> StreamingResponse:
    """Return an answer that is sent as it is made.

    Its first piece is made before: what goes wrong until then is answered with a status of its own.
    """
    first = await anext(pieces)

    async def body() -> AsyncGenerator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return StreamingResponse(body(), status, headers, kind)


async def enclosed(opening: bytes, pieces: AsyncIterable[Sequence[bytes]], closing: bytes) -> AsyncGenerator[bytes]:
    """Yield a JSON array or object whose members come in pieces. Nothing is yielded before the first of them."""
    before = opening
    async for members in pieces:
        if members:
            yield before + b",".join(members)
            before = b","
    yield (opening if before is opening else b"") + closing


def in_pieces(items: Sequence[_T], size: int) -> Iterable[Sequence[_T]]:
    """Return items, so many at a time."""
    return (items[begin : begin + size] for begin in range(0, len(items), size))
