"""How a call ended, and what that says of what was still open: whether its time was cut short, and by whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from bots.clock import NS_PER_S
from bots.timeline import AgentLeft, CallEnded, EndedReason, TimelineEvent


class EndedBy(Enum):
    """Who ended a call."""

    LIMIT = auto()
    """Nobody: it reached the longest it may take."""
    US = auto()
    """The caller hung up, or the call broke off for no fault of the agent."""
    AGENT_LEFT = auto()
    """The agent left in good order."""
    AGENT_FAILED = auto()
    """The agent vanished, froze, or never spoke."""


_BY: dict[EndedReason, EndedBy] = {
    EndedReason.MAX_DURATION: EndedBy.LIMIT,
    EndedReason.AGENT_LEFT: EndedBy.AGENT_LEFT,
    EndedReason.AGENT_NEVER_JOINED: EndedBy.AGENT_FAILED,
    EndedReason.AGENT_NEVER_SPOKE: EndedBy.AGENT_FAILED,
    EndedReason.AGENT_VANISHED: EndedBy.AGENT_FAILED,
    EndedReason.AGENT_FROZE: EndedBy.AGENT_FAILED,
}


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
    if any(isinstance(e, AgentLeft) for e in facts):
        return Ending(ended.at_ns, EndedBy.AGENT_LEFT)
    return Ending(ended.at_ns, _BY.get(ended.reason, EndedBy.US))
