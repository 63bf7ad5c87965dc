"""A scenario: what the caller does and what must be true afterwards."""

from dataclasses import dataclass
from pathlib import Path

from bots.caller.script import Script


@dataclass(frozen=True)
class Scenario:
    """One scenario of a file.

    Attributes:
        name: ``<file name>/<scenario name>``, or the file's name where it is the only one.
        path: The file it was read from.
        script: What the caller does.
    """

    name: str
    path: Path
    script: Script
