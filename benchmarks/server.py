"""The server, as its users start it: from the queue into the room, and launches of a thousand entries.

    python -m benchmarks.server

A server of its own on SQLite, with a worker that makes six calls at once, and two metronomes to be called. Runs are
launched together, several times over; then a thousand entries at once, while nothing and while six calls are on.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import anyio.to_thread
import httpx

from benchmarks.common import Claim, agents, median, parser, percentile, report

API = "/test_framework/v1"
CALLS = 6
ENTRIES = 1_000

GREETED = "name: greeted\nturns:\n  - expect:\n      - { event: response, within_ms: 15000 }\n"
TALKS = """name: talks
turns:
  - user: "Hello there, can you hear me? This is a test call."
    expect: [{ event: response }]
  - user: "I would like to know whether you are always on time."
    expect: [{ event: response }]
  - user: "Could you please say that again, a little later?"
    expect: [{ event: response }]
"""

MAX_SPREAD_S = 1.5
MAX_JOINING_S = 0.6
MAX_LAUNCH_S = 2.0
MAX_READ_S = 1.0


@dataclass
class Measured:
    """What was measured, in seconds.

    Attributes:
        claimed_s: From launch to taken by the worker, for runs launched one by one.
        joined_s: From launch to in the room, for these.
        together_s: From launch to in the room, for runs launched together.
        spreads_s: For these, from the first to the last of them in its room.
        launch_s: A launch of a thousand entries, several times.
        read_s: Reading its result, several times.
        end_s: Ending all of its runs.
        busy_launch_s: A launch of a thousand entries while six calls were on.
        busy_read_s: Reading its result then.
        underruns: How often one of those calls had no audio to send meanwhile.
        passed: How many of all the calls passed.
        calls: How many there were.
    """

    claimed_s: list[float]
    joined_s: list[float]
    together_s: list[float]
    spreads_s: list[float]
    launch_s: list[float]
    read_s: list[float]
    end_s: list[float]
    busy_launch_s: float
    busy_read_s: float
    underruns: int
    passed: int
    calls: int


class Client:
    """Talks to a server as a script does."""

    def __init__(self, url: str, key: str):
        self.url, self.key = url, key
        self._http = httpx.Client(base_url=url, headers={"X-CEKURA-API-KEY": key}, timeout=60)

    def get(self, path: str) -> Any:
        return self._http.get(f"{API}{path}").raise_for_status().json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self._http.post(f"{API}{path}", json=body)
        if answer.is_error:
            raise RuntimeError(f"{path}: HTTP {answer.status_code}: {answer.text[:500]}")
        return answer.json() if answer.content else None

    def artefact(self, address: str) -> Any:
        return self._http.get(address).raise_for_status().json()

    def scenario(self, name: str, text: str) -> int:
        body = {"name": name, "agent": 1, "personality": 693, "scenario_type": "conditional_actions"}
        return self.post("/scenarios/", {**body, "pipecat_eval": text})["id"]

    def launch(self, scenario: int, rooms: list[str]) -> Any:
        entries = [{"scenario": scenario, "pipecat_room_url": room} for room in rooms]
        # Another name each time: the same launch again is the same result.
        body = {"scenarios": entries, "agent": 1, "name": f"benchmark {time.monotonic_ns()}"}
        return self.post("/scenarios/run_scenarios_pipecat/", body)

    def until(self, path: str, wanted: Callable[[Any], bool], limit_s: float = 180) -> Any:
        deadline = time.monotonic() + limit_s
        while not wanted(found := self.get(path)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{path}: took longer than {limit_s:g} s")
            time.sleep(0.1)
        return found

    def ended(self, result: Any) -> list[Any]:
        """Wait for the runs of a result, and return them."""
        self.until(f"/results/{result['id']}/", lambda r: r["status"] not in ("pending", "running"))
        return [self.get(f"/runs/{run['id']}/") for run in result["runs"]]


@contextmanager
def serving(folder: Path, *options: str) -> Generator[Client]:
    """Run a server, and yield a client with its key."""
    command = [sys.executable, "-m", "runner.cli", "serve", "--port", "0", "--data-dir", str(folder), *options]
    env = {**os.environ, "SCENARIO_RUNNER_WORKER__CALLS": str(CALLS)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        key = process.stdout.readline().rpartition(" ")[2].strip()
        address = re.match(r"serving on (\S+)", process.stdout.readline())
        try:
            if address is None:
                raise RuntimeError("the server does not start")
            yield Client(address[1], key)
        finally:
            process.terminate()


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long something took, in seconds, and what came of it."""
    began_s = time.monotonic()
    result = function()
    return time.monotonic() - began_s, result


