"""One call, from join to leave: it carries out what the body decides and writes down what happens."""

import json
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
from anyio.abc import TaskGroup
from loguru import logger

from bots.caller import rtvi
from bots.caller.body import Action, Body, HangUp, Press, Say, StartTurn
from bots.caller.event_names import names_of
from bots.caller.mind import Mind
from bots.caller.mouth import Mouth
from bots.caller.pipeline import CallerPipeline
from bots.caller.script import Play, Script, Speak
from bots.caller.speech.errors import MissingSpeechPackage, SpeechError
from bots.caller.speech.voice import Line, Voice
from bots.clock import NS_PER_MS, NS_PER_S, CallClock
from bots.masking import masked, masked_within
from bots.timeline import (
    AgentAudioLate,
    AgentAudioLost,
    AgentError,
    AgentJoined,
    AgentLeft,
    AgentMediaResumed,
    AgentMediaStopped,
    AgentProbed,
    AgentSaid,
    AgentSessionEnded,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    AgentTurnEnded,
    BotReady,
    CallCalibrated,
    CallEnded,
    CallerAudioLost,
    CallerPressedKeys,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerTurnSettled,
    CallerTurnStarted,
    CallStarted,
    ClientReadySent,
    DataMessagePublished,
    EndedReason,
    MediaNotConnected,
    MessageReceived,
    RoomEntered,
    TimelineEvent,
)
from runner.calls import recording as recordings
from runner.calls import timeline as timelines
from runner.calls import tracing
from runner.calls.measuring import measure_call_aside
from runner.calls.processor import ProcessorWatch
from runner.calls.recognition import Recognition
from runner.calls.recording import AGENT, CALLER, RecordingWriter
from runner.calls.request import Afterwards, CallRequest, CallWatcher, Progress, new_run_id
from runner.calls.run_file import Circumstances, Run, judge_run, write_run
from runner.calls.stalls import StallWatch
from runner.calls.stretches import Stretch, Stretches
from runner.calls.surroundings import Surroundings
from runner.calls.timeline import TimelineWriter
from runner.errors import MissingExtra, RoomError, RunnerError, UsageError
from runner.evaluation.expectations import evaluate_turn
from runner.evaluation.outcome import judge_expectations
from runner.evaluation.speech import words_are_in_doubt
from runner.evaluation.transcript import unrecognised
from runner.evaluation.verdicts import Judgement, Question, Verdict
from runner.evaluation.view import CallView
from runner.garbage import spare_what_is_loaded
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
MAX_MESSAGE_CHARACTERS = 20_000_000
MAX_MESSAGES = 20_000
"""Messages of the agent that are kept as they came; what they say of speech and functions is always kept."""

_SETTLES = (AgentTurnEnded, CallerTurnStarted, CallerStartedSpeaking, CallerStoppedSpeaking, AgentLeft)
"""Facts without a name that can decide an expectation."""

SESSION_STATE_LIMIT_S = 10.0
"""How long whoever runs the agent may take to say how its session ended."""

LATE_ANSWER_NS = 5 * NS_PER_S
"""So much longer the caller listens where an answer did not come in time: whether it is late or missing matters."""


@dataclass
class _Ending:
    reason: EndedReason
    detail: str | None
    at_ns: int


async def speech_lines(script: Script, settings: Settings) -> dict[int, Line]:
    """Return the audio of the caller's lines, by turn. Once made it is kept on disk: asked for again it is there.

    Raises:
        UsageError: A line can't be spoken, or a recording can't be played.
        MissingExtra: The caller's speech needs an optional package.
    """
    spoken = {i: t.action for i, t in enumerate(script.turns) if isinstance(t.action, Speak | Play)}
    try:
        lines = await Voice(settings.speech).synthesise(list(spoken.values()))
    except MissingSpeechPackage as error:
        raise MissingExtra(str(error)) from error
    except (SpeechError, ValueError, OSError) as error:
        raise UsageError(f"the caller's lines can't be spoken: {error}") from error
    return dict(zip(spoken, lines, strict=True))


