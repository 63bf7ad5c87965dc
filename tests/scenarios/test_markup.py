"""Markup in what a caller of a scenario file says."""

from pathlib import Path

import pytest

from runner.errors import UsageError
from runner.scenarios.evals import load_file
from runner.scenarios.markup import unknown_markup
from runner.settings import Settings


@pytest.mark.parametrize(
    "text",
    ["[laughter] Fine.", "Well, <Silence time='2s'/> fine.", "So <silence time=2s fine.", "<b>Fine</b>", "[/b]"],
)
def test_a_scenario_file_with_markup_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    for user in (f'"{text}"', f'["{text}", 500]'):
        path.write_text(f"name: x\nturns:\n  - user: Hello\n  - user: {user}\n", encoding="utf-8")
        with pytest.raises(UsageError, match=r"x\.yaml:4: user: .* is no markup that is played here"):
            load_file(path, Settings())


@pytest.mark.parametrize(
    "text", ["1 < 2 > 1", "I <3 you", "a<b", "x [1] y", "{{test_profile[name]}}", "5 > 4", "A -> B <- C", "[]", "[ ]"]
)
def test_what_is_no_markup_is_said(text: str) -> None:
    assert unknown_markup(text) is None


def test_a_long_text_takes_no_time() -> None:
    for text in ("<a " * 20_000, "[a" * 20_000, "< " * 20_000, "<a" + " b=" * 20_000):
        unknown_markup(text)
