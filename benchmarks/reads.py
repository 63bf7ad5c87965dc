"""Many who read a large result at the same moment.

    python -m benchmarks.reads
    python -m benchmarks.reads --postgres
    python -m benchmarks.reads --beside-call

A server of its own (``serve --no-worker``) with a result of a thousand runs, each of which came to 10 to 20 kB. So
many clients ask at once, each over a connection of its own and for one answer; what counts is how long each waits,
from connecting to the last byte. They take what is compressed, as the usual HTTP clients do. All of them are in one
other process, which makes nothing of what it reads. The
figures are of bursts: clients that asked again and again would get what the machine can do, and wait accordingly.
Meanwhile a third process asks for ``/healthz`` again and again: how long that takes tells whether the event loop is
held. With ``--beside-call`` the demo's call is made on the same machine, which is to pass as ever.
"""

import asyncio
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import httpx
import uvloop
from sqlalchemy import insert, update
from sqlalchemy.orm import Session

from benchmarks.common import Claim, parser, percentile, report
from benchmarks.server import API, GREETED, Client, serving
from bots.timeline import Source
from runner.evaluation.verdicts import Evidence, ExpectationVerdict, Verdict
from runner.records.database import Database
from runner.records.tables import RunRow, utc_now
from tests.postgres import PostgresServer, postgres_binaries
from tests.records.outcomes import outcome, reported

MAX_P95_S = 0.3
MAX_FIRST_P95_S = 0.5
"""Where the answer has to be made."""

CALL_UNDER_WAY_S = 10
"""By then the demo has begun to speak."""

TURNS = (6, 12)
"""How many turns the calls have: at least, and at most."""

HEALTH_EVERY_S = 0.02
CHANGE_EVERY_S = 0.05
_RECEIVED_BYTES = 1 << 20


@dataclass
class Burst:
    """What came of so many who asked at once.

    Attributes:
        what: What they asked for.
        readers: How many they were.
        statuses: How often each HTTP status was answered; 0 for answers that broke off.
        answer_bytes: The length of an answer.
        waits_s: How long each waited, in seconds.
        began_s: When they asked, on the machine's monotonic clock.
        ended_s: When all had their answers.
        health_s: How long each ``/healthz`` took meanwhile, in seconds.
    """

    what: str
    readers: int
    statuses: dict[int, int]
    answer_bytes: int
    waits_s: list[float]
    began_s: float
    ended_s: float
    health_s: list[float] = field(default_factory=list[float])

    @property
    def p95_s(self) -> float:
        """How long all but the slowest twentieth waited at most, in seconds."""
        return percentile(self.waits_s, 95)


class Readers:
    """Asks a server, many at once.

    Args:
        url: The server's address.
        key: A key for it.
    """

    def __init__(self, url: str, key: str):
        self._host, self._port = urlsplit(url).hostname or "", urlsplit(url).port or 80
        self._headers = f"Host: {self._host}\r\nX-CEKURA-API-KEY: {key}\r\nConnection: close\r\n"
        self._headers += "Accept-Encoding: gzip, deflate\r\n\r\n"

    async def burst(self, what: str, path: str, readers: int) -> Burst:
        """Let so many ask for a path at once."""
        request = f"GET {API}{path} HTTP/1.1\r\n{self._headers}".encode()
        began_s = time.monotonic()
        answers = await asyncio.gather(*(self._read(request) for _ in range(readers)))
        return Burst(
            what,
            readers,
            statuses=dict(Counter(answer.status for answer in answers)),
            answer_bytes=max(answer.length for answer in answers),
            waits_s=[answer.took_s for answer in answers],
            began_s=began_s,
            ended_s=time.monotonic(),
        )

    async def _read(self, request: bytes) -> "Answer":
        loop = asyncio.get_running_loop()
        answer = Answer(request, loop.create_future())
        try:
            await loop.create_connection(lambda: answer, self._host, self._port)
            await answer.ended
        except OSError:
            answer.end = b""
        return answer


