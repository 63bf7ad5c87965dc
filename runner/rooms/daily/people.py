"""Who is in a Daily room, and who of them is the agent."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from loguru import logger

from bots.caller.rtvi import is_from_an_agent

_INTERRUPTED = "interrupted"
_PLAYABLE = "playable"
_AUDIO_STATES = frozenset({"receivable", "loading", _PLAYABLE, _INTERRUPTED})
MESSAGES_KEPT = 200


@dataclass(frozen=True)
class Participant:
    """Someone in the room, as far as it matters here.

    Attributes:
        name: The name they gave themselves.
        local: Whether this is the caller itself.
        joined_at_s: When they joined, in seconds since the epoch, as Daily counts it.
        has_audio: Whether they send from a microphone we can receive, and are visible. False while it is muted.
        playable: Whether their audio arrives here; not yet where it is only announced.
        interrupted: Whether their microphone is on, but Daily sees nothing come from it.
    """

    id: str
    name: str | None
    local: bool
    joined_at_s: float
    has_audio: bool
    playable: bool
    interrupted: bool

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "Participant":
        """Read the library's description of a participant."""
        info: Mapping[str, Any] = raw.get("info") or {}
        media: Mapping[str, Any] = raw.get("media") or {}
        microphone: Mapping[str, Any] = media.get("microphone") or {}
        permissions: Mapping[str, Any] = info.get("permissions") or {}
        state = microphone.get("state")
        return cls(
            id=str(raw["id"]),
            name=info.get("userName") or None,
            local=bool(info.get("isLocal")),
            joined_at_s=_epoch_s(info.get("joinedAt")),
            has_audio=state in _AUDIO_STATES and permissions.get("hasPresence") is not False,
            playable=state == _PLAYABLE,
            interrupted=state == _INTERRUPTED,
        )


def _epoch_s(joined_at: Any) -> float:
    """Read a time: Daily's pages give it as a number of seconds in one place, as a text in another."""
    for read in (float, lambda text: datetime.fromisoformat(text).timestamp()):
        with suppress(TypeError, ValueError):
            return read(joined_at)
    return 0.0


class KeptMessage(NamedTuple):
    """A message of somebody who may yet turn out to be the agent."""

    at_ns: int
    message: Any
    sender: str


class People:
    """Everybody in a room.

    Without a name the agent is the other participant with audio that speaks RTVI as an agent does, or else the one
    who was first. Until caller and agent have spoken another takes its place who speaks RTVI, and, while it has not
    been heard, who speaks by Daily's word.

    Args:
        participant_name: The agent's user name; None where it is to be told by what it does.

    Attributes:
        agent_id: Who is taken for the agent.
    """

    def __init__(self, room: str, participant_name: str | None):
        self._room = room
        self._participant_name = participant_name
        self._by_id: dict[str, Participant] = {}
        self._gone: set[str] = set()
        self._kept: list[KeptMessage] = []
        self._left_out_messages = False
        self._agent_speaks_rtvi = False
        self._agent_was_heard = False
        self._caller_has_spoken = False
        self.agent_id: str | None = None

    @property
    def agent(self) -> Participant | None:
        """The agent as it is now; None where there is none, or it is gone."""
        return None if self.agent_id is None else self._by_id.get(self.agent_id)

    @property
    def is_settled(self) -> bool:
        """Whether nobody else can be the agent any more."""
        return self._agent_speaks_rtvi or (self._agent_was_heard and self._caller_has_spoken)

    @property
    def agent_has_shown_itself(self) -> bool:
        """Whether the agent has spoken, in sound or over RTVI."""
        return self._agent_speaks_rtvi or self._agent_was_heard

    def others(self) -> list[str]:
        """Return who else is in the room, by name; by id where they gave none."""
        return [p.name or p.id for p in self._by_id.values() if not p.local]

    def best(self) -> Participant | None:
        """Return who is most likely the agent: who has spoken RTVI as one, or else who was first."""
        agents = {kept.sender for kept in self._kept if is_from_an_agent(kept.message)}
        return min(self._candidates(), key=lambda one: (one.id not in agents, one.joined_at_s), default=None)

    def take(self, agent: Participant) -> list[KeptMessage]:
        """Take somebody for the agent from now on; return what was kept of its messages."""
        self.agent_id = agent.id
        self._agent_was_heard = False
        its_own = [kept for kept in self._kept if kept.sender == agent.id]
        self._kept = [kept for kept in self._kept if kept.sender != agent.id]
        self._agent_speaks_rtvi = any(is_from_an_agent(kept.message) for kept in its_own)
        return its_own

    # What happens.

    def there_already(self, raw: Mapping[str, Any]) -> None:
        """Note somebody of whom the join tells: what events have told since is newer."""
        participant = Participant.parse(raw)
        if participant.id not in self._gone:
            self._by_id.setdefault(participant.id, participant)

    def seen(self, raw: Mapping[str, Any]) -> None:
        participant = Participant.parse(raw)
        self._by_id[participant.id] = participant

    def left(self, participant_id: str) -> Participant | None:
        """Note that somebody left; return how they were last."""
        self._gone.add(participant_id)
        self._kept = [kept for kept in self._kept if kept.sender != participant_id]
        return self._by_id.pop(participant_id, None)

    def agent_sent(self, message: Any) -> None:
        self._agent_speaks_rtvi = self._agent_speaks_rtvi or is_from_an_agent(message)

    def agent_heard(self) -> None:
        self._agent_was_heard = True
        self._forget_if_settled()

    def caller_spoke(self) -> None:
        self._caller_has_spoken = True
        self._forget_if_settled()

    def keep(self, message: KeptMessage) -> None:
        """Keep a message of somebody who may yet be the agent."""
        if self.is_settled:
            return
        if len(self._kept) < MESSAGES_KEPT:
            self._kept.append(message)
        elif not self._left_out_messages:
            self._left_out_messages = True
            logger.warning(
                f"more than {MESSAGES_KEPT} messages came before it was clear who the agent in {self._room} is: "
                "the rest until then are left out"
            )

    def outdone_by_message(self, sender: str, message: Any) -> Participant | None:
        """Return who sent a message, if that makes it the agent in place of the one that is taken for it."""
        return self._rival(sender) if is_from_an_agent(message) and not self.is_settled else None

    def outdone_by_voice(self, speaker: str) -> Participant | None:
        """Return who is speaking by Daily's word, if that makes it the agent in place of the one taken for it."""
        return None if self.is_settled or self._agent_was_heard else self._rival(speaker)

    def _rival(self, participant_id: str) -> Participant | None:
        if self.agent_id in (None, participant_id):
            return None
        return next((one for one in self._candidates() if one.id == participant_id), None)

    def _candidates(self) -> list[Participant]:
        return [
            participant
            for participant in self._by_id.values()
            if not participant.local
            and participant.has_audio
            and (self._participant_name is None or participant.name == self._participant_name)
        ]

    def _forget_if_settled(self) -> None:
        if self.is_settled:
            self._kept = []
