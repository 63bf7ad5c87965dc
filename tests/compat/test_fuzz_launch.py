"""Wrong launches of every kind: each is refused with what is wrong by name, and nothing comes of it."""

import json
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger
from requests import Response, Session
from schemathesis.python.asgi import get_client

from runner.records.keys import KeyKind
from tests.compat.conftest import API, InProcess, application, keys_of
from tests.examples import examples

V1 = f"{API}/scenarios/run_scenarios_pipecat/"
V2 = f"{API}/scenarios-external/run_scenarios_pipecat_v2"
PLANTED = "planted-token-of-a-room"
NOBODY = 987_654
"""The id of nothing."""

Place = tuple[str | int, ...]

fuzzed = settings(
    max_examples=examples(60), derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)

LONG = "x" * 21_000
NO_TEXT = st.sampled_from([5, 0.5, True, [], {}, ["x"]])
NO_NUMBER = st.sampled_from(["1", "", 1.5, True, [], {}, {"id": 1}, "1; DROP TABLE runs"])
OUT_OF_RANGE = st.sampled_from([0, -1, -(2**62)])
NO_LIST = st.sampled_from(["x", 5, {}, {"0": {}}, True])
NO_OBJECT = st.sampled_from([None, 5, "x", [], [1], True, 0.5])

IN_ENTRY: dict[str, st.SearchStrategy[Any]] = {
    "scenario": NO_NUMBER | OUT_OF_RANGE | st.none(),
    "pipecat_room_url": NO_TEXT | st.none() | st.sampled_from(["", LONG]),
    "pipecat_token": NO_TEXT | st.just(LONG),
}
"""What can't be read, in a scenario of a launch."""

IN_BODY: dict[str, st.SearchStrategy[Any]] = {
    "scenarios": NO_LIST | st.none() | st.just([]),
    "agent": NO_NUMBER | OUT_OF_RANGE,
    "agent_id": NO_NUMBER | OUT_OF_RANGE,
    "name": NO_TEXT | st.just(LONG),
    "frequency": NO_NUMBER | OUT_OF_RANGE | st.just(101),
    "priority": NO_NUMBER | OUT_OF_RANGE | st.just(1_001),
    "delay_s": NO_TEXT.filter(lambda value: type(value) not in (int, float))
    | st.sampled_from([-0.5, 2_592_001, 1e300]),
    "concurrency_limit": NO_NUMBER | OUT_OF_RANGE,
    "mock_tool_names": NO_LIST | st.just([5]),
}
"""The same beside them."""

