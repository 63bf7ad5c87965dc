"""A suite whose calls take no time and end as they are told to."""

import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from bots.timeline import (
    AgentJoined,
    AgentStartedSpeaking,
    CallEnded,
    CallerTurnStarted,
    CallStarted,
    EndedReason,
    RoomEntered,
    TimelineEvent,
)
from runner.calls.request import CallRequest, CallWatcher
from runner.calls.run_file import Circumstances, EarlierAttempt, Run, judge_run, write_run
from runner.calls.suite import SuiteRunner
from runner.calls.suite_file import SuiteResult, SuiteRun
from runner.calls.timeline import TimelineWriter
from runner.scenarios.suites import PlannedRun, load_suite
from runner.settings import Settings

AT_URL = "agent: { url: 'http://127.0.0.1:7860' }"
PROCESS_ENDED = "agent_process_ended"
LISTEN = "turns: [{ expect: [{ event: response, within_ms: 1000 }] }]"


class StubCall:
    """A call that takes no time, and ends as it is told to."""

    def __init__(
        self, calls: "StubCalls", request: CallRequest, folder: Path, run_id: str, watcher: CallWatcher
    ) -> None:
        self.calls = calls
        self.watcher = watcher
        self.request = request
        self.folder = folder
        self.run_id = run_id
        self.name = request.script.name.rpartition("/")[2]
        self.cancelled: str | None = None
        self.over = anyio.Event()

    async def make(self) -> Run:
        self.calls.made.append(self)
        self.calls.live.append(self.name)
        self.calls.live_at.append(len(self.calls.live))
        self.calls.most_at_a_time = max(self.calls.most_at_a_time, len(self.calls.live))
        try:
            with anyio.move_on_after(30):
                reason, answered = await self.calls.behaviour(self)
        finally:
            self.calls.live.remove(self.name)
        return self.run(reason, answered)

    def cancel(self, detail: str | None = None) -> None:
        self.cancelled = detail
        self.over.set()

    def run(self, reason: EndedReason, answered: bool) -> Run:
        facts: list[TimelineEvent] = [
            CallStarted(
                at_ns=0,
                run_id=self.run_id,
                scenario=self.request.script.name,
                room="http://127.0.0.1",
                wall_time="2026-01-01T00:00:00.000Z",
                monotonic_ns=1,
            )
        ]
        if reason is not EndedReason.ROOM_UNREACHABLE:
            facts += [RoomEntered(at_ns=1), AgentJoined(at_ns=2), CallerTurnStarted(at_ns=3, turn=0)]
        if answered:
            facts.append(AgentStartedSpeaking(at_ns=4))
        facts.append(CallEnded(at_ns=2_000_000_000, reason=reason, detail=self.cancelled))
        self.folder.mkdir()
        with TimelineWriter(self.folder / "timeline.jsonl") as timeline:
            for fact in facts:
                timeline.write(fact)
                self.watcher.fact(fact)
            run = judge_run(self.request.script, facts, Circumstances(timeline=timeline.stamp))
        write_run(self.folder, run)
        return run


Behaviour = Callable[[StubCall], Awaitable[tuple[EndedReason, bool]]]


async def passes(call: StubCall) -> tuple[EndedReason, bool]:
    await anyio.lowlevel.checkpoint()
    return EndedReason.CALLER_HUNG_UP, True


async def until_cancelled(call: StubCall) -> tuple[EndedReason, bool]:
    await call.over.wait()
    return EndedReason.CANCELLED, False


class StubCalls:
    """Makes stubs in place of calls, and keeps account of them."""

    def __init__(self, behaviour: Behaviour = passes, **by_name: Behaviour) -> None:
        self.made: list[StubCall] = []
        self.live: list[str] = []
        self.live_at: list[int] = []
        self.most_at_a_time = 0
        self._behaviour = behaviour
        self._by_name = by_name

    def __call__(
        self, request: CallRequest, settings: Settings, folder: Path, run_id: str, watcher: CallWatcher
    ) -> StubCall:
        return StubCall(self, request, folder, run_id, watcher)

    async def behaviour(self, call: StubCall) -> tuple[EndedReason, bool]:
        return await self._by_name.get(call.name, self._behaviour)(call)


class Watcher:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def begun(self, run: PlannedRun) -> None:
        self.seen.append(f"begun {run.title}")

    def call_over(self, run: PlannedRun) -> None:
        self.seen.append(f"over {run.title}")

    def ended(self, run: PlannedRun, result: SuiteRun | None) -> None:
        self.seen.append(f"ended {run.title}: {None if result is None else result.success}")

    def repeats(self, run: PlannedRun, attempt: EarlierAttempt) -> None:
        self.seen.append(f"repeats {run.title}: {attempt.repeated_because}")

    def limited(self, allowed: int, warning: str | None) -> None:
        self.seen.append(f"limited to {allowed}: {warning}")


def runner(
    tmp_path: Path, calls: StubCalls, names: str = "abc", agent: str = AT_URL, more: str = "", **options: Any
) -> SuiteRunner:
    scenarios = "\n".join(f"  - {{ name: {name}, {LISTEN} }}" for name in names)
    (tmp_path / "all.yaml").write_text(f"name: all\nscenarios:\n{scenarios}\n")
    (tmp_path / "suite.yaml").write_text(f"name: night\n{agent}\n{more}\nscenarios: [all.yaml]\n")
    suite = load_suite(tmp_path / "suite.yaml", Settings())
    return SuiteRunner(suite, Settings(), tmp_path / "out", make_call=calls, **options)


def names_of(runs: Any) -> list[str]:
    return [run.title.removeprefix("all/") for run in runs]


async def slowly(call: StubCall) -> tuple[EndedReason, bool]:
    await anyio.sleep(0.01)
    return await passes(call)


async def fails(call: StubCall) -> tuple[EndedReason, bool]:
    return EndedReason.CALLER_HUNG_UP, False


async def loses_the_network(call: StubCall) -> tuple[EndedReason, bool]:
    return EndedReason.ICE_FAILED, False


@contextmanager
def start_server(answer: Callable[[int], tuple[int, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Answer posts, and yield the address and what was posted."""
    posted: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, self.headers.get("Authorization"), json.loads(body)))
            status, content = answer(len(posted))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def do_DELETE(self) -> None:
            posted.append((self.path, self.headers.get("Authorization"), None))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def cancelled_at(the_runner: SuiteRunner, ready: Callable[[], bool]) -> SuiteResult:
    result: list[SuiteResult] = []

    async def make() -> None:
        result.append(await the_runner.make())

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(make)
            while not ready():
                await anyio.sleep(0.01)
            the_runner.cancel("stopped by SIGINT")
    return result[0]
