"""Makes simulated calls."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import httpx
import numpy as np
from anyio.abc import TaskGroup

from bots.caller.mind import Mind
from bots.caller.script import Script
from bots.caller.speech.settings import ServiceSettings
from bots.clock import CallClock
from bots.timeline import CallerStartedSpeaking, CallerStoppedSpeaking, TimelineEvent
from runner.calls.call import Call
from runner.calls.request import CallRequest, CallWatcher
from runner.calls.run_file import Run
from runner.calls.surroundings import Surroundings
from runner.evaluation.verdicts import ExpectationVerdict
from runner.rooms.base import RoomListener
from runner.rooms.open import RoomAddress
from runner.settings import RoomSettings, Settings
from tests.simulated.agent import Behaviour
from tests.simulated.recognition import Recogniser
from tests.simulated.room import Network, SimulatedRoom
from tests.simulated.speech import Pcm, Utterance, utterances
from tests.simulated.virtual_time import Stall, VirtualClock, run_virtually, running_loop

if TYPE_CHECKING:
    from runner.judge.judge import Judge

_P = ParamSpec("_P")
_T = TypeVar("_T")

ADDRESS = RoomAddress("http://simulated.invalid/api/offer")
WALL_TIME = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Simulation:
    """What a call is simulated with.

    Attributes:
        seed: Everything that is left to chance is drawn from it.
        behaviour: How the agent behaves.
        network: What happens to packets.
        stalls: When our own side stands still.
        background: Is heard behind the agent: 16-bit audio at 24 kHz.
        misheard: Which share of the agent's words our own recognition does not hear.
        recognises: Whether words are recognised by simulation; else by what the settings name, in real time.
    """

    seed: int = 0
    behaviour: Behaviour = field(default_factory=Behaviour)
    network: Network = field(default_factory=Network)
    stalls: Sequence[Stall] = ()
    background: Pcm | None = None
    misheard: float = 0
    recognises: bool = True

    def play(
        self,
        script: Script,
        folder: Path,
        *,
        settings: Settings | None = None,
        transcribe: bool = False,
        judge: "Judge | None" = None,
        watcher: CallWatcher | None = None,
    ) -> Run:
        """Play a script in a call of its own, and return the run."""
        request = CallRequest(script, ADDRESS, transcribe=transcribe)
        call, clock = self.prepare(request, folder, settings=settings, judge=judge, watcher=watcher)
        return run_virtually(clock, call.make)

    def prepare(
        self,
        request: CallRequest,
        folder: Path,
        *,
        settings: Settings | None = None,
        judge: "Judge | None" = None,
        watcher: CallWatcher | None = None,
        mind: Mind | None = None,
        comes_to: Script | None = None,
    ) -> "Prepared":
        """Return a call that can be made once, in virtual time.

        Where a mind decides what the caller says, ``comes_to`` has all of it.
        """
        clock = VirtualClock(self.stalls)
        guide = _Guide(self, utterances(comes_to or request.script), watcher)
        surroundings = Surroundings(
            monotonic_ns=clock.now_ns,
            wall_time=lambda: WALL_TIME,
            load=_nothing_to_load,
            open_room=guide.open_room,
            processor_times=lambda: None,
        )
        if self.recognises:
            surroundings = replace(surroundings, transcribe=guide.recogniser.transcribe, preload=_nothing_to_load)
        else:
            surroundings = replace(
                surroundings, transcribe=_held(surroundings.transcribe), preload=_held(surroundings.preload)
            )
        call = Call(
            request,
            settings or Settings(),
            folder,
            run_id=f"simulated-{self.seed}",
            watcher=guide,
            judge=judge,
            surroundings=surroundings,
            mind=mind,
        )
        return Prepared(call, clock)


class Prepared(NamedTuple):
    """A call that is not made yet, and the time it is made in."""

    call: Call
    clock: VirtualClock


async def _nothing_to_load(_stt: ServiceSettings) -> None:
    pass


def _held(function: Callable[_P, Awaitable[_T]]) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Let no virtual time pass while a process of its own recognises speech."""

    async def held(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with running_loop().holding():
            return await function(*args, **kwargs)

    return held


class _Guide:
    """Opens the room, and lets its agent know which line it hears."""

    def __init__(self, simulation: Simulation, lines: dict[int, Utterance], watcher: CallWatcher | None):
        self._simulation = simulation
        self._lines = lines
        self._watcher = watcher
        self._room: SimulatedRoom | None = None
        for_recogniser, self._for_room = np.random.default_rng(simulation.seed).spawn(2)
        self.recogniser = Recogniser(self._said, simulation.misheard, for_recogniser)

    def _said(self) -> list[str]:
        return [] if self._room is None else self._room.agent.said

    async def open_room(
        self,
        address: RoomAddress,
        settings: RoomSettings,
        *,
        clock: CallClock,
        listener: RoomListener,
        http: httpx.AsyncClient,
        tasks: TaskGroup,
    ) -> SimulatedRoom:
        self._room = SimulatedRoom(
            clock,
            listener,
            behaviour=self._simulation.behaviour,
            network=self._simulation.network,
            random=self._for_room,
            stalls=self._simulation.stalls,
            background=self._simulation.background,
        )
        return self._room

    def fact(self, event: TimelineEvent) -> None:
        if self._room is not None and isinstance(event, CallerStartedSpeaking):
            self._room.agent.line_begins(self._lines[event.turn])
        elif self._room is not None and isinstance(event, CallerStoppedSpeaking):
            self._room.agent.line_ends()
        if self._watcher is not None:
            self._watcher.fact(event)

    def verdicts(self, verdicts: Sequence[ExpectationVerdict]) -> None:
        if self._watcher is not None:
            self._watcher.verdicts(verdicts)

    def audio(self, channel: int, at_ns: int, pcm: bytes) -> None:
        if self._watcher is not None:
            self._watcher.audio(channel, at_ns, pcm)