MEANT_WRONG: dict[str, st.SearchStrategy[Any]] = {
    "scenario": st.integers(NOBODY, 2**63 - 1),
    "pipecat_room_url": st.sampled_from(
        [
            "room",
            "ftp://localhost/api/offer",
            "javascript:alert(1)",
            "file:///etc/passwd",
            "http://",
            "http://[::1",
            "http://localhost:99999/api/offer",
            "https://rooms.example.com/api/offer",
            "http://169.254.169.254/api/offer",
            "http://10.0.0.1:7860/api/offer",
            "http://2130706433.example.com/api/offer",
            "https://daily.co.example.com/room",
            "https://acme.daily.co@evil.example.com/room",
        ]
    )
    | st.text(max_size=40).filter(str.strip),
    "publish_data_message": st.sampled_from([5, "text", [], {}, [{"type": "x"}], {"type": 5}, {"kind": "x"}, False]),
}
"""What can be read, and is wrong."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)


@dataclass
class Api:
    """An API without sockets, and a look past it at what is kept."""

    client: Session
    under_test: InProcess
    database: Path

    def post(self, body: Any, path: str = V1) -> Response:
        return self.client.post(path, data=json.dumps(body), headers={"Content-Type": "application/json"})

    def kept(self) -> tuple[int, ...]:
        """Return how much there is of what launches create."""
        with closing(sqlite3.connect(self.database)) as connection:
            tables = ("results", "runs")
            return tuple(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables)


@pytest.fixture(scope="module")
def api(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("fuzzed")
    under_test = application(migrated, folder)

    logger.disable("runner.api.logs")
    with get_client(under_test.app) as client:
        (client.headers["X-CEKURA-API-KEY"],) = keys_of(under_test, KeyKind.USER)
        yield Api(client, under_test, folder / "record.sqlite")
    logger.enable("runner.api.logs")


def launch(entries: int = 3) -> dict[str, Any]:
    """Return a launch in which all is well."""
    entry = {
        "scenario": 1,
        "pipecat_room_url": "http://localhost:7860/api/offer",
        "pipecat_token": PLANTED,
        "publish_data_message": {"type": "hello"},
    }
    return {"agent": 1, "scenarios": [dict(entry) for _ in range(entries)]}


def named(errors: Any, place: Place) -> Any:
    """Return what an answer says of a place; None if nothing."""
    for part in place:
        if isinstance(errors, dict):
            errors = errors.get(str(part))
        elif isinstance(errors, list) and isinstance(part, int) and part < len(errors):
            errors = errors[part]
        else:
            return None
    return errors


LOGGED: deque[str] = deque(maxlen=3)
"""What the server last logged of its own errors: it answers nothing of them."""


@pytest.fixture(autouse=True, scope="module")
def logged() -> Iterator[None]:
    sink = logger.add(lambda message: LOGGED.append(str(message)[-3_000:]), level="ERROR", diagnose=False)
    yield
    logger.remove(sink)


def refused(api: Api, answer: Response, before: Sequence[int]) -> Any:
    """Return the errors of an answer that refuses, repeats nothing secret, and left nothing behind."""
    assert answer.status_code == 400, (answer.status_code, answer.text, list(LOGGED))
    assert PLANTED not in answer.text and "Traceback" not in answer.text
    assert api.kept() == tuple(before)
    return answer.json()


def test_a_launch_in_which_all_is_well_is_taken(api: Api) -> None:
    before = api.kept()
    assert api.post(launch()).status_code == 200
    assert [after - was for was, after in zip(before, api.kept(), strict=True)] == [1, 3]


def spoil(data: st.DataObject, body: dict[str, Any], most: int, places: Sequence[Place]) -> list[Place]:
    """Put something wrong into some places of a launch, and return them."""
    chosen = data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=most, unique=True))
    if ("scenarios",) in chosen:
        chosen = [place for place in chosen if len(place) == 1]
    # Which data messages can be sent depends on the room: it is said once the room is known.
    rooms = {place[1] for place in chosen if place[-1] == "pipecat_room_url"}
    chosen = [place for place in chosen if place[-1] != "publish_data_message" or place[1] not in rooms]
    for place in chosen:
        inside: Any = body
        for part in place[:-1]:
            inside = inside[part]
        name = str(place[-1])
        wrong = IN_BODY if len(place) == 1 else MEANT_WRONG if place[1] in MEANT else IN_ENTRY
        inside[name] = data.draw(wrong[name])
    return chosen


UNREADABLE: list[Place] = [(name,) for name in IN_BODY] + [
    ("scenarios", i, name) for i in range(3) for name in IN_ENTRY
]
MEANT = range(3, 6)
"""Which entries can be read, and are wrong; the others can't be read."""
MISTAKEN: list[Place] = [("scenarios", index, name) for index in MEANT for name in MEANT_WRONG]


@fuzzed
@given(data=st.data())
def test_everything_that_cannot_be_read_is_named(api: Api, data: st.DataObject) -> None:
    body, before = launch(), api.kept()
    chosen = spoil(data, body, 5, UNREADABLE)
    errors = refused(api, api.post(body), before)
    for place in chosen:
        assert named(errors, place), (place, body, errors)
    assert errors.keys() == {place[0] for place in chosen}


@fuzzed
@given(data=st.data())
def test_everything_meant_wrong_is_named_and_nothing_else(api: Api, data: st.DataObject) -> None:
    body, before = launch(6), api.kept()
    chosen = spoil(data, body, 5, MISTAKEN)
    errors = refused(api, api.post(body), before)
    assert errors.keys() == {"scenarios"} and len(errors["scenarios"]) == 6
    for index, entry in enumerate(errors["scenarios"]):
        assert entry.keys() == {place[2] for place in chosen if place[1] == index}, (body, errors)
        assert all(isinstance(text, str) for messages in entry.values() for text in messages)


