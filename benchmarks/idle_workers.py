"""What workers cost that wait for something to do: the API, the database, and how soon they are reached.

    python -m benchmarks.idle_workers

    python -m benchmarks.idle_workers --workers 0 --processes 16

An API on PostgreSQL, and workers: simulated ones (the real client of a worker, each with an id and connections of its
own, all in one process, without calls) or real processes. Runs are launched while they wait.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import psutil
from pydantic import SecretStr

from benchmarks.common import Claim, median, parser, percentile, report, run_uvloop
from runner.protocol.messages import VERSION, Answer, Job, Poll, Report, RunNow, WorkerInfo
from runner.worker.link import Link
from runner.worker.record_client import RecordClient
from tests.postgres import PostgresServer, postgres_binaries
from tests.serving import Server, launch, make_scenario, serving

SETTLING_S = 12.0
"""How long nothing is measured after the workers have come."""

LISTENS = "name: listens\nturns:\n  - expect:\n      - { event: response, within_ms: 10000 }\n"
ROOM = "http://127.0.0.1:9/api/offer"


@dataclass
class Measured:
    """What was measured.

    Attributes:
        workers: How many workers waited.
        api: What the API's process used, as a share of a core.
        database: What all processes of the database used, likewise.
        connections: How many connections the database had.
        reached_s: From a launch to its worker, for each run.
    """

    workers: int
    api: float
    database: float
    connections: int
    reached_s: list[float] = field(default_factory=list[float])


class Simulated:
    """A worker that makes no calls: what it is given ends at once.

    Args:
        number: Which one it is.
        record: The record.
        reached: Takes when a run has come, on the clock of :func:`time.monotonic`.
    """

    def __init__(self, number: int, record: RecordClient, reached: dict[int, float]):
        self._record = record
        self._reached = reached
        self._runs: dict[int, RunNow] = {}
        self._jobs: list[Job] = []
        self.info = WorkerInfo(
            executor=f"simulated-{os.getpid()}-{number}",
            name=f"w{number}",
            version="1",
            rooms=("smallwebrtc",),
            calls=4,
        )
        self.link: Link | None = None
        self._woken = anyio.Event()

    def said(self) -> Poll:
        return Poll(protocol=VERSION, worker=self.info, number=1, runs=tuple(self._runs.values()))

    def take_in(self, answer: Answer) -> None:
        """Take runs on, and make no calls."""
        for job in answer.jobs:
            if job.run_id not in self._runs:
                self._reached[job.run_id] = time.monotonic()
                self._runs[job.run_id] = RunNow(run_id=job.run_id, attempt=job.attempt)
                self._jobs.append(job)
                self._woken.set()

    def lose(self, reason: str) -> None:
        raise RuntimeError(reason)

    async def run(self) -> None:
        lease_s = (await self._record.hello()).lease_s
        self.link = Link(self._record, lease_s, self.said, self.take_in, self.lose)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.link.run)
            while True:
                await self._woken.wait()
                self._woken = anyio.Event()
                while self._jobs:
                    job = self._jobs.pop()
                    problem: Any = {"cause": "room", "reason": "room-unreachable", "detail": "simulated"}
                    await self._record.report(
                        Report(run_id=job.run_id, attempt=job.attempt, executor=self.info.executor, problem=problem)
                    )
                    del self._runs[job.run_id]


def used_s(processes: Sequence[psutil.Process]) -> float:
    """Return the processor's time that processes have used, in seconds."""
    total_s = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total_s += times.user + times.system
    return total_s


async def measure(server: Server, postgres: PostgresServer, workers: int, options: Any) -> Measured:
    """Measure what waiting costs, and how soon runs come."""
    api = psutil.Process(server.process.pid)
    await anyio.sleep(SETTLING_S)
    began_s, api_s, database_s = time.monotonic(), used_s([api]), used_s(postgres.processes)
    await anyio.sleep(options.seconds)
    lasted_s = time.monotonic() - began_s
    return Measured(
        workers=workers,
        api=(used_s([api]) - api_s) / lasted_s,
        database=(used_s(postgres.processes) - database_s) / lasted_s,
        connections=sum("runner" in " ".join(p.cmdline()) for p in postgres.processes),
    )


