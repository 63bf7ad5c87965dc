"""What becomes of a call to the restaurant with each of its faults: the scenario that catches it, and the verdict."""

import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import httpx

from bots.timeline import EndedReason
from runner.calls.call import Call
from runner.calls.request import CallRequest
from runner.calls.run_file import Run
from runner.evaluation.failure import FailureKind
from runner.evaluation.verdicts import Cause
from runner.rooms.open import RoomAddress
from runner.rooms.urls import RoomKind
from runner.scenarios.evals import load_scenario
from runner.sessions.local_agent import free_port, local_agent, reference_agent_command
from runner.sessions.pipecat_runner import StartedDailySession, start_session
from runner.settings import RoomSettings, Settings
from tests.daily_rooms import DailyRooms

SCENARIOS = Path("config/scenarios")


@dataclass(frozen=True)
class Caught:
    """How a fault is caught.

    Attributes:
        fault: Its name; None for the good agent.
        scenario: ``FILE:NAME`` below ``config/scenarios``.
        ended_reason: How the call ends.
        kind: What went wrong; None where nothing did.
        headline: Words that its headline holds.
        transcribe: Whether to recognise what the agent said: where its own word is not to be taken for it.
    """

    fault: str | None
    scenario: str
    ended_reason: EndedReason
    kind: FailureKind | None = None
    headline: str = ""
    transcribe: bool = False

    @property
    def spec(self) -> str:
        """The scenario as the command line takes it."""
        return str(SCENARIOS / self.scenario)

    @property
    def cause(self) -> Cause | None:
        """Whose fault it is."""
        return None if self.kind is None else Cause.AGENT

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return 0 if self.kind is None else 1

    @property
    def verdict(self) -> "Verdict":
        """What the run must come to."""
        return self.ended_reason, self.cause, self.kind, self.exit_code

    def is_told(self, run: Run) -> bool:
        """Whether the run's headline says what happened."""
        return self.headline in (run.failure.headline if run.failure else "")


Verdict = tuple[EndedReason, Cause | None, FailureKind | None, int]

BOOKING = "booking.yaml:table_for_four"

FAULTS = (
    Caught(
        "slow",
        "restaurant.yaml:answers_in_time",
        EndedReason.CALLER_HUNG_UP,
        FailureKind.LATE,
        "s after the caller (limit 4 s)",
    ),
    Caught(
        "talks_over",
        "restaurant.yaml:lets_the_caller_finish",
        EndedReason.CALLER_HUNG_UP,
        FailureKind.TALKS_OVER,
        "talked over the caller",
    ),
    Caught(
        "never_stops",
        "restaurant.yaml:stops_when_interrupted",
        EndedReason.CALLER_HUNG_UP,
        FailureKind.WILL_NOT_STOP,
        "did not stop in time",
    ),
    Caught("deaf", "restaurant.yaml:hears_the_caller", EndedReason.AGENT_FROZE, FailureKind.SILENT, "turn 2"),
    Caught("mute", "restaurant.yaml:greets", EndedReason.AGENT_NEVER_SPOKE, FailureKind.SILENT),
    Caught("wrong_answer", BOOKING, EndedReason.CALLER_HUNG_UP, FailureKind.WRONG, "check_availability(people=4)"),
    Caught("hangs_up", BOOKING, EndedReason.AGENT_LEFT, FailureKind.LEFT, "turn 3: the agent left"),
    Caught("leaves", BOOKING, EndedReason.AGENT_LEFT, FailureKind.LEFT, "the agent left"),
    Caught("crashes", BOOKING, EndedReason.AGENT_VANISHED, FailureKind.CRASHED, "turn 3"),
    Caught("noisy", BOOKING, EndedReason.CALLER_HUNG_UP),
    Caught("errors", BOOKING, EndedReason.CALLER_HUNG_UP, FailureKind.ERRORED, "turn 3: the agent reported an error"),
    Caught(
        "drops_sentence",
        BOOKING,
        EndedReason.CALLER_HUNG_UP,
        FailureKind.SILENT,
        "turn 3: the agent reported 'What name is it for?', but no audio of it arrived",
        transcribe=True,
    ),
    # It is heard all the same, as a caller's side is ready when it is connected: its words count once.
    Caught("greets_early", BOOKING, EndedReason.CALLER_HUNG_UP),
    Caught(
        "stops_for_mm_hmm",
        "restaurant.yaml:speaks_on_when_listened_to",
        EndedReason.CALLER_HUNG_UP,
        FailureKind.WRONG,
        "does not contain 'catch of the day'",
    ),
    Caught("never_joins", "restaurant.yaml:greets", EndedReason.AGENT_NEVER_JOINED, FailureKind.SILENT),
)

