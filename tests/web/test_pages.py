"""What pages show, and to whom."""

import html
import json
import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import insert, update

from runner.api.routes.cron_jobs import CONFIGURED
from runner.api.services import Services
from runner.records.store import artefact_key
from runner.records.tables import CronJob, Firing, ResultRow, RunRow, utc_now
from runner.web.schedule_forms import OTHER_SCENARIOS
from runner.web.visits import SHARE_COOKIE
from tests.api.conftest import client_of, new_key, other_project
from tests.api.telling import ROOM, claimed, run_launched
from tests.api.test_results import ended
from tests.records.giving import add, worker
from tests.records.outcomes import agent_failed, cancelled, no_call, outcome, undecided
from tests.reports.html.calls import WRONG_CALL, call_facts, kept
from tests.web.conftest import OWN, send, sign_in

pytestmark = pytest.mark.anyio

HOSTILE = "<script>alert(1)</script>\u202egnp.exe" + "x" * 1_000_000
EVERY = (
    "/", "/runs", "/live", "/trends", "/schedules", "/schedules/new", "/scenarios", "/scenarios/1", "/scenarios/new",
    "/workers", "/launch", "/compare", "/docs",
)  # fmt: skip


async def test_every_page_is_shown_while_there_is_nothing(visitor: httpx.AsyncClient) -> None:
    for path in EVERY:
        answer = await visitor.get(path)
        assert answer.status_code == 200 and answer.text.rstrip().endswith("</html>"), path


