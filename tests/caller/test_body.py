"""Conversations played through with a virtual clock."""

from collections.abc import Callable
from dataclasses import dataclass, field

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

    def agent_speaks(self, start_s: float, end_s: float) -> None:
        self.agent_starts(start_s)
        self.agent_stops(end_s)

    def agent_starts(self, start_s: float) -> None:
        self.until(start_s)
        self.agent_speaking = True
        self._fact(AgentStartedSpeaking(at_ns=self._ns()))

    def agent_stops(self, end_s: float) -> None:
        self.until(end_s)
        self.agent_speaking = False
        self._fact(AgentStoppedSpeaking(at_ns=self._ns()))

        def turn_over() -> None:
            if not self.agent_speaking:
                self._fact(AgentTurnEnded(at_ns=self._ns()))

        self._later(END_OF_TURN_S, turn_over)

    def hears(self, event: TimelineEvent) -> None:
        self._fact(event)

    def settle(self, turn: int, *, failed: bool = False) -> None:
        self._take(self.body.settled(turn, failed=failed, now_ns=self._ns()))

    def said_at(self, turn: int) -> float | None:
        return next((at for at, action in self.log if action == Say(turn)), None)

    @property
    def hung_up(self) -> tuple[float, HangUp] | None:
        return next(((at, a) for at, a in self.log if isinstance(a, HangUp)), None)


def test_speaks_when_the_greeting_is_over() -> None:
    call = Conversation(script(speak()))
    call.agent_speaks(1.0, 3.0)
    call.until(10)
    assert call.said_at(0) == 3.8


def test_speaks_first_when_no_greeting_comes() -> None:
    call = Conversation(script(speak(), turn_taking=TurnTaking(greeting_wait_ms=2_500)))
    call.until(10)
    assert call.said_at(0) == 2.5


def test_a_pause_in_the_agents_turn_does_not_end_it() -> None:
    call = Conversation(script(speak()))
    call.agent_speaks(1.0, 3.0)
    call.agent_speaks(3.5, 5.0)
    call.until(10)
    assert call.said_at(0) == 5.8


def told(kind: str, at_s: float) -> MessageReceived:
    return MessageReceived(at_ns=round(at_s * NS_PER_S), message={"label": "rtvi-ai", "type": kind})


def test_a_long_pause_does_not_end_a_turn_reported_as_going_on() -> None:
    call = Conversation(script(speak()))
    call.agent_starts(1.0)
    call.hears(told("bot-started-speaking", 1.0))
    call.agent_stops(3.0)
    call.agent_speaks(4.5, 6.0)
    call.hears(told("bot-stopped-speaking", 6.0))
    call.until(10)
    assert call.said_at(0) == 6.8


def test_reported_speech_without_sound_is_not_believed_forever() -> None:
    call = Conversation(script(speak()))
    call.agent_starts(1.0)
    call.hears(told("bot-started-speaking", 1.0))
    call.agent_stops(3.0)
    call.until(10)
    assert call.said_at(0) == 6.0


def test_waits_for_the_reply_before_the_next_turn() -> None:
    call = Conversation(script(speak(), speak("And a high chair.")))
    call.agent_speaks(1.0, 2.0)
    call.until(9.0)
    assert call.said_at(1) is None
    call.agent_speaks(9.0, 11.0)
    call.until(20)
    assert call.said_at(1) == 11.8


def test_waits_for_expectations_after_the_reply() -> None:
    call = Conversation(script(speak(expect=(Expectation(text_contains="table"),)), speak("Thanks.")))
    call.agent_speaks(0.5, 1.0)
    call.agent_speaks(5.0, 6.0)
    call.until(9.0)
    assert call.said_at(1) is None
    call.settle(0)
    assert call.said_at(1) == 9.0


def test_does_not_start_a_settled_turn_while_the_agent_speaks() -> None:
    call = Conversation(script(speak(expect=(Expectation(),)), speak("Thanks.")))
    call.agent_speaks(0.5, 1.0)
    call.agent_starts(5.0)
    call.settle(0)
    call.agent_stops(9.0)
    call.until(20)
    assert call.said_at(1) == 9.8


def test_a_failed_turn_ends_the_call() -> None:
    call = Conversation(script(speak(expect=(Expectation(),)), speak("Thanks.")))
    call.agent_speaks(0.5, 1.0)
    call.until(6.0)
    call.settle(0, failed=True)
    assert call.hung_up == (6.0, HangUp(EndedReason.CALLER_HUNG_UP, "turn 1 failed"))


def test_a_failed_turn_does_not_end_a_call_that_scores_each_turn() -> None:
    call = Conversation(script(speak(expect=(Expectation(),)), speak("Thanks."), stop_on_failure=False))
    call.agent_speaks(0.5, 1.0)
    call.agent_speaks(5.0, 6.0)
    call.until(8.0)
    call.settle(0, failed=True)
    assert call.said_at(1) == 8.0


