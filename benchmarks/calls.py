"""Many calls at once in one caller process: verdicts, timing against the truth, CPU, memory, event-loop lag.

    python -m benchmarks.calls --agent metronome --calls 1,4,8
    python -m benchmarks.calls --agent metronome --calls 1,4 --room daily

The metronome writes down when it heard the caller's last voiced sample and when its answer's first sample left. The
latency error is what the caller measured less what the metronome's log says, for each turn of the same session.
"""

import dataclasses
import json
import math
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx

from benchmarks.common import (
    Claim,
    LoopLag,
    Steady,
    agents,
    in_fresh_process,
    median,
    parser,
    percentile,
    report,
    run_uvloop,
    synthesise,
)
from bots.caller.script import Expectation, Script, Speak, Turn, Words
from bots.timeline import (
    AgentJoined,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    CallEnded,
    CallStarted,
    TimelineEvent,
)
from runner.calls.call import Call
from runner.calls.request import CallRequest
from runner.calls.run_file import Run
from runner.rooms.open import RoomAddress
from runner.rooms.urls import RoomKind
from runner.scenarios.evals import load_scenario
from runner.sessions.pipecat_runner import StartedDailySession, start_session
from runner.settings import load_settings
from tests.daily_rooms import daily_rooms

BOOKING = "config/scenarios/booking.yaml"
SESSIONS_PER_PROCESS = {"metronome": 4, "restaurant": 2}
TURN_S = 6.5
"""What a turn with the metronome takes: a line, its wait, its sentence, and the silence that ends it."""

LINES = (
    "Hello there, can you hear me? This is a test call.",
    "I would like to know whether you are always on time.",
    "Could you please say that again, a little later?",
    "And what would you answer if I asked you tomorrow?",
)
SESSION_TAG_MS = 300
MATCH_NS = 400_000_000
"""A turn's end as the caller sent it and as the metronome heard it are no further apart than this."""

MAX_ERROR_MS = 60.0
MAX_DAILY_P95_MS = 40.0
MAX_CORES_PER_CALL = 0.14


@dataclass(frozen=True)
class Plan:
    """What calls a caller process makes.

    Attributes:
        urls: The agents' base addresses; calls are spread over them.
        calls: How many calls at once.
        script: What each caller does.
        logs: Folder with the metronomes' logs of the truth; None for another agent.
        transcribe: Whether to recognise after the call what the agent said.
        deaf_to_messages: Take the agent for one that speaks no RTVI, by ignoring what it says over the data channel.
        daily: Have each session started in a Daily room.
    """

    urls: tuple[str, ...]
    calls: int
    script: Script
    logs: Path | None = None
    transcribe: bool = False
    deaf_to_messages: bool = False
    daily: bool = False


@dataclass
class Measured:
    """What came of them."""

    plan_calls: int
    passed: int
    underruns: int
    details: list[str]
    errors_ms: list[float]
    turns_without_truth: int
    steady_s: float
    cores_per_call: float
    rss_mb: float
    threads: int
    lags_ms: list[float]
    agent_speech_s: float
    after_call_s: float
    after_call_cpu_s: float


def conversation(turns: int, expectation: Expectation | None = None) -> Script:
    """Return a script of so many spoken turns, each of which expects a response."""
    expect = (expectation or Expectation(event="response"),)
    lines = [LINES[i % len(LINES)] for i in range(turns)]
    return Script(
        name="conversation", turns=tuple(Turn(action=Speak(parts=(Words(text=t),)), expect=expect) for t in lines)
    )


def turns_for(seconds: float) -> int:
    """Return how many turns with the metronome fill about so many seconds."""
    return max(2, round(seconds / TURN_S))


def measure(plan: Plan) -> Measured:
    """Make the calls in this process, which should be a fresh one."""
    return run_uvloop(_measure, plan)


