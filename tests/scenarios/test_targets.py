"""Where a suite file says its agent is: fixed rooms, and agents on Pipecat Cloud."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from runner.errors import UsageError
from runner.rooms.urls import RoomKind
from runner.scenarios.suites import Suite, load_suite
from runner.scenarios.targets import AgentInRooms, AgentOnPipecatCloud, FixedRoom
from runner.settings import Settings

A, B = "https://acme.daily.co/a", "https://acme.daily.co/b"


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PUBLIC", "PRIVATE", "ROOM_A"):
        monkeypatch.setenv(name, f"s3cr3t-{name}")
    monkeypatch.delenv("ABSENT", raising=False)


def load(folder: Path, agent: str, more: str = "", **options: Any) -> Suite:
    (folder / "hello.yaml").write_text("name: hello\nturns: [{ expect: [{ event: response }] }]\n")
    path = folder / "suite.yaml"
    path.write_text(f"name: night\nagent:\n{agent}\n{more}\nscenarios: [hello.yaml]\n")
    return load_suite(path, Settings(), **options)


def test_an_agent_on_pipecat_cloud_is_named(tmp_path: Path) -> None:
    suite = load(
        tmp_path, "  pipecat_cloud: luigi\n  token: env:PUBLIC\n  private_key: env:PRIVATE\n  data: { a: 1 }"
    )
    assert suite.agent == AgentOnPipecatCloud("luigi", RoomKind.DAILY, SecretStr("s3cr3t-PRIVATE"))
    assert suite.token == SecretStr("s3cr3t-PUBLIC")
    assert suite.runs[0].data == {"a": 1}
    assert suite.most_at_once > 1
    assert "s3cr3t" not in repr(suite)


def test_pipecat_cloud_may_be_asked_for_webrtc(tmp_path: Path) -> None:
    suite = load(tmp_path, "  pipecat_cloud: luigi\n  transport: webrtc\n  publish: { type: x }", "concurrency: 3")
    assert suite.agent == AgentOnPipecatCloud("luigi", RoomKind.SMALLWEBRTC)


def rooms(*lines: str) -> str:
    return "  rooms:\n" + "\n".join(f"    - {line}" for line in lines)


def test_there_are_as_many_runs_at_a_time_as_rooms(tmp_path: Path) -> None:
    agent = rooms(f"{{ url: '{A}', token: env:ROOM_A }}", f"{{ url: '{B}' }}") + "\n  token: env:PUBLIC"
    suite = load(tmp_path, agent, "concurrency: 2")
    assert suite.agent == AgentInRooms((FixedRoom(A, SecretStr("s3cr3t-ROOM_A")), FixedRoom(B)))
    assert (suite.concurrency, suite.most_at_once) == (2, 2)
    assert load(tmp_path, agent, "concurrency: auto").most_at_once == 2
    with pytest.raises(UsageError, match=r"suite\.yaml:4: rooms: 2 rooms hold 2 calls at a time, not 3; list more"):
        load(tmp_path, agent, concurrency=3)


def test_one_daily_room_holds_one_call_at_a_time(tmp_path: Path) -> None:
    assert load(tmp_path, f"  url: {A}").most_at_once == 1
    with pytest.raises(UsageError, match=r"suite\.yaml:3: url: one Daily room holds one call at a time, not 2"):
        load(tmp_path, f"  url: {A}", "concurrency: 2")


@pytest.mark.parametrize(
    ("agent", "line", "says"),
    [
        ("  pipecat_cloud: a/b", 3, "must be the agent's name there"),
        ("  pipecat_cloud: luigi\n  url: http://a", 3, "and only one"),
        ("  pipecat_cloud: luigi\n  private_key: pk_planted", 4, "private_key must be env:NAME"),
        (
            "  pipecat_cloud: luigi\n  private_key: env:ABSENT",
            4,
            "variable ABSENT is not set",
        ),
        ("  pipecat_cloud: luigi\n  env: { A: b }", 4, "env belongs to command, not to pipecat_cloud"),
        ("  pipecat_cloud: luigi\n  transport: carrier", 4, "webrtc or daily"),
        ("  pipecat_cloud: luigi\n  publish: null\n  data: [1]", 5, "data must be a mapping"),
        ("  url: http://a\n  private_key: env:PRIVATE", 4, "private_key belongs to pipecat_cloud, not to url"),
        ("  rooms: []", 3, "rooms must hold at least one"),
        ("  rooms: https://acme.daily.co/a", 3, "rooms must be a list"),
        (rooms(A), 4, "must be a mapping"),
        (rooms("{ token: env:ROOM_A }"), 4, "needs 'url'"),
        (rooms(f"{{ url: '{A}', token: planted }}"), 4, "token must be env:NAME"),
        (rooms(f"{{ url: '{A}' }}", f"{{ url: '{A}/' }}"), 5, "stands in the list already"),
        (rooms("{ url: 'http://a/nowhere' }"), 4, "is not a room"),
        (rooms(f"{{ url: '{A}' }}") + "\n  data: { a: 1 }", 5, "a Daily room is there already"),
        (rooms(f"{{ url: '{A}' }}", "{ url: 'http://a/api/offer' }") + "\n  publish: hello", 6, '"type"'),
    ],
)
def test_a_target_that_can_t_be_is_told_with_its_line(tmp_path: Path, agent: str, line: int, says: str) -> None:
    with pytest.raises(UsageError) as error:
        load(tmp_path, agent)
    assert str(error.value).startswith(f"{tmp_path / 'suite.yaml'}:{line}: ")
    assert says in str(error.value)
    assert "planted" not in str(error.value)