def test_barges_in_so_long_after_the_agent_is_heard_to_start() -> None:
    call = Conversation(script(speak(), speak("Stop!", start=AgentHeardFor(duration_ms=700))))
    call.agent_speaks(0.5, 1.0)
    call.agent_starts(5.0)
    call.until(8.0)
    assert call.said_at(1) == 5.7


def test_waits_for_the_answer_to_a_barge_in() -> None:
    turns = (speak(), speak("Stop!", start=AgentHeardFor(duration_ms=700)), speak("Go on."))
    call = Conversation(script(*turns))
    call.agent_speaks(0.5, 1.0)
    call.agent_starts(5.0)
    call.agent_stops(9.0)
    call.until(12.0)
    assert call.said_at(2) is None, "what was interrupted is no answer"
    call.agent_speaks(12.0, 13.0)
    call.until(20.0)
    assert call.said_at(2) == 13.8


def test_starts_after_an_event_and_a_delay() -> None:
    turn = speak("Stop!", start=AfterEvent(event="llm_started", delay_ms=500))
    call = Conversation(script(speak(), turn))
    call.agent_speaks(0.5, 1.0)
    call.until(6.0)
    call.hears(MessageReceived(at_ns=6 * NS_PER_S, message={"label": "rtvi-ai", "type": "bot-llm-started"}))
    call.until(10.0)
    assert call.said_at(1) == 6.5


def llm_started(at_s: float) -> TimelineEvent:
    message = {"label": "rtvi-ai", "type": "bot-llm-started"}
    return MessageReceived(at_ns=round(at_s * NS_PER_S), message=message)


def test_an_event_that_comes_again_puts_off_nothing() -> None:
    turn = speak("Stop!", start=AfterEvent(event="llm_started", delay_ms=2_000))
    call = Conversation(script(speak(), turn))
    call.agent_speaks(0.5, 1.0)
    for at_s in (5.0, 6.5):
        call.until(at_s)
        call.hears(llm_started(at_s))
    call.until(10.0)
    assert call.said_at(1) == 7.0


def test_a_turn_goes_by_the_last_of_the_events_before_it() -> None:
    turn = speak("Stop!", start=AfterEvent(event="llm_started", delay_ms=2_000))
    call = Conversation(script(speak(), turn))
    call.agent_speaks(0.5, 1.0)
    for at_s in (2.0, 3.5):
        call.until(at_s)
        call.hears(llm_started(at_s))
    call.until(10.0)
    assert call.said_at(1) == 5.5


def test_a_turn_whose_event_never_comes_fails_after_30_s() -> None:
    turn = speak("Stop!", start=AfterEvent(event="llm_started"))
    call = Conversation(script(speak(), turn))
    call.agent_speaks(0.5, 1.0)
    call.agent_speaks(5.0, 6.0)
    call.until(100)
    assert call.said_at(1) is None
    assert call.hung_up is not None
    line_end_s = 1.8 + LINE_S
    assert call.hung_up == (line_end_s + 30, HangUp(EndedReason.CALLER_HUNG_UP, "turn 2 failed"))


def test_paces_keys_by_a_plain_delay() -> None:
    keys = Turn(action=PressKeys(keys="1"))
    more = Turn(action=PressKeys(keys="2#"), start=AfterEvent(delay_ms=400))
    call = Conversation(script(keys, more, turn_taking=TurnTaking(greeting_wait_ms=0)))
    call.until(5)
    assert [(at, a) for at, a in call.log if isinstance(a, Press)] == [(0, Press(0, "1")), (0.4, Press(1, "2#"))]


def test_a_plain_delay_counts_from_the_met_expectation() -> None:
    keys = Turn(action=PressKeys(keys="1"), expect=(Expectation(),))
    more = Turn(action=PressKeys(keys="2#"), start=AfterEvent(delay_ms=400))
    call = Conversation(script(keys, more, turn_taking=TurnTaking(greeting_wait_ms=0)))
    call.until(5)
    call.settle(0)
    call.until(10)
    assert [(at, a) for at, a in call.log if isinstance(a, Press)] == [(0, Press(0, "1")), (5.4, Press(1, "2#"))]


def test_starts_after_silence_on_both_sides() -> None:
    call = Conversation(script(speak(), speak("Hello?", start=AfterSilence(duration_ms=4_000))))
    call.agent_speaks(0.5, 1.0)
    call.until(20)
    line_end_s = 1.8 + LINE_S
    assert call.said_at(1) == line_end_s + 4


def test_stays_silent_whatever_the_agent_does() -> None:
    call = Conversation(script(Turn(action=StaySilent(duration_ms=5_000)), speak()))
    call.agent_speaks(0.5, 1.0)
    call.agent_speaks(4.0, 5.0)
    call.until(20)
    assert call.said_at(1) == 6.8


