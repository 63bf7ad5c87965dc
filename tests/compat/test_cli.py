"""The unmodified command-line client in a process of its own: what it prints, and its exit codes."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from cekura import Cekura

from runner.records.database import Database, database_url
from runner.records.tables import ResultRow
from runner.settings import ServerSettings
from tests.compat.conftest import Server

pytestmark = pytest.mark.webrtc

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]

MORE_THAN_A_PAGE = 55


@pytest.fixture(scope="module")
def cekura(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return what runs the client, as a pipeline would: by its name, with two variables and no configuration."""
    home = tmp_path_factory.mktemp("home")
    program = shutil.which("cekura", path=str(Path(sys.executable).parent))
    assert program is not None
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CEKURA_", "SCENARIO_RUNNER_"))}
    env = {**kept, "CEKURA_API_URL": server.url, "CEKURA_API_KEY": server.key, "HOME": str(home), "COLUMNS": "240"}

    def run(*arguments: object, **variables: str) -> Done:
        return subprocess.run(
            [program, *map(str, arguments)],
            env={**env, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    return run


STARTS = {
    "met": ("answers", "--fail-on-threshold", "0.9"),
    "missed": ("wants a table", "--fail-on-threshold", "0.9"),
    "unasked": ("wants a table",),
    "unjudged": ("sings", "--fail-on-threshold", "1.0"),
    "too long": ("waits", "--fail-on-threshold", "0.9", "--timeout", "1"),
}
ONLY_SLOW = ("met", "unasked")


class Waiting:
    """Clients that wait for their calls, all at once: each of them looks only every five seconds.

    Args:
        run: Runs a client.
        agent: The agent.
        scenarios: The scenarios, by name.
        names: What to start, of ``STARTS``.
    """

    def __init__(self, run: Run, agent: int, scenarios: dict[str, int], names: Sequence[str]):
        self._pool = ThreadPoolExecutor(max_workers=6)
        self._started: dict[str, Future[Done]] = {
            name: self._pool.submit(
                run,
                *("run", "start", "--agent-id", agent, "--scenario-ids", scenarios[scenario]),
                *("--mode", "pipecat", "--wait", "--name", name, *options),
            )
            for name, (scenario, *options) in STARTS.items()
            if name in names
        }

    def __getitem__(self, name: str) -> Done:
        return self._started[name].result()

    def end(self) -> None:
        self._pool.shutdown()


@pytest.fixture(scope="module")
def waiting(cekura: Run, agent: int, scenarios: dict[str, int], request: pytest.FixtureRequest) -> Any:
    slow = any(item.get_closest_marker("slow") for item in request.session.items if item.path == request.path)
    started = Waiting(cekura, agent, scenarios, [name for name in STARTS if slow or name not in ONLY_SLOW])
    yield started
    started.end()


def result_id(done: Done) -> int:
    found = re.search(r"Run started — result ID: (\d+)", done.stdout)
    assert found, (done.returncode, done.stdout, done.stderr)
    return int(found[1])


def json_of(done: Done) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_lists_are_printed_as_json_and_as_tables(
    waiting: Waiting, cekura: Run, agent: int, scenarios: dict[str, int]
) -> None:
    listed = json_of(cekura("scenarios", "list", "--agent-id", agent, "--format", "json"))["results"]
    assert set(scenarios.values()) <= {item["id"] for item in listed}
    listed = json_of(cekura("agents", "list", "--project-id", 1, "--format", "json"))["results"]
    (mine,) = [item for item in listed if item["id"] == agent]
    assert mine["telephony"] == {"phone_number": "+11234567890", "inbound": True}
    table = cekura("agents", "list", "--project-id", 1)
    assert table.returncode == 0 and "metronome" in table.stdout and "pipecat" in table.stdout


@pytest.mark.slow
def test_an_agent_is_made_from_a_file_of_flat_fields(waiting: Waiting, cekura: Run, tmp_path: Path) -> None:
    flat = {
        "agent_name": "from a file",
        "project": 1,
        "language": "en",
        "inbound": True,
        "assistant_provider": "pipecat",
        "pipecat_api_key": "pk_in-a-file",
        "pipecat_data": {"pipecat_agent_name": "booking-bot"},
    }
    file = tmp_path / "agent.json"
    file.write_text(json.dumps(flat))
    done = cekura("agents", "create", "--from-file", file, "--format", "json")
    made = json_of(done)
    assert made["name"] == "from a file" and made["telephony"]["inbound"] is True
    shown = {"type": "pipecat", "pipecat_agent_name": "booking-bot", "credentials_configured": True}
    assert made["provider"].items() >= shown.items()
    assert "pk_in-a-file" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (("results", "get", 987654), {}, "Not found"),
        (("agents", "list", "--project-id", 1), {"CEKURA_API_KEY": "psr_wrong"}, "Authentication failed"),
        pytest.param(
            ("agents", "list", "--project-id", 1),
            {"CEKURA_API_KEY": ""},
            "Not authenticated",
            marks=pytest.mark.slow,
        ),
        (
            ("run", "start", "--agent-id", 987654, "--scenario-ids", "987654", "--mode", "pipecat", "--wait"),
            {},
            "Request failed (400)",
        ),
    ],
)
def test_what_is_refused_is_exit_code_2(
    waiting: Waiting, cekura: Run, arguments: tuple[object, ...], variables: dict[str, str], said: str
) -> None:
    done = cekura(*arguments, **variables)
    assert done.returncode == 2 and said in done.stderr, (done.stdout, done.stderr)