@fuzzed
@given(data=st.data())
def test_what_can_t_be_read_hides_no_other_mistake(api: Api, data: st.DataObject) -> None:
    body, before = launch(6), api.kept()
    chosen = spoil(data, body, 4, [place for place in UNREADABLE if place != ("scenarios",)])
    chosen += spoil(data, body, 4, MISTAKEN)
    errors = refused(api, api.post(body), before)
    for place in chosen:
        assert named(errors, place), (place, body, errors)
    assert errors.keys() == {place[0] for place in chosen}
    listed: list[dict[str, Any]] = errors["scenarios"]
    assert {(i, name) for i, entry in enumerate(listed) for name in entry} == {
        place[1:] for place in chosen if len(place) == 3
    }


@fuzzed
@given(
    body=json_values | st.builds(lambda scenarios: {"scenarios": scenarios}, json_values),
    path=st.sampled_from([V1, V2]),
)
def test_any_json_that_is_no_launch_is_refused(api: Api, body: Any, path: str) -> None:
    before = api.kept()
    refused(api, api.post(body, path), before)


@fuzzed
@given(
    data=st.data(), name=st.sampled_from(["scenarios", "personality_ids", "test_profile_ids", "tags", "project_id"])
)
def test_what_launches_sessions_is_refused_by_name(api: Api, data: st.DataObject, name: str) -> None:
    wrong = {
        "scenarios": NO_LIST | st.lists(NO_OBJECT.filter(lambda value: value != 5), min_size=1, max_size=3),
        "personality_ids": NO_LIST | st.just([NOBODY]) | st.just(["1"]),
        "test_profile_ids": NO_LIST | st.just([NOBODY]) | st.just([None]),
        "tags": NO_LIST.filter(lambda value: value != {}) | st.just(["smoke"]) | st.just([5]),
        "project_id": NO_NUMBER | st.just(NOBODY),
    }
    before = api.kept()
    body = {"agent_id": 1, "scenarios": [1, {"scenario": 1}], name: data.draw(wrong[name])}
    errors = refused(api, api.post(body, V2), before)
    assert name in errors, (body, errors)


BROKEN = st.one_of(
    st.binary(max_size=200),
    st.integers(1, len(json.dumps(launch())) - 1).map(lambda length: json.dumps(launch()).encode()[:length]),
    st.sampled_from(
        [
            b"",
            b"[" * 5_000,
            b'{"scenarios":' * 500,
            b'{"scenarios": NaN}',
            b'{"scenarios": [{"scenario": 1e999}]}',
            b'{"scenarios": [{"scenario": 99999999999999999999999999}]}',
            b'{"scenarios": [{"scenario": 1, "pipecat_room_url": "\\ud800"}]}',
            b'{"scenarios": [{"scenario": 1, "pipecat_room_url": "http://localhost/api/offer\\u0000"}]}',
            b'{"name": "\xff\xfe", "scenarios": []}',
            json.dumps(launch()).encode("utf-16"),
        ]
    ),
)


@fuzzed
@given(content=BROKEN, kind=st.sampled_from(["application/json", "text/plain", "multipart/form-data", "", "x" * 300]))
def test_bytes_that_are_no_launch_are_refused(api: Api, content: bytes, kind: str) -> None:
    before = api.kept()
    answer = api.client.post(V1, data=content, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code in (400, 415), (answer.status_code, answer.text)
    assert api.kept() == before and "Traceback" not in answer.text


def test_too_much_is_refused(api: Api) -> None:
    before = api.kept()
    answer = api.client.post(V1, data=b'"' + b"x" * 3_000_000, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413 and api.kept() == before
    errors = refused(
        api, api.post({**launch(1), "scenarios": launch(1)["scenarios"] * 101, "frequency": 100}), before
    )
    assert "at most 10000" in errors["scenarios"][0]


def test_of_a_thousand_entries_every_wrong_one_is_named(api: Api) -> None:
    before, body = api.kept(), launch(1_000)
    wrong = range(0, 1_000, 7)
    for index in wrong:
        body["scenarios"][index]["scenario"] = NOBODY + index
    errors = refused(api, api.post(body), before)
    assert [index for index, entry in enumerate(errors["scenarios"]) if entry] == list(wrong)
