"""The body of the caller: when it does what its mind decides. A pure state machine: facts and the time go in, actions
come out.

It knows no audio, no network and no Pipecat, and reads no clock: whoever drives it passes the time. So a whole
conversation can be played through in microseconds, in any order of events.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from bots.caller.event_names import names_of, told_speaking
from bots.caller.mind import Conversation, Goodbye, Mind, Scripted
from bots.caller.script import (
    AfterAgentTurn,
    AfterEvent,
    AfterSilence,
    AgentHeardFor,
    Listen,
    Play,
    PressKeys,
    Script,
    Speak,
    StaySilent,
    Turn,
)
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import (
    AgentSaid,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    AgentTurnEnded,
    CallerPressedKeys,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    EndedReason,
    MessageReceived,
    TimelineEvent,
)

EVENT_TIMEOUT_NS = 30 * NS_PER_S
"""How long a turn waits for the event it is to start after (as in Pipecat Evals)."""

SPEECH_TIMEOUT_NS = 60 * NS_PER_S
"""How long a barge-in waits for the agent to be heard."""

TOLD_SPEAKING_NS = 3 * NS_PER_S
"""How long an agent is believed that says it is still speaking while nothing is heard: between two sentences, say."""

SETTLE_GRACE_NS = NS_PER_S
"""An expectation's own deadline passes before its agent is called frozen."""


@dataclass(frozen=True)
class StartTurn:
    turn: int


@dataclass(frozen=True)
class Say:
    """Start the line of a turn: speak it, or play its recording."""

    turn: int


@dataclass(frozen=True)
class Press:
    """Press the keys of a turn."""

    turn: int
    keys: str


@dataclass(frozen=True)
class HangUp:
    """End the call. Nothing comes after it."""

    reason: EndedReason
    detail: str | None = None


Action = StartTurn | Say | Press | HangUp


class _Phase(Enum):
    NOT_BEGUN = auto()
    THINKING = auto()
    """about what comes next"""
    WAITING = auto()
    """for the trigger of the current turn"""
    ACTING = auto()
    """the current turn's line, keys or silence is under way"""
    SETTLING = auto()
    """for what the current turn expects"""
    CLOSING = auto()
    """all turns are done"""
    ENDED = auto()


