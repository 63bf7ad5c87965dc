"""How a call ended, and what that says: of the agent, of what was still open, and in Cekura's words."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from bots.clock import NS_PER_S
from bots.timeline import AgentLeft, CallEnded, EndedReason, TimelineEvent
from runner.evaluation.failure import FailureKind


class EndedBy(Enum):
    """Who ended a call."""

    LIMIT = auto()
    """Nobody: it reached the longest it may take."""
    US = auto()
    """The caller hung up, or the call broke off for no fault of the agent."""
    AGENT_LEFT = auto()
    """The agent left in good order."""
    AGENT_FAILED = auto()
    """The agent vanished, froze, or never spoke: a failure whatever was expected of it."""


_R, _K = EndedReason, FailureKind
_US, _FAILED = EndedBy.US, EndedBy.AGENT_FAILED
_ENDINGS: dict[EndedReason, tuple[EndedBy, FailureKind | None, str]] = {
    _R.ROOM_UNREACHABLE: (_US, _K.NO_ROOM, "Testing agent-did-not-connect"),
    _R.AGENT_AT_CAPACITY: (_US, _K.NO_ROOM, "pipecat-agent-concurrency-limit-reached"),
    _R.TOKEN_REFUSED: (_US, _K.NO_ROOM, "Testing agent-did-not-connect"),
    _R.ICE_FAILED: (_US, _K.NETWORK_TROUBLE, "Testing agent-did-not-connect"),
    _R.AGENT_NEVER_JOINED: (_FAILED, _K.SILENT, "Main agent-call-not-connected"),
    _R.AGENT_NEVER_SPOKE: (_FAILED, _K.SILENT, "Main agent-silence-timed-out"),
    _R.AGENT_LEFT: (EndedBy.AGENT_LEFT, _K.LEFT, "Main agent-ended-call"),
    _R.AGENT_VANISHED: (_FAILED, _K.CRASHED, "participant_disconnected"),
    _R.AGENT_FROZE: (_FAILED, _K.SILENT, "Main agent-silence-timed-out"),
    _R.CALLER_HUNG_UP: (_US, None, "Testing agent-ended-call"),
    _R.MAX_DURATION: (EndedBy.LIMIT, None, "exceeded-max-duration"),
    _R.CANCELLED: (_US, None, "run-cancelled-by-user"),
    _R.RUNNER_ERROR: (_US, _K.HARNESS_TROUBLE, "Testing agent-pipeline-error"),
}
"""Of every ending: who ended the call, what kind of failure that is, and Cekura's word for ``ended_reason``."""

CEKURA_ENDED_REASON = {reason: word for reason, (_, _, word) in _ENDINGS.items()}
KIND_OF_ENDING = {reason: kind for reason, (_, kind, _) in _ENDINGS.items() if kind is not None}
AGENT_FAILED = frozenset(reason for reason, (by, _, _) in _ENDINGS.items() if by is _FAILED)
NO_CALL = frozenset(reason for reason in KIND_OF_ENDING if _ENDINGS[reason][0] is _US)
"""Endings that say nothing about the agent."""


@dataclass(frozen=True)
class Ending:
    """The end of a call."""

    at_ns: int
    by: EndedBy

    def cuts_short(self, deadline_ns: int) -> bool:
        """Whether it took from the agent the time it still had."""
        return self.by in (EndedBy.LIMIT, EndedBy.US) and self.at_ns < deadline_ns

    @property
    def before(self) -> str:
        """Why what was still open then is not judged."""
        return "the call reached its limit before" if self.by is EndedBy.LIMIT else "the call ended before"

    def until(self, from_ns: int) -> str:
        """Return until when something was looked for, and for how long."""
        took_s = (self.at_ns - from_ns) / NS_PER_S
        what = "the agent left" if self.by is EndedBy.AGENT_LEFT else "the call ended"
        return f"until {what}, after {took_s:.1f} s"


def ending_of(facts: Sequence[TimelineEvent]) -> Ending | None:
    """Return how a call ended; None where its facts do not say so."""
    ended = next((e for e in reversed(facts) if isinstance(e, CallEnded)), None)
    if ended is None:
        return None
    left = any(isinstance(e, AgentLeft) for e in facts)
    return Ending(ended.at_ns, EndedBy.AGENT_LEFT if left else _ENDINGS[ended.reason][0])