@dataclass
class _Watcher:
    steady: Steady
    origin_ns: int = 0
    ended_cpu_s: float = 0.0
    ended_ns: int = 0
    speech_ns: int = 0
    _onset_ns: int = 0

    def fact(self, event: TimelineEvent) -> None:
        match event:
            case CallStarted():
                self.origin_ns = event.monotonic_ns
            case AgentJoined():
                self.steady.joined()
            case AgentStartedSpeaking():
                self._onset_ns = event.at_ns
            case AgentStoppedSpeaking():
                self.speech_ns += event.at_ns - self._onset_ns
            case CallEnded():
                self.steady.call_ended()
            case _:
                pass

    def verdicts(self, verdicts: Any) -> None:
        pass

    def audio(self, channel: int, at_ns: int, pcm: bytes) -> None:
        pass


class _DeafCall(Call):
    """A call to an agent without RTVI: what it says of itself is not taken in."""

    def message_received(self, at_ns: int, message: Any) -> None:
        pass


async def _measure(plan: Plan) -> Measured:
    steady, lag = Steady(plan.calls), LoopLag()
    watchers = [_Watcher(steady) for _ in range(plan.calls)]
    runs: list[Run | None] = [None] * plan.calls
    kind = _DeafCall if plan.deaf_to_messages else Call
    recognises = plan.transcribe or (plan.deaf_to_messages and plan.script.needs_words)
    settings = load_settings()
    with TemporaryDirectory(prefix="benchmark-") as folder:
        for index, url in enumerate(plan.urls[: plan.calls]):
            # Both sides load their models in a first short call.
            greeting = Script(name="warm-up", turns=(Turn(expect=(Expectation(event="response"),)),))
            request = CallRequest(greeting, await _address(plan, url, None), transcribe=recognises)
            await Call(request, settings, Path(folder) / f"warm-up-{index}").make()

        async def one(index: int) -> None:
            body = None
            if plan.logs is not None:
                # Every session answers after other times, and is known in the log by its stop_ms.
                answer_ms = [700 + 37 * index, 900 + 23 * index]
                body = {"metronome": {"answer_ms": answer_ms, "stop_ms": SESSION_TAG_MS + index}}
            address = await _address(plan, plan.urls[index % len(plan.urls)], body)
            request = CallRequest(plan.script, address, transcribe=plan.transcribe)
            runs[index] = await kind(request, settings, Path(folder) / str(index), watcher=watchers[index]).make()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lag.run)
            async with anyio.create_task_group() as calls:
                for index in range(plan.calls):
                    calls.start_soon(one, index)
            finished_ns, finished_cpu_s = time.monotonic_ns(), time.process_time()
            tasks.cancel_scope.cancel()
    done = [run for run in runs if run is not None]
    errors_ms, without = _errors_ms(plan, done, watchers) if plan.logs is not None else ([], 0)
    end = steady.ended
    return Measured(
        plan_calls=plan.calls,
        passed=sum(run.success is True for run in done),
        underruns=sum(run.caller_underruns for run in done),
        details=[f"{run.ended_reason}: {run.detail}; {_missed(run)}" for run in done if run.success is not True],
        errors_ms=errors_ms,
        turns_without_truth=without,
        steady_s=steady.duration_s,
        cores_per_call=steady.cores_per_call,
        rss_mb=end.rss_mb if end else math.nan,
        threads=end.threads if end else 0,
        lags_ms=steady.lags_ms(lag),
        agent_speech_s=sum(watcher.speech_ns for watcher in watchers) / 1e9,
        after_call_s=(finished_ns - end.at_ns) / 1e9 if end else math.nan,
        after_call_cpu_s=finished_cpu_s - end.cpu_s if end else math.nan,
    )


async def _address(plan: Plan, url: str, body: dict[str, Any] | None) -> RoomAddress:
    """Return where a session with this body is: started here, where it comes with a Daily room."""
    if not plan.daily:
        return RoomAddress(url, request_data=body)
    async with httpx.AsyncClient() as http:
        session = await start_session(http, f"{url}/start", None, kind=RoomKind.DAILY, body=body)
    assert isinstance(session, StartedDailySession)
    return RoomAddress(session.room_url, session.token)


