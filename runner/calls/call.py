"""One call, from join to leave: it carries out what the body decides and writes down what happens."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import httpx
from anyio.abc import TaskGroup
from loguru import logger

from bots.caller import rtvi
from bots.caller.body import Body
from bots.caller.mind import Mind
from bots.caller.mouth import Mouth
from bots.caller.pipeline import CallerPipeline
from bots.caller.script import Script
from bots.caller.speech.voice import Line
from bots.clock import NS_PER_MS, CallClock
from bots.timeline import (
    AgentJoined,
    AgentSaid,
    AgentSessionEnded,
    BotReady,
    CallEnded,
    CallStarted,
    ClientReadySent,
    DataMessagePublished,
    EndedReason,
    RoomEntered,
    TimelineEvent,
)
from runner.calls import recording as recordings
from runner.calls import timeline as timelines
from runner.calls import tracing
from runner.calls.conductor import Conductor
from runner.calls.judging import Judging
from runner.calls.listener import Listener
from runner.calls.loading import spare_what_is_loaded, speech_lines
from runner.calls.measuring import measure_call_aside
from runner.calls.processor import ProcessorWatch
from runner.calls.recognition import Recognition
from runner.calls.recording import AGENT, RecordingWriter
from runner.calls.request import Afterwards, CallRequest, CallWatcher, Progress, new_run_id
from runner.calls.run_file import Circumstances, Run, judge_run, write_run
from runner.calls.stalls import StallWatch
from runner.calls.surroundings import Surroundings
from runner.calls.timeline import TimelineWriter
from runner.errors import RoomError, RunnerError, UsageError
from runner.evaluation.speech import words_are_in_doubt
from runner.evaluation.transcript import unrecognised
from runner.evaluation.view import CallView
from runner.hosts import leads_here
from runner.rooms.base import AUDIO_RATE_HZ, Room
from runner.rooms.urls import check_data_message, room_kind
from runner.settings import Settings
from runner.text import public_url

if TYPE_CHECKING:
    from runner.judge.judge import Judge

FLUSH_INTERVAL_S = 0.25
FLUSH_LAG_NS = 500 * NS_PER_MS
"""The recording on disk ends this long before now: the agent's audio takes a moment to be placed."""

PIPELINE_STOP_TIMEOUT_S = 5.0
SESSION_STATE_LIMIT_S = 10.0
"""How long whoever runs the agent may take to say how its session ended."""


@dataclass
class _Ending:
    reason: EndedReason
    detail: str | None
    at_ns: int


