"""The mind that plays a script: it knows all turns beforehand."""

from collections.abc import Callable

from bots.caller.mind import Conversation, Goodbye
from bots.caller.script import Script, Turn


class Scripted:
    """Plays the turns of a script, one after the other.

    Args:
        script: The script.
    """

    def __init__(self, script: Script):
        self._turns = script.turns

    def next(self, conversation: Conversation) -> Turn | Goodbye:
        """Return the turn after those that were played."""
        done = len(conversation.turns)
        return self._turns[done] if done < len(self._turns) else Goodbye()

    async def think(self, wake: Callable[[], None]) -> None:
        """Think nothing: everything is known."""
