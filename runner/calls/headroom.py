"""How many calls a machine takes at once: by what was measured, with the time passed in."""

import math
import os
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CALLS_PER_CORE = 8
"""More are not made at once for each core, whatever is measured: a call takes about 0.05 of one, and in its peaks,
when it recognises speech, several times that."""

WINDOW_S = 5.0
"""What was measured longer ago does not count."""

SETTLED_AFTER_S = 6.0
"""After one more call was allowed its load is looked at for so long, before another one is."""

RECOVERED_AFTER_S = 30.0
"""After fewer calls were allowed nothing is tried for so long."""

MACHINE_LIMIT = 0.75
"""How much of the machine may be in use with one more call: what others do comes in bursts."""

PROCESS_LIMIT_CORES = 0.7
"""How much of a core this process may use with one more call: all calls share its event loop."""

LEAST_CALL_CORES = 0.05
LAG_LIMIT_MS = 40.0
"""An event loop that was later than this takes no more calls for now."""

LATE_LIMIT_MS = 100.0
"""So much late audio of ours within the window is too much, in all calls together."""

STALLED_LIMIT_MS = 500.0
"""So much standing still is."""


@dataclass(frozen=True)
class MachineUse:
    """How much of a machine was in use in the last second or so.

    Attributes:
        machine: How much of all cores was in use, from 0 to 1.
        process_cores: How many cores this process used.
        lag_ms: How late its event loop was at worst.
    """

    machine: float
    process_cores: float
    lag_ms: float


class CallLimit:
    """Says how many calls may be on at once. Times are in seconds, on a clock that only goes forward.

    A fixed number is only ever lowered, when it was too many. Otherwise it begins with one, and goes up by one as
    long as there is headroom for another call, never above the fixed number given.

    Args:
        rises: Whether to begin with one.
    """

    def __init__(self, most: int, *, rises: bool, cores: float):
        self.allowed = 1 if rises else most
        """How many calls may be on."""
        self._rises = rises
        self._ceiling = most
        self._cores = cores
        self._idle = 0.0
        self._uses: deque[tuple[float, MachineUse]] = deque()
        self._troubles: deque[tuple[float, float, float]] = deque()
        self._tries_from_s = -math.inf
        self._lowered_s = -math.inf
        self._too_many: int | None = None
        self._too_many_alone = False

    @property
    def warning(self) -> str | None:
        """One line where the machine was too small for what was asked of it."""
        if self._too_many_alone:
            return "even one call at a time was too much for this machine"
        if self._too_many is None or self._rises:
            return None
        return f"{self._too_many} calls at once were too many for this machine: went down to {self.allowed}"

    def sample(self, now_s: float, use: MachineUse, live: int) -> bool:
        """Take in what is in use, and how many calls are on; return whether one more is allowed by that."""
        self._uses.append((now_s, use))
        while self._uses[0][0] <= now_s - WINDOW_S:
            self._uses.popleft()
        if live == 0:
            self._idle = use.machine
        if not self._rises or self.allowed >= self._ceiling or live < self.allowed:
            return False
        if self._tries_from_s == -math.inf:
            # The first call has only begun.
            self._tries_from_s = now_s + SETTLED_AFTER_S
        self._forget_troubles(now_s)
        if now_s < self._tries_from_s or not self._has_headroom(live):
            return False
        self.allowed += 1
        self._tries_from_s = now_s + SETTLED_AFTER_S
        return True

    def trouble(self, now_s: float, live: int, *, late_ms: float = 0.0, stalled_ms: float = 0.0) -> bool:
        """Take in what went wrong in a call; return whether fewer are allowed by that.

        Args:
            late_ms: How much of its audio was late.
            stalled_ms: For how long it stood still. All calls share an event loop, so each tells the same.
        """
        self._troubles.append((now_s, late_ms, stalled_ms / max(live, 1)))
        self._forget_troubles(now_s)
        late = sum(ms for _, ms, _ in self._troubles) >= LATE_LIMIT_MS
        stalled = sum(ms for _, _, ms in self._troubles) >= STALLED_LIMIT_MS
        return (late or stalled) and self._lower(now_s, live)

    def _forget_troubles(self, now_s: float) -> None:
        while self._troubles and self._troubles[0][0] <= now_s - WINDOW_S:
            self._troubles.popleft()

    def spoilt(self, now_s: float, began_s: float, live: int) -> bool:
        """Take in that a run came to nothing because of us; return whether fewer calls are allowed by that.

        Args:
            began_s: When the run began: what spoilt it may have been seen to since.
            live: How many calls were on, with it.
        """
        if live == 1 and self.allowed == 1:
            self._too_many_alone = True
        return began_s >= self._lowered_s and self._lower(now_s, live)

    def _lower(self, now_s: float, live: int) -> bool:
        # As long as more are on than are allowed, that is known.
        if live > self.allowed or live <= 1:
            return False
        self._too_many = self._too_many or live
        self.allowed = max(live // 2, 1)
        self._ceiling = max(live - 1, 1) if self._rises else self.allowed
        self._lowered_s = now_s
        self._tries_from_s = now_s + RECOVERED_AFTER_S
        self._troubles.clear()
        return True

    def _has_headroom(self, live: int) -> bool:
        uses = [use for _, use in self._uses]
        machine = sum(use.machine for use in uses) / len(uses)
        process_cores = sum(use.process_cores for use in uses) / len(uses)
        a_call = max((machine - self._idle) * self._cores / live, LEAST_CALL_CORES)
        return (
            machine + a_call / self._cores <= MACHINE_LIMIT
            and process_cores + max(process_cores / live, LEAST_CALL_CORES) <= PROCESS_LIMIT_CORES
            and max(use.lag_ms for use in uses) <= LAG_LIMIT_MS
            and not self._troubles
        )


class UseMeter:
    """Measures how much is in use, since it was last asked."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._process_s = time.process_time()
        self._machine = _machine_jiffies()

    def read(self, lag_ms: float) -> MachineUse:
        """Return how much was in use since the last time.

        Args:
            lag_ms: How late the event loop was at worst.
        """
        now_s, process_s, machine = time.monotonic(), time.process_time(), _machine_jiffies()
        took_s = max(now_s - self._began_s, 1e-6)
        if machine is None or self._machine is None or machine[1] == self._machine[1]:
            # Not Linux: the mean of the last minute is all there is.
            in_use = min(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0)
        else:
            in_use = (machine[0] - self._machine[0]) / (machine[1] - self._machine[1])
        process_cores = (process_s - self._process_s) / took_s
        self._began_s, self._process_s, self._machine = now_s, process_s, machine
        return MachineUse(machine=in_use, process_cores=process_cores, lag_ms=lag_ms)


def available_cores() -> float:
    """Return how many cores this process may use: of those it is bound to, as many as its container is granted."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            return min(bound, int(quota) / int(period))
    return float(bound)


def _machine_jiffies() -> tuple[int, int] | None:
    """Return what all cores did and could have done since the machine was started; None where nobody counts it."""
    try:
        with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123 - a device of the kernel's
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    # What is stolen by other guests of the host is as good as in use.
    in_use = user + nice + system + irq + softirq + steal
    return in_use, in_use + idle + iowait
