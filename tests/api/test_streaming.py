"""Answers that are sent in pieces."""

from collections.abc import AsyncGenerator, Sequence

import pytest

from runner.api.streaming import enclosed, in_pieces

pytestmark = pytest.mark.anyio


async def pieces(*found: Sequence[bytes]) -> AsyncGenerator[Sequence[bytes]]:
    for piece in found:
        yield piece


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([], b"[]"),
        ([[]], b"[]"),
        ([[b"1", b"2"]], b"[1,2]"),
        ([[b"1"], [], [b"2", b"3"]], b"[1,2,3]"),
        ([[], [b"1"]], b"[1]"),
    ],
)
async def test_pieces_make_one_array(found: list[list[bytes]], text: bytes) -> None:
    assert b"".join([piece async for piece in enclosed(b"[", pieces(*found), b"]")]) == text


def test_items_go_so_many_at_a_time() -> None:
    assert list(in_pieces([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(in_pieces([], 2)) == []