def _missed(run: Run) -> str:
    return "; ".join(f"turn {v.turn + 1}: {v.reason}" for v in run.expectations if v.verdict != "met")


def _errors_ms(plan: Plan, runs: list[Run], watchers: list[_Watcher]) -> tuple[list[float], int]:
    """Return measured less true latency of every turn, and how many turns the truth does not know of."""
    assert plan.logs is not None
    events = [json.loads(line) for log in plan.logs.glob("*.jsonl") for line in log.read_text().splitlines()]
    errors_ms: list[float] = []
    without = 0
    for index, run in enumerate(runs):
        origin_ns = watchers[index].origin_ns
        truth = _truth(events, SESSION_TAG_MS + index, origin_ns)
        for turn in run.turns:
            if turn.said is None:
                continue
            end_ns = origin_ns + round((turn.caller_speech_end_s or 0) * 1e9)
            ended_ns, answered_ns = min(truth, key=lambda t: abs(t[0] - end_ns), default=(0, 0))
            if turn.response_latency_ms is None or abs(ended_ns - end_ns) > MATCH_NS:
                without += 1
            else:
                errors_ms.append(turn.response_latency_ms - (answered_ns - ended_ns) / 1e6)
    return errors_ms, without


def _truth(events: list[dict[str, Any]], tag_ms: int, origin_ns: int) -> list[tuple[int, int]]:
    """Return when the caller ended and the answer began, for each answer of the session with this tag."""
    session = next(
        (
            e["session"]
            for e in events
            if e["event"] == "session_started" and e["stop_ms"] == tag_ms and e["at_ns"] > origin_ns
        ),
        None,
    )
    truth: list[tuple[int, int]] = []
    ended_ns: int | None = None
    for event in events:
        if event["session"] != session:
            continue
        if event["event"] == "caller_speech_ended":
            ended_ns = event["at_ns"]
        elif event["event"] == "answer_started" and event["kind"] == "answer" and ended_ns is not None:
            truth.append((ended_ns, event["at_ns"]))
            ended_ns = None
    return truth


@dataclass
class Row:
    """The repetitions of one number of calls."""

    calls: int
    processes: int
    repeats: list[Measured] = field(default_factory=list)

    @property
    def errors_ms(self) -> list[float]:
        return [error for repeat in self.repeats for error in repeat.errors_ms]

    @property
    def max_error_ms(self) -> float:
        return max((abs(error) for error in self.errors_ms), default=math.nan)

    @property
    def all_passed(self) -> bool:
        return all(repeat.passed == self.calls for repeat in self.repeats)

    @property
    def underruns(self) -> int:
        return sum(repeat.underruns for repeat in self.repeats)

    @property
    def cores_per_call(self) -> float:
        return median([repeat.cores_per_call for repeat in self.repeats])

    def cells(self) -> list[str]:
        size = [abs(error) for error in self.errors_ms]
        lags = [lag for repeat in self.repeats for lag in repeat.lags_ms]
        cores = [repeat.cores_per_call for repeat in self.repeats]
        passed = sum(repeat.passed for repeat in self.repeats)
        return [
            str(self.calls),
            str(self.processes),
            f"{passed}/{self.calls * len(self.repeats)}",
            str(self.underruns),
            f"{median(self.errors_ms):+.1f}" if size else "-",
            f"{percentile(size, 95):.1f} / {max(size):.1f} ({len(size)})" if size else "-",
            f"{self.cores_per_call:.3f} ({min(cores):.3f}-{max(cores):.3f})",
            f"{median([repeat.rss_mb for repeat in self.repeats]):.0f}",
            str(max(repeat.threads for repeat in self.repeats)),
            f"{median(lags):.1f} / {percentile(lags, 99):.1f} / {max(lags, default=math.nan):.1f}",
        ]


COLUMNS = (
    "calls",
    "agent processes",
    "passed",
    "underruns",
    "latency error, median ms",
    "abs. error, p95 / max ms (turns)",
    "cores per call (range)",
    "RSS MB",
    "threads",
    "loop lag, median / p99 / max ms",
)


