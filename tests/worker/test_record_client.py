"""The record over HTTP: what a refusal means, files in parts, and that nothing secret is in an error."""

import json
from collections.abc import Callable
from pathlib import Path

import anyio
import httpx
import pytest
from pydantic import SecretStr

from runner.protocol.messages import VERSION, Gone, Poll, Problem, Report, WorkerInfo
from runner.worker import record_client
from runner.worker.record_client import GivenUp, RecordClient, RecordError
from tests.worker import record_double
from tests.worker.record_double import RecordDouble, job

pytestmark = pytest.mark.anyio

REPORT = Report(
    run_id=7, attempt=1, executor="me", problem=Problem(cause="harness", reason="runner-error", detail="")
)
POLL = Poll(
    protocol=VERSION, worker=WorkerInfo(executor="me", name="w", version="1", rooms=("daily",), calls=4), number=1
)

CONTENT = bytes(number % 251 for number in range(23_456))


def answering(handler: Callable[[httpx.Request], httpx.Response]) -> RecordClient:
    transport = httpx.MockTransport(handler)
    return RecordClient(httpx.AsyncClient(transport=transport, base_url="http://record"), SecretStr("psw_secret"))


@pytest.mark.parametrize(
    ("status", "transient"), [(500, True), (503, True), (507, True), (429, True), (401, True), (400, False)]
)
async def test_an_answer_says_whether_it_is_worth_trying_again(status: int, transient: bool) -> None:
    client = answering(lambda _: httpx.Response(status))
    with pytest.raises(RecordError, match=f"HTTP {status}") as caught:
        await client.report(REPORT)
    assert (caught.value.transient, caught.value.status) == (transient, status)
    assert "psw_secret" not in str(caught.value)


async def test_no_answer_is_worth_trying_again() -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("psw_secret")

    with pytest.raises(RecordError, match="does not answer") as caught:
        await answering(fail).poll(POLL, lease_s=20)
    assert caught.value.transient and caught.value.status is None
    assert "psw_secret" not in str(caught.value)


async def test_an_answer_of_another_version_is_an_error_without_quotes() -> None:
    client = answering(lambda _: httpx.Response(200, json={"lease_s": 20, "jobs": [{"token": "planted"}]}))
    with pytest.raises(RecordError, match="another version") as caught:
        await client.poll(POLL, lease_s=20)
    assert not caught.value.transient and "planted" not in str(caught.value)


async def test_a_server_of_another_version_is_named_with_what_it_says() -> None:
    record = RecordDouble(protocol=VERSION + 1)
    with pytest.raises(RecordError, match=rf"release 9.9.9\) speaks version {VERSION + 1} .* version {VERSION}: use"):
        await record.client().hello()
    client = answering(lambda _: httpx.Response(426, json={"detail": "use the same release for both"}))
    with pytest.raises(RecordError, match="HTTP 426: use the same release for both") as caught:
        await client.poll(POLL, lease_s=20)
    assert not caught.value.transient


async def test_a_key_that_is_refused_can_be_mended() -> None:
    with pytest.raises(RecordError, match="401") as caught:
        await RecordDouble(jobs={7: job()}).client("psw_wrong").hello()
    assert caught.value.transient and caught.value.status == 401


async def test_a_worker_that_was_given_up_is_told_so() -> None:
    with pytest.raises(GivenUp):
        await RecordDouble(gone={"me"}).client().poll(POLL, lease_s=20)


async def test_a_dead_worker_is_reported() -> None:
    record = RecordDouble()
    await record.client().gone(Gone(executor="me"))
    assert record.reported_gone == ["me"]


async def test_secrets_of_a_job_come_in_and_are_shown_to_nobody() -> None:
    client = RecordDouble(jobs={7: job(token="planted")}).client()
    (made,) = (await client.poll(POLL, lease_s=20)).jobs
    assert made.token is not None and made.token.get_secret_value() == "planted"
    assert "planted" not in repr(made) and "planted" not in made.model_dump_json()


