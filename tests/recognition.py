"""What a recogniser makes of speech that came over a call: much the same words, but not to the letter."""

from difflib import SequenceMatcher

from runner.evaluation.wording import normalise_words

LEAST_ALIKE = 0.8
"""One short word in six taken for another is well above it, another sentence well below."""


def sounds_like(heard: str, said: str) -> bool:
    """Return whether what was recognised is what was said, but for a word or two that sound much the same."""
    return SequenceMatcher(None, normalise_words(heard), normalise_words(said), autojunk=False).ratio() >= LEAST_ALIKE
