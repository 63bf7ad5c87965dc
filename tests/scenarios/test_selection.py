"""Choosing scenarios of a suite by an expression over names and tags."""

from pathlib import Path

import pytest

from runner.errors import UsageError
from runner.scenarios.evals import load_text
from runner.scenarios.model import Scenario
from runner.scenarios.selection import MAX_CHARACTERS, MAX_DEPTH, parse_expression, select_scenarios
from runner.scenarios.suites import Suite, load_suite
from runner.settings import Settings

TURNS = "turns: [{ expect: [{ event: response }] }]"


def scenario(name: str = "booking/four", *tags: str) -> Scenario:
    return Scenario(name=name, path=Path("booking.yaml"), line=1, script=None, tags=tags)


@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ("four", True),
        ("FOUR", True),
        ("five", False),
        ("smoke", True),
        ("Smo", True),
        ("booking/four", True),
        ("not four", False),
        ("not not four", True),
        ("four and slow", False),
        ("four or slow", True),
        ("slow or four and smoke", True),
        ("(slow or four) and not smoke", False),
        ("not (slow or five)", True),
        ("not slow and not five", True),
    ],
)
def test_words_match_names_and_tags(expression: str, selected: bool) -> None:
    assert parse_expression(expression)(scenario("booking/four", "Smoke", "de-DE")) is selected


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("", "ends where a word, not, or ( is expected"),
        ("four and", "ends where a word, not, or ( is expected"),
        ("(four", "ends where ) is expected"),
        ("four)", "column 5: expected and, or, or the end, not ')'"),
        ("four five", "column 6: expected and, or, or the end, not 'five'"),
        ("or four", "column 1: expected a word, not, or (, not 'or'"),
        ("four  & five", "column 7: '&' can't be part of an expression"),
        ("__import__('os')", "column 12: \"'\" can't be part of an expression"),
        ("a" * (MAX_CHARACTERS + 1), f"longer than {MAX_CHARACTERS} characters"),
        ("(" * (MAX_DEPTH + 1) + "a", f"nested more than {MAX_DEPTH} deep"),
        ("not " * (MAX_DEPTH + 1) + "a", f"nested more than {MAX_DEPTH} deep"),
    ],
)
def test_what_is_no_expression_is_refused_with_its_place(expression: str, problem: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_expression(expression)
    assert str(error.value) == f"-k: {problem}"


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    (tmp_path / "all.yaml").write_text(
        "name: all\ntags: [common]\nscenarios:\n"
        f"  - {{ name: a, tags: [smoke], {TURNS} }}\n  - {{ name: b, {TURNS} }}\n"
        "  - { name: c, persona: A caller., tags: [smoke] }\n"
    )
    (tmp_path / "suite.yaml").write_text(
        "name: night\nagent: { url: 'http://a' }\nrepeat: 2\nscenarios: [all.yaml]\n"
    )
    return load_suite(tmp_path / "suite.yaml", Settings())


def test_a_selected_suite_has_the_runs_that_match(suite: Suite) -> None:
    chosen = select_scenarios(suite, "smoke")
    assert [(run.index, run.title) for run in chosen.runs] == [(0, "all/a"), (1, "all/a #2")]
    assert [skipped.name for skipped in chosen.skipped] == ["all/c"]
    assert [run.title for run in select_scenarios(suite, "common").runs] == ["all/b", "all/b #2"]
    assert select_scenarios(suite, "common").skipped == ()


def test_an_expression_that_matches_nothing_names_what_there_is(suite: Suite) -> None:
    with pytest.raises(UsageError, match=r"-k: no scenario matches 'smoek'; there are: all/a, all/b$"):
        select_scenarios(suite, "smoek")


@pytest.mark.parametrize("tags", ["[and]", "[two words]", "['']", "[(a)]", "[-a]", "['a,b']", "smoke", "[[a]]"])
def test_a_tag_is_a_word(tags: str) -> None:
    with pytest.raises(UsageError, match=r"x\.yaml: line 2: "):
        load_text(f"name: x\ntags: {tags}\n{TURNS}\n", "x.yaml", Settings())


def test_a_scenario_has_its_tags_once() -> None:
    [found] = load_text(f"name: x\ntags: [de-DE, smoke, smoke]\n{TURNS}\n", "x.yaml", Settings())
    assert found.tags == ("de-DE", "smoke")
