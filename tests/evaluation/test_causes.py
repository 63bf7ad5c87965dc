"""The headline: the earliest failure that explains the rest, with what was expected beside what was heard."""

from typing import Any, NamedTuple

import pytest

from bots.caller.script import (
    AGENT_NEVER_TALKS_OVER,
    AGENT_SPEAKS,
    AGENT_STOPS,
    AgentHeardFor,
    Listen,
    Script,
)
from bots.timeline import (
    AgentError,
    AgentProbed,
    AgentProcessEnded,
    AgentSessionEnded,
    EndedReason,
    TimelineEvent,
)
from runner.evaluation.failure import Failure, FailureKind
from runner.evaluation.outcome import Outcome, decide, judge_expectations
from runner.evaluation.verdicts import Cause
from runner.evaluation.view import CallView
from tests.evaluation.facts import (
    JOINED,
    READY,
    asks,
    call,
    called,
    contains,
    ended,
    expect,
    flat,
    heard,
    left,
    line,
    message,
    onset,
    over,
    s,
    script,
    settled,
    speech,
    taken_up,
    told,
)

PRICE = contains("thirty dollars", within_ms=5_000)
SCRIPT = script(asks(PRICE), asks(PRICE))
K = FailureKind
LEFT, VANISHED, FROZE = EndedReason.AGENT_LEFT, EndedReason.AGENT_VANISHED, EndedReason.AGENT_FROZE


def come_to(*facts: Any, played: Script = SCRIPT) -> Outcome:
    view = CallView.measured(flat([JOINED, *facts]))
    return decide(played, view, judge_expectations(played, view))


def failure(*facts: Any, played: Script = SCRIPT) -> Failure:
    outcome = come_to(*facts, played=played)
    assert (outcome.success, outcome.cause) == (False, Cause.AGENT)
    assert outcome.failure is not None and outcome.detail == outcome.failure.headline
    assert outcome.failure.cause is Cause.AGENT
    return outcome.failure


def test_a_kind_of_failure_has_a_key_of_its_own_and_every_cause_of_trouble_a_kind() -> None:
    assert len({kind.about.key for kind in K}) == len(K)
    for cause in (Cause.CALLER, Cause.ROOM, Cause.NETWORK, Cause.HARNESS):
        kind = K.of_trouble(cause)
        assert Failure.of(kind, kind.says("before", what="a stall", then="silence")).cause is cause
    assert K.of_trouble(None) is K.NOT_JUDGED


ASKED = [taken_up(1), *line(1.2, 3)]
GAVE_UP = [settled(11), ended(11, detail="turn 1 failed")]
LEAVES = [left(4), ended(4, LEFT)]
SPOKE = script(asks(expect(AGENT_SPEAKS, within_ms=2_000)))
HANGS_UP = script(asks(expect("agent_hangs_up", within_ms=5_000)), hang_up=False)
BOOKS = script(asks(expect("function_call", calls=(call("book", people=4),), within_ms=5_000)))
PATIENT = script(asks(expect(AGENT_NEVER_TALKS_OVER)))
ERROR = AgentError(at_ns=s(3.4), text="'order'")
ANSWERED = [*speech(3.8, 5.5), told(5.5, "thirty dollars"), over(6.5)]


def process(code: int, log: str = "") -> TimelineEvent:
    return AgentProcessEnded(at_ns=s(3.5), exit_code=code, log_tail=log)


def session(at_s: float, state: str) -> TimelineEvent:
    return AgentSessionEnded(at_ns=s(at_s), state=state)


def probed(answers: bool | None) -> TimelineEvent:
    return AgentProbed(at_ns=s(6.9), answers=answers)


class Case(NamedTuple):
    facts: list[Any]
    kind: FailureKind
    says: str = ""
    played: Script = SCRIPT
    heard: str | None = None


