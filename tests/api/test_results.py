"""Results over HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import httpx
import pytest

from runner.api.schemas.runs import NOTHING_EXPECTED
from runner.api.services import Services
from runner.evaluation.asked import OutcomeJudgement, Statement
from runner.evaluation.asked import judged as judge_says
from runner.evaluation.outcome import Failure, FailureKind
from runner.evaluation.verdicts import Cause
from runner.records.store import artefact_key
from runner.records.tables import RunRow, ScenarioRow
from tests.api.conftest import Client
from tests.api.telling import ROOM, claimed, given, put, release, report, run_launched, show
from tests.records.outcomes import agent_failed, cancelled, no_call, outcome, undecided

pytestmark = pytest.mark.anyio

RESULTS = "/test_framework/v1/results"
SHARE = "X-VOCERA-SHAREABLE-LINK-TOKEN"


async def ended(client: Client, worker: Client, *runs: Any) -> tuple[int, list[int]]:
    """Launch a run for each outcome, and report it; return the result's id and the runs'."""
    ids = await run_launched(client, len(runs))
    for run_id, run in zip(ids, runs, strict=True):
        await claimed(worker, run_id)
        assert (await report(worker, run_id, run)).json()["counted"]
    result_id = (await show(client, ids[0]))["result_id"]
    return result_id, ids


async def test_a_result_has_every_field_of_the_reference_in_its_type(client: Client, worker: Client) -> None:
    result_id, (run_id,) = await ended(client, worker, outcome())
    body = (await client.get(f"{RESULTS}/{result_id}")).json()
    for name in (
        "id",
        "total_runs_count",
        "completed_runs_count",
        "success_runs_count",
        "failed_runs_count",
        "met_expected_outcome_count",
        "total_expected_outcome_count",
    ):
        assert type(body[name]) is int, name
    assert (body["status"], body["success_rate"], body["total_duration"]) == ("completed", 100.0, "00:41")
    assert (body["agent"], body["agent_name"], body["run_type"]) == (1, "restaurant", "pipecat")
    assert body["scenarios"] == [{"id": 1, "name": "Book a table"}]
    assert list(body["runs"]) == [str(run_id)]
    run = body["runs"][str(run_id)]
    assert (run["id"], run["scenario"], run["status"], run["success"]) == (run_id, 1, "completed", True)
    assert (run["duration"], run["error_message"]) == ("00:41", "")
    assert run["metadata"] == {"ended_reason": "Testing agent-ended-call"}
    assert run["expected_outcome"]["score"] == 100 and run["expected_outcome"]["outcome_alignments"][0]["aligned"]
    (metric,) = run["evaluation"]["metrics"]
    assert (metric["name"], metric["type"], metric["score"]) == ("Latency (in ms)", "numeric", 1000.0)
    assert body["overall_evaluation"]["metric_summary"]["1"]["p50"] == 1000.0
    assert body["overall_evaluation"]["numeric_metrics"][0]["extra"]["count"] == 2


async def test_every_end_counts_and_only_passing_is_success(client: Client, worker: Client) -> None:
    result_id, ids = await ended(client, worker, outcome(), agent_failed(), undecided(), no_call(), cancelled())
    body = (await client.get(f"{RESULTS}/{result_id}/")).json()
    passed, missed, open_question, without, broken_off = ids
    # One passed of two that were decided; the other three are shown, and count as failed for clients' sums.
    assert (body["status"], body["success_rate"]) == ("completed", 50.0)
    counts = [body[f"{name}_runs_count"] for name in ("total", "completed", "success", "failed", "inconclusive")]
    assert counts == [5, 5, 1, 4, 3]
    assert body["overall_evaluation"].items() >= {"success_rate": 50.0, "inconclusive_runs_count": 3}.items()
    (item,) = (await client.get(RESULTS)).json()["results"]
    assert (item["success_rate"], item["failed_runs_count"], item["inconclusive_runs_count"]) == (50.0, 4, 3)
    assert (body["met_expected_outcome_count"], body["total_expected_outcome_count"]) == (1, 3)
    assert body["successful_calls"] == [passed]
    assert body["connected_runs"] == [passed, missed, open_question]
    assert body["not_connected_runs"] == [without, broken_off]
    assert body["failed_workflow_runs"] == [missed]
    assert body["failed_infrastructure_runs"] == [open_question, without, broken_off]
    assert body["failed_reasons"]["total_failed_runs"] == 4
    assert body["runs_by_tags"] == {"demo": ids}
    runs = body["runs"]
    assert [runs[str(i)]["success"] for i in ids] == [True, False, False, False, False]
    assert runs[str(missed)]["error_message"] == "" and runs[str(missed)]["expected_outcome"]["score"] == 0
    assert runs[str(open_question)]["error_message"].startswith("inconclusive")
    assert runs[str(open_question)]["expected_outcome"]["score"] == 50
    assert runs[str(without)]["scenario_runner"]["cause"] == "room"
    assert runs[str(without)]["expected_outcome"] is None


def judged(answer: Literal["yes", "no", "unreached"]) -> OutcomeJudgement:
    statement = Statement(statement="it sings", answer=answer, reason="so I hear")
    return judge_says("must sing an opera", [statement], "m")


async def test_the_explanation_is_the_headline_and_what_it_rests_on(client: Client, worker: Client) -> None:
    failure = Failure(kind=FailureKind.LATE, cause=Cause.AGENT, headline="it answered after 4 s")
    late = agent_failed("it answered after 4 s").model_copy(update={"failure": failure})
    unsung = outcome(success=None, detail="it is not all had", not_honoured=["personality.language: 'es'"])
    refuted = agent_failed("it does not sing").model_copy(
        update={"expectations": [], "expected_outcome": judged("no")}
    )
    _, ids = await ended(
        client,
        worker,
        late,
        unsung,
        refuted,
        outcome(expected_outcome=judged("yes")),
        outcome(expectations=[]),
    )
    runs = [await show(client, run_id) for run_id in ids]
    assert [(run["expected_outcome"]["score"], run["expected_outcome"]["explanation"]) for run in runs] == [
        (0, ["it answered after 4 s", "the agent says hello: it did"]),
        (50, ["it is not all had", "the agent says hello: it did", "personality.language: 'es'"]),
        (0, ["it does not sing", "it sings: so I hear"]),
        (100, ["all 1 expectations of the script were met", "it sings: so I hear"]),
        (None, [NOTHING_EXPECTED]),
    ]
    assert runs[0]["scenario_runner"]["failure"]["kind"] == "late"
    assert runs[1]["scenario_runner"]["not_honoured"] == ["personality.language: 'es'"]
    assert runs[1]["error_message"] == "inconclusive: it is not all had"
    assert runs[3]["expected_outcome"]["outcome_alignments"][1] == {
        "outcome": "so I hear",
        "prompt_part": "it sings",
        "aligned": True,
    }
    result = (await client.get(f"{RESULTS}/{runs[1]['result_id']}")).json()
    assert (
        result["runs"][str(ids[1])]["scenario_runner"].items()
        >= {
            "success": None,
            "not_honoured": ["personality.language: 'es'"],
        }.items()
    )
    assert (result["met_expected_outcome_count"], result["total_expected_outcome_count"]) == (1, 4)


async def test_a_prompt_holds_also_where_the_script_expects_nothing(client: Client, worker: Client) -> None:
    await client.patch("/test_framework/v1/scenarios/1", json={"expected_outcome_prompt": "must sing an opera"})
    sung = outcome(expectations=[], expected_outcome=judged("yes"))
    result_id, _ = await ended(client, worker, sung, outcome(expectations=[], success=None))
    detail = (await client.get(f"{RESULTS}/{result_id}")).json()
    (item,) = (await client.get(RESULTS)).json()["results"]
    for shown in (detail, item):
        assert (shown["met_expected_outcome_count"], shown["total_expected_outcome_count"]) == (1, 2)


async def test_what_is_expected_of_a_run_goes_to_its_worker(client: Client, worker: Client) -> None:
    await client.patch("/test_framework/v1/scenarios/1", json={"expected_outcome_prompt": " must sing an opera "})
    (run_id,) = await run_launched(client)
    job = await claimed(worker, run_id)
    assert job["asked"] == {"expected_outcome": "must sing an opera", "conditions": [], "not_honoured": []}
    assert job["notes"] == []


async def test_a_result_under_way_moves_on_with_its_runs(client: Client, worker: Client) -> None:
    first, second = await run_launched(client, 2)
    result_id = (await show(client, first))["result_id"]

    async def state() -> tuple[Any, ...]:
        body = (await client.get(f"{RESULTS}/{result_id}")).json()
        return body["status"], body["completed_runs_count"], body["success_rate"]

    assert await state() == ("pending", 0, 0.0)
    await claimed(worker, first)
    assert await state() == ("running", 0, 0.0)
    await report(worker, first, outcome())
    assert await state() == ("running", 1, 50.0)
    await claimed(worker, second)
    await report(worker, second, outcome())
    assert await state() == ("completed", 2, 100.0)


async def test_results_are_listed_in_pages_that_lead_to_each_other(
    client: Client, worker: Client, services: Services
) -> None:
    result_id, _ = await ended(client, worker, outcome(), agent_failed())
    for _ in range(4):
        await run_launched(client)
    first = (await client.get(RESULTS, params={"page_size": 2, "agent_id": 1})).json()
    assert first["count"] == 5 and first["previous"] is None and len(first["results"]) == 2
    assert first["next"].startswith("http://testserver/test_framework/v1/results")
    seen, page = list(first["results"]), first
    while page["next"]:
        page = (await client.get(page["next"])).json()
        seen += page["results"]
    assert len({item["id"] for item in seen}) == 5
    last = seen[-1]
    assert (last["id"], last["success_rate"], last["agent_inbound"]) == (result_id, 50.0, True)
    assert [run["success"] for run in last["runs"]] == [True, False]
    for params, count in (
        ({"agent_id": 9}, 0),
        ({"project_id": 2}, 0),
        ({"search": "nothing"}, 0),
        ({"scenarios": "1,2"}, 5),
        ({"scenarios": "2"}, 0),
    ):
        assert (await client.get(RESULTS, params=params)).json()["count"] == count, params
    assert (await client.get(RESULTS, params={"scenarios": "x"})).status_code == 400


async def test_ending_the_calls_cancels_what_waits_and_asks_the_others(
    client: Client, worker: Client, services: Services, woken: list[int]
) -> None:
    waiting, handed_over, on = await run_launched(client, 3)
    await claimed(worker, on)
    await given(worker, handed_over)
    woken.clear()
    result_id = (await show(client, on))["result_id"]
    answer = await client.post(f"{RESULTS}/{result_id}/end_calls", json={})
    assert (answer.status_code, answer.content) == (200, b"")
    assert woken
    assert (await show(client, waiting))["status"] == "cancelled"
    async with services.database.reading() as session:
        runs = [await session.get_one(RunRow, run_id) for run_id in (handed_over, on)]
    assert [(run.status, run.cancel_requested) for run in runs] == [("cancelled", False), ("running", True)]
    await report(worker, on, cancelled())
    body = (await client.get(f"{RESULTS}/{result_id}")).json()
    assert (body["status"], body["failed_runs_count"]) == ("cancelled", 3)
    assert (await client.post(f"{RESULTS}/{result_id}/end_calls")).status_code == 200


async def test_a_result_is_run_again_in_its_rooms_or_says_why_not(
    client: Client, worker: Client, services: Services
) -> None:
    result_id, ids = await ended(client, worker, outcome(), outcome())
    answer = await client.post(f"{RESULTS}/{result_id}/rerun", json={})
    assert answer.status_code == 200
    assert answer.json()["id"] != result_id and len(answer.json()["runs"]) == 2
    one = await client.post(f"{RESULTS}/{result_id}/rerun", json={"run_ids": ids[:1], "name": "again"})
    assert one.json()["name"] == "again" and len(one.json()["runs"]) == 1
    assert (await client.post(f"{RESULTS}/{result_id}/rerun", json={"run_ids": [999]})).status_code == 400
    (sealed,) = await run_launched(client, pipecat_token="t0ken")
    await claimed(worker, sealed)
    await report(worker, sealed, outcome())
    sealed_result = (await show(client, sealed))["result_id"]
    answer = await client.post(f"{RESULTS}/{sealed_result}/rerun", json={})
    assert answer.status_code == 400
    assert "erased" in answer.json()["runs"][str(sealed)]["pipecat_token"][0]
    async with services.database.session() as session:
        await session.delete(await session.get_one(ScenarioRow, 1))
    answer = await client.post(f"{RESULTS}/{result_id}/rerun", json={})
    assert answer.status_code == 400 and "deleted" in answer.json()["runs"][str(ids[0])][0]
    body = (await client.get(f"{RESULTS}/{result_id}")).json()
    assert body["runs"][str(ids[0])]["scenario"] is None
    assert body["runs"][str(ids[0])]["scenario_name"] == "Book a table"


async def again(client: Client, result_id: int, *entries: dict[str, Any], **more: Any) -> httpx.Response:
    return await client.post(f"{RESULTS}/{result_id}/rerun", json={"runs": list(entries), **more})


async def test_what_was_erased_is_given_again_with_a_rerun(client: Client, worker: Client) -> None:
    message = {"type": "hi", "password": "pl4nted"}
    ids = await run_launched(client, 3, pipecat_token="t0ken-1", publish_data_message=message)
    for run_id in ids:
        await claimed(worker, run_id)
        await report(worker, run_id, outcome())
    first, second, third = ids
    result_id = (await show(client, first))["result_id"]
    gone = (await again(client, result_id, {"run": first, "pipecat_token": "t0ken-2"})).json()["runs"]
    assert {run: list(wrong) for run, wrong in gone.items()} == {
        str(first): ["publish_data_message"],
        str(second): ["pipecat_token", "publish_data_message"],
        str(third): ["pipecat_token", "publish_data_message"],
    }
    assert all("erased" in text for wrong in gone.values() for (text,) in wrong.values())
    answer = await again(
        client,
        result_id,
        {"run": first, "pipecat_token": "t0ken-2", "publish_data_message": message},
        {"run": second, "pipecat_token": None, "publish_data_message": None},
        {"run": third, "pipecat_room_url": "http://localhost:7861/api/offer", "publish_data_message": {"type": "x"}},
    )
    assert answer.status_code == 200, answer.text
    jobs = [await claimed(worker, run["id"]) for run in answer.json()["runs"]]
    assert [(job["room_url"], job["token"]) for job in jobs] == [
        (ROOM, "t0ken-2"),
        (ROOM, None),
        ("http://localhost:7861/api/offer", None),
    ]
    assert [job["data_message"] for job in jobs] == [
        {"value": message, "shown": {"type": "hi", "password": "***"}},
        None,
        {"value": {"type": "x"}},
    ]


async def test_what_is_wrong_with_a_rerun_is_told_by_its_runs(client: Client, worker: Client) -> None:
    result_id, (first, second) = await ended(client, worker, outcome(), outcome())
    evil = {"run": second, "pipecat_room_url": "http://169.254.169.254/api/offer"}
    found = (await again(client, result_id, evil)).json()
    assert "server.allowed_rooms" in found["runs"][str(second)]["pipecat_room_url"][0] and len(found["runs"]) == 1
    token = {"run": first, "pipecat_token": "a\nb"}
    assert "can't be sent" in (await again(client, result_id, token)).json()["runs"][0]["pipecat_token"][0]
    found = (await again(client, result_id, {"run": 999}, run_ids=[first])).json()
    assert list(found["runs"]) == ["999"]
    found = (await again(client, result_id, {"run": second}, run_ids=[first])).json()
    assert list(found["runs"]) == [str(second)]
    found = (await again(client, result_id, {"run": first}, {"run": first})).json()
    assert found == {"runs": {str(first): ["It stands here twice."]}}


async def test_deleting_runs_takes_everything_that_is_kept_of_them(
    client: Client, worker: Client, services: Services
) -> None:
    over, waiting, on = await run_launched(client, 3)
    await claimed(worker, over)
    for attempt in (1, 2):
        await put(worker, over, "recording.wav", b"RIFF", attempt)
        if attempt == 1:
            assert (await release(worker, over)).json()["waits_again"]
            await claimed(worker, over, 2)
    await report(worker, over, outcome(), 2)
    assert await services.store.size(artefact_key(over, "recording.wav", 1)) == 4
    await claimed(worker, on)
    result_id = (await show(client, on))["result_id"]
    path = f"{RESULTS}/{result_id}/delete_runs"
    answer = await client.post(path, json={"run_ids": [over, waiting, on]})
    assert answer.status_code == 400 and str(on) in answer.text
    assert (await show(client, waiting))["status"] == "pending"
    for wrong in ({}, {"run_ids": []}, {"run_ids": [999]}, {"run_ids": list(range(1, 102))}):
        assert (await client.post(path, json=wrong)).status_code == 400
    assert (await client.post(path, json={"run_ids": [over, waiting]})).status_code == 204
    assert await services.store.size(artefact_key(over, "recording.wav", 1)) is None
    assert await services.store.size(artefact_key(over, "recording.wav", 2)) is None
    assert (await client.get(f"/test_framework/v1/runs/{over}")).status_code == 404
    assert (await client.get(f"{RESULTS}/{result_id}")).json()["total_runs_count"] == 1


async def test_measuring_again_is_honest_about_what_there_is(client: Client, worker: Client) -> None:
    result_id, ids = await ended(client, worker, outcome())
    path = f"{RESULTS}/{result_id}/evaluate_metrics"
    answer = await client.post(path, json={"run_ids": ids, "metric_ids": [1]})
    assert answer.status_code == 200 and answer.json()["status"] == "completed"
    for wrong in (
        {"run_ids": ids, "metric_ids": [99]},
        {"run_ids": [999], "metric_ids": [1]},
        {"run_ids": [], "metric_ids": [1]},
        {"run_ids": ids, "metric_ids": []},
        {},
    ):
        assert (await client.post(path, json=wrong)).status_code == 400


async def test_a_link_shows_one_result_and_its_runs_and_nothing_else(
    client: Client, worker: Client, anonymous: Client
) -> None:
    result_id, (run_id,) = await ended(client, worker, outcome())
    other_result, (other_run,) = await ended(client, worker, outcome())
    shared = await client.post(
        f"/test_framework/v1/results-external/{result_id}/create_shareable_link_token", json={}
    )
    token = shared.json()["token"]
    assert shared.json()["shareable_link"] == f"http://testserver{RESULTS}/{result_id}/#{token}"
    runs = "/test_framework/v1/runs"
    headers = {SHARE: token}
    assert (await anonymous.get(f"{RESULTS}/{result_id}", headers=headers)).json()["id"] == result_id
    assert (await anonymous.get(f"{runs}/{run_id}", headers=headers)).json()["id"] == run_id
    assert (await anonymous.get(f"{runs}/{other_run}", headers=headers)).status_code == 404
    assert (await anonymous.get(f"{RESULTS}/{other_result}", headers=headers)).status_code == 404
    bulk = await anonymous.get(f"{runs}/bulk", params={"ids": f"{run_id},{other_run}"}, headers=headers)
    assert [run["id"] for run in bulk.json()] == [run_id]
    assert (await anonymous.get(runs, headers=headers)).json()["count"] == 1
    assert (await anonymous.get(f"{RESULTS}", headers=headers)).status_code == 401
    assert (await anonymous.post(f"{RESULTS}/{result_id}/end_calls", headers=headers)).status_code == 401
    assert (await anonymous.get(f"{RESULTS}/{result_id}", headers={SHARE: "x"})).status_code == 401
    path = f"{RESULTS}/{result_id}/create_shareable_link_token"
    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert (await client.post(path, json={"expire_at": ahead})).status_code == 200
    for wrong in ("2020-01-01T00:00:00Z", "2099-01-01T00:00:00", "soon", 5):
        assert (await client.post(path, json={"expire_at": wrong})).status_code == 400, wrong
