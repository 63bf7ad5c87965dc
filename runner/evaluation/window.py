"""The facts that belong to a turn, from where in them an expectation looks, and what its agent lets see at all."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from bots.caller.script import AfterEvent, Script
from bots.timeline import AgentSaid, AgentStartedSpeaking, AgentTurnEnded, EndedReason, Source, TimelineEvent
from runner.evaluation.ending import Ending
from runner.evaluation.speech import answers_from_ns, audible_told, began_ns
from runner.evaluation.verdicts import Judgements
from runner.evaluation.view import CallView

REPLIES = frozenset({"response", "llm_response", "tts_response"})
EDGES = frozenset({"bot_started_speaking", "bot_stopped_speaking"})
_SPOKEN = frozenset({"response", "tts_response"})

_ON_REQUEST = {
    "llm_marker": "the agent does not report its LLM's markers",
    "vad_user_started_speaking": "the agent does not report raw VAD events",
    "vad_user_stopped_speaking": "the agent does not report raw VAD events",
}
"""What an agent that speaks RTVI reports only where its observer was told to."""

_WAITED_FOR_AN_EVENT = frozenset({EndedReason.CALLER_HUNG_UP, EndedReason.MAX_DURATION})
"""How a call ends whose caller waits for an event that never comes."""


def hidden_reason(event: str, view: CallView) -> str | None:
    """Return why an event can't be seen with the agent of a call; None where it can: what is audible always can."""
    if event == "response" or event in EDGES:
        return None
    if not view.rtvi:
        return "the agent does not speak RTVI"
    return None if view.named(event) else _ON_REQUEST.get(event)


def unobservable_start(script: Script, view: CallView) -> tuple[int, str] | None:
    """Return the first turn not taken up, and why, if the agent does not report what it was to start after."""
    first = next((i for i in range(len(script.turns)) if i not in view.starts), None)
    if first is None or first == 0:
        return None
    start = script.turns[first].start
    if not isinstance(start, AfterEvent) or start.event is None:
        return None
    passed_over = any(i > first for i in view.starts)
    if not passed_over and (view.ended is None or view.ended.reason not in _WAITED_FOR_AN_EVENT):
        return None
    why = hidden_reason(start.event, view)
    return None if why is None else (first, f"turn {first + 1} starts after {start.event}, and {why}")


@dataclass(frozen=True)
class Cursor:
    """From where the next expectation looks: a time, and the reply that is already spoken for.

    What the agent says is told once, when it was said, but Pipecat Evals knows it by three names: what its LLM
    answered comes before it is heard, what its TTS said while it is, and the response after. So the edges of speech
    and the later names of its words may lie before the time at which an earlier name was met.

    Attributes:
        at_ns: Where the expectation above was met.
        matched: Whether one was.
        edges_from_ns: From where the beginning and the end of speech are looked for; None: from there as well.
        spoken_from_ns: The same for what is spoken.
        used: The events that expectations above were met by, by the name they were met under and their identity.
        answered: Those that a response without words was met by: its onset, and the first words after that.
    """

    at_ns: int
    matched: bool = False
    edges_from_ns: int | None = None
    spoken_from_ns: int | None = None
    used: frozenset[tuple[str, int]] = field(default_factory=frozenset[tuple[str, int]])
    answered: frozenset[int] = field(default_factory=frozenset[int])

    def from_ns(self, event: str) -> int:
        """Return from where an event is looked for, in order."""
        own_ns = self.edges_from_ns if event in EDGES else self.spoken_from_ns if event in _SPOKEN else None
        return self.at_ns + int(self.matched) if own_ns is None else own_ns


@dataclass(frozen=True)
class Window:
    """The facts of a call, and which of them belong to a turn.

    Attributes:
        acts: Whether the caller speaks or presses keys in the turn.
        anchor_ns: When it was taken up.
        begin_ns: From when on facts belong to it.
        end_ns: When the next turn was taken up; None if none was.
        now_ns: The time while the call is on; None once it is over.
        ending: How the call ended; None while it is on, or where that is not known.
        doubted: The identities of told words that were not heard.
        judgements: What a judge answered so far; None where there is no judge.
    """

    view: CallView
    turn: int
    acts: bool
    anchor_ns: int
    begin_ns: int
    end_ns: int | None
    now_ns: int | None
    ending: Ending | None
    doubted: frozenset[int]
    judgements: Judgements | None

    def named(self, name: str, from_ns: int) -> Iterator[TimelineEvent]:
        """Return the events of a name from a time on. Heard words belong to the time their speech began at."""
        return (event for event in self.view.named(name) if self._belongs(event, from_ns))

    def reaching_into(self, from_ns: int) -> list[AgentSaid]:
        """Return what was heard in speech that began before the turn, and ended in it after a time."""
        return [
            e
            for e in self.view.said()
            if e.started_ns is not None
            and e.started_ns < self.begin_ns < e.at_ns
            and not self._belongs(e, self.begin_ns)
            and e.at_ns >= from_ns
        ]

    def _belongs(self, event: TimelineEvent, from_ns: int) -> bool:
        if isinstance(event, AgentSaid) and event.started_ns is not None:
            # Its onset may itself have met the expectation above: then the words are still to come.
            from_ns -= 1
        at_ns = began_ns(event)
        return at_ns >= from_ns and (self.end_ns is None or at_ns < self.end_ns)

    def holds_words_since(self, from_ns: int) -> bool:
        """Whether any words of the agent are known in this turn, from a time on."""
        return any(self._belongs(e, from_ns) for e in self.view.said())

    def speech_began_ns(self, at_ns: int) -> int:
        """Return when the speech of a time began, or the last one before it; the time itself if there was none."""
        return max((e.at_ns for e in self.view.of(AgentStartedSpeaking) if e.at_ns <= at_ns), default=at_ns)

    def onsets(self, from_ns: int) -> list[AgentStartedSpeaking]:
        """Return the beginnings of speech in this turn, from a time on."""
        return [e for e in self.view.of(AgentStartedSpeaking) if self._belongs(e, from_ns)]

    def turn_over_after(self, at_ns: int) -> AgentTurnEnded | None:
        """Return the end of the agent's turn that comes after a time."""
        return next((e for e in self.view.of(AgentTurnEnded) if e.at_ns >= at_ns), None)

    @cached_property
    def answers_from_ns(self) -> int | None:
        """From where on what the agent says may answer the turn; None where nothing so far may."""
        return answers_from_ns(self.view, self.turn) if self.acts else 0

    @cached_property
    def _audible(self) -> frozenset[int]:
        if not any(s.touches(self.begin_ns + 1, self.end_ns) for s in self.view.speeches):
            # What is told without any speech in the turn are the words of a reply before it, or nobody's.
            return frozenset()
        until_ns = self.now_ns
        if until_ns is None:
            until_ns = self.view.last_ns if self.ending is None else self.ending.at_ns
        told = audible_told(self.view, from_ns=self.begin_ns, to_ns=self.end_ns, until_ns=until_ns)
        return frozenset(id(e) for e in told)

    def can_have_been_heard(self, event: TimelineEvent) -> bool:
        """Whether nothing speaks against it that the caller heard what the agent tells."""
        told = isinstance(event, AgentSaid) and event.source is Source.TOLD
        return not told or (id(event) in self._audible and id(event) not in self.doubted)
