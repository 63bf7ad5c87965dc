"""Words of others: whole where they fit, and nothing in them that a reader can't see."""

import pytest

from runner.reports.html.shown import clock, lines, percent, sentence, whole_units, words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Good evening.", "Good evening."),
        ("two\nlines", "two lines"),
        ("a\u202egnp.exe", "a[U+202E]gnp.exe"),
        ("\u2066isolated\u2069", "[U+2066]isolated[U+2069]"),
        ("\ud800", "[U+D800]"),
        ("שלום\u200f", "שלום\u200f"),
        ("<script>", "<script>"),
        ("naïve 🍕 日本", "naïve 🍕 日本"),
    ],
)
def test_characters_that_change_others_are_shown_as_codes(text: str, shown: str) -> None:
    assert words(text) == shown


def test_a_long_text_is_cut_and_what_is_left_is_counted() -> None:
    shown = words("x" * 1_000_000)
    assert shown.endswith("x… (998,000 more characters)")
    assert len(shown) < 2_100


def test_of_a_log_the_end_is_shown() -> None:
    assert lines("one\ntwo\x1b[31m", 100) == "one\ntwo[U+001B][31m"
    assert lines("abcdef", 3) == "…def"


def test_a_place_in_the_call_is_minutes_and_seconds() -> None:
    assert [clock(at_s) for at_s in (0, 4.76, 59.96, 61.2, -1)] == ["0:00.0", "0:04.8", "1:00.0", "1:01.2", "0:00.0"]


def test_a_place_on_an_axis_never_leaves_it() -> None:
    assert [percent(part, 4) for part in (-1, 1, 9)] == [0, 25, 100]
    assert percent(1, 0) == 0


def test_a_sentence_ends_as_one() -> None:
    assert [sentence(text) for text in ("a", "a.", "a…", "")] == ["a.", "a.", "a…", ""]
    assert whole_units("in 3 s, 5 ms of 4 seats") == "in 3\u00a0s, 5\u00a0ms of 4 seats"
