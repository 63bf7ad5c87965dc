"""Where recordings and timelines are kept: a folder, or an S3 bucket."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from runner.errors import RunnerError, UsageError
from runner.files import private_folder
from runner.settings import ServerSettings

FOLDER = "artefacts"
_CHUNK_BYTES = 1_000_000
_PART = "@"
"""Between the name of an artefact and where a part of it begins. No name holds it."""

_KEY = re.compile(
    r"runs/[1-9][0-9]{0,18}/"
    # Attempts after the first.
    r"(?:(?:[2-9]|[1-9][0-9]{1,9})/)?"
    # No number alone, for those are attempts.
    r"(?![0-9]+\Z)[A-Za-z0-9][A-Za-z0-9._-]{0,99}",
    re.ASCII,
)


class ArtefactTooLarge(UsageError):
    """An artefact is larger than may be stored."""


class ArtefactMissing(UsageError):
    """There is no such artefact."""


class StoreFailed(RunnerError):
    """The store can't be used now: it is full, or away."""


def artefact_key(run_id: int, name: str, attempt: int) -> str:
    """Return what an artefact is kept under: no attempt at a run touches what another one left.

    Attempts count from 1.

    Raises:
        UsageError: The name is none of letters, digits, ``.``, ``_`` and ``-``, up to 100, that begins with a letter
            or digit and is no number.
    """
    return _checked(f"runs/{run_id}/{name}" if attempt == 1 else f"runs/{run_id}/{attempt}/{name}")


