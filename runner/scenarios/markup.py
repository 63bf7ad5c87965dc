"""Markup in what a caller says. What is not known here is refused: a synthesiser would read it aloud."""

import re

_PLACEHOLDER = re.compile(r"\{\{[^{}]*\}\}")
_TAG = re.compile(
    # A tag, whole or begun: "1 < 2" is none, and neither is "<3".
    r"</?[A-Za-z][\w-]*(?:\s[^<>]*)?/?>|<[A-Za-z][\w-]*\s+[\w-]+\s*="
    # With space before its name only where nothing else can be meant.
    r"|<\s+/?\s*[A-Za-z][\w-]*(?:\s+[\w-]+\s*=[^<>]*|\s*/)\s*>"
)
_BRACKETS = re.compile(r"\[\s*/?[A-Za-z][^\[\]\n]{0,80}\]")
_MAX_SHOWN = 40


def unknown_markup(text: str, played: str = "") -> str | None:
    """Return what is wrong with markup in a text of which nothing is played, in one sentence; None if there is none.

    ``{{placeholders}}`` are no markup.

    Args:
        text: What the caller is to say.
        played: The tags that are played where the text stands, for the sentence.
    """
    plain = _PLACEHOLDER.sub(" ", text)
    found = min((m for m in (_TAG.search(plain), _BRACKETS.search(plain)) if m), key=re.Match.start, default=None)
    if found is None:
        return None
    shown = found[0].strip()
    shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}…"
    instead = f"; {played}" if played else "; leave it out, or write it in words"
    return f"{shown} is no markup that is played here, and would be read aloud{instead}"