async def simulated(server: Server, key: str, postgres: PostgresServer, options: Any) -> Measured:
    """Measure it with simulated workers."""
    reached: dict[int, float] = {}
    launched: dict[int, float] = {}
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=server.url, limits=limits) as http,
        anyio.create_task_group() as tasks,
    ):
        for number in range(options.workers):
            tasks.start_soon(Simulated(number, RecordClient(http, SecretStr(key)), reached).run)
        measured = await measure(server, postgres, options.workers, options)
        with server.client(server.key) as client:
            scenario = await anyio.to_thread.run_sync(make_scenario, client, "listens", LISTENS)
            for _ in range(options.launches):
                began_s = time.monotonic()
                made = await anyio.to_thread.run_sync(launch, client, scenario, ROOM)
                launched[made["runs"][0]["id"]] = began_s
                await anyio.sleep(0.3)
        with anyio.fail_after(30):
            while reached.keys() != launched.keys():  # noqa: ASYNC110 - many workers tell, one after the other
                await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    measured.reached_s = [reached[run] - began_s for run, began_s in launched.items()]
    return measured


async def real(server: Server, key: str, postgres: PostgresServer, folder: Path, options: Any) -> Measured:
    """Measure it with real processes."""
    command = [sys.executable, "-m", "runner.cli", "worker", "--processes", str(options.processes)]
    env = {**os.environ, "SCENARIO_RUNNER_WORKER__KEY": key}
    options_of_worker = ["--record-url", server.url, "--data-dir", str(folder / "worker")]
    async with await anyio.open_process([*command, *options_of_worker], stderr=None, env=env) as process:
        try:
            assert process.stdout is not None
            # Until all of them take runs.
            await process.stdout.receive()
            return await measure(server, postgres, options.processes, options)
        finally:
            process.terminate()


async def run_all(options: Any) -> Measured:
    """Start an API on PostgreSQL, and measure."""
    binaries = postgres_binaries()
    assert binaries is not None, "PostgreSQL is not installed"
    postgres = PostgresServer(binaries, survives_crashes=True)
    try:
        url = postgres.url(postgres.create())
        with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
            folder = Path(name)
            with serving(folder, "--no-worker", "--database-url", url) as server:
                create = ["-m", "runner.cli", "keys", "create", "--kind", "worker", "--database-url", url]
                made = await anyio.run_process([sys.executable, *create], cwd=folder)
                key = made.stdout.decode().strip()
                if options.workers:
                    measured = await simulated(server, key, postgres, options)
                else:
                    measured = await real(server, key, postgres, folder, options)
                server.stop()
                return measured
    finally:
        postgres.stop()


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--workers", type=int, default=200, help="simulated workers; 0 starts real processes")
    options.add_argument(
        "--processes", type=int, default=16, help="real processes, where there are no simulated ones"
    )
    options.add_argument("--seconds", type=float, default=60, help="how long to measure")
    options.add_argument("--launches", type=int, default=30, help="runs that are launched one by one")
    chosen = options.parse_args()
    measured = run_uvloop(run_all, chosen)
    total = measured.api + measured.database
    limit = 0.10 if chosen.workers else 0.02
    claims = [
        Claim(f"waiting costs API and database less than {limit:.0%} of a core ({total:.1%})", total < limit),
        Claim(f"and fewer than 30 connections ({measured.connections})", measured.connections < 30),
    ]
    if measured.reached_s:
        half_s = median(measured.reached_s)
        claims.append(Claim(f"a launch reaches a worker within 0.3 s at the median ({half_s:.3f} s)", half_s < 0.3))
    row = [
        measured.workers,
        f"{measured.api:.2%}",
        f"{measured.database:.2%}",
        measured.connections,
        f"{median(measured.reached_s):.3f} / {percentile(measured.reached_s, 95):.3f}" if measured.reached_s else "",
    ]
    columns = ["workers", "API", "database", "connections", "launch to worker, s (median / p95)"]
    return report("Workers that wait", columns, [row], claims, raw=asdict(measured), json_file=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
