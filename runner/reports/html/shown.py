"""Words and numbers of a call, as a page shows them."""

import re
import unicodedata

from runner.text import one_line

_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:s|ms|%|kHz)\b)")

MAX_WORDS = 2_000
"""Of a text so many characters are shown."""

_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""What turns the direction of the text behind it: a page would show words in another order than they were said."""


def words(text: str, limit: int = MAX_WORDS) -> str:
    """Return words of others on one line, cut to a length, with a code where a character can't be seen."""
    kept = "".join(_visible(character) for character in one_line(text[:limit]))
    left = len(text) - limit
    return kept if left <= 0 else f"{kept}… ({left:,} more characters)"


def lines(text: str, limit: int) -> str:
    """Return the end of a text of several lines, with a code where a character can't be seen."""
    kept = "".join(c if c in "\n\t" else _visible(c) for c in text[-limit:])
    return kept if len(text) <= limit else f"…{kept}"


def _visible(character: str) -> str:
    if character in _BIDI or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return f"[U+{ord(character):04X}]"
    return character


def whole_units(text: str) -> str:
    """Return a sentence of ours whose numbers stay on the line of their units."""
    return _BEFORE_UNIT.sub("\u00a0", text)


def clock(at_s: float) -> str:
    """Return a place in a call as minutes and seconds, to a tenth."""
    tenths = round(max(at_s, 0.0) * 10)
    return f"{tenths // 600}:{tenths % 600 // 10:02d}.{tenths % 10}"


def seconds(ms: float) -> str:
    """Return a duration given in milliseconds, in seconds."""
    return f"{ms / 1000:.2f} s"


def percent(part: float, whole: float) -> float:
    """Return where a place lies on an axis, in percent of its length."""
    return round(min(max(part / whole, 0.0), 1.0) * 100, 3) if whole > 0 else 0.0


def sentence(text: str) -> str:
    """Return a text that ends as a sentence does."""
    return text if not text or text[-1] in ".!?…" else f"{text}."
