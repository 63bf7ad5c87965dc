"""The store of artefacts: a folder, and a bucket."""

import os
import stat
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest

from runner.errors import UsageError
from runner.records.store import (
    ArtefactMissing,
    ArtefactStore,
    ArtefactTooLarge,
    StoreFailed,
    artefact_key,
    open_store,
)
from runner.settings import ServerSettings
from tests.records.s3 import Bucket, s3_server

pytestmark = pytest.mark.anyio
MIB = 1_048_576
KEY = artefact_key(7, "recording.wav", 1)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with s3_server() as bucket:
        yield bucket


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtefactStore:
    if request.param == "folder":
        return open_store(ServerSettings(data_dir=tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    bucket: Bucket = request.getfixturevalue("bucket")
    return open_store(
        ServerSettings(
            data_dir=tmp_path,
            artefacts_url="s3://tests/some/where",
            artefacts_options={"endpoint": bucket.url, "region": "eu-central-1"},
        )
    )


async def pieces(*given: bytes, then: Exception | None = None) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece
    if then is not None:
        raise then


async def read(store: ArtefactStore, key: str = KEY, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.get(key, start, end)])


@pytest.mark.parametrize(
    "data", [[b"abcdef"], [b""], [], [*(os.urandom(MIB) for _ in range(12)), b"", b"end"]], ids=len
)
@pytest.mark.parametrize("as_pieces", [False, True])
async def test_what_is_put_is_got(store: ArtefactStore, data: list[bytes], as_pieces: bool) -> None:
    whole = b"".join(data)
    assert await store.put(KEY, pieces(*data) if as_pieces else whole, max_bytes=20 * MIB) == len(whole)
    assert (await store.size(KEY), await read(store)) == (len(whole), whole)
    if len(whole) > 9 * MIB:
        assert len([piece async for piece in store.get(KEY)]) > 1


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, b"abcdef"),
        (0, 6, b"abcdef"),
        (0, 1, b"a"),
        (2, 4, b"cd"),
        (5, None, b"f"),
        (4, 99, b"ef"),
        (3, 3, b""),
        (0, 0, b""),
    ],
)
async def test_a_part_can_be_read(store: ArtefactStore, start: int, end: int | None, expected: bytes) -> None:
    await store.put(KEY, b"abcdef", max_bytes=6)
    assert await read(store, KEY, start, end) == expected


async def test_what_is_not_there_has_no_size(store: ArtefactStore) -> None:
    assert await store.size(KEY) is None
    with pytest.raises(ArtefactMissing):
        await read(store)
    with pytest.raises(ArtefactMissing):
        await read(store, KEY, 3, 5)


async def test_another_one_takes_its_place(store: ArtefactStore) -> None:
    await store.put(KEY, b"abcdef", max_bytes=6)
    await store.put(KEY, b"gh", max_bytes=6)
    assert await read(store) == b"gh"


@pytest.mark.parametrize("before", [None, b"before"])
async def test_what_breaks_off_leaves_what_was_there(store: ArtefactStore, before: bytes | None) -> None:
    if before is not None:
        await store.put(KEY, before, max_bytes=6)
    with pytest.raises(RuntimeError, match="line is down"):
        await store.put(KEY, pieces(bytes(6 * MIB), then=RuntimeError("line is down")), max_bytes=20 * MIB)
    assert await store.size(KEY) == (None if before is None else 6)


async def test_what_breaks_off_leaves_no_upload_behind(store: ArtefactStore, bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="line is down"):
        await store.put(
            KEY, pieces(bytes(6 * MIB), bytes(6 * MIB), then=RuntimeError("line is down")), max_bytes=MIB * 20
        )
    assert bucket.uploads == {}
    assert not [path async for path in anyio.Path(tmp_path).rglob("*") if await path.is_file()]


