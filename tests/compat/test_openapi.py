"""The API's description of itself is complete and true: requests made from it are answered as it says."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from loguru import logger
from requests import Session
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.python.asgi import get_client
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from runner.records.database import Database
from runner.records.keys import KeyKind
from runner.records.runs import begin
from tests.compat.conftest import API, InProcess, application, keys_of
from tests.examples import examples
from tests.records.giving import WORKER, give
from tests.records.outcomes import outcome, reported

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
KEY = "X-CEKURA-API-KEY"
IDS = (1, 2, 3, 5)
"""What there is of everything; of personalities the fifth is the first that can be changed."""

FINISHED_RUN = 1


@dataclass
class Described:
    """An application with something of everything in its record, and its description."""

    under_test: InProcess
    schema: Any
    user_key: str
    worker_key: str

    def key_for(self, path: str) -> str:
        return self.worker_key if path.startswith("/worker/") else self.user_key


@pytest.fixture(scope="module")
def described(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Described]:
    under_test = application(migrated, tmp_path_factory.mktemp("described"))
    # A line for every request: far more than a failure needs.
    logger.disable("runner.api.logs")
    with get_client(under_test.app) as client:
        # The key is put in below: beside it a wrong one elsewhere would be no reason to refuse.
        config = schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}})
        schema = schemathesis.openapi.from_asgi("/openapi.json", under_test.app, config=config)
        user_key, worker_key = keys_of(under_test, KeyKind.USER, KeyKind.WORKER)
        client.headers[KEY] = user_key
        _fill(client, under_test, worker_key)
        yield Described(under_test, schema, user_key, worker_key)
    logger.enable("runner.api.logs")


def _fill(client: Session, under_test: InProcess, worker_key: str) -> None:
    """Put something of everything into the record, and take one of three runs to its end."""

    def post(path: str, body: Any, **options: Any) -> Any:
        answer = client.post(path, json=body, **options)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    for number in (2, 3):
        post("/test_framework/v2/aiagents/", {"name": f"agent {number}"})
        scenario = {"name": f"scenario {number}", "agent": 1, "pipecat_eval": "name: s\nturns:\n  - user: Hi\n"}
        post(f"{API}/scenarios/", scenario)
    for number in (1, 2, 3):
        post(f"{API}/personalities/", {"name": f"personality {number}"})
        post(f"{API}/test-profiles/", {"name": f"profile {number}"})
        cron = {"name": f"job {number}", "agent": 1, "crontab_expression": "0 4 * * *", "scenarios": [1]}
        cron["is_active"] = False
        post("/schedules/v1/cron-jobs/", cron)
    entry = {"scenario": 1, "pipecat_room_url": "http://localhost:7860/api/offer", "pipecat_token": "t"}
    for _ in range(3):
        post(f"{API}/scenarios/run_scenarios_pipecat/", {"scenarios": [entry]})
    anyio.run(_give, under_test, 1, 3)
    worker = {"headers": {KEY: worker_key}}
    for name, content in (("recording.wav", b"RIFF"), ("timeline.jsonl", b'{"type":"call_started"}\n')):
        params = {"attempt": 1, "executor": WORKER, "offset": 0, "size": len(content)}
        path = f"/worker/v1/runs/{FINISHED_RUN}/artefacts/{name}/"
        assert client.put(path, params=params, data=content, **worker).status_code == 200
    report = {"run_id": FINISHED_RUN, "attempt": 1, "executor": WORKER, "run": reported(outcome())}
    assert post("/worker/v1/report/", report, **worker)["counted"]


async def _give(under_test: InProcess, *run_ids: int) -> None:
    database = Database(under_test.services.database.url)
    await give(database, *run_ids)
    await database.run(lambda session: begin(session, [(run_id, 1, WORKER) for run_id in run_ids]))
    await database.close()


def examine(described: Described, operation: APIOperation, max_examples: int) -> list[int]:
    """Send requests made from an operation's description, right ones and wrong ones; return the statuses."""
    statuses: list[int] = []
    cases = st.one_of(
        operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
        operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
    )
    ids = st.sampled_from((FINISHED_RUN,) if "/events" in operation.path else IDS)
    names = st.sampled_from(("recording.wav", "timeline.jsonl", "run.json"))

    @settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, id=ids, name=names, is_there=st.integers(0, 3))
    def ask(case: Case, id: int, name: str, is_there: int) -> None:
        # An id made up is hardly ever that of something.
        known = [
            (name, value) for name, value in (("id", id), ("name", name)) if name in (case.path_parameters or {})
        ]
        replaced = bool(is_there and known)
        if replaced:
            case.path_parameters.update(known)
        answer = case.call(headers={KEY: described.key_for(operation.path)}, timeout=5)
        statuses.append(answer.status_code)
        # No dispatcher runs in here.
        is_away = answer.status_code == 503 and operation.path.rstrip("/") in ("/readyz", "/worker/v1/poll")
        assert answer.status_code < 500 or is_away, (case.as_curl_command(), answer.text)
        assert "Traceback" not in answer.text
        # What was wrong with a request may have been the id that was replaced; one that is too large is not read; and
        # names are trimmed before they are measured.
        is_told = (
            not replaced and answer.status_code != 413 and not any(text != text.strip() for text in texts(case.body))
        )
        case.validate_response(answer, checks=[*CHECKS, negative_data_rejection] if is_told else CHECKS)

    ask()
    return statuses


def texts(value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_requests_made_from_the_description_are_answered(described: Described) -> None:
    problems: list[str] = []
    seen: Counter[int] = Counter()
    for operation in described.schema.get_all_operations():
        try:
            seen.update(examine(described, operation.ok(), max_examples=examples(100)))
        except (Exception, FailureGroup) as error:
            problems.append(f"{operation.ok().label}: {error}")
    assert not problems, "\n\n".join(problems)
    # It was no walk past closed doors.
    assert seen[200] + seen[201] + seen[204] > 50 and seen[400] > 50 and not seen[401], seen
