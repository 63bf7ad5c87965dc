"""Whole calls in a Daily room, against a stand-in for Daily's library: what a run comes to, from join to leave."""

import os
import re
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import anyio
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import SecretStr

from bots.caller.script import Expectation, Listen, PressKeys, Script, Speak, Turn, TurnTaking, Words
from bots.caller.speech.voice import Voice
from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import (
    AgentAudioLost,
    AgentJoined,
    AgentLeft,
    AgentMediaStopped,
    AgentSessionEnded,
    BotReady,
    CallEnded,
    CallerPressedKeys,
    CallerStoppedSpeaking,
    ClientReadySent,
    DataMessagePublished,
    EndedReason,
    MachineBusy,
    MessageReceived,
    RoomEntered,
    TimelineEvent,
)
from runner.calls.call import Call
from runner.calls.recording import AGENT, CALLER, FILE_NAME, read_recording
from runner.calls.request import CallRequest, DataMessage
from runner.calls.run_file import Run, read_run
from runner.calls.timeline import read_timeline
from runner.evaluation.failure import FailureKind
from runner.evaluation.outcome import Status
from runner.evaluation.verdicts import Cause
from runner.rooms.base import AUDIO_RATE_HZ
from runner.rooms.open import RoomAddress
from runner.settings import Settings
from tests.doubles.daily import HeardBlock, Meeting, fake_daily
from tests.patience import best_of_three

pytestmark = pytest.mark.anyio

URL = "https://example.daily.co/room"
TOKEN = "eyJhbGciOi.very-secret.token"
GREETING = "How can I help you?"
ANSWER = "For how many people?"
CONFIRMATION = "Thank you and goodbye."
REQUEST = "A table for tonight, please."

ANSWER_AFTER_S = 0.4
LEAVES_AFTER_S = 1.0
"""So much silence tells the greeting from what may be behind it."""
LOUD = 1_000


Fact = TypeVar("Fact", bound=TimelineEvent)


def rtvi(kind: str, data: Any = None) -> dict[str, Any]:
    return {"label": "rtvi-ai", "type": kind, "id": "1", "data": data}


class Agent:
    """An agent in the meeting: greets its client, answers once the caller has spoken, thanks for keys."""

    def __init__(self, meeting: Meeting, lines: dict[str, bytes], *, leaves: bool = False):
        self._meeting = meeting
        self._lines = lines
        self._leaves = leaves
        self._to_say = b""
        self._answers = 0
        self._has_greeted = False
        self._quiet_samples = 0
        self.inbox: list[Any] = []
        self.participant = meeting.add("Bella", source=self._speak)
        meeting.on_sent = self._receive

    def say(self, text: str) -> None:
        self._to_say += self._lines[text]
        self._has_greeted = True
        self.participant.send(rtvi("bot-transcription", {"text": text}))

    def _receive(self, message: Any) -> None:
        self.inbox.append(message)
        match message:
            case {"label": "rtvi-ai", "type": "client-ready"}:
                self.participant.send(rtvi("bot-ready", {"version": "1.0.0"}))
                self.say(GREETING)
            case {"label": "rtvi-ai", "type": "dtmf", "data": {"buttons": buttons}}:
                self.participant.send({"pressed": buttons})
                self.say(CONFIRMATION)
            case _:
                pass

    def _speak(self, first: int, count: int, rate_hz: int) -> bytes:
        assert rate_hz == AUDIO_RATE_HZ
        if not self._to_say and not self._answers and self._caller_has_spoken():
            self._answers += 1
            self.say(ANSWER)
        pcm, self._to_say = self._to_say[: 2 * count], self._to_say[2 * count :]
        if self._leaves and self._has_greeted and not self._to_say:
            self._quiet_samples += count
            if self._quiet_samples > LEAVES_AFTER_S * rate_hz:
                self.participant.leave()
        return pcm.ljust(2 * count, b"\0")

    def _caller_has_spoken(self) -> bool:
        heard = self._meeting.heard
        return not any(map(is_loud, heard[-round(ANSWER_AFTER_S * 100) :])) and any(map(is_loud, heard))


def is_loud(block: HeardBlock) -> bool:
    return loud_samples(np.frombuffer(block.pcm, np.int16)) > 0


