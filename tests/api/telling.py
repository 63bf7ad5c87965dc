"""Launches runs as users do, and tells what came of them as workers do: over HTTP."""

import json
from typing import Any

import httpx

from runner.api.services import Services
from runner.protocol.messages import VERSION, Message, Poll, Problem, Release, Report, RunNow, WorkerInfo
from runner.records import runs as records
from tests.api.conftest import Client
from tests.records.giving import give, take
from tests.records.outcomes import reported

ROOT = "/worker/v1"
WORKER = f"{ROOT}/runs"
V1 = "/test_framework/v1/scenarios/run_scenarios_pipecat/"
V2 = "/test_framework/v1/scenarios/run_scenarios_pipecat_v2/"
RUNS = "/test_framework/v1/runs"
ROOM = "http://localhost:7860/api/offer"
TOKEN = "pl4nted-t0ken"
ME = "host-1-0000"

REFUSED = Problem(cause="room", reason="token-refused", detail="no")


async def run_launched(client: Client, count: int = 1, **entry: Any) -> list[int]:
    """Launch runs of scenario 1 and return their ids."""
    entries = [{"scenario": 1, "pipecat_room_url": ROOM, **entry}] * count
    answer = await client.post(V1, json={"scenarios": entries})
    assert answer.status_code == 200, answer.text
    return [run["id"] for run in answer.json()["runs"]]


async def show(client: Client, run_id: int) -> dict[str, Any]:
    """Return a run as users see it."""
    return (await client.get(f"{RUNS}/{run_id}")).json()


def services_of(worker: Client) -> Services:
    return worker._transport.app.state.services  # type: ignore[attr-defined]


async def given(worker: Client, *run_ids: int) -> None:
    """Give runs to a worker."""
    await give(services_of(worker).database, *run_ids, executor=ME)


async def claimed(worker: Client, run_id: int, attempt: int = 1) -> dict[str, Any]:
    """Give a run to a worker, let it begin, and return the job."""
    await given(worker, run_id)
    services = services_of(worker)
    job = await services.database.run(lambda session: take(session, services.vault, run_id, attempt, ME))
    assert job is not None
    return json.loads(job.on_the_wire())


async def begun(client: Client, worker: Client, **entry: Any) -> int:
    """Launch a run, let a worker begin it, and return its id."""
    (run_id,) = await run_launched(client, **entry)
    await claimed(worker, run_id)
    return run_id


async def progress(worker: Client, run_id: int, attempt: int = 1, **more: bool) -> bool:
    """Tell how far a run has come, as a poll does; return whether that counts."""
    told = [RunNow(run_id=run_id, attempt=attempt, **more)]
    return run_id in await services_of(worker).database.run(lambda session: records.progress(session, told))


async def tell(worker: Client, path: str, message: Message) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    return await worker.post(f"{ROOT}/{path}/", content=message.on_the_wire(), headers=headers)


async def report(
    worker: Client, run_id: int, what: Any, attempt: int = 1, *, executor: str = ME, owed: Any = ()
) -> httpx.Response:
    """Report what came of a run."""
    said = {"problem": what} if isinstance(what, Problem) else {"run": reported(what)}
    return await tell(
        worker, "report", Report(run_id=run_id, attempt=attempt, executor=executor, owed=tuple(owed), **said)
    )


async def release(
    worker: Client,
    run_id: int,
    attempt: int = 1,
    *,
    said: bool = False,
    detail: str = "it stops",
    executor: str = ME,
) -> httpx.Response:
    """Give a run back."""
    back = Release(detail=detail, said=said, may_end=said)
    return await tell(worker, "report", Report(run_id=run_id, attempt=attempt, executor=executor, release=back))


def upload(run_id: int, name: str = "recording.wav") -> str:
    return f"{WORKER}/{run_id}/artefacts/{name}/"


async def put(
    worker: Client,
    run_id: int,
    name: str,
    content: Any,
    attempt: int = 1,
    *,
    offset: int = 0,
    size: int | None = None,
    executor: str = ME,
) -> httpx.Response:
    """Bring a file, or a part of it."""
    whole = len(content) if size is None else size
    params: dict[str, Any] = {"attempt": attempt, "executor": executor, "offset": offset, "size": whole}
    return await worker.put(upload(run_id, name), params=params, content=content)


async def there(worker: Client, run_id: int, name: str, attempt: int = 1) -> Any:
    """Ask how much of a file is there."""
    answer = await worker.get(upload(run_id, name), params={"attempt": attempt, "executor": ME})
    return answer.json() if answer.is_success else answer.status_code


def polling(number: int = 1, *runs: RunNow, **said: Any) -> Poll:
    info = WorkerInfo(executor=ME, name="host/1", version="1", rooms=("smallwebrtc", "daily"), calls=4)
    return Poll(**{"protocol": VERSION, "worker": info, "number": number, "runs": runs, **said})
