"""People who watch a call and listen in: what they see and hear when, and what that does to the call.

    python -m benchmarks.watching
    python -m benchmarks.watching --agent restaurant

A server with its worker on SQLite, and an agent to be called. A call that nobody watches comes first; then the same
one, which four people watch on its page, two of whom listen in. How late a line is shows in the timeline, how late
the sound in the recording: both are on the machine's clock.
"""

import asyncio
import io
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import psutil
import uvloop

from benchmarks.common import Claim, agents, median, parser, percentile, report
from benchmarks.idle_workers import used_s
from benchmarks.server import TALKS, Client, serving
from runner.calls.recording import AGENT, CALLER, parse_recording
from runner.protocol.messages import SOUND_FRAME_BYTES, SOUND_RATE_HZ

WATCHERS = 4
LISTENERS = 2
MAX_LINE_S = 1.0
MAX_SOUND_S = 2.0
MIN_SAME = 0.99
HEADER_BYTES = 44
PROBE_FRAMES = SOUND_RATE_HZ


@dataclass
class Heard:
    """What a listener was sent.

    Attributes:
        pcm: All of it.
        came_s: How many bytes had come, and when.
    """

    pcm: bytearray = field(default_factory=bytearray)
    came_s: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])


@dataclass
class Measured:
    """What was measured.

    Attributes:
        lines_s: How long after it happened a line was there, for every watcher.
        sound_s: How long after it was on the line sound was there, for every piece of every listener.
        same: The share of what was heard that is as it was recorded: after a gap nothing is.
        underruns: How often the caller had no audio to send: in the call that nobody watched, and in the other.
        cores: What worker and server took of a core during a call, without and with those people.
    """

    lines_s: list[float]
    sound_s: list[float]
    same: float
    underruns: tuple[int, int]
    cores: dict[str, list[float]]


async def sign_in(client: Client) -> httpx.AsyncClient:
    """Return the browser of somebody who signed in."""
    browser = httpx.AsyncClient(base_url=client.url, timeout=None)
    answer = await browser.post("/sign-in", data={"key": client.key}, headers={"Origin": client.url})
    assert answer.status_code == 303
    return browser


async def watch(browser: httpx.AsyncClient, run_id: int) -> list[tuple[int, float]]:
    """Watch a call until its end; return which event of the timeline each line is, and when it came."""
    seen: list[tuple[int, float]] = []
    async with browser.stream("GET", f"/runs/{run_id}/follow") as answer:
        told: dict[str, str] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if line:
                told[name] = value
                continue
            if told.get("event") == "row":
                seen.append((int(told["id"].rpartition("-")[2]), time.monotonic()))
            told = {}
    return seen


async def listen(browser: httpx.AsyncClient, run_id: int) -> Heard:
    """Listen to a call until its end."""
    heard = Heard()
    async with browser.stream("GET", f"/runs/{run_id}/listen") as answer:
        assert answer.headers["Content-Type"] == "audio/wav", answer.status_code
        pieces: AsyncIterator[bytes] = answer.aiter_raw()
        async for piece in pieces:
            heard.pcm += piece
            heard.came_s.append((len(heard.pcm) - HEADER_BYTES, time.monotonic()))
    del heard.pcm[:HEADER_BYTES]
    return heard


def processes() -> dict[str, list[psutil.Process]]:
    """Return the processes of server and worker."""
    found: dict[str, list[psutil.Process]] = {"worker": [], "server": []}
    for process in psutil.Process().children(recursive=True):
        command = " ".join(process.cmdline())
        if "runner.worker.child" in command:
            found["worker"].append(process)
        elif "runner.cli serve" in command:
            found["server"].append(process)
    return found


async def call(client: Client, room: str, scenario: int, people: list[httpx.AsyncClient]) -> tuple[Any, Any, Any]:
    """Make a call that people watch and listen to; return its run, what they saw and heard, and what it cost."""
    before = {name: used_s(some) for name, some in processes().items()}
    began_s = time.monotonic()
    launched = await asyncio.to_thread(client.launch, scenario, [room])
    run_id = launched["runs"][0]["id"]
    async with asyncio.TaskGroup() as tasks:
        seen = [tasks.create_task(watch(browser, run_id)) for browser in people]
        heard = [tasks.create_task(listen(browser, run_id)) for browser in people[:LISTENERS]]
    (run,) = await asyncio.to_thread(client.ended, launched)
    lasted_s = time.monotonic() - began_s
    cores = {name: (used_s(some) - before[name]) / lasted_s for name, some in processes().items()}
    return run, ([task.result() for task in seen], [task.result() for task in heard]), cores


