"""The pytest plugin: what it collects, what each verdict becomes, and that it keeps out of the way."""

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from junitparser import Error, Failure, JUnitXml

from runner.calls.suite_file import read_suite
from runner.pytest_plugin import is_scenario_file
from runner.pytest_plugin.items import ScenarioItem
from tests.calls.stubs import StubCalls, fails, loses_the_network, passes

pytest_plugins = ["pytester"]

PROJECT = Path(__file__).parents[2]
URL = ("--agent-url", "http://127.0.0.1:7860")
LISTEN = "turns: [{ expect: [{ event: response, within_ms: 1000 }] }]"
VOICE = f"""\
name: voice
scenarios:
  - {{ name: greets, tags: [smoke], {LISTEN} }}
  - {{ name: answers, {LISTEN} }}
  - {{ name: drops, tags: [smoke, de-DE], {LISTEN} }}
  - {{ name: simulated, persona: A caller. }}
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A project with scenarios, whose calls are doubles; the plugin is loaded as where it is installed."""
    installed = request.config.pluginmanager.hasplugin("scenario_runner")
    options = "" if installed else "-p runner.pytest_plugin"
    pytester.makeini(f"[pytest]\naddopts = {options} -p no:cacheprovider -p no:schemathesis --strict-markers\n")
    (pytester.path / "voice").mkdir()
    (pytester.path / "voice" / "voice.yaml").write_text(VOICE)
    calls = StubCalls(answers=fails, drops=loses_the_network)
    monkeypatch.setattr(ScenarioItem, "make_call", calls)
    return pytester.path


def outcomes(result: pytest.RunResult) -> dict[str, int]:
    return {kind: count for kind, count in result.parseoutcomes().items() if kind not in ("warnings", "warning")}


def test_each_scenario_is_a_test_and_each_test_a_call(pytester: pytest.Pytester, project: Path) -> None:
    result = pytester.inline_run(*URL, "--junit-xml", "junit.xml", "voice")
    passed, skipped, failed = result.listoutcomes()
    assert [report.nodeid for report in passed] == ["voice/voice.yaml::greets"]
    assert "simulation (persona:)" in str(skipped[0].longrepr)
    by_name = {report.nodeid.partition("::")[2]: report for report in failed}
    assert {name: report.when for name, report in by_name.items()} == {"answers": "call", "drops": "setup"}
    answered, dropped = str(by_name["answers"].longrepr), str(by_name["drops"].longrepr)
    assert "    expected  response within 1 s" in answered.splitlines()
    assert dropped.startswith("(cause: network) ")
    folders = sorted((project / "runs").glob("pytest-*"))
    kept = {run.scenario: folder / str(run.folder) for folder in folders for run in read_suite(folder).runs}
    assert len(folders) == 3 and all((folder / "run.json").exists() for folder in kept.values())
    for name, told in (("answers", answered), ("drops", dropped)):
        assert f"run: {kept[f'voice/{name}'].relative_to(project)}" in told
    cases = {case.name: case for suite in JUnitXml.fromfile("junit.xml") for case in suite}
    [failure], [error] = cases["answers"].result, cases["drops"].result
    assert isinstance(failure, Failure) and failure.message.startswith("AgentFailed: ")
    assert isinstance(error, Error) and "Inconclusive: (cause: network) " in error.message


def test_expected_and_heard_stand_in_the_failure(pytester: pytest.Pytester, project: Path) -> None:
    result = pytester.runpytest_inprocess(*URL, "voice", "-k", "answers")
    result.stdout.fnmatch_lines(
        [
            "turn 1: no response within 1 s",
            "    expected  response within 1 s",
            "ended: caller-hung-up*",
            "run: runs/pytest-*",
        ]
    )
    result.stdout.fnmatch_lines(["FAILED voice/voice.yaml::answers - AgentFailed: turn 1*"])
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("-m", "smoke"), ["greets", "drops"]),
        (("-m", "smoke and not de-DE"), ["greets"]),
        (("-k", "greets or answers"), ["greets", "answers"]),
        (("-k", "smoke and greets"), ["greets"]),
        (("voice/voice.yaml::answers",), ["answers"]),
    ],
)
def test_scenarios_are_chosen_as_tests_are(
    pytester: pytest.Pytester, project: Path, options: tuple[str, ...], names: list[str]
) -> None:
    result = pytester.runpytest_inprocess(*URL, "--collect-only", "-q", *options)
    collected = [line.partition("::")[2] for line in result.outlines if "::" in line]
    assert collected == names


NOT_SCENARIOS = {
    "suite.yaml": "name: s\nagent: { url: 'http://a' }\nscenarios: [voice.yaml]\n",
    "compose.yaml": "name: web\nservices: {}\n",
    "manifest.yml": "suite:\n  - { bot: bot.py, scenarios: [voice] }\n",
    "nested.yaml": "other:\n  name: x\n  turns: []\n",
    "text.txt": VOICE,
    "binary.yaml": "\x00\xff",
}


