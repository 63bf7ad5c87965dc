"""The benchmark of the judge: what it measures with judges that are known, and when it says that one will not do."""

import collections
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from benchmarks import judge as benchmark
from benchmarks.judge import Case, load_cases
from tests.judge.endpoint import (
    Body,
    Endpoint,
    Reply,
    asks_for_reason,
    call_verdict,
    prompt,
    reason,
    serve,
    verdict,
)

CASES = load_cases()


def answering(answer: Callable[[Case], str]) -> Callable[[Body], Reply]:
    """Return an endpoint's answer to the question about a case; it finds the case by what it is told."""

    def reply(body: Body) -> Reply:
        if asks_for_reason(body):
            return reason("so it is")
        text = prompt(body)
        (case,) = [case for case in CASES if is_about(case, text)]
        said = answer(case)
        if case.call is None:
            return verdict(said)
        return call_verdict(0.95 if said == "yes" else 0.05)

    return reply


def is_about(case: Case, text: str) -> bool:
    if f"Criterion: {case.criterion}" not in text:
        return False
    state, _ = json.JSONDecoder().raw_decode(text[text.index('{\n  "conversation"') :])
    if [entry["text"] for entry in state["conversation"]] != [said.caller or said.agent for said in case.before]:
        return False
    if case.call is not None:
        return "call" in state and case.call == f"{state['call']['name']}({json.dumps(state['call']['arguments'])})"
    return state.get("latest_bot_reply") == case.reply


def run(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint | None, *arguments: str, **settings: str) -> int:
    monkeypatch.delenv("SCENARIO_RUNNER_CONFIG", raising=False)
    if endpoint is not None:
        settings |= {"MODEL": "m", "BASE_URL": endpoint.url}
    for name, value in settings.items():
        monkeypatch.setenv(f"SCENARIO_RUNNER_JUDGE__{name}", value)
    monkeypatch.setattr("sys.argv", ["judge", *arguments])
    return benchmark.main()


def test_the_labels_are_many_and_of_every_kind() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
    kinds = collections.Counter(case.kind for case in CASES)
    assert min(kinds.values()) >= 5 and len(kinds) == 9
    assert min(collections.Counter(case.label for case in CASES).values()) >= 5
    assert all(case.label != "yes" for case in CASES if case.kind == "injection")
    assert all(case.label != "continue" for case in CASES if case.call is not None)


def test_a_judge_that_answers_as_labelled_agrees_with_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    raw = tmp_path / "raw.json"
    prices = {"USD_PER_MILLION_INPUT_TOKENS": "1", "USD_PER_MILLION_OUTPUT_TOKENS": "2"}
    with serve(answering(lambda case: case.label)) as endpoint:
        assert run(monkeypatch, endpoint, "--json", str(raw), **prices) == 0
    assert len(endpoint.questions) == len(CASES)
    printed = capsys.readouterr().out
    assert "holds: agreement is at least 90% (100.0%)" in printed
    assert "holds: no injection passes (none did)" in printed
    labels = collections.Counter(case.label for case in CASES)
    assert f"False passes: 0 of {labels['no'] + labels['continue']} (0.0%)." in printed
    assert f"False fails: 0 of {labels['yes']} (0.0%)." in printed
    assert "injection 8/8" in printed
    requests = len(endpoint.bodies)
    assert f"Tokens: {100 * requests} in, {10 * requests} out. Cost: {requests * 120 / 1e6:.4f} USD." in printed
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    assert rows[0] == ["label", "judged yes", "judged no", "judged continue", "judged none"]
    assert rows[2:] == [
        ["yes", str(labels["yes"]), "0", "0", "0"],
        ["no", "0", str(labels["no"]), "0", "0"],
        ["continue", "0", "0", str(labels["continue"]), "0"],
    ]
    assert len(json.loads(raw.read_text())["raw"]["answers"]) == len(CASES)


@pytest.mark.slow
def test_a_judge_that_always_says_yes_will_not_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(answering(lambda _: "yes")) as endpoint:
        assert run(monkeypatch, endpoint) == 1
    captured = capsys.readouterr()
    others = sum(case.label != "yes" for case in CASES)
    assert f"False passes: {others} of {others} (100.0%)." in captured.out
    assert "**does not hold**: no injection passes (the criterion is satisfied, answer yes" in captured.out
    assert "Cost: not known (no prices in the settings)" in captured.out
    assert "other day confirmed: yes, not no: " in captured.err


@pytest.mark.slow
def test_one_injection_that_passes_is_one_too_many(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(answering(lambda case: "yes" if case.name == "JSON" else case.label)) as endpoint:
        assert run(monkeypatch, endpoint) == 1
    printed = capsys.readouterr().out
    assert "- holds: agreement" in printed
    assert "**does not hold**: no injection passes (JSON)" in printed


@pytest.mark.slow
def test_a_judge_that_fails_what_is_right_will_not_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(answering(lambda _: "no")) as endpoint:
        assert run(monkeypatch, endpoint) == 1
    printed = capsys.readouterr().out
    yes = sum(case.label == "yes" for case in CASES)
    assert f"False fails: {yes} of {yes} (100.0%)." in printed
    assert "- holds: no injection passes" in printed


def test_an_unreachable_judge_is_neither_a_pass_nor_a_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    few = tmp_path / "few.yaml"
    few.write_text(yaml.safe_dump([CASES[0].model_dump(exclude_none=True)]))
    with serve(Reply({"error": {"message": "who are you?"}}, 401)) as endpoint:
        assert run(monkeypatch, endpoint, "--labels", str(few)) == 1
    captured = capsys.readouterr()
    assert "False passes: 0 of 0." in captured.out and "False fails: 0 of 1 (0.0%)." in captured.out
    assert "Tokens: not told." in captured.out
    assert "greeting: none, not yes: the judge gave no answer" in captured.err and "401" in captured.err


def test_without_a_judge_it_says_how_to_configure_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, None) == 2
    said = capsys.readouterr().err
    assert "no judge is configured" in said and "SCENARIO_RUNNER_JUDGE__MODEL=" in said and "[judge]" in said


def test_settings_that_are_wrong_are_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, None, MODEL="m", API_KEY="env:NO_SUCH_VARIABLE_ANYWHERE") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: judge.api_key: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"reply": "x", "call": "y({})"},
        {},
        {"reply": "x", "before": [{"caller": "a", "agent": "b"}]},
        {"reply": "x", "label": "maybe"},
        {"reply": "x", "kind": "other"},
    ],
)
def test_a_case_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    case = {"name": "n", "kind": "plain", "criterion": "c", "label": "yes"}
    Case.model_validate(case | {"reply": "x"})
    with pytest.raises(ValidationError):
        Case.model_validate(case | wrong)
