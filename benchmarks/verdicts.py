"""False verdicts: whether a good agent is ever blamed, on a quiet line, under a background, and on a busy machine.

    python -m benchmarks.verdicts --simulated 1000 --real 100

A third of the calls is made on a quiet line, a third with a background behind the agent, a third on a machine and a
network that are busy: in simulated calls by stalls, late audio and loss, in real ones by a process beside them that
burns a core. Real calls book a table with the restaurant over WebRTC; simulated ones play all that the good agent is
held to, some of them with an agent that speaks no RTVI. Then come eight bookings, four at once, beside a process that
burns a core; and every fault, in simulated calls (over WebRTC: benchmarks.faults).
"""

import itertools
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from benchmarks.common import Claim, agents, parser, report, run_uvloop
from bots.agents.backgrounds import BackgroundName
from runner.calls.call import Call
from runner.calls.request import CallRequest
from runner.calls.run_file import Run
from runner.evaluation.verdicts import Cause
from runner.rooms.open import RoomAddress
from runner.scenarios.evals import load_scenario
from tests.faults import FAULTS, GOOD, SETTINGS, Caught, came_to
from tests.simulated.conditions import BACKGROUND_DBFS, CONDITIONS, Condition, bed, simulation
from tests.simulated.faults import BEHAVIOURS

MAX_INCONCLUSIVE = 0.02
"""Share of calls on a quiet machine, with a background or without, of which nobody can say."""

TOGETHER = 8
TOGETHER_AT_ONCE = 4
MIN_DECIDED = 6
NOISY_DBFS = -42.0

BOOKING = GOOD[0]
PLAIN = tuple(c for c in GOOD if c is not BOOKING)
"""What an agent that speaks no RTVI can be held to as well."""


class Where(StrEnum):
    """What kind of calls."""

    SIMULATED = "simulated"
    REAL = "WebRTC"
    TOGETHER = "WebRTC, four at once"


@dataclass(frozen=True)
class Job:
    """A simulated call to make.

    Attributes:
        caught: The agent, the scenario, and what must become of it.
        condition: What it is made under.
        seed: What all the rest is drawn from.
        folder: Where the run goes.
    """

    caught: Caught
    condition: Condition
    seed: int
    folder: Path

    @property
    def is_plain(self) -> bool:
        """Whether the agent speaks no RTVI."""
        return self.caught in PLAIN and self.seed % 3 == 0

    def play(self) -> Run:
        """Make the call."""
        behaviour = replace(BEHAVIOURS[self.caught.fault], speaks_rtvi=not self.is_plain)
        made = simulation(self.condition, self.seed, behaviour)
        if self.is_plain:
            # Nothing else says what such an agent said: a word that we do not hear counts as one that it did not say.
            made = replace(made, misheard=0)
        if self.caught.fault == "noisy":
            made = replace(made, background=bed(BackgroundName.OFFICE, NOISY_DBFS))
        script = load_scenario(self.caught.spec, SETTINGS).playable()
        # One of a hundred goes through the recogniser of real calls.
        made = replace(made, recognises=self.seed % 100 != 50)
        transcribe = self.caught.transcribe or self.is_plain or self.seed % 5 == 0
        return made.play(script, self.folder, settings=SETTINGS, transcribe=transcribe)


@dataclass(frozen=True)
class Result:
    """What became of a call to an agent."""

    where: Where
    condition: Condition
    fault: str | None
    scenario: str
    seed: int
    success: bool | None
    cause: Cause | None
    as_expected: bool
    detail: str | None

    @classmethod
    def of(cls, run: Run, where: Where, condition: Condition, caught: Caught, seed: int) -> "Result":
        """Take from a run what counts here."""
        return cls(
            where=where,
            condition=condition,
            fault=caught.fault,
            scenario=caught.scenario,
            seed=seed,
            success=run.success,
            cause=run.cause,
            as_expected=came_to(run) == caught.verdict and caught.is_told(run),
            detail=f"{run.ended_reason}: {run.failure.headline if run.failure else run.detail}",
        )

    @property
    def is_blamed(self) -> bool:
        """Whether the agent is said to have failed."""
        return self.success is False or self.cause is Cause.AGENT


