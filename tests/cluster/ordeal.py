"""Everything that can happen to a deployment in a short while, and what must be true afterwards."""

import time
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.checks import check
from tests.cluster.client import FAILS, PASSES, Launched
from tests.cluster.cluster import Cluster, Worker, cluster
from tests.cluster.link import Fault, Link
from tests.cluster.store import pid_of
from tests.patience import wait_until


@dataclass(frozen=True)
class Times:
    away_s: float
    frozen_s: float
    lease_s: float

    @property
    def settings(self) -> dict[str, str]:
        return {"SCENARIO_RUNNER_SERVER__LEASE_S": f"{self.lease_s:g}"}


FAST = Times(away_s=7, frozen_s=22, lease_s=15)
SLOW = Times(away_s=15, frozen_s=30, lease_s=20)


def ordeal(kind: str, folder: Path, times: Times) -> None:
    """Make 24 runs with two workers while one is killed, the API is away, the database crashes and one is frozen."""
    with cluster(kind, folder, times.settings) as made:
        one, two = made.add_worker("one"), made.add_worker("two")
        made.wait()
        launched = launch(made, 6)
        lost = killed(made, one)
        one.start()
        api_away(made, times.away_s)
        one.wait()
        until_live(made, one)
        made.store.restart()
        lost |= frozen(made, two, times.frozen_s)
        made.client.until_ended(launched)
        statuses = check(made, launched, may_be_lost=lost)
        assert list(statuses.values()).count("failed") < len(statuses) / 2, statuses
        made.stop()


def launch(made: Cluster, each: int) -> list[Launched]:
    """Launch so many runs of each kind: with rooms and with sessions, and with both verdicts."""
    return [
        made.client.launch(text, each, success=text == PASSES, sessions=sessions)
        for sessions in (False, True)
        for text in (PASSES, FAILS)
    ]


def until_live(made: Cluster, worker: Worker) -> set[int]:
    """Wait until a worker's caller is in a room, and return the runs for which that is so."""
    return wait_until(lambda: worker.has(made.store) & made.agent.runs_on(), f"{worker.name} makes calls")


def killed(made: Cluster, worker: Worker) -> set[int]:
    """Kill a worker in the middle of a call, and return the runs that it had."""
    until_live(made, worker)
    pids = {process.pid for process in worker.processes()}
    worker.kill()
    return {run for run, executor in made.store.taken().items() if pid_of(executor) in pids}


def child_killed(made: Cluster, worker: Worker) -> set[int]:
    """Kill what makes a worker's calls, in the middle of one, and return the runs that it had."""
    until_live(made, worker)
    had = worker.has(made.store)
    for process in worker.processes()[1:]:
        process.kill()
    return had


def cut_off(made: Cluster, worker: Worker, link: Link, lease_s: float) -> set[int]:
    """Cut a worker off from the API in the middle of a call, beyond its lease; return the runs that it had."""
    until_live(made, worker)
    link.cut(Fault.LOST)
    had = worker.has(made.store)
    time.sleep(lease_s * 1.5)
    link.mend()
    return had


def frozen(made: Cluster, worker: Worker, frozen_s: float) -> set[int]:
    """Let a worker stand still in the middle of a call, and return the runs that it had."""
    until_live(made, worker)
    worker.freeze()
    had = worker.has(made.store)
    time.sleep(frozen_s)
    worker.thaw()
    return had


def api_away(made: Cluster, away_s: float) -> None:
    """Stop the API while calls are on, so that some end meanwhile; and start it again."""
    wait_until(made.agent.runs_on, "calls are on")
    began_s = time.monotonic()
    assert made.api.stop() == 0, made.api.tail()
    wait_until(lambda: any(worker.reports() for worker in made.workers), "reports wait")
    time.sleep(max(0.0, began_s + away_s - time.monotonic()))
    made.start_api()


def both_away(made: Cluster, away_s: float) -> None:
    """Stop both APIs while calls are on, and start them again."""
    second = made.second_api
    assert second is not None
    wait_until(made.agent.runs_on, "calls are on")
    began_s = time.monotonic()
    assert second.stop() == 0, second.tail()
    assert made.api.stop() == 0, made.api.tail()
    time.sleep(max(0.0, began_s + away_s - time.monotonic()))
    second.start()
    made.start_api()
    second.says(r"^serving on ")
