"""How long a call takes to set up on loopback, from its clock's zero to both sides being ready.

    python -m benchmarks.setup_time [--profile]

Calls are made one after another in a warm process against the metronome: to its ``/api/offer``, and to its base
address, where a session is started with ``/start`` first. Each is cancelled as soon as the agent is ready.
"""

import cProfile
import pstats
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from benchmarks.common import Claim, agents, in_fresh_process, median, parser, percentile, report, run_uvloop
from bots.caller.script import Script, Turn
from bots.timeline import AgentJoined, BotReady, CallEnded, ClientReadySent, RoomEntered, TimelineEvent
from runner.calls.call import Call
from runner.calls.request import CallRequest
from runner.rooms.open import RoomAddress
from runner.settings import load_settings

MILESTONES = (RoomEntered, AgentJoined, ClientReadySent, BotReady)
MAX_READY_MS = 500.0
PROFILE_LINES = 30


class _Watcher:
    """Notes when each milestone was reached, and ends the call at the last."""

    def __init__(self) -> None:
        self.call: Call | None = None
        self.reached_ms: dict[str, float] = {}
        self.ended_s = 0.0

    def fact(self, event: TimelineEvent) -> None:
        if isinstance(event, MILESTONES):
            self.reached_ms.setdefault(event.type, event.at_ns / 1e6)
            if isinstance(event, BotReady) and self.call is not None:
                self.call.cancel()
        elif isinstance(event, CallEnded):
            self.ended_s = time.monotonic()

    def verdicts(self, verdicts: Any) -> None:
        pass

    def audio(self, channel: int, at_ns: int, pcm: bytes) -> None:
        pass


def measure(url: str, calls: int, profile: bool) -> list[dict[str, float]]:
    """Make calls one after another in this process, and return their milestones; the first, cold one is left out."""
    return run_uvloop(_measure, url, calls, profile)


async def _measure(url: str, calls: int, profile: bool) -> list[dict[str, float]]:
    settings = load_settings()
    script = Script(name="set-up", turns=(Turn(),))
    measured: list[dict[str, float]] = []
    profiler = cProfile.Profile()
    with TemporaryDirectory(prefix="benchmark-") as folder:
        for index in range(calls + 1):
            watcher = _Watcher()
            request = CallRequest(script, RoomAddress(url), transcribe=False)
            watcher.call = Call(request, settings, Path(folder) / str(index), watcher=watcher)
            if profile and index > 0:
                profiler.enable()
            began_s, began_cpu_s = time.monotonic(), time.process_time()
            await watcher.call.make()
            profiler.disable()
            milestones = watcher.reached_ms
            milestones["leaving"] = (time.monotonic() - watcher.ended_s) * 1000
            milestones["all"] = (time.monotonic() - began_s) * 1000
            milestones["all_cpu"] = (time.process_time() - began_cpu_s) * 1000
            if index > 0:
                measured.append(milestones)
    if profile:
        pstats.Stats(profiler, stream=sys.stdout).sort_stats("tottime").print_stats(PROFILE_LINES)
    return measured


async def run_both(calls: int, profile: bool) -> dict[str, list[dict[str, float]]]:
    """Measure both kinds of address."""
    async with agents("metronome", 1) as (base_url,):
        addresses = {"/api/offer": f"{base_url}/api/offer", "base address": base_url}
        return {
            name: await anyio.to_thread.run_sync(in_fresh_process, measure, url, calls, profile)
            for name, url in addresses.items()
        }


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--calls", type=int, default=10)
    options.add_argument("--profile", action="store_true", help="print where the CPU time goes (makes it slower)")
    options.add_argument("--max-ready-ms", type=float, default=MAX_READY_MS)
    chosen = options.parse_args()
    measured = anyio.run(run_both, chosen.calls, chosen.profile)
    names = [*(milestone.model_fields["type"].default for milestone in MILESTONES), "leaving", "all", "all_cpu"]
    rows: list[list[str]] = []
    claims: list[Claim] = []
    for address, calls in measured.items():
        times_ms = {name: [call[name] for call in calls if name in call] for name in names}
        rows.append([address, *(f"{median(t):.0f} / {percentile(t, 95):.0f}" for t in times_ms.values())])
        ready_ms = times_ms["bot_ready"]
        claims.append(Claim(f"{address}: the agent was ready in every call", len(ready_ms) == chosen.calls))
        text = f"{address}: ready within {chosen.max_ready_ms:g} ms in the median ({median(ready_ms):.0f} ms)"
        claims.append(Claim(text, median(ready_ms) <= chosen.max_ready_ms))
    return report(
        "Set-up on loopback, median / p95 in ms from the call's zero",
        ("address", *(name.replace("_", " ") for name in names)),
        rows,
        claims,
        raw=measured,
        json_file=chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
