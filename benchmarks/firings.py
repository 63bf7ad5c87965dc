"""Firings of schedules by two processes, of which one or the other is killed at random moments: each once, none lost.

    python -m benchmarks.firings

Schedules are due every minute of a clock that stands still until each has fired; then it is turned by a minute. In
every minute one of the two processes gets SIGKILL, after a time that is drawn at random, and is started again. What
the database holds afterwards is counted: on SQLite and on PostgreSQL.
"""

import random
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from sqlalchemy import func, select, update

from benchmarks.common import Claim, parser, report
from runner.files import write_atomically
from runner.records.database import Database
from runner.records.seed import seed
from runner.records.tables import Agent, Firing, ResultRow, RunRow
from tests.postgres import PostgresServer, postgres_binaries
from tests.records.town import MINUTE, NOON, Town

SCHEDULES = 40
KILLED_WITHIN_S = 0.4
"""After how long in a minute a process is killed, at most: about as long as two take for the minute's firings."""

MIN_IN_THE_MIDST = 0.2
"""In so many of its minutes, as a share, something has fired and something has not when a process is killed."""

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Counted:
    """What came of it.

    Attributes:
        database: On which database.
        due: How many firings were due.
        fired: How many are written down.
        lost: Times at which a schedule was due and for which there is none.
        double: Those for which there are several, or whose firing has another's result.
        results: How many results were launched.
        runs: How many runs they have.
        kills: How often a process was killed.
        in_the_midst: How often something of the minute had fired by then, and something had not.
        took_s: How long all of it took, in seconds.
    """

    database: str
    due: int
    fired: int
    lost: int
    double: int
    results: int
    runs: int
    kills: int
    in_the_midst: int
    took_s: float


class Pair:
    """Two processes that fire schedules by a clock in a file.

    Args:
        settings: Their settings, as JSON.
        clock: The file.
        stack: Ends them.
    """

    def __init__(self, settings: str, clock: Path, stack: ExitStack):
        self._command = [sys.executable, "-m", "tests.records.firing_process", settings, str(clock)]
        self._stack = stack
        self._processes = [self._started(), self._started()]
        self._wait()

    def kill(self, which: int) -> None:
        """Kill one of them."""
        self._processes[which].kill()
        self._processes[which].wait()

    def start_again(self, which: int) -> None:
        """Start one that was killed, and wait until it fires."""
        self._processes[which] = self._started()
        self._wait()

    def _started(self) -> "subprocess.Popen[bytes]":
        return self._stack.enter_context(_ending(subprocess.Popen(self._command, stdout=subprocess.PIPE)))

    def _wait(self) -> None:
        for process in self._processes:
            assert process.stdout is not None
            # It says so once; what is at its end says nothing.
            if not process.stdout.closed and not process.stdout.readline():
                raise RuntimeError("a process that fires schedules does not start")
            process.stdout.close()


@contextmanager
def _ending(process: "subprocess.Popen[bytes]") -> Generator["subprocess.Popen[bytes]"]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def fired(town: Town, now: datetime | None = None) -> int:
    """Return how many firings there are; of one time, if it is given."""
    count = select(func.count()).select_from(Firing)
    async with town.record.database.reading() as session:
        return await session.scalar(count if now is None else count.where(Firing.due_at == now)) or 0