FOUND = {
    "wrong words": Case(
        [ASKED, speech(3.8, 5.5), heard(3.8, 5.5, "it is forty dollars"), over(6.5), GAVE_UP],
        K.WRONG,
        "turn 1: expected",
        heard="it is forty dollars",
    ),
    "words that were only told are marked": Case(
        [READY, ASKED, speech(3.8, 5.5), told(4, "forty dollars"), over(6.5), GAVE_UP],
        K.WRONG,
        heard="forty dollars (told)",
    ),
    "right words, four seconds late": Case(
        [ASKED, speech(7.1, 9), heard(7.1, 9, "That is thirty dollars."), over(10), GAVE_UP],
        K.LATE,
        "answered 4.1 s after the caller",
        heard="That is thirty dollars.",
    ),
    "late": Case(
        [ASKED, speech(7.1, 9), over(10), GAVE_UP],
        K.LATE,
        "answered 4.1 s after the caller (limit 2 s)",
        played=SPOKE,
    ),
    "no words": Case([ASKED, GAVE_UP], K.SILENT),
    "no speech": Case([ASKED, GAVE_UP], K.SILENT, played=SPOKE),
    "an error explains silence": Case(
        [ASKED, ERROR, GAVE_UP], K.ERRORED, "turn 1: the agent reported an error ('order'); then: "
    ),
    "an error before the turn that failed explains nothing": Case(
        [READY, ASKED, ERROR, ANSWERED, taken_up(6.6, 1), line(6.8, 8, 1), settled(17, 1), ended(17)],
        K.SILENT,
        "turn 2: ",
    ),
    "a process that ended is a crash": Case(
        [ASKED, process(1, "Traceback\nKeyError: 'order'\n"), ended(7, VANISHED, "nothing arrives")],
        K.CRASHED,
        "turn 1: the agent's process ended with exit code 1: KeyError: 'order'",
    ),
    "a process that was killed": Case([ASKED, process(-9), ended(7, VANISHED)], K.CRASHED, "by signal 9"),
    "an address that refuses": Case(
        [ASKED, probed(False), ended(7, VANISHED, "nothing arrives")], K.CRASHED, "process died"
    ),
    "left, owing an answer": Case(
        [ASKED, LEAVES], K.LEFT, "and owed the caller an answer: it hung up or crashed, and nothing tells which"
    ),
    "left in the middle of a sentence": Case(
        [ASKED, onset(3.5), LEAVES], K.LEFT, "in the middle of its own sentence"
    ),
    # Its last words may have been lost, or its process killed: Daily hands over zeros then, and no end of speech.
    "left while it said that it spoke": Case(
        [ASKED, message(3.5, "bot-started-speaking"), left(6), ended(6, LEFT)],
        K.LEFT,
        "in the middle of its own sentence: it hung up or crashed, and nothing tells which",
    ),
    "left, its session failed": Case(
        [ASKED, LEAVES, session(4, "agent_error")], K.CRASHED, "its session ended with an error"
    ),
    "left, its session is complete": Case(
        [ASKED, LEAVES, session(4, "completed")], K.LEFT, "it hung up: its session is complete"
    ),
    "left, its session tells nothing": Case(
        [ASKED, LEAVES, session(4, "unknown")], K.LEFT, "it hung up or crashed, and nothing tells which"
    ),
    "what a failed session missed": Case(
        [ASKED, ANSWERED, taken_up(7, 1), left(8), ended(8, LEFT), session(8, "agent_error")],
        K.CRASHED,
        "its session ended with an error",
    ),
    "to hang up, and its session failed": Case(
        [ASKED, LEAVES, session(4, "agent_error")], K.CRASHED, played=HANGS_UP
    ),
    "vanished, and its session failed": Case(
        [ASKED, ended(7, VANISHED, "nothing arrives"), session(7, "agent_error")], K.CRASHED
    ),
    "silence that ends the call": Case(
        [ASKED, ended(40, FROZE, "the agent has been silent for 30 s")],
        K.SILENT,
        "turn 1: the agent has been silent for 30 s",
    ),
    "a wrong call is named": Case(
        [READY, ASKED, called(4, "book", people=5), speech(4, 5), over(6), GAVE_UP],
        K.WRONG,
        played=BOOKS,
        heard="book(people=5)",
    ),
    "talking over where it was forbidden": Case(
        [ASKED, speech(2, 2.5), speech(4, 5), over(6), ended(11)],
        K.TALKS_OVER,
        "talked over the caller",
        played=PATIENT,
    ),
}
IN_TURN_2 = {"an error before the turn that failed explains nothing", "what a failed session missed"}


@pytest.mark.parametrize("name", FOUND)
def test_what_failed_and_why(name: str) -> None:
    case = FOUND[name]
    found = failure(*case.facts, played=case.played)
    assert (found.kind, found.turn, found.heard) == (case.kind, int(name in IN_TURN_2), case.heard)
    assert case.says in found.headline
    if case.played is SCRIPT and case.kind not in (K.CRASHED, K.LEFT):
        assert found.expected is not None and "thirty dollars" in found.expected


