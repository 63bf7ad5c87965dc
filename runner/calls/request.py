"""What a call is asked for, who watches it, and what makes it."""

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from bots.caller.script import Script
from bots.masking import redacted, secrets_within
from bots.timeline import TimelineEvent
from runner.calls.run_file import Run
from runner.evaluation.asked import NOTHING, Asked
from runner.evaluation.verdicts import ExpectationVerdict
from runner.rooms.open import RoomAddress
from runner.settings import Settings


class CallWatcher(Protocol):
    """Watches a call. Called on the event loop; must not block and must not raise."""

    def fact(self, event: TimelineEvent) -> None:
        """See a fact as it becomes known."""
        ...

    def verdicts(self, verdicts: Sequence[ExpectationVerdict]) -> None:
        """See the verdicts on the current turn's expectations, as far as they are decided."""
        ...

    def audio(self, channel: int, at_ns: int, pcm: bytes) -> None:
        """Hear a side: 16-bit mono PCM at the recording's rate."""
        ...


class Afterwards(StrEnum):
    """What is done once a call is over, in words that a person reads."""

    MEASURING = "measuring when the agent spoke"
    RECOGNISING = "recognising what the agent said"
    JUDGING = "asking the judge"


Progress = Callable[[Afterwards, float], None]
"""Is told what is being done, and which share of it is done, from 0 to 1. Must not block and must not raise."""


@dataclass(frozen=True)
class DataMessage:
    """The message to publish: any JSON value that the room's kind delivers.

    Attributes:
        shown: What facts and reports show of it; None: the value. What is secret in it by its name is not shown in
            either case.
    """

    value: Any = field(repr=False)
    shown: Any = None

    def redacted(self, names: Sequence[str]) -> Any:
        """Return what is shown of it, where these names are secret too."""
        return redacted(self.value if self.shown is None else self.shown, names)

    def secrets(self, names: Sequence[str]) -> frozenset[str]:
        """Return what is secret in it, where these names are secret too."""
        return secrets_within(self.value, names)


@dataclass(frozen=True)
class CallRequest:
    """What call to make.

    Attributes:
        data_message: Published once when both sides are in the room.
        transcribe: Whether to recognise, from the recording, what the agent said once the call is over.
        allow_unjudged: Whether the run passes although expectations were not judged or not observable.
        notes: What of the scenario is played otherwise than its file says, and why.
        asked: What is asked for besides the script.
        session_end_state: Asks whoever runs the agent how its session ended, where the agent was gone before the end.
    """

    script: Script
    address: RoomAddress
    data_message: DataMessage | None = None
    transcribe: bool = True
    allow_unjudged: bool = False
    notes: tuple[str, ...] = ()
    asked: Asked = NOTHING
    session_end_state: Callable[[], Awaitable[str | None]] | None = None


class LiveCall(Protocol):
    """A call under way (see :class:`runner.calls.call.Call`)."""

    async def make(self) -> Run:
        """Make the call."""
        ...

    def cancel(self, detail: str | None = None) -> None:
        """End it in good order."""
        ...


class CallMaker(Protocol):
    """Prepares a call."""

    def __call__(
        self, request: CallRequest, settings: Settings, folder: Path, run_id: str, watcher: CallWatcher
    ) -> LiveCall:
        """Return a call that is ready to be made."""
        ...


def new_run_id() -> str:
    """Return an id for a run: sorts by time, and is not taken."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
