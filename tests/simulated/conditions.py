"""What calls are made under: a quiet line, a background behind the agent, a machine and a network that are busy."""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from bots.agents.backgrounds import LOOP_S, BackgroundName, background
from bots.caller.speech.voice import RATE_HZ
from bots.clock import NS_PER_MS, NS_PER_S
from tests.simulated.agent import Behaviour
from tests.simulated.call import Simulation
from tests.simulated.room import Network
from tests.simulated.speech import Pcm
from tests.simulated.virtual_time import Stall

LONGEST_S = 180
"""Stalls are drawn for so long: no call of a table takes longer."""

BACKGROUND_DBFS = -38.0


class Condition(StrEnum):
    """The kinds of surroundings."""

    QUIET = "quiet"
    BACKGROUND = "background"
    BUSY = "busy"


CONDITIONS = tuple(Condition)


def bed(name: str, dbfs: float, from_s: float = 0.0) -> Pcm:
    """Return a background as an agent plays it behind itself: a loop that begins somewhere.

    Args:
        name: The background.
        dbfs: Its level.
        from_s: Where in the loop to begin, in seconds.
    """
    samples = background(name, RATE_HZ) * 10 ** (dbfs / 20) * 32768
    return np.roll(np.clip(samples, -32768, 32767).astype(np.int16), -round(from_s * RATE_HZ))


def busy_stalls(random: np.random.Generator) -> list[Stall]:
    """Draw when a busy machine keeps us waiting: a little all the time, long now and then, all of us sometimes."""
    stalls: list[Stall] = []
    at_ns = 0
    while at_ns < LONGEST_S * NS_PER_S:
        at_ns += int(random.exponential(400 * NS_PER_MS))
        kind = random.random()
        if kind < 0.95:
            duration_ms, is_whole = random.uniform(5, 80), random.random() < 0.1
        elif kind < 0.99:
            duration_ms, is_whole = random.uniform(100, 700), False
        else:
            duration_ms, is_whole = random.uniform(100, 1_500), True
        stalls.append(Stall(at_ns, at_ns + int(duration_ms * NS_PER_MS), is_whole))
        at_ns = stalls[-1].end_ns
    return stalls


def simulation(condition: Condition, seed: int, behaviour: Behaviour | None = None) -> Simulation:
    """Return a call's surroundings of a kind, all drawn from the seed.

    Args:
        condition: The kind.
        seed: Other seeds give other surroundings of the kind.
        behaviour: How the agent behaves.
    """
    random = np.random.default_rng([list(Condition).index(condition), seed])
    network = Network(delay_ms=random.uniform(2, 60), jitter_ms=random.uniform(0.1, 1.5))
    stalls: Sequence[Stall] = ()
    background_pcm: Pcm | None = None
    if condition is Condition.BACKGROUND:
        name = list(BackgroundName)[int(random.integers(len(BackgroundName)))]
        background_pcm = bed(name, BACKGROUND_DBFS, random.uniform(0, LOOP_S))
    elif condition is Condition.BUSY:
        stalls = busy_stalls(random)
        network = Network(
            delay_ms=random.uniform(2, 150),
            jitter_ms=random.uniform(1, 15),
            loss=random.uniform(0, 0.03),
            caller_loss=random.uniform(0, 0.03),
            burst=random.uniform(1, 4),
        )
    return Simulation(
        seed=seed,
        behaviour=behaviour or Behaviour(),
        network=network,
        stalls=stalls,
        background=background_pcm,
        misheard=0.03,
    )
