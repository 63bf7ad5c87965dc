"""Runs over HTTP."""

from typing import Any

import pytest

from runner.api.services import Services
from runner.records.store import artefact_key
from runner.records.tables import RunRow
from tests.api.conftest import Client
from tests.api.telling import RUNS, begun, put, report, run_launched, show
from tests.api.test_results import ended
from tests.records.outcomes import agent_failed, no_call, outcome, undecided

pytestmark = pytest.mark.anyio

EXTERNAL = "/test_framework/v1/runs-external"
AUDIO = bytes(range(256)) * 40


async def recorded(client: Client, worker: Client) -> int:
    """Return a run that has ended, with a recording."""
    run_id = await begun(client, worker)
    for name, content in (("recording.wav", AUDIO), ("page.html", b"<script>"), ("empty.log", b"")):
        assert (await put(worker, run_id, name, content)).status_code == 200
    await report(worker, run_id, outcome())
    return run_id


async def test_a_run_has_the_references_fields_and_ours_beside_them(client: Client, worker: Client) -> None:
    run_id = await recorded(client, worker)
    run = (await client.get(f"{EXTERNAL}/{run_id}")).json()
    assert run == await show(client, run_id)
    assert (run["status"], run["success"], run["evaluation_status"]) == ("completed", True, "success")
    assert (run["agent"], run["agent_name"], run["scenario_name"]) == (1, "restaurant", "Book a table")
    assert (run["personality"], run["personality_name"]) == (1, "Normal")
    assert (run["duration"], run["run_type"], run["trace_id"]) == ("00:41", "pipecat", None)
    assert run["transcript"] == "[00:01] Main Agent: Hello\n[00:03] Testing Agent: Hi there"
    assert run["transcript_object"][0] == {
        "role": "Main Agent",
        "content": "Hello",
        "time": "00:01",
        "start_time": 1.2,
        "end_time": 2.0,
        "data": None,
        "source": None,
        "told": None,
    }
    assert run["voice_recording_url"] == f"http://testserver{RUNS}/{run_id}/artefacts/recording.wav"
    assert run["testing_channel_index"] == 0
    assert run["metadata"] == {"ended_reason": "Testing agent-ended-call"}
    ours = run["scenario_runner"]
    assert (ours["cause"], ours["ended_reason"], ours["success"]) == (None, "caller-hung-up", True)
    assert ours["first_response_ms"] == 640.0 and ours["turns"][1]["response_latency_ms"] == 1200.0
    assert ours["expectations"][0]["verdict"] == "met"
    assert set(ours["artefacts"]) == {"recording.wav", "page.html", "empty.log"}


async def test_no_verdict_is_no_success_and_says_why(client: Client, worker: Client) -> None:
    _, ids = await ended(client, worker, undecided(), no_call(), agent_failed())
    open_question, without, missed = [await show(client, run_id) for run_id in ids]
    assert (open_question["status"], open_question["success"]) == ("completed", False)
    assert "not judged" in open_question["error_message"]
    assert open_question["scenario_runner"]["success"] is None
    assert (without["status"], without["success"], without["scenario_runner"]["cause"]) == ("failed", False, "room")
    assert "nothing answers" in without["error_message"]
    assert (missed["success"], missed["error_message"]) == (False, "")
    assert missed["scenario_runner"]["cause"] == "agent" and "never did" in missed["scenario_runner"]["detail"]
    (waiting,) = await run_launched(client)
    run = await show(client, waiting)
    assert (run["status"], run["success"], run["duration"], run["metadata"]) == ("pending", None, None, {})


async def test_several_runs_come_as_an_array_by_either_name(client: Client, worker: Client) -> None:
    _, (first, second) = await ended(client, worker, outcome(), agent_failed())
    for path, params in (
        (f"{RUNS}/bulk", {"ids": f"{second},{first}"}),
        (f"{EXTERNAL}/bulk", {"run_ids": f"{second}, {first},999"}),
        (f"{EXTERNAL}/bulk/", {"ids": str(second), "run_ids": f"{second},{first}"}),
    ):
        answer = (await client.get(path, params=params)).json()
        assert [run["id"] for run in answer] == [second, first]
    for wrong in ({}, {"ids": ""}, {"ids": "[1,2]"}, {"run_ids": "1;2"}, {"ids": "-1"}, {"ids": "1" * 30}):
        answer = await client.get(f"{RUNS}/bulk", params=wrong)
        assert answer.status_code == 400 and ("run_ids" in answer.json() or "ids" in answer.json())