class Answer(asyncio.BufferedProtocol):
    """Asks, and counts what is answered.

    Args:
        request: What to ask.
        ended: Is done when the connection has ended.
    """

    _buffer = memoryview(bytearray(_RECEIVED_BYTES))

    def __init__(self, request: bytes, ended: "asyncio.Future[None]"):
        self._request = request
        self._began_s = time.monotonic()
        self.ended = ended
        self.head = self.end = b""
        self.length = 0
        self.took_s = 0.0

    @property
    def status(self) -> int:
        """The HTTP status; 0 if the answer broke off."""
        head, _, begin = self.head.lower().partition(b"\r\n\r\n")
        said = re.search(rb"content-length: (\d+)", head)
        if said is None:
            is_whole = self.end.endswith(b"0\r\n\r\n")
        else:
            is_whole = self.length == len(self.head) - len(begin) + int(said[1])
        if not self.head or not is_whole:
            return 0
        return int(self.head.split(b" ", 2)[1])

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        transport.write(self._request)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to put what comes: nobody looks at it later."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Count it."""
        if not self.head:
            self.head = bytes(self._buffer[: min(nbytes, 2_000)])
        self.length += nbytes
        self.end = (
            bytes(self._buffer[max(0, nbytes - 5) : nbytes])
            if nbytes >= 5
            else self.end[nbytes - 5 :] + bytes(self._buffer[:nbytes])
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Note when."""
        self.took_s = time.monotonic() - self._began_s
        if not self.ended.done():
            self.ended.set_result(None)


def watch(url: str, stop: Any, found: Any) -> None:
    """Ask for ``/healthz`` again and again; put ``(when, how long it took)``, in seconds, when told to stop."""
    samples: list[tuple[float, float]] = []
    with httpx.Client(base_url=url, timeout=60) as http:
        while not stop.wait(HEALTH_EVERY_S):
            began_s = time.monotonic()
            http.get("/healthz").raise_for_status()
            samples.append((began_s, time.monotonic() - began_s))
    found.put(samples)


@contextmanager
def watched(url: str) -> Generator[Callable[[], list[tuple[float, float]]]]:
    """Let another process watch a server, and yield what ends that and returns what it saw."""
    context = multiprocessing.get_context("spawn")
    stop, found = context.Event(), context.Queue()
    watcher = context.Process(target=watch, args=(url, stop, found), daemon=True)
    watcher.start()

    def seen() -> list[tuple[float, float]]:
        stop.set()
        samples: list[tuple[float, float]] = found.get(timeout=60)
        watcher.join()
        return samples

    yield seen


def call(random_: random.Random) -> dict[str, Any]:
    """Return what a call came to, as long as real ones: a turn has three lines of talk, and an expectation or two."""
    turns = random_.randint(*TURNS)
    line = "A table for two on Friday evening, somewhere near the window if you can, and it may get late."
    found = outcome(latencies_ms=tuple(random_.uniform(400, 1_800) for _ in range(turns)))
    expectations = [
        ExpectationVerdict(
            turn=turn,
            index=index,
            event="response",
            expected=f"response containing '{word}' within 10 s",
            verdict=Verdict.MET,
            reason="",
            source=Source.TOLD,
            evidence=(Evidence(event="agent_said", at_s=turn + 1.25, text=line, source=Source.TOLD),),
        )
        for turn in range(turns)
        for index, word in enumerate(("how can I help", "table")[: 2 if turn % 3 == 0 else 1])
    ]
    said = {"role": "Main Agent", "time": "00:01", "start_time": 1.2, "end_time": 4.0}
    transcript = [{**said, "content": f"{line} {number}", "data": None, "told": line} for number in range(3 * turns)]
    return {
        **reported(found),
        "expectations": [one.model_dump(mode="json") for one in expectations],
        "transcript_object": transcript,
    }


def fill(database: Database, first_run: int, runs: int) -> Callable[[Session], float]:
    """Return what gives the result of a run as many as it is to have, ended; and that returns their mean size."""

    def work(session: Session) -> float:
        run = session.get_one(RunRow, first_run)
        random_ = random.Random(1)
        now = utc_now()
        ended = {"status": "completed", "success": True, "expects": True, "duration_s": 61.0, "started_at": now}
        same = {
            "result_id": run.result_id,
            "project_id": run.project_id,
            "scenario_id": run.scenario_id,
            "scenario_name": run.scenario_name,
            "snapshot": run.snapshot,
            "room_url": run.room_url,
            "session_data": {},
            "joined_at": now,
            "ended_at": now,
            **ended,
        }
        calls = [call(random_) for _ in range(50)]
        rows = [{**same, "outcome": calls[number % len(calls)]} for number in range(runs - 1)]
        session.connection().execute(insert(RunRow), rows)
        session.connection().execute(
            update(RunRow)
            .where(RunRow.id == first_run)
            .values(outcome=calls[0], joined_at=now, ended_at=now, **ended)
        )
        return sum(len(json.dumps(one)) for one in calls) / len(calls)

    return work


@dataclass
class Measured:
    """What was measured.

    Attributes:
        outcome_bytes: The mean length of what a run came to.
        bursts: What came of each burst.
    """

    outcome_bytes: float
    bursts: list[Burst]


async def keep_changing(database: Database, run_id: int) -> None:
    """Let a run change again and again, as those of a result do that is under way."""
    while True:
        await database.run(
            lambda session: session.execute(update(RunRow).where(RunRow.id == run_id).values(said_at=utc_now()))
        )
        await asyncio.sleep(CHANGE_EVERY_S)


async def measure(client: Client, database_url: str, runs: int) -> Measured:
    """Fill the record, and let many read."""
    greeted = await asyncio.to_thread(client.scenario, "greeted", GREETED)
    launched = await asyncio.to_thread(client.launch, greeted, ["http://localhost:7860/api/offer"])
    result_id, first_run = launched["id"], launched["runs"][0]["id"]
    database = Database(database_url)
    outcome_bytes = await database.run(fill(database, first_run, runs))
    readers = Readers(client.url, client.key)
    with watched(client.url) as seen:
        # Until the watcher has begun.
        await asyncio.sleep(3)
        bursts = await let_read(readers, database, result_id, first_run)
        for began_s, took_s in seen():
            for burst in bursts:
                if began_s < burst.ended_s and began_s + took_s > burst.began_s:
                    burst.health_s.append(took_s)
    await database.close()
    body = await asyncio.to_thread(client.get, f"/results/{result_id}/")
    assert len(body["runs"]) == body["success_runs_count"] == runs
    return Measured(outcome_bytes, bursts)


async def let_read(readers: Readers, database: Database, result_id: int, first_run: int) -> list[Burst]:
    """Let many read one thing after the other."""
    detail = f"/results/{result_id}/"
    bursts = [
        await readers.burst("the result, never read before", detail, 200),
        await readers.burst("the result", detail, 200),
    ]
    changing = asyncio.create_task(keep_changing(database, first_run))
    bursts.append(await readers.burst(f"the result, a run of it changes every {CHANGE_EVERY_S:g} s", detail, 200))
    changing.cancel()
    for what, path, count in (
        ("the result", detail, 500),
        ("a page of 100 of its runs, in the result", f"{detail}?page=5&page_size=100", 200),
        ("a page of 50 of its runs, whole", f"/runs/?result_id={result_id}&page=10", 200),
        ("the list of results", "/results/", 200),
        ("one run of it", f"/runs/{first_run}/", 200),
    ):
        bursts.append(await readers.burst(what, path, count))
    return bursts


@contextmanager
def demo(folder: Path) -> Generator[Callable[[], dict[str, Any]]]:
    """Make the demo's call, and yield what waits for its end and returns its run."""
    command = [sys.executable, "-m", "runner.cli", "demo", "--json", "--out", str(folder / "demo")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        time.sleep(CALL_UNDER_WAY_S)
        yield lambda: json.loads(process.communicate()[0])


def run(runs: int, *, on_postgres: bool, beside_call: bool) -> tuple[Measured, dict[str, Any] | None]:
    """Serve, and measure; return also the run of the call beside it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="benchmark-")))
        database_url = f"sqlite:///{folder}/record.sqlite"
        if on_postgres:
            binaries = postgres_binaries()
            if binaries is None:
                raise SystemExit("error: --postgres needs PostgreSQL; run: sudo apt-get install postgresql")
            server = PostgresServer(binaries, survives_crashes=True)
            stack.callback(server.stop)
            database_url = server.url(server.create())
        os.environ["SCENARIO_RUNNER_SERVER__REQUESTS_PER_MINUTE"] = "1000000"
        client = stack.enter_context(serving(folder, "--no-worker", "--database-url", database_url))
        called = stack.enter_context(demo(folder)) if beside_call else lambda: None
        return uvloop.run(measure(client, database_url, runs)), called()


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=1_000, help="how many runs the result has")
    options.add_argument("--postgres", action="store_true", help="on a PostgreSQL of its own instead of SQLite")
    options.add_argument("--beside-call", action="store_true", help="while a call is made on this machine")
    chosen = options.parse_args()
    found, called = run(chosen.runs, on_postgres=chosen.postgres, beside_call=chosen.beside_call)
    rows = [
        [
            burst.what,
            burst.readers,
            f"{burst.answer_bytes / 1e6:.2f}",
            *(f"{percentile(burst.waits_s, percent):.2f}" for percent in (50, 95, 100)),
            f"{percentile(burst.health_s, 95) * 1_000:.0f}",
            f"{max(burst.health_s, default=0) * 1_000:.0f}",
            ", ".join(f"{count} × {status}" for status, count in sorted(burst.statuses.items())),
        ]
        for burst in found.bursts
    ]
    answered = all(set(burst.statuses) == {200} for burst in found.bursts)
    claims = [
        Claim("every reader is answered with 200", answered),
        *(
            Claim(
                f"{burst.readers} at once, {burst.what}: p95 under {most_s:g} s ({burst.p95_s:.2f} s)",
                burst.p95_s < most_s,
            )
            for burst, most_s in zip(found.bursts[:3], (MAX_FIRST_P95_S, MAX_P95_S, MAX_P95_S), strict=True)
        ),
    ]
    if called is not None:
        claims.append(
            Claim(
                f"the call beside it passed, and warns of nothing: {called['warnings']}",
                called["success"] is True and not called["warnings"],
            )
        )
    kind = "PostgreSQL" if chosen.postgres else "SQLite"
    return report(
        f"Reading a result of {chosen.runs} runs, {found.outcome_bytes / 1_000:.0f} kB each: seconds, on {kind}",
        ("asked for", "readers", "answer (MB)", "median", "p95", "max", "healthz p95 (ms)", "max (ms)", "answered"),
        rows,
        claims,
        raw=json.loads(json.dumps(asdict(found))),
        json_file=chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