async def test_what_is_cancelled_leaves_nothing(store: ArtefactStore) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield bytes(6 * MIB)
        await anyio.sleep_forever()

    with anyio.move_on_after(0.3):
        await store.put(KEY, slowly(), max_bytes=20 * MIB)
    assert await store.size(KEY) is None


async def test_what_is_too_large_is_refused(store: ArtefactStore) -> None:
    with pytest.raises(ArtefactTooLarge, match="larger than 5 bytes"):
        await store.put(KEY, b"abcdef", max_bytes=5)
    with pytest.raises(ArtefactTooLarge, match="larger than 5 bytes"):
        await store.put(KEY, pieces(b"abc", b"def"), max_bytes=5)
    assert await store.size(KEY) is None


@pytest.mark.parametrize("sent", [[b"a" * MIB, b"bc", b"d"], [b""]], ids=len)
async def test_parts_become_an_artefact_and_go(store: ArtefactStore, sent: list[bytes]) -> None:
    there = 0
    for part in sent:
        assert await store.size_of_parts(KEY) == there
        assert await store.put_part(KEY, there, pieces(part[:1], part[1:]), max_bytes=MIB) == len(part)
        there += len(part)
        assert await store.size(KEY) is None
    await store.join_parts(KEY, size=there)
    assert await read(store) == b"".join(sent)
    assert await store.size_of_parts(KEY) == 0
    await store.delete_run(7)
    assert await store.size(KEY) is None


async def test_a_part_that_breaks_off_is_none(store: ArtefactStore) -> None:
    await store.put_part(KEY, 0, pieces(b"abc"), max_bytes=3)
    with pytest.raises(RuntimeError, match="line is down"):
        await store.put_part(KEY, 3, pieces(b"d", then=RuntimeError("line is down")), max_bytes=3)
    with pytest.raises(ArtefactTooLarge):
        await store.put_part(KEY, 3, pieces(b"de", b"fg"), max_bytes=3)
    assert await store.size_of_parts(KEY) == 3


async def test_parts_belong_to_one_artefact_and_attempt_without_gap(store: ArtefactStore) -> None:
    neighbours = [
        artefact_key(7, "recording.wav", 2),
        artefact_key(7, "recording.wav.gz", 1),
        artefact_key(71, "a", 1),
    ]
    for number, key in enumerate(neighbours, 1):
        await store.put_part(key, 0, pieces(b"x" * number), max_bytes=9)
    assert await store.size_of_parts(KEY) == 0
    await store.put_part(KEY, 5, pieces(b"after a gap"), max_bytes=99)
    assert await store.size_of_parts(KEY) == 0
    await store.put_part(KEY, 0, pieces(b"abc"), max_bytes=9)
    assert await store.size_of_parts(KEY) == 3
    # The same again takes its place.
    await store.put_part(KEY, 0, pieces(b"abcde"), max_bytes=9)
    assert await store.size_of_parts(KEY) == 5 + len("after a gap")
    assert [await store.size_of_parts(key) for key in neighbours] == [1, 2, 3]


async def test_parts_that_are_not_all_there_become_nothing(store: ArtefactStore) -> None:
    await store.put_part(KEY, 0, pieces(b"abc"), max_bytes=3)
    for size in (0, 2, 4):
        with pytest.raises(StoreFailed, match="missing"):
            await store.join_parts(KEY, size=size)
    assert (await store.size(KEY), await store.size_of_parts(KEY)) == (None, 3)
    await store.join_parts(KEY, size=3)
    # Whoever joins them a second time does not find them, and leaves what was made of them.
    with pytest.raises(StoreFailed, match="missing"):
        await store.join_parts(KEY, size=3)
    assert await read(store) == b"abc"


