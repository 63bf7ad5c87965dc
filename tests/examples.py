"""How many examples a property is tried with."""

import os
from typing import Any

import pytest

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "steady")

IN_A_HURRY = 5
"""The tests of every change try one example of so many; the slow ones try them all (``make test-slow``)."""


def examples(count: int) -> int:
    """Return how many of ``count`` examples to try."""
    return max(count // IN_A_HURRY, 5) if PROFILE == "steady" else count


def named(*cases: tuple[Any, ...]) -> list[Any]:
    """Return cases for ``parametrize``, each of which begins with its name."""
    return [pytest.param(*case, id=name) for name, *case in cases]
