"""Whether each faulty agent is caught every time, for what it does, and the good one never blamed.

    python -m benchmarks.faults --repeat 10 --good 50

    python -m benchmarks.faults --repeat 3 --good 8 --room daily

The calls are those of the tests' table, some at a time, by voice and over WebRTC like any other.
"""

import itertools
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common import Claim, parser, report, run_uvloop
from runner.calls.run_file import Run
from tests.daily_rooms import daily_rooms, library_sent_to
from tests.faults import AT_ONCE, FAULTS, GOOD, IN_DAILY, Caught, came_to, make_all

MAX_UNDECIDED = 0.02
"""The share of good runs that may be inconclusive on a machine that does nothing else."""


async def run_table(options: Any) -> list[tuple[Caught, Run]]:
    """Make all calls: first those to the faulty agents, then those to the good one."""
    good = list(itertools.islice(itertools.cycle(GOOD), options.good))
    with TemporaryDirectory(prefix="benchmark-") as name, ExitStack() as stack:
        folder, faults, rooms = Path(name), FAULTS, None
        if options.room == "daily":
            faults, rooms = IN_DAILY, stack.enter_context(daily_rooms(folder))
            stack.enter_context(library_sent_to(rooms))
        how = {"at_once": options.at_once, "daily": rooms}
        faulty = await make_all(faults * options.repeat, folder / "faulty", **how)
        return [*faulty, *await make_all(good, folder / "good", **how)]


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--repeat", type=int, default=10, help="calls to each faulty agent")
    options.add_argument("--good", type=int, default=50, help="calls to the good agent")
    options.add_argument("--room", choices=["smallwebrtc", "daily"], default="smallwebrtc")
    options.add_argument("--at-once", type=int, default=AT_ONCE, help="calls at a time")
    chosen = options.parse_args()
    runs = run_uvloop(run_table, chosen)
    made = Counter(caught for caught, _ in runs)
    right = Counter(caught for caught, run in runs if came_to(run) == caught.verdict)
    told = Counter(caught for caught, run in runs if came_to(run) == caught.verdict and caught.is_told(run))
    for caught, run in runs:
        if came_to(run) != caught.verdict or not caught.is_told(run):
            print(f"{caught.fault or 'good'}, {caught.scenario}: {came_to(run)}: {run.detail}", file=sys.stderr)
    rows = [
        [
            c.fault or "(good)",
            c.scenario,
            c.ended_reason.value,
            c.kind.value if c.kind else "",
            c.headline,
            f"{right[c]}/{made[c]}",
            f"{told[c]}/{made[c]}",
        ]
        for c in made
    ]
    good = [run for caught, run in runs if caught.fault is None]
    blamed = sum(run.success is False for run in good)
    undecided = sum(run.success is None for run in good)
    faulty = len(runs) - len(good)
    caught_right = sum(count for c, count in right.items() if c.fault is not None)
    caught_told = sum(count for c, count in told.items() if c.fault is not None)
    limit = MAX_UNDECIDED * len(good)
    claims = [
        Claim(f"every faulty agent is caught every time ({caught_right}/{faulty})", caught_right == faulty),
        Claim(f"and its headline says for what ({caught_told}/{faulty})", caught_told == faulty),
        Claim(f"the good agent is never blamed ({blamed} of {len(good)})", not blamed),
        Claim(f"at most {MAX_UNDECIDED:.0%} of its runs are inconclusive ({undecided})", undecided <= limit),
    ]
    return report(
        f"Verdicts on faulty agents and on the good one ({chosen.room})",
        ("fault", "scenario", "ended reason", "kind", "its headline holds", "so it came", "so it is told"),
        rows,
        claims,
        raw=[
            {"fault": c.fault, "scenario": c.scenario, "came_to": came_to(run), "detail": run.detail}
            for c, run in runs
        ],
        json_file=chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
