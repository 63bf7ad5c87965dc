"""Whether words are those an expectation asks for."""

from bots.caller.script import Expectation, compile_pattern
from runner.evaluation.wording import contains_words, normalise_words


def holds_excluded(expectation: Expectation, text: str) -> bool:
    """Return whether the words hold what they must not."""
    excluded = expectation.text_excludes
    return excluded is not None and _contains(text, excluded)


def _contains(text: str, part: str) -> bool:
    # Spoken and written forms are equal ("555-0142", "five five five…"). A part that is no words (a marker, a symbol)
    # is there only as it is written.
    return part in text or (bool(normalise_words(part)) and contains_words(text, part))


def _matches(text: str, pattern: str) -> bool:
    # As it is written, or in the one form in which all ways of writing the same words are equal.
    compiled = compile_pattern(pattern)
    return any(compiled.search(form) is not None for form in (text, normalise_words(text)))


def text_problem(expectation: Expectation, text: str, *, excludes: bool = True) -> str:
    """Return what is wrong with the words; empty if nothing is. Without ``excludes``: what is missing from them."""
    if excludes and holds_excluded(expectation, text):
        return f"holds {expectation.text_excludes!r}"
    if expectation.text_contains is not None and not _contains(text, expectation.text_contains):
        return f"does not contain {expectation.text_contains!r}"
    if expectation.text_matches is not None and not _matches(text, expectation.text_matches):
        return f"does not match /{expectation.text_matches}/"
    return ""