def _make(job: Job) -> Result:
    return Result.of(job.play(), Where.SIMULATED, job.condition, job.caught, job.seed)


def _quiet_log() -> None:
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="CRITICAL")


def good_jobs(count: int, first_seed: int, folder: Path) -> list[Job]:
    """Return so many calls to the good agent, each condition in its turn; every other one is a booking."""
    scenarios = [caught for other in PLAIN for caught in (BOOKING, other)]
    return [
        Job(scenarios[seed % len(scenarios)], CONDITIONS[seed % len(CONDITIONS)], seed, folder / f"good-{seed}")
        for seed in range(first_seed, first_seed + count)
    ]


def fault_jobs(count: int, first_seed: int, folder: Path) -> list[Job]:
    """Return so many calls to each faulty agent, on a quiet line."""
    return [
        Job(caught, Condition.QUIET, seed, folder / f"{caught.fault}-{seed}")
        for caught in FAULTS
        for seed in range(first_seed, first_seed + count)
    ]


def simulate(jobs: Sequence[Job], processes: int) -> list[Result]:
    """Make simulated calls, as many at a time as there are processes."""
    os.environ["LOGURU_LEVEL"] = "CRITICAL"
    spawn = multiprocessing.get_context("spawn")
    results: list[Result] = []
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_quiet_log) as pool:
        for result in pool.map(_make, jobs, chunksize=4):
            results.append(result)
            if len(results) % 100 == 0:
                print(f"{len(results)} of {len(jobs)} simulated calls", file=sys.stderr)
    return results


@contextmanager
def burning_core() -> Generator[None]:
    """Keep one core busy with a process beside this one."""
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        burner.kill()
        burner.wait()


async def call_for_real(count: int, at_once: int, where: Where, condition: Condition, folder: Path) -> list[Result]:
    """Book so many tables over WebRTC, some at a time."""
    results: list[Result] = []
    script = load_scenario(BOOKING.spec, SETTINGS).playable()
    limit = anyio.CapacityLimiter(at_once)
    backgrounds = itertools.cycle(BackgroundName)

    async def one(index: int, url: str, body: dict[str, Any]) -> None:
        async with limit:
            request = CallRequest(script, RoomAddress(url, request_data={"restaurant": body}), transcribe=False)
            run = await Call(request, SETTINGS, folder / f"{where.name}-{condition}-{index}").make()
        results.append(Result.of(run, where, condition, BOOKING, index))

    async with agents("restaurant", 1) as (url,), anyio.create_task_group() as tasks:
        for index in range(count):
            body: dict[str, Any] = {}
            if condition is Condition.BACKGROUND:
                body = {"background": next(backgrounds).value, "background_dbfs": BACKGROUND_DBFS}
            tasks.start_soon(one, index, url, body)
    return results


def real_calls(count: int, at_once: int, folder: Path) -> list[Result]:
    """Make the real calls, each condition in its turn."""
    results: list[Result] = []
    for index, condition in enumerate(CONDITIONS):
        share = count // 3 + (index < count % 3)
        if not share:
            continue
        arguments = (share, at_once, Where.REAL, condition, folder)
        if condition is Condition.BUSY:
            with burning_core():
                results += run_uvloop(call_for_real, *arguments)
        else:
            results += run_uvloop(call_for_real, *arguments)
        print(f"{len(results)} of {count} real calls", file=sys.stderr)
    return results


def calls_together(folder: Path) -> list[Result]:
    """Book some tables at once beside a busy process."""
    with burning_core():
        return run_uvloop(call_for_real, TOGETHER, TOGETHER_AT_ONCE, Where.TOGETHER, Condition.BUSY, folder)


