"""Everything at once: calls that are on, many who read a large result, and a launch of ten thousand entries.

    python -m benchmarks.rush

A server with its worker on SQLite, and a metronome to be called. Four calls are on; then 200 clients read a result of
a thousand runs at the same moment, each over a connection of its own, and ten thousand entries are launched. No call
may run out of audio for it.
"""

import asyncio
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from benchmarks.common import Claim, agents, parser, report
from benchmarks.reads import Burst, Readers, fill
from benchmarks.server import GREETED, TALKS, Client, serving
from runner.records.database import Database

CALLS = 4
RUNS = 1_000
READERS = 200
ENTRIES = 10_000
MAX_P95_S = 1.0


@dataclass
class Measured:
    """What was measured.

    Attributes:
        burst: What came of those who read.
        launch_s: How long the launch took to be answered, in seconds.
        passed: How many of the calls passed.
        underruns: How often one of them had no audio to send.
    """

    burst: Burst
    launch_s: float
    passed: int
    underruns: int


async def rush(client: Client, result_id: int, calls: Any, rooms: list[str], scenario: int) -> Measured:
    """Let all of it happen at once, while calls are on."""

    def launch() -> tuple[float, Any]:
        began_s = time.monotonic()
        made = client.launch(scenario, [rooms[0]] * ENTRIES)
        return time.monotonic() - began_s, made

    readers = Readers(client.url, client.key)
    burst, (launch_s, many) = await asyncio.gather(
        readers.burst("the result", f"/results/{result_id}/", READERS), asyncio.to_thread(launch)
    )
    await asyncio.to_thread(client.post, f"/results/{many['id']}/end_calls/")
    runs = await asyncio.to_thread(client.ended, calls)
    made = [client.artefact(run["scenario_runner"]["artefacts"]["run.json"]) for run in runs]
    return Measured(
        burst,
        launch_s,
        passed=sum(run["scenario_runner"]["success"] is True for run in runs),
        underruns=sum(one["caller_underruns"] for one in made),
    )


async def measure(url: str, folder: Path) -> Measured:
    """Prepare a record and calls, and measure."""
    rooms = [f"{url}/api/offer"] * CALLS
    with serving(folder) as client:
        greeted, talks = client.scenario("greeted", GREETED), client.scenario("talks", TALKS)
        # Everything loads its models, and the lines are made.
        await asyncio.to_thread(lambda: client.ended(client.launch(talks, rooms)))
        read = client.launch(greeted, [rooms[0]])
        await asyncio.to_thread(client.ended, read)
        database = Database(f"sqlite:///{folder}/record.sqlite")
        await database.run(fill(database, read["runs"][0]["id"], RUNS))
        await database.close()
        calls = client.launch(talks, rooms)
        for run in calls["runs"]:
            await asyncio.to_thread(
                client.until, f"/runs/{run['id']}/", lambda run: run["scenario_runner"]["joined_at"] is not None
            )
        return await rush(client, read["id"], calls, rooms, greeted)


async def run_all() -> Measured:
    """Start an agent, and measure."""
    async with agents("metronome", 1) as (url,):
        with TemporaryDirectory(prefix="benchmark-") as folder:
            return await measure(url, Path(folder))


def main() -> int:
    """Run the benchmark."""
    chosen = parser(__doc__).parse_args()
    found = uvloop.run(run_all())
    burst = found.burst
    errors = sum(count for status, count in burst.statuses.items() if status != 200)
    claims = [
        Claim(f"no call runs out of audio ({found.underruns} times)", found.underruns == 0),
        Claim(f"all {CALLS} calls pass ({found.passed})", found.passed == CALLS),
        Claim(f"every reader is answered ({errors} were not)", errors == 0),
        Claim(f"19 of 20 readers wait less than {MAX_P95_S:g} s ({burst.p95_s:.2f} s)", burst.p95_s < MAX_P95_S),
    ]
    row = [READERS, f"{burst.p95_s:.2f}", f"{found.launch_s:.2f}", found.underruns]
    columns = ["readers", "p95, s", f"launch of {ENTRIES} entries, s", "underruns"]
    return report("Everything at once", columns, [row], claims, raw=asdict(found), json_file=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
