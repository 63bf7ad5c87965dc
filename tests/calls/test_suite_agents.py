"""Agents that a suite starts: by command, or a session at an address; and what becomes of those that die."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from bots.timeline import (
    AgentProcessEnded,
    EndedReason,
)
from runner.calls.run_file import read_run
from runner.calls.timeline import read_timeline
from runner.errors import RunnerError
from runner.evaluation.failure import FailureKind
from runner.evaluation.verdicts import Cause
from runner.sessions import local_agent
from tests.calls.stubs import (
    PROCESS_ENDED,
    StubCall,
    StubCalls,
    cancelled_at,
    names_of,
    passes,
    runner,
    slowly,
    start_server,
    until_cancelled,
)

pytestmark = pytest.mark.anyio

AGENT = """
import os, socket, sys, time
port, pids, *how = sys.argv[1:]
print("here I am", flush=True)
with open(pids, "a") as file:
    file.write(f"{os.getpid()}\\n")
if "broken" in how:
    sys.exit("the model is not there")
if "taken" in how:
    sys.exit("OSError: [Errno 98] Address already in use")
if "killed" in how:
    sys.exit(137)
if "raises" in how:
    server = socket.create_server(("127.0.0.1", int(port)))
    while not os.path.exists(pids + ".die"):
        time.sleep(0.01)
    raise KeyError("order")
if "deaf" in how:
    time.sleep(60)
server = socket.create_server(("127.0.0.1", int(port)))
while True:
    server.accept()[0].close()
