"""What a refused request is answered with."""

import json
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import Field, TypeAdapter, ValidationError

from runner.api.errors import field_errors
from runner.api.routing import MAX_JSON_DEPTH
from runner.records.written import RequestBody
from tests.api.conftest import Client, on_every_database

pytestmark = pytest.mark.anyio

AGENTS = "/test_framework/v2/aiagents/"


class Entry(RequestBody):
    scenario: int
    note: Annotated[str, Field(max_length=3)] = ""


class Launch(RequestBody):
    entries: list[int | Entry]
    tags: list[str] = Field(default_factory=list)


def errors_of(body: Any) -> Any:
    try:
        TypeAdapter(Launch).validate_python(body)
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        return field_errors(problems, body)
    return None


def test_a_missing_field_is_named() -> None:
    assert errors_of({}) == {"entries": ["This field is required."]}


def test_errors_in_items_stand_where_the_items_do() -> None:
    body = {"entries": [1, {"scenario": 2}, {"note": "long"}], "tags": ["a", 2]}
    assert errors_of(body) == {
        "entries": [
            {},
            {},
            {
                "scenario": ["This field is required."],
                "note": ["Ensure this field has no more than 3 characters."],
                "non_field_errors": ["A valid integer is required."],
            },
        ],
        "tags": {"1": ["Not a valid string."]},
    }


def test_a_body_that_is_no_object_has_errors_of_no_field() -> None:
    assert errors_of([1]) == {"non_field_errors": ["Invalid data. Expected a dictionary."]}


def test_null_is_told_apart_from_another_type() -> None:
    assert errors_of({"entries": [], "tags": None}) == {"tags": ["This field may not be null."]}


def test_numbers_are_not_taken_from_texts() -> None:
    assert errors_of({"entries": ["1"]}) is not None
    assert errors_of({"entries": [True]}) is not None


NOT_KEPT = [
    b"{",
    b"",
    b'{"name": NaN}',
    b'{"name": "x", "session": {"data": {"n": 1e999}}}',
    b'{"name": "x", "session": {"data": {"n": ' + b"9" * 400 + b"}}}",
    b'{"name": "x", "session": {"data": {"n": ' + b"9" * 5000 + b"}}}",
    b'{"name": "a\\u0000b"}',
    b'{"name": "x", "session": {"data": {"a\\u0000b": 1}}}',
    b'{"name": "x", "session": {"data": {"n": "\\ud800"}}}',
    b'{"name": "\xff"}',
    b'{"name": "x", "session": {"data": ' + b'{"a":' * 70 + b"1" + b"}" * 70 + b"}}",
    b"[" * 100_000,
    b"null",
    b"[]",
    b'"x"',
]


@on_every_database
async def test_what_could_not_be_kept_is_refused(client: Client) -> None:
    for content in NOT_KEPT:
        answer = await client.post(AGENTS, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, (content[:80], answer.text)
        assert len(content) < 5 or content.decode("latin-1") not in answer.text


@on_every_database
async def test_text_of_every_script_comes_back_as_it_went(client: Client) -> None:
    name = "Ünïcödé 😀 \u2028 日本"
    answer = await client.post(
        AGENTS, content=json.dumps({"name": name}), headers={"Content-Type": "application/json"}
    )
    assert answer.json()["name"] == name


async def test_data_may_be_as_deep_as_allowed(client: Client) -> None:
    data: dict[str, Any] = {}
    for _ in range(MAX_JSON_DEPTH - 4):
        data = {"a": data}
    assert (await client.post(AGENTS, json={"name": "x", "session": {"data": data}})).status_code == 201


async def test_a_form_is_told_to_be_json(client: Client) -> None:
    answer = await client.post(AGENTS, data={"name": "x"})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]


async def test_an_id_that_is_none_is_not_found(client: Client) -> None:
    for number in ("0", "-1", "x", "1.5", "9" * 19, "9" * 400, "9223372036854775807"):
        answer = await client.get(f"{AGENTS}{number}/")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not found."}), number


@on_every_database
async def test_ids_beyond_every_database_are_refused_everywhere(client: Client) -> None:
    answer = await client.post("/test_framework/v1/scenarios/", json={"name": "x", "agent": 2**63})
    assert answer.status_code == 400
    assert (await client.get(AGENTS, params={"project_id": 2**63})).status_code == 400
    answer = await client.post("/test_framework/v1/scenarios/", json={"name": "x", "agent": 2**63 - 1})
    assert answer.json() == {"agent": [f'Invalid pk "{2**63 - 1}" - object does not exist.']}


async def test_a_whole_number_may_be_written_as_a_float(client: Client) -> None:
    body = {"name": "x", "agent": 1.0, "max_duration": 20.0}
    scenario = (await client.post("/test_framework/v1/scenarios/", json=body)).json()
    assert (scenario["agent"], scenario["max_duration"]) == (1, 20)
    answer = await client.post("/test_framework/v1/scenarios/", json={"name": "x", "agent": 1.5})
    assert answer.json() == {"agent": ["A valid integer is required."]}


async def test_no_error_repeats_what_was_sent(client: Client) -> None:
    secret = "tok_pl4nted"
    body = {"name": {"a": secret}, "provider": {"credentials": {"api_key": [secret], "config": secret}}, secret: 1}
    answer = await client.post(AGENTS, json=body)
    assert answer.status_code == 400
    assert secret not in answer.text


async def test_what_breaks_inside_is_a_500_without_its_words(app: FastAPI, anonymous: Client) -> None:
    async def broken() -> None:
        raise RuntimeError("tok_planted")

    async def invalid() -> None:
        raise RequestValidationError([{"type": "missing", "loc": ("query", "page"), "msg": "", "input": None}])

    app.add_api_route("/broken", broken)
    app.add_api_route("/invalid", invalid)
    answer = await anonymous.get("/broken")
    assert answer.status_code == 500
    assert answer.json() == {"detail": "Something went wrong on the server."}
    assert (await anonymous.get("/invalid")).json() == {"page": ["This field is required."]}
