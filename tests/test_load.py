"""When one more call may begin."""

from dataclasses import dataclass
from typing import Any

import pytest

from runner.load import Load


@dataclass
class Machine:
    allowed: float


BEGUN: list[Any] = [{}, {("agent", 1): 2}, {("agent", 1): 2, ("room", "a"): 1}]
"""Three calls: of no kind, of an agent that takes two at once, and of the same agent in a room that takes one."""


@pytest.mark.parametrize(
    ("most", "allowed", "kinds", "may"),
    [
        (None, None, [], True),
        (4, None, [], True),
        (3, None, [], False),
        (4, 3, [], False),
        # More are on than the machine carries by now.
        (None, 1, [], False),
        (None, None, [("agent", 1)], False),
        (None, None, [("agent", 2)], True),
        (None, None, [("agent", 2), ("room", "a")], False),
        (None, None, [("room", 1)], True),
    ],
)
def test_one_more_may_begin_within_every_limit(
    most: int | None, allowed: float | None, kinds: list[Any], may: bool
) -> None:
    load = Load(most, carrier=None if allowed is None else Machine(allowed))
    for limits in BEGUN:
        load.begin(limits)
    assert load.may_begin(kinds) is may
    assert (load.on, load.of(("agent", 1)), load.full("agent"), load.full("room")) == (3, 2, {1}, {"a"})
    assert load.left >= 0
    load.end(BEGUN[2])
    assert load.may_begin([("agent", 1), ("room", "a")]) is (allowed != 1)
    assert (load.on, load.full("agent")) == (2, set())
