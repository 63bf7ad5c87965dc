"""The command line: what it loads, and what it says of input that is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click import Context
from click.testing import CliRunner, Result
from loguru import logger

from runner.calls import call as calls
from runner.calls.request import CallRequest, DataMessage
from runner.cli import main
from runner.cli.agent import AGENTS
from runner.cli.options import TOKEN_VARIABLE

PROJECT = Path(__file__).parents[1]
TOKEN = "s3cr3t-t0ken"
DAILY = "https://acme.daily.co/room"
OFFER = "http://127.0.0.1:9/api/offer"
RUNNER = "http://127.0.0.1:9"
SCENARIO = "name: listen\nturns:\n  - expect:\n      - event: response\n"
HEAVY = {"pipecat", "aiortc", "av", "numpy", "daily", "httpx", "rich"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own with one scenario, no setting in the environment, and the log as it was."""
    for name in list(os.environ):
        if name.upper().startswith("SCENARIO_RUNNER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "listen.yaml").write_text(SCENARIO)
    yield tmp_path
    logger.remove()
    logger.add(sys.stderr)


@pytest.fixture
def no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a call fails the test."""

    def call(*args: object, **kwargs: object) -> None:
        raise AssertionError("a call was made")

    monkeypatch.setattr(calls, "Call", call)


def invoke(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


def refused(*arguments: str, stdin: str = "") -> str:
    """Return the one line that a wrong command comes to."""
    result = invoke(*arguments, stdin=stdin)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert TOKEN not in result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "our own error" not in line
    assert not Path("runs").exists()
    return line


def call(*arguments: str, url: str = OFFER, scenario: str = "listen.yaml") -> tuple[str, ...]:
    return ("call", url, "--scenario", scenario, *arguments)


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
from runner.cli import main
for command in sys.argv[1:]:
    main([*command.split(), "--help"], standalone_mode=False)
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""
    names = main.list_commands(Context(main))
    done = subprocess.run(
        [sys.executable, "-c", code, "", *names], check=True, capture_output=True, text=True, timeout=60, cwd=PROJECT
    )
    for name in names:
        assert f"{name} [OPTIONS]" in done.stdout
    assert not HEAVY & set(done.stderr.split())


@pytest.mark.usefixtures("no_call")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (call(scenario="none.yaml"), "none.yaml"),
        (call(scenario="listen.yaml:other"), "other"),
        (call(url="localhost:7860"), "room URL: must begin with http"),
        (call(url="https://example.com/room"), "room URL: '/room' is not a room"),
        (call(url="https://acme.daily.co"), "room URL: names no room"),
        (call(url=f"https://user:{TOKEN}@acme.daily.co/room"), "room URL: holds a user name or password"),
        (call("--publish", "{type: x}"), "--publish: not valid JSON"),
        (call("--publish", '{"type": "x", "value": NaN}'), "--publish: not valid JSON"),
        (call("--publish", '{"type": "x", "value": "\\ud800"}', url=DAILY), "--publish: not valid JSON"),
        (call("--publish", "[" * 100_000, url=DAILY), "--publish: not valid JSON"),
        (call("--data", "{'a': 1}"), "--data: not valid JSON"),
        (call("--data", "[1]"), "--data: must be a JSON object"),
        (call("--data", "{}", url=DAILY), "--data: "),
        (call("--token", ""), "--token: is empty"),
        (call("--config", "none.toml"), "none.toml: there is no such settings file"),
    ],
)
def test_wrong_input_is_one_line_before_any_call(arguments: tuple[str, ...], says: str) -> None:
    assert says in refused(*arguments)


@pytest.mark.usefixtures("no_call")
@pytest.mark.parametrize("message", ["null", "5", '"hello"', "[]", "{}", '{"label": "x"}', '{"type": 1}'])
@pytest.mark.parametrize("url", [OFFER, RUNNER])
def test_an_undeliverable_message_is_refused_with_the_rule(url: str, message: str) -> None:
    line = refused(*call("--publish", message, url=url))
    assert 'over SmallWebRTC a Pipecat bot receives only JSON objects with a "type"' in line


@pytest.mark.usefixtures("no_call")
@pytest.mark.parametrize("message", ["5", '"hello"', "[]", "{}", "[null]", '{"a": null}'])
def test_a_message_of_any_kind_but_null_can_go_to_a_daily_room(message: str) -> None:
    assert "none.yaml" in refused(*call("--publish", message, url=DAILY, scenario="none.yaml"))


@pytest.mark.usefixtures("no_call")
def test_null_is_refused_for_a_daily_room_with_the_rule() -> None:
    assert "Daily's library can't send null by itself" in refused(*call("--publish", "null", url=DAILY))


@pytest.mark.usefixtures("no_call")
@pytest.mark.parametrize("url", [OFFER, RUNNER])
def test_a_message_too_large_is_refused_with_the_limit(url: str) -> None:
    line = refused(*call("--publish", json.dumps({"type": "x", "value": "x" * 262_144}), url=url))
    assert "a Pipecat bot takes at most 262144 in one message" in line


@pytest.mark.usefixtures("no_call")
@pytest.mark.parametrize("stdin", ["", "\n", "  \n", f"\n{TOKEN}\n"])
def test_standard_input_without_a_token_is_refused(stdin: str) -> None:
    assert "--token -: standard input holds no token" in refused(*call("--token", "-"), stdin=stdin)


@pytest.mark.usefixtures("no_call")
@pytest.mark.parametrize("text", ["name: [", "turns: []", "name: x\nturns:\n  - say: hello\n", ""])
def test_a_scenario_that_is_wrong_is_named_by_file(folder: Path, text: str) -> None:
    (folder / "wrong.yaml").write_text(text)
    assert refused(*call(scenario="wrong.yaml")).startswith("error: wrong.yaml")


@pytest.mark.usefixtures("no_call")
def test_a_setting_that_is_wrong_is_named_by_file_and_key(folder: Path) -> None:
    (folder / "wrong.toml").write_text("[room]\nagent = 'Bella'\n")
    assert "wrong.toml: room.agent: there is no such setting" in refused(*call("--config", "wrong.toml"))


@pytest.mark.parametrize(
    "arguments", [("call",), ("call", OFFER), ("replay",), ("agent", "nobody"), ("sing",), ("call", "--loudly")]
)
def test_a_command_that_is_incomplete_or_unknown_says_so(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.usefixtures("no_call")
def test_a_path_that_is_empty_is_not_the_working_directory() -> None:
    result = invoke(*call("--out", ""))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'--out': a path is missing" in result.stderr.splitlines()[-1]


def given_by_option(monkeypatch: pytest.MonkeyPatch) -> Result:
    return invoke(*call("--token", TOKEN, url=RUNNER))


def given_by_standard_input(monkeypatch: pytest.MonkeyPatch) -> Result:
    return invoke(*call("--token", "-", url=RUNNER), stdin=f"{TOKEN}\n")


def given_by_variable(monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    return invoke(*call(url=RUNNER))


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[CallRequest]:
    """Calls fail before they begin; what they were asked for is kept."""
    asked: list[CallRequest] = []

    def make(request: CallRequest, *args: object, **kwargs: object) -> None:
        asked.append(request)
        raise RuntimeError(f"no calls today: {request}")

    monkeypatch.setattr(calls, "Call", make)
    return asked


@pytest.mark.parametrize("give", [given_by_option, given_by_standard_input, given_by_variable])
def test_a_token_reaches_the_call_and_is_never_printed(
    monkeypatch: pytest.MonkeyPatch,
    requests: list[CallRequest],
    give: Callable[[pytest.MonkeyPatch], Result],
) -> None:
    result = give(monkeypatch)
    (request,) = requests
    assert request.address.token is not None and request.address.token.get_secret_value() == TOKEN
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: our own error: RuntimeError: no calls today")
    assert len(result.stderr.splitlines()) == 1
    assert TOKEN not in result.output


@pytest.mark.parametrize("environment", [None, ""])
def test_without_a_token_none_is_sent(
    monkeypatch: pytest.MonkeyPatch, requests: list[CallRequest], environment: str | None
) -> None:
    if environment is not None:
        monkeypatch.setenv(TOKEN_VARIABLE, environment)
    invoke(*call(url=RUNNER))
    assert [request.address.token for request in requests] == [None]


def test_message_and_data_reach_the_call_as_they_were_given(requests: list[CallRequest]) -> None:
    invoke(*call("--publish", '{"type": "x", "n": [1, null]}', "--data", '{"restaurant": "Luigi"}'))
    (request,) = requests
    assert request.data_message == DataMessage({"type": "x", "n": [1, None]})
    assert request.address.request_data == {"restaurant": "Luigi"}
    assert request.script.name == "listen"


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("false", False), ('""', ""), ("[]", []), ("{}", {})])
def test_a_message_that_is_empty_is_not_the_same_as_none(
    requests: list[CallRequest], text: str, value: object
) -> None:
    invoke(*call("--publish", text, url=DAILY))
    invoke(*call(url=DAILY))
    assert [request.data_message for request in requests] == [DataMessage(value), None]


def test_a_page_that_can_t_be_written_is_known_before_the_call(folder: Path) -> None:
    assert "--html: listen.yaml: the folder can't be made" in refused(*call("--html", "listen.yaml/x.html"))


def test_a_call_to_nobody_leaves_one_run_without_the_token(folder: Path) -> None:
    result = invoke(*call("--token", TOKEN, "--json", "--out", "out", "-vvv", url=f"{RUNNER}?key={TOKEN}"))
    assert result.exit_code == 2
    run = json.loads(result.stdout)
    assert (run["ended_reason"], run["cause"], run["success"]) == ("room-unreachable", "room", None)
    assert "Traceback" not in result.output
    assert TOKEN not in result.output
    kept = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    assert set(kept) == {"run.json", "timeline.jsonl", "recording.wav", "report.html"}
    assert not [name for name, content in kept.items() if TOKEN.encode() in content]


def test_a_folder_that_is_there_already_is_not_written_into(folder: Path) -> None:
    (folder / "out").mkdir()
    assert "out: the run's folder can't be made" in refused(*call("--out", "out", url=RUNNER))
    assert list((folder / "out").iterdir()) == []


@pytest.mark.parametrize("arguments", [("demo",), ("agent", "restaurant")], ids=lambda value: value[0])
def test_a_command_that_serves_an_agent_names_the_extra_it_needs(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "'agents' (Pipecat's runner is not installed): install the runner again with it added" in refused(
        *arguments
    )


def test_the_agents_are_listed_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["agent", "--help"], standalone_mode=False)
    printed = capsys.readouterr().out.splitlines()
    assert {f"  {name:<10}  {words}" for name, words in AGENTS.items()} <= set(printed)
    assert not any("\\b" in line for line in printed)
