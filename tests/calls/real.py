"""Real calls to the reference agents, over WebRTC on this machine."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bots.caller.script import Action, Expectation, Script, Speak, Turn, Words
from bots.timeline import (
    TimelineEvent,
)
from runner.calls.call import Call
from runner.calls.request import CallRequest
from runner.calls.run_file import Run
from runner.calls.timeline import read_timeline
from runner.rooms.open import RoomAddress
from runner.sessions.local_agent import free_port, local_agent, reference_agent_command
from runner.settings import Settings

SCENARIO = """
name: hello
turns:
  - user: "Hello, can you hear me?"
    expect: [{event: response, within_ms: 8000}]
  - user: "Then one more line, please."
    expect: [{event: response, within_ms: 8000}]
"""

ANSWERED = (Expectation(within_ms=10_000),)


def say(text: str, **turn: Any) -> Turn:
    return Turn(action=Speak(parts=(Words(text=text),)), **turn)


def script(*turns: Turn | Action, **options: Any) -> Script:
    made = tuple(turn if isinstance(turn, Turn) else Turn(action=turn) for turn in turns)
    return Script(name="test", turns=made, **options)


@asynccontextmanager
async def metronome(folder: Path, **env: str) -> AsyncGenerator[tuple[str, Path]]:
    port = free_port()
    log = folder / "truth.jsonl"
    async with local_agent(
        reference_agent_command("metronome", port), port, env={"METRONOME_LOG": str(log), **env}
    ) as base_url:
        yield base_url, log


async def make(base_url: str, played: Script, folder: Path, **request: Any) -> tuple[Run, list[TimelineEvent]]:
    call = Call(CallRequest(played, RoomAddress(base_url), **request), Settings(), folder)
    run = await call.make()
    return run, read_timeline(folder / "timeline.jsonl")
