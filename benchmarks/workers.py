"""Deployed workers: that no run is lost whatever happens, that two make twice as many calls, what the record costs.

    python -m benchmarks.workers [--sqlite]

Runs on a short scenario, made by two workers while these are killed and frozen, the API is away and the database
crashes, over and over. Then calls at once with one worker process and with two. Then what record and database take of
a core while runs change their state twenty times a second: made by workers whose calls take nothing, so that it does
not matter how many real ones this machine could make.
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

from benchmarks.common import Claim, parser, report
from benchmarks.empty_calls import CHANGES
from tests.cluster.checks import FINAL, ended_once, leavings, logs, outcomes
from tests.cluster.client import WAITS, Launched
from tests.cluster.cluster import CALLS, Cluster, cluster
from tests.cluster.link import Link
from tests.cluster.ordeal import SLOW, Times, api_away, both_away, child_killed, cut_off, frozen, killed, launch
from tests.cluster.program import Program
from tests.cluster.store import POSTGRESQL, SQLITE
from tests.patience import wait_until

CALM_S = 5.0
"""How long nothing happens between one disturbance and the next."""

ENOUGH_LEFT = 8 * CALLS
"""With fewer runs left nothing more happens to them."""

SETTINGS = {"SCENARIO_RUNNER_LOG_LEVEL": "WARNING"}
"""As they are by default; the tests log more."""

SETTLING_LIMIT_S = 120.0

EMPTY_CALLS = 12
"""How many calls are on at once, in which nothing happens."""

SHORT = "name: short\nturns:\n  - silence_ms: 3300\n"
RUNS_A_SECOND = 4
CHANGES_A_SECOND = 20
MAX_PERCENT = 5.0
SETTLE_S = 5.0
WINDOW_S = 30.0


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
        tracebacks: How many logs held one, or a secret.
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

    @property
    def doubles(self) -> bool:
        """Whether a second process makes as many again."""
        return self.one == CALLS and self.two == 2 * CALLS


@dataclass
class Cost:
    """What the record's side took of a core, in per cent: the API's process, and those of PostgreSQL.

    On SQLite the database's share is the API's: what workers do with the file is not in it.

    Attributes:
        idle: While two workers waited for something to do.
        per_call: For each call that was on, and in which nothing happened.
        busy: While runs were made.
        changes_a_second: How often runs changed their state meanwhile.
        calls: How many calls were on meanwhile.
        requests_a_second: How often workers asked or told something meanwhile.
    """

    idle: float
    per_call: float
    busy: float
    changes_a_second: float
    calls: float
    requests_a_second: float

    @property
    def per_change(self) -> float:
        """What each change a second takes, with all that workers ask meanwhile."""
        return (self.busy - self.idle) / self.changes_a_second


@contextmanager
def deployment(kind: str, settings: Mapping[str, str] | None = None, *, audited: bool = False) -> Generator[Cluster]:
    """Yield a deployment in a folder that goes with it."""
    with (
        TemporaryDirectory(prefix="benchmark-") as folder,
        cluster(kind, Path(folder), {**SETTINGS, **(settings or {})}, audited=audited) as made,
    ):
        yield made


def endure(kind: str, runs: int, times: Times) -> Endured:
    """Make runs while things happen to what makes them."""
    with deployment(kind, times.settings, audited=True) as made:
        link = Link(made.port)
        second_url = made.add_api()
        one = made.add_worker("one")
        two = made.add_worker("two", record_url=second_url)
        three = made.add_worker("three", record_url=link.url)
        # With a disk that is full all the time: it must take nothing.
        full = made.add_worker("full", env={"SCENARIO_RUNNER_WORKER__MIN_FREE_BYTES": str(10**16)})
        made.wait()
        began_s = time.monotonic()
        launched = launch(made, runs // 4)
        happened: Counter[str] = Counter()
        may_be_lost: set[int] = set()

        def kill() -> None:
            may_be_lost.update(killed(made, one))
            one.start()

        disturbances: dict[str, Callable[[], None]] = {
            "worker killed with its parent": kill,
            "worker's process killed": lambda: may_be_lost.update(child_killed(made, two)),
            "one of two APIs away": lambda: api_away(made, times.away_s),
            "both APIs away": lambda: both_away(made, times.away_s),
            "database crashed": made.store.restart,
            "worker frozen": lambda: may_be_lost.update(frozen(made, two, times.frozen_s)),
            "worker cut off": lambda: may_be_lost.update(cut_off(made, three, link, times.lease_s)),
        }
        if made.store.server is None:
            del disturbances["database crashed"]
        while _left(made, launched) > ENOUGH_LEFT:
            for name, disturb in disturbances.items():
                if _left(made, launched) > ENOUGH_LEFT:
                    disturb()
                    happened[name] += 1
                    passed_s = time.monotonic() - began_s
                    print(f"{passed_s:5.0f} s: {name}; {_left(made, launched)} runs left", file=sys.stderr)
                    time.sleep(CALM_S)
        made.client.until_ended(launched, timeout_s=600)
        took_s = time.monotonic() - began_s
        until_s = time.monotonic() + SETTLING_LIMIT_S
        while leavings(made) and time.monotonic() < until_s:
            time.sleep(1)
        endured = _endured(made, launched, may_be_lost, dict(happened), took_s)
        executor, state = full.state(made.store)
        taken = [run for run, changes in made.store.changes().items() if any(c.executor == executor for c in changes)]
        if state != "paused" or taken:
            endured.wrong.append(f"the worker whose disk is full is {state}, and was given {taken}")
        link.close()
        return endured


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

    wait_until(steady, "as many calls are on as will be", every_s=0.5)
    return counts[-1]


def record_cost(kind: str) -> Cost:
    """Measure what the record's side takes, with calls in which nothing happens."""
    with deployment(kind) as made:
        for name in ("one", "two"):
            _add_empty_worker(made, name)
        made.agent.wait()
        time.sleep(SETTLE_S)
        idle, *_ = _measured(made)
        waiting = made.client.launch(WAITS, EMPTY_CALLS)
        wait_until(lambda: len(_on(made)) == EMPTY_CALLS, "all calls are on")
        time.sleep(SETTLE_S)
        on, *_ = _measured(made)
        made.client.end([waiting])
        busy = made.client.launch(SHORT, int(RUNS_A_SECOND * (2 * SETTLE_S + 2 * WINDOW_S)), success=True)
        time.sleep(2 * SETTLE_S)
        percent, ended, calls, requests = _measured(made)
        made.client.end([busy])
        return Cost(idle, (on - idle) / EMPTY_CALLS, percent, ended * len(CHANGES), calls, requests)