def rows_of(results: Iterable[Result]) -> list[list[Any]]:
    """Return a row for each kind of call to the good agent."""
    groups: dict[tuple[Where, Condition], list[Result]] = {}
    for result in results:
        groups.setdefault((result.where, result.condition), []).append(result)
    rows: list[list[Any]] = []
    for (where, condition), made in groups.items():
        causes = Counter(result.cause.value if result.cause else "-" for result in made if result.success is None)
        rows.append(
            [
                where.value,
                condition.value,
                len(made),
                sum(result.success is True for result in made),
                sum(result.is_blamed for result in made),
                sum(result.success is None for result in made),
                ", ".join(f"{cause} {count}" for cause, count in causes.most_common()) or "-",
            ]
        )
    return rows


def claims_of(good: Sequence[Result], together: Sequence[Result], faulty: Sequence[Result]) -> list[Claim]:
    """Return what is claimed, as far as calls were made for it."""
    claims: list[Claim] = []
    if good:
        blamed = sum(result.is_blamed for result in good)
        claims.append(Claim(f"the good agent is never blamed ({blamed} of {len(good)} calls)", blamed == 0))
    for where in (Where.SIMULATED, Where.REAL):
        quiet = [r for r in good if r.where is where and r.condition is not Condition.BUSY]
        if quiet:
            share = sum(result.success is None for result in quiet) / len(quiet)
            text = f"{where.value}: at most {MAX_INCONCLUSIVE:.0%} inconclusive on a quiet machine ({share:.1%})"
            claims.append(Claim(text, share <= MAX_INCONCLUSIVE))
    if together:
        blamed = sum(result.is_blamed for result in together)
        decided = sum(result.success is not None for result in together)
        text = (
            f"{TOGETHER} bookings, {TOGETHER_AT_ONCE} at once, beside a busy process: none blamed ({blamed}), "
            f"at least {MIN_DECIDED} decided ({decided})"
        )
        claims.append(Claim(text, blamed == 0 and decided >= MIN_DECIDED))
    if faulty:
        right = sum(result.as_expected for result in faulty)
        claims.append(
            Claim(f"every faulty agent is caught every time ({right} of {len(faulty)})", right == len(faulty))
        )
    return claims


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--simulated", type=int, default=1_000, help="simulated calls to the good agent")
    options.add_argument("--real", type=int, default=100, help="calls to the restaurant over WebRTC")
    options.add_argument("--at-once", type=int, default=2, help="real calls at a time")
    options.add_argument("--together", type=int, default=1, help="0: leave out the bookings beside a busy process")
    options.add_argument("--faults", type=int, default=10, help="simulated calls to each faulty agent")
    options.add_argument("--first-seed", type=int, default=0, help="other seeds are other simulated calls")
    options.add_argument("--processes", type=int, default=os.cpu_count(), help="for simulated calls")
    options.add_argument("--keep", type=Path, metavar="FOLDER", help="keep all runs in this folder")
    chosen = options.parse_args()
    with TemporaryDirectory(prefix="benchmark-") as temporary:
        folder = chosen.keep or Path(temporary)
        jobs = good_jobs(chosen.simulated, chosen.first_seed, folder)
        jobs += fault_jobs(chosen.faults, chosen.first_seed, folder)
        simulated = simulate(jobs, chosen.processes) if jobs else []
        real = real_calls(chosen.real, chosen.at_once, folder)
        together = calls_together(folder) if chosen.together else []
    good = [*(result for result in simulated if result.fault is None), *real]
    faulty = [result for result in simulated if result.fault is not None]
    for result in [*good, *together]:
        if not result.success:
            told = f"{result.where.value}, {result.condition}, {result.scenario}, seed {result.seed}"
            print(f"{told}: cause {result.cause}: {result.detail}", file=sys.stderr)
    for result in faulty:
        if not result.as_expected:
            print(f"{result.fault}, seed {result.seed}: cause {result.cause}: {result.detail}", file=sys.stderr)
    return report(
        "Verdicts on the good agent",
        ("room", "line and machine", "calls", "passed", "blamed", "inconclusive", "inconclusive for"),
        rows_of([*good, *together]),
        claims_of(good, together, faulty),
        raw=[asdict(result) for result in [*good, *together, *faulty]],
        json_file=chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
