"""Suite files: what a right one comes to, and what every mistake in one is told as."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from runner.errors import UsageError
from runner.rooms.urls import RoomKind
from runner.scenarios.evals import load_file
from runner.scenarios.suites import MAX_RUNS, Suite, load_suite
from runner.scenarios.targets import (
    AgentAtUrl,
    AgentByCommand,
    AgentInRooms,
    AgentOnPipecatCloud,
    AgentToStart,
    FixedRoom,
)
from runner.settings import RoomSettings, Settings
from tests.scenarios.conftest import refused

BOOKING = """\
name: booking
scenarios:
  - name: four
    turns: [{ user: "For four.", expect: [{ event: response }] }]
  - name: five
    turns: [{ user: "For five.", expect: [{ event: response }] }]
"""
HELLO = """\
name: hello
turns: [{ user: "Hello.", expect: [{ event: response }] }]
"""
COMMAND = 'agent: { command: ["{python}", bot.py, --port, "{port}"] }\n'


A, B = "https://acme.daily.co/a", "https://acme.daily.co/b"


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PUBLIC", "PRIVATE", "ROOM_A"):
        monkeypatch.setenv(name, f"s3cr3t-{name}")
    monkeypatch.delenv("ABSENT", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "booking.yaml").write_text(BOOKING)
    (tmp_path / "hello.yaml").write_text(HELLO)
    return tmp_path


def load(folder: Path, text: str, settings: Settings | None = None, **options: Any) -> Suite:
    path = folder / "suite.yaml"
    path.write_text(text)
    return load_suite(path, settings or Settings(), **options)


def suite(agent: str = COMMAND, scenarios: str = "scenarios: [hello.yaml]\n", more: str = "") -> str:
    return f"name: night\n{agent.rstrip()}\n{more}{scenarios}"


def titles(loaded: Suite) -> list[str]:
    return [run.title for run in loaded.runs]


def test_a_suite_runs_every_scenario_of_a_file_in_order(folder: Path) -> None:
    loaded = load(folder, suite(scenarios="scenarios:\n  - booking.yaml\n  - hello.yaml\n"))
    assert loaded.name == "night"
    assert titles(loaded) == ["booking/four", "booking/five", "hello"]
    assert loaded.concurrency == 1
    assert loaded.token is None
    assert loaded.agent == AgentByCommand(("{python}", "bot.py", "--port", "{port}"), {})
    assert [run.index for run in loaded.runs] == [0, 1, 2]


@pytest.mark.parametrize("name", ["five", "booking/five"])
def test_one_scenario_of_a_file_can_be_named(folder: Path, name: str) -> None:
    assert titles(load(folder, suite(scenarios=f"scenarios: ['booking.yaml:{name}']\n"))) == ["booking/five"]


COLONS = """\
name: colons
scenarios:
  - name: "a: b"
    turns: [{ user: "Hello.", expect: [{ event: response }] }]
  - name: "b"
    turns: [{ user: "Hello.", expect: [{ event: response }] }]
"""


@pytest.mark.parametrize("file", ["colons.yaml", "col:ons.yaml"])
@pytest.mark.parametrize("name", ["a: b", "colons/a: b"])
def test_files_and_names_may_hold_colons(folder: Path, file: str, name: str) -> None:
    (folder / file).write_text(COLONS)
    assert titles(load(folder, suite(scenarios=f"scenarios: ['{file}:{name}']\n"))) == ["colons/a: b"]
    assert titles(load(folder, suite(scenarios=f"scenarios: ['{file}']\n"))) == ["colons/a: b", "colons/b"]


def test_a_file_is_read_once_however_often_it_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def load_and_note(path: Path, settings: Settings) -> Any:
        read.append(path.name)
        return load_file(path, settings)

    monkeypatch.setattr("runner.scenarios.suites.load_file", load_and_note)
    entries = "scenarios: [booking.yaml, 'booking.yaml:four', 'booking.yaml:five', hello.yaml]\n"
    assert len(load(folder, suite(scenarios=entries)).runs) == 5
    assert read == ["booking.yaml", "hello.yaml"]


MIXED = """\
name: mixed
scenarios:
  - name: plays
    turns: [{ user: "Hello.", expect: [{ event: response }] }]
  - name: simulated
    persona: A hurried caller.
    goal: Book a table.
    success: A table is booked.
  - name: shows
    turns: [{ image: cat.png, user: "What is it?" }]