def measure(urls: list[str], repeat: int) -> Measured:
    """Measure against agents at base addresses."""
    rooms = [f"{urls[index % len(urls)]}/api/offer" for index in range(CALLS)]
    with TemporaryDirectory(prefix="benchmark-") as folder:
        with serving(Path(folder) / "calls") as client:
            greeted, talks = client.scenario("greeted", GREETED), client.scenario("talks", TALKS)
            # Everything loads its models, and the lines are made.
            client.ended(client.launch(talks, rooms))
            alone: list[Any] = []
            for index in range(2 * repeat):
                alone += client.ended(client.launch(greeted, [rooms[index % CALLS]]))
            spreads_s: list[float] = []
            together: list[Any] = []
            for _ in range(repeat):
                six = client.ended(client.launch(greeted, rooms))
                joined = [_seconds(run, "joined_at") for run in six]
                spreads_s.append(max(joined) - min(joined))
                together += six
            busy = client.launch(talks, rooms)
            on = [f"/runs/{run['id']}/" for run in busy["runs"]]
            for path in on:
                client.until(path, lambda run: run["scenario_runner"]["joined_at"] is not None)
            busy_launch_s, many = timed(lambda: client.launch(greeted, [rooms[0]] * ENTRIES))
            busy_read_s, _ = timed(lambda: client.get(f"/results/{many['id']}/"))
            client.post(f"/results/{many['id']}/end_calls/")
            busy_runs = client.ended(busy)
            underruns = sum(_artefact(client, run)["caller_underruns"] for run in busy_runs)
        with serving(Path(folder) / "launches", "--no-worker") as client:
            greeted = client.scenario("greeted", GREETED)
            launch_s: list[float] = []
            read_s: list[float] = []
            end_s: list[float] = []
            for _ in range(repeat):
                took_s, many = timed(lambda: client.launch(greeted, [rooms[0]] * ENTRIES))
                launch_s.append(took_s)
                took_s, result = timed(lambda path=f"/results/{many['id']}/": client.get(path))
                assert len(result["runs"]) == ENTRIES
                read_s.append(took_s)
                end_s.append(timed(lambda path=f"/results/{many['id']}/end_calls/": client.post(path))[0])
    all_runs = [*alone, *together, *busy_runs]
    return Measured(
        claimed_s=[_since_launch(run, "started_at") for run in alone],
        joined_s=[_since_launch(run, "joined_at") for run in alone],
        together_s=[_since_launch(run, "joined_at") for run in together],
        spreads_s=spreads_s,
        launch_s=launch_s,
        read_s=read_s,
        end_s=end_s,
        busy_launch_s=busy_launch_s,
        busy_read_s=busy_read_s,
        underruns=underruns,
        passed=sum(run["scenario_runner"]["success"] is True for run in all_runs),
        calls=len(all_runs),
    )


def _artefact(client: Client, run: Any) -> Any:
    return client.artefact(run["scenario_runner"]["artefacts"]["run.json"])


def _seconds(run: Any, name: str) -> float:
    return datetime.fromisoformat(run["scenario_runner"][name]).timestamp()


def _since_launch(run: Any, name: str) -> float:
    return _seconds(run, name) - _seconds(run, "created_at")


async def run_all(repeat: int) -> Measured:
    """Serve the agents, and measure."""
    async with agents("metronome", 2) as urls:
        return await anyio.to_thread.run_sync(measure, urls, repeat)


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--repeat", type=int, default=5, help="how often each is done")
    chosen = options.parse_args()
    found = anyio.run(run_all, chosen.repeat)

    def row(name: str, values: list[float]) -> list[str]:
        return [name, *(f"{value:.2f}" for value in (median(values), percentile(values, 95), max(values)))]

    rows = [
        row("launch to taken", found.claimed_s),
        row("launch to in the room", found.joined_s),
        row(f"the same, {CALLS} launched together", found.together_s),
        row(f"first to last of {CALLS} in its room", found.spreads_s),
        row(f"launch of {ENTRIES} entries", found.launch_s),
        row(f"reading {ENTRIES} runs", found.read_s),
        row(f"ending {ENTRIES} runs", found.end_s),
        row(f"launch of {ENTRIES} entries, {CALLS} calls on", [found.busy_launch_s]),
        row(f"reading {ENTRIES} runs, {CALLS} calls on", [found.busy_read_s]),
    ]
    joining_s, spread_s = median(found.joined_s), max(found.spreads_s)
    claims = [
        Claim(
            f"{CALLS} runs launched together are in their rooms within {MAX_SPREAD_S:g} s of each other "
            f"(at most {spread_s:.2f} s)",
            spread_s <= MAX_SPREAD_S,
        ),
        Claim(
            f"from the queue into the room in {MAX_JOINING_S:g} s at the median ({joining_s:.2f} s)",
            joining_s <= MAX_JOINING_S,
        ),
        Claim(
            f"{ENTRIES} entries are launched in {MAX_LAUNCH_S:g} s (at most {max(found.launch_s):.2f} s)",
            max(found.launch_s) <= MAX_LAUNCH_S,
        ),
        Claim(
            f"{ENTRIES} runs are read in {MAX_READ_S:g} s (at most {max(found.read_s):.2f} s)",
            max(found.read_s) <= MAX_READ_S,
        ),
        Claim(f"calls that were on meanwhile ran out of audio {found.underruns} times", found.underruns == 0),
        Claim(f"every call passed ({found.passed} of {found.calls})", found.passed == found.calls),
    ]
    return report(
        "The server: seconds, on SQLite",
        ("", "median", "p95", "max"),
        rows,
        claims,
        raw=json.loads(json.dumps(asdict(found))),
        json_file=chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