def loud_samples(samples: npt.NDArray[np.int16]) -> int:
    return int(np.count_nonzero(np.abs(samples.astype(np.int32)) > LOUD))


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    with fake_daily(monkeypatch, Meeting(url=URL, token=TOKEN)) as meeting:
        yield meeting


@pytest.fixture
async def lines() -> dict[str, bytes]:
    """What the agent says, as sound: the caller tells speech from noise."""
    texts = (GREETING, ANSWER, CONFIRMATION)
    made = await Voice(Settings().speech).synthesise([Speak(parts=(Words(text=text),)) for text in texts])
    return {text: line.pcm for text, line in zip(texts, made, strict=True)}


def told(words: str) -> tuple[Expectation, ...]:
    return (Expectation(within_ms=20_000, text_contains=words),)


BRISK = TurnTaking(end_of_turn_ms=500)
CONVERSATION = Script(
    name="booking",
    turns=(
        Turn(action=Listen(), expect=told("how can i help")),
        Turn(action=Speak(parts=(Words(text=REQUEST),)), expect=told("for how many people")),
        Turn(action=PressKeys(keys="2#"), expect=told("goodbye")),
    ),
    turn_taking=BRISK,
)
WAITING = Script(
    name="waiting",
    turns=(Turn(action=Listen(), expect=told("how can i help")), Turn(action=Listen(), expect=told("never said"))),
    turn_taking=BRISK,
)
SECRET = "planted-in-the-message"
MESSAGE = {"customer": {"name": "Zoë", "visits": [1, None, 2.5], "api_key": SECRET}, "type": 7}
SHOWN = {**MESSAGE, "customer": {"name": "Zoë", "visits": [1, None, 2.5], "api_key": "***"}}


async def make(
    folder: Path, played: Script, *, token: str = TOKEN, meanwhile: Callable[[], Any] | None = None, **request: Any
) -> tuple[Run, list[TimelineEvent]]:
    address = RoomAddress(URL, SecretStr(token))
    call = Call(CallRequest(played, address, transcribe=False, **request), Settings(), folder)
    async with anyio.create_task_group() as tasks:
        if meanwhile is not None:
            tasks.start_soon(meanwhile)
        run = await call.make()
        tasks.cancel_scope.cancel()
    assert read_run(folder).model_dump() == run.model_dump()
    assert files_with(folder, TOKEN) == [] and files_with(folder, SECRET) == []
    return run, read_timeline(folder / "timeline.jsonl")


def files_with(folder: Path, text: str) -> list[str]:
    return [path.name for path in folder.iterdir() if text.encode() in path.read_bytes()]


def only(facts: list[TimelineEvent], kind: type[Fact]) -> Fact:
    (fact,) = [fact for fact in facts if isinstance(fact, kind)]
    return fact


async def once(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.01)


