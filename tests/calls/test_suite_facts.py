"""What a comparison knows of a suite: read of its folder, or of a single call's."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bots.caller.script import Listen, Play, Script, Turn
from runner.calls.request import new_run_id
from runner.calls.suite_facts import read_runs, runs_of_suite, scenario_hash, session_facts
from runner.calls.suite_file import SuiteResult
from runner.comparison.facts import RunSet, latencies_by_turn
from runner.errors import UsageError
from runner.evaluation.turns import TurnMeasures
from runner.scenarios.selection import with_runs
from runner.scenarios.suites import load_suite
from tests.calls.stubs import StubCalls, fails, loses_the_network, runner
from tests.reports.test_junit import run, suite

pytestmark = pytest.mark.anyio


def played(path: str, name: str = "s") -> Script:
    return Script(name=name, turns=(Turn(action=Play(path=Path(path), text="Hello")), Turn(action=Listen())))


def test_the_digest_is_that_of_what_is_played_and_sent() -> None:
    here = scenario_hash(played("/home/a/hello.wav"))
    assert here == scenario_hash(played("/srv/b/hello.wav")), "where a recording lies does not count"
    assert here != scenario_hash(played("/home/a/other.wav"))
    assert here != scenario_hash(played("/home/a/hello.wav"), {"fault": "slow"})
    assert scenario_hash(played("a.wav"), {"a": 1, "b": 2}) == scenario_hash(played("a.wav"), {"b": 2, "a": 1})


def test_latencies_stand_at_their_turns() -> None:
    turns = [
        TurnMeasures(turn=3, started_s=9.0, response_latency_ms=700.0),
        TurnMeasures(turn=0, started_s=1.0),
        TurnMeasures(turn=1, started_s=2.0, response_latency_ms=800.0),
    ]
    assert latencies_by_turn(turns) == (None, 800.0, None, 700.0)
    assert latencies_by_turn([]) == ()


async def test_a_suite_tells_of_every_run_and_of_its_session(tmp_path: Path) -> None:
    made = runner(tmp_path, StubCalls(b=fails, c=loses_the_network), more="retry_inconclusive: 0")
    result = await made.make()
    told = read_runs(tmp_path / "out")
    assert [(run.scenario, run.success) for run in told.runs] == [
        ("all/a", True),
        ("all/b", False),
        ("all/c", None),
    ]
    assert told.runs[1].headline is not None and told.runs[1].cause is not None
    (session,) = told.sessions
    assert {run.session for run in told.runs} == {session.id} == {made.session}
    assert (session.agent, session.transport, session.concurrency) == ("http://127.0.0.1:7860", "pipecat-runner", 1)
    assert "pipecat-ai" in session.versions and session.settings["tts"] == "offline"
    assert session.settings["seed"] == "0", "what is random about the offline voice"
    assert len({run.scenario_hash for run in told.runs}) == 3 and None not in {run.scenario_hash for run in told.runs}
    assert RunSet.model_validate_json(told.model_dump_json()) == told
    single = read_runs(tmp_path / "out" / str(result.runs[0].folder))
    assert single.runs[0].id == told.runs[0].id
    assert single.runs[0].scenario_hash == told.runs[0].scenario_hash


async def test_entries_with_other_data_are_scenarios_of_their_own(tmp_path: Path) -> None:
    entries = [{"scenario": "all.yaml"}, {"scenario": "all.yaml", "data": {"fault": "slow"}}]

    async def names(*entries: object) -> list[str]:
        made = runner(tmp_path, StubCalls(), "a")
        text = (tmp_path / "suite.yaml").read_text().replace("[all.yaml]", json.dumps(entries))
        (tmp_path / "suite.yaml").write_text(text)
        made = replace(made, suite=load_suite(made.suite.path, made.settings), folder=tmp_path / new_run_id())
        planned = [run.compared_as for run in made.suite.runs]
        assert [run.scenario for run in runs_of_suite(made.folder, await made.make()).runs] == planned
        # Also where some runs alone are made.
        last = with_runs(made.suite, list(made.suite.runs[-1:]))
        assert [run.compared_as for run in last.runs] == planned[-1:]
        return planned

    plain, slow = await names(*entries)
    assert plain == "all/a" and re.fullmatch(r"all/a \([0-9a-f]{8}\)", slow)
    assert await names(entries[0]) == [plain], "a further entry leaves the others their names"


async def test_a_suite_of_an_earlier_version_has_a_session_of_its_own(tmp_path: Path) -> None:
    await runner(tmp_path, StubCalls(), "a").make()
    path = tmp_path / "out" / "suite.json"
    told = json.loads(path.read_text())
    del told["session"], told["runs"][0]["scenario_hash"]
    path.write_text(json.dumps(told))
    read = read_runs(tmp_path / "out")
    assert read.sessions[0].id == f"night {SuiteResult.model_validate(told).started_at}"
    assert read.runs[0].scenario_hash is None


async def test_of_many_rooms_the_first_are_named(tmp_path: Path) -> None:
    rooms = [f"https://acme.daily.co/a-room-that-is-there-all-the-time-{n}" for n in range(40)]
    made = runner(tmp_path, StubCalls(), "a", agent=f"agent: {{ rooms: {json.dumps([{'url': r} for r in rooms])} }}")
    session = session_facts(made.suite, made.settings, "s", "2026-01-01T00:00:00.000Z")
    assert session.agent == f"{', '.join(rooms[:3])} and 37 more"


def test_runs_without_a_call_are_told_apart_by_their_side() -> None:
    result = suite(run(folder=None))
    base, current = (runs_of_suite(Path("out") / side, result).runs[0].id for side in ("base", "current"))
    assert base != current


def test_a_folder_without_runs_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no suite\.json and no run\.json"):
        read_runs(tmp_path)
