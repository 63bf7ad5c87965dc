"""A manifest of Pipecat Evals, run as it is; what comes of it is held against what Pipecat makes of it."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from pipecat.evals.suite import EvalManifest

from runner.errors import UsageError
from runner.scenarios.manifest import load_suite_or_manifest
from runner.scenarios.suites import Suite
from runner.scenarios.targets import AgentByCommand
from runner.settings import Settings
from tests.scenarios.conftest import refused

LISTEN = "turns: [{ expect: [{ event: response }] }]"
MANIFEST = """\
concurrency: 3
repeat: 2
runs_dir: test-runs
record: false
cache_dir: cache
bots_dir: bots
base_port: 7000
python: python3
spawn: "{python} {bot} -t webrtc --port {port}"
suite:
  - bot: voice.py
    scenarios: [greeting, deep/other]
  - bot: voice.py
    name: small
    concurrency: 1
    runner_body: { data: { model: small } }
    scenarios: [near.yaml]
  - bot: sub dir/eyes.py
    runner_body: { path: bodies/eyes.json }
    scenarios: [greeting]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("bots/voice.py", "bots/sub dir/eyes.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "scenarios" / "deep").mkdir(parents=True)
    (tmp_path / "bodies").mkdir()
    (tmp_path / "bodies" / "eyes.json").write_text(json.dumps({"image": "cat.png"}))
    (tmp_path / "scenarios" / "greeting.yaml").write_text(f"name: greeting\n{LISTEN}\n")
    (tmp_path / "scenarios" / "deep" / "other.yaml").write_text(
        f"name: other\nscenarios:\n  - {{ name: a, {LISTEN} }}\n"
        "  - { name: b, persona: A caller., goal: To book., success: A table is booked. }\n"
    )
    (tmp_path / "near.yaml").write_text(f"name: near\n{LISTEN}\n")
    return tmp_path


def load(folder: Path, text: str = MANIFEST, **options: Any) -> Suite:
    (folder / "release.yaml").write_text(text)
    return load_suite_or_manifest(folder / "release.yaml", Settings(), **options)


def test_the_runs_are_pipecats_in_pipecats_order(folder: Path) -> None:
    suite = load(folder)
    with warnings.catch_warnings(record=True):  # Pipecat warns of the form, past every filter.
        theirs = EvalManifest.load(folder / "release.yaml")
    played = [run for run in theirs.runs if run.kind == "script"]
    assert [(run.scenario.name, run.repeat) for run in suite.runs] == [
        (f"{run.label}/{run.scenario}", run.attempt) for run in played
    ]
    assert [run.index for run in suite.runs] == list(range(len(played)))
    assert {run.group: run.at_a_time for run in suite.runs} == {run.entry: run.concurrency for run in played}
    assert suite.concurrency == theirs.concurrency
    assert suite.runs_dir is not None and suite.runs_dir.resolve() == theirs.runs_dir
    assert {skipped.name for skipped in suite.skipped} == {"voice.py/other/b"}
    assert suite.name == "release"


def test_each_bot_is_spawned_as_the_manifest_says(folder: Path) -> None:
    def spawned(bot: str, folder: Path | None = None) -> AgentByCommand:
        return AgentByCommand(("python3", bot, "-t", "webrtc", "--port", "{port}"), folder=folder)

    voice, eyes = str(folder / "bots" / "voice.py"), str(folder / "bots" / "sub dir" / "eyes.py")
    assert {run.scenario.name: (run.agent, run.data) for run in load(folder, repeat=1).runs} == {
        "voice.py/greeting": (spawned(voice), None),
        "voice.py/other/a": (spawned(voice), None),
        "small/near": (spawned(voice), {"model": "small"}),
        "sub dir/eyes.py/greeting": (spawned(eyes, folder / "bodies"), {"image": "cat.png"}),
    }


def test_what_has_no_effect_is_told(folder: Path) -> None:
    assert [note.partition(":")[0] for note in load(folder).notes] == ["record", "cache_dir", "base_port"]


def test_what_is_not_said_is_as_in_pipecat(folder: Path) -> None:
    suite = load(folder, "suite:\n  - { bot: bots/voice.py, scenarios: [greeting] }\n")
    voice = str(folder / "bots" / "voice.py")
    assert suite.runs[0].agent == AgentByCommand(("{python}", voice, "--port", "{port}"))
    assert (suite.concurrency, len(suite.runs), suite.runs_dir, suite.notes) == (4, 1, None, ())


def test_options_take_the_place_of_the_manifest(folder: Path) -> None:
    suite = load(folder, repeat=1, concurrency="auto", retry_inconclusive=0)
    assert (len(suite.runs), suite.concurrency, suite.retry_inconclusive) == (4, None, 0)
    assert load(folder, concurrency=2).concurrency == 2


def test_a_body_may_still_be_a_file_alone(folder: Path) -> None:
    suite = load(folder, MANIFEST.replace("{ path: bodies/eyes.json }", "bodies/eyes.json"), repeat=1)
    assert suite.runs[-1].data == {"image": "cat.png"}


def test_a_suite_file_is_still_one(folder: Path) -> None:
    suite = load(folder, "name: mine\nagent: { url: 'http://a' }\nscenarios: [near.yaml]\n", repeat=2)
    assert (suite.name, len(suite.runs)) == ("mine", 2)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("concurrency: 3", "concurency: 3", 1, "unknown key 'concurency' in the file; did you mean 'concurrency'"),
        ("concurrency: 3", "concurrency: 0", 1, "from 1 to 64"),
        ("repeat: 2", "repeat: 0", 2, "from 1 to 1000"),
        ("record: false", "record: maybe", 4, "true or false"),
        ("base_port: 7000", "base_port: 70000", 7, "from 1 to 65535"),
        ("-t webrtc --port", "-t daily --port", 9, "over SmallWebRTC: -t webrtc, not daily"),
        (" --port {port}", "", 9, "must hold {port}"),
        ("{bot} -t", "{bot} {host} -t", 9, "only {python}, {bot} and {port}"),
        ("{bot} -t", "{bot} ' -t", 9, "No closing quotation"),
        ("bot: voice.py\n    scen", "bot: no.py\n    scen", 11, "bot: there is no file"),
        ("bot: voice.py\n    name: small", "bot: voice.py", 11, "voice.py/greeting is run twice; give one"),
        ("[near.yaml]", "[far.yaml]", 17, "there is no scenario file"),
        ("[near.yaml]", "[far]", 17, "scenarios/far.yaml"),
        ("{ data: { model: small } }", "{ data: [1] }", 16, "data must be a mapping"),
        ("{ data: { model: small } }", "{}", 16, "one of path and data"),
        ("bodies/eyes.json", "bodies/no.json", 19, "runner_body: there is no file"),
        ("    concurrency: 1", "    concurrency: many", 15, "whole number"),
    ],
)
def test_a_mistake_is_told_with_its_line(folder: Path, old: str, new: str, line: int, says: str) -> None:
    text = MANIFEST.replace("[near.yaml]", "[greeting]") if "name: small" in old else MANIFEST
    assert old in text
    place = f"{folder / 'release.yaml'}:{line}: "
    assert says in refused(lambda: load(folder, text.replace(old, new, 1)), place)


@pytest.mark.parametrize("text", ["suite: []\n", "suite:\n  - { bot: bots/voice.py, scenarios: [] }\n"])
def test_a_manifest_without_scenarios_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(UsageError, match="holds no scenario that can be played"):
        load(folder, text)
