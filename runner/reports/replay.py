"""Replays a finished call from its timeline."""

from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from bots.caller.event_names import names_of
from bots.clock import NS_PER_S
from bots.timeline import CallEnded, CallStarted
from runner.calls import timeline as timelines
from runner.calls.run_file import FILE_NAME, Run, judge_run, read_run
from runner.calls.timeline import read_timeline
from runner.errors import UsageError
from runner.evaluation.expectations import evaluate_turn
from runner.evaluation.verdicts import by_question
from runner.evaluation.view import CallView

if TYPE_CHECKING:
    from runner.calls.request import CallWatcher


async def replay(folder: Path, watcher: "CallWatcher", *, speed: float) -> Run:
    """Play a call's facts to a watcher, and return its run.

    Args:
        speed: 1 for the pace of the call, 2 for twice that; 0 for at once.

    Raises:
        UsageError: There is no call in the folder, or its files are not of one call.
    """
    run = read_run(folder)
    facts = sorted(read_timeline(folder / timelines.FILE_NAME), key=lambda event: event.at_ns)
    if not any(isinstance(event, CallStarted) and event.run_id == run.id for event in facts):
        raise UsageError(f"{folder}: {timelines.FILE_NAME} is not of the call that {FILE_NAME} is of")
    if not any(isinstance(event, CallEnded) for event in facts):
        # Its runner was killed: what run.json says is from before.
        run = judge_run(run.script, facts, run.circumstances)
    judgements = None if run.judgements is None else by_question(run.judgements)
    seen = CallView()
    began_s = anyio.current_time()
    for event in facts:
        if speed > 0:
            await anyio.sleep_until(began_s + event.at_ns / NS_PER_S / speed)
        seen.add(event)
        watcher.fact(event)
        if names_of(event):
            turn = max(seen.starts, default=None)
            if turn is not None:
                scripted = run.script.turns[turn]
                watcher.verdicts(evaluate_turn(turn, scripted, seen, judgements=judgements, now_ns=event.at_ns))
    watcher.verdicts(run.expectations)
    return run