@dataclass
class Call:
    """A call that can be made once.

    Args:
        folder: Where timeline, recording and run go; is made, and must not exist yet.
        progress: Is told how far what is done after the call has got.
        mind: Decides what the caller does; by default the script's turns, in order.
    """

    request: CallRequest
    settings: Settings
    folder: Path
    run_id: str = field(default_factory=new_run_id)
    watcher: CallWatcher | None = None
    progress: Progress | None = None
    judge: "Judge | None" = None
    surroundings: Surroundings = field(default_factory=Surroundings)
    mind: Mind | None = None

    def __post_init__(self) -> None:
        self._body = Body(self.request.script, self.mind)
        self._kind = room_kind(self.request.address.url, self.settings.room.daily_domains)
        self._secrets: frozenset[str] = frozenset()
        if self.request.data_message is not None:
            check_data_message(self._kind, self.request.data_message.value)
            self._secrets = self.request.data_message.secrets(self.settings.redact_keys)
        self._clock = CallClock.begin(self.surroundings.monotonic_ns)
        self._facts: list[TimelineEvent] = []
        self._view = CallView()
        self._mouth = Mouth(AUDIO_RATE_HZ, self._note)
        self._stalls = StallWatch(self._clock, self._note)
        self._processor = self._processor_watch()
        self._ending: _Ending | None = None
        self._scope: anyio.CancelScope | None = None
        self._afterwards: anyio.CancelScope | None = None
        self._warnings: list[str] = []
        self._lines: dict[int, Line] = {}

    async def make(self) -> Run:
        """Make the call, and return the run. Facts are on disk whatever happens.

        Cancelling leaves the room and keeps the facts; the run is written before the cancellation goes on, as
        cancelled unless its call was over.

        Raises:
            UsageError: Something in the request or the settings is wrong; nothing was called.
            MissingExtra: The caller's speech needs an optional package; nothing was called.
        """
        if self.request.script.needs_judge and self.judge is None:
            from runner.judge.judge import make_judge

            self.judge = make_judge(self.settings.judge)
        self._judging = Judging(self.judge, self._facts)
        self._lines = await speech_lines(self.request.script, self.settings)
        await tracing.load()
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise UsageError(f"{self.folder}: the run's folder can't be made ({error.strerror})") from error
        await self.surroundings.load(self._kind)
        self._clock = CallClock.begin(self.surroundings.monotonic_ns)
        self._stalls = StallWatch(self._clock, self._note)
        self._processor = self._processor_watch()
        try:
            self._timeline = TimelineWriter(self.folder / timelines.FILE_NAME)
            self._recording = RecordingWriter(self.folder / recordings.FILE_NAME, AUDIO_RATE_HZ)
        except OSError as error:
            raise RunnerError(f"{self.folder}: can't be written to ({error.strerror})") from error
        self._recognition = Recognition(
            self.surroundings,
            self.settings.speech.stt,
            read=partial(self._recording.read, AGENT),
            note=self._note,
            warn=self._warn,
        )
        self._listener = Listener(
            clock=self._clock,
            note=self._note,
            end=self._end,
            warn=self._warn,
            mouth=self._mouth,
            recording=self._recording,
            agent_turn_over=self._agent_turn_over,
            watcher=self.watcher,
            secrets=self._secrets,
        )
        self._conductor = Conductor(
            body=self._body,
            view=self._view,
            clock=self._clock,
            mouth=self._mouth,
            line=self._line,
            note=self._note,
            end=self._end,
            look=self._stalls.look,
            ask=self._judging.ask_later,
            judgements=self._judging.known,
            watcher=self.watcher,
            stops_on_failure=self.request.script.stop_on_failure,
        )
        try:
            if self._ending is not None:
                # Cancelled before it began.
                self._ending.at_ns = 0
            self._write(
                CallStarted(
                    at_ns=0,
                    run_id=self.run_id,
                    scenario=self.request.script.name,
                    room=public_url(self.request.address.url),
                    wall_time=self.surroundings.wall_time(),
                    monotonic_ns=self._clock.origin_ns,
                )
            )
            # With its script, a call that breaks off here can be judged from its timeline.
            self._write_run(self._judged_run())
            await self._hold_call()
            with anyio.CancelScope() as self._afterwards:
                with anyio.CancelScope(shield=True):
                    await self._measure()
                await self._ask_how_the_session_ended()
                # On disk before the words are: what the call came to does not wait for its transcript.
                self._write_run(self._judged_run())
                if self.request.transcribe:
                    await self._recognise_rest()
                if not self._is_cancelled:
                    await self._judging.finish(self._script, lambda share: self._tell(Afterwards.JUDGING, share))
        finally:
            if self._ending is None:
                self._ending = _Ending(EndedReason.CANCELLED, None, self._clock.now_ns())
                self._write(CallEnded(at_ns=self._ending.at_ns, reason=self._ending.reason))
            self._conductor.close()
            self._judging.close()
            self._recognition.close()
            self._recording.close()
            self._timeline.close()
            run = self._judged_run()
            self._write_run(run)
            tracing.export_run(run, self._facts, evaluated_ns=self._clock.now_ns())
        return run

    @property
    def _script(self) -> Script:
        """What the caller does: what it was asked to, and what its mind decided beyond that."""
        script, turns = self.request.script, self._body.turns
        return script.model_copy(update={"turns": tuple(turns)}) if len(turns) > len(script.turns) else script

    def _write_run(self, run: Run) -> None:
        try:
            write_run(self.folder, run)
        except OSError as error:
            raise RunnerError(f"{self.folder}: the run can't be written ({error.strerror})") from error

    def _judged_run(self) -> Run:
        judging = self._judging if self._script.needs_judge else None
        return judge_run(
            self._script,
            self._facts,
            Circumstances(
                judgements=None if judging is None or judging.known is None else list(judging.known.values()),
                judge=None if judging is None or judging.judge is None else judging.judge.usage(),
                allow_unjudged=self.request.allow_unjudged,
                notes=self.request.notes,
                warnings=self._warnings,
                timeline=self._timeline.stamp,
                asked=self.request.asked,
            ),
        )

    def cancel(self, detail: str | None = None) -> None:
        """End the call: the caller leaves the room, the facts stay, the run is cancelled.

        Once the call is over only what is still made of it ends: words not recognised by then stay unknown.
        """
        if self._afterwards is not None:
            self._warn("stopped before all of the agent's words were recognised and judged")
            self._afterwards.cancel()
        else:
            self._end(EndedReason.CANCELLED, detail)

    # The course of the call.

    async def _hold_call(self) -> None:
        async with httpx.AsyncClient() as http, anyio.create_task_group() as tasks:
            self._scope = tasks.cancel_scope
            if self._ending is not None:
                self._scope.cancel()
            tasks.start_soon(self._judging.run, lambda: self._conductor.tell(None))
            beside = (self._keep_recording, self._stalls.run, self._processor.run, self._recognise_live, self._think)
            for task in beside:
                tasks.start_soon(task)
            room: Room | None = None
            try:
                room = await self.surroundings.open_room(
                    self.request.address,
                    self.settings.room,
                    clock=self._clock,
                    listener=self._listener,
                    http=http,
                    tasks=tasks,
                )
                async with self._running_pipeline(room, tasks) as pipeline:
                    spare_what_is_loaded()
                    await self._talk(room, pipeline)
            except RoomError as error:
                self._end(error.reason, str(error))
            except UsageError as error:
                self._end(EndedReason.RUNNER_ERROR, str(error))
            except Exception as error:
                logger.opt(exception=True).debug("the call broke off")
                self._end(EndedReason.RUNNER_ERROR, f"our own error: {type(error).__name__}: {error}")
            finally:
                with anyio.CancelScope(shield=True):
                    await self._close(room)
            tasks.cancel_scope.cancel()

    async def _close(self, room: Room | None) -> None:
        now_ns = self._clock.now_ns()
        if room is not None:
            await room.leave()
            self._listener.flush()
            for quality in (room.agent_audio_quality(now_ns), room.caller_audio_quality(now_ns)):
                if quality is not None:
                    self._write(quality)
        ending = self._ending or _Ending(EndedReason.CANCELLED, None, now_ns)
        self._ending = ending
        if self._mouth.busy:
            self._mouth.cut(ending.at_ns)
        self._write(CallEnded(at_ns=ending.at_ns, reason=ending.reason, detail=ending.detail))
        self._flush(ending.at_ns)

    async def _talk(self, room: Room, pipeline: CallerPipeline) -> None:
        self._stalls.lags.clear()
        await room.enter()
        self._note(RoomEntered(at_ns=self._clock.now_ns()))
        limit_s = self.settings.room.agent_join_timeout_s
        with anyio.move_on_after(limit_s) as waiting:
            await room.wait_for_agent()
        if waiting.cancelled_caught:
            self._end(EndedReason.AGENT_NEVER_JOINED, f"the agent was not in the room within {limit_s:g} s")
            return
        await room.wait_for_media()
        if self.request.data_message is not None:
            await room.publish(self.request.data_message.value)
            shown = self.request.data_message.redacted(self.settings.redact_keys)
            self._note(DataMessagePublished(at_ns=self._clock.now_ns(), message=shown))
        await room.send_client_message(rtvi.client_ready())
        self._note(ClientReadySent(at_ns=self._clock.now_ns()))
        with anyio.move_on_after(self.settings.room.bot_ready_timeout_s):
            await self._listener.agent_is_ready.wait()
        self._note(self._stalls.calibrated(room.timeliness()))
        await self._conductor.conduct(room, pipeline)

    def _processor_watch(self) -> ProcessorWatch:
        shared = self.request.address.runs_here or leads_here(self.request.address.url)
        return ProcessorWatch(self._clock, self._note, self.surroundings.processor_times, shared=shared)

    async def _think(self) -> None:
        if self.mind is not None:
            await self.mind.think(lambda: self._conductor.tell(None))

    async def _line(self, turn: int) -> Line:
        """Return the audio of a turn's line."""
        if turn in self._lines:
            return self._lines[turn]
        # It was decided in the call.
        alone = self._script.model_copy(update={"turns": (self._body.turns[turn],)})
        return (await speech_lines(alone, self.settings))[0]

    @asynccontextmanager
    async def _running_pipeline(self, room: Room, tasks: TaskGroup) -> AsyncGenerator[CallerPipeline]:
        pipeline = CallerPipeline(room.transport, self.request.script.turn_taking, self._listener)
        stopping = False
        done = anyio.Event()
        scope = anyio.CancelScope(shield=True)

        async def run() -> None:
            # Shielded: Pipecat brings its processors down in order when it is told to, not when it is cut off.
            with scope:
                try:
                    await pipeline.run()
                except Exception as error:
                    logger.opt(exception=True).debug("the caller's pipeline failed")
                    self._end(EndedReason.RUNNER_ERROR, f"the caller's pipeline failed: {type(error).__name__}")
                finally:
                    done.set()
            if not stopping:
                self._end(EndedReason.RUNNER_ERROR, "the caller's pipeline stopped in the middle of the call")

        tasks.start_soon(run)
        try:
            yield pipeline
        finally:
            stopping = True
            with anyio.CancelScope(shield=True):
                await room.leave()
                with anyio.move_on_after(PIPELINE_STOP_TIMEOUT_S):
                    await pipeline.stop()
                    await done.wait()
            scope.cancel()

    async def _keep_recording(self) -> None:
        while True:
            # From before the wait: where the machine stood still in it, what was held up has come by the next one.
            until_ns = self._clock.now_ns() - FLUSH_LAG_NS
            await anyio.sleep(FLUSH_INTERVAL_S)
            self._flush(until_ns)

    def _flush(self, until_ns: int) -> None:
        try:
            self._recording.flush(until_ns)
        except OSError as error:
            problem = f"the recording can't be written ({error.strerror})"
            self._warn(problem)
            self._end(EndedReason.RUNNER_ERROR, problem)

    async def _ask_how_the_session_ended(self) -> None:
        """Note what whoever runs the agent says of its session, where it was gone before the end."""
        ending, ask = self._ending, self.request.session_end_state
        gone = (EndedReason.AGENT_LEFT, EndedReason.AGENT_VANISHED)
        if ask is None or ending is None or ending.reason not in gone:
            return
        state = None
        with anyio.move_on_after(SESSION_STATE_LIMIT_S):
            state = await ask()
        if state is not None:
            self._write(AgentSessionEnded(at_ns=ending.at_ns, state=state))

    # What is made of it.

    async def _measure(self) -> None:
        """Measure the agent's speech in the recording: what is reported goes by it."""
        if not self._view.of(AgentJoined):
            return
        self._tell(Afterwards.MEASURING, 0.0)
        try:
            facts = await measure_call_aside(self.folder / recordings.FILE_NAME, self._facts)
        except UsageError as error:
            self._warn(f"the recording can't be measured: {error}")
            return
        for fact in facts:
            self._write(fact)

    @property
    def _is_cancelled(self) -> bool:
        return self._ending is not None and self._ending.reason is EndedReason.CANCELLED

    def _agent_turn_over(self, onset_ns: int, end_ns: int) -> None:
        """Have a turn recognised if the script waits for words, and what the agent told of it is no proof."""
        if self._script.needs_words and words_are_in_doubt(self._view, onset_ns):
            self._recognition.ask((onset_ns, end_ns))

    async def _recognise_live(self) -> None:
        await self._listener.agent_is_ready.wait()
        if self._script.needs_words and not any(isinstance(fact, BotReady) for fact in self._facts):
            # It speaks no RTVI, and will tell no words.
            await self._recognition.get_ready()
        await self._recognition.run()

    async def _recognise_rest(self) -> None:
        """Recognise, from the recording, what was not recognised while the call was on."""
        if self._is_cancelled:
            return
        turns = unrecognised(CallView.measured(self._facts), self._recognition.turns)
        await self._recognition.finish(turns, lambda share: self._tell(Afterwards.RECOGNISING, share))

    # Facts and the end.

    def _note(self, event: TimelineEvent) -> None:
        """Write down a fact, and let everybody know who goes by it."""
        if self._ending is not None and event.at_ns > self._ending.at_ns and not isinstance(event, AgentSaid):
            return
        self._write(event)
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._conductor.tell(event)

    def _write(self, event: TimelineEvent) -> None:
        self._facts.append(event)
        self._view.add(event)
        try:
            self._timeline.write(event)
        except OSError as error:
            self._end(EndedReason.RUNNER_ERROR, f"the timeline can't be written ({error.strerror})")
        if self.watcher is not None:
            self.watcher.fact(event)

    def _tell(self, step: Afterwards, share: float) -> None:
        if self.progress is not None:
            self.progress(step, share)

    def _warn(self, warning: str) -> None:
        if warning not in self._warnings:
            logger.warning("{}", warning)
            self._warnings.append(warning)

    def _end(self, reason: EndedReason, detail: str | None) -> None:
        """End the call; the first ending counts."""
        self._stalls.look()
        if self._ending is None:
            self._processor.look()
            self._ending = _Ending(reason, detail, self._clock.now_ns())
            if self._scope is not None:
                self._scope.cancel()
