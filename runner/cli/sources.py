"""Where the runs of a comparison come from: a baseline file, a folder, or a result of the record."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError

if TYPE_CHECKING:
    import httpx
    from pydantic import SecretStr

    from runner.comparison.facts import RunFacts, RunSet
    from runner.http import Answer

API_URL_VARIABLE = "SCENARIO_RUNNER_API_URL"
API_KEY_VARIABLE = "SCENARIO_RUNNER_API_KEY"

SOURCES = "a baseline file, the folder of a suite or of a run, or result:ID for all runs of one launch on a server"

_RESULT = re.compile(r"result:([0-9]{1,18})")
_API = "/test_framework/v1"
_PAGE_SIZE = 100
_AT_ONCE = 4
_TIMEOUT_S = 30.0
_TIMES_AGAIN = 10
_LONGEST_WAIT_S = 60


async def read_source(source: str) -> "RunSet":
    """Return the runs of a source: see :data:`SOURCES`.

    Raises:
        UsageError: It is none, can't be read, or its result has not ended; says how to mend it.
    """
    if source.startswith("result:"):
        return await _read_from_record(source)
    import anyio.to_thread

    return await anyio.to_thread.run_sync(_read_from_disk, Path(source))


def _read_from_disk(path: Path) -> "RunSet":
    if path.is_dir():
        from runner.calls.suite_facts import read_runs

        return read_runs(path)
    from runner.comparison.baseline import read_baseline

    return read_baseline(path)


async def _read_from_record(source: str) -> "RunSet":
    import httpx
    from pydantic import SecretStr

    named = _RESULT.fullmatch(source)
    if named is None:
        raise UsageError(f"{source}: a result is named by its number, such as result:12")
    url, key = os.environ.get(API_URL_VARIABLE), os.environ.get(API_KEY_VARIABLE)
    if not url or not key:
        raise UsageError(
            f"{source}: the variables {API_URL_VARIABLE} (such as http://localhost:8000) and {API_KEY_VARIABLE} say "
            "where the API is, and who asks"
        )
    async with httpx.AsyncClient() as http:
        return await read_result(http, url.rstrip("/"), SecretStr(key), int(named[1]))


async def read_result(http: "httpx.AsyncClient", url: str, key: "SecretStr", result_id: int) -> "RunSet":
    """Return the runs of a result of the record.

    Raises:
        UsageError: The API does not show it, or it has not ended.
    """
    import anyio

    from runner.comparison.facts import RunSet, SessionFacts

    source = f"result:{result_id}"
    session = SessionFacts(id=source, started_at=source)
    ids: list[int] = []
    page = 1
    while True:
        result = await _get(http, f"{url}{_API}/results/{result_id}/?page={page}&page_size={_PAGE_SIZE}", key, source)
        session = session.model_copy(update={"started_at": str(result.get("created_at"))})
        ids += [int(run) for run in result["runs"]]
        if not result.get("runs_next"):
            break
        page += 1
    found: dict[int, RunFacts] = {}
    limit = anyio.CapacityLimiter(_AT_ONCE)
    errors: list[UsageError] = []

    async def read(run_id: int) -> None:
        async with limit:
            if errors:
                return
            try:
                found[run_id] = _facts(await _get(http, f"{url}{_API}/runs/{run_id}/", key, source), source)
            except UsageError as error:
                errors.append(error)

    async with anyio.create_task_group() as tasks:
        for run_id in ids:
            tasks.start_soon(read, run_id)
    if errors:
        raise errors[0]
    return RunSet(sessions=(session,), runs=tuple(found[run_id] for run_id in ids))


async def _get(http: "httpx.AsyncClient", url: str, key: "SecretStr", source: str) -> Any:
    import httpx

    from runner.errors import RoomError
    from runner.text import public_url

    try:
        answer = await _ask_patiently(http, url, key)
    except (httpx.HTTPError, httpx.InvalidURL, RoomError) as error:
        told = str(error) or type(error).__name__
        raise UsageError(f"{source}: {public_url(url)} does not answer ({told}); see {API_URL_VARIABLE}") from error
    if answer.status == 404:
        raise UsageError(f"{source}: there is no such result in the project of this key ({public_url(url)})")
    if answer.status in (401, 403):
        raise UsageError(f"{source}: the API refuses the key; see {API_KEY_VARIABLE}")
    try:
        content = answer.json()
    except ValueError:
        content = None
    if answer.status != 200 or not isinstance(content, dict):
        raise UsageError(f"{source}: {public_url(url)} answers {answer.status}, and not with a result")
    return content


async def _ask_patiently(http: "httpx.AsyncClient", url: str, key: "SecretStr") -> "Answer":
    """Return an answer; an API that has too many requests is asked again when it says."""
    import anyio

    from runner.http import ask

    answer = await ask(http, "GET", url, key, timeout_s=_TIMEOUT_S)
    for _ in range(_TIMES_AGAIN):
        if answer.status not in (429, 503):
            break
        said = answer.headers.get("Retry-After", "")
        await anyio.sleep(min(int(said), _LONGEST_WAIT_S) if re.fullmatch("[0-9]{1,9}", said) else 1)
        answer = await ask(http, "GET", url, key, timeout_s=_TIMEOUT_S)
    return answer


def _facts(run: dict[str, Any], source: str) -> "RunFacts":
    from pydantic import ValidationError

    from runner.comparison.facts import RunFacts

    ours: dict[str, Any] = run.get("scenario_runner") or {}
    if run.get("success") is None:
        raise UsageError(f"{source}: run {run.get('id')} has not ended; compare once the result is complete")
    turns = {turn["turn"]: turn.get("response_latency_ms") for turn in ours.get("turns") or []}
    try:
        return RunFacts(
            id=f"{source}:{run['id']}",
            scenario=run["scenario_name"],
            scenario_hash=ours.get("scenario_hash"),
            session=source,
            started_at=str(run.get("timestamp")),
            success=ours.get("success"),
            cause=ours.get("cause"),
            headline=(ours.get("failure") or {}).get("headline"),
            latencies_ms=tuple(turns.get(turn) for turn in range(max(turns, default=-1) + 1)),
        )
    except (KeyError, ValidationError) as error:
        raise UsageError(f"{source}: run {run.get('id')} is not as this release tells of runs") from error