async def run_rows(options: Any) -> list[Row]:
    """Measure every number of calls, each in a fresh process."""
    per_process = options.sessions_per_process or SESSIONS_PER_PROCESS[options.agent]
    rows = [Row(calls, math.ceil(calls / per_process)) for calls in options.calls]
    if options.agent == "metronome":
        script = conversation(turns_for(options.seconds))
    else:
        script = load_scenario(BOOKING, load_settings()).playable()
    synthesise(script)
    with TemporaryDirectory(prefix="benchmark-truth-") as folder, ExitStack() as stack:
        logs = Path(folder) / "truth" if options.agent == "metronome" else None
        if logs is not None:
            logs.mkdir()
        daily = None
        if options.room == "daily":
            daily = stack.enter_context(daily_rooms(Path(folder)))
            # For the processes that call.
            os.environ |= daily.environment()
        async with agents(options.agent, max(row.processes for row in rows), logs, daily) as urls:
            for _ in range(options.repeat):
                for row in rows:
                    plan = Plan(tuple(urls[: row.processes]), row.calls, script, logs, daily=daily is not None)
                    measured = await anyio.to_thread.run_sync(in_fresh_process, measure, plan)
                    row.repeats.append(measured)
                    for detail in measured.details:
                        print(f"{row.calls} calls: {detail}", file=sys.stderr)
    return rows


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--agent", choices=sorted(SESSIONS_PER_PROCESS), default="metronome")
    options.add_argument(
        "--room", choices=["smallwebrtc", "daily"], default="smallwebrtc", help="where calls are made"
    )
    options.add_argument("--calls", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 8])
    options.add_argument("--seconds", type=float, default=30, help="length of a call to the metronome")
    options.add_argument("--repeat", type=int, default=2)
    options.add_argument("--sessions-per-process", type=int, help="how many sessions one agent process serves")
    options.add_argument("--max-error-ms", type=float, default=MAX_ERROR_MS)
    options.add_argument("--max-cores", type=float, default=MAX_CORES_PER_CALL)
    chosen = options.parse_args()
    rows = anyio.run(run_rows, chosen)
    claims = [
        Claim("every call passed", all(row.all_passed for row in rows)),
        Claim("no silence in the middle of a caller's line", not any(row.underruns for row in rows)),
    ]
    for row in rows:
        if row.calls >= 4:
            text = f"{row.calls} calls take at most {chosen.max_cores:.2f} cores each ({row.cores_per_call:.3f})"
            claims.append(Claim(text, row.cores_per_call <= chosen.max_cores))
    if chosen.agent == "metronome":
        if chosen.room == "daily":
            p95_ms = percentile([abs(error) for row in rows for error in row.errors_ms], 95)
            text = f"in a Daily room p95 of the latency error is at most {MAX_DAILY_P95_MS:g} ms ({p95_ms:.1f})"
            claims.append(Claim(text, p95_ms <= MAX_DAILY_P95_MS))
        worst_ms = max(row.max_error_ms for row in rows)
        without = sum(repeat.turns_without_truth for row in rows for repeat in row.repeats)
        text = f"no latency is off by more than {chosen.max_error_ms:g} ms ({worst_ms:.1f})"
        claims.append(Claim(text, worst_ms <= chosen.max_error_ms))
        claims.append(Claim("every turn has a latency, and the truth knows of it", without == 0))
    code = report(
        f"Calls to the {chosen.agent} ({chosen.room}), all in one caller process",
        COLUMNS,
        [row.cells() for row in rows],
        claims,
        raw=[dataclasses.asdict(row) for row in rows],
        json_file=chosen.json,
    )
    few, many = rows[0], rows[-1]
    if many.calls > few.calls:
        more_mb = median([r.rss_mb for r in many.repeats]) - median([r.rss_mb for r in few.repeats])
        print(f"\nMemory of each further call: {more_mb / (many.calls - few.calls):.1f} MB")
    return code


if __name__ == "__main__":
    sys.exit(main())
