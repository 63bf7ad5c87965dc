"""Carries out what the body decides, and tells it when everything that its turn expects is decided."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio

from bots.caller import rtvi
from bots.caller.body import Action, Body, HangUp, Press, Say, StartTurn
from bots.caller.event_names import names_of
from bots.caller.mouth import Mouth
from bots.caller.pipeline import CallerPipeline
from bots.caller.speech.voice import Line
from bots.clock import NS_PER_S, CallClock
from bots.timeline import (
    AgentLeft,
    AgentTurnEnded,
    CallerPressedKeys,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerTurnSettled,
    CallerTurnStarted,
    EndedReason,
    TimelineEvent,
)
from runner.calls.request import CallWatcher
from runner.evaluation.expectations import evaluate_turn
from runner.evaluation.verdicts import Judgement, Question, Verdict
from runner.evaluation.view import CallView
from runner.rooms.base import AUDIO_RATE_HZ, Room

_SETTLES = (AgentTurnEnded, CallerTurnStarted, CallerStartedSpeaking, CallerStoppedSpeaking, AgentLeft)
"""Facts without a name that can decide an expectation."""

LATE_ANSWER_NS = 5 * NS_PER_S
"""So much longer the caller listens where an answer did not come in time: whether it is late or missing matters."""


@dataclass
class Conductor:
    """Conducts one call.

    Args:
        mouth: Follows the caller's line under way.
        line: Returns the audio of a turn's line.
        look: Sees whether the machine stood still, before anything is decided by the time.
        ask: Takes questions for the judge; one that is known already changes nothing.
        stops_on_failure: Whether the call ends with the first turn that fails.
    """

    body: Body
    view: CallView
    clock: CallClock
    mouth: Mouth
    line: Callable[[int], Awaitable[Line]]
    note: Callable[[TimelineEvent], None]
    end: Callable[[EndedReason, str | None], None]
    look: Callable[[], None]
    ask: Callable[[Question], None]
    judgements: Mapping[Question, Judgement] | None
    watcher: CallWatcher | None
    stops_on_failure: bool

    def __post_init__(self) -> None:
        # None: something else than a fact may have changed what is decided.
        self._happens, self._happened = anyio.create_memory_object_stream[TimelineEvent | None](math.inf)
        self._settled: set[int] = set()
        self._failed_ns: dict[int, int] = {}
        self._recheck_ns: int | None = None

    def tell(self, event: TimelineEvent | None) -> None:
        """Tell it a fact; or None, where something else may have changed what is decided."""
        self._happens.send_nowait(event)

    def close(self) -> None:
        """Take no more facts."""
        self._happens.close()
        self._happened.close()

    async def conduct(self, room: Room, pipeline: CallerPipeline) -> None:
        """Let the body act, until it hangs up or the call ends otherwise."""
        body = self.body
        await self._carry_out(body.begin(self.clock.now_ns()), room, pipeline)
        while not body.ended:
            wake_ns = min(body.wake_at_ns or 0, self._recheck_ns or math.inf)
            event: TimelineEvent | None = None
            with anyio.move_on_after(max(wake_ns - self.clock.now_ns(), 0) / NS_PER_S):
                event = await self._happened.receive()
            self.look()
            now_ns = self.clock.now_ns()
            actions = body.tick(now_ns) if event is None else body.fact(event, now_ns)
            await self._carry_out(actions, room, pipeline)
            if event is None or names_of(event) or isinstance(event, _SETTLES):
                await self._carry_out(self._settle(), room, pipeline)

    async def _carry_out(self, actions: Sequence[Action], room: Room, pipeline: CallerPipeline) -> None:
        for action in actions:
            match action:
                case StartTurn(turn):
                    self.note(CallerTurnStarted(at_ns=self.clock.now_ns(), turn=turn))
                case Say(turn):
                    line = await self.line(turn)
                    self.mouth.begin(turn, line)
                    await pipeline.say(line.pcm, AUDIO_RATE_HZ)
                case Press(turn, keys):
                    await room.send_client_message(rtvi.dtmf(keys))
                    self.note(CallerPressedKeys(at_ns=self.clock.now_ns(), turn=turn, keys=keys))
                case HangUp(reason, detail):
                    self.end(reason, detail)

    def _settle(self) -> list[Action]:
        """Tell the body when everything its turn expects is decided."""
        self._recheck_ns = None
        body, turn = self.body, self.body.turn
        if body.ended or turn >= len(body.turns) or turn in self._settled:
            return []
        scripted = body.turns[turn]
        if not scripted.expect or turn not in self.view.starts:
            return []
        now_ns = self.clock.now_ns()
        verdicts = evaluate_turn(turn, scripted, self.view, judgements=self.judgements, now_ns=now_ns)
        for verdict in verdicts:
            if verdict.question is not None:
                self.ask(verdict.question)
        if self.watcher is not None:
            self.watcher.verdicts(verdicts)
        pending = [verdict for verdict in verdicts if verdict.verdict is Verdict.PENDING]
        self._recheck_ns = min((v.recheck_ns for v in pending if v.recheck_ns is not None), default=None)
        if pending:
            return []
        failed = any(verdict.verdict is Verdict.MISSED for verdict in verdicts)
        if failed and self._may_still_answer(turn, now_ns):
            return []
        self._settled.add(turn)
        self.note(CallerTurnSettled(at_ns=now_ns, turn=turn, failed=failed))
        return body.settled(turn, failed=failed, now_ns=now_ns)

    def _may_still_answer(self, turn: int, now_ns: int) -> bool:
        """Whether to go on listening in a turn that has failed.

        An answer that is late tells more than none, and speech that has just begun can't be measured yet.
        """
        failed_ns = self._failed_ns.setdefault(turn, now_ns)
        if not self.stops_on_failure:
            return False
        handed_over = self.view.handed_over(turn)
        from_ns = self.view.starts[turn] if handed_over is None else handed_over.at_ns
        over = self.view.turn_ended_between(from_ns, now_ns)
        until_ns = failed_ns + LATE_ANSWER_NS
        if over or now_ns >= until_ns or self.view.of(AgentLeft):
            return False
        self._recheck_ns = until_ns
        return True