"""


class Agents:
    """A small agent to start by command, and the processes that were started."""

    def __init__(self, folder: Path) -> None:
        self._pids = folder / "pids"
        self._program = folder / "agent.py"
        self._program.write_text(AGENT)

    def yaml(self, *how: str) -> str:
        command = ["{python}", "-S", "-E", str(self._program), "{port}", str(self._pids), *how]
        return f"agent: {{ command: {json.dumps(command)} }}"

    @property
    def pids(self) -> list[int]:
        return [int(pid) for pid in self._pids.read_text().split()] if self._pids.exists() else []

    def alive(self) -> list[int]:
        return [pid for pid in self.pids if Path(f"/proc/{pid}").exists() and not self._is_zombie(pid)]

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    @staticmethod
    def _is_zombie(pid: int) -> bool:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()


@pytest.fixture
def agents(tmp_path: Path) -> Agents:
    return Agents(tmp_path)


def ports(calls: StubCalls) -> list[str]:
    return [call.request.address.url for call in calls.made]


async def test_an_agent_starts_once_a_slot_and_ends_with_the_suite(tmp_path: Path, agents: Agents) -> None:
    calls = StubCalls(slowly)
    result = await runner(tmp_path, calls, "abcdefgh", agents.yaml(), "concurrency: 2").make()
    assert result.exit_code == 0
    assert len(agents.pids) == 2
    assert len(set(ports(calls))) == 2
    assert agents.alive() == []
    assert (tmp_path / "out" / "agent-1.log").read_text() == "here I am\n"


async def test_no_more_agents_are_started_than_there_are_runs(tmp_path: Path, agents: Agents) -> None:
    await runner(tmp_path, StubCalls(), "a", agents.yaml(), "concurrency: 8").make()
    assert len(agents.pids) == 1


async def test_an_agent_that_dies_in_a_call_does_not_spoil_the_next(tmp_path: Path, agents: Agents) -> None:
    async def dies(call: StubCall) -> tuple[EndedReason, bool]:
        agents.kill(agents.pids[-1])
        await anyio.sleep(0.2)
        return EndedReason.AGENT_VANISHED, False

    calls = StubCalls(b=dies)
    result = await runner(tmp_path, calls, "abcd", agents.yaml()).make()
    assert [run.success for run in result.runs] == [True, False, True, True]
    assert len(agents.pids) == 2
    assert ports(calls)[0] == ports(calls)[1]
    assert ports(calls)[2] == ports(calls)[3]
    died = result.runs[1]
    assert (died.agent_exit_code, died.agent_log) == (-signal.SIGKILL, "agent-1.log")
    assert died.folder is not None
    (end,) = [e for e in read_timeline(tmp_path / "out" / died.folder / "timeline.jsonl") if e.type == PROCESS_ENDED]
    assert isinstance(end, AgentProcessEnded)
    assert (end.exit_code, end.log_tail) == (-signal.SIGKILL, ""), "what it said before is not what it died of"


async def test_what_an_agent_died_of_is_a_fact_and_the_headline(
    tmp_path: Path, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.calls.suite_attempts.EXIT_GRACE_S", 10)

    async def raises(call: StubCall) -> tuple[EndedReason, bool]:
        # It takes a moment longer to die than its call does to end.
        (tmp_path / "pids.die").touch()
        return EndedReason.AGENT_LEFT, False

    (run,) = (await runner(tmp_path, StubCalls(raises), "a", agents.yaml("raises")).make()).runs
    assert (run.success, run.cause, run.agent_exit_code) == (False, Cause.AGENT, 1)
    assert run.failure is not None and run.failure.kind is FailureKind.CRASHED
    assert run.detail == "turn 1: the agent's process ended with exit code 1: KeyError: 'order'"
    assert run.folder is not None
    (end,) = [e for e in read_timeline(tmp_path / "out" / run.folder / "timeline.jsonl") if e.type == PROCESS_ENDED]
    assert isinstance(end, AgentProcessEnded)
    assert end.log_tail.splitlines()[0].startswith("Traceback"), "and not what it printed when it was started"
    assert read_run(tmp_path / "out" / run.folder).detail == run.detail


@pytest.mark.parametrize("how", ["taken", "killed"])
async def test_an_agent_that_could_not_help_its_end_is_not_blamed(tmp_path: Path, agents: Agents, how: str) -> None:
    (run,) = (await runner(tmp_path, StubCalls(), "a", agents.yaml(how)).make()).runs
    assert (run.success, run.ended_reason, run.cause) == (None, EndedReason.ROOM_UNREACHABLE, Cause.ROOM)
    assert run.detail is not None and run.detail.startswith("the agent ended with exit code ")


async def test_an_agent_that_dies_before_its_call_begins_has_failed(
    tmp_path: Path, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.calls.suite_attempts.EXIT_GRACE_S", 10)

    async def dies_of_the_request(call: StubCall) -> tuple[EndedReason, bool]:
        (tmp_path / "pids.die").touch()
        return EndedReason.ROOM_UNREACHABLE, False

    (run,) = (await runner(tmp_path, StubCalls(dies_of_the_request), "a", agents.yaml("raises")).make()).runs
    assert (run.success, run.cause, run.agent_exit_code) == (False, Cause.AGENT, 1)
    assert run.detail == "there was no call: the agent's process ended with exit code 1: KeyError: 'order'"


async def test_what_it_prints_of_its_secrets_as_it_dies_is_masked(tmp_path: Path, agents: Agents) -> None:
    agent = agents.yaml("broken")[:-2] + ", env: { MODEL_KEY: the model } }"
    (run,) = (await runner(tmp_path, StubCalls(), "a", agent).make()).runs
    assert run.detail is not None and "the model" not in run.detail and run.detail.endswith("is not there")
    assert "the model" not in (tmp_path / "out" / "suite.json").read_text()


async def test_a_run_that_finds_its_agent_dead_is_made_again(tmp_path: Path, agents: Agents) -> None:
    async def finds_it_dead(call: StubCall) -> tuple[EndedReason, bool]:
        if len(agents.pids) > 1:
            return await passes(call)
        # It dies after it was looked at, and before it is called.
        agents.kill(agents.pids[-1])
        await anyio.sleep(0.1)
        return EndedReason.ROOM_UNREACHABLE, False

    calls = StubCalls(b=finds_it_dead)
    result = await runner(tmp_path, calls, "abc", agents.yaml()).make()
    assert [call.name for call in calls.made] == ["a", "b", "b", "c"]
    assert [run.success for run in result.runs] == [True, True, True]
    assert len(agents.pids) == 2
    (attempt,) = result.runs[1].earlier_attempts
    assert (attempt.folder, attempt.repeated_because) == (
        calls.made[1].run_id,
        "the agent had died of the run before",
    )
    assert (attempt.success, attempt.cause, attempt.ended_reason) == (
        None,
        Cause.ROOM,
        EndedReason.ROOM_UNREACHABLE,
    )
    assert not result.runs[0].earlier_attempts and not result.runs[2].earlier_attempts
    assert (tmp_path / "out" / calls.made[1].run_id / "run.json").exists()


async def test_a_first_attempt_is_known_also_where_there_is_no_second(tmp_path: Path, agents: Agents) -> None:
    async def finds_it_dead(call: StubCall) -> tuple[EndedReason, bool]:
        agents.kill(agents.pids[-1])
        (tmp_path / "agent.py").write_text("raise SystemExit('gone')")
        await anyio.sleep(0.1)
        return EndedReason.ROOM_UNREACHABLE, False

    calls = StubCalls(b=finds_it_dead)
    result = await runner(tmp_path, calls, "ab", agents.yaml()).make()
    assert [call.name for call in calls.made] == ["a", "b"]
    assert result.runs[1].folder is None
    assert [attempt.folder for attempt in result.runs[1].earlier_attempts] == [calls.made[1].run_id]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (EndedReason.AGENT_NEVER_JOINED, True),
        (EndedReason.AGENT_NEVER_SPOKE, True),
        (EndedReason.AGENT_VANISHED, True),
        (EndedReason.AGENT_FROZE, True),
        (EndedReason.ROOM_UNREACHABLE, True),
        (EndedReason.CALLER_HUNG_UP, False),
    ],
)
async def test_the_agents_output_is_named_where_it_may_explain_a_run(
    tmp_path: Path, agents: Agents, reason: EndedReason, told: bool
) -> None:
    async def ends(call: StubCall) -> tuple[EndedReason, bool]:
        return reason, False

    (run,) = (await runner(tmp_path, StubCalls(ends), "a", agents.yaml()).make()).runs
    assert run.agent_log == ("agent-1.log" if told else None)
    (tmp_path / "out").rename(tmp_path / "before")
    (run,) = (await runner(tmp_path, StubCalls(ends), "a").make()).runs
    assert run.agent_log is None


async def test_what_an_agent_printed_is_kept_to_a_limit(
    tmp_path: Path, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.calls.suite.MAX_LOG_BYTES", 1_000)
    log = tmp_path / "out" / "agent-1.log"
    sizes: list[int] = []

    async def chatters(call: StubCall) -> tuple[EndedReason, bool]:
        sizes.append(log.stat().st_size)
        with log.open("a") as file:
            file.writelines(f"line {n}\n" for n in range(1_000))
        return await passes(call)

    await runner(tmp_path, StubCalls(chatters), agent=agents.yaml()).make()
    assert max(sizes) < 1_000
    assert len(sizes) == 3


async def test_an_agent_that_dies_of_calls_is_not_called_forever(tmp_path: Path, agents: Agents) -> None:
    async def dies_at_once(call: StubCall) -> tuple[EndedReason, bool]:
        agents.kill(agents.pids[-1])
        await anyio.sleep(0.1)
        return EndedReason.ROOM_UNREACHABLE, False

    calls = StubCalls(dies_at_once)
    result = await runner(tmp_path, calls, "ab", agents.yaml()).make()
    assert [call.name for call in calls.made] == ["a", "b"]
    assert [run.ended_reason for run in result.runs] == [EndedReason.ROOM_UNREACHABLE] * 2


async def test_an_agent_that_froze_is_not_used_again(tmp_path: Path, agents: Agents) -> None:
    async def freezes(call: StubCall) -> tuple[EndedReason, bool]:
        return EndedReason.AGENT_FROZE, True

    await runner(tmp_path, StubCalls(a=freezes), "abc", agents.yaml()).make()
    assert len(agents.pids) == 2
    assert agents.alive() == []


async def test_an_agent_that_dies_at_its_start_has_failed(tmp_path: Path, agents: Agents) -> None:
    calls = StubCalls()
    result = await runner(tmp_path, calls, "ab", agents.yaml("broken")).make()
    assert calls.made == [] and result.exit_code == 1
    assert len(agents.pids) == 2, "each run tries"
    for run in result.runs:
        assert (run.success, run.ended_reason, run.cause) == (False, EndedReason.ROOM_UNREACHABLE, Cause.AGENT)
        assert run.failure is not None and run.failure.kind is FailureKind.CRASHED
        words = "there was no call: the agent's process ended with exit code 1: the model is not there"
        assert run.detail == run.failure.headline == words
        assert (run.agent_exit_code, run.agent_log) == (1, "agent-1.log")
    assert "here I am" in (tmp_path / "out" / "agent-1.log").read_text()


async def test_a_program_that_is_not_there_is_a_result(tmp_path: Path) -> None:
    agent = 'agent: { command: [/no/such/program, "{port}"] }'
    result = await runner(tmp_path, StubCalls(), "a", agent).make()
    assert result.runs[0].detail is not None
    assert result.runs[0].detail.endswith("/no/such/program"), "and no log, as there is none"


async def test_an_agent_that_never_listens_is_ended(
    tmp_path: Path, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_agent, "START_TIMEOUT_S", 0.3)
    result = await runner(tmp_path, StubCalls(), "a", agents.yaml("deaf")).make()
    assert result.runs[0].detail is not None and "does not listen" in result.runs[0].detail
    assert agents.alive() == []


async def test_a_suite_stopped_while_an_agent_starts_has_no_result(tmp_path: Path, agents: Agents) -> None:
    calls = StubCalls()
    result = await cancelled_at(runner(tmp_path, calls, "ab", agents.yaml("deaf")), lambda: bool(agents.pids))
    assert calls.made == []
    assert agents.alive() == []
    assert result.runs == [] and names_of(result.open) == ["a", "b"]


async def test_agents_end_when_the_suite_is_cut_off_from_outside(tmp_path: Path, agents: Agents) -> None:
    calls = StubCalls(until_cancelled)
    the_runner = runner(tmp_path, calls, "ab", agents.yaml())
    with anyio.move_on_after(5) as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(the_runner.make)
            while not calls.live:
                await anyio.sleep(0.01)
            scope.cancel()
    assert agents.alive() == []


async def test_all_agents_can_be_killed_at_once(tmp_path: Path, agents: Agents) -> None:
    agent = local_agent.LastingAgent(
        ["{python}", "-S", "-E", str(tmp_path / "agent.py"), "{port}", str(tmp_path / "pids")], {}, tmp_path / "log"
    )
    async with agent:
        await agent.address()
        local_agent.kill_local_agents()
        with anyio.fail_after(5):
            while agent.exit_code is None:
                await anyio.sleep(0.01)
        assert agent.exit_code == -signal.SIGKILL
        assert not await agent.is_alive()


async def test_the_environment_is_filled_in(tmp_path: Path) -> None:
    program = tmp_path / "by_env.py"
    program.write_text(
        "import os, socket\n"
        "server = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\n"
        "while True: server.accept()\n"
    )
    async with local_agent.LastingAgent(["{python}", str(program)], {"PORT": "{port}"}, tmp_path / "log") as agent:
        assert (await agent.address()).startswith("http://127.0.0.1:")
    with pytest.raises(RunnerError, match="KeyError"):
        async with local_agent.LastingAgent(["{python}", str(program)], {}, tmp_path / "log") as agent:
            await agent.address()


# Sessions started at an address.


async def test_each_run_gets_a_session_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_TOKEN", "pk_s3cr3t")
    server = {"urls": "turn:a", "username": "u", "credential": "c"}
    with start_server(lambda n: (200, {"sessionId": f"s{n}", "iceConfig": {"iceServers": [server]}})) as (
        base,
        posted,
    ):
        agent = f"agent: {{ start_url: '{base}/my-agent/start', token: env:AGENT_TOKEN, data: {{ a: 1 }} }}"
        calls = StubCalls()
        result = await runner(tmp_path, calls, "ab", agent).make()
    assert result.exit_code == 0
    assert posted == [("/my-agent/start", "Bearer pk_s3cr3t", {"body": {"a": 1}})] * 2
    addresses = [call.request.address for call in calls.made]
    assert [a.url for a in addresses] == [f"{base}/my-agent/sessions/s{n}/api/offer" for n in (1, 2)]
    assert [a.ice_servers[0].urls for a in addresses] == ["turn:a"] * 2
    assert all(a.token is not None and a.request_data is None for a in addresses)


async def test_a_session_in_a_daily_room_is_entered_with_its_own_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_TOKEN", "pk_s3cr3t")
    answer = {"dailyRoom": "https://acme.daily.co/r", "dailyToken": "room-s3cr3t", "sessionId": "x"}
    with start_server(lambda n: (200, answer)) as (base, posted):
        agent = f"agent: {{ start_url: '{base}/start', transport: daily, token: env:AGENT_TOKEN }}"
        calls = StubCalls()
        await runner(tmp_path, calls, "a", agent).make()
    assert posted[0][2] == {"createDailyRoom": True, "body": {}}
    address = calls.made[0].request.address
    assert address.url == "https://acme.daily.co/r"
    assert address.token is not None and address.token.get_secret_value() == "room-s3cr3t"
    assert "s3cr3t" not in (tmp_path / "out" / "suite.json").read_text()


@pytest.mark.parametrize(
    ("status", "content", "reason"),
    [
        (401, {}, EndedReason.TOKEN_REFUSED),
        (503, {"detail": "no room"}, EndedReason.ROOM_UNREACHABLE),
        (200, {"hello": 1}, EndedReason.ROOM_UNREACHABLE),
    ],
)
async def test_a_session_not_started_is_a_result_and_the_next_is_tried(
    tmp_path: Path, status: int, content: Any, reason: EndedReason
) -> None:
    def answer(n: int) -> tuple[int, Any]:
        return (status, content) if n == 1 else (200, {"sessionId": "x"})

    with start_server(answer) as (base, _):
        result = await runner(tmp_path, StubCalls(), "ab", f"agent: {{ start_url: '{base}/start' }}").make()
    assert [run.success for run in result.runs] == [None, True]
    assert (result.runs[0].ended_reason, result.runs[0].cause) == (reason, Cause.ROOM)
