"""How long the page takes with ten thousand runs.

    python -m benchmarks.page
    python -m benchmarks.page --runs 1000
    python -m benchmarks.page --postgres

A server of its own (``serve --no-worker``), on SQLite or PostgreSQL, with 10,000 runs in 250 results, of 30 days. One
visitor who signed in asks for each page thirty times, one after the other. What counts is the time from the last byte
of the request to the last of the answer, over loopback.
"""

import random
import re
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx
from sqlalchemy import insert

from benchmarks.common import Claim, median, parser, percentile, report
from benchmarks.server import serving
from runner.records.database import Database, database_url
from runner.records.tables import Latencies, ResultRow, RunRow, utc_now
from runner.settings import ServerSettings
from tests.postgres import PostgresServer, postgres_binaries
from tests.records.outcomes import agent_failed, no_call, outcome, reported

MAX_MEDIAN_S = 0.3
TIMES = 30
RUNS_OF_RESULT = 40
DAYS = 30
SCENARIOS = 8


def rows(runs: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return results and their runs."""
    chosen = random.Random(7)
    now = utc_now()
    ends = {"passed": reported(outcome()), "failed": reported(agent_failed()), "no call": reported(no_call())}
    results: list[dict[str, Any]] = []
    made: list[dict[str, Any]] = []
    for number in range(runs // RUNS_OF_RESULT):
        at = now - timedelta(days=DAYS) * (1 - number * RUNS_OF_RESULT / runs)
        results.append(
            {
                "id": number + 1,
                "project_id": 1,
                "agent_id": None,
                "agent_name": "restaurant",
                "name": f"night {number}",
                "status": "completed",
                "run_type": "pipecat",
                "run_settings": {},
                "created_at": at,
            }
        )
        for place in range(RUNS_OF_RESULT):
            times = tuple(round(chosen.lognormvariate(7.1, 0.2), 1) for _ in range(6))
            kind = chosen.choices(("passed", "failed", "no call"), (90, 8, 2))[0]
            came = ends[kind] if kind != "passed" else reported(outcome(latencies_ms=times))
            made.append(
                {
                    "id": len(made) + 1,
                    "result_id": number + 1,
                    "project_id": 1,
                    "agent_id": None,
                    "scenario_id": None,
                    "scenario_name": f"scenario {place % SCENARIOS}",
                    "status": came["status"],
                    "success": came["success"],
                    "cause": came["cause"],
                    "ended_reason": came["ended_reason"],
                    "error_message": came["detail"] or "",
                    "duration_s": came["duration_s"],
                    "outcome": came,
                    "snapshot": {"script": None, "tags": []},
                    "artefacts": {},
                    "session_data": {},
                    "expects": True,
                    "created_at": at,
                    "started_at": at,
                    "joined_at": at,
                    "ended_at": at,
                }
            )
    return results, made


def answers(run: dict[str, Any]) -> list[float]:
    """Return the latencies of a run, as they are kept when it ends."""
    times = (turn["response_latency_ms"] for turn in run["outcome"]["turns"])
    return [ms for ms in times if ms is not None]


async def fill(url: str, runs: int) -> None:
    """Put runs into a server's record."""
    database = Database(url)
    results, made = rows(runs)
    answered = [{"run_id": run["id"], "times_ms": times} for run in made if (times := answers(run))]
    async with database.session() as session:
        await session.execute(insert(ResultRow), results)
        for table, values in ((RunRow, made), (Latencies, answered)):
            for begin in range(0, len(values), 1_000):
                await session.execute(insert(table), values[begin : begin + 1_000])
    await database.close()


def measure(client: httpx.Client, path: str) -> list[float]:
    """Return how long a page took, in seconds, each time it was asked for."""
    took_s: list[float] = []
    for _ in range(TIMES):
        begun_s = time.perf_counter()
        answer = client.get(path)
        took_s.append(time.perf_counter() - begun_s)
        assert answer.status_code == 200, f"{path}: {answer.status_code}"
    return took_s


def pages(client: httpx.Client) -> Sequence[tuple[str, str]]:
    """Return the pages that are asked for, by what they are."""
    older = re.findall(r'href="(/runs\?before=\d+)"', client.get("/runs?before=1000").text)
    return (
        ("list of results", "/"),
        ("results that failed", "/?verdict=failed"),
        ("list of runs", "/runs"),
        ("list of runs, deep", older[0] if older else "/runs"),
        ("runs that failed", "/runs?verdict=failed"),
        ("runs by name", "/runs?search=scenario+3"),
        ("a result", "/results/1"),
        ("live", "/live"),
        ("trends of 30 days", "/trends"),
    )


def main() -> int:
    """Measure, print, and return the exit code."""
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=10_000, help="How many runs there are (default: 10000).")
    options.add_argument("--postgres", action="store_true", help="On PostgreSQL (default: SQLite).")
    asked = options.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="benchmark-")))
        url = database_url(ServerSettings(data_dir=folder))
        if asked.postgres:
            binaries = postgres_binaries()
            if binaries is None:
                raise SystemExit("error: --postgres needs PostgreSQL; run: sudo apt-get install postgresql")
            postgres = PostgresServer(binaries, survives_crashes=True)
            stack.callback(postgres.stop)
            url = postgres.url(postgres.create())
        server = stack.enter_context(serving(folder, "--no-worker", "--database-url", url))
        anyio.run(fill, url, asked.runs)
        client = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))
        signed_in = client.post("/sign-in", data={"key": server.key}, headers={"Origin": server.url})
        assert signed_in.status_code == 303
        found = {what: measure(client, path) for what, path in pages(client)}
    claims = [
        Claim(f"{what}: under {MAX_MEDIAN_S * 1000:.0f} ms (median)", median(took_s) < MAX_MEDIAN_S)
        for what, took_s in found.items()
    ]
    return report(
        f"The page with {asked.runs:,} runs on {'PostgreSQL' if asked.postgres else 'SQLite'}, {TIMES} times each",
        ("page", "median, ms", "95th percentile, ms"),
        [(what, round(1000 * median(s)), round(1000 * percentile(s, 95))) for what, s in found.items()],
        claims,
        raw=found,
        json_file=asked.json,
    )


if __name__ == "__main__":
    sys.exit(main())
