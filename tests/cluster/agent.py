"""The agent of a cluster, and what it saw of the calls to it (see :mod:`tests.cluster.witness`)."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from runner.sessions.local_agent import free_port
from tests.cluster.program import Program, environment
from tests.patience import wait_until

_WITNESS = Path(__file__).with_name("witness.py")


@dataclass
class SeenCall:
    """A call as the agent saw it; all times on :func:`time.monotonic_ns`."""

    run: int
    room: str
    entered_ns: int
    heard: list[tuple[int, int | None]] = field(default_factory=list)
    left_ns: int | None = None

    @property
    def is_on(self) -> bool:
        """Whether the caller is there, and heard."""
        return self.left_ns is None and self.heard[-1][1] is None

    def is_heard_at(self, at_ns: int) -> bool:
        return any(begin <= at_ns and (end is None or at_ns < end) for begin, end in self.heard)


class Agent:
    def __init__(self, folder: Path, mark: str):
        self._port = free_port()
        self._account = folder / "witness.jsonl"
        command = [str(_WITNESS), "-t", "webrtc", "--host", "127.0.0.1", "--port", str(self._port)]
        self.program = Program("agent", command, folder, environment(mark, WITNESS_LOG=str(self._account)))
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self.program.start()

    def wait(self) -> None:
        wait_until(self._answers, lambda: f"the agent answers: {self.program.tail()}")

    def room(self, name: str, takes_s: float = 0.0) -> str:
        """Return the address of a room of its own, and how long entering it takes."""
        return f"{self.url}/slow/{takes_s:g}/rooms/{name}/api/offer"

    def start_url(self, takes_s: float = 0.0) -> str:
        """Return where sessions are started, and how long that takes."""
        return f"{self.url}/slow/{takes_s:g}/start"

    def calls(self) -> list[SeenCall]:
        calls: dict[int, SeenCall] = {}
        text = self._account.read_text() if self._account.exists() else ""
        # The last line may be half written.
        for line in text[: text.rfind("\n") + 1].splitlines():
            event: dict[str, Any] = json.loads(line)
            number, at_ns = event["call"], event["at_ns"]
            match event["event"]:
                case "entered":
                    calls[number] = SeenCall(event["run"], event["room"], at_ns, [(at_ns, None)])
                case "resumed":
                    calls[number].heard.append((at_ns, None))
                case "silent":
                    _close(calls[number], event["heard_ns"])
                case "left":
                    calls[number].left_ns = at_ns
                    _close(calls[number], at_ns)
        return list(calls.values())

    def calls_of(self, run: int) -> list[SeenCall]:
        return [call for call in self.calls() if call.run == run]

    def runs_on(self) -> set[int]:
        return {call.run for call in self.calls() if call.is_on}

    def met(self) -> list[str]:
        """Return what must not be: callers who came while another one was in the room, or at the same run."""
        found: list[str] = []
        calls = self.calls()
        for call in calls:
            for other in calls:
                if other is not call and other.entered_ns <= call.entered_ns and other.is_heard_at(call.entered_ns):
                    if other.room == call.room:
                        found.append(f"room {call.room}: run {call.run} came while run {other.run} was there")
                    if other.run == call.run:
                        found.append(f"run {call.run} was called in {call.room} while it was on in {other.room}")
        return found

    def _answers(self) -> bool:
        assert self.program.is_running, self.program.tail()
        try:
            httpx.get(self.url, trust_env=False)
        except httpx.TransportError:
            return False
        return True


def now_ns() -> int:
    return time.monotonic_ns()


def _close(call: SeenCall, at_ns: int) -> None:
    begin, end = call.heard[-1]
    if end is None:
        call.heard[-1] = (begin, at_ns)
