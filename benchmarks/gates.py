"""Gates: how often an unchanged agent is said to have changed, and how often a real change is found.

    python -m benchmarks.gates --real 10

Simulated suites first, with the figures of an independent simulation beside ours. Then real calls: example scenarios
with the restaurant and with one that answers 300 ms later, in turns (`scenario-runner run --against`). The runs of
the good one are then compared with each other, split at random into two sides again and again.
"""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.common import Claim, parser, report
from benchmarks.gates_simulated import DRIFT, EFFECTS, NONE, Design, Effect, has_change, share_found
from runner.calls.suite_facts import read_runs, run_facts
from runner.comparison.baseline import read_baseline, write_baseline
from runner.comparison.changes import Change, Comparison
from runner.comparison.compare import compare
from runner.comparison.facts import RunFacts
from runner.comparison.wording import scenario_line, suite_lines

DESIGNS = (
    Design(5, 5, 5),
    Design(20, 3, 3),
    Design(20, 5, 5),
    Design(20, 10, 10),
    Design(20, 20, 5),
    Design(50, 5, 5),
)
REFERENCE = {
    "5, 5v5": ".02 .34 .18 .74 1.0 .30 .32 .97",
    "20, 3v3": ".03 .68 .50 1.0 .05 .05 .03 .16",
    "20, 5v5": ".03 .89 .75 1.0 .96 .35 .15 .82",
    "20, 10v10": ".02 1.0 .94 1.0 1.0 .91 .78 1.0",
    "20, 20v5": ".03 1.0 .90 1.0 1.0 .76 .69 1.0",
    "50, 5v5": ".02 1.0 .94 1.0 .60 .21 .08 .67",
}
"""Shares of an independent simulation, in the order of the columns."""

DRIFTING = Design(20, 5, 5, base_sessions=5, drift=DRIFT)
DRIFTING_ONCE = Design(20, 5, 5, base_sessions=1, drift=DRIFT)
MAX_FALSE_ALARMS = 0.04

SLOWER_MS = 300
SCENARIOS = (
    "booking.yaml",
    "restaurant.yaml:answers_in_time",
    "restaurant.yaml:hears_the_caller",
    "restaurant.yaml:hangs_up_after_goodbye",
)
SPLITS = 200
MAX_SPLITS_CHANGED = 6
CONFIG = Path(__file__).parents[1] / "config" / "scenarios"


def shares(
    designs: Sequence[Design], effects: Sequence[Effect], count: int, processes: int
) -> dict[str, list[float]]:
    """Return for each design in what share of repetitions each effect is found."""
    batch = max(count // (4 * processes), 10)
    jobs = [
        (column, (design, effect, first, min(batch, count - first)))
        for design in designs
        for column, effect in enumerate(effects)
        for first in range(0, count, batch)
    ]
    found: dict[str, list[float]] = {str(design): [0.0] * len(effects) for design in designs}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        for (column, job), share in zip(jobs, pool.map(share_found, [job for _, job in jobs]), strict=True):
            found[str(job[0])][column] += share * job[3] / count
            if job[2] + job[3] == count:
                print(f"{job[0]}, {job[1].name}: {found[str(job[0])][column]:.3f} of {count}", file=sys.stderr)
    return found


def suite_text(name: str, thinking_ms: int) -> str:
    """Return a suite file for the restaurant."""
    suite = {
        "name": name,
        "agent": {
            "command": [
                "{python}", "-m", "bots.agents.restaurant", "-t", "webrtc", "--host", "127.0.0.1", "--port", "{port}"
            ],
            "env": {"RESTAURANT_THINKING_MS": str(thinking_ms)},
        },
        "scenarios": [str(CONFIG / scenario) for scenario in SCENARIOS],
    }  # fmt: skip
    return json.dumps(suite)


def call_for_real(repeats: int, at_once: int, folder: Path) -> Comparison:
    """Run the good restaurant and the slower one in turns, and return how they compare."""
    for name, slower_ms in (("good", 0), ("slower", SLOWER_MS)):
        (folder / f"{name}.yaml").write_text(suite_text(name, slower_ms))
    command = [sys.executable, "-m", "runner.cli", "run", "slower.yaml", "--against", "good.yaml", "--json"]
    command += ["--repeat", str(repeats), "--concurrency", str(at_once), "--out", str(folder / "suite")]
    # Scenario files lie outside of the folder that the suites are in.
    env = {"SCENARIO_RUNNER_SCENARIOS_DIR": "/", **os.environ}
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=False)
    compared = json.loads(done.stdout)["comparison"] if done.stdout else None
    if compared is None:
        sys.exit("the real calls did not get to their end")
    return Comparison.model_validate(compared)


