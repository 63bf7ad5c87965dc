"""How many examples a property is tried with."""

import os

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "steady")

IN_A_HURRY = 5
"""The tests of every change try one example of so many; the slow ones try them all (``make test-slow``)."""


def examples(count: int) -> int:
    """Return how many of ``count`` examples to try."""
    return max(count // IN_A_HURRY, 5) if PROFILE == "steady" else count
