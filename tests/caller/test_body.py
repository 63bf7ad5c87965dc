"""Conversations played through with a virtual clock."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.caller.body import Action, Body, HangUp, Press, Say, StartTurn
from bots.caller.mind import Conversation as SoFar
from bots.caller.mind import Goodbye, Mind
from bots.caller.script import (
    AfterEvent,
    AfterSilence,
    AgentHeardFor,
    Expectation,
    Listen,
    PressKeys,
    Script,
    Speak,
    StaySilent,
    Turn,
    TurnTaking,
    Words,
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
    Source,
    TimelineEvent,
)
from tests.examples import examples

LINE_S = 2.0
END_OF_TURN_S = 0.8


def speak(text: str = "A table for two, please.", **turn: object) -> Turn:
    return Turn(action=Speak(parts=(Words(text=text),)), **turn)  # type: ignore[arg-type]


def script(*turns: Turn, **options: object) -> Script:
    return Script(name="test", turns=turns, **options)  # type: ignore[arg-type]


@dataclass
class Conversation:
    """Drives a body the way a call does: lines take time, wake-ups are kept, expectations settle."""

    script: Script
    mind: Mind | None = None
    now_s: float = 0.0
    log: list[tuple[float, Action]] = field(default_factory=list)
    _due: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    agent_speaking: bool = False

    def __post_init__(self) -> None:
        self.body = Body(self.script, self.mind)
        self._take(self.body.begin(self._ns()))

    def _ns(self) -> int:
        return round(self.now_s * NS_PER_S)

    def _take(self, actions: list[Action]) -> None:
        for action in actions:
            self.log.append((round(self.now_s, 3), action))
            if isinstance(action, Say):
                self._fact(CallerStartedSpeaking(at_ns=self._ns(), turn=action.turn, text=""))
                self._later(LINE_S, lambda t=action.turn: self._fact(CallerStoppedSpeaking(at_ns=self._ns(), turn=t)))
            elif isinstance(action, Press):
                turn = action.turn
                self._later(
                    0.01,
                    lambda t=turn, k=action.keys: self._fact(CallerPressedKeys(at_ns=self._ns(), turn=t, keys=k)),
                )

    def _later(self, delay_s: float, what: Callable[[], None]) -> None:
        self._due.append((self.now_s + delay_s, what))
        self._due.sort(key=lambda entry: entry[0])

    def _fact(self, event: TimelineEvent) -> None:
        self._take(self.body.fact(event, self._ns()))

    def until(self, end_s: float) -> None:
        """Let time pass, waking the body exactly when it asks for it."""
        while True:
            wake_ns = self.body.wake_at_ns
            wake_s = float("inf") if wake_ns is None else wake_ns / NS_PER_S
            due_s = self._due[0][0] if self._due else float("inf")
            next_s = min(wake_s, due_s)
            if next_s > end_s:
                break
            self.now_s = max(self.now_s, next_s)
            if due_s <= wake_s:
                self._due.pop(0)[1]()
            else:
                self._take(self.body.tick(self._ns()))
        self.now_s = end_s

    def speaks(self, start_s: float, end_s: float) -> None:
        self.starts(start_s)
        self.stops(end_s)

    def starts(self, start_s: float) -> None:
        self.until(start_s)
        self.agent_speaking = True
        self._fact(AgentStartedSpeaking(at_ns=self._ns()))

    def stops(self, end_s: float) -> None:
        self.until(end_s)
        self.agent_speaking = False
        self._fact(AgentStoppedSpeaking(at_ns=self._ns()))

        def turn_over() -> None:
            if not self.agent_speaking:
                self._fact(AgentTurnEnded(at_ns=self._ns()))

        self._later(END_OF_TURN_S, turn_over)

    def hears(self, event: TimelineEvent) -> None:
        self._fact(event)

    def settle(self, turn: int, failed: bool = False) -> None:
        self._take(self.body.settled(turn, failed=failed, now_ns=self._ns()))

    def said_at(self, turn: int) -> float | None:
        return next((at for at, action in self.log if action == Say(turn)), None)

    @property
    def hung_up(self) -> tuple[float, HangUp] | None:
        return next(((at, a) for at, a in self.log if isinstance(a, HangUp)), None)


def played(scenario: Script, steps: str) -> Conversation:
    """Play a conversation.

    Of the steps ``1-3`` is the agent's speech from 1 s to 3 s, ``1-`` its beginning, ``-3`` its end, ``@9`` lets
    time pass until then, ``name@9`` is an RTVI message, ``met:0`` and ``missed:0`` settle a turn, ``no:1`` says that
    it was not spoken so far.
    """
    call = Conversation(scenario)
    for step in steps.split():
        match step.partition("@"), step.partition(":"), step.partition("-"):
            case (kind, "@", at_s), _, _:
                call.until(float(at_s))
                if kind:
                    message = {"label": "rtvi-ai", "type": kind}
                    call.hears(MessageReceived(at_ns=round(float(at_s) * NS_PER_S), message=message))
            case _, ("no", ":", turn), _:
                assert call.said_at(int(turn)) is None
            case _, (what, ":", turn), _:
                call.settle(int(turn), failed=what == "missed")
            case _, _, (start_s, _, end_s):
                if start_s:
                    call.starts(float(start_s))
                if end_s:
                    call.stops(float(end_s))
    return call


ONE = script(speak())
TWO = script(speak(), speak("And a high chair."))
EXPECTING = speak(expect=(Expectation(),))
STOP = speak("Stop!", start=AgentHeardFor(duration_ms=700))
LATER = script(speak(), speak("Hello?", start=AfterSilence(duration_ms=4_000)))
SILENT = script(Turn(action=StaySilent(duration_ms=5_000)), speak())
NO_WAIT, WAITS_2_5_S = TurnTaking(greeting_wait_ms=0), TurnTaking(greeting_wait_ms=2_500)
PATIENT_10_S = TurnTaking(answer_timeout_s=10)
LINE_END_S = 1.8 + LINE_S
"""Of a first line after a greeting from 0.5 s to 1 s."""


def after_llm(delay_ms: int = 0) -> Script:
    return script(speak(), speak("Stop!", start=AfterEvent(event="llm_started", delay_ms=delay_ms)))


def budget(**expected: Any) -> Script:
    return script(speak(expect=(Expectation(**expected),)), turn_taking=PATIENT_10_S)


def said(when: str, scenario: Script, steps: str, turn: int, at_s: float | None) -> Any:
    return pytest.param(scenario, steps, turn, at_s, id=when)


@pytest.mark.parametrize(
    ("scenario", "steps", "turn", "at_s"),
    [
        said("when the greeting is over", ONE, "1-3 @10", 0, 3.8),
        said("first, where no greeting comes", script(speak(), turn_taking=WAITS_2_5_S), "@10", 0, 2.5),
        said("not in a pause of the agent's turn", ONE, "1-3 3.5-5 @10", 0, 5.8),
        said(
            "not in a long pause of a turn reported as going on",
            ONE,
            "1- bot-started-speaking@1 -3 4.5-6 bot-stopped-speaking@6 @10",
            0,
            6.8,
        ),
        said("after speech that is reported for long without sound", ONE, "1- bot-started-speaking@1 -3 @10", 0, 6),
        said("after the reply", TWO, "1-2 @9 no:1 9-11 @20", 1, 11.8),
        said("after what is expected of a reply", script(EXPECTING, speak()), ".5-1 5-6 @9 no:1 met:0", 1, 9),
        said("when the agent is silent, if all is met", script(EXPECTING, speak()), ".5-1 5- met:0 -9 @20", 1, 9.8),
        said(
            "after a failed turn of a call that scores each",
            script(EXPECTING, speak(), stop_on_failure=False),
            ".5-1 5-6 @8 missed:0",
            1,
            8,
        ),
        said("so long after the agent is heard to start", script(speak(), STOP), ".5-1 5- @8", 1, 5.7),
        said(
            "after the answer to a barge-in, not what was interrupted",
            script(speak(), STOP, speak("Go on.")),
            ".5-1 5-9 @12 no:2 12-13 @20",
            2,
            13.8,
        ),
        said("after an event and a delay", after_llm(500), ".5-1 bot-llm-started@6 @10", 1, 6.5),
        said(
            "after the first event since the turn",
            after_llm(2_000),
            ".5-1 bot-llm-started@5 bot-llm-started@6.5 @10",
            1,
            7,
        ),
        said(
            "after the last event before the turn",
            after_llm(2_000),
            ".5-1 bot-llm-started@2 bot-llm-started@3.5 @10",
            1,
            5.5,
        ),
        said("never, if the event never comes", after_llm(), ".5-1 5-6 @100", 1, None),
        said("after silence on both sides", LATER, ".5-1 @20", 1, LINE_END_S + 4),
        said("after the caller's silence, whatever the agent does in it", SILENT, ".5-1 4-5 @20", 1, 6.8),
    ],
)
def test_a_line_is_said(scenario: Script, steps: str, turn: int, at_s: float | None) -> None:
    assert played(scenario, steps).said_at(turn) == at_s


@pytest.mark.parametrize(("expect", "steps", "at_s"), [((), "@5", 0.4), ((Expectation(),), "@5 met:0 @10", 5.4)])
def test_a_plain_delay_counts_from_the_turn_before_or_from_what_it_expects(
    expect: Any, steps: str, at_s: float
) -> None:
    keys = Turn(action=PressKeys(keys="1"), expect=expect)
    more = Turn(action=PressKeys(keys="2#"), start=AfterEvent(delay_ms=400))
    call = played(script(keys, more, turn_taking=NO_WAIT), steps)
    assert [(at, a) for at, a in call.log if isinstance(a, Press)] == [(0, Press(0, "1")), (at_s, Press(1, "2#"))]


def ends(when: str, scenario: Script, steps: str, at_s: float, reason: str, detail: str | None = None) -> Any:
    return pytest.param(scenario, steps, (at_s, HangUp(EndedReason(reason), detail)), id=when)


SLOW_TO_HANG_UP = script(speak(), hang_up=False, turn_taking=PATIENT_10_S)


@pytest.mark.parametrize(
    ("scenario", "steps", "hung_up"),
    [
        ends("after the last reply", ONE, ".5-1 5-7 @20", 7.8, "caller-hung-up"),
        ends(
            "by a failed turn", script(EXPECTING, speak()), ".5-1 @6 missed:0", 6, "caller-hung-up", "turn 1 failed"
        ),
        ends(
            "30 s into a turn whose event never comes",
            after_llm(),
            ".5-1 5-6 @100",
            LINE_END_S + 30,
            "caller-hung-up",
            "turn 2 failed",
        ),
        ends(
            "by an agent that answers nothing any more",
            script(speak(), turn_taking=PATIENT_10_S),
            ".5-1 @100",
            LINE_END_S + 10,
            "agent-froze",
            "the agent has been silent for 10 s",
        ),
        ends(
            "by an agent that never says anything",
            script(Turn(action=Listen(), expect=(Expectation(),)), speak()),
            "@100",
            30,
            "agent-never-spoke",
            "the agent said nothing for 30 s",
        ),
        pytest.param(budget(within_ms=50_000), ".5-1 @45", None, id="not within a longer budget"),
        pytest.param(budget(absent=True, within_ms=20_000), ".5-1 @22", None, id="not by an expected silence"),
        ends(
            "at its limit",
            script(EXPECTING, max_duration_s=30),
            ".5-1 5- @100",
            30,
            "max-duration",
            "the call reached its limit of 30 s",
        ),
        pytest.param(SLOW_TO_HANG_UP, ".5-1 5-6 @14", None, id="not yet while the agent is to hang up"),
        ends(
            "by an agent that was to hang up",
            SLOW_TO_HANG_UP,
            ".5-1 5-6 @30",
            16,
            "caller-hung-up",
            "the agent was to hang up, and did not",
        ),
    ],
)
def test_a_call_ends(scenario: Script, steps: str, hung_up: tuple[float, HangUp] | None) -> None:
    assert played(scenario, steps).hung_up == hung_up


TRIGGERS = st.one_of(
    st.builds(
        AfterEvent,
        event=st.sampled_from([None, "bot_started_speaking", "llm_started"]),
        delay_ms=st.integers(0, 3000),
    ),
    st.builds(AgentHeardFor, duration_ms=st.integers(0, 3000)),
    st.builds(AfterSilence, duration_ms=st.integers(0, 3000)),
    st.none(),
)
ACTIONS = st.sampled_from(
    [Speak(parts=(Words(text="x"),)), PressKeys(keys="1"), StaySilent(duration_ms=500), Listen()]
)
EXPECTATIONS = st.lists(st.sampled_from([Expectation(), Expectation(absent=True, within_ms=100)]), max_size=2)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    turns = []
    for _ in range(draw(st.integers(1, 5))):
        trigger = draw(TRIGGERS)
        start = {} if trigger is None else {"start": trigger}
        turns.append(Turn(action=draw(ACTIONS), expect=tuple(draw(EXPECTATIONS)), **start))
    return script(
        *turns,
        hang_up=draw(st.booleans()),
        stop_on_failure=draw(st.booleans()),
        max_duration_s=draw(st.sampled_from([5.0, 120.0])),
    )


EVENTS = st.lists(
    st.tuples(
        st.floats(0.0, 8.0),
        st.sampled_from(["agent_starts", "agent_stops", "llm_started", "settle_met", "settle_failed", "nothing"]),
    ),
    max_size=40,
)


@settings(max_examples=examples(400), deadline=None)
@given(scripts(), EVENTS)
def test_any_order_of_events_ends_and_never_talks_over_the_agent(
    scenario: Script, events: list[tuple[float, str]]
) -> None:
    call = Conversation(scenario)
    polite = {i for i, turn in enumerate(scenario.turns) if not isinstance(turn.start, AfterEvent | AgentHeardFor)}
    said_while_speaking: set[int] = set()
    original = call._take

    def take(actions: list[Action]) -> None:
        said_while_speaking.update(a.turn for a in actions if isinstance(a, Say) and call.agent_speaking)
        original(actions)

    call._take = take  # type: ignore[method-assign]
    for wait_s, what in events:
        call.until(call.now_s + wait_s)
        if what == "agent_starts" and not call.agent_speaking:
            call.starts(call.now_s)
        elif what == "agent_stops" and call.agent_speaking:
            call.stops(call.now_s)
        elif what == "llm_started":
            call.hears(MessageReceived(at_ns=round(call.now_s * NS_PER_S), message={"type": "bot-llm-started"}))
        elif what.startswith("settle") and call.body.turn < len(scenario.turns):
            call.settle(call.body.turn, failed=what == "settle_failed")
        wake_ns = call.body.wake_at_ns
        assert call.body.ended or wake_ns is not None, "a call that is on always has a next step"
    call.until(scenario.max_duration_s + 1)
    assert call.body.ended
    assert not said_while_speaking & polite
    assert sum(isinstance(a, HangUp) for _, a in call.log) == 1
    started = [a.turn for _, a in call.log if isinstance(a, StartTurn)]
    assert started == sorted(set(started)), "turns start once each, in order"


@given(st.integers(0, 10**6))
def test_a_second_begin_is_refused(now_ms: int) -> None:
    body = Body(script(speak()))
    body.begin(now_ms * NS_PER_MS)
    with pytest.raises(RuntimeError):
        body.begin(now_ms * NS_PER_MS)


@dataclass
class Slow:
    """A mind that knows what comes next some time after the agent has answered; and what it was asked with."""

    turns: list[Turn]
    ready: bool = True
    asked: list[tuple[int, dict[int, bool], list[str], bool]] = field(default_factory=list)

    def next(self, conversation: SoFar) -> Turn | Goodbye | None:
        said = [one.text for one in conversation.said]
        self.asked.append((len(conversation.turns), dict(conversation.failed), said, conversation.reply_owed))
        if not self.ready or conversation.reply_owed or not conversation.agent_turn_over:
            return None
        self.ready = False
        done = len(conversation.turns)
        return self.turns[done] if done < len(self.turns) else Goodbye()

    async def think(self, wake: Callable[[], None]) -> None:
        raise AssertionError("the body does not run it")


def test_a_mind_that_takes_its_time_is_waited_for_and_asked_with_what_was_said() -> None:
    mind = Slow([speak("One."), speak("Two.")])
    call = Conversation(script(speak("Ignored.")), mind)
    call.until(6)
    assert call.said_at(0) == 3.0 and mind.asked[-1] == (1, {}, [], True)
    call.speaks(6, 8)
    call.hears(AgentSaid(at_ns=round(8 * NS_PER_S), text="And then?", source=Source.HEARD))
    call.until(30)
    assert mind.asked[-1] == (1, {}, ["And then?"], False) and call.said_at(1) is None and not call.body.ended
    mind.ready = True
    call.hears(AgentTurnEnded(at_ns=round(30 * NS_PER_S)))
    assert call.said_at(1) == 30.0 and [type(turn.action) for turn in call.body.turns] == [Speak, Speak]
    call.speaks(33, 34)
    mind.ready = True
    call.until(40)
    assert call.log[-1][1] == HangUp(EndedReason.CALLER_HUNG_UP)


@pytest.mark.parametrize(
    ("answers", "reason", "at_s"),
    [(False, EndedReason.AGENT_FROZE, 38.0), (True, EndedReason.MAX_DURATION, 300.0)],
)
def test_only_an_agent_that_owes_an_answer_is_frozen_while_the_mind_thinks(
    answers: bool, reason: EndedReason, at_s: float
) -> None:
    call = Conversation(script(speak("Ignored.")), Slow([speak("One."), speak("Two.")]))
    call.speaks(0.5, 1)
    call.until(8)
    if answers:
        call.speaks(8, 9)
    call.until(400)
    ended_s, last = call.log[-1]
    assert isinstance(last, HangUp) and last.reason is reason and ended_s == pytest.approx(at_s, abs=4.5)
