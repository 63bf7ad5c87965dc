"""Timing against the truth with a background behind the agent: latencies, their uncertainty, turn ends, hung calls.

    python -m benchmarks.backgrounds --turns 100 --background-turns 50 --dbfs -38

The metronome knows when it heard the caller's last voiced sample and when its answer's first and last sample left, to
the sample, whatever is heard behind it. The latency error is what the run states less what the metronome's log says.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import numpy as np

from benchmarks.calls import MATCH_NS, SESSION_TAG_MS, SESSIONS_PER_PROCESS, conversation
from benchmarks.common import Claim, agents, median, parser, percentile, report, run_uvloop, synthesise
from bots.agents.backgrounds import BACKGROUND_DBFS, LOOP_S, BackgroundName
from bots.caller.script import Expectation, Script, Speak, Turn
from bots.timeline import AgentTurnEnded, CallStarted, EndedReason, TimelineEvent
from runner.calls.call import Call
from runner.calls.request import CallRequest
from runner.calls.run_file import Run
from runner.rooms.open import RoomAddress
from runner.settings import Settings, load_settings

CLEAN = "(none)"
TURNS_PER_CALL = 5
ANSWER_MS = (600, 1_800)
"""Every answer comes after another time in this range."""
SEED = 10
FIRST_TAG_MS = SESSION_TAG_MS + 1
"""Calls that do not count have the metronome's own default."""
GREETING_S = 20.0
LONGEST_TURN_S = 20.0
"""A call that takes longer than this for each of its turns hangs."""

MAX_ERROR_CLEAN_MS = 10.0
MAX_ERROR_MS = 120.0
MIN_COVERAGE = 0.95
MAX_UNCERTAINTY_CLEAN_MS = 20.0
MAX_TURN_END_MS = 1_300.0


@dataclass(frozen=True)
class Answer:
    """One answer, or the greeting, as the metronome's log has it; times on the machine's monotonic clock.

    Attributes:
        caller_ended_ns: The caller's last voiced sample before it; None for the greeting.
        started_ns: Its first sample.
        ended_ns: Its last sample.
        interrupted: Whether the caller cut it short.
    """

    caller_ended_ns: int | None
    started_ns: int
    ended_ns: int
    interrupted: bool


@dataclass
class Row:
    """What came of the calls over one background.

    Attributes:
        background: Its name.
        calls: How many calls were made.
        hung: How many of them came to their end by the clock.
        turns: How many turns the callers were to speak.
        errors_ms: Stated less true latency, of every turn with a latency.
        uncertainties_ms: What those turns state of their uncertainty; None where they state none.
        unanswered: Turns without a latency that the metronome's log has no answer to either: it took a pause in the
            line for its end, and the caller went on.
        refused: Turns without a latency that say why.
        unexplained: Turns without a latency that do not, or that were never spoken; and latencies of turns that the
            log has no answer to.
        turn_ends_ms: From an answer's end to where the caller took it to be over.
        early_ms: The same for answers that the caller took to be over before they were, or cut short: below 0.
    """

    background: str
    calls: int = 0
    hung: int = 0
    turns: int = 0
    errors_ms: list[float] = field(default_factory=list)
    uncertainties_ms: list[float | None] = field(default_factory=list)
    unanswered: int = 0
    refused: int = 0
    unexplained: int = 0
    turn_ends_ms: list[float] = field(default_factory=list)
    early_ms: list[float] = field(default_factory=list[float])

    @property
    def early(self) -> int:
        return len(self.early_ms)

    @property
    def p95_ms(self) -> float:
        return percentile([abs(error) for error in self.errors_ms], 95)

    @property
    def stated_ms(self) -> list[float]:
        return [uncertainty for uncertainty in self.uncertainties_ms if uncertainty is not None]

    @property
    def coverage(self) -> float:
        """The share of latencies that are no further off than they state; one that states nothing covers nothing."""
        pairs = zip(self.errors_ms, self.uncertainties_ms, strict=True)
        covered = sum(uncertainty is not None and abs(error) <= uncertainty for error, uncertainty in pairs)
        return covered / len(self.errors_ms) if self.errors_ms else 0.0

    def cells(self) -> list[str]:
        size = [abs(error) for error in self.errors_ms]
        return [
            self.background,
            f"{len(size)}/{self.turns}",
            f"{self.unanswered} / {self.refused} / {self.unexplained}",
            f"{median(self.errors_ms):+.1f}",
            f"{self.p95_ms:.1f} / {max(size, default=float('nan')):.1f}",
            f"{100 * self.coverage:.1f} %",
            f"{median(self.stated_ms):.1f}",
            f"{median(self.turn_ends_ms):.0f} / {max(self.turn_ends_ms, default=float('nan')):.0f}",
            str(self.early),
            f"{self.hung}/{self.calls}",
        ]


COLUMNS = (
    "background",
    "latencies of turns",
    "without: unanswered / refused / unexplained",
    "error, median ms",
    "abs. error, p95 / max ms",
    "within the stated uncertainty",
    "uncertainty, median ms",
    "turn end, median / max ms",
    "too early",
    "hung calls",
)


