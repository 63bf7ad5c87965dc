"""What a worker asks the judge about a call that is over, and what it reports of the answer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from bots.timeline import AgentSaid, CallEnded, CallerTurnStarted, EndedReason, Source, TimelineEvent
from runner.calls.run_file import RunReport, judge_run, read_run, write_run
from runner.calls.timeline import read_timeline
from runner.settings import JudgeSettings, Settings
from runner.worker.outbox import Outbox
from runner.worker.worker import Worker
from tests.judge.endpoint import HANGS, Body, Reply, completion, prompt, serve, verdict
from tests.worker.calls_double import StubCalls
from tests.worker.conftest import until
from tests.worker.record_double import RecordDouble

pytestmark = pytest.mark.anyio

PROMPT = "must sing an opera"
ASKED = {"expected_outcome": PROMPT}
CALLER_HUNG_UP: list[TimelineEvent] = [
    CallerTurnStarted(at_ns=3, turn=0),
    CallEnded(at_ns=1_000_000_000, reason=EndedReason.CALLER_HUNG_UP),
]


def outcome(answer: str) -> Reply:
    return completion(
        json.dumps({"statements": [{"statement": "it sings", "answer": answer, "reason": "so I hear"}]})
    )


def judged_again(record: RecordDouble, folder: Path) -> bytes:
    """Return the run.json that the facts and judgements come to that were uploaded."""
    folder.mkdir(exist_ok=True)
    for name in ("timeline.jsonl", "run.json"):
        (folder / name).write_bytes(record.artefacts[name])
    run = read_run(folder)
    write_run(folder, judge_run(run.script, read_timeline(folder / "timeline.jsonl"), run.circumstances))
    return (folder / "run.json").read_bytes()


@pytest.fixture
def see(record: RecordDouble, tmp_path: Path) -> Callable[..., Any]:
    """See run 7 through, with a judge, and return what was reported of it."""

    async def see_through(
        judge: JudgeSettings | None,
        asked: dict[str, Any],
        facts: list[TimelineEvent] = CALLER_HUNG_UP,
        during: Callable[[], Any] | None = None,
    ) -> dict[str, Any]:
        record.jobs[7]["asked"] = asked
        record.jobs[7]["data_message"] = None
        client = record.client()
        outbox = Outbox(tmp_path / "outbox", client)
        calls = StubCalls()
        calls.facts = facts
        async with anyio.create_task_group() as tasks:
            shelf = outbox.open("executor")
            tasks.start_soon(outbox.run)
            worker = Worker(Settings(judge=judge or JudgeSettings()), client, shelf, calls)
            async with anyio.create_task_group() as runs:
                runs.start_soon(worker.see_through, 7, 1)
                if during is not None:
                    await during()
            tasks.cancel_scope.cancel()
        outbox.close()
        [told] = record.outcomes
        if told["run"] is not None:
            kept = json.loads(record.artefacts["run.json"])
            assert {name: value for name, value in kept.items() if name != "script"} == told["run"]
            assert judged_again(record, tmp_path / "kept") == record.artefacts["run.json"]
        return told

    return see_through


async def test_without_a_judge_what_was_expected_is_not_passed(see: Callable[..., Any]) -> None:
    run = (await see(None, ASKED))["run"]
    assert (run["status"], run["success"], run["cause"]) == ("completed", None, None)
    assert run["failure"]["kind"] == "not_judged" and run["detail"].startswith("expected_outcome_prompt was not")
    assert run["asked"]["expected_outcome"] == PROMPT


@pytest.mark.parametrize(("answer", "success"), [("yes", True), ("unreached", None), ("no", False)])
async def test_with_a_judge_it_is_asked_and_its_answer_counts(
    see: Callable[..., Any], answer: str, success: bool | None
) -> None:
    with serve(outcome(answer)) as endpoint:
        run = (await see(endpoint.settings(), ASKED))["run"]
    assert len(endpoint.bodies) == 1 and PROMPT in prompt(endpoint.bodies[0])
    assert run["success"] is success
    assert run["expected_outcome"]["statements"][0]["reason"] == "so I hear"
    assert run["judge"]["questions"] == 1
    RunReport.model_validate(run)


async def test_a_judge_that_is_away_passes_nothing(see: Callable[..., Any]) -> None:
    run = (await see(JudgeSettings(base_url="http://127.0.0.1:9/v1", model="m", timeout_s=1), ASKED))["run"]
    assert run["success"] is None and "the judge gave no answer" in run["detail"]


async def test_a_judge_that_can_not_be_made_is_said_before_anybody_is_called(see: Callable[..., Any]) -> None:
    told = await see(JudgeSettings(service="no.such.Service"), ASKED)
    assert told["run"] is None and "judge" in told["error"]["detail"]


async def test_the_judge_is_not_asked_where_nothing_was_expected_or_nothing_took_place(
    see: Callable[..., Any], record: RecordDouble
) -> None:
    with serve(outcome("yes")) as endpoint:
        lost = [CallEnded(at_ns=1_000_000_000, reason=EndedReason.ICE_FAILED)]
        run = (await see(endpoint.settings(), ASKED, lost))["run"]
        assert (run["status"], run["success"]) == ("failed", None)
        record.outcomes.clear()
        record.ended.clear()
        assert (await see(endpoint.settings(), {}))["run"]["success"] is True
    assert endpoint.bodies == []


async def test_conditions_in_words_are_asked_about_one_by_one(see: Callable[..., Any]) -> None:
    facts = [AgentSaid(at_ns=2, text="Your name, please?", source=Source.HEARD), *CALLER_HUNG_UP]
    asked = {"conditions": [{"turn": 0, "where": "conditions[1].condition", "when": "The agent asks for the name"}]}
    with serve(verdict("yes")) as endpoint:
        run = (await see(endpoint.settings(), asked, facts))["run"]
    assert "The agent asks for the name" in prompt(endpoint.bodies[0])
    assert (run["success"], run["not_honoured"]) == (True, [])
    assert [one["answer"] for one in run["judgements"]] == ["yes"]


async def test_cancelling_while_the_judge_is_asked_leaves_the_run_undecided(
    see: Callable[..., Any], record: RecordDouble
) -> None:
    def hang(_: Body) -> Reply:
        return HANGS

    with serve(hang) as endpoint:

        async def cancel() -> None:
            await until(lambda: endpoint.bodies)
            record.cancelled.add(7)

        with anyio.fail_after(20):
            run = (await see(endpoint.settings(timeout_s=60), ASKED, CALLER_HUNG_UP, cancel))["run"]
        endpoint.closed.set()
    assert (run["status"], run["success"]) == ("completed", None)
