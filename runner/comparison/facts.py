"""What a comparison knows of runs and of the sessions they were made in: raw values, never aggregates."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from runner.evaluation.failure import Failure
from runner.evaluation.turns import TurnMeasures
from runner.evaluation.verdicts import Cause
from runner.metrics.latency import latency

MAX_TURNS = 1_000
MAX_CHARACTERS = 1_000

Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]
Latency = Annotated[float, Field(ge=0, le=3_600_000, allow_inf_nan=False)]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunFacts(_Facts):
    """What became of one run.

    Attributes:
        id: The run's id.
        scenario: The scenario's name: runs of the same scenario are compared with each other.
        scenario_hash: Digest of what was played; None where it is not known. What stands before a colon, such as
            ``record:``, says of what it was taken: only digests of one kind can be compared.
        session: The session it was made in: runs of one session share the hour, the machine and the network.
        started_at: ISO 8601, UTC.
        success: True: passed. False: the agent failed. None: inconclusive, left out of the agent's statistics.
        cause: Whose fault it was, where something failed.
        headline: Why it did not pass, in one sentence.
        latencies_ms: The response latency of each turn; None for a turn without one.
    """

    id: Text
    scenario: Text
    scenario_hash: Text | None = None
    session: Text
    started_at: Text
    success: bool | None
    cause: Cause | None = None
    headline: str | None = None
    latencies_ms: Annotated[tuple[Latency | None, ...], Field(max_length=MAX_TURNS)] = ()


class SessionFacts(_Facts):
    """Under which circumstances the runs of a session were made.

    Attributes:
        id: The session's id.
        started_at: ISO 8601, UTC.
        versions: What made and judged the calls, and the agent's version where it is known; empty: nothing is known.
        host: The machine.
        agent: The agent: its address or its command, without secrets.
        transport: The kind of room.
        concurrency: How many runs at once; ``auto``: as many as the machine had headroom for; None: not known.
        settings: The settings that bear on what is measured, such as the services that speak and recognise; empty:
            nothing is known.
    """

    id: Text
    started_at: Text
    versions: dict[str, Text] = {}
    host: Text | None = None
    agent: Text | None = None
    transport: Text | None = None
    concurrency: int | Literal["auto"] | None = None
    settings: dict[str, Text] = {}


class RunSet(_Facts):
    """Runs, and the sessions they were made in.

    Attributes:
        sessions: The sessions.
        runs: The runs; each is of one of the sessions.
    """

    sessions: tuple[SessionFacts, ...]
    runs: tuple[RunFacts, ...]


def latencies_by_turn(turns: Iterable[TurnMeasures]) -> tuple[float | None, ...]:
    """Return the latency of each turn of a call by the turn's place in the script; None where there is none."""
    taken_up = list(turns)
    measured = {sample.turn: sample.value for sample in latency.measure(taken_up)}
    return tuple(measured.get(place) for place in range(max((turn.turn for turn in taken_up), default=-1) + 1))


def headline_of(failure: Failure | None) -> str | None:
    """Return why a run did not pass, bounded in length."""
    return None if failure is None else failure.headline[:500]