async def measure(name: str, url: str, folder: Path, minutes: int, rng: random.Random) -> Counted:
    """Let two processes fire, kill them again and again, and count what is in the database afterwards."""
    database = Database(url)
    await database.migrate()
    async with database.session() as session:
        await seed(session)
        start = {"start_url": "http://localhost:7860/start", "transport": "webrtc"}
        await session.execute(update(Agent).values(session=start))
    town = Town(database, folder / "data")
    jobs = [await town.add(data={"overlap": "both"}) for _ in range(SCHEDULES)]
    clock = folder / "clock"
    write_atomically(clock, str(town.now.timestamp()))
    in_the_midst = 0
    began_s = time.monotonic()
    with ExitStack() as stack:
        pair = Pair(town.revealed_settings, clock, stack)
        for _ in range(minutes):
            town.now += MINUTE
            write_atomically(clock, str(town.now.timestamp()))
            await anyio.sleep(rng.uniform(0, KILLED_WITHIN_S))
            which = rng.randrange(2)
            pair.kill(which)
            in_the_midst += 0 < await fired(town, town.now) < len(jobs)
            with anyio.fail_after(TIMEOUT_S):
                while await fired(town, town.now) < len(jobs):  # noqa: ASYNC110 - other processes fire
                    await anyio.sleep(0.02)
            pair.start_again(which)
    took_s = time.monotonic() - began_s
    async with database.reading() as session:
        rows = (await session.execute(select(Firing.job_id, Firing.due_at, Firing.result_id))).all()
    due = {(job, NOON + MINUTE * minute) for job in jobs for minute in range(1, minutes + 1)}
    times = [(row.job_id, row.due_at) for row in rows]
    results = [row.result_id for row in rows if row.result_id is not None]
    counted = Counted(
        database=name,
        due=len(due),
        fired=len(rows),
        lost=len(due - set(times)) + len(rows) - len(results),
        double=len(times) - len(set(times)) + len(results) - len(set(results)) + len(set(times) - due),
        results=await town.count(ResultRow),
        runs=await town.count(RunRow),
        kills=minutes,
        in_the_midst=in_the_midst,
        took_s=took_s,
    )
    await database.close()
    return counted


def claims(one: Counted) -> list[Claim]:
    """Return what is claimed of one database."""
    launched = f"{one.due} firings, {one.results} results, {one.runs} runs"
    return [
        Claim(f"{one.database}: none lost ({one.lost} of {one.due})", one.lost == 0),
        Claim(f"{one.database}: none double ({one.double} of {one.due})", one.double == 0),
        Claim(f"{one.database}: one launch each ({launched})", one.due == one.fired == one.results == one.runs),
        Claim(
            f"{one.database}: at least {MIN_IN_THE_MIDST:.0%} of the kills in the midst of a minute's firings "
            f"({one.in_the_midst} of {one.kills})",
            one.in_the_midst >= MIN_IN_THE_MIDST * one.kills,
        ),
    ]


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--firings", type=int, default=1_000, help=f"a multiple of {SCHEDULES}, on each database")
    options.add_argument("--seed", type=int, default=None, help="when which process is killed")
    chosen = options.parse_args()
    binaries = postgres_binaries()
    if binaries is None:
        sys.exit("PostgreSQL is not installed")
    seed_of_kills = random.SystemRandom().randrange(1 << 32) if chosen.seed is None else chosen.seed
    print(f"--seed {seed_of_kills}", file=sys.stderr)
    found: list[Counted] = []
    server = PostgresServer(binaries)
    try:
        for name in ("SQLite", "PostgreSQL"):
            with TemporaryDirectory(prefix="benchmark-") as temporary:
                folder = Path(temporary)
                url = f"sqlite:///{folder}/record.sqlite" if name == "SQLite" else server.url(server.create())
                rng = random.Random(seed_of_kills)
                minutes = chosen.firings // SCHEDULES
                found.append(anyio.run(measure, name, url, folder, minutes, rng))
    finally:
        server.stop()
    rows = [
        [one.database, one.due, one.fired, one.lost, one.double, one.kills, one.in_the_midst, f"{one.took_s:.0f}"]
        for one in found
    ]
    columns = ["database", "due", "fired", "lost", "double", "kills", "in the midst", "s"]
    all_claims = [claim for one in found for claim in claims(one)]
    raw = {"seed": seed_of_kills, "databases": [asdict(one) for one in found]}
    title = f"Firings: {SCHEDULES} schedules, two processes, one killed every minute"
    return report(title, columns, rows, all_claims, raw=raw, json_file=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