async def test_a_run_is_deleted_and_its_neighbours_are_not(store: ArtefactStore) -> None:
    for run_id in (1, 12, 2):
        for attempt in (1, 2, 12):
            for name in ("recording.wav", "timeline.jsonl"):
                await store.put(artefact_key(run_id, name, attempt), b"x", max_bytes=1)
    await store.delete_run(1)
    await store.delete_run(1)
    for attempt in (1, 2, 12):
        assert await store.size(artefact_key(1, "recording.wav", attempt)) is None
        assert await store.size(artefact_key(12, "recording.wav", attempt)) == 1
        assert await store.size(artefact_key(2, "timeline.jsonl", attempt)) == 1


async def test_attempts_keep_theirs_apart(store: ArtefactStore) -> None:
    for attempt in (1, 2, 3):
        await store.put(artefact_key(7, "recording.wav", attempt), b"x" * attempt, max_bytes=9)
    assert artefact_key(7, "recording.wav", 1) == "runs/7/recording.wav"
    assert artefact_key(7, "recording.wav", 2) == "runs/7/2/recording.wav"
    await store.delete(artefact_key(7, "recording.wav", 2))
    await store.delete(artefact_key(7, "recording.wav", 2))
    assert [await store.size(artefact_key(7, "recording.wav", attempt)) for attempt in (1, 2, 3)] == [1, None, 3]


async def test_those_who_delete_at_once_do_not_fail(store: ArtefactStore) -> None:
    for number in range(20):
        await store.put(artefact_key(1, f"n{number}", 1), b"x", max_bytes=1)
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(store.delete_run, 1)
    assert [await store.size(artefact_key(1, f"n{number}", 1)) for number in range(20)] == [None] * 20


@pytest.mark.parametrize(
    "key",
    [
        "recording.wav",
        "runs/7/",
        "runs/7/..",
        "runs/7/../8/recording.wav",
        "runs/7/a/b",
        "runs/0/a",
        "runs/-7/a",
        "runs/07/a",
        "runs/7/.hidden",
        "runs/7/a b",
        "runs/7/a\n",
        "runs/7/a%2Fb",
        "runs/7/a\\b",
        "runs/7/2",
        "runs/7/3/2",
        "runs/7/1/a",
        "runs/7/0/a",
        "runs/7/02/a",
        "runs/7/2/3/a",
        "runs/7/2/",
        "runs/7/2/../a",
        "runs/7/ä",
        "runs/٧/a",
        "/runs/7/a",
        "runs/7/" + "a" * 101,
        "",
    ],
)
async def test_a_name_that_leads_elsewhere_is_refused(store: ArtefactStore, key: str) -> None:
    for use in (partial(store.put, data=b"", max_bytes=1), store.size, partial(read, store), store.delete):
        with pytest.raises(UsageError, match="its name must be"):
            await use(key)


async def test_a_folder_holds_them_for_this_user_alone(tmp_path: Path) -> None:
    store = open_store(ServerSettings(data_dir=tmp_path))
    await store.put(KEY, b"x", max_bytes=1)
    folder = tmp_path / "artefacts"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / KEY).read_bytes() == b"x"
    await store.delete_run(7)
    assert not (folder / "runs" / "7").exists()
    await store.put(KEY, b"x", max_bytes=1)


async def test_a_bucket_is_used_below_its_prefix(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = open_store(
        ServerSettings(artefacts_url="s3://tests/some/where/", artefacts_options={"endpoint": bucket.url})
    )
    await store.put(KEY, b"x", max_bytes=1)
    assert bucket.objects == {f"tests/some/where/{KEY}": b"x"}


@pytest.mark.parametrize(
    "url", ["https://x/y", "s3://", "s3:bucket", "bucket", "s3://name:secret@bucket", "s3://b?x=secret"]
)
async def test_what_is_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"^server.artefacts_url: must be s3://bucket") as refusal:
        open_store(ServerSettings(artefacts_url=url))
    assert "secret" not in str(refusal.value)


async def test_an_unknown_option_is_named() -> None:
    with pytest.raises(UsageError, match=r"server.artefacts_options: .*endpint"):
        open_store(ServerSettings(artefacts_url="s3://b", artefacts_options={"endpint": "http://x"}))