# Files.


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of two parts and a bit, each of two chunks and a bit."""
    for module in (record_double, record_client):
        monkeypatch.setattr(module, "PART_BYTES", 10_000)
    monkeypatch.setattr(record_client, "CHUNK_BYTES", 4_096)
    path = tmp_path / "recording.wav"
    path.write_bytes(CONTENT)
    return path


async def put(record: RecordDouble, path: Path) -> None:
    await record.client().put_artefact(7, 1, "me", path.name, path)


async def test_a_file_goes_up_in_parts(file: Path) -> None:
    record = RecordDouble(jobs={7: job()})
    await put(record, file)
    assert record.artefacts[file.name] == CONTENT
    assert record.told == [f"{file.name}?", *[file.name] * 3]


@pytest.mark.parametrize("size", [0, 1, 10_000, 20_000])
async def test_a_file_of_any_size_goes_up(file: Path, size: int) -> None:
    await anyio.Path(file).write_bytes(b"x" * size)
    record = RecordDouble(jobs={7: job()})
    await put(record, file)
    assert record.artefacts[file.name] == b"x" * size


async def test_what_is_there_is_not_sent_again(file: Path) -> None:
    record = RecordDouble(jobs={7: job()}, parts={file.name: CONTENT[:10_000]})
    await put(record, file)
    assert record.artefacts[file.name] == CONTENT
    assert record.told == [f"{file.name}?", file.name, file.name]
    record.told.clear()
    await put(record, file)
    assert record.told == [f"{file.name}?"], "all of it"


async def test_after_a_break_it_goes_on_where_it_was(file: Path) -> None:
    record = RecordDouble(jobs={7: job()}, breaks_after=2)
    with pytest.raises(RecordError) as caught:
        await put(record, file)
    assert caught.value.transient and len(record.parts[file.name]) == 20_000
    record.told.clear()
    await put(record, file)
    assert record.told == [f"{file.name}?", file.name]
    assert record.artefacts[file.name] == CONTENT


async def test_a_part_that_came_after_all_does_not_leave_the_file_out(file: Path) -> None:
    """Its request was given up here, and went on there."""
    record = RecordDouble(jobs={7: job()})

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"size": 0, "is_whole": False})
        return httpx.Response(409)

    with pytest.raises(RecordError) as caught:
        await answering(answer).put_artefact(7, 1, "me", file.name, file)
    assert caught.value.transient
    record.parts[file.name] = CONTENT[:10_000]
    await put(record, file)
    assert record.artefacts[file.name] == CONTENT


async def test_a_file_of_another_workers_run_is_refused_for_good(file: Path) -> None:
    record = RecordDouble(jobs={7: job()}, taken={7: "another"})
    with pytest.raises(RecordError) as caught:
        await put(record, file)
    assert (caught.value.transient, caught.value.status) == (False, 409)
    assert record.told == [f"{file.name}?"]


async def test_a_record_that_has_more_than_there_is_has_something_else(file: Path) -> None:
    record = RecordDouble(jobs={7: job()}, parts={file.name: b"x" * 30_000})
    with pytest.raises(RecordError, match=r"more of recording\.wav than there is") as caught:
        await put(record, file)
    assert not caught.value.transient


async def test_a_part_may_take_longer_than_other_requests(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_client, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(record_client, "PART_TIMEOUT_S", 20.0)

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "PUT":
                await anyio.sleep(0.1)
            size = int(request.url.params.get("size", 0))
            return httpx.Response(200, json={"size": size, "is_whole": request.method == "PUT"})

    http = httpx.AsyncClient(transport=Slow(), base_url="http://record")
    await RecordClient(http, SecretStr("psw_x")).put_artefact(7, 1, "me", file.name, file)


async def test_events_are_passed_on_as_they_are() -> None:
    said: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        said.append(request.content)
        return httpx.Response(200, json={"next": 5})

    assert await answering(answer).events(7, 1, ['{"a": 1}', '{"b": 2}'], call=2, first=3) == 5
    assert json.loads(said[0]) == {"attempt": 1, "call": 2, "first": 3, "events": [{"a": 1}, {"b": 2}]}
