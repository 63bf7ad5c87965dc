"""What went wrong on our side and on the way, in plain words."""

import pytest

from bots.clock import NS_PER_S
from bots.timeline import (
    AgentAudioLate,
    AgentAudioLost,
    CallerAudioLost,
    CallerUnderrun,
    HarnessStalled,
    MachineBusy,
    RoomEntered,
    TimelineEvent,
)
from runner.calls.run_warnings import trouble_warnings


def late(*durations_ms: float) -> list[TimelineEvent]:
    return [CallerUnderrun(at_ns=1, turn=0, duration_ms=ms) for ms in durations_ms]


def lost(*packets: int) -> list[TimelineEvent]:
    return [
        CallerAudioLost(at_ns=(place + 1) * NS_PER_S, since_ns=place * NS_PER_S, lost=count, packets=50)
        for place, count in enumerate(packets)
    ]


@pytest.mark.parametrize(
    ("facts", "warnings"),
    [
        ([RoomEntered(at_ns=1)], []),
        (late(40), ["the caller's audio was late once, for 40 ms"]),
        (late(20, 980, 60, 40, 20), ["the caller's audio was late 5 times, 1.1 s in all"]),
        ([HarnessStalled(at_ns=1, duration_ms=1_003.5)], ["the runner stood still once, for 1.0 s"]),
        (
            [AgentAudioLost(at_ns=1, duration_ms=60), AgentAudioLost(at_ns=2, duration_ms=40)],
            ["the agent's audio was lost on its way to us 2 times, 100 ms in all"],
        ),
        (
            [AgentAudioLate(at_ns=n, duration_ms=200, late_ms=50.0 * n) for n in (1, 3, 2)],
            ["the agent's audio came up to 150 ms late: times are less exact there, and say so"],
        ),
        (
            [MachineBusy(at_ns=n, duration_ms=2_000, waited=0.6 + n / 10, shared=True) for n in (1, 2)],
            ["the machine was too busy 2 times: the runner waited for a processor for up to 80% of its time"],
        ),
        (lost(0, 5, 4), ["the caller's audio was lost on its way to the agent: 9 of 150 packets"]),
        (lost(1, 0, 1), []),
    ],
)
def test_each_kind_of_trouble_is_one_line(facts: list[TimelineEvent], warnings: list[str]) -> None:
    assert trouble_warnings(facts) == warnings


def test_several_kinds_are_several_lines() -> None:
    facts = [HarnessStalled(at_ns=1, duration_ms=500), *late(40), *lost(9)]
    assert [warning.split(" was ")[0].split(" stood ")[0] for warning in trouble_warnings(facts)] == [
        "the caller's audio",
        "the runner",
        "the caller's audio",
    ]
