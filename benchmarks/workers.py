"""Deployed workers: that no run is lost whatever happens to them, that two make twice as many calls, what a record costs.

    python -m benchmarks.workers [--sqlite]

Runs on a short scenario, made by two workers while these are killed and frozen, the API is away and the database
crashes, over and over. Then calls at once with one worker process and with two. Then what record and database take of
a core while runs change their state twenty times a second: made by workers whose calls take nothing, so that it does
not matter how many real ones this machine could make.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.common import Claim, parser, print_table, report
from tests.cluster.checks import FINAL, ended_once, leavings, logs, outcomes
from tests.cluster.client import WAITS, Launched
from tests.cluster.cluster import CALLS, Cluster, cluster
from tests.cluster.ordeal import SLOW, Times, api_away, frozen, killed, launch
from tests.cluster.program import until
from tests.cluster.store import POSTGRESQL, SQLITE

CALM_S = 5.0
"""How long nothing happens between one disturbance and the next."""

ENOUGH_LEFT = 8 * CALLS
"""With fewer runs left nothing more happens to them."""

SETTLING_LIMIT_S = 120.0


@dataclass
class Endured:
    """What became of runs while things happened to their workers.

    Attributes:
        runs: How many there were.
        ended_once: How many ended exactly once, and did not change after that.
        right: How many came to what they must come to, with everything that is kept of them.
        closed: How many of these were closed with their worker, for nothing could start them anew.
        again: How many were given to a worker more than once.
        waiting: Reports that waited in the end.
        met: Callers who came into a room, or to a run, where another one was.
        tracebacks: In the logs.
        happened: What happened, and how often.
        took_s: From the launch to the end of the last run.
        wrong: What was not as it must be.
    """

    runs: int
    ended_once: int
    right: int
    closed: int
    again: int
    waiting: int
    met: int
    tracebacks: int
    happened: dict[str, int]
    took_s: float
    wrong: list[str]


@dataclass
class AtOnce:
    """Calls at once.

    Attributes:
        one: With one worker process.
        two: With two.
        underruns: How often one of these calls had no audio to send.
    """

    one: int
    two: int
    underruns: int


@contextmanager
def deployment(kind: str) -> Generator[Cluster]:
    """Yield a deployment in a folder that goes with it."""
    with TemporaryDirectory(prefix="benchmark-") as folder, cluster(kind, Path(folder)) as made:
        yield made


def endure(kind: str, runs: int, times: Times) -> Endured:
    """Make runs while things happen to what makes them."""
    with deployment(kind) as made:
        one, two = made.add_worker("one"), made.add_worker("two")
        made.wait()
        began_s = time.monotonic()
        launched = launch(made, runs // 4)
        happened: Counter[str] = Counter()
        may_be_lost: set[int] = set()

        def kill() -> None:
            may_be_lost.update(killed(made, one))
            one.start()

        def freeze() -> None:
            may_be_lost.update(frozen(made, two, times.frozen_s))

        disturbances: dict[str, Callable[[], None]] = {
            "worker killed": kill,
            "API away": lambda: api_away(made, times.away_s),
            "database crashed": made.store.restart,
            "worker frozen": freeze,
        }
        if made.store.server is None:
            del disturbances["database crashed"]
        while _left(made, launched) > ENOUGH_LEFT:
            for name, disturb in disturbances.items():
                if _left(made, launched) > ENOUGH_LEFT:
                    disturb()
                    happened[name] += 1
                    print(f"  {time.monotonic() - began_s:5.0f} s: {name}; {_left(made, launched)} runs left")
                    time.sleep(CALM_S)
        made.client.until_ended(launched, timeout_s=600)
        took_s = time.monotonic() - began_s
        until_s = time.monotonic() + SETTLING_LIMIT_S
        while leavings(made) and time.monotonic() < until_s:
            time.sleep(1)
        return _endured(made, launched, may_be_lost, dict(happened), took_s)


def _left(made: Cluster, launched: list[Launched]) -> int:
    return sum(status not in FINAL for each in launched for status in made.client.statuses(each).values())


def _endured(
    made: Cluster, launched: list[Launched], may_be_lost: set[int], happened: dict[str, int], took_s: float
) -> Endured:
    runs = {run_id: made.client.run(run_id) for each in launched for run_id in each.runs}
    wrong = outcomes(made, launched, runs, may_be_lost)
    not_once, met, found = ended_once(made, runs), made.agent.met(), logs(made)
    return Endured(
        runs=len(runs),
        ended_once=len(runs) - len(not_once),
        right=len(runs) - len({problem.partition(":")[0] for problem in wrong}),
        closed=sum(run["status"] == "failed" for run in runs.values()),
        again=sum(run["scenario_runner"]["attempt"] > 1 for run in runs.values()),
        waiting=len(leavings(made)),
        met=len(met),
        tracebacks=len(found),
        happened=happened,
        took_s=took_s,
        wrong=[*wrong, *not_once, *met, *found],
    )


def calls_at_once(kind: str) -> AtOnce:
    """Count the calls at once with one worker process, and with a second one beside it."""
    with deployment(kind) as made:
        made.add_worker("one")
        made.wait()
        launched = made.client.launch(WAITS, 2 * CALLS + 2)
        one = _steadily_on(made)
        made.add_worker("two").wait()
        two = _steadily_on(made)
        made.client.post(f"/results/{launched.id}/end_calls/")
        made.client.until_ended([launched])
        made_runs = [made.client.run(run_id)["scenario_runner"]["artefacts"] for run_id in launched.runs]
        calls = [made.client.get(kept["run.json"]).json() for kept in made_runs if "run.json" in kept]
        return AtOnce(one, two, sum(call["caller_underruns"] for call in calls))


def _steadily_on(made: Cluster) -> int:
    """Return how many calls are on, once that has been the same for three seconds."""
    counts = [-1]

    def steady() -> bool:
        counts.append(len(made.agent.runs_on()))
        return len(counts) > 6 and counts[-1] > 0 and len(set(counts[-6:])) == 1

    until(steady, "as many calls are on as will be", every_s=0.5)
    return counts[-1]