class _Watcher:
    """Notes when the caller took the agent's turns to be over."""

    def __init__(self) -> None:
        self.origin_ns = 0
        self.turn_ends_ns: list[int] = []

    def fact(self, event: TimelineEvent) -> None:
        match event:
            case CallStarted():
                self.origin_ns = event.monotonic_ns
            case AgentTurnEnded():
                self.turn_ends_ns.append(self.origin_ns + event.at_ns)
            case _:
                pass

    def verdicts(self, verdicts: Any) -> None:
        pass

    def audio(self, channel: int, at_ns: int, pcm: bytes) -> None:
        pass


@dataclass(frozen=True)
class _Made:
    """One call, and how the metronome's log knows it."""

    row: Row
    tag_ms: int
    watcher: _Watcher
    run: Run


def answers_of(events: Sequence[dict[str, Any]], tag_ms: int) -> list[Answer]:
    """Return what the session with this ``stop_ms`` said, from the metronome's log."""
    started = (e for e in events if e["event"] == "session_started" and e["stop_ms"] == tag_ms)
    session = next((e["session"] for e in started), None)
    answers: list[Answer] = []
    caller_ended_ns: int | None = None
    started_ns = 0
    for event in (e for e in events if e["session"] == session):
        match event["event"]:
            case "caller_speech_ended":
                caller_ended_ns = event["at_ns"]
            case "answer_started":
                started_ns = event["at_ns"]
            case "answer_ended":
                before_ns = caller_ended_ns if event["kind"] == "answer" else None
                answers.append(Answer(before_ns, started_ns, event["at_ns"], event["interrupted"]))
            case _:
                pass
    return answers


def add(row: Row, run: Run, origin_ns: int, turn_ends_ns: Sequence[int], answers: Sequence[Answer]) -> None:
    """Count a call in its row.

    Args:
        row: Of its background.
        run: What the run states.
        origin_ns: The call's zero on the machine's monotonic clock, as all other times here.
        turn_ends_ns: When the caller took the agent's turns to be over.
        answers: What the agent said.
    """
    spoken = sum(isinstance(turn.action, Speak) for turn in run.script.turns)
    row.calls += 1
    row.turns += spoken
    row.hung += run.ended_reason is EndedReason.MAX_DURATION
    said = [turn for turn in run.turns if turn.said is not None]
    row.unexplained += spoken - len(said)
    for turn in said:
        end_ns = origin_ns + round((turn.caller_speech_end_s or 0) * 1e9)
        known = [(a.caller_ended_ns, a.started_ns) for a in answers if a.caller_ended_ns is not None]
        ended_ns, started_ns = min(known, key=lambda times: abs(times[0] - end_ns), default=(0, 0))
        if abs(ended_ns - end_ns) > MATCH_NS:
            row.unanswered += turn.response_latency_ms is None
            row.unexplained += turn.response_latency_ms is not None
        elif turn.response_latency_ms is None:
            row.refused += turn.refused is not None
            row.unexplained += turn.refused is None
        else:
            row.errors_ms.append(turn.response_latency_ms - (started_ns - ended_ns) / 1e6)
            row.uncertainties_ms.append(turn.uncertainty_ms)
    for answer, following in zip(answers, [*answers[1:], None], strict=True):
        until_ns = following.started_ns if following else sys.maxsize
        decided_ns = next((at for at in turn_ends_ns if answer.started_ns < at < until_ns), None)
        if decided_ns is not None and decided_ns >= answer.ended_ns and not answer.interrupted:
            row.turn_ends_ms.append((decided_ns - answer.ended_ns) / 1e6)
        elif decided_ns is not None:
            row.early_ms.append((decided_ns - answer.ended_ns) / 1e6)