@pytest.mark.parametrize("name", NOT_SCENARIOS)
def test_other_files_are_not_collected(pytester: pytest.Pytester, project: Path, name: str) -> None:
    (project / "voice" / name).write_text(NOT_SCENARIOS[name])
    items, _ = pytester.inline_genitems(*URL)
    assert {item.path.name for item in items} == {"voice.yaml"}


@pytest.mark.parametrize("key", ["turns", "scenarios", "persona"])
def test_a_scenario_file_is_known_by_its_keys(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"# a comment\n{key} : [\nname: not valid YAML {{\n")
    assert is_scenario_file(path)
    path.write_text(f"{key}: []\n")
    assert not is_scenario_file(path)


def test_without_an_agent_nothing_is_collected(pytester: pytest.Pytester, project: Path) -> None:
    items, _ = pytester.inline_genitems()
    assert items == []
    (project / "test_own.py").write_text("def test_own(): ...\n")
    assert outcomes(pytester.runpytest_inprocess()) == {"passed": 1}


@pytest.mark.parametrize("named", [(), ("voice/broken.yaml",)])
def test_a_mistake_in_a_scenario_file_is_one_error(
    pytester: pytest.Pytester, project: Path, named: tuple[str, ...]
) -> None:
    (project / "voice" / "broken.yaml").write_text("name: broken\nturns:\n  - usr: hi\n")
    result = pytester.runpytest_inprocess(*URL, *named)
    result.stdout.fnmatch_lines(["voice/broken.yaml:3: unknown key 'usr'*did you mean 'user'*"])
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "Traceback" not in result.stdout.str()


def test_a_suite_that_is_named_is_told_to_be_one(pytester: pytest.Pytester, project: Path) -> None:
    (project / "voice" / "suite.yaml").write_text(NOT_SCENARIOS["suite.yaml"])
    result = pytester.runpytest_inprocess(*URL, "voice/suite.yaml")
    result.stdout.fnmatch_lines(["*this is a suite, and no scenario file*"])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--agent-url", "localhost:7860"), "room URL: must begin with http:// or https://*"),
        (("--agent-start-url", "http://a"), "start URL: has no path*"),
        (("--agent-suite", "none.yaml"), "none.yaml: can't be read*"),
        ((*URL, "--agent-suite", "voice.yaml"), "--agent-url and --agent-suite: name one agent"),
        ((*URL, "--agent-config", "none.toml"), "none.toml: there is no such settings file"),
        (("--agent-suite", "rooms.yaml", "-n", "3"), "-n 3: the agent's rooms hold 2 at a time*"),
    ],
)
def test_an_agent_that_can_t_be_called_is_one_error(
    pytester: pytest.Pytester, project: Path, options: tuple[str, ...], problem: str
) -> None:
    rooms = "[{ url: 'https://a.daily.co/a' }, { url: 'https://a.daily.co/b' }]"
    (project / "rooms.yaml").write_text(f"name: rooms\nagent: {{ rooms: {rooms} }}\n")
    result = pytester.runpytest_inprocess(*options, "voice")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {problem}"])


def test_the_agent_of_a_suite_is_called_as_the_suite_says(
    pytester: pytest.Pytester, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = StubCalls(passes)
    monkeypatch.setattr(ScenarioItem, "make_call", calls)
    monkeypatch.setenv("AGENT_TOKEN", "s3cr3t")
    (project / "suite.yaml").write_text(
        "name: mine\nagent: { url: 'http://127.0.0.1:7860', token: env:AGENT_TOKEN, data: { a: 1 }, "
        "publish: { type: x } }\n"
    )
    pytester.inline_run("--agent-suite", "suite.yaml", "voice", "-k", "greets").assertoutcome(passed=1)
    [call] = calls.made
    assert call.request.address.url == "http://127.0.0.1:7860"
    assert call.request.address.token is not None and call.request.address.token.get_secret_value() == "s3cr3t"
    assert call.request.address.request_data == {"a": 1}
    assert call.request.data_message is not None and call.request.data_message.value == {"type": "x"}


def test_a_call_that_can_t_be_made_is_an_error(
    pytester: pytest.Pytester, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "runs").write_text("a file")
    result = pytester.runpytest_inprocess(*URL, "voice", "-k", "greets")
    assert outcomes(result) == {"deselected": 3, "errors": 1}
    result.stdout.fnmatch_lines(["runs/pytest-*: can't be written (Not a directory)"])


def test_loading_it_loads_nothing_heavy() -> None:
    heavy = {"pipecat", "pydantic", "numpy", "loguru", "anyio"}
    code = f"import runner.pytest_plugin, sys; print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=PROJECT
    )
    assert done.stdout.split() == []


def test_pytest_finds_it_where_it_is_installed() -> None:
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert declared == {"scenario_runner": "runner.pytest_plugin"}
    assert callable(import_module(declared["scenario_runner"]).pytest_collect_file)


@pytest.mark.slow
def test_pipecat_tells_nothing_of_itself(project: Path) -> None:
    command = [sys.executable, "-m", "pytest", *URL, "--collect-only", "voice"]
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=100, check=True)
    assert "4 tests collected" in done.stdout
    assert "INFO" not in done.stdout + done.stderr