def _add_empty_worker(made: Cluster, name: str) -> None:
    env = {
        **made.env,
        "SCENARIO_RUNNER_LOG_LEVEL": "WARNING",
        "SCENARIO_RUNNER_WORKER__DATA_DIR": str(made.folder / f"{name}-data"),
        "SCENARIO_RUNNER_WORKER__RECORD_URL": made.url,
        "SCENARIO_RUNNER_WORKER__KEY": made.worker_key,
        "SCENARIO_RUNNER_WORKER__CALLS": str(EMPTY_CALLS // 2),
    }
    program = Program(name, ["-m", "benchmarks.empty_calls", name], made.folder, env)
    program.start()
    program.says(f"^worker {name}:")


def _measured(made: Cluster) -> tuple[float, float, float, float]:
    """Return what the record's side takes for a while: per cent of a core, and by the second what happened meanwhile.

    That is how many runs ended, how many calls were on, and how many requests of workers were answered.
    """
    requests, ended = _requests(made), _ended(made)
    began_s, cpu_s = time.monotonic(), _cpu_s(made)
    on: list[int] = []
    while time.monotonic() - began_s < WINDOW_S:
        time.sleep(WINDOW_S / 10)
        on.append(len(_on(made)))
    took_s = time.monotonic() - began_s
    percent = (_cpu_s(made) - cpu_s) / took_s * 100
    return percent, (_ended(made) - ended) / took_s, sum(on) / len(on), (_requests(made) - requests) / took_s


def _cpu_s(made: Cluster) -> float:
    """Return what the record's side has taken of the processors so far, in seconds."""
    server = made.store.server
    processes = [*made.api.processes(), *([] if server is None else server.processes)]
    total_s = 0.0
    for process in processes:
        # A connection's process that has just ended is in what its parent's children took.
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total_s += times.user + times.system + times.children_user + times.children_system
    return total_s


def _on(made: Cluster) -> list[int]:
    return [row.id for row in made.store.rows("SELECT id FROM runs WHERE status IN ('running', 'evaluating')")]


def _ended(made: Cluster) -> int:
    return made.store.rows("SELECT count(*) FROM runs WHERE status = 'completed'")[0][0]


def _requests(made: Cluster) -> float:
    """Return how many requests of workers the API has answered."""
    text = httpx.get(f"{made.url}/metrics", trust_env=False).text
    counted = re.findall(r'^scenario_runner_requests_total\{.*route="/worker/.* (\S+)$', text, re.MULTILINE)
    return sum(float(count) for count in counted)


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=500, help="how many runs are made while things happen")
    options.add_argument("--sqlite", action="store_true", help="with one SQLite file in place of PostgreSQL")
    chosen = options.parse_args()
    kind = SQLITE if chosen.sqlite else POSTGRESQL
    cost = record_cost(kind)
    at_once = calls_at_once(kind)
    endured = endure(kind, chosen.runs, SLOW)
    for problem in endured.wrong:
        print(problem, file=sys.stderr)
    rows: list[tuple[str, object]] = [
        ("runs", endured.runs),
        *((f"{name}, times", count) for name, count in endured.happened.items()),
        ("ended exactly once", endured.ended_once),
        ("came to what they must come to", endured.right),
        ("of these closed with their worker", endured.closed),
        ("given to a worker more than once", endured.again),
        ("reports waiting in the end", endured.waiting),
        ("callers who met", endured.met),
        ("logs with a traceback or a secret", endured.tracebacks),
        ("took, s", f"{endured.took_s:.0f}"),
        ("calls at once with one process, with two", f"{at_once.one}, {at_once.two}"),
        ("record's side, idle, % of a core", f"{cost.idle:.1f}"),
        ("for each call that is on", f"{cost.per_call:.2f}"),
        (f"at {cost.changes_a_second:.1f} changes a second, {cost.calls:.0f} calls on", f"{cost.busy:.1f}"),
        ("requests a second meanwhile", f"{cost.requests_a_second:.0f}"),
    ]
    at_rate = cost.idle + cost.per_change * CHANGES_A_SECOND
    claims = [
        Claim(
            f"every run ends exactly once ({endured.ended_once} of {endured.runs})",
            endured.ended_once == endured.runs,
        ),
        Claim(f"every run comes to what it must come to ({endured.right})", endured.right == endured.runs),
        Claim(
            "a worker whose disk is full takes nothing, and says so",
            not any("disk is full" in w for w in endured.wrong),
        ),
        Claim(f"every report arrives ({endured.waiting} wait in the end)", endured.waiting == 0),
        Claim(f"no two callers meet ({endured.met} did)", endured.met == 0),
        Claim(f"no log of ours holds a traceback or a secret ({endured.tracebacks} do)", endured.tracebacks == 0),
        Claim(f"a second process doubles the calls at once ({at_once.one}, {at_once.two})", at_once.doubles),
        Claim(f"none of these runs out of audio ({at_once.underruns} times)", at_once.underruns == 0),
        Claim(
            f"the record's side takes less than {MAX_PERCENT:g} % of a core at {CHANGES_A_SECOND} changes a second "
            f"({at_rate:.1f} %)",
            at_rate < MAX_PERCENT,
        ),
    ]
    return report(
        f"Deployed workers, on {'one SQLite file' if chosen.sqlite else 'PostgreSQL'}",
        ("", ""),
        rows,
        claims,
        raw={"endured": asdict(endured), "at_once": asdict(at_once), "cost": asdict(cost)},
        json_file=chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
