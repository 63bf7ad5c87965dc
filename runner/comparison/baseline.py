"""The baseline: a file to keep in Git, with the raw values of every run in it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from runner.comparison.facts import RunFacts, RunSet, SessionFacts
from runner.errors import UsageError
from runner.files import write_atomically

FORMAT_VERSION = 1
KIND = "scenario-runner baseline"
MAX_SESSIONS = 20
"""The newest so many sessions are kept."""
MAX_BYTES = 50_000_000


class _BaselineFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["scenario-runner baseline"]
    format: Literal[1]
    sessions: tuple[SessionFacts, ...]
    runs: tuple[RunFacts, ...]

    @model_validator(mode="after")
    def _belongs_together(self) -> "_BaselineFile":
        sessions = [session.id for session in self.sessions]
        for name, ids in (("sessions", sessions), ("runs", [run.id for run in self.runs])):
            if len(set(ids)) < len(ids):
                raise ValueError(f"{name}: an id occurs twice")
        if stray := next((run for run in self.runs if run.session not in sessions), None):
            raise ValueError(f"runs: {stray.id} is of a session that is not there ({stray.session})")
        return self


def read_baseline(path: Path) -> RunSet:
    """Return the runs of a baseline file.

    Raises:
        UsageError: It can't be read, or is no baseline; names what is wrong where.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror}); --save-baseline writes a baseline") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}: not a baseline: larger than {MAX_BYTES} bytes")
    try:
        read = _BaselineFile.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"{path}: not a baseline ({place + ': ' if place else ''}{problem['msg']})") from error
    return RunSet(sessions=read.sessions, runs=read.runs)


def write_baseline(path: Path, runs: RunSet) -> None:
    """Write a baseline file, atomically: a line for each session and each run, always in the same order.

    Raises:
        OSError: It can't be written.
    """
    write_atomically(path, baseline_text(runs))


def baseline_text(runs: RunSet) -> str:
    """Return what a baseline file holds: the same runs give the same text."""
    sessions = sorted(runs.sessions, key=lambda session: (session.started_at, session.id))
    order = {session.id: place for place, session in enumerate(sessions)}
    in_order = sorted(runs.runs, key=lambda run: (order[run.session], run.scenario, run.started_at, run.id))
    return (
        f'{{\n"kind": {json.dumps(KIND)},\n"format": {FORMAT_VERSION},\n'
        f'"sessions": [\n{_lines(sessions)}\n],\n"runs": [\n{_lines(in_order)}\n]\n}}\n'
    )


def _lines(models: Iterable[BaseModel]) -> str:
    return ",\n".join(
        json.dumps(model.model_dump(mode="json", exclude_defaults=True), sort_keys=True) for model in models
    )


def with_session(base: RunSet, added: RunSet) -> tuple[RunSet, int]:
    """Return a baseline with further sessions in it, and how many old ones had to go: the newest are kept.

    A session that is there already takes the place of the one that was.
    """
    replaced = {session.id for session in added.sessions}
    sessions = [*(session for session in base.sessions if session.id not in replaced), *added.sessions]
    sessions.sort(key=lambda session: (session.started_at, session.id))
    kept = sessions[-MAX_SESSIONS:]
    ids = {session.id for session in kept}
    runs = [*(run for run in base.runs if run.session not in replaced), *added.runs]
    together = RunSet(sessions=tuple(kept), runs=tuple(run for run in runs if run.session in ids))
    return together, len(sessions) - len(kept)