async def run_rows(options: Any) -> list[Row]:
    """Make all calls, some at a time, and return a row for each background."""
    rows = [Row(CLEAN), *(Row(name) for name in options.backgrounds)]
    script = _played(conversation(TURNS_PER_CALL))
    synthesise(script)
    settings = load_settings()
    made: list[_Made] = []
    with TemporaryDirectory(prefix="benchmark-") as folder:
        processes = -(-options.at_once // SESSIONS_PER_PROCESS["metronome"])
        async with agents("metronome", processes, Path(folder)) as urls:
            for row in rows:
                print(f"{row.background} …", file=sys.stderr, flush=True)
                turns = options.turns if row.background == CLEAN else options.background_turns
                for index, url in enumerate(urls):
                    run_folder = Path(folder) / f"warm-up-{len(made)}-{index}"
                    await _warm_up(url, _behind(row, options.dbfs), settings, run_folder)
                tags_ms = [FIRST_TAG_MS + len(made) + i for i in range(-(-turns // TURNS_PER_CALL))]
                made += await _make(row, tags_ms, script, urls, settings, Path(folder), options)
        events = _logged(Path(folder))
    for call in made:
        watcher = call.watcher
        if call.run.success is not True:
            print(f"{call.row.background}: {call.run.ended_reason}: {call.run.detail}", file=sys.stderr)
        add(call.row, call.run, watcher.origin_ns, watcher.turn_ends_ns, answers_of(events, call.tag_ms))
    return rows


def _logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for log in folder.glob("*.jsonl") for line in log.read_text().splitlines()]


def _played(script: Script) -> Script:
    """Return the conversation as it is played here: to its end whatever happens, but not for ever."""
    greeted = Turn(expect=(Expectation(event="response"),))
    limits = {"max_duration_s": GREETING_S + LONGEST_TURN_S * TURNS_PER_CALL, "stop_on_failure": False}
    return script.model_copy(update={"turns": (greeted, *script.turns), **limits})


def _behind(row: Row, dbfs: float) -> dict[str, Any]:
    return {} if row.background == CLEAN else {"background": row.background, "background_dbfs": dbfs}


async def _warm_up(url: str, behind: dict[str, Any], settings: Settings, folder: Path) -> None:
    """Make a call that does not count: it loads models, and makes the background."""
    script = Script(name="warm-up", turns=(Turn(expect=(Expectation(event="response"),)),), max_duration_s=30)
    request = CallRequest(script, RoomAddress(url, request_data={"metronome": behind}), transcribe=False)
    await Call(request, settings, folder).make()


async def _make(
    row: Row,
    tags_ms: Sequence[int],
    script: Script,
    urls: Sequence[str],
    settings: Settings,
    folder: Path,
    options: Any,
) -> list[_Made]:
    random = np.random.default_rng([SEED, *row.background.encode()])
    limit = anyio.CapacityLimiter(options.at_once)
    made: list[_Made] = []

    async def one(tag_ms: int, url: str, body: dict[str, Any]) -> None:
        async with limit:
            watcher = _Watcher()
            request = CallRequest(script, RoomAddress(url, request_data=body), transcribe=False)
            made.append(
                _Made(
                    row, tag_ms, watcher, await Call(request, settings, folder / str(tag_ms), watcher=watcher).make()
                )
            )

    async with anyio.create_task_group() as calls:
        for index, tag_ms in enumerate(tags_ms):
            # The log knows a session by its stop_ms. Each call begins elsewhere in the background.
            own = {
                "stop_ms": tag_ms,
                "answer_ms": [float(ms) for ms in random.uniform(*ANSWER_MS, TURNS_PER_CALL).round()],
                "background_from_s": float(random.uniform(0, LOOP_S)),
                **_behind(row, options.dbfs),
            }
            calls.start_soon(one, tag_ms, urls[index % len(urls)], {"metronome": own})
    return made


def claims_of(rows: Sequence[Row]) -> list[Claim]:
    """Return what is claimed, and whether it is so."""
    claims: list[Claim] = []
    for row in rows:
        clean = row.background == CLEAN
        limit_ms = MAX_ERROR_CLEAN_MS if clean else MAX_ERROR_MS
        name = "clean" if clean else row.background
        claims += [
            Claim(f"{name}: p95 of the error at most {limit_ms:g} ms ({row.p95_ms:.1f})", row.p95_ms <= limit_ms),
            Claim(
                f"{name}: {100 * MIN_COVERAGE:g} % within the stated uncertainty ({100 * row.coverage:.1f})",
                row.coverage >= MIN_COVERAGE,
            ),
            Claim(f"{name}: no turn without a latency or a reason ({row.unexplained})", not row.unexplained),
            Claim(
                f"{name}: turns end within {MAX_TURN_END_MS:g} ms at the median ({median(row.turn_ends_ms):.0f})",
                median(row.turn_ends_ms) <= MAX_TURN_END_MS,
            ),
            Claim(f"{name}: no call hangs ({row.hung})", not row.hung),
        ]
        if clean:
            stated_ms = median(row.stated_ms)
            text = f"clean: uncertainty at most {MAX_UNCERTAINTY_CLEAN_MS:g} ms at the median ({stated_ms:.1f})"
            claims.append(Claim(text, stated_ms <= MAX_UNCERTAINTY_CLEAN_MS))
    return claims


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = set(names) - set(BackgroundName)
    if unknown:
        raise ValueError(f"no background is called {', '.join(sorted(unknown))}")
    return names


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=100, help="turns on a clean line")
    options.add_argument("--background-turns", type=int, default=50, help="turns over each background")
    options.add_argument("--backgrounds", type=_names, default=list(BackgroundName), metavar="NAME,…")
    options.add_argument("--dbfs", type=float, default=BACKGROUND_DBFS, help="RMS of the backgrounds")
    options.add_argument("--at-once", type=int, default=2, help="calls at a time")
    chosen = options.parse_args()
    rows = run_uvloop(run_rows, chosen)
    return report(
        f"Timing against the truth, clean and with a background at {chosen.dbfs:g} dBFS",
        COLUMNS,
        [row.cells() for row in rows],
        claims_of(rows),
        raw=[dataclasses.asdict(row) for row in rows],
        json_file=chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
