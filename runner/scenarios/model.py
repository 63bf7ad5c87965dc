"""A scenario: what the caller does and what must be true afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bots.caller.script import Script
from runner.errors import UsageError


@dataclass(frozen=True)
class Scenario:
    """One scenario of a file.

    Attributes:
        name: ``<file name>/<scenario name>``, or the file's name where it is the only one.
        script: What the caller does; None for a kind that can't be played here.
        notes: What of it is played otherwise than the file says, and why.
    """

    name: str
    path: Path
    line: int
    script: Script | None
    refusal: str | None = None
    notes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def short_name(self) -> str:
        return self.name.rpartition("/")[2]

    def playable(self) -> Script:
        """Return what the caller does.

        Raises UsageError: the scenario can't be played in a room; says why, and where it stands.
        """
        if self.refusal is not None or self.script is None:
            raise UsageError(f"{self.path}:{self.line}: {self.name} can't be played in a room: {self.refusal}")
        return self.script


def scenario_named(name: str, scenarios: Sequence[Scenario], file: Path) -> Scenario:
    """Return the one scenario of a file that has a name, written with or without the file's own.

    Raises UsageError: there is none, or several could be meant.
    """
    # A name may hold slashes of its own: the whole of it comes first, then whatever it ends with.
    found = [s for s in scenarios if s.name == name] or [s for s in scenarios if s.name.endswith(f"/{name}")]
    if not found:
        names = ", ".join(s.short_name for s in scenarios)
        raise UsageError(f"{file}: no scenario called {name!r}; there are: {names}")
    if len(found) > 1:
        raise UsageError(f"{file}: {name!r} can be {' or '.join(s.name for s in found)}; give the whole name")
    return found[0]