def test_hangs_up_after_the_last_reply() -> None:
    call = Conversation(script(speak()))
    call.agent_speaks(0.5, 1.0)
    call.agent_speaks(5.0, 7.0)
    call.until(20)
    assert call.hung_up == (7.8, HangUp(EndedReason.CALLER_HUNG_UP))


def test_an_agent_that_answers_nothing_any_more_is_frozen() -> None:
    call = Conversation(script(speak(), turn_taking=TurnTaking(answer_timeout_s=10)))
    call.agent_speaks(0.5, 1.0)
    call.until(100)
    assert call.hung_up is not None
    assert call.hung_up[0] == 1.8 + LINE_S + 10
    assert call.hung_up[1].reason is EndedReason.AGENT_FROZE


def test_an_agent_that_never_says_anything_has_never_spoken() -> None:
    call = Conversation(script(Turn(action=Listen(), expect=(Expectation(),)), speak()))
    call.until(100)
    assert call.hung_up is not None
    assert call.hung_up[1].reason is EndedReason.AGENT_NEVER_SPOKE


def test_a_longer_budget_keeps_a_slow_agent_from_being_frozen() -> None:
    turn = speak(expect=(Expectation(within_ms=50_000),))
    call = Conversation(script(turn, turn_taking=TurnTaking(answer_timeout_s=10)))
    call.agent_speaks(0.5, 1.0)
    call.until(45)
    assert call.hung_up is None


def test_silence_is_no_fault_where_it_is_expected() -> None:
    turn = speak(expect=(Expectation(absent=True, within_ms=20_000),))
    call = Conversation(script(turn, turn_taking=TurnTaking(answer_timeout_s=5)))
    call.agent_speaks(0.5, 1.0)
    call.until(22)
    assert call.hung_up is None


def test_the_call_ends_at_its_limit() -> None:
    call = Conversation(script(speak(expect=(Expectation(),)), max_duration_s=30))
    call.agent_speaks(0.5, 1.0)
    call.agent_starts(5.0)
    call.until(100)
    assert call.hung_up is not None
    assert call.hung_up[0] == 30
    assert call.hung_up[1].reason is EndedReason.MAX_DURATION


def test_waits_for_the_agent_to_hang_up_where_it_is_to() -> None:
    call = Conversation(script(speak(), hang_up=False, turn_taking=TurnTaking(answer_timeout_s=10)))
    call.agent_speaks(0.5, 1.0)
    call.agent_speaks(5.0, 6.0)
    call.until(14)
    assert call.hung_up is None
    call.until(30)
    assert call.hung_up is not None
    assert call.hung_up[1].detail == "the agent was to hang up, and did not"


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
    spoke_over: list[int] = []

    def check() -> None:
        for _, action in call.log:
            if isinstance(action, Say) and action.turn in polite and (action.turn, True) in said_while_speaking:
                spoke_over.append(action.turn)

    said_while_speaking: set[tuple[int, bool]] = set()
    original = call._take

    def take(actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Say):
                said_while_speaking.add((action.turn, call.agent_speaking))
        original(actions)

    call._take = take  # type: ignore[method-assign]
    for wait_s, what in events:
        call.until(call.now_s + wait_s)
        if what == "agent_starts" and not call.agent_speaking:
            call.agent_starts(call.now_s)
        elif what == "agent_stops" and call.agent_speaking:
            call.agent_stops(call.now_s)
        elif what == "llm_started":
            call.hears(MessageReceived(at_ns=round(call.now_s * NS_PER_S), message={"type": "bot-llm-started"}))
        elif what.startswith("settle") and call.body.turn < len(scenario.turns):
            call.settle(call.body.turn, failed=what == "settle_failed")
        wake_ns = call.body.wake_at_ns
        assert call.body.ended or wake_ns is not None, "a call that is on always has a next step"
    call.until(scenario.max_duration_s + 1)
    check()
    assert call.body.ended
    assert not spoke_over
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
    call.agent_speaks(6, 8)
    call.hears(AgentSaid(at_ns=round(8 * NS_PER_S), text="And then?", source=Source.HEARD))
    call.until(30)
    assert mind.asked[-1] == (1, {}, ["And then?"], False) and call.said_at(1) is None and not call.body.ended
    mind.ready = True
    call.hears(AgentTurnEnded(at_ns=round(30 * NS_PER_S)))
    assert call.said_at(1) == 30.0 and [type(turn.action) for turn in call.body.turns] == [Speak, Speak]
    call.agent_speaks(33, 34)
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
    call.agent_speaks(0.5, 1)
    call.until(8)
    if answers:
        call.agent_speaks(8, 9)
    call.until(400)
    ended_s, last = call.log[-1]
    assert isinstance(last, HangUp) and last.reason is reason and ended_s == pytest.approx(at_s, abs=4.5)