def test_the_evidence_is_first_what_explains_the_rest() -> None:
    for fact, event in ((ERROR, "agent_error"), (session(4, "completed"), "agent_session_ended")):
        facts = [ASKED, fact, GAVE_UP if event == "agent_error" else LEAVES]
        assert failure(*facts).evidence[0].event == event


@pytest.mark.parametrize("answers", [True, None])
def test_a_vanished_agent_crashed_only_where_its_address_says_so(answers: bool | None) -> None:
    outcome = come_to(ASKED, probed(answers), ended(7, VANISHED, "nothing arrives"))
    assert (outcome.success, outcome.cause) == (None, Cause.NETWORK) and outcome.detail is not None
    assert "nothing arrives from the agent any more" in outcome.detail


def test_an_agent_to_hang_up_whose_session_tells_nothing_has_passed() -> None:
    assert come_to(ASKED, LEAVES, played=HANGS_UP).success is True


def test_the_earliest_failure_comes_first() -> None:
    # It will not stop in turn 2, and what it says in turn 1 was right.
    barge_in = asks(PRICE, expect(AGENT_STOPS, within_ms=1_000), start=AgentHeardFor(duration_ms=500))
    first = [*speech(3.8, 12), told(4, "thirty dollars")]
    second = [taken_up(5, 1), *line(5.1, 7, 1)]
    gave_up = [settled(13, 1), ended(13, detail="turn 2 failed")]
    found = failure(READY, ASKED, first, second, over(13), gave_up, played=script(asks(PRICE), barge_in))
    assert found.turn == 1


# Manners.


def chat(over_in: set[int]) -> list[TimelineEvent]:
    facts: list[TimelineEvent] = []
    for turn in range(6):
        at = 1 + 10 * turn
        facts += [taken_up(at, turn), *line(at + 1, at + 4, turn)]
        if turn in over_in:
            facts += speech(at + 2, at + 3)
        facts += [*speech(at + 5, at + 7), told(at + 6, "thirty dollars"), over(at + 8)]
    return [*facts, ended(61)]


CHAT = script(*[asks(expect())] * 6)


@pytest.mark.parametrize("over_in", [{0, 1, 2, 3, 4, 5}, {0, 2, 4}])
def test_an_agent_that_talks_over_again_and_again_fails(over_in: set[int]) -> None:
    found = failure(READY, chat(over_in), played=CHAT)
    assert found.kind is K.TALKS_OVER and found.turn == 0
    assert f"in {len(over_in)} turns, first in turn 1, at 3.0 s" in found.headline
    allowed = CHAT.model_copy(update={"may_be_talked_over": True})
    assert come_to(READY, chat(over_in), played=allowed).success is True, "a scenario may allow it"


@pytest.mark.parametrize("over_in", [set[int](), {3}, {1, 4}])
def test_doing_so_now_and_then_is_no_failure(over_in: set[int]) -> None:
    assert come_to(READY, chat(over_in), played=CHAT).success is True


# Words that were reported, and whose audio did not arrive.

GREETING = "Good evening and welcome to our restaurant in the old harbour."
DROPPED = "The weekend special costs exactly thirty dollars for each guest."
LAST = "Would you like to book a table for tonight or for tomorrow?"
ANSWER = script(asks(expect(), action=Listen()), asks(PRICE))


def reply(*, until_s: float, recognised: str) -> list[Any]:
    greeting = [taken_up(1), speech(1.5, 5.1), told(1.6, GREETING), heard(1.5, 5.1, GREETING), over(6)]
    answer = [told(8.3, DROPPED), told(8.4, LAST), speech(8.4, until_s), heard(8.4, until_s, recognised), over(17)]
    return [READY, greeting, taken_up(6.1, 1), line(6.2, 7.5, 1), answer, settled(17, 1, failed=False), ended(18)]


def test_a_sentence_whose_audio_was_dropped_is_not_passed() -> None:
    found = failure(*reply(until_s=12.2, recognised=LAST), played=ANSWER)
    assert found.kind is K.SILENT and found.turn == 1
    assert "reported" in found.headline and "thirty dollars" in found.headline
    assert "no audio of it arrived" in found.headline


def test_a_spoken_sentence_counts_though_recognition_missed_it() -> None:
    assert come_to(*reply(until_s=16, recognised=LAST), played=ANSWER).success is True


def test_a_sentence_that_was_misheard_counts() -> None:
    misheard = "The weak end special coasts exactly dirty dolls for each guest. " + LAST
    assert come_to(*reply(until_s=12.2, recognised=misheard), played=ANSWER).success is True