async def test_the_filters_of_the_reference_narrow_the_list(client: Client, worker: Client) -> None:
    result_id, ids = await ended(client, worker, outcome(), agent_failed(), no_call())
    passed, missed, without = ids
    expected: list[tuple[dict[str, Any], list[int]]] = [
        ({}, ids),
        ({"result_id": result_id}, ids),
        ({"result_id": 999}, []),
        ({"agent_id": 1}, ids),
        ({"project_id": 1}, ids),
        ({"project_id": 2}, []),
        ({"id__in": f"{passed},{missed}"}, [passed, missed]),
        ({"status": "failed"}, [without]),
        ({"status": "timeout"}, []),
        ({"status__in": "failed,pending"}, [without]),
        ({"success": "true"}, [passed]),
        ({"success": "false"}, [missed, without]),
        ({"timestamp__gte": "2020-01-01T00:00:00Z"}, ids),
        ({"timestamp__lte": "2020-01-01T00:00:00Z"}, []),
        ({"duration__gte": "00:41", "duration__lte": "41"}, ids),
        ({"duration__gte": "41.5"}, []),
        ({"scenario__id": 1}, ids),
        ({"scenario__id": 2}, []),
        ({"personality__id": 1}, ids),
        ({"personality__id": 2}, []),
        ({"tags": "demo,other"}, ids),
        ({"tags": "other"}, []),
        ({"search": "book a"}, ids),
        ({"search": "answers"}, [without]),
        ({"call_ended_reason": "Testing agent-did-not-connect"}, [without]),
        ({"call_ended_reason__in": "Testing agent-did-not-connect,x"}, [without]),
        ({"call_ended_reason__icontains": "ENDED"}, [passed, missed]),
        ({"ql": "id,name"}, ids),
    ]
    for params, wanted in expected:
        page = (await client.get(EXTERNAL, params=params)).json()
        assert sorted(run["id"] for run in page["results"]) == wanted, params
        assert page["count"] == len(wanted)
    for wrong in (
        {"result_id": "x"},
        {"status": "passed"},
        {"status__in": "passed"},
        {"success": "maybe"},
        {"timestamp__gte": "yesterday"},
        {"duration__gte": "long"},
        {"id__in": "x"},
        {"page": "0"},
    ):
        assert (await client.get(RUNS, params=wrong)).status_code == 400, wrong
    page = (await client.get(RUNS, params={"page_size": 2, "status": "completed"})).json()
    assert page["next"] is None and [run["id"] for run in page["results"]] == [missed, passed]


async def test_ending_a_waiting_call_cancels_it_and_an_ended_one_stays(
    client: Client, worker: Client, woken: list[int]
) -> None:
    over = await recorded(client, worker)
    (waiting,) = await run_launched(client)
    woken.clear()
    for run_id in (waiting, over, waiting):
        answer = await client.post(f"{EXTERNAL}/{run_id}/end_call")
        assert (answer.status_code, answer.content) == (200, b"")
    assert len(woken) >= 3
    run = await show(client, waiting)
    assert (run["status"], run["success"]) == ("cancelled", False)
    assert run["metadata"] == {"ended_reason": "run-cancelled-by-user"}
    assert (await show(client, over))["status"] == "completed"


async def test_a_trace_is_shown_where_there_is_one(client: Client, services: Services) -> None:
    (run_id,) = await run_launched(client)
    answer = await client.get(f"{RUNS}/{run_id}/trace/")
    assert answer.status_code == 404 and "trace" in answer.json()["detail"]
    async with services.database.session() as session:
        (await session.get_one(RunRow, run_id)).trace = {"trace_id": "a" * 32, "transcript": []}
    assert (await client.get(f"{RUNS}/{run_id}/trace/")).json() == {
        "trace_id": "a" * 32,
        "spans": [],
        "session": {"transcript": []},
    }
    assert (await show(client, run_id))["trace_id"] == "a" * 32


async def test_an_artefact_comes_whole_or_in_the_range_asked_for(client: Client, worker: Client) -> None:
    run_id = await recorded(client, worker)
    size = len(AUDIO)
    path = f"{RUNS}/{run_id}/artefacts/recording.wav"
    whole = await client.get(path)
    assert (whole.status_code, whole.content) == (200, AUDIO)
    assert whole.headers["content-type"] == "audio/wav" and whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-length"] == str(size)
    for asked, first, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=100-", 100, size),
        ("bytes=-5", size - 5, size),
        (f"bytes=-{size * 2}", 0, size),
        (f"bytes={size - 1}-{size * 2}", size - 1, size),
    ):
        part = await client.get(path, headers={"Range": asked})
        assert part.content == AUDIO[first:end], asked
        assert part.headers["content-length"] == str(end - first)
        if (first, end) == (0, size):
            assert part.status_code == 200
        else:
            assert part.status_code == 206
            assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{size}"
    for beyond in (f"bytes={size}-", f"bytes={size + 5}-{size + 9}", "bytes=-0"):
        part = await client.get(path, headers={"Range": beyond})
        assert (part.status_code, part.headers["content-range"]) == (416, f"bytes */{size}"), beyond
    for other in ("bytes=5-1", "bytes=0-1,3-4", "items=0-1", "bytes=a-b", "bytes=-"):
        assert (await client.get(path, headers={"Range": other})).status_code == 200, other
    etag = whole.headers["etag"]
    assert (await client.get(path, headers={"Range": "bytes=0-0", "If-Range": etag})).status_code == 206
    assert (await client.get(path, headers={"Range": "bytes=0-0", "If-Range": '"x"'})).status_code == 200
    head = await client.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
    head = await client.head(path, headers={"Range": "bytes=0-9"})
    assert (head.status_code, head.headers["content-length"]) == (206, "10")


async def test_only_what_is_kept_is_given_out_and_only_to_who_may(
    client: Client, worker: Client, anonymous: Client, services: Services
) -> None:
    run_id = await recorded(client, worker)
    base = f"{RUNS}/{run_id}/artefacts"
    assert (await anonymous.get(f"{base}/recording.wav")).status_code == 401
    assert (await worker.get(f"{base}/recording.wav")).status_code == 403
    for name in ("other.wav", "..%2f", "%2e%2e%2fsecret.key", "x" * 150):
        assert (await client.get(f"{base}/{name}")).status_code == 404, name
    page = await client.get(f"{base}/page.html")
    assert page.headers["content-type"] == "application/octet-stream"
    assert page.headers["x-content-type-options"] == "nosniff"
    empty = await client.get(f"{base}/empty.log")
    assert (empty.status_code, empty.content) == (200, b"")
    assert (await client.get(f"{base}/empty.log", headers={"Range": "bytes=0-"})).status_code == 416
    await services.store.delete_run(run_id)
    assert await services.store.size(artefact_key(run_id, "recording.wav", 1)) is None
    assert (await client.get(f"{base}/recording.wav")).status_code == 404