def sound_of(heard: Heard, recording: npt.NDArray[np.int16], origin_s: float) -> tuple[list[float], float]:
    """Return how late pieces were, and which share of what came is as it was recorded.

    Args:
        heard: What was heard.
        recording: Both sides as they were recorded.
        origin_s: When the recording began.
    """
    came = np.frombuffer(bytes(heard.pcm), dtype=np.int16).reshape(-1, 2).T
    sounds = np.flatnonzero(came[CALLER])
    assert sounds.size, "nothing of the caller was heard"
    first = int(sounds[0])
    probe = came[CALLER, first : first + PROBE_FRAMES].tobytes()
    place = recording[CALLER].tobytes().find(probe)
    assert place >= 0, "what was heard was not recorded"
    start = place // 2 - first
    length = min(came.shape[1], recording.shape[1] - start)
    same = float((came[:, :length] == recording[:, start : start + length]).all(axis=0).mean())
    late_s = [at_s - origin_s - (start + size // SOUND_FRAME_BYTES) / SOUND_RATE_HZ for size, at_s in heard.came_s]
    return late_s[1:], same


async def measure(url: str, folder: Path) -> Measured:
    """Make both calls, and measure."""
    room = f"{url}/api/offer"
    with serving(folder) as client:
        talks = client.scenario("talks", TALKS)
        # Everything loads its models, and the lines are made.
        await call(client, room, talks, [])
        unwatched, _, alone = await call(client, room, talks, [])
        people = [await sign_in(client) for _ in range(WATCHERS)]
        run, (seen, heard), watched = await call(client, room, talks, people)
        names = ("run.json", "timeline.jsonl", "recording.wav")
        made, timeline, recording = [await people[0].get(f"/runs/{run['id']}/{name}") for name in names]
        before = await people[0].get(f"/runs/{unwatched['id']}/run.json")
        for browser in people:
            await browser.aclose()
    events = [json.loads(line) for line in timeline.text.splitlines()]
    origin_s = events[0]["monotonic_ns"] / 1e9
    over_s = next(event["at_ns"] for event in events if event["type"] == "call_ended") / 1e9
    # What is recognised after the call was said long before.
    lines_s = [
        at_s - origin_s - events[place - 1]["at_ns"] / 1e9
        for watcher in seen
        for place, at_s in watcher
        if at_s - origin_s <= over_s
    ]
    channels, rate_hz = parse_recording(io.BytesIO(recording.content), "recording.wav")
    assert rate_hz == SOUND_RATE_HZ and channels.shape[0] == AGENT + 1
    ears = [sound_of(one, channels, origin_s) for one in heard]
    return Measured(
        lines_s=lines_s,
        sound_s=[late_s for late, _ in ears for late_s in late],
        same=min(same for _, same in ears),
        underruns=(before.json()["caller_underruns"], made.json()["caller_underruns"]),
        cores={name: [round(alone[name], 3), round(watched[name], 3)] for name in alone},
    )


async def run_all(agent: str) -> Measured:
    """Start an agent, and measure."""
    async with agents(agent, 1) as (url,):
        with TemporaryDirectory(prefix="benchmark-") as folder:
            return await measure(url, Path(folder))


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--agent", choices=("metronome", "restaurant"), default="metronome", help="who is called")
    chosen = options.parse_args()
    # A call that runs out of audio would be made again, and the second one reported.
    os.environ["SCENARIO_RUNNER_WORKER__RETRY_INCONCLUSIVE"] = "0"
    found = uvloop.run(run_all(chosen.agent))
    latest_s = max(found.lines_s)
    sound_s = percentile(found.sound_s, 95)
    claims = [
        Claim(f"the call does not run out of audio ({found.underruns[1]} times)", found.underruns[1] == 0),
        Claim(f"every line is there within {MAX_LINE_S:g} s ({latest_s:.2f} s)", latest_s < MAX_LINE_S),
        Claim(
            f"19 of 20 pieces of sound are there within {MAX_SOUND_S:g} s ({sound_s:.2f} s)", sound_s < MAX_SOUND_S
        ),
        Claim(f"what is heard is what was recorded ({100 * found.same:.2f} %)", found.same > MIN_SAME),
    ]
    rows = [
        ("lines: median, latest, s", f"{median(found.lines_s):.2f}, {latest_s:.2f}"),
        ("sound: median, 95th percentile, s", f"{median(found.sound_s):.2f}, {sound_s:.2f}"),
        ("underruns, alone and watched", ", ".join(map(str, found.underruns))),
        ("sound that is as recorded, %", f"{100 * found.same:.2f}"),
        *((f"{name}: cores, alone and watched", ", ".join(map(str, both))) for name, both in found.cores.items()),
    ]
    title = f"A call to {chosen.agent} that {WATCHERS} people watch, {LISTENERS} of whom listen in"
    return report(title, ("figure", "measured"), rows, claims, raw=found.__dict__, json_file=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
