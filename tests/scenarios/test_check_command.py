"""``scenario-runner check``: what each scenario would do, and what is wrong."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from loguru import logger

from runner.cli import main
from runner.evaluation.expectations import describe
from runner.scenarios.evals import load_file
from runner.settings import Settings
from tests.scenarios.conftest import CORPUS, corpus_in


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the corpus, no setting in the environment, and the log as it was."""
    for name in list(os.environ):
        if name.upper().startswith("SCENARIO_RUNNER_"):
            monkeypatch.delenv(name)
    corpus_in(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text("name: good\nturns: [{ user: Hello., expect: [{ event: response }] }]\n")
    (tmp_path / "bad.yaml").write_text("name: bad\nturns:\n  - usr: hi\n")
    yield tmp_path
    logger.remove()
    logger.add(sys.stderr)


def check(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["check", *arguments])


def test_a_good_file_is_told_in_words() -> None:
    result = check("good.yaml")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "good (good.yaml:1)",
        "  1. says “Hello.”",
        "       expects response",
        "  Then the caller hangs up; the call ends after 300 s at the latest.",
    ]


def test_every_form_is_told() -> None:
    result = check("corpus/own/keys.yaml")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    scenarios = load_file(Path("corpus/own/keys.yaml"), Settings())
    expected = [expectation for s in scenarios for turn in s.playable().turns for expectation in turn.expect]
    assert [line for line in lines if " expects " in line] == [f"       expects {describe(e)}" for e in expected]
    assert [line for line in lines if " expects " not in line] == [
        "own/behaviours (corpus/own/keys.yaml:9)",
        "  1. listens",
        "  2. says “Tell me everything.”",
        "  3. 700 ms after the agent is heard to start, says “Stop.”",
        "  4. 300 ms after bot_started_speaking, says “I said stop.”",
        "  5. stays silent for 4000 ms",
        "  6. after 2500 ms of silence, presses 1",
        "  7. says “Goodbye.”",
        "  Then the caller waits for the agent to hang up; the call ends after 45.5 s at the latest.",
        "own/overridden (corpus/own/keys.yaml:28)",
        "  1. says “Hello.”",
        "  Then the caller hangs up; the call ends after 20 s at the latest.",
        "own/ready (corpus/own/keys.yaml:35)",
        "  1. 100 ms after bot_ready, says “Hello.”",
        "  Then the caller waits for the agent to hang up; the call ends after 45.5 s at the latest.",
    ]


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.glob("*.yaml")))
def test_every_file_of_pipecat_is_fine(name: str) -> None:
    result = check(f"corpus/{name}")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""


def test_pauses_recordings_and_delays_are_told() -> None:
    lines = check("corpus/users.yaml", "corpus/send_after.yaml").stdout.splitlines()
    said = "So last week I went to [2000 ms] Spain with my family. [1 ms] It was sunny."
    assert f"  1. says “{said}”" in lines
    assert "  1. plays corpus/hello.wav" in lines
    assert "  2. 100 ms after response, plays corpus/shared/../shared/france.wav" in lines
    assert "  4. 3000 ms after the turn before, says “Please.”" in lines
    assert "  3. says “Two lines of text ”" in lines


def test_a_wrong_file_does_not_stop_the_others() -> None:
    result = check("good.yaml", "bad.yaml", "none.yaml", "corpus/single.yaml")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: bad.yaml:3: unknown key 'usr' in turns #1; did you mean 'user'?",
        "error: none.yaml: can't be read (No such file or directory)",
    ]
    told = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert told == ["good (good.yaml:1)", "single (corpus/single.yaml:2)"]


def test_every_mistake_of_a_file_is_told_by_line(folder: Path) -> None:
    (folder / "wrong.yaml").write_text(
        "name: wrong\nhang_up: later\nturn_taking: { end_of_turn_ms: 5, smart_trn: true }\nscenarios:\n"
        "  - name: a\n    turns:\n      - { usr: hi, silence_ms: -1 }\n      - user: hi\n        dtmf: '1'\n"
        "  - name: b\n    turns:\n      - user: hi\n        expect:\n          - event: function_call\n"
        "            calls:\n              - { nam: x, args: 5 }\n"
    )
    assert check("wrong.yaml").stderr.splitlines() == [
        "error: wrong.yaml:2: hang_up must be true or false, not 'later'",
        "error: wrong.yaml:3: unknown key 'smart_trn' in turn_taking; did you mean 'smart_turn'?",
        "error: wrong.yaml:3: end_of_turn_ms: Input should be greater than or equal to 200",
        "error: wrong.yaml:7: unknown key 'usr' in turns #1; did you mean 'user'?",
        "error: wrong.yaml:7: silence_ms must be from 0 to 3600000, not -1",
        "error: wrong.yaml:9: a turn has one of user, dtmf and silence_ms, not user and dtmf",
        "error: wrong.yaml:16: unknown key 'nam' in calls #1; did you mean 'name'?",
        "error: wrong.yaml:16: args must be a mapping",
    ]


def test_of_many_mistakes_the_first_hundred_are_told(folder: Path) -> None:
    (folder / "wrong.yaml").write_text("name: wrong\nturns:\n" + "  - usr: hi\n" * 150)
    lines = check("wrong.yaml").stderr.splitlines()
    assert len(lines) == 101
    assert lines[-1] == "error: wrong.yaml: and 50 more"


def test_what_can_t_be_played_is_told_and_fails() -> None:
    result = check("corpus/unplayable/kinds.yaml")
    assert result.exit_code == 2
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines.count("  1. says “Hello.”") == 1
    reasons = [line for line in lines if line.startswith("  can't be played in a room: ")]
    assert len(reasons) == 5
    persona = lines.index("kinds/persona (corpus/unplayable/kinds.yaml:24)")
    assert lines[persona + 1].endswith("only scripted scenarios (turns:) are played so far")
    assert lines[persona + 2].startswith("kinds/plays ")


def test_what_is_played_otherwise_is_told() -> None:
    lines = check("corpus/defaults.yaml").stdout.splitlines()
    notes = [line for line in lines if line.startswith("  note: ")]
    assert any("speech.tts" in note for note in notes)
    assert any("no judge is configured" in note for note in notes)


def test_nothing_reaches_the_terminal_but_words(folder: Path) -> None:
    (folder / "red.yaml").write_text('name: "\\e[31mred"\nturns: [{ user: "\\e[2J\\r\\nhi" }]\n')
    result = CliRunner().invoke(main, ["check", "red.yaml"], color=True)
    assert result.stdout.splitlines()[:2] == [" [31mred (red.yaml:1)", "  1. says “ [2J hi”"]


def test_no_file_is_a_mistake() -> None:
    result = check()
    assert result.exit_code == 2
    assert "Missing argument 'FILE…'" in result.stderr


def test_the_settings_say_where_files_may_come_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = folder / "below"
    below.mkdir()
    (folder / "words.yaml").write_text("Hello.")
    (below / "up.yaml").write_text("name: up\nturns: [{ user: !include ../words.yaml }]\n")
    monkeypatch.chdir(below)
    refused = check("up.yaml")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: up.yaml:2: !include: ../words.yaml is outside of ")
    monkeypatch.setenv("SCENARIO_RUNNER_SCENARIOS_DIR", str(folder))
    assert check("up.yaml").exit_code == 0
