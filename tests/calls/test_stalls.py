"""A harness that stood still says so: with where it began and how long it took."""

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from bots.clock import NS_PER_MS, NS_PER_S, CallClock
from bots.timeline import HarnessStalled
from runner.calls import stalls
from runner.calls.stalls import STALL_NS, WATCH_NS, StallWatch

pytestmark = pytest.mark.anyio


@dataclass
class Watched:
    """A watch on a clock that is set by hand: each time it sleeps, it oversleeps by what comes next."""

    oversleeps_ns: list[int]
    now: int = 7 * NS_PER_S
    noted: list[HarnessStalled] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)

    def now_ns(self) -> int:
        return self.now

    async def sleep(self, delay_s: float) -> None:
        if not self.oversleeps_ns:
            raise anyio.EndOfStream
        self.begun.append(self.now)
        self.now += round(delay_s * NS_PER_S) + self.oversleeps_ns.pop(0)

    async def run(self, monkeypatch: pytest.MonkeyPatch) -> StallWatch:
        monkeypatch.setattr(stalls.anyio, "sleep", self.sleep)
        watch = StallWatch(self, self.noted.append)  # type: ignore[arg-type]
        with pytest.raises(anyio.EndOfStream):
            await watch.run()
        return watch


async def test_a_stall_is_noted_with_its_begin_and_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched([0, 3 * NS_PER_S, 0, STALL_NS + 1])
    await watched.run(monkeypatch)
    assert watched.noted == [
        HarnessStalled(at_ns=watched.begun[1] + WATCH_NS, duration_ms=3_000),
        HarnessStalled(at_ns=watched.begun[3] + WATCH_NS, duration_ms=(STALL_NS + 1) / NS_PER_MS),
    ]


async def test_a_loop_that_is_only_a_little_late_did_not_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched([0, STALL_NS, STALL_NS // 2, STALL_NS])
    watch = await watched.run(monkeypatch)
    assert watched.noted == []
    assert watch.lags.worst_ms == pytest.approx(STALL_NS / NS_PER_MS)


async def test_who_looks_before_the_watch_wakes_notes_the_stall_once() -> None:
    noted: list[HarnessStalled] = []
    watched = Watched([])
    watch = StallWatch(watched, noted.append)  # type: ignore[arg-type]
    watch.look()
    assert noted == [], "it was not looking yet"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        await anyio.wait_all_tasks_blocked()
        watched.now += 2 * NS_PER_S
        watch.look()
        watch.look()
        tasks.cancel_scope.cancel()
    (stall,) = noted
    assert (stall.at_ns, stall.duration_ms) == (7 * NS_PER_S + WATCH_NS, 1_950)


async def test_a_loop_that_is_really_blocked_is_noticed() -> None:
    noted: list[HarnessStalled] = []
    clock = CallClock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(StallWatch(clock, noted.append).run)
        await anyio.sleep(0.1)
        blocked_ns = clock.now_ns()
        time.sleep(0.8)  # noqa: ASYNC251 - that is the point
        await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    stall = max(noted, key=lambda e: e.duration_ms)
    assert stall.duration_ms >= 700 and stall.at_ns < blocked_ns + 2 * WATCH_NS


MAKE_A_CALL = """
import sys
from pathlib import Path
import anyio
from bots.caller.script import Script, Turn, Listen
from runner.calls.call import Call
from runner.calls.loading import load_aside
from runner.calls.request import CallRequest
from runner.calls.surroundings import Surroundings
from runner.rooms.open import RoomAddress
from runner.settings import Settings

loaded = set()

async def load(kind):
    await load_aside(kind)
    loaded.update(sys.modules)

script = Script(name="nobody/there", turns=(Turn(action=Listen()),))
request = CallRequest(script=script, address=RoomAddress("http://127.0.0.1:9/api/offer"))
call = Call(request, Settings(), Path(sys.argv[1]) / "run", surroundings=Surroundings(load=load))
print(anyio.run(call.make).ended_reason.value)
heavy = ("aiortc", "av.", "bots.caller", "httpcore", "onnxruntime", "pipecat", "runner.rooms")
print(sorted(name for name in set(sys.modules) - loaded if name.startswith(heavy)))
"""


def test_what_a_call_needs_is_loaded_before_it_begins(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAKE_A_CALL, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["room-unreachable", "[]"]
