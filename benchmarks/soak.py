"""Continuous short calls for an hour: whether memory, threads, open files and disk use stay flat.

    python -m benchmarks.soak --minutes 60 [--sqlite]

An API and two workers, which always have something to do. Runs are deleted by the API some minutes after their end,
so that what grows is what nobody asked for. Looked at every ten seconds. What counts is the second half: until then
everything is loaded, and pools of threads and memory fill up to what the largest bursts of calls need.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from benchmarks.common import Claim, parser, report
from tests.cluster.client import PASSES, Launched
from tests.cluster.cluster import CALLS, Cluster, cluster
from tests.cluster.program import Program
from tests.cluster.store import POSTGRESQL, SQLITE

INTERVAL_S = 10.0
WARM_UP = 1 / 2
"""The part of the time at its beginning that does not count."""

KEPT_S = 180.0
TOGETHER = 8
WAITING = 2 * TOGETHER
SETTINGS = {"SCENARIO_RUNNER_LOG_LEVEL": "WARNING"}

MAX_GROWTH = 0.05
"""So much more after an hour is flat, as a part of the whole."""

SLACK = {"threads": 2.0, "files": 4.0, "MB": 4.0}
"""And so much in any case, by unit: a thread or a connection more or less is no trend."""


@dataclass(frozen=True)
class Sample:
    """The deployment at a moment.

    Attributes:
        at_s: Since the beginning.
        runs: How many have ended by then.
        figures: What was measured, by name; the name ends with the unit.
    """

    at_s: float
    runs: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Course:
    """How a figure went, without the time at the beginning that does not count.

    Attributes:
        name: Its name.
        first: The mean of the first tenth.
        middle: Of the tenth in the middle.
        last: Of the last tenth.
        per_hour: By how much the line through all goes up in an hour.
        unsure: By how much more or less it may be, for what lies about that line (two standard errors).
    """

    name: str
    first: float
    middle: float
    last: float
    per_hour: float
    unsure: float

    @property
    def is_flat(self) -> bool:
        """Whether it does not grow."""
        least = self.per_hour - self.unsure
        return least <= max(SLACK[self.name.rpartition(" ")[2]], MAX_GROWTH * abs(self.first))


class Soak:
    """Keeps a deployment busy, and looks at it.

    Args:
        made: The deployment, with its workers.
    """

    def __init__(self, made: Cluster):
        self._made = made
        self._began_s = time.monotonic()
        self._launched: deque[tuple[float, Launched]] = deque()
        self.ended = 0
        self.wrong: list[str] = []

    def keep_busy(self) -> None:
        """Launch more where little waits, and delete what ended long enough ago."""
        client, store = self._made.client, self._made.store
        open_runs = store.rows(
            "SELECT count(*) AS open FROM runs WHERE status NOT IN ('completed', 'failed', 'cancelled')"
        )[0].open
        if open_runs < WAITING:
            for sessions in (False, True):
                launched = client.launch(PASSES, TOGETHER, success=True, sessions=sessions)
                self._launched.append((time.monotonic(), launched))
        while self._launched and time.monotonic() - self._launched[0][0] > KEPT_S:
            _, launched = self._launched.popleft()
            client.until_ended([launched])
            self._look_at(launched)
            client.delete(launched)

    def finish(self) -> None:
        """Wait for what is under way."""
        for _, launched in self._launched:
            self._made.client.until_ended([launched])
            self._look_at(launched)

    def sample(self) -> Sample:
        """Look at everything."""
        made = self._made
        figures: dict[str, float] = {}
        for program in (made.api, *made.workers):
            for name, figure in _processes(program).items():
                figures[f"{program.name}, {name}"] = figure
        figures["artefacts, disk MB"] = _size_mb([made.folder / "data"])
        figures["workers, disk MB"] = _size_mb(worker.data_dir for worker in made.workers)
        figures["database, disk MB"] = made.store.size_bytes() / 1e6
        return Sample(time.monotonic() - self._began_s, self.ended, figures)

    def _look_at(self, launched: Launched) -> None:
        self.ended += len(launched.runs)
        for run in made_runs(self._made, launched):
            if not run["success"]:
                self.wrong.append(f"run {run['id']}: {run['scenario_runner']}")


def made_runs(made: Cluster, launched: Launched) -> list[dict[str, object]]:
    """Return the runs of a result, as it shows them."""
    return list(made.client.json(f"/results/{launched.id}/")["runs"].values())


def _processes(program: Program) -> dict[str, float]:
    """Return what a program and what it started take."""
    memory_mb = threads = files = 0.0
    for process in program.processes():
        with suppress(psutil.NoSuchProcess), process.oneshot():
            memory_mb += process.memory_info().rss / 1e6
            threads += process.num_threads()
            files += process.num_fds()
    return {"memory MB": memory_mb, "open files": files, "threads": threads}


def _size_mb(folders: Iterable[Path]) -> float:
    """Return what folders take on disk; what goes meanwhile does not count. The database is another matter."""
    total = 0
    for folder in folders:
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):
                total += path.stat().st_size if path.is_file() else 0
    return total / 1e6


def course(name: str, samples: list[Sample]) -> Course:
    """Return how a figure went."""
    values = np.array([sample.figures[name] for sample in samples])
    at_s = np.array([sample.at_s for sample in samples])
    tenth = max(1, len(values) // 10)
    middle = (len(values) - tenth) // 2
    (slope, _), covariance = np.polyfit(at_s, values, 1, cov=True)
    return Course(
        name=name,
        first=float(values[:tenth].mean()),
        middle=float(values[middle : middle + tenth].mean()),
        last=float(values[-tenth:].mean()),
        per_hour=float(slope) * 3_600,
        unsure=float(2 * np.sqrt(covariance[0, 0])) * 3_600,
    )


def soak(kind: str, minutes: float, calls: int) -> tuple[list[Sample], Soak]:
    """Keep a deployment busy for so long; return what it looked like meanwhile."""
    with (
        TemporaryDirectory(prefix="benchmark-") as folder,
        cluster(kind, Path(folder), SETTINGS, audited=False) as made,
    ):
        for name in ("one", "two"):
            made.add_worker(name, calls=calls)
        made.wait()
        soaked = Soak(made)
        samples: list[Sample] = []
        until_s = time.monotonic() + minutes * 60
        next_s = time.monotonic()
        while time.monotonic() < until_s:
            soaked.keep_busy()
            if time.monotonic() >= next_s:
                samples.append(soaked.sample())
                next_s += INTERVAL_S
                if len(samples) % 30 == 1:
                    print(json.dumps(asdict(samples[-1])), file=sys.stderr, flush=True)
            time.sleep(1)
        soaked.finish()
        return samples, soaked


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=60, help="how long")
    options.add_argument("--calls", type=int, default=CALLS, help="how many each worker makes at once")
    options.add_argument("--sqlite", action="store_true", help="with one SQLite file in place of PostgreSQL")
    chosen = options.parse_args()
    samples, soaked = soak(SQLITE if chosen.sqlite else POSTGRESQL, chosen.minutes, chosen.calls)
    for problem in soaked.wrong:
        print(problem, file=sys.stderr)
    counted = [sample for sample in samples if sample.at_s >= chosen.minutes * 60 * WARM_UP]
    courses = [course(name, counted) for name in samples[0].figures]
    rows = [
        [
            each.name,
            *(f"{value:.1f}" for value in (each.first, each.middle, each.last)),
            f"{each.per_hour:+.1f}",
            "yes" if each.is_flat else "**no**",
        ]
        for each in courses
    ]
    passed = soaked.ended - len(soaked.wrong)
    claims = [
        Claim(f"every call passed ({passed} of {soaked.ended})", not soaked.wrong),
        *(
            Claim(f"{what} stays flat", all(each.is_flat for each in courses if what in each.name))
            for what in ("memory", "threads", "open files", "disk")
        ),
    ]
    return report(
        f"{chosen.minutes:g} minutes of short calls, on {'one SQLite file' if chosen.sqlite else 'PostgreSQL'}",
        ("", "at first", "in the middle", "at last", "by the hour", "flat"),
        rows,
        claims,
        raw=[asdict(sample) for sample in samples],
        json_file=chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
