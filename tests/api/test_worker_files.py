"""The files of a run that its worker brings over HTTP, part by part."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from obstore.exceptions import BaseError
from obstore.store import LocalStore
from starlette.requests import ClientDisconnect

from runner.api.services import Services
from runner.protocol.messages import PART_BYTES
from runner.records.artefacts import MAX_ARTEFACTS
from runner.records.retention import purge
from runner.records.store import FOLDER, ArtefactStore, artefact_key
from runner.records.tables import RunRow, utc_now
from tests.api.conftest import Client
from tests.api.telling import ME, RUNS, TOKEN, begun, claimed, put, release, report, run_launched, show, there, upload
from tests.records.outcomes import outcome

pytestmark = pytest.mark.anyio


async def artefacts(services: Services, run_id: int) -> dict[str, int | None]:
    async with services.database.reading() as session:
        return (await session.get_one(RunRow, run_id)).artefacts


async def broken_off(piece: bytes) -> AsyncIterator[bytes]:
    yield piece
    raise ClientDisconnect


async def test_a_file_comes_in_parts_and_goes_on_where_it_was(
    client: Client, worker: Client, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await begun(client, worker)
    assert await there(worker, run_id, "recording.wav") == {"size": 0, "is_whole": False}
    assert await artefacts(services, run_id) == {"recording.wav": None}
    sent = [b"RI", b"FF ", b"and the rest"]
    size, offset = sum(map(len, sent)), 0
    for part in sent:
        shown = (await show(client, run_id))["scenario_runner"]["artefacts"]
        assert shown == {}
        # A part that was cut off is none.
        answer = await put(worker, run_id, "recording.wav", broken_off(part[:1]), offset=offset, size=size)
        assert answer.status_code == 400
        for wrong in {0, offset - 1, offset + 1} - {offset, -1}:
            answer = await put(worker, run_id, "recording.wav", part, offset=wrong, size=size)
            assert (answer.status_code, answer.json()["detail"]) == (409, f"The next byte is number {offset}.")
        answer = await put(worker, run_id, "recording.wav", part, offset=offset, size=size)
        offset += len(part)
        assert answer.json() == {"size": offset, "is_whole": offset == size}
        assert await there(worker, run_id, "recording.wav") == answer.json()
    assert await artefacts(services, run_id) == {"recording.wav": size}
    # Each name once.
    assert (await put(worker, run_id, "recording.wav", b"something else")).json()["is_whole"]
    await report(worker, run_id, outcome())
    url = (await show(client, run_id))["voice_recording_url"]
    assert (await client.get(url)).content == b"".join(sent)


async def test_a_part_has_no_more_than_it_may_have_and_a_file_neither(
    client: Client, worker: Client, services: Services
) -> None:
    run_id = await begun(client, worker)
    answer = await put(worker, run_id, "recording.wav", b"too much", size=3)
    assert answer.status_code == 413
    answer = await put(worker, run_id, "recording.wav", bytes(PART_BYTES + 1), size=PART_BYTES * 2)
    assert answer.status_code == 413
    too_large = services.settings.server.max_artefact_bytes + 1
    assert (await put(worker, run_id, "recording.wav", b"x", size=too_large)).status_code == 413
    assert await there(worker, run_id, "recording.wav") == {"size": 0, "is_whole": False}
    for params in ({"offset": -1, "size": 1}, {"offset": 0}, {"offset": 0, "size": "x"}):
        answer = await worker.put(upload(run_id), params={"attempt": 1, "executor": ME, **params}, content=b"x")
        assert answer.status_code == 400, params


async def test_a_file_may_be_empty(client: Client, worker: Client, services: Services) -> None:
    run_id = await begun(client, worker)
    assert (await put(worker, run_id, "empty.log", b"")).json() == {"size": 0, "is_whole": True}
    assert await artefacts(services, run_id) == {"empty.log": 0}
    assert await services.store.size(artefact_key(run_id, "empty.log", 1)) == 0


async def test_an_attempt_brings_only_so_many_files(client: Client, worker: Client) -> None:
    run_id = await begun(client, worker)
    for number in range(MAX_ARTEFACTS):
        assert (await put(worker, run_id, f"n{number}", b"x")).status_code == 200
    answer = await put(worker, run_id, "one-more", b"x")
    assert (answer.status_code, answer.json()["detail"]) == (409, f"An attempt brings {MAX_ARTEFACTS} files at most.")
    assert await there(worker, run_id, "one-more") == 409
    assert (await there(worker, run_id, "n0"))["is_whole"]


async def test_artefacts_are_kept_under_names_that_stay_in_their_place(
    client: Client, worker: Client, services: Services
) -> None:
    run_id = await begun(client, worker)
    for name in ("..%2f..%2fx", "a%2fb", ".hidden", "%20", "x" * 150, "2", "a@0"):
        answer = await put(worker, run_id, name, b"x")
        assert answer.status_code in (400, 404), name
    assert await artefacts(services, run_id) == {}


async def test_after_a_runs_end_only_the_files_owed_are_taken(
    client: Client, worker: Client, services: Services
) -> None:
    run_id = await begun(client, worker)
    await put(worker, run_id, "recording.wav", b"RI", size=4)
    owed = ("recording.wav", "timeline.jsonl", "../out", "2")
    assert (await report(worker, run_id, outcome(), owed=owed)).json()["counted"]
    assert await artefacts(services, run_id) == {"recording.wav": None, "timeline.jsonl": None}
    assert (await put(worker, run_id, "run.json", b"{}")).status_code == 409
    assert (await put(worker, run_id, "recording.wav", b"FF", offset=2, size=4)).json()["is_whole"]
    assert (await put(worker, run_id, "timeline.jsonl", b"{}", executor="another")).status_code == 409
    assert await artefacts(services, run_id) == {"recording.wav": 4, "timeline.jsonl": None}


async def test_while_the_store_fails_it_is_told_and_nothing_is_lost(
    client: Client,
    worker: Client,
    app: FastAPI,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = await begun(client, worker)
    await put(worker, run_id, "recording.wav", b"RI", size=4)
    store = LocalStore(services.settings.server.data_dir / FOLDER)

    class Full:
        async def put_async(self, key: str, data: Any) -> None:
            raise OSError(28, "No space left on device", TOKEN)

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

    class Away:
        def list(self, prefix: str) -> Any:
            raise BaseError(TOKEN)

        async def head_async(self, key: str) -> Any:
            raise BaseError(TOKEN)

    for broken in (Full(), Away()):
        with monkeypatch.context() as patch:
            patch.setattr(app.state, "services", replace(services, store=ArtefactStore(broken)))
            answer = await put(worker, run_id, "recording.wav", b"FF", offset=2, size=4)
        assert answer.status_code == 507 and TOKEN not in answer.text, answer.text
    assert await there(worker, run_id, "recording.wav") == {"size": 2, "is_whole": False}
    assert (await put(worker, run_id, "recording.wav", b"FF", offset=2, size=4)).json()["is_whole"]
    with monkeypatch.context() as patch:
        patch.setattr(app.state, "services", replace(services, store=ArtefactStore(Away())))
        for name in ("timeline.jsonl", "recording.wav"):
            assert await there(worker, run_id, name) == 507


async def test_attempts_keep_artefacts_apart_and_show_the_last_ones(
    client: Client, worker: Client, services: Services
) -> None:
    (run_id,) = await run_launched(client)
    shown = f"{RUNS}/{run_id}"
    await claimed(worker, run_id)
    for name in ("recording.wav", "timeline.jsonl"):
        await put(worker, run_id, name, b"first")
    await release(worker, run_id)
    assert (await client.get(shown)).json()["scenario_runner"]["artefacts"] == {}
    await claimed(worker, run_id, 2)
    await put(worker, run_id, "recording.wav", b"second", 2)
    await report(worker, run_id, outcome(), 2)
    run = (await client.get(shown)).json()
    assert list(run["scenario_runner"]["artefacts"]) == ["recording.wav"]
    assert (await client.get(run["voice_recording_url"])).content == b"second"
    assert (await client.get(f"{shown}/artefacts/timeline.jsonl")).status_code == 404
    assert [kind for kind in (await client.get(f"{shown}/events")).text.split() if kind == "end"] == ["end"]
    assert await services.store.size(artefact_key(run_id, "recording.wav", 1)) == 5
    assert await purge(services.database, services.store, older_than=utc_now() + timedelta(days=1)) == 1
    for name, attempt in (("recording.wav", 1), ("timeline.jsonl", 1), ("recording.wav", 2)):
        assert await services.store.size(artefact_key(run_id, name, attempt)) is None


async def test_an_artefact_uploaded_during_a_release_leaves_nothing(
    client: Client, worker: Client, services: Services
) -> None:
    run_id = await begun(client, worker)

    async def slowly() -> AsyncIterator[bytes]:
        yield b"RI"
        assert (await release(worker, run_id)).json()["waits_again"]
        await claimed(worker, run_id, 2)
        yield b"FF"

    assert (await put(worker, run_id, "recording.wav", slowly(), size=4)).status_code == 409
    assert await services.store.size(artefact_key(run_id, "recording.wav", 1)) is None
    assert (await put(worker, run_id, "recording.wav", b"RIFF", 2)).json() == {"size": 4, "is_whole": True}
    assert await artefacts(services, run_id) == {"1/recording.wav": None, "recording.wav": 4}
