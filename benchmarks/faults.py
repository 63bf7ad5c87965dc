"""Whether each faulty agent is caught every time, and the good one never blamed: false verdicts, counted.

    python -m benchmarks.faults --repeat 10 --good 50

The calls are those of the tests' table, some at a time, by voice and over WebRTC like any other.
"""

import itertools
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common import Claim, parser, report, run_uvloop
from runner.calls.run_file import Run
from tests.faults import AT_ONCE, FAULTS, GOOD, Caught, came_to, make_all


async def run_table(options: Any) -> list[tuple[Caught, Run]]:
    """Make all calls: first those to the faulty agents, then those to the good one."""
    good = list(itertools.islice(itertools.cycle(GOOD), options.good))
    with TemporaryDirectory(prefix="benchmark-") as folder:
        faulty = await make_all(FAULTS * options.repeat, Path(folder) / "faulty", at_once=options.at_once)
        return [*faulty, *await make_all(good, Path(folder) / "good", at_once=options.at_once)]


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--repeat", type=int, default=10, help="calls to each faulty agent")
    options.add_argument("--good", type=int, default=50, help="calls to the good agent")
    options.add_argument("--at-once", type=int, default=AT_ONCE, help="calls at a time")
    chosen = options.parse_args()
    runs = run_uvloop(run_table, chosen)
    made = Counter(caught for caught, _ in runs)
    right = Counter(caught for caught, run in runs if came_to(run) == caught.verdict)
    for caught, run in runs:
        if came_to(run) != caught.verdict:
            print(f"{caught.fault or 'good'}, {caught.scenario}: {came_to(run)}: {run.detail}", file=sys.stderr)
    rows = [
        [c.fault or "(good)", c.scenario, c.ended_reason.value, c.exit_code, f"{right[c]}/{made[c]}"] for c in made
    ]
    good_made = sum(count for c, count in made.items() if c.fault is None)
    good_right = sum(count for c, count in right.items() if c.fault is None)
    faulty_made, faulty_right = len(runs) - good_made, right.total() - good_right
    claims = [
        Claim(f"every faulty agent is caught every time ({faulty_right}/{faulty_made})", faulty_right == faulty_made),
        Claim(f"the good agent is never blamed ({good_right}/{good_made})", good_right == good_made),
    ]
    return report(
        "Verdicts on faulty agents and on the good one",
        ("fault", "scenario", "ended reason", "exit code", "as the table says"),
        rows,
        claims,
        raw=[{"fault": c.fault, "scenario": c.scenario, "came_to": came_to(run)} for c, run in runs],
        json_file=chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