class ArtefactStore:
    """Keeps artefacts, each whole or not at all. Keys are those of :func:`artefact_key`.

    Args:
        store: What they are kept in.
    """

    def __init__(self, store: ObjectStore):
        self._store = store

    async def put(self, key: str, data: AsyncIterator[bytes] | bytes, *, max_bytes: int) -> int:
        """Keep an artefact, in place of the one that may be there, and return its size in bytes.

        When anything is raised, also by ``data``, what was there is still there.

        Raises:
            ArtefactTooLarge: It has more bytes than it may have.
            UsageError: The key is wrong.
        """
        _checked(key)
        if isinstance(data, bytes):
            if len(data) > max_bytes:
                raise _too_large(max_bytes)
            await self._store.put_async(key, data)
            return len(data)
        counted = _Counted(data, max_bytes)
        await self._store.put_async(key, counted)
        return counted.size

    async def put_part(self, key: str, offset: int, data: AsyncIterator[bytes], *, max_bytes: int) -> int:
        """Keep the next part of an artefact, whole or not at all, and return its size in bytes.

        ``offset`` is how many bytes come before it (see :meth:`size_of_parts`).

        Raises:
            ArtefactTooLarge: It has more bytes than it may have.
            StoreFailed: It can't be kept now.
            UsageError: The key is wrong.
        """
        counted = _Counted(data, max_bytes)
        with _or_failed("keep it"):
            await self._store.put_async(f"{_checked(key)}{_PART}{offset:016d}", counted)
        return counted.size

    async def size_of_parts(self, key: str) -> int:
        """Return how many bytes of an artefact are there in parts, from its beginning.

        Raises:
            StoreFailed: The store can't be used now.
            UsageError: The key is wrong.
        """
        return sum(size for _, size in await self._parts(key))

    async def join_parts(self, key: str, *, size: int) -> None:
        """Make an artefact of so many bytes of its parts, which go.

        Raises:
            StoreFailed: It can't be kept now, or its parts have fewer or more bytes: somebody else may just have
                joined them.
            UsageError: The key is wrong.
        """
        parts = await self._parts(key)
        if sum(length for _, length in parts) != size:
            raise StoreFailed("the store can't keep it now (parts of it are missing)")

        async def all_of_them() -> AsyncGenerator[bytes]:
            for path, _ in parts:
                found = await self._store.get_async(path)
                async for piece in found.stream(min_chunk_size=_CHUNK_BYTES):
                    yield bytes(piece)

        with _or_failed("keep it"):
            await self._store.put_async(key, all_of_them())
            await self._delete_each([path for path, _ in parts])

    async def _parts(self, key: str) -> list[tuple[str, int]]:
        """Return the parts of an artefact that follow each other from its beginning, with their sizes in bytes."""
        prefix = f"{_checked(key)}{_PART}"
        with _or_failed("be used"):
            # A prefix is of whole names of folders alone.
            folder = key.rpartition("/")[0]
            sizes = {
                meta["path"]: meta["size"]
                async for batch in self._store.list(f"{folder}/")
                for meta in batch
                if meta["path"].startswith(prefix)
            }
        parts: list[tuple[str, int]] = []
        there = 0
        while (size := sizes.get(path := f"{prefix}{there:016d}")) is not None and size:
            parts.append((path, size))
            there += size
        return parts

    async def size(self, key: str) -> int | None:
        """Return the size of an artefact in bytes; None where there is none.

        Raises:
            StoreFailed: The store can't be used now.
            UsageError: The key is wrong.
        """
        with _or_failed("be used"):
            try:
                return (await self._store.head_async(_checked(key)))["size"]
            except FileNotFoundError:
                return None

    async def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield an artefact piece by piece: from ``start`` to before ``end``, which may lie beyond its own; None: all
        of it.

        Raises:
            ArtefactMissing: There is none.
            UsageError: The key is wrong.
        """
        _checked(key)
        if end is not None and end <= start:
            return
        span: Any = {"offset": start} if end is None else (start, end)
        try:
            found = await self._store.get_async(key, options={"range": span} if start or end is not None else None)
        except FileNotFoundError:
            raise ArtefactMissing(f"{key}: there is no such artefact") from None
        async for piece in found.stream(min_chunk_size=_CHUNK_BYTES):
            if piece:
                yield bytes(piece)

    async def delete(self, key: str) -> None:
        """Delete an artefact. There need be none.

        Raises:
            UsageError: The key is wrong.
        """
        await self._delete_each([_checked(key)])

    async def delete_run(self, run_id: int) -> None:
        """Delete every artefact of a run, of all attempts at it. There need be none."""
        async for batch in self._store.list(f"runs/{run_id}/"):
            try:
                await self._store.delete_async([meta["path"] for meta in batch])
            except FileNotFoundError:
                # Somebody else deletes them too. What is left of them goes one by one.
                await self._delete_each([meta["path"] for meta in batch])

    async def _delete_each(self, paths: list[str]) -> None:
        for path in paths:
            try:
                await self._store.delete_async(path)
            except FileNotFoundError:
                continue


def open_store(settings: ServerSettings) -> ArtefactStore:
    """Return the store that is set: an S3 bucket, or else a folder in the data folder.

    Raises:
        UsageError: The setting is wrong, or the folder can't be made.
    """
    if settings.artefacts_url is not None:
        return ArtefactStore(_s3(settings.artefacts_url, settings.artefacts_options))
    folder = private_folder(private_folder(settings.data_dir) / FOLDER)
    return ArtefactStore(LocalStore(folder, automatic_cleanup=True))


def _s3(url: str, options: dict[str, str]) -> S3Store:
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError("server.artefacts_url: must be s3://bucket or s3://bucket/prefix")
    plain = options.get("endpoint", "").startswith("http://")
    try:
        return S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config=cast("Any", options),
            client_options={"allow_http": plain},
        )
    except (BaseError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"server.artefacts_options: {first}") from None


class _Counted:
    """Passes pieces on, counts their bytes, and stops when there are too many."""

    def __init__(self, pieces: AsyncIterator[bytes], max_bytes: int):
        self._pieces = pieces
        self._max_bytes = max_bytes
        self.size = 0

    def __aiter__(self) -> "_Counted":
        return self

    async def __anext__(self) -> bytes:
        piece = await anext(self._pieces)
        self.size += len(piece)
        if self.size > self._max_bytes:
            raise _too_large(self._max_bytes)
        return piece


@contextmanager
def _or_failed(what: str) -> Generator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        raise StoreFailed(f"the store can't {what} now ({type(error).__name__})") from error


def _too_large(max_bytes: int) -> ArtefactTooLarge:
    return ArtefactTooLarge(f"artefact: is larger than {max_bytes} bytes, which server.max_artefact_bytes allows")


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise UsageError(
            "artefact: its name must be letters, digits, '.', '_' and '-', begin with a letter or digit, and be no "
            "number"
        )
    return key