@pytest.mark.slow
def test_all_pages_of_results_are_followed(waiting: Waiting, cekura: Run, sdk: Cekura, server: Server) -> None:
    agent = sdk.agents.create(name="called often")["id"]

    async def write_results() -> None:
        database = Database(database_url(ServerSettings(data_dir=server.data)))
        async with database.session() as session:
            session.add_all(
                ResultRow(
                    project_id=1, agent_id=agent, agent_name="called often", status="completed", run_type="pipecat"
                )
                for _ in range(MORE_THAN_A_PAGE)
            )
        await database.close()

    anyio.run(write_results)
    first = json_of(cekura("run", "list", "--agent-id", agent, "--format", "json"))
    assert first["count"] == MORE_THAN_A_PAGE and len(first["results"]) == 50
    assert first["next"].startswith(f"{server.url}/test_framework/v1/results?")
    listed = json_of(cekura("run", "list", "--agent-id", agent, "--all", "--format", "json"))
    assert len({item["id"] for item in listed}) == MORE_THAN_A_PAGE


@pytest.mark.slow
def test_a_threshold_that_is_met_is_exit_code_0(waiting: Waiting, cekura: Run) -> None:
    done = waiting["met"]
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "All 1 runs passed." in done.stdout
    shown = json_of(cekura("run", "results", result_id(done), "--format", "json"))
    assert (shown["status"], shown["success_rate"], shown["name"]) == ("completed", 100.0, "met")


def test_a_threshold_that_is_missed_is_exit_code_1(waiting: Waiting) -> None:
    done = waiting["missed"]
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "0/1 passed, 1 failed." in done.stdout
    assert "Pass rate 0.0% is below threshold 90.0%" in done.stderr


def test_a_run_that_nobody_judged_meets_no_threshold(waiting: Waiting, cekura: Run) -> None:
    done = waiting["unjudged"]
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "0/1 passed, 1 failed." in done.stdout
    assert "Pass rate 0.0% is below threshold 100.0%" in done.stderr
    shown = json_of(cekura("run", "results", result_id(done), "--format", "json"))
    assert (shown["success_rate"], shown["failed_runs_count"], shown["inconclusive_runs_count"]) == (0.0, 1, 1)
    (run,) = shown["runs"].values()
    assert (run["success"], run["scenario_runner"]["success"], run["expected_outcome"]["score"]) == (False, None, 50)
    assert run["error_message"].startswith("inconclusive: expected_outcome_prompt was not judged: no judge was asked")


@pytest.mark.slow
def test_failed_calls_without_a_threshold_are_exit_code_0(waiting: Waiting) -> None:
    done = waiting["unasked"]
    assert done.returncode == 0 and "0/1 passed, 1 failed." in done.stdout, (done.stdout, done.stderr)


def test_calls_that_take_too_long_exit_with_2_and_can_be_ended(waiting: Waiting, cekura: Run, sdk: Cekura) -> None:
    done = waiting["too long"]
    assert done.returncode == 2 and "did not complete within 1s" in done.stderr, (done.stdout, done.stderr)
    ended = cekura("results", "end-calls", result_id(done))
    assert ended.returncode == 0, ended.stderr
    poll_s: Any = 0.2
    assert sdk.results.wait(result_id(done), poll_interval=poll_s, timeout=10)["status"] == "cancelled"


@pytest.mark.slow
def test_a_result_is_shown_with_its_agents_project_and_its_runs(waiting: Waiting, cekura: Run) -> None:
    number = result_id(waiting["met"])
    shown = cekura("run", "results", number)
    assert shown.returncode == 0 and f"/1/results/{number}" in shown.stdout
    runs = json_of(cekura("runs", "list", "--result-id", number, "--format", "json"))["results"]
    (run,) = json_of(cekura("runs", "bulk", "--ids", runs[0]["id"], "--format", "json"))
    assert run["id"] == runs[0]["id"] and run["success"] is True


@pytest.mark.slow
def test_scenarios_are_launched_by_their_tags(
    cekura: Run, agent: int, scenarios: dict[str, int], sdk: Cekura
) -> None:
    done = cekura("run", "start", "--agent-id", agent, "--tags", "waits,no such tag", "--mode", "pipecat")
    assert done.returncode == 0, done.stderr
    result = sdk.results.get(result_id(done))
    assert [run["scenario"] for run in result["runs"].values()] == [scenarios["waits"]]
    sdk.results.end_calls(result["id"])