GOOD = (
    Caught(None, BOOKING, EndedReason.CALLER_HUNG_UP),
    *(
        Caught(None, f"restaurant.yaml:{name}", EndedReason.CALLER_HUNG_UP)
        for name in (
            "answers_in_time",
            "lets_the_caller_finish",
            "stops_when_interrupted",
            "speaks_on_when_listened_to",
            "hears_the_caller",
            "greets",
        )
    ),
    Caught(None, "restaurant.yaml:hangs_up_after_goodbye", EndedReason.AGENT_LEFT),
)

SETTINGS = Settings(room=RoomSettings(agent_join_timeout_s=8.0))
AT_ONCE = 2
"""Calls at a time: what two cores do beside other work without making the good agent late."""


IN_DAILY = tuple(
    # Daily drops a participant whose process was killed as it drops one that left.
    replace(c, ended_reason=EndedReason.AGENT_LEFT, kind=FailureKind.LEFT, headline="it hung up or crashed")
    if c.fault == "crashes"
    else c
    for c in FAULTS
)
"""The same in a Daily room."""


async def make_all(
    table: Sequence[Caught], folder: Path, *, at_once: int = AT_ONCE, daily: DailyRooms | None = None
) -> list[tuple[Caught, Run]]:
    """Make the calls of a table, some at a time; one that kills its agent gets a process of its own.

    Args:
        table: What calls, and what becomes of them.
        folder: Gets the runs' folders.
        at_once: How many at a time.
        daily: Where sessions get Daily rooms, to which this process's library is sent; None for SmallWebRTC.
    """
    runs: list[tuple[Caught, Run]] = []
    limit = anyio.CapacityLimiter(at_once)

    async def address(base_url: str, caught: Caught) -> RoomAddress:
        body = {"restaurant": {"fault": caught.fault}}
        if daily is None:
            return RoomAddress(base_url, request_data=body)
        async with httpx.AsyncClient() as http:
            session = await start_session(http, f"{base_url}/start", None, kind=RoomKind.DAILY, body=body)
        assert isinstance(session, StartedDailySession)
        return RoomAddress(session.room_url, session.token)

    async def one(index: int, caught: Caught, base_url: str) -> None:
        script = load_scenario(caught.spec, SETTINGS).playable()
        async with limit:
            request = CallRequest(script, await address(base_url, caught), transcribe=caught.transcribe)
            runs.append((caught, await Call(request, SETTINGS, folder / str(index)).make()))

    async def alone(index: int, caught: Caught) -> None:
        async with _restaurant(daily) as base_url:
            await one(index, caught, base_url)

    async with _restaurant(daily) as shared_url, anyio.create_task_group() as tasks:
        for index, caught in enumerate(table):
            if caught.fault == "crashes":
                tasks.start_soon(alone, index, caught)
            else:
                tasks.start_soon(one, index, caught, shared_url)
    return runs


def _restaurant(daily: DailyRooms | None) -> AbstractAsyncContextManager[str]:
    port = free_port()
    if daily is None:
        return local_agent(reference_agent_command("restaurant", port), port)
    command = [sys.executable, "-m", "bots.agents.restaurant", "-t", "daily", "--port", str(port)]
    return local_agent(command, port, daily.environment())


def came_to(run: Run) -> Verdict:
    """Return what a run came to, as the table says it."""
    return run.ended_reason, run.cause, run.failure.kind if run.failure else None, run.exit_code
