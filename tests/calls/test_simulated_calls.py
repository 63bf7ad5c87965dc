"""What a call writes down is where it says it is: in a simulated room, where what the agent did is known exactly."""

import wave
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from bots.caller.mind import Conversation, Goodbye
from bots.caller.script import AgentHeardFor, Expectation, Script, Speak, Turn, Words
from bots.timeline import (
    AgentStartedSpeaking,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    DataMessagePublished,
    MessageReceived,
    TimelineEvent,
)
from runner.calls.recording import read_recording
from runner.calls.request import CallRequest, DataMessage
from runner.calls.run_file import read_run
from runner.calls.timeline import read_timeline
from runner.evaluation.outcome import Status
from runner.settings import Settings
from tests.simulated.agent import Behaviour, OneSentence
from tests.simulated.call import ADDRESS, Simulation
from tests.simulated.virtual_time import run_virtually

ANSWERED = (Expectation(within_ms=10_000),)
ROOM = Simulation(behaviour=Behaviour(dialogue=OneSentence))


def say(text: str, **turn: object) -> Turn:
    return Turn.model_validate({"action": Speak(parts=(Words(text=text),)), "expect": ANSWERED, **turn})


def facts_of(folder: Path, *turns: Turn) -> list[TimelineEvent]:
    ROOM.play(Script(name="test", turns=turns), folder)
    return read_timeline(folder / "timeline.jsonl")


def test_a_position_in_the_recording_is_a_time_in_the_timeline(tmp_path: Path) -> None:
    facts = facts_of(tmp_path / "run", say("Hello, are you there?"))
    samples, rate_hz = read_recording(tmp_path / "run" / "recording.wav")
    caller, agent = abs(samples.astype(int))
    edges = [e for e in facts if isinstance(e, CallerStartedSpeaking | AgentStartedSpeaking)]
    assert {type(e) for e in edges} == {CallerStartedSpeaking, AgentStartedSpeaking}
    for event in edges:
        channel = caller if isinstance(event, CallerStartedSpeaking) else agent
        at = round(event.at_s * rate_hz)
        window = rate_hz // 50
        assert channel[at : at + 2 * window].max() > 100, f"no sound at {event}"
        assert channel[at - 3 * window : at - window].max() < 100, f"sound before {event}"


def test_a_barge_in_comes_so_long_after_the_agent_is_heard(tmp_path: Path) -> None:
    stop = say("Stop!", start=AgentHeardFor(duration_ms=600))
    facts = facts_of(tmp_path / "run", say("Hello there."), stop)
    ended_ns = next(e.at_ns for e in facts if isinstance(e, CallerStoppedSpeaking))
    onset_ns = next(e.at_ns for e in facts if isinstance(e, AgentStartedSpeaking) and e.at_ns > ended_ns)
    barge_in_ns = next(e.at_ns for e in facts if isinstance(e, CallerStartedSpeaking) and e.turn == 1)
    assert (barge_in_ns - onset_ns) / 1e6 == pytest.approx(600, abs=60)


def test_secrets_of_a_data_message_show_nowhere_even_sent_back(tmp_path: Path) -> None:
    message = {"type": "hello", "user": "Annabel", "session": {"token": "pl4nted"}, "table": 4}
    request = CallRequest(
        Script(name="test", turns=(say("Hello there."),)), ADDRESS, DataMessage(message), transcribe=False
    )
    made = ROOM.prepare(request, tmp_path / "run", settings=Settings(redact_keys=["user"]))
    run_virtually(made.clock, made.call.make)
    facts = read_timeline(tmp_path / "run" / "timeline.jsonl")
    shown = {"type": "hello", "user": "***", "session": {"token": "***"}, "table": 4}
    published = read_run(tmp_path / "run").publish_data_message
    assert published is not None and published.message == shown
    assert [fact.message for fact in facts if isinstance(fact, DataMessagePublished)] == [shown]
    sent_back = [
        fact.message["data"] for fact in facts if isinstance(fact, MessageReceived) and "data" in fact.message
    ]
    assert [data["message"] for data in sent_back if data.get("type") == "data-message-received"] == [shown]
    for path in (tmp_path / "run").iterdir():
        assert b"pl4nted" not in path.read_bytes() and b"Annabel" not in path.read_bytes(), path


def test_what_the_request_hides_is_not_shown(tmp_path: Path) -> None:
    message = DataMessage({"type": "hello", "plan": "gold", "token": "pl4nted"}, {"type": "hello", "plan": "***"})
    request = CallRequest(Script(name="test", turns=(say("Hello there."),)), ADDRESS, message, transcribe=False)
    made = ROOM.prepare(request, tmp_path / "run")
    published = run_virtually(made.clock, made.call.make).publish_data_message
    assert published is not None and published.message == {"type": "hello", "plan": "***"}


def test_a_call_cut_off_from_outside_still_writes_its_run(tmp_path: Path) -> None:
    request = CallRequest(Script(name="test", turns=(say("Hello there."),)), ADDRESS)
    made = ROOM.prepare(request, tmp_path / "run")

    async def cut_off() -> None:
        with anyio.move_on_after(2.5):
            await made.call.make()

    run_virtually(made.clock, cut_off)
    run = read_run(tmp_path / "run")
    assert run.status is Status.CANCELLED
    with wave.open(str(tmp_path / "run" / "recording.wav")) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(run.duration_s, abs=0.05)


class ThinksFor:
    """A mind that decides on its lines in the call: some seconds after the agent has had its say."""

    def __init__(self, lines: tuple[Turn, ...], thinking_s: float):
        self.lines, self.thinking_s = lines, thinking_s
        self.decided: list[Turn | Goodbye] = []
        self.wanted = anyio.Event()

    def next(self, conversation: Conversation) -> Turn | Goodbye | None:
        if conversation.reply_owed or not conversation.agent_turn_over:
            return None
        if not self.decided:
            self.wanted.set()
            return None
        return self.decided.pop()

    async def think(self, wake: Callable[[], None]) -> None:
        for line in (*self.lines, Goodbye()):
            await self.wanted.wait()
            await anyio.sleep(self.thinking_s)
            self.wanted = anyio.Event()
            self.decided.append(line)
            wake()


@pytest.mark.parametrize("thinking_s", [0.0, 5.0])
def test_a_latency_is_the_same_however_long_the_caller_thinks(tmp_path: Path, thinking_s: float) -> None:
    lines = (say("Hello, are you there?"), say("A table for two, please."))
    script = Script(name="test", turns=lines)
    by_script = ROOM.play(script, tmp_path / "script")
    request = CallRequest(script.model_copy(update={"turns": lines[:1]}), ADDRESS)
    made = ROOM.prepare(request, tmp_path / "run", mind=ThinksFor(lines, thinking_s), comes_to=script)
    run = run_virtually(made.clock, made.call.make)
    assert run.success and run.script is not None and run.script.turns == lines
    for mine, theirs in zip(run.turns, by_script.turns, strict=True):
        assert mine.response_latency_ms == pytest.approx(theirs.response_latency_ms, abs=10)
    # Before the first line it thinks while it waits for a greeting.
    assert run.duration_s - by_script.duration_s == pytest.approx(max(3 * thinking_s - 3, 0), abs=0.7)