class Body:
    """Decides when the caller does what its mind decides.

    Call :meth:`begin` once both sides are in the room, then :meth:`fact` for every fact as it becomes known,
    :meth:`settled` when the expectations of a turn are all decided, and :meth:`tick` no later than
    :attr:`wake_at_ns`. Each returns the actions to carry out, in order. Times never go back.

    The script says how the call is held: its limits and its manners. Its turns are the mind's, by default in order.
    """

    def __init__(self, script: Script, mind: Mind | None = None):
        self._script = script
        self._mind: Mind = Scripted(script) if mind is None else mind
        self._conversation = Conversation()
        self._phase = _Phase.NOT_BEGUN
        self._turn = 0
        self._begun_ns = 0
        self._now_ns = 0
        self._phase_since_ns = 0
        self._turn_started_ns = 0
        # What the caller did last, and whether the agent has had its say since.
        self._handed_over_ns = 0
        self._agent_speaking = False
        self._agent_onset_ns = 0
        self._turn_over = True
        self._told_speaking = False
        self._agent_last_end_ns = 0
        self._agent_has_spoken = False
        self._onset_since_handover_ns: int | None = None
        self._caller_speaking = False
        self._line_started_ns = 0
        self._last_sound_ns = 0
        self._seen_ns: dict[str, int] = {}
        # When the event came that the current turn starts after: what comes after that puts nothing off.
        self._awaited_ns: int | None = None

    @property
    def ended(self) -> bool:
        return self._phase is _Phase.ENDED

    @property
    def turn(self) -> int:
        """The index of the current turn; the number of turns while the next is not known, and once all are done."""
        return self._turn

    @property
    def turns(self) -> Sequence[Turn]:
        """The turns that were decided so far."""
        return self._conversation.turns

    @property
    def wake_at_ns(self) -> int | None:
        """When :meth:`tick` must be called if nothing happens before; None once the call has ended."""
        if self._phase in (_Phase.NOT_BEGUN, _Phase.ENDED):
            return None
        return min(self._deadlines())

    def begin(self, now_ns: int) -> list[Action]:
        if self._phase is not _Phase.NOT_BEGUN:
            raise RuntimeError("a body is in one call")
        self._begun_ns = self._last_sound_ns = self._turn_started_ns = self._handed_over_ns = now_ns
        self._enter(_Phase.THINKING, now_ns)
        return self._advance(now_ns)

    def fact(self, event: TimelineEvent, now_ns: int) -> list[Action]:
        for name in names_of(event):
            self._seen_ns[name] = max(event.at_ns, self._seen_ns.get(name, 0))
        match event:
            case AgentStartedSpeaking():
                self._agent_speaking = True
                self._agent_onset_ns = event.at_ns
                self._turn_over = False
                self._agent_has_spoken = True
                self._conversation.reply_owed = False
                if self._onset_since_handover_ns is None:
                    self._onset_since_handover_ns = event.at_ns
            case AgentStoppedSpeaking():
                self._agent_speaking = False
                self._agent_last_end_ns = event.at_ns
                self._last_sound_ns = max(self._last_sound_ns, event.at_ns)
            case AgentTurnEnded():
                self._turn_over = True
            case AgentSaid():
                self._conversation.said.append(event)
            case MessageReceived():
                told = told_speaking(event)
                self._told_speaking = self._told_speaking if told is None else told
            case CallerStartedSpeaking():
                self._caller_speaking = True
                self._line_started_ns = event.at_ns
            case CallerStoppedSpeaking() | CallerPressedKeys():
                if isinstance(event, CallerStoppedSpeaking):
                    self._caller_speaking = False
                    self._last_sound_ns = max(self._last_sound_ns, event.at_ns)
                if self._phase is _Phase.ACTING and event.turn == self._turn:
                    self._hand_over(event.at_ns)
                    self._enter(_Phase.SETTLING, now_ns)
            case _:
                pass
        return self._advance(now_ns)

    def settled(self, turn: int, *, failed: bool, now_ns: int) -> list[Action]:
        """Everything a turn expects is decided; ``failed`` if any of it failed."""
        self._conversation.failed[turn] = failed
        return self._advance(now_ns)

    def tick(self, now_ns: int) -> list[Action]:
        return self._advance(now_ns)

    def _advance(self, now_ns: int) -> list[Action]:
        self._now_ns = max(self._now_ns, now_ns)
        actions: list[Action] = []
        if self._phase is _Phase.NOT_BEGUN:
            return actions
        while self._phase is not _Phase.ENDED:
            step = self._end_of_patience() or self._step()
            if step is None:
                break
            actions.extend(step)
        return actions

    def _step(self) -> list[Action] | None:
        match self._phase:
            case _Phase.THINKING:
                return self._ask_mind()
            case _Phase.WAITING:
                start = self._current.start
                if isinstance(start, AfterEvent) and start.event is not None and self._awaited_ns is None:
                    self._awaited_ns = self._seen_ns.get(start.event)
                at_ns = self._trigger_at_ns()
                if at_ns is not None and at_ns <= self._now_ns:
                    return self._start_turn()
                lost_ns = self._trigger_lost_ns()
                if lost_ns is not None and lost_ns <= self._now_ns:
                    return self._next_turn(failed=True)
            case _Phase.ACTING:
                action = self._current.action
                if isinstance(action, StaySilent) and self._silence_over_ns(action) <= self._now_ns:
                    self._enter(_Phase.SETTLING, self._now_ns)
                    return []
            case _Phase.SETTLING:
                if not self._current.expect:
                    return self._next_turn(failed=False)
                if self._turn in self._conversation.failed:
                    return self._next_turn(failed=self._conversation.failed[self._turn])
            case _Phase.CLOSING:
                return self._close()
            case _:
                pass
        return None

    def _ask_mind(self) -> list[Action] | None:
        self._conversation.agent_turn_over = self._agent_turn_over and not self._agent_speaking
        answer = self._mind.next(self._conversation)
        if answer is None:
            return None
        if isinstance(answer, Goodbye):
            self._enter(_Phase.CLOSING, self._now_ns)
        else:
            self._conversation.turns.append(answer)
            self._enter(_Phase.WAITING, self._now_ns)
        return []

    @property
    def _agent_turn_over(self) -> bool:
        """Whether the agent has finished: it has been silent for long enough, and does not say otherwise."""
        return self._turn_over and self._now_ns >= self._believed_until_ns()

    def _believed_until_ns(self) -> int:
        return self._agent_last_end_ns + TOLD_SPEAKING_NS if self._told_speaking else 0

    @property
    def _current(self) -> Turn:
        return self._conversation.turns[self._turn]

    def _enter(self, phase: _Phase, at_ns: int) -> None:
        self._phase = phase
        self._phase_since_ns = at_ns

    def _hand_over(self, at_ns: int) -> None:
        self._handed_over_ns = at_ns
        # What the agent began to say before our line is no reply to it.
        self._conversation.reply_owed = not (self._agent_speaking and self._agent_onset_ns >= self._line_started_ns)
        self._onset_since_handover_ns = None

    def _start_turn(self) -> list[Action]:
        action = self._current.action
        self._turn_started_ns = self._now_ns
        self._enter(_Phase.SETTLING if isinstance(action, Listen) else _Phase.ACTING, self._now_ns)
        started: list[Action] = [StartTurn(self._turn)]
        match action:
            case Speak() | Play():
                return [*started, Say(self._turn)]
            case PressKeys():
                return [*started, Press(self._turn, action.keys)]
            case _:
                return started

    def _next_turn(self, *, failed: bool) -> list[Action]:
        if failed and self._script.stop_on_failure:
            failure = f"turn {self._turn + 1} failed"
            if not self._agent_has_spoken:
                return self._hang_up(EndedReason.AGENT_NEVER_SPOKE, f"the agent was not heard at all: {failure}")
            return self._hang_up(EndedReason.CALLER_HUNG_UP, failure)
        self._turn += 1
        self._awaited_ns = None
        self._enter(_Phase.THINKING, self._now_ns)
        return []

    def _close(self) -> list[Action] | None:
        if self._agent_speaking or not self._agent_turn_over:
            return None
        if self._script.hang_up:
            return None if self._conversation.reply_owed else self._hang_up(EndedReason.CALLER_HUNG_UP)
        if self._now_ns >= self._closing_limit_ns():
            return self._hang_up(EndedReason.CALLER_HUNG_UP, "the agent was to hang up, and did not")
        return None

    def _hang_up(self, reason: EndedReason, detail: str | None = None) -> list[Action]:
        self._enter(_Phase.ENDED, self._now_ns)
        return [HangUp(reason, detail)]

    def _end_of_patience(self) -> list[Action] | None:
        """End a call that has gone on too long, or in which the agent answers nothing any more."""
        if self._now_ns >= self._max_duration_ns():
            limit_s = self._script.max_duration_s
            return self._hang_up(EndedReason.MAX_DURATION, f"the call reached its limit of {limit_s:g} s")
        frozen_ns = self._frozen_at_ns()
        if frozen_ns is not None and self._now_ns >= frozen_ns:
            waited_s = (self._now_ns - max(self._handed_over_ns, self._begun_ns)) / NS_PER_S
            if self._agent_has_spoken:
                return self._hang_up(EndedReason.AGENT_FROZE, f"the agent has been silent for {waited_s:.0f} s")
            return self._hang_up(EndedReason.AGENT_NEVER_SPOKE, f"the agent said nothing for {waited_s:.0f} s")
        return None

    def _frozen_at_ns(self) -> int | None:
        """When the agent's silence is too long; None while it is not its turn to speak."""
        if self._agent_speaking or not self._agent_turn_over:
            return None
        turn = self._current if self._turn < len(self.turns) else None
        limit_ns = int(self._script.turn_taking.answer_timeout_s * NS_PER_S)
        if self._phase is _Phase.SETTLING and turn is not None:
            # Only a silent agent is frozen: one that answered is waiting for us.
            silent_since_begin = isinstance(turn.action, Listen) and not self._agent_has_spoken
            if not (self._conversation.reply_owed or silent_since_begin) or any(e.absent for e in turn.expect):
                return None
            explicit_ms = [e.within_ms for e in turn.expect if e.within_ms is not None]
            if explicit_ms:
                limit_ns = max(limit_ns, max(explicit_ms) * NS_PER_MS + SETTLE_GRACE_NS)
            return max(self._handed_over_ns, self._turn_started_ns) + limit_ns
        waits_for_reply = self._phase in (_Phase.THINKING, _Phase.CLOSING) or (
            self._phase is _Phase.WAITING
            and turn is not None
            and isinstance(turn.start, AfterAgentTurn | AgentHeardFor)
        )
        if waits_for_reply and self._conversation.reply_owed:
            return self._handed_over_ns + limit_ns
        return None

    def _trigger_at_ns(self) -> int | None:
        """When the current turn may start; None while that depends on something that has not happened."""
        start = self._current.start
        match start:
            case AfterAgentTurn():
                return self._after_agent_turn_ns()
            case AfterEvent(event=None):
                expected = self._turn > 0 and self.turns[self._turn - 1].expect
                from_ns = self._phase_since_ns if expected else self._turn_started_ns
                return from_ns + start.delay_ms * NS_PER_MS
            case AfterEvent():
                return None if self._awaited_ns is None else self._awaited_ns + start.delay_ms * NS_PER_MS
            case AgentHeardFor():
                onset_ns = self._onset_since_handover_ns
                return None if onset_ns is None else onset_ns + start.duration_ms * NS_PER_MS
            case AfterSilence():
                if self._agent_speaking or self._caller_speaking:
                    return None
                return self._last_sound_ns + start.duration_ms * NS_PER_MS

    def _after_agent_turn_ns(self) -> int | None:
        if self._agent_speaking or not self._agent_turn_over:
            return None
        if isinstance(self._current.action, Listen):
            return self._phase_since_ns
        if self._conversation.reply_owed:
            return None
        if not self._agent_has_spoken:
            return self._begun_ns + self._script.turn_taking.greeting_wait_ms * NS_PER_MS
        return self._phase_since_ns

    def _trigger_lost_ns(self) -> int | None:
        """When what the current turn waits for is given up; None where it is waited for as long as the call lasts."""
        match self._current.start:
            case _ if self._trigger_at_ns() is not None:
                return None
            case AfterEvent():
                return self._phase_since_ns + EVENT_TIMEOUT_NS
            case AgentHeardFor():
                return self._phase_since_ns + SPEECH_TIMEOUT_NS
            case _:
                return None

    def _silence_over_ns(self, action: StaySilent) -> int:
        return self._turn_started_ns + action.duration_ms * NS_PER_MS

    def _max_duration_ns(self) -> int:
        return self._begun_ns + int(self._script.max_duration_s * NS_PER_S)

    def _closing_limit_ns(self) -> int:
        silence_since_ns = max(self._last_sound_ns, self._phase_since_ns)
        return silence_since_ns + int(self._script.turn_taking.answer_timeout_s * NS_PER_S)

    def _deadlines(self) -> Iterator[int]:
        yield self._max_duration_ns()
        if self._turn_over and self._now_ns < self._believed_until_ns():
            yield self._believed_until_ns()
        waits = self._phase is _Phase.WAITING
        for at_ns in (self._frozen_at_ns(), *((self._trigger_at_ns(), self._trigger_lost_ns()) if waits else ())):
            if at_ns is not None:
                yield at_ns
        if self._phase is _Phase.ACTING and isinstance(self._current.action, StaySilent):
            yield self._silence_over_ns(self._current.action)
        elif self._phase is _Phase.CLOSING and self._agent_turn_over and not self._agent_speaking:
            yield self._closing_limit_ns()