def play_simulated(count: int, folder: Path, processes: int) -> list[RunFacts]:
    """Return what became of so many simulated calls to the good agent, on a quiet line."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        return list(pool.map(_played, range(count), [folder] * count))


def _played(seed: int, folder: Path) -> RunFacts:
    # Not above: what only simulates figures starts without Pipecat.
    from benchmarks.verdicts import BOOKING, Job
    from tests.simulated.conditions import Condition

    run = Job(BOOKING, Condition.QUIET, seed, folder / str(seed)).play()
    return run_facts(run, session="one", scenario=run.scenario, scenario_hash=None)


def splits_changed(runs: Sequence[RunFacts], splits: int) -> int:
    """Return how often runs of one agent, split into two sides at random, are said to differ."""
    by_scenario: dict[str, list[RunFacts]] = {}
    for run in runs:
        by_scenario.setdefault(run.scenario, []).append(run)
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(splits):
        sides: tuple[list[RunFacts], list[RunFacts]] = ([], [])
        for of_scenario in by_scenario.values():
            for place, index in enumerate(rng.permutation(len(of_scenario))):
                sides[place % 2].append(of_scenario[index].model_copy(update={"session": "one"}))
        changed += has_change(compare(*sides))
    return changed


def simulated_claims(alarms: dict[str, list[float]], drifting: dict[str, list[float]]) -> list[Claim]:
    """Return what is claimed of simulated suites."""
    claims = [
        Claim(f"{design}: false alarms at most {MAX_FALSE_ALARMS:.0%} ({share:.1%})", share <= MAX_FALSE_ALARMS)
        for design, (share,) in alarms.items()
    ]
    once, five = (drifting[str(design)][0] for design in (DRIFTING_ONCE, DRIFTING))
    text = f"sessions that differ by {DRIFT:.0%}: 5 of the base give at most 5 % ({five:.1%}; one gives {once:.1%})"
    return [*claims, Claim(text, five <= 0.05)]


def real_claims(comparison: Comparison) -> list[Claim]:
    """Return what is claimed of real calls to a slower agent."""
    latency = comparison.latency
    low, high = (None, None) if latency is None else (latency.low_ms, latency.high_ms)
    inside = low is not None and high is not None and low <= SLOWER_MS <= high
    return [
        Claim(f"the slower agent regressed ({comparison.change.value})", comparison.change is Change.REGRESSED),
        Claim(f"the true {SLOWER_MS} ms lie inside the interval ({low} to {high} ms)", inside),
    ]


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--repetitions", type=int, default=1_600, help="for false alarms; 0: nothing simulated")
    options.add_argument("--power", type=int, default=320, help="for each change that is to be found; 0: none")
    options.add_argument("--real", type=int, default=0, metavar="N", help="real calls of each scenario and side")
    options.add_argument("--calls", type=int, default=0, metavar="N", help="simulated calls to split, without --real")
    options.add_argument("--at-once", type=int, default=2, help="real calls at a time")
    options.add_argument("--processes", type=int, default=2, help="for what is simulated")
    options.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the real runs in this folder")
    options.add_argument("--recorded", type=Path, metavar="FILE", help="a baseline with one agent's runs to split")
    chosen = options.parse_args()
    rows: list[list[str]] = []
    claims: list[Claim] = []
    raw: list[Any] = []
    recorded: Sequence[RunFacts] = read_baseline(chosen.recorded).runs if chosen.recorded else ()
    if chosen.repetitions:
        alarms = shares(DESIGNS, [NONE], chosen.repetitions, chosen.processes)
        drifting = shares([DRIFTING, DRIFTING_ONCE], [NONE], chosen.repetitions // 2, chosen.processes)
        effects = EFFECTS if chosen.power else ()
        power = shares(DESIGNS, effects, chosen.power, chosen.processes)
        for design, found in power.items():
            pairs = zip([*alarms[design], *found], REFERENCE[design].split(), strict=False)
            rows.append([design, *(f"{share:.3f} ({reference})" for share, reference in pairs)])
        claims += simulated_claims(alarms, drifting)
        raw.append({"alarms": alarms, "drifting": drifting, "power": power})
    if chosen.calls and not chosen.real:
        with TemporaryDirectory(prefix="benchmark-") as temporary:
            recorded = play_simulated(chosen.calls, Path(temporary), chosen.processes)
    if chosen.real:
        with TemporaryDirectory(prefix="benchmark-") as temporary:
            folder = chosen.keep or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            comparison = call_for_real(chosen.real, chosen.at_once, folder.resolve())
            good = read_runs(folder / "suite" / "base")
            write_baseline(folder / "good.json", good)
            recorded = good.runs
        print("\n".join([*map(scenario_line, comparison.scenarios), *suite_lines(comparison)]), file=sys.stderr)
        claims += real_claims(comparison)
        raw.append(comparison.model_dump(mode="json"))
    if recorded:
        changed = splits_changed(recorded, SPLITS)
        text = (
            f"an agent's {len(recorded)} runs, split {SPLITS} times: changed at most {MAX_SPLITS_CHANGED} ({changed})"
        )
        claims.append(Claim(text, changed <= MAX_SPLITS_CHANGED))
    columns = ("scenarios, base v current", NONE.name, *(effect.name for effect in EFFECTS))[
        : len(rows[0]) if rows else 1
    ]
    return report("Gates: ours (an independent simulation)", columns, rows, claims, raw=raw, json_file=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
