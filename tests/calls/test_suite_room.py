"""Where the runs of a suite find their agent: in fixed rooms, on Pipecat Cloud, with a bot for each group."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from bots.timeline import EndedReason
from runner.calls.suite import SuiteRunner
from runner.errors import UsageError
from runner.scenarios.suites import Suite, load_suite
from runner.scenarios.targets import AgentByCommand, AgentOnPipecatCloud
from runner.settings import Settings
from tests.calls.stubs import StubCall, StubCalls, passes, runner, slowly, start_server

pytestmark = pytest.mark.anyio

ROOMS = """\
agent:
  token: env:SUITE_TOKEN
  rooms: [{ url: 'https://acme.daily.co/a', token: env:ROOM_A }, { url: 'https://acme.daily.co/b' }]
"""


def token_of(call: StubCall) -> str | None:
    token = call.request.address.token
    return None if token is None else token.get_secret_value()


async def test_no_room_holds_two_calls_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUITE_TOKEN", "of-the-suite")
    monkeypatch.setenv("ROOM_A", "of-a")
    live: list[str] = []
    tokens: dict[str, str | None] = {}

    async def in_its_room(call: StubCall) -> tuple[EndedReason, bool]:
        url = call.request.address.url
        assert url not in live
        tokens[url] = token_of(call)
        live.append(url)
        await anyio.sleep(0.02)
        live.remove(url)
        return await passes(call)

    calls = StubCalls(in_its_room)
    result = await runner(tmp_path, calls, "abcdef", ROOMS, more="concurrency: 2").make()
    assert (result.exit_code, calls.most_at_a_time) == (0, 2)
    assert tokens == {"https://acme.daily.co/a": "of-a", "https://acme.daily.co/b": "of-the-suite"}


def on_cloud(tmp_path: Path, calls: StubCalls, base: str, token: str | None) -> SuiteRunner:
    one = runner(tmp_path, calls, "a", "agent: { pipecat_cloud: luigi, data: { a: 1 }, participant_name: Luigi }")
    assert isinstance(one.suite.agent, AgentOnPipecatCloud)
    agent = replace(one.suite.agent, cloud_url=base, private_key=SecretStr("sk_s3cr3t"))
    suite = replace(one.suite, agent=agent, token=None if token is None else SecretStr(token))
    return SuiteRunner(suite, Settings(), tmp_path / "out", make_call=calls)


async def test_a_session_on_pipecat_cloud_is_started_and_ended(tmp_path: Path) -> None:
    calls = StubCalls()
    answer = {"dailyRoom": "https://acme.daily.co/r", "dailyToken": "room-s3cr3t", "sessionId": "ab-12"}
    with start_server(lambda _: (200, answer)) as (base, asked):
        result = await on_cloud(tmp_path, calls, base, "pk_s3cr3t").make()
    assert result.exit_code == 0
    assert asked == [
        ("/v1/public/luigi/start", "Bearer pk_s3cr3t", {"createDailyRoom": True, "body": {"a": 1}}),
        ("/v1/agents/luigi/sessions/ab-12", "Bearer sk_s3cr3t", None),
    ]
    request = calls.made[0].request
    assert (request.address.url, token_of(calls.made[0])) == ("https://acme.daily.co/r", "room-s3cr3t")
    assert request.address.participant_name == "Luigi"
    assert request.session_end_state is not None
    assert "s3cr3t" not in (tmp_path / "out" / "suite.json").read_text()


async def test_pipecat_cloud_needs_a_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"suite\.yaml: Pipecat Cloud starts sessions with a public key"):
        await on_cloud(tmp_path, StubCalls(), "http://127.0.0.1:9", None).make()
    assert not (tmp_path / "out").exists()


async def test_a_refusal_of_pipecat_cloud_is_a_result(tmp_path: Path) -> None:
    with start_server(lambda _: (401, {})) as (base, _):
        result = await on_cloud(tmp_path, StubCalls(), base, "pk_s3cr3t").make()
    assert [(run.success, run.ended_reason) for run in result.runs] == [(None, EndedReason.TOKEN_REFUSED)]


# A bot for each group of runs.


def grouped(tmp_path: Path, limits: dict[str, int | None]) -> Suite:
    one = runner(tmp_path, StubCalls(), "".join(limits), more="concurrency: 3").suite
    groups = sorted({name.lower() for name in limits})
    runs: list[Any] = []
    for run in one.runs:
        name = run.scenario.short_name
        runs.append(replace(run, group=groups.index(name.lower()), at_a_time=limits[name]))
    return replace(one, runs=tuple(runs))


async def test_a_group_has_no_more_runs_at_a_time_than_its_own(tmp_path: Path) -> None:
    both = anyio.Event()

    async def alone(call: StubCall) -> tuple[EndedReason, bool]:
        assert sum(name in "aA" for name in calls.live) == 1
        await both.wait()
        return await slowly(call)

    async def together(call: StubCall) -> tuple[EndedReason, bool]:
        if {"b", "B"} <= set(calls.live):
            both.set()
        await both.wait()
        return await passes(call)

    calls = StubCalls(a=alone, A=alone, b=together, B=together)
    suite = grouped(tmp_path, {"a": 1, "A": 1, "b": None, "B": None})
    result = await SuiteRunner(suite, Settings(), tmp_path / "out", make_call=calls).make()
    assert (len(result.runs), result.exit_code) == (4, 0)
    assert calls.made[-1].name == "A", "what may begin does not wait behind what may not"


PROGRAM = """\
import os, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[2])))
print(sys.argv[1], os.getcwd(), flush=True)
while True: server.accept()
"""


async def test_runs_with_bots_of_their_own_meet_them(tmp_path: Path) -> None:
    program, elsewhere = tmp_path / "bot.py", tmp_path / "elsewhere"
    program.write_text(PROGRAM)
    elsewhere.mkdir()

    def bot(name: str, folder: Path | None = None) -> AgentByCommand:
        return AgentByCommand((sys.executable, "-S", str(program), name, "{port}"), folder=folder)

    one = runner(tmp_path, StubCalls(), "abcd").suite
    bots = [bot("first"), bot("first"), bot("second"), bot("second", elsewhere)]
    runs = tuple(replace(run, agent=agent) for run, agent in zip(one.runs, bots, strict=True))
    suite = replace(one, agent=bots[0], runs=runs)
    result = await SuiteRunner(suite, Settings(), tmp_path / "out", make_call=StubCalls()).make()
    assert result.exit_code == 0
    here = Path.cwd()
    assert (tmp_path / "out" / "agent-1.log").read_text().splitlines() == [
        f"first {here}",
        f"second {here}",
        f"second {elsewhere}",
    ]


async def test_what_a_file_says_without_effect_is_a_warning(tmp_path: Path) -> None:
    one = runner(tmp_path, StubCalls(), "a")
    suite = replace(load_suite(one.suite.path, Settings()), notes=("record: every call is recorded all the same",))
    result = await SuiteRunner(suite, Settings(), tmp_path / "out", make_call=StubCalls()).make()
    assert result.warnings == ["record: every call is recorded all the same"]
