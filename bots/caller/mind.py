"""The mind of the caller: what it does next. When it does so is the body's (:mod:`bots.caller.body`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from bots.caller.script import Script, Turn
from bots.timeline import AgentSaid


@dataclass
class Conversation:
    """A conversation so far, as a mind is asked with it.

    Attributes:
        failed: Of the turns whose expectations were decided, whether one of them was missed.
        said: What the agent said, heard and told, as it became known.
        reply_owed: Whether the agent has not answered yet to what the caller did last.
    """

    turns: list[Turn] = field(default_factory=list[Turn])
    failed: dict[int, bool] = field(default_factory=dict[int, bool])
    said: list[AgentSaid] = field(default_factory=list[AgentSaid])
    reply_owed: bool = False
    agent_turn_over: bool = True


class Goodbye:
    """There is nothing more to do: the call ends as its script says."""


class Mind(Protocol):
    """Decides what the caller does next."""

    def next(self, conversation: Conversation) -> Turn | Goodbye | None:
        """Return what the caller does next; None if that is not known yet.

        Asked when the turn before is done, and then again whenever something happens, or it woke the caller, until it
        answers. It must not wait. The conversation goes on; a mind may keep it, and must not change it.
        """
        ...

    async def think(self, wake: Callable[[], None]) -> None:
        """Think, for as long as the call lasts; cancelled at its end. ``wake`` has :meth:`next` asked again."""
        ...


class Scripted:
    """Plays the turns of a script, one after the other: it knows them all beforehand."""

    def __init__(self, script: Script):
        self._turns = script.turns

    def next(self, conversation: Conversation) -> Turn | Goodbye:
        done = len(conversation.turns)
        return self._turns[done] if done < len(self._turns) else Goodbye()

    async def think(self, wake: Callable[[], None]) -> None:
        pass