async def test_a_result_is_found_in_the_list_by_what_became_of_it(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    failed, _ = await ended(client, worker_client, outcome(), agent_failed())
    passed, _ = await ended(client, worker_client, outcome())
    unsure, _ = await ended(client, worker_client, undecided(), outcome())
    (open_run,) = await run_launched(client)
    without_runs = ResultRow(project_id=1, run_type="pipecat", name="", run_settings={})
    await add(services.database, [without_runs])
    found = {}
    for verdict in ("failed", "passed", "inconclusive", "open"):
        page = (await visitor.get(f"/?verdict={verdict}")).text
        found[verdict] = [int(number) for number in re.findall(r'href="/results/(\d+)"', page)]
    assert found["failed"] == [failed] and found["passed"] == [passed] and len(found["open"]) == 1
    assert found["inconclusive"] == [without_runs.id, unsure]
    assert f'href="/runs/{open_run}"' in (await visitor.get("/runs?verdict=open")).text
    assert "No result is like that" in (await visitor.get("/?search=nothing")).text
    assert "1 of 2 passed, 1 failed" in (await visitor.get("/")).text


async def test_lists_are_paged_by_ids_in_both_directions(visitor: httpx.AsyncClient, services: Services) -> None:
    rows = [{"project_id": 1, "run_type": "pipecat", "name": f"r{n}", "run_settings": {}} for n in range(120)]
    async with services.database.session() as session:
        await session.execute(insert(ResultRow), rows)

    async def names(address: str) -> tuple[list[str], dict[str, str]]:
        page = (await visitor.get(address)).text
        around = dict(re.findall(r'href="([^"]+)" rel="(prev|next)"', page))
        return re.findall(r"<bdi>(r\d+)</bdi>", page), {rel: href for href, rel in around.items()}

    first, around = await names("/")
    assert first == [f"r{n}" for n in range(119, 69, -1)] and set(around) == {"next"}
    second, around = await names(around["next"])
    assert second == [f"r{n}" for n in range(69, 19, -1)] and set(around) == {"prev", "next"}
    third, last = await names(around["next"])
    assert third == [f"r{n}" for n in range(19, -1, -1)] and set(last) == {"prev"}
    assert (await names(last["prev"]))[0] == second and (await names(around["prev"]))[0] == first


async def test_a_list_takes_any_address(visitor: httpx.AsyncClient) -> None:
    for query in ["before=x", "before=99999999999999999999", "agent=-1", "verdict=odd", "search=%00"]:
        for path in ("/", "/runs"):
            assert (await visitor.get(f"{path}?{query}")).status_code in (200, 400), query


async def test_a_result_shows_every_run_and_why_some_did_not_pass(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    runs = (outcome(), agent_failed(), undecided(), no_call(), cancelled())
    result_id, ids = await ended(client, worker_client, *runs)
    page = (await visitor.get(f"/results/{result_id}")).text
    assert "Failed: 1 of 5 runs" in page and "3 inconclusive" in page and "never did" in page
    for run_id in ids:
        assert f'href="/runs/{run_id}"' in page
        assert (await visitor.get(f"/runs/{run_id}")).status_code == 200


async def test_a_run_is_shown_as_its_report_with_its_sound(
    visitor: httpx.AsyncClient,
    client: httpx.AsyncClient,
    worker_client: httpx.AsyncClient,
    services: Services,
    tmp_path: Any,
) -> None:
    files = tmp_path / "run"
    _, (run_id,) = await ended(client, worker_client, kept(files, WRONG_CALL, call_facts()))
    async with services.database.session() as session:
        await session.execute(update(RunRow).where(RunRow.id == run_id).values(artefacts={"recording.wav": None}))
    page = (await visitor.get(f"/runs/{run_id}")).text
    assert "recording.wav is still being uploaded" in page and "timeline.jsonl is not kept" in page
    sizes = {}
    for name in ("recording.wav", "timeline.jsonl"):
        content = (files / name).read_bytes()
        sizes[name] = len(content)
        await services.store.put(artefact_key(run_id, name, 1), content, max_bytes=10**8)
    async with services.database.session() as session:
        await session.execute(update(RunRow).where(RunRow.id == run_id).values(artefacts=sizes))
    page = (await visitor.get(f"/runs/{run_id}")).text
    assert f'src="/runs/{run_id}/recording.wav"' in page and 'id="peaks-a"' in page
    assert "Failed in turn" in page and "<style" not in page
    part = await visitor.get(f"/runs/{run_id}/recording.wav", headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content, part.headers["Content-Type"]) == (206, b"RIFF", "audio/wav")
    assert "sandbox" in part.headers["Content-Security-Policy"]
    assert (await visitor.get(f"/runs/{run_id}/other.txt")).status_code == 404


async def test_nothing_of_another_project_is_shown(
    app: FastAPI, client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    result_id, (run_id,) = await ended(client, worker_client, agent_failed("their secret"))
    job = CronJob(project_id=1, agent_id=1, name="their secret", crontab_expression="0 2 * * *", scenario_ids=[1])
    await add(services.database, [job])
    _, key = await other_project(services)
    async with client_of(app) as other:
        await sign_in(other, key)
        for path in (
            f"/results/{result_id}", f"/runs/{run_id}", f"/runs/{run_id}/run.json", f"/runs/{run_id}/follow",
            f"/runs/{run_id}/listen", f"/compare?result={result_id}", "/scenarios/1", f"/results/{1 << 70}",
            f"/schedules/{job.id}", f"/schedules/{job.id}/edit",
        ):  # fmt: skip
            answer = await other.get(path)
            assert answer.status_code == 404 and "their secret" not in answer.text, path
        for path in (
            f"/results/{result_id}/share", f"/results/{result_id}/again", f"/runs/{run_id}/end-call",
            *(f"/schedules/{job.id}/{what}" for what in ("edit", "delete", "run", "switch")), "/scenarios/1",
        ):  # fmt: skip
            assert (await send(other, path, **{**SCHEDULE, "way": "keep"})).status_code == 404, path
        for path in EVERY:
            assert "their secret" not in (await other.get(path)).text


async def test_a_link_opens_one_result_for_a_person_and_as_json(
    app: FastAPI,
    visitor: httpx.AsyncClient,
    client: httpx.AsyncClient,
    worker_client: httpx.AsyncClient,
    services: Services,
) -> None:
    result_id, (run_id,) = await ended(client, worker_client, agent_failed())
    other_id, (other_run,) = await ended(client, worker_client, outcome())
    made = await send(visitor, f"/results/{result_id}/share")
    link = re.search(r'id="made-link" readonly value="([^"]+)"', made.text)
    assert link is not None
    address, _, token = link[1].partition("#")
    async with client_of(app) as guest:
        page = await guest.get(address, headers={"Accept": "text/html,*/*;q=0.8"})
        assert page.status_code == 200 and "shared.js" in page.text and "never did" not in page.text
        assert (await guest.get(address, headers={"X-VOCERA-SHAREABLE-LINK-TOKEN": token})).json()["id"] == result_id
        wrong = await guest.post(f"/shared/{result_id}", data={"link": "wrong"}, headers=OWN)
        assert wrong.status_code == 403 and SHARE_COOKIE not in guest.cookies
        opened = await guest.post(f"/shared/{result_id}", data={"link": link[1]}, headers=OWN)
        assert opened.headers["Location"] == f"/results/{result_id}" and "HttpOnly" in opened.headers["Set-Cookie"]
        assert "never did" in (await guest.get(f"/results/{result_id}")).text
        assert (await guest.get(f"/runs/{run_id}")).status_code == 200
        assert "is over" in (await guest.get(f"/runs/{run_id}/listen")).text
        assert (await guest.get(f"/results/{other_id}")).status_code == 404
        assert (await guest.get(f"/runs/{other_run}")).status_code == 404
        assert (await guest.get(f"/runs/{other_run}/listen")).status_code == 404
        for path in ("/", "/runs", "/live", "/workers", "/launch"):
            assert (await guest.get(path)).status_code == 303, path
        assert (await guest.post(f"/results/{result_id}/share", headers=OWN)).status_code == 303
    _, key = await other_project(services)
    async with client_of(app) as other:
        await sign_in(other, key)
        assert (await other.get(f"/results/{result_id}")).status_code == 404
        await send(other, f"/shared/{result_id}", link=link[1])
        assert "never did" in (await other.get(f"/results/{result_id}")).text
        assert (await other.get(f"/results/{other_id}")).status_code == 404
    programs = await client.get(address, headers={"Accept": "text/html"})
    assert programs.json()["id"] == result_id


async def test_hostile_words_are_shown_and_do_nothing(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    entries = {"scenarios": [{"scenario": 1, "pipecat_room_url": ROOM}], "name": "<script>alert(2)</script>"}
    await client.post("/test_framework/v1/scenarios/run_scenarios_pipecat/", json=entries)
    result_id, (run_id,) = await ended(client, worker_client, agent_failed(HOSTILE))
    async with services.database.session() as session:
        await session.execute(update(RunRow).values(scenario_name='"><img src=x onerror=alert(3)>'))
    job = CronJob(project_id=1, agent_id=1, name=HOSTILE[:99], crontab_expression="0 2 * * *", scenario_ids=[1])
    await add(services.database, [job])
    for path in (
        "/", "/runs", "/live", f"/results/{result_id}", f"/runs/{run_id}", "/trends", "/scenarios", "/schedules",
        f"/schedules/{job.id}",
    ):  # fmt: skip
        page = (await visitor.get(path)).text
        assert "<script>alert" not in page and "<img src=x" not in page and "\u202e" not in page, path
        assert len(page) < 300_000, path


async def test_trends_show_how_often_and_how_soon_an_agent_answered(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    await ended(client, worker_client, outcome(latencies_ms=(2000.0, None)), undecided())
    await ended(client, worker_client, agent_failed(), no_call())
    page = (await visitor.get("/trends")).text
    assert "<td>1 of 2</td><td>1.92 s</td><td>2</td>" in page


async def test_two_results_are_compared(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, worker_client: httpx.AsyncClient
) -> None:
    base, _ = await ended(client, worker_client, outcome(), outcome())
    current, _ = await ended(client, worker_client, outcome(), agent_failed())
    page = (await visitor.get(f"/compare?result={current}&result={base}")).text
    assert "oo few runs" in page and "1 of 2" in page and "2 of 2" in page
    choosing = (await visitor.get(f"/compare?result={current}")).text
    assert f'value="{base}"' in choosing and f'<option value="{current}"' not in choosing


async def test_a_launch_in_a_room_keeps_its_token_to_itself(visitor: httpx.AsyncClient) -> None:
    fields = {"scenario": "1", "way": "room", "room_url": ROOM, "token": "pl4nted", "frequency": "2", "name": "mine"}
    answer = await send(visitor, "/launch", **fields)
    assert answer.status_code == 303
    page = (await visitor.get(answer.headers["Location"])).text
    assert "Under way: 0 of 2 runs ended." in page and "2 not made" in page and "pl4nted" not in page
    again = await send(visitor, "/launch", **{**fields, "room_url": "ftp://nowhere", "data_message": "{"})
    assert again.status_code == 400 and "data message" in again.text and "pl4nted" not in again.text


WRONG_LAUNCHES = [
    ({}, "Choose a scenario"),
    ({"scenario": "999", "way": "room", "room_url": ROOM}, "999"),
    ({"scenario": "1", "way": "room"}, "Give the address of the room"),
    ({"scenario": "1", "way": "room", "room_url": "https://evil.test/x"}, "evil.test"),
    ({"scenario": "1", "way": "room", "room_url": ROOM, "frequency": "a"}, "frequency"),
    ({"scenario": "1", "way": "room", "room_url": ROOM, "frequency": "999"}, "frequency"),
]


async def test_a_launch_that_is_wrong_says_why(visitor: httpx.AsyncClient) -> None:
    for fields, said in WRONG_LAUNCHES:
        answer = await send(visitor, "/launch", **fields)
        assert answer.status_code == 400 and said in answer.text, fields


async def test_a_scenario_is_written_edited_and_tried(visitor: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    text = "name: hello\r\nturns:\r\n  - user: Hello!\r\n"
    made = await send(visitor, "/scenarios/new", name="hello", kind="pipecat_eval", content=text)
    assert made.status_code == 303, made.text
    number = re.search(r"\d+", made.headers["Location"])
    assert number is not None
    page = (await visitor.get(f"/scenarios/{number[0]}")).text
    assert "user: Hello!" in page
    wrong = await send(visitor, f"/scenarios/{number[0]}", name="hello", kind="pipecat_eval", content="turns: 3")
    assert wrong.status_code == 400 and "turns" in wrong.text
    address, tags = f"/test_framework/v1/scenarios/{number[0]}/", ["north, south", "smoke"]
    await client.patch(address, json={"tags": tags})
    for said, kept_tags in ((", ".join(tags), tags), ("smoke, north", ["smoke", "north"])):
        await send(visitor, f"/scenarios/{number[0]}", name="hello", kind="pipecat_eval", content=text, tags=said)
        assert (await client.get(address)).json()["tags"] == kept_tags
    fields = {"name": "acts", "kind": "conditional_actions", "content": "{}"}
    lacking = await send(visitor, "/scenarios/new", **fields)
    assert lacking.status_code == 400 and "scenario_language is required" in lacking.text
    assert (
        "scenario_language is required"
        not in (await send(visitor, "/scenarios/new", **fields, scenario_language="en")).text
    )
    room = {"way": "room", "room_url": ROOM, "then": "try"}
    tried = await send(visitor, f"/scenarios/{number[0]}", name="hi", kind="pipecat_eval", content=text, **room)
    assert tried.status_code == 303 and tried.headers["Location"].startswith("/runs/")
    live = (await visitor.get(tried.headers["Location"])).text
    assert "Waiting for a worker" in live and "/follow" in live


async def test_a_waiting_call_can_be_ended(visitor: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    (run_id,) = await run_launched(client)
    assert (await send(visitor, f"/runs/{run_id}/end-call")).status_code == 303
    page = (await visitor.get(f"/runs/{run_id}")).text
    assert "Cancelled" in page and "There was no call" in page


@pytest.mark.parametrize("kept_of_it", [{"joined_at": utc_now()}, {"artefacts": {"recording.wav": 44}}])
async def test_a_call_without_an_outcome_is_not_called_none(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, services: Services, kept_of_it: dict[str, Any]
) -> None:
    (run_id,) = await run_launched(client)
    await send(visitor, f"/runs/{run_id}/end-call")
    async with services.database.session() as session:
        await session.execute(update(RunRow).where(RunRow.id == run_id).values(**kept_of_it))
    page = (await visitor.get(f"/runs/{run_id}")).text
    assert "There was a call" in page and "no call" not in page
    assert (f'href="/runs/{run_id}/recording.wav"' in page) is ("artefacts" in kept_of_it)


async def test_workers_are_shown_without_runs_of_others(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, worker_client: httpx.AsyncClient, services: Services
) -> None:
    (run_id,) = await run_launched(client)
    await claimed(worker_client, run_id)
    await add(services.database, [worker(runs={"live": [run_id, 4711], "kept": []})])
    page = (await visitor.get("/workers")).text
    assert "host-1" in page and "2 of 4" in page and f'href="/runs/{run_id}"' in page and "4711" not in page
    part = (await visitor.get("/workers", headers={"HX-Request": "true"})).text
    assert "host-1" in part and "<html" not in part


SHOWN_ROOM = {
    "scenario": 1, "pipecat_room_url": ROOM, "has_token": False, "has_data_message": False, "participant_name": None,
}  # fmt: skip


async def test_schedules_are_shown_with_history_and_paused(visitor: httpx.AsyncClient, services: Services) -> None:
    now = utc_now()
    job = CronJob(
        project_id=1, agent_id=1, name="night", crontab_expression="0 2 * * *", scenario_ids=[1], is_active=True,
        data={"rooms": [SHOWN_ROOM, SHOWN_ROOM]},
    )  # fmt: skip
    await add(services.database, [job])
    firing = Firing(
        job_id=job.id, trigger="clock", due_at=now, state="skipped", reason="still on", ended_at=now, missed=2
    )
    await add(services.database, [firing])
    assert "night" in (await visitor.get("/schedules")).text
    page = (await visitor.get(f"/schedules/{job.id}")).text
    assert "2 times missed before" in page and "and 1 more room<" in page
    assert "skipped" in page and "still on" in page and "Pause" in page
    assert (await send(visitor, f"/schedules/{job.id}/switch", active="no")).status_code == 303
    assert "Let it fire" in (await visitor.get(f"/schedules/{job.id}")).text


SCHEDULE = {
    "name": "night", "crontab_expression": "30 2 * * *", "timezone": "Europe/Berlin", "scenarios": "1",
    "frequency": "2", "overlap": "skip", "baseline": "previous", "notify_on": "never", "is_active": "yes",
    "way": "room", "room_url": ROOM, "token": "pl4nted", "data_message": '{"type": "hi"}',
}  # fmt: skip


async def test_a_schedule_is_made_changed_and_deleted(visitor: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    made = await send(visitor, "/schedules/new", **SCHEDULE)
    assert made.status_code == 303, made.text
    path = made.headers["Location"]
    address = f"/schedules/v1/cron-jobs/{path.rpartition('/')[2]}/"
    job = (await client.get(address)).json()
    assert (job["name"], job["frequency"], job["overlap"], job["baseline"]) == ("night", 2, "skip", "previous")
    assert job["created_via"] == "user" and job["next_due_at"] is not None and job["scenario_ids"] == [1]
    assert job["rooms_data"][0]["has_token"] and job["rooms_data"][0]["has_data_message"]
    shown = (await visitor.get(path)).text + (await visitor.get(f"{path}/edit")).text
    assert "30 2 * * *" in shown and 'value="keep" checked' in shown and "pl4nted" not in shown
    changed = {**SCHEDULE, "name": "nightly", "timezone": "UTC", "way": "keep", "baseline": "", "is_active": ""}
    assert (await send(visitor, f"{path}/edit", **changed)).status_code == 303
    after = (await client.get(address)).json()
    assert (after["name"], after["timezone"], after["baseline"]) == ("nightly", "UTC", None)
    assert after["rooms_data"] == job["rooms_data"] and after["is_active"] is False
    other = await send(visitor, f"{path}/edit", **{**changed, "scenarios": "", "tags": "smoke"})
    assert other.status_code == 400 and OTHER_SCENARIOS in other.text
    # An agent that can be started needs no rooms.
    session = {"session": {"start_url": "http://localhost:7860/start", "transport": "webrtc"}}
    await client.patch("/test_framework/v2/aiagents/1/", json=session)
    tagged = {"scenarios": "", "tags": "smoke, sound", "agent": "1", "way": "session", "is_active": "yes"}
    assert (await send(visitor, f"{path}/edit", **{**changed, **tagged})).status_code == 303
    after = (await client.get(address)).json()
    assert (after["tags"], after["rooms_data"], after["scenario_ids"]) == (["smoke", "sound"], [], [])
    assert "tagged smoke, sound" in (await visitor.get(path)).text
    await client.patch(address, json={"tags": ["smoke, sound"]})
    assert (await send(visitor, f"{path}/edit", **{**changed, **tagged})).status_code == 303
    assert (await client.get(address)).json()["tags"] == ["smoke, sound"]
    assert (await send(visitor, f"{path}/delete")).status_code == 303
    assert (await visitor.get(path)).status_code == 404


WRONG_SCHEDULES = [
    ({"crontab_expression": "0 4 * *"}, "crontab_expression", "has five fields"),
    ({"timezone": "Berlin"}, "timezone", "such as Europe/Berlin"),
    ({"scenarios": ""}, "scenarios", "Give scenarios, or tags"),
    ({"scenarios": "999"}, "rooms", "999"),
    ({"tags": "smoke"}, "rooms", "not two of them"),
    ({"way": "session", "tags": "smoke"}, "tags", "not both"),
    ({"way": "session"}, "agent", "start_url"),
    ({"frequency": "101"}, "frequency", "100"),
    ({"concurrency_limit": "many"}, "concurrency_limit", "integer"),
    ({"overlap": "kill"}, "overlap", "queue"),
    ({"baseline": "results", "baseline_results": "1, x"}, "baseline", "ids of results"),
    ({"baseline": "previous", "baseline_results": "1"}, "baseline", "no ids of results"),
    ({"baseline": "results", "baseline_results": "999"}, "baseline", "999"),
    ({"notify_on": "both"}, "notify_on", "Nobody would be told"),
    ({"room_url": ""}, "rooms", "address of the room"),
    ({"room_url": "https://evil.test/x"}, "rooms", "is not a room"),
    ({"data_message": "{"}, "rooms", "must be JSON"),
]


async def test_what_is_wrong_with_a_schedule_stands_beside_its_field(visitor: httpx.AsyncClient) -> None:
    for wrong, field, said in WRONG_SCHEDULES:
        answer = await send(visitor, "/schedules/new", **{**SCHEDULE, **wrong})
        beside = re.findall(rf'id="wrong-{field}-\d+">([^<]*)<', answer.text)
        assert answer.status_code == 400 and any(said in text for text in beside), (wrong, beside)
        assert 'value="night"' in answer.text and "pl4nted" not in answer.text
    assert "No schedule yet" in (await visitor.get("/schedules")).text


async def test_a_schedule_of_the_servers_file_is_not_changed_here(
    visitor: httpx.AsyncClient, services: Services
) -> None:
    values: dict[str, Any] = {"project_id": 1, "agent_id": 1, "crontab_expression": "0 2 * * *", "scenario_ids": [1]}
    await add(services.database, [CronJob(name="night", configured_as="night", **values)])
    page = html.unescape((await visitor.get("/schedules/1")).text)
    assert CONFIGURED in page and "Run now" in page and "/edit" not in page and "/delete" not in page
    for path in ("edit", "delete", "switch"):
        assert (await send(visitor, f"/schedules/1/{path}", **SCHEDULE)).status_code == 403, path


async def test_the_api_description_needs_nothing_from_elsewhere(anonymous: httpx.AsyncClient) -> None:
    page = (await anonymous.get("/docs")).text
    assert re.findall(r'(?:src|href)="(https?:)?//', page) == []
    for address in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        answer = await anonymous.get(address)
        assert answer.status_code == 200, address
    assert json.loads((await anonymous.get("/openapi.json")).text)["openapi"]


async def test_people_and_programs_are_told_that_nothing_is_there(visitor: httpx.AsyncClient) -> None:
    for path in ("/nothing", "/runs/abc", "/results/1/share"):
        shown = await visitor.get(path, headers={"Accept": "text/html"})
        assert shown.status_code == 404 and "There is no such page" in shown.text
    assert (await visitor.get("/nothing")).json() == {"detail": "Not found."}
    assert (await visitor.get("/results/1/share")).status_code == 405


async def test_a_key_of_a_project_shows_that_project_alone(app: FastAPI, services: Services) -> None:
    project, _ = await other_project(services)
    async with client_of(app) as other:
        await sign_in(other, await new_key(services, project_id=project))
        assert "No result yet" in (await other.get("/")).text