async def test_a_conversation_from_join_to_leave(meeting: Meeting, lines: dict[str, bytes], tmp_path: Path) -> None:
    agent = Agent(meeting, lines)
    meeting.add("an observer", audio=False)
    run, facts = await make(tmp_path / "run", CONVERSATION, data_message=DataMessage(MESSAGE))

    assert (run.status, run.success, run.cause) == (Status.COMPLETED, True, None), run.detail
    assert run.ended_reason is EndedReason.CALLER_HUNG_UP
    assert [verdict.verdict.value for verdict in run.expectations] == ["met"] * 3

    assert only(facts, AgentJoined).participant == "Bella"
    assert only(facts, BotReady).protocol_version == "1.0.0"
    in_order = (RoomEntered, DataMessagePublished, ClientReadySent, CallerPressedKeys, CallEnded)
    assert tuple(type(fact) for fact in facts if isinstance(fact, in_order)) == in_order

    # Sent by the caller: the data message once, to everyone and unchanged; then RTVI.
    assert meeting.dropped == []
    assert {sent.participant_id for sent in meeting.sent} == {None}
    assert agent.inbox[0] == MESSAGE
    assert [message["type"] for message in agent.inbox[1:]] == ["client-ready", "dtmf"]
    assert agent.inbox[2]["data"] == {"buttons": ["2", "#"]}
    assert only(facts, DataMessagePublished).message == SHOWN
    assert run.publish_data_message is not None and run.publish_data_message.message == SHOWN
    assert only(facts, MessageReceived).message == {"pressed": ["2", "#"]}

    # The agent answered a known time after the caller's last sample. Late can be the caller's end, the agent's
    # waiting, and its beginning.
    latency_ms = run.turns[1].response_latency_ms
    slack_ms = 250 + 3 * meeting.late_ns / NS_PER_MS
    assert latency_ms is not None and abs(latency_ms - 1000 * ANSWER_AFTER_S) < slack_ms

    with wave.open(str(tmp_path / "run" / FILE_NAME)) as file:
        assert (file.getnchannels(), file.getframerate()) == (2, AUDIO_RATE_HZ)
        assert file.getnframes() / AUDIO_RATE_HZ == pytest.approx(run.duration_s, abs=0.3)
    recorded, _ = read_recording(tmp_path / "run" / FILE_NAME)
    said = np.frombuffer(b"".join(lines.values()), np.int16)
    assert loud_samples(recorded[AGENT]) == pytest.approx(loud_samples(said), rel=0.2)
    sent = np.frombuffer(b"".join(block.pcm for block in meeting.heard), np.int16)
    assert loud_samples(recorded[CALLER]) == loud_samples(sent) > 0
    end = only(facts, CallerStoppedSpeaking).at_ns * AUDIO_RATE_HZ // NS_PER_S
    assert loud_samples(recorded[CALLER][end - AUDIO_RATE_HZ // 2 : end])
    assert not loud_samples(recorded[CALLER][end + AUDIO_RATE_HZ // 20 :])

    assert not any(client.joined for client in meeting.clients)
    assert any(client.left for client in meeting.clients)


async def test_how_a_session_ended_is_asked_where_the_agent_left(
    meeting: Meeting, lines: dict[str, bytes], tmp_path: Path
) -> None:
    known: list[str] = []

    async def end_state() -> str:
        known.append((tmp_path / "run" / "timeline.jsonl").read_text())
        return "agent_error"

    Agent(meeting, lines, leaves=True)
    run, facts = await make(tmp_path / "run", WAITING, session_end_state=end_state)
    assert "recording_measured" in known[0], "whoever does not wait for the answer has the measures"
    assert only(facts, AgentSessionEnded).state == "agent_error"
    # A process that stood still in this short call can blame nobody.
    crashed = run.failure is not None and run.failure.kind is FailureKind.CRASHED
    assert (run.success is False and crashed) or run.cause is Cause.HARNESS, (run.detail, run.warnings)


@best_of_three
async def test_what_a_halted_machine_held_up_is_in_the_recording(
    meeting: Meeting, lines: dict[str, bytes], tmp_path: Path
) -> None:
    agent = Agent(meeting, lines, leaves=True)

    async def stand_still() -> None:
        left = len(lines[GREETING]) * 3 // 4
        await once(lambda: 0 < len(agent._to_say) < left)
        # The whole process, with the threads of the library.
        me = os.getpid()
        await anyio.run_process(["sh", "-c", f"kill -STOP {me}; sleep 0.9; kill -CONT {me}"])

    run, facts = await make(tmp_path / "run", WAITING, meanwhile=stand_still)
    assert run.ended_reason is EndedReason.AGENT_LEFT
    recorded, _ = read_recording(tmp_path / "run" / FILE_NAME)
    said = np.frombuffer(lines[GREETING], np.int16)
    if any(isinstance(fact, MachineBusy) for fact in facts):
        # Others had its processor as well: some of it may be lost, and that is told.
        told = any(isinstance(fact, AgentAudioLost) for fact in facts)
        assert told or loud_samples(recorded[AGENT]) > 0.9 * loud_samples(said)
    else:
        assert loud_samples(recorded[AGENT]) == pytest.approx(loud_samples(said), rel=0.1)


async def test_an_agent_that_leaves(meeting: Meeting, lines: dict[str, bytes], tmp_path: Path) -> None:
    Agent(meeting, lines, leaves=True)
    run, facts = await make(tmp_path / "run", WAITING)
    assert run.ended_reason is EndedReason.AGENT_LEFT
    assert only(facts, AgentLeft).detail == "left the call"
    # A process that stood still in this short call can blame nobody.
    assert run.success is False or run.cause is Cause.HARNESS, (run.detail, run.warnings)
    missed = "missed" if run.success is False else "not_judged"
    assert [verdict.verdict.value for verdict in run.expectations] == ["met", missed]


async def test_a_killed_agent_reads_as_one_that_hung_up_or_crashed(
    meeting: Meeting, lines: dict[str, bytes], tmp_path: Path
) -> None:
    """The library makes zeros of its own in its place: until Daily drops it nobody can know."""
    agent = Agent(meeting, lines)

    async def kill() -> None:
        await once(lambda: bool(agent.inbox))
        await anyio.sleep(0.5)
        agent.participant.be_killed()
        await anyio.sleep(3.0)
        agent.participant.leave()

    run, facts = await make(tmp_path / "run", WAITING, meanwhile=kill)
    assert run.ended_reason is EndedReason.AGENT_LEFT
    assert not [fact for fact in facts if isinstance(fact, AgentMediaStopped)]
    told = only(facts, AgentLeft).detail
    assert told is not None and re.fullmatch(r"left the call, after [23]\.\d s of digital silence", told)
    # A process that stood still in this short call can blame nobody.
    assert run.success is False or run.cause is Cause.HARNESS, (run.detail, run.warnings)


async def test_an_agent_that_sends_nothing_is_reported_in_time(
    meeting: Meeting, lines: dict[str, bytes], tmp_path: Path
) -> None:
    agent = Agent(meeting, lines)
    stopped_s: list[float] = []

    async def stop() -> None:
        await once(lambda: bool(agent.inbox))
        await anyio.sleep(0.5)
        agent.participant.delivering = False
        stopped_s.append(time.monotonic())

    run, facts = await make(tmp_path / "run", WAITING, meanwhile=stop)
    assert time.monotonic() - stopped_s[0] < 15
    assert (run.ended_reason, run.cause, run.success) == (EndedReason.AGENT_VANISHED, Cause.NETWORK, None)
    # Past the limit of 3.5 s by less than the second for which we take the blame ourselves.
    assert run.detail is not None and re.search(r"nothing has arrived from the agent for [34]\.\d s", run.detail)
    assert only(facts, CallEnded).at_ns - only(facts, AgentMediaStopped).at_ns >= 3.5 * NS_PER_S
    assert not [fact for fact in facts if isinstance(fact, AgentLeft)]


async def test_a_caller_that_is_put_out(meeting: Meeting, lines: dict[str, bytes], tmp_path: Path) -> None:
    agent = Agent(meeting, lines)

    async def eject() -> None:
        await once(lambda: bool(agent.inbox))
        meeting.eject("Meeting has ended")

    run, _ = await make(tmp_path / "run", WAITING, meanwhile=eject)
    assert (run.ended_reason, run.cause) == (EndedReason.ROOM_UNREACHABLE, Cause.ROOM)
    assert run.detail is not None and "(Meeting has ended)" in run.detail


async def test_a_token_that_is_refused(meeting: Meeting, tmp_path: Path) -> None:
    run, facts = await make(tmp_path / "run", WAITING, token="another")
    assert (run.ended_reason, run.cause, run.success) == (EndedReason.TOKEN_REFUSED, Cause.ROOM, None)
    assert run.detail is not None and "401 Unauthorized" in run.detail
    assert files_with(tmp_path / "run", "another") == []
    assert not [fact for fact in facts if isinstance(fact, RoomEntered)]
    assert meeting.sent == meeting.dropped == []


async def test_an_agent_that_never_comes(meeting: Meeting, tmp_path: Path) -> None:
    meeting.add("an observer", audio=False)
    settings = Settings()
    settings = settings.model_copy(update={"room": settings.room.model_copy(update={"agent_join_timeout_s": 0.3})})
    request = CallRequest(WAITING, RoomAddress(URL, SecretStr(TOKEN)), DataMessage(MESSAGE))
    run = await Call(request, settings, tmp_path / "run").make()
    assert (run.ended_reason, run.cause) == (EndedReason.AGENT_NEVER_JOINED, Cause.AGENT)
    assert meeting.sent == meeting.dropped == []
    assert not any(client.joined for client in meeting.clients)