"""


def test_what_can_t_be_played_of_a_whole_file_is_skipped(folder: Path) -> None:
    (folder / "mixed.yaml").write_text(MIXED)
    loaded = load(folder, suite(scenarios="scenarios: [mixed.yaml, hello.yaml, mixed.yaml]\n"))
    assert titles(loaded) == ["mixed/plays", "hello", "mixed/plays #2"]
    assert [run.index for run in loaded.runs] == [0, 1, 2]
    assert [skipped.name for skipped in loaded.skipped] == ["mixed/simulated", "mixed/shows"]
    assert "persona:" in (loaded.skipped[0].refusal or "")
    assert load(folder, suite()).skipped == ()


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("mixed.yaml:simulated", "mixed.yaml:5: mixed/simulated can't be played in a room: it is a simulation"),
        ("only.yaml", "none of the scenarios can be played in a room; only can't because it is a simulation"),
    ],
)
def test_a_suite_that_asks_for_nothing_else_is_a_mistake(folder: Path, entry: str, says: str) -> None:
    (folder / "mixed.yaml").write_text(MIXED)
    (folder / "only.yaml").write_text("name: only\npersona: A caller.\n")
    assert says in refused(
        lambda: load(folder, suite(scenarios=f"scenarios:\n  - {entry}\n")), f"{folder / 'suite.yaml'}:4: "
    )


def test_a_suite_that_is_taken_for_a_scenario_file_is_told_apart(folder: Path) -> None:
    load(folder, suite())
    told = refused(lambda: load_file(folder / "suite.yaml", Settings()), f"{folder / 'suite.yaml'}:1: ")
    assert told == "this is a suite, and no scenario file: run it with scenario-runner run"


def test_repeats_are_numbered_and_an_entry_may_have_its_own(folder: Path) -> None:
    loaded = load(
        folder,
        suite(
            more="repeat: 2\n", scenarios="scenarios: [hello.yaml, { scenario: 'booking.yaml:four', repeat: 3 }]\n"
        ),
    )
    assert titles(loaded) == ["hello", "hello #2", "booking/four", "booking/four #2", "booking/four #3"]


def test_the_same_scenario_twice_is_numbered_on(folder: Path) -> None:
    loaded = load(folder, suite(scenarios="scenarios: [hello.yaml, { scenario: hello.yaml, data: { a: 1 } }]\n"))
    assert titles(loaded) == ["hello", "hello #2"]
    assert [run.data for run in loaded.runs] == [None, {"a": 1}]


def test_scenarios_of_one_name_in_two_files_are_not_repeats(folder: Path) -> None:
    (folder / "other.yaml").write_text(HELLO)
    assert titles(load(folder, suite(scenarios="scenarios: [hello.yaml, other.yaml]\n"))) == ["hello", "hello"]


def test_the_command_line_goes_before_the_file(folder: Path) -> None:
    text = suite(
        more="repeat: 2\nconcurrency: 3\n",
        scenarios="scenarios: [{ scenario: hello.yaml, repeat: 9 }, booking.yaml]\n",
    )
    loaded = load(folder, text, repeat=1, concurrency=5)
    assert titles(loaded) == ["hello", "booking/four", "booking/five"]
    assert loaded.concurrency == 5
    assert load(folder, text).concurrency == 3


def test_the_number_of_runs_at_a_time_can_be_left_to_the_machine(folder: Path) -> None:
    assert load(folder, suite(more="concurrency: auto\n")).concurrency is None
    assert load(folder, suite(more="concurrency: 3\n"), concurrency="auto").concurrency is None
    assert load(folder, suite(more="concurrency: auto\n"), concurrency=2).concurrency == 2
    assert load(folder, suite()).most_at_once > 1
    daily = suite("agent: { url: 'https://acme.daily.co/room' }\n", more="concurrency: auto\n")
    assert load(folder, daily).most_at_once == 1, "a Daily room holds one call at a time"


def test_inconclusive_runs_are_tried_once_more_by_default(folder: Path) -> None:
    assert load(folder, suite()).retry_inconclusive == 1
    text = suite(more="retry_inconclusive: 0\n")
    assert load(folder, text).retry_inconclusive == 0
    assert load(folder, text, retry_inconclusive=3).retry_inconclusive == 3


def test_an_entry_has_the_agents_data_and_message_or_its_own(folder: Path) -> None:
    agent = "agent: { url: 'http://localhost:7860', data: { a: 1 }, publish: { type: hello } }\n"
    entries = (
        "scenarios: [hello.yaml, { scenario: hello.yaml, data: { b: 2 } }, "
        "{ scenario: hello.yaml, publish: { type: x }, data: null }]\n"
    )
    loaded = load(folder, suite(agent, entries))
    assert loaded.agent == AgentAtUrl("http://localhost:7860")
    assert [run.data for run in loaded.runs] == [{"a": 1}, {"b": 2}, None]
    assert [run.publish for run in loaded.runs] == [{"type": "hello"}, {"type": "hello"}, {"type": "x"}]


def test_a_session_can_be_started_at_an_address(folder: Path) -> None:
    agent = "agent: { start_url: 'https://bots.example.com/start', transport: daily, publish: [1] }\n"
    assert load(folder, suite(agent)).agent == AgentToStart("https://bots.example.com/start", RoomKind.DAILY)
    agent = "agent: { start_url: 'https://bots.example.com/start', publish: [1] }\n"
    assert load(folder, suite(agent)).agent == AgentToStart("https://bots.example.com/start", None)


def test_an_agent_on_pipecat_cloud_is_named(folder: Path) -> None:
    loaded = load(
        folder,
        suite("agent: { pipecat_cloud: luigi, token: env:PUBLIC, private_key: env:PRIVATE, data: { a: 1 } }\n"),
    )
    assert loaded.agent == AgentOnPipecatCloud("luigi", RoomKind.DAILY, SecretStr("s3cr3t-PRIVATE"))
    assert loaded.token == SecretStr("s3cr3t-PUBLIC")
    assert loaded.runs[0].data == {"a": 1}
    assert loaded.most_at_once > 1
    assert "s3cr3t" not in repr(loaded)


def test_pipecat_cloud_may_be_asked_for_webrtc(folder: Path) -> None:
    loaded = load(
        folder,
        suite("agent: { pipecat_cloud: luigi, transport: webrtc, publish: { type: x } }\n", more="concurrency: 3\n"),
    )
    assert loaded.agent == AgentOnPipecatCloud("luigi", RoomKind.SMALLWEBRTC)


def rooms(*lines: str) -> str:
    return "agent:\n  rooms:\n" + "".join(f"    - {line}\n" for line in lines)


def test_there_are_as_many_runs_at_a_time_as_rooms(folder: Path) -> None:
    agent = rooms(f"{{ url: '{A}', token: env:ROOM_A }}", f"{{ url: '{B}' }}") + "  token: env:PUBLIC\n"
    loaded = load(folder, suite(agent, more="concurrency: 2\n"))
    assert loaded.agent == AgentInRooms((FixedRoom(A, SecretStr("s3cr3t-ROOM_A")), FixedRoom(B)))
    assert (loaded.concurrency, loaded.most_at_once) == (2, 2)
    assert load(folder, suite(agent, more="concurrency: auto\n")).most_at_once == 2
    with pytest.raises(UsageError, match=r"suite\.yaml:4: rooms: 2 rooms hold 2 calls at a time, not 3; list more"):
        load(folder, suite(agent), concurrency=3)


def test_one_daily_room_holds_one_call_at_a_time(folder: Path) -> None:
    assert load(folder, suite(f"agent:\n  url: {A}\n")).most_at_once == 1
    with pytest.raises(UsageError, match=r"suite\.yaml:3: url: one Daily room holds one call at a time, not 2"):
        load(folder, suite(f"agent:\n  url: {A}\n", more="concurrency: 2\n"))


def test_the_environment_of_a_command_is_text_as_it_is_written(folder: Path) -> None:
    agent = 'agent: { command: [bot], env: { PORT: "{port}", GREET: 0, RATE: 1.50, "ON": true, EMPTY: "" } }\n'
    loaded = load(folder, suite(agent))
    assert loaded.agent == AgentByCommand(
        ("bot",), {"PORT": "{port}", "GREET": "0", "RATE": "1.50", "ON": "true", "EMPTY": ""}
    )


def test_the_token_comes_from_the_environment_and_shows_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_TOKEN", "s3cr3t")
    agent = "agent: { url: 'http://localhost:7860', token: env:AGENT_TOKEN }\n"
    loaded = load(folder, suite(agent))
    assert loaded.token is not None and loaded.token.get_secret_value() == "s3cr3t"
    assert "s3cr3t" not in repr(loaded)
    monkeypatch.delenv("AGENT_TOKEN")
    given = load(folder, suite(agent), token=SecretStr("other"))
    assert given.token is not None and given.token.get_secret_value() == "other"


def test_a_token_in_the_file_is_refused_without_being_quoted(folder: Path) -> None:
    agent = "agent:\n  url: http://localhost:7860\n  token: s3cr3t-t0ken\n"
    assert "s3cr3t" not in refused(lambda: load(folder, suite(agent)), f"{folder / 'suite.yaml'}:4: ")


AGENTS: list[tuple[str, int, str]] = [
    ("agent: {}\n", 2, "one of url, rooms, start_url, pipecat_cloud and command"),
    ("agent:\n  url: http://a\n  command: [x, '{port}']\n", 4, "and only one"),
    ("agent:\n  ulr: http://a\n", 3, "unknown key 'ulr' in agent; did you mean 'url'"),
    ("agent: [x]\n", 2, "agent must be a mapping"),
    ("agent:\n  url: localhost:7860\n", 3, "must begin with http:// or https://"),
    ("agent:\n  url: http://u:p@localhost\n", 3, "user name or password"),
    ("agent:\n  url: http://localhost/nowhere\n", 3, "is not a room"),
    ("agent:\n  start_url: http://localhost\n", 3, "has no path"),
    ("agent:\n  start_url: ftp://localhost/start\n", 3, "start URL: must begin with"),
    ("agent:\n  start_url: http://a/start\n  transport: carrier\n", 4, "webrtc or daily, not 'carrier'"),
    ("agent:\n  url: http://a\n  transport: daily\n", 4, "transport belongs to start_url"),
    ("agent:\n  url: http://a\n  env: { A: b }\n", 4, "env belongs to command"),
    ("agent:\n  command: [bot]\n", 3, "must hold {port}"),
    ("agent:\n  command: []\n", 3, "a program"),
    ("agent:\n  command: bot --port {port}\n", 3, "command must be a list"),
    ("agent:\n  command: [bot, '{port}']\n  env: [A]\n", 4, "env must be a mapping"),
    ("agent:\n  command: [bot, '{port}']\n  env:\n    A: [b]\n", 5, "A must be a text"),
    ("agent:\n  command: [bot, '{port}']\n  env:\n    ON: 1\n", 5, "True is no name of a variable"),
    ("agent:\n  command: [bot, '{port}']\n  env:\n    A=B: 1\n", 5, "no name of a variable"),
    ("agent:\n  url: http://a\n  token: env:NO_SUCH_VARIABLE_4711\n", 4, "NO_SUCH_VARIABLE_4711 is not set"),
    ("agent:\n  url: http://a\n  data: [1]\n", 4, "data must be a mapping"),
    ("agent:\n  url: http://a\n  data: { a: .nan }\n", 4, "data must be plain JSON"),
    ("agent:\n  url: http://a\n  publish: { no: type }\n", 4, '"type"'),
    ("agent:\n  url: http://a\n  publish: hello\n", 4, '"type"'),
    ("agent:\n  pipecat_cloud: a/b", 3, "must be the agent's name there"),
    ("agent:\n  pipecat_cloud: luigi\n  url: http://a", 3, "and only one"),
    ("agent:\n  pipecat_cloud: luigi\n  private_key: pk_planted", 4, "private_key must be env:NAME"),
    ("agent:\n  pipecat_cloud: luigi\n  private_key: env:ABSENT", 4, "variable ABSENT is not set"),
    ("agent:\n  pipecat_cloud: luigi\n  env: { A: b }", 4, "env belongs to command, not to pipecat_cloud"),
    ("agent:\n  pipecat_cloud: luigi\n  transport: carrier", 4, "webrtc or daily"),
    ("agent:\n  pipecat_cloud: luigi\n  publish: null\n  data: [1]", 5, "data must be a mapping"),
    ("agent:\n  url: http://a\n  private_key: env:PRIVATE", 4, "private_key belongs to pipecat_cloud, not to url"),
    ("agent:\n  rooms: []", 3, "rooms must hold at least one"),
    ("agent:\n  rooms: https://acme.daily.co/a", 3, "rooms must be a list"),
    (rooms(A), 4, "must be a mapping"),
    (rooms("{ token: env:ROOM_A }"), 4, "needs 'url'"),
    (rooms(f"{{ url: '{A}', token: planted }}"), 4, "token must be env:NAME"),
    (rooms(f"{{ url: '{A}' }}", f"{{ url: '{A}/' }}"), 5, "stands in the list already"),
    (rooms("{ url: 'http://a/nowhere' }"), 4, "is not a room"),
    (rooms(f"{{ url: '{A}' }}") + "  data: { a: 1 }", 5, "a Daily room is there already"),
    (rooms(f"{{ url: '{A}' }}", "{ url: 'http://a/api/offer' }") + "  publish: hello", 6, '"type"'),
    ("agent:\n  url: https://a.daily.co/b\n  data: { a: 1 }\n", 4, "use start_url, or publish"),
]
SUITES: list[tuple[str, int, str]] = [
    ("name: x\n", 1, "needs 'agent'"),
    (suite(scenarios=""), 1, "needs 'scenarios'"),
    (suite(scenarios="scenarios: []\n"), 3, "at least one"),
    (suite(scenarios="scenarios:\n  - helo.yaml\n"), 4, "there is no scenario file"),
    (suite(scenarios="scenarios:\n  - " + "x" * 300 + ".yaml\n"), 4, "there is no scenario file"),
    (suite(scenarios="scenarios:\n  - .\n"), 4, "there is no scenario file"),
    (suite(scenarios="scenarios:\n  - booking.yaml:six\n"), 4, "no scenario called 'six'"),
    (suite(scenarios="scenarios:\n  - scenario: hello.yaml\n    repaet: 2\n"), 5, "did you mean 'repeat'"),
    (suite(scenarios="scenarios:\n  - repeat: 2\n"), 4, "needs 'scenario'"),
    (suite(scenarios="scenarios:\n  - scenario: hello.yaml\n    publish: 1\n"), 5, '"type"'),
    (suite(scenarios="scenarios:\n  - [hello.yaml]\n"), 4, "must be a text"),
    (suite(more="repeat: 0\n"), 3, "repeat must be from 1 to"),
    (suite(more="repeat: often\n"), 3, "repeat must be a whole number"),
    (suite(more="concurrency: many\n"), 3, "concurrency must be a whole number, or auto"),
    (suite(more="retry_inconclusive: 6\n"), 3, "retry_inconclusive must be from 0 to 5, not 6"),
    (suite(more="concurrency: 65\n"), 3, "concurrency must be from 1 to 64"),
    (suite(more="concurency: 2\n"), 3, "did you mean 'concurrency'"),
    (suite(scenarios="scenarios: hello.yaml\n"), 3, "scenarios must be a list"),
    ("- x\n", 1, "must be a mapping"),
    ("name: [\n", 2, "not valid YAML"),
    ("", 1, "empty"),
]


@pytest.mark.parametrize(("text", "line", "says"), [*((suite(a), line, says) for a, line, says in AGENTS), *SUITES])
def test_a_mistake_is_told_with_its_line(folder: Path, text: str, line: int, says: str) -> None:
    told = refused(lambda: load(folder, text), f"{folder / 'suite.yaml'}:{line}: ")
    assert says in told
    assert "planted" not in told


def test_a_mistake_in_a_scenario_file_has_its_own_line(folder: Path) -> None:
    (folder / "hello.yaml").write_text("name: hello\nturns:\n  - usr: Hello.\n")
    with pytest.raises(UsageError, match=r"hello\.yaml:3: .*did you mean 'user'"):
        load(folder, suite())


def test_a_fixed_daily_room_holds_one_call_at_a_time(folder: Path) -> None:
    settings = Settings(room=RoomSettings(daily_domains=["calls.example.com"]))
    for url in ("https://acme.daily.co/room", "https://calls.example.com/room"):
        text = suite(f"agent: {{ url: '{url}', publish: 1 }}\n")
        assert load(folder, text, settings).concurrency == 1
        with pytest.raises(UsageError, match=r"suite\.yaml:2: .*one call at a time"):
            load(folder, text, settings, concurrency=2)


def test_too_many_runs_are_refused(folder: Path) -> None:
    entries = "".join("  - hello.yaml\n" for _ in range(MAX_RUNS // 1000 + 1))
    with pytest.raises(UsageError, match=f"more than {MAX_RUNS} runs"):
        load(folder, suite(more="repeat: 1000\n", scenarios="scenarios:\n" + entries))


def test_a_suite_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        load_suite(tmp_path / "nowhere.yaml", Settings())


def test_the_example_is_right() -> None:
    loaded = load_suite(Path(__file__).parents[2] / "config" / "suites" / "restaurant.yaml", Settings())
    assert "booking/table_for_four" in titles(loaded)
