"""What went wrong on our side and on the way, in plain words."""

import pytest

from bots.clock import NS_PER_S
from bots.timeline import AgentAudioLost, CallerAudioLost, CallerUnderrun, HarnessStalled, RoomEntered, TimelineEvent
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
