"""What the server writes down, and what it does not."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from loguru import logger

from runner.errors import UsageError
from runner.json_log import log_as_json
from tests.api.conftest import Client, client_of
from tests.api.telling import ME, begun, claimed, progress, release, report
from tests.records.outcomes import agent_failed

pytestmark = pytest.mark.anyio

SECRET = "tok_planted"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root, engine = logging.getLogger(), logging.getLogger("dbos")
    handlers, level, of_engine = root.handlers[:], root.level, engine.level
    # Whoever started it in this process may have told it to say less.
    engine.setLevel(logging.NOTSET)
    log_as_json("DEBUG", stream)
    yield stream
    logger.remove()
    root.handlers, root.level = handlers, level
    engine.setLevel(of_engine)


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def answered(log: io.StringIO) -> dict[str, Any]:
    return [line for line in lines(log) if " ms" in line["message"]][-1]


async def test_each_answer_is_a_line_with_its_ids(client: Client, log: io.StringIO) -> None:
    answer = await client.get("/test_framework/v1/runs/17/", headers={"X-Request-ID": "req-1"})
    assert answer.headers["X-Request-ID"] == "req-1"
    line = answered(log)
    assert line["request_id"] == "req-1"
    assert line["run_id"] == 17
    assert isinstance(line["key_id"], int)
    assert line["level"] == "INFO"
    assert line["message"].startswith("GET /test_framework/v1/runs/{id} 404 ")
    assert set(line) == {"time", "level", "message", "request_id", "key_id", "run_id"}
    await client.get("/test_framework/v1/results-external/18")
    assert answered(log)["result_id"] == 18


async def test_a_change_of_a_run_is_a_line_with_run_and_attempt(
    client: Client, worker: Client, log: io.StringIO
) -> None:
    run_id = await begun(client, worker, pipecat_token=SECRET)
    for _ in range(2):
        await progress(worker, run_id, joined=True)
    await release(worker, run_id, detail=SECRET)
    await claimed(worker, run_id, 2)
    for _ in range(2):
        await report(worker, run_id, agent_failed(SECRET), 2)
    changes = [line for line in lines(log) if "attempt" in line]
    assert [(line["attempt"], line["message"].partition(": ")[2]) for line in changes] == [
        (1, f"claimed: by {ME}"),
        (1, "joined"),
        (1, "released: it waits again"),
        (2, f"claimed: by {ME}"),
        (2, "ended: completed, success false, cause agent"),
    ]
    assert {line["run_id"] for line in changes} == {run_id}
    assert {line["level"] for line in changes} == {"INFO"}
    assert SECRET not in log.getvalue()


async def test_a_request_id_is_made_where_none_is_fit(anonymous: Client, log: io.StringIO) -> None:
    for given in ("", "a b", "x" * 65, 'in"jected'):
        answer = await anonymous.get("/healthz", headers={"X-Request-ID": given})
        assert answer.headers["X-Request-ID"] not in ("", given)
        assert answered(log)["request_id"] == answer.headers["X-Request-ID"]


async def test_nothing_that_was_sent_is_written_down(client: Client, user_key: str, log: io.StringIO) -> None:
    for path in ("/test_framework/v2/aiagents", f"/{SECRET}", f"/test_framework/v2/aiagents/{SECRET}"):
        await client.post(path, params={"token": SECRET}, headers={"X-Token": SECRET}, json={"name": [SECRET]})
    await client.get("/user/v1/projects", headers={"Authorization": f"Bearer {SECRET}"})
    assert len(lines(log)) >= 4
    assert SECRET not in log.getvalue()
    assert user_key not in log.getvalue()


async def test_a_crash_is_logged_with_its_place_without_its_words(app: FastAPI, log: io.StringIO) -> None:
    async def broken() -> None:
        raise ValueError(f"can't read {SECRET}")

    app.add_api_route("/broken", broken)
    async with client_of(app) as client:
        assert (await client.get("/broken")).status_code == 500
        first = answered(log)["request_id"]
        # The same again, as while a database is away, is told in one line each.
        assert (await client.get("/broken")).status_code == 500
    (line,) = [line for line in lines(log) if "error" in line]
    assert line["error"] == "ValueError"
    assert line["raised_at"][-1].endswith("broken")
    assert answered(log)["level"] == "WARNING"
    assert line["request_id"] == first != answered(log)["request_id"]
    assert SECRET not in log.getvalue()


async def test_the_projects_own_errors_are_logged_with_their_words(log: io.StringIO) -> None:
    try:
        raise UsageError("the record's folder is full")
    except UsageError:
        logger.opt(exception=True).error("not stored")
    assert lines(log)[-1]["reason"] == "the record's folder is full"


async def test_what_libraries_log_comes_along(log: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").warning("odd {braces} and %s", "<tags>")
    line = lines(log)[-1]
    assert (line["level"], line["message"]) == ("WARNING", "odd {braces} and <tags>")
    logging.getLogger("uvicorn.access").warning("GET /?token=%s", SECRET)
    logging.getLogger("aiosqlite").debug("INSERT %s", SECRET)
    logging.getLogger("httpx").info("POST https://host/?t=%s", SECRET)
    assert SECRET not in log.getvalue()


async def test_a_message_stays_one_line(log: io.StringIO) -> None:
    logger.info("{}", "two\nlines \u2028 and more")
    assert lines(log)[-1]["message"] == "two\nlines \u2028 and more"


async def test_the_queues_engine_repeats_itself_seldom_in_one_line(log: io.StringIO) -> None:
    for _ in range(3):
        logging.getLogger("dbos").warning("Exception polling: Traceback (most recent call last):\n  File …")
    logging.getLogger("dbos").warning("something else")
    assert [line["message"] for line in lines(log) if line["level"] == "WARNING"] == [
        "Exception polling",
        "something else",
    ]
