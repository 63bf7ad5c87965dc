"""What the benchmarks share: agents as processes, fresh caller processes, readings, tables and claims."""

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
import numpy as np
import psutil

from bots.caller.script import Play, Script, Speak
from bots.caller.speech.voice import Voice
from runner.sessions.local_agent import free_port, local_agent, reference_agent_command
from runner.settings import load_settings
from tests.daily_rooms import DailyRooms

LAG_INTERVAL_S = 0.02

_T = TypeVar("_T")


@dataclass(frozen=True)
class Claim:
    """What a benchmark says of the product, and whether it is so."""

    text: str
    holds: bool


def parser(module: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options every benchmark has; ``module`` is the benchmark's own documentation."""
    options = argparse.ArgumentParser(description=(module or "").splitlines()[0])
    options.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures to this file")
    return options


def report(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    claims: Sequence[Claim],
    *,
    raw: Any,
    json_file: Path | None,
) -> int:
    """Print a benchmark's table and claims, write its raw figures, and return its exit code."""
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, load {load}"
    print(f"\n### {title}\n\n{machine}\n")
    print_table(columns, rows)
    print()
    for claim in claims:
        print(f"- {'holds' if claim.holds else '**does not hold**'}: {claim.text}")
    holds = all(claim.holds for claim in claims)
    if json_file is not None:
        said = [{"claim": claim.text, "holds": claim.holds} for claim in claims]
        json_file.write_text(json.dumps({"title": title, "machine": machine, "claims": said, "raw": raw}, indent=2))
    return 0 if holds else 1


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    cells.insert(1, ["-" * width for width in widths])
    for row in cells:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile; not a number where there are no values."""
    return float(np.percentile(values, percent)) if len(values) else math.nan


def median(values: Sequence[float]) -> float:
    """Return the median; not a number where there are no values."""
    return percentile(values, 50)


def in_fresh_process(function: Callable[..., _T], *arguments: Any) -> _T:
    """Run a function in a Python process of its own: no other figure's memory or caches are in it."""
    os.environ.setdefault("LOGURU_LEVEL", "WARNING")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def synthesise(script: Script) -> None:
    """Make a script's lines, so that they are on disk and no caller process loads the speech model for them."""
    in_fresh_process(_synthesise, script)


def _synthesise(script: Script) -> None:
    lines = [turn.action for turn in script.turns if isinstance(turn.action, Speak | Play)]
    anyio.run(Voice(load_settings().speech).synthesise, lines)


def run_uvloop(function: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
    """Run a coroutine function as the command line does: under uvloop, logging warnings."""
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    return anyio.run(function, *arguments, backend_options={"use_uvloop": sys.platform != "win32"})


@asynccontextmanager
async def agents(
    name: str, count: int, logs: Path | None = None, daily: DailyRooms | None = None
) -> AsyncGenerator[list[str]]:
    """Serve a reference agent in so many processes, and yield their base addresses.

    Args:
        name: The agent.
        count: How many processes.
        logs: Folder for the metronome's logs of the truth, one for each process.
        daily: Where sessions get Daily rooms; None for SmallWebRTC.
    """
    async with AsyncExitStack() as stack:
        urls: list[str] = []
        for index in range(count):
            port = free_port()
            env = {} if logs is None else {"METRONOME_LOG": str(logs / f"{index}.jsonl")}
            command = reference_agent_command(name, port)
            if daily is not None:
                env |= daily.environment()
                command = [sys.executable, "-m", f"bots.agents.{name}", "-t", "daily", "--port", str(port)]
            urls.append(await stack.enter_async_context(local_agent(command, port, env)))
        yield urls


@dataclass(frozen=True)
class Reading:
    """This process at a moment."""

    at_ns: int
    cpu_s: float
    rss_mb: float
    threads: int

    @classmethod
    def now(cls) -> "Reading":
        """Read it."""
        process = psutil.Process()
        return cls(time.monotonic_ns(), time.process_time(), process.memory_info().rss / 1e6, process.num_threads())


@dataclass
class Steady:
    """The steady part of several calls: from when the last agent is there until the first call ends.

    Imports, synthesis, set-up and shutdown are outside of it.

    Attributes:
        calls: How many calls.
        began: The process at its beginning.
        ended: The process at its end.
    """

    calls: int
    began: Reading | None = None
    ended: Reading | None = None
    _joined: int = 0

    def joined(self) -> None:
        """Note that one more agent is there."""
        self._joined += 1
        if self._joined == self.calls and self.ended is None:
            self.began = Reading.now()

    def call_ended(self) -> None:
        """Note that a call ends."""
        if self.ended is None:
            self.ended = Reading.now()

    @property
    def duration_s(self) -> float:
        """How long it was; not a number if the calls were never all on at once."""
        if self.began is None or self.ended is None:
            return math.nan
        return (self.ended.at_ns - self.began.at_ns) / 1e9

    @property
    def cores_per_call(self) -> float:
        """What a call took of one core, all threads of the process counted."""
        if self.began is None or self.ended is None:
            return math.nan
        return (self.ended.cpu_s - self.began.cpu_s) / self.duration_s / self.calls

    def lags_ms(self, lag: "LoopLag") -> list[float]:
        """Return the event loop's lags within it."""
        if self.began is None or self.ended is None:
            return []
        return [lag_ms for at_ns, lag_ms in lag.samples if self.began.at_ns <= at_ns < self.ended.at_ns]


@dataclass
class LoopLag:
    """How late the event loop wakes what is due: sampled every :data:`LAG_INTERVAL_S`."""

    samples: list[tuple[int, float]] = field(default_factory=list)

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            due_ns = time.monotonic_ns() + int(LAG_INTERVAL_S * 1e9)
            await asyncio.sleep(LAG_INTERVAL_S)
            now_ns = time.monotonic_ns()
            self.samples.append((now_ns, (now_ns - due_ns) / 1e6))