@dataclass
class Call:
    """A call that can be made once.

    Args:
        request: What call to make.
        settings: How to make it.
        folder: Where timeline, recording and run go; is made, and must not exist yet.
        run_id: The run's id.
        watcher: Watches the call.
        progress: Is told how far what is done after the call has got.
        judge: Judges ``eval`` expectations; by default the one the settings name.
        surroundings: What the call is made in: the machine's time, and rooms that can be reached from it.
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
        # None: something else than a fact may have changed what is decided.
        self._to_conduct, self._conducted = anyio.create_memory_object_stream[TimelineEvent | None](math.inf)
        self._to_judge, self._questions = anyio.create_memory_object_stream[Question](math.inf)
        self._asked: set[Question] = set()
        self._judgements: dict[Question, Judgement] = {}
        self._reader = rtvi.RtviReader()
        self._mouth = Mouth(AUDIO_RATE_HZ, self._note)
        self._stalls = StallWatch(self._clock, self._note)
        self._processor = self._processor_watch()
        self._messages_kept = 0
        self._holes = Stretches(self._note_hole, whole=False)
        self._late = Stretches(self._note_late, whole=True)
        self._message_characters = 0
        self._onset_ns: int | None = None
        self._turn_onset_ns: int | None = None
        self._last_end_ns = 0
        self._agent_is_ready = anyio.Event()
        self._ending: _Ending | None = None
        self._scope: anyio.CancelScope | None = None
        self._afterwards: anyio.CancelScope | None = None
        self._warnings: list[str] = []
        self._settled: set[int] = set()
        self._failed_ns: dict[int, int] = {}
        self._recheck_ns: int | None = None
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
                await self._judge_rest()
        finally:
            if self._ending is None:
                self._ending = _Ending(EndedReason.CANCELLED, None, self._clock.now_ns())
                self._write(CallEnded(at_ns=self._ending.at_ns, reason=self._ending.reason))
            for stream in (self._to_conduct, self._conducted, self._to_judge, self._questions):
                stream.close()
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
        has_judge = self.judge is not None and self._script.needs_judge
        return judge_run(
            self._script,
            self._facts,
            Circumstances(
                judgements=list(self._judgements.values()) if has_judge else None,
                judge=self.judge.usage() if has_judge and self.judge is not None else None,
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

    # What the room reports (RoomListener).

    def caller_audio(self, at_ns: int, pcm: bytes, *, late_ns: int | None = 0) -> None:
        """Record what left, and follow the line under way."""
        self._mouth.sent(at_ns, pcm, late_ns=late_ns)
        if late_ns is None:
            return
        self._recording.put(CALLER, at_ns, pcm)
        if self.watcher is not None:
            self.watcher.audio(CALLER, at_ns, pcm)

    def agent_audio(self, at_ns: int, pcm: bytes) -> None:
        """Record what arrived."""
        self._recording.put(AGENT, at_ns, pcm)
        if self.watcher is not None:
            self.watcher.audio(AGENT, at_ns, pcm)

    def agent_audio_lost(self, at_ns: int, duration_ms: float) -> None:
        """Note a hole in the agent's audio."""
        self._holes.add(Stretch(at_ns, duration_ms))

    def agent_audio_late(self, at_ns: int, duration_ms: float, late_ms: float) -> None:
        """Note that a stretch of the agent's audio came late."""
        self._late.add(Stretch(at_ns, duration_ms, late_ms))

    def _note_hole(self, hole: Stretch) -> None:
        self._note(AgentAudioLost(at_ns=hole.at_ns, duration_ms=round(hole.duration_ms, 3)))

    def _note_late(self, late: Stretch) -> None:
        self._note(
            AgentAudioLate(at_ns=late.at_ns, duration_ms=round(late.duration_ms, 3), late_ms=round(late.late_ms, 3))
        )

    def caller_audio_lost(self, at_ns: int, *, since_ns: int, lost: int, packets: int) -> None:
        """Note that the agent missed some of the caller's audio."""
        self._note(CallerAudioLost(at_ns=at_ns, since_ns=since_ns, lost=lost, packets=packets))

    def agent_joined(self, at_ns: int, participant: str | None) -> None:
        """Note that the agent is there."""
        self._note(AgentJoined(at_ns=at_ns, participant=participant))

    def media_not_connected(self, at_ns: int, *, waited_ms: float, sending: bool, receiving: bool) -> None:
        """Note that the call goes on without a media connection."""
        self._note(
            MediaNotConnected(at_ns=at_ns, waited_ms=round(waited_ms, 3), sending=sending, receiving=receiving)
        )

    def agent_left(self, at_ns: int, detail: str | None) -> None:
        """Note that the agent left; the call is over."""
        self._note(AgentLeft(at_ns=at_ns, detail=detail))
        self._end(EndedReason.AGENT_LEFT, None)

    def agent_media_stopped(self, at_ns: int) -> None:
        """Note that nothing arrives any more."""
        self._note(AgentMediaStopped(at_ns=at_ns))

    def agent_media_resumed(self, at_ns: int) -> None:
        """Note that packets arrive again."""
        self._note(AgentMediaResumed(at_ns=at_ns))

    def agent_probed(self, at_ns: int, *, answers: bool | None) -> None:
        """Note whether the agent's address still takes connections."""
        self._note(AgentProbed(at_ns=at_ns, answers=answers))

    def message_received(self, at_ns: int, message: Any) -> None:
        """Note what a message says."""
        for event in map(self._without_secrets, self._reader.facts(at_ns, message)):
            if isinstance(event, MessageReceived):
                self._messages_kept += 1
                self._message_characters += len(json.dumps(event.message, ensure_ascii=False))
                if self._messages_kept > MAX_MESSAGES or self._message_characters > MAX_MESSAGE_CHARACTERS:
                    self._warn(
                        f"the agent sent more than {MAX_MESSAGES} messages, or {MAX_MESSAGE_CHARACTERS} characters "
                        "in them: the rest are not on the timeline"
                    )
                    continue
            self._note(event)
            if isinstance(event, BotReady):
                self._agent_is_ready.set()

    def _without_secrets(self, event: TimelineEvent) -> TimelineEvent:
        """Return what the agent sent without the data message's secrets: some send back what they were sent.

        What it says or does stays as it is: that is judged.
        """
        if not self._secrets:
            return event
        if isinstance(event, AgentError):
            return event.model_copy(update={"text": masked(event.text, self._secrets)})
        if isinstance(event, MessageReceived) and rtvi.is_of_the_application(event.message):
            return event.model_copy(update={"message": masked_within(event.message, self._secrets)})
        return event

    def room_lost(self, error: RoomError) -> None:
        """End the call: the room is of no use any more."""
        self._end(error.reason, str(error))

    # What the pipeline reports (PipelineListener).

    def speech_reported(self, at_ns: int) -> None:
        """Note where the agent's speech began."""
        self._onset_ns = at_ns
        if self._turn_onset_ns is None:
            self._turn_onset_ns = at_ns
        self._note(AgentStartedSpeaking(at_ns=at_ns))
        self._agent_is_ready.set()

    def silence_reported(self, at_ns: int) -> None:
        """Note where the agent's speech ended."""
        self._onset_ns = None
        self._last_end_ns = at_ns
        self._note(AgentStoppedSpeaking(at_ns=at_ns))

    def turn_ended(self) -> None:
        """Note that the agent's turn is over."""
        self._note(AgentTurnEnded(at_ns=self._clock.now_ns()))
        # Speech that is under way already is the beginning of the next turn.
        onset_ns, self._turn_onset_ns = self._turn_onset_ns, self._onset_ns
        if onset_ns is not None and onset_ns != self._onset_ns and self._words_are_missing(onset_ns):
            self._recognition.ask((onset_ns, self._last_end_ns))

    # The course of the call.

    async def _hold_call(self) -> None:
        async with httpx.AsyncClient() as http, anyio.create_task_group() as tasks:
            self._scope = tasks.cancel_scope
            if self._ending is not None:
                self._scope.cancel()
            tasks.start_soon(self._keep_recording)
            tasks.start_soon(self._stalls.run)
            tasks.start_soon(self._processor.run)
            tasks.start_soon(self._recognise_live)
            tasks.start_soon(self._judge_live)
            tasks.start_soon(self._think)
            room: Room | None = None
            try:
                room = await self.surroundings.open_room(
                    self.request.address,
                    self.settings.room,
                    clock=self._clock,
                    listener=self,
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
            self._holes.flush()
            self._late.flush()
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
        with anyio.move_on_after(self.settings.room.agent_join_timeout_s) as waiting:
            await room.wait_for_agent()
        if waiting.cancelled_caught:
            limit_s = self.settings.room.agent_join_timeout_s
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
            await self._agent_is_ready.wait()
        self._calibrate(room)
        await self._conduct(room, pipeline)

    def _processor_watch(self) -> ProcessorWatch:
        shared = self.request.address.runs_here or leads_here(self.request.address.url)
        return ProcessorWatch(self._clock, self._note, self.surroundings.processor_times, shared=shared)

    def _calibrate(self, room: Room) -> None:
        """Note what our own side adds to what is measured, as far as it has shown by now."""
        timely = room.timeliness()
        self._note(
            CallCalibrated(
                at_ns=self._clock.now_ns(),
                loop_lag_ms=self._stalls.lags.worst_ms,
                send_lag_ms=timely.send_lag_ms,
                arrival_jitter_ms=timely.arrival_jitter_ms,
                library_ms=timely.library_ms,
            )
        )

    async def _conduct(self, room: Room, pipeline: CallerPipeline) -> None:
        """Let the body act, until it hangs up or the call ends otherwise."""
        body = self._body
        await self._carry_out(body.begin(self._clock.now_ns()), room, pipeline)
        while not body.ended:
            wake_ns = min(body.wake_at_ns or 0, self._recheck_ns or math.inf)
            event: TimelineEvent | None = None
            with anyio.move_on_after(max(wake_ns - self._clock.now_ns(), 0) / NS_PER_S):
                event = await self._conducted.receive()
            self._stalls.look()
            now_ns = self._clock.now_ns()
            actions = body.tick(now_ns) if event is None else body.fact(event, now_ns)
            await self._carry_out(actions, room, pipeline)
            if event is None or names_of(event) or isinstance(event, _SETTLES):
                await self._carry_out(self._settle(body), room, pipeline)

    async def _think(self) -> None:
        if self.mind is not None:
            await self.mind.think(lambda: self._to_conduct.send_nowait(None))

    async def _carry_out(self, actions: Sequence[Action], room: Room, pipeline: CallerPipeline) -> None:
        for action in actions:
            match action:
                case StartTurn(turn):
                    self._note(CallerTurnStarted(at_ns=self._clock.now_ns(), turn=turn))
                case Say(turn):
                    line = self._lines[turn] if turn in self._lines else await self._late_line(turn)
                    self._mouth.begin(turn, line)
                    await pipeline.say(line.pcm, AUDIO_RATE_HZ)
                case Press(turn, keys):
                    await room.send_client_message(rtvi.dtmf(keys))
                    self._note(CallerPressedKeys(at_ns=self._clock.now_ns(), turn=turn, keys=keys))
                case HangUp(reason, detail):
                    self._end(reason, detail)

    async def _late_line(self, turn: int) -> Line:
        """Return the audio of a line that was decided in the call."""
        alone = self._script.model_copy(update={"turns": (self._body.turns[turn],)})
        return (await speech_lines(alone, self.settings))[0]

    def _settle(self, body: Body) -> list[Action]:
        """Tell the body when everything its turn expects is decided."""
        self._recheck_ns = None
        turn = body.turn
        if body.ended or turn >= len(body.turns) or turn in self._settled:
            return []
        scripted = body.turns[turn]
        if not scripted.expect or turn not in self._view.starts:
            return []
        now_ns = self._clock.now_ns()
        verdicts = evaluate_turn(turn, scripted, self._view, judgements=self._known_judgements(), now_ns=now_ns)
        for verdict in verdicts:
            if verdict.question is not None and verdict.question not in self._asked:
                self._asked.add(verdict.question)
                self._to_judge.send_nowait(verdict.question)
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
        self._note(CallerTurnSettled(at_ns=now_ns, turn=turn, failed=failed))
        return body.settled(turn, failed=failed, now_ns=now_ns)

    def _may_still_answer(self, turn: int, now_ns: int) -> bool:
        """Whether to go on listening in a turn that has failed.

        An answer that is late tells more than none, and speech that has just begun can't be measured yet.
        """
        failed_ns = self._failed_ns.setdefault(turn, now_ns)
        if not self.request.script.stop_on_failure:
            return False
        handed_over = self._view.handed_over(turn)
        from_ns = self._view.starts[turn] if handed_over is None else handed_over.at_ns
        over = self._view.turn_ended_between(from_ns, now_ns)
        until_ns = failed_ns + LATE_ANSWER_NS
        if over or now_ns >= until_ns or self._view.of(AgentLeft):
            return False
        self._recheck_ns = until_ns
        return True

    @asynccontextmanager
    async def _running_pipeline(self, room: Room, tasks: TaskGroup) -> AsyncGenerator[CallerPipeline]:
        pipeline = CallerPipeline(room.transport, self.request.script.turn_taking, self)
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
        if ask is None or ending is None:
            return
        if ending.reason not in (EndedReason.AGENT_LEFT, EndedReason.AGENT_VANISHED):
            return
        state = None
        with anyio.move_on_after(SESSION_STATE_LIMIT_S):
            state = await ask()
        if state is not None:
            self._write(AgentSessionEnded(at_ns=ending.at_ns, state=state))

    # Measures.

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

    # Words.

    def _words_are_missing(self, onset_ns: int) -> bool:
        """Whether the script waits for words, and what the agent told of the turn that began then is no proof."""
        return self._script.needs_words and words_are_in_doubt(self._view, onset_ns)

    async def _recognise_live(self) -> None:
        await self._agent_is_ready.wait()
        if self._script.needs_words and not any(isinstance(fact, BotReady) for fact in self._facts):
            # It speaks no RTVI, and will tell no words.
            await self._recognition.get_ready()
        await self._recognition.run()

    async def _recognise_rest(self) -> None:
        """Recognise, from the recording, what was not recognised while the call was on."""
        if self._ending is not None and self._ending.reason is EndedReason.CANCELLED:
            return
        turns = unrecognised(CallView.measured(self._facts), self._recognition.turns)
        await self._recognition.finish(turns, lambda share: self._tell(Afterwards.RECOGNISING, share))

    # Judgements.

    def _known_judgements(self) -> dict[Question, Judgement] | None:
        return None if self.judge is None else self._judgements

    async def _judge_live(self) -> None:
        async for question in self._questions:
            await self._ask(question)
            self._to_conduct.send_nowait(None)

    async def _judge_rest(self) -> None:
        """Ask what could not be asked while the call was on."""
        if self._ending is not None and self._ending.reason is EndedReason.CANCELLED:
            return
        while self.judge is not None:
            verdicts = judge_expectations(self._script, self._facts, self._judgements)
            open_questions = [v.question for v in verdicts if v.question is not None]
            if not open_questions:
                return
            for number, question in enumerate(open_questions):
                self._tell(Afterwards.JUDGING, number / len(open_questions))
                await self._ask(question)

    async def _ask(self, question: Question) -> None:
        if self.judge is None:
            return
        try:
            self._judgements[question] = await self.judge.ask(question, self._facts)
        except Exception as error:
            logger.opt(exception=True).debug("the judge failed")
            reason = f"our own error: {type(error).__name__}"
            self._judgements[question] = Judgement(question=question, answer="none", reason=reason)

    # Facts and the end.

    def _note(self, event: TimelineEvent) -> None:
        """Write down a fact, and let everybody know who goes by it."""
        if self._ending is not None and event.at_ns > self._ending.at_ns and not isinstance(event, AgentSaid):
            return
        self._write(event)
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._to_conduct.send_nowait(event)

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
