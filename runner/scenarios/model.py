"""A scenario: what the caller does and what must be true afterwards."""

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
        refusal: Why it can't be played in a room; None if it can.
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

        Raises:
            UsageError: The scenario can't be played in a room; says why, and where it stands.
        """
        if self.refusal is not None or self.script is None:
            raise UsageError(f"{self.path}:{self.line}: {self.name} can't be played in a room: {self.refusal}")
        return self.script
