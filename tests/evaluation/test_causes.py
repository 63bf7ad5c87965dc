"""The headline: the earliest failure that explains the rest, with what was expected beside what was heard."""

import pytest

from bots.caller.script import (
    AGENT_NEVER_TALKS_OVER,
    AGENT_SPEAKS,
    AGENT_STOPS,
    AgentHeardFor,
    Expectation,
    Listen,
    Turn,
)
from bots.timeline import (
    AgentCalledFunction,
    AgentError,
    AgentLeft,
    AgentProbed,
    AgentProcessEnded,
    AgentSessionEnded,
    CallerTurnSettled,
    EndedReason,
    MessageReceived,
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
    ended,
    heard,
    line,
    over,
    s,
    script,
    speech,
    taken_up,
    told,
)

PRICE = Expectation(text_contains="thirty dollars", within_ms=5_000)
SCRIPT = script(asks(PRICE), asks(PRICE))
K = FailureKind


def come_to(*facts: TimelineEvent | list[TimelineEvent], played: object = SCRIPT) -> Outcome:
    assert isinstance(played, type(SCRIPT))
    flat: list[TimelineEvent] = [JOINED]
    for fact in facts:
        flat += fact if isinstance(fact, list) else [fact]
    view = CallView.measured(flat)
    return decide(played, view, judge_expectations(played, view))


def failure(*facts: TimelineEvent | list[TimelineEvent], played: object = SCRIPT) -> Failure:
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
GAVE_UP = [CallerTurnSettled(at_ns=s(11), turn=0, failed=True), ended(11, detail="turn 1 failed")]


def test_wrong_words_stand_beside_what_was_expected() -> None:
    found = failure(ASKED, speech(3.8, 5.5), heard(3.8, 5.5, "it is forty dollars"), over(6.5), GAVE_UP)
    assert (found.kind, found.turn) == (K.WRONG, 0)
    assert found.expected is not None and "thirty dollars" in found.expected
    assert found.heard == "it is forty dollars"
    assert found.headline.startswith("turn 1: expected")


def test_words_that_were_only_told_are_marked() -> None:
    found = failure(READY, ASKED, speech(3.8, 5.5), told(4, "forty dollars"), over(6.5), GAVE_UP)
    assert found.heard == "forty dollars (told)"


def test_an_agent_that_answers_slowly_fails_as_slow() -> None:
    # Four seconds late; what it says then is right.
    late = failure(ASKED, speech(7.1, 9), heard(7.1, 9, "That is thirty dollars."), over(10), GAVE_UP)
    assert late.kind is K.LATE and "answered 4.1 s after the caller" in late.headline
    spoke = script(asks(Expectation(event=AGENT_SPEAKS, within_ms=2_000)))
    late = failure(ASKED, speech(7.1, 9), over(10), GAVE_UP, played=spoke)
    assert late.kind is K.LATE and "answered 4.1 s after the caller (limit 2 s)" in late.headline


def test_an_agent_that_says_nothing_is_silent() -> None:
    assert failure(ASKED, GAVE_UP).kind is K.SILENT
    spoke = script(asks(Expectation(event=AGENT_SPEAKS, within_ms=2_000)))
    assert failure(ASKED, GAVE_UP, played=spoke).kind is K.SILENT


def test_an_error_of_the_agent_explains_its_silence() -> None:
    error = AgentError(at_ns=s(3.4), text="'order'")
    found = failure(ASKED, error, GAVE_UP)
    assert found.kind is K.ERRORED and found.turn == 0
    assert found.headline.startswith("turn 1: the agent reported an error ('order'); then: ")
    assert found.evidence[0].event == "agent_error"


def test_an_error_before_the_turn_that_failed_explains_nothing() -> None:
    error = AgentError(at_ns=s(3.4), text="'order'")
    good = [*speech(3.8, 5.5), told(4, "thirty dollars"), over(6.5)]
    second = [taken_up(6.6, 1), *line(6.8, 8, 1)]
    gave_up = [CallerTurnSettled(at_ns=s(17), turn=1, failed=True), ended(17, detail="turn 2 failed")]
    assert failure(READY, ASKED, error, good, second, gave_up).kind is K.SILENT


def test_a_process_that_ended_is_a_crash_and_says_how() -> None:
    crashed = AgentProcessEnded(at_ns=s(3.5), exit_code=1, log_tail="Traceback\nKeyError: 'order'\n")
    found = failure(ASKED, crashed, ended(7, EndedReason.AGENT_VANISHED, "nothing arrives"))
    assert found.kind is K.CRASHED
    assert found.headline == "turn 1: the agent's process ended with exit code 1: KeyError: 'order'"
    killed = AgentProcessEnded(at_ns=s(3.5), exit_code=-9)
    assert "ended by signal 9" in failure(ASKED, killed, ended(7, EndedReason.AGENT_VANISHED)).headline


@pytest.mark.parametrize(("answers", "cause"), [(False, Cause.AGENT), (True, Cause.NETWORK), (None, Cause.NETWORK)])
def test_a_vanished_agent_crashed_only_where_its_address_says_so(answers: bool | None, cause: Cause) -> None:
    vanished = [AgentProbed(at_ns=s(6.9), answers=answers), ended(7, EndedReason.AGENT_VANISHED, "nothing arrives")]
    outcome = come_to(ASKED, vanished)
    assert outcome.cause is cause and outcome.failure is not None and outcome.detail is not None
    if cause is Cause.AGENT:
        assert outcome.failure.kind is K.CRASHED and "process died" in outcome.detail
    else:
        assert outcome.success is None and "nothing arrives from the agent any more" in outcome.detail


def test_what_cant_be_told_apart_is_not_stated_as_certain() -> None:
    left = AgentLeft(at_ns=s(4))
    owed = failure(ASKED, left, ended(4, EndedReason.AGENT_LEFT))
    assert owed.kind is K.LEFT and "it hung up or crashed, and nothing tells which" in owed.headline
    mid = failure(ASKED, speech(3.5, 9)[:1], left, ended(4, EndedReason.AGENT_LEFT))
    assert mid.kind is K.LEFT and "in the middle of its own sentence" in mid.headline


def test_an_agent_that_leaves_while_speaking_left_in_mid_speech() -> None:
    """Its last words may have been lost, or its process killed: Daily hands over zeros then, and no end of speech."""
    told = MessageReceived(at_ns=s(3.5), message={"label": "rtvi-ai", "type": "bot-started-speaking"})
    left = failure(ASKED, told, AgentLeft(at_ns=s(6)), ended(6, EndedReason.AGENT_LEFT))
    assert "in the middle of its own sentence: it hung up or crashed, and nothing tells which" in left.headline


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ("agent_error", K.CRASHED, "its session ended with an error"),
        ("completed", K.LEFT, "it hung up: its session is complete"),
        ("unknown", K.LEFT, "it hung up or crashed, and nothing tells which"),
    ],
)
def test_whoever_runs_the_agent_knows_whether_it_crashed(state: str, kind: K, words: str) -> None:
    session = AgentSessionEnded(at_ns=s(4), state=state)
    left = failure(ASKED, AgentLeft(at_ns=s(4)), ended(4, EndedReason.AGENT_LEFT), session)
    assert left.kind is kind and words in left.headline
    assert left.evidence[0].event == "agent_session_ended"


def test_what_a_failed_session_missed_is_told_as_that() -> None:
    answered = [ASKED, speech(3.8, 5.5), told(5.5, "thirty dollars"), over(6.5), taken_up(7, 1)]
    session = AgentSessionEnded(at_ns=s(8), state="agent_error")
    found = failure(*answered, AgentLeft(at_ns=s(8)), ended(8, EndedReason.AGENT_LEFT), session)
    assert found.kind is K.CRASHED and "its session ended with an error" in found.headline


def test_an_agent_to_hang_up_whose_session_failed_has_crashed() -> None:
    played = script(asks(Expectation(event="agent_hangs_up", within_ms=5_000)), hang_up=False)
    facts = [ASKED, AgentLeft(at_ns=s(4)), ended(4, EndedReason.AGENT_LEFT)]
    assert come_to(*facts, played=played).success is True
    found = failure(*facts, AgentSessionEnded(at_ns=s(4), state="agent_error"), played=played)
    assert found.kind is K.CRASHED


def test_a_vanished_agent_whose_session_failed_has_crashed() -> None:
    session = AgentSessionEnded(at_ns=s(7), state="agent_error")
    outcome = come_to(ASKED, [ended(7, EndedReason.AGENT_VANISHED, "nothing arrives"), session])
    assert outcome.cause is Cause.AGENT and outcome.failure is not None and outcome.failure.kind is K.CRASHED


def test_silence_that_ends_the_call_is_the_headline() -> None:
    found = failure(ASKED, ended(40, EndedReason.AGENT_FROZE, "the agent has been silent for 30 s"))
    assert found.kind is K.SILENT and found.headline == "turn 1: the agent has been silent for 30 s"
    assert found.expected is not None and "thirty dollars" in found.expected


def test_the_earliest_failure_comes_first() -> None:
    # It will not stop in turn 2, and what it says in turn 1 was right.
    barge_in = Turn(
        action=asks(PRICE).action,
        start=AgentHeardFor(duration_ms=500),
        expect=(PRICE, Expectation(event=AGENT_STOPS, within_ms=1_000)),
    )
    first = [*speech(3.8, 12), told(4, "thirty dollars")]
    second = [taken_up(5, 1), *line(5.1, 7, 1)]
    gave_up = [CallerTurnSettled(at_ns=s(13), turn=1, failed=True), ended(13, detail="turn 2 failed")]
    found = failure(READY, ASKED, first, second, over(13), gave_up, played=script(asks(PRICE), barge_in))
    assert found.turn == 1


def test_wrong_calls_are_named() -> None:
    from bots.caller.script import FunctionCall

    book = Expectation(event="function_call", calls=(FunctionCall(name="book", args={"people": 4}),), within_ms=5_000)
    called = AgentCalledFunction(at_ns=s(4), call_id="c", name="book", arguments={"people": 5})
    found = failure(READY, ASKED, called, speech(4, 5), over(6), GAVE_UP, played=script(asks(book)))
    assert found.kind is K.WRONG and found.heard == "book(people=5)"


# Manners.


def chat(turns: int, over_in: set[int]) -> list[TimelineEvent]:
    facts: list[TimelineEvent] = []
    for turn in range(turns):
        at = 1 + 10 * turn
        facts += [taken_up(at, turn), *line(at + 1, at + 4, turn)]
        if turn in over_in:
            facts += speech(at + 2, at + 3)
        facts += [*speech(at + 5, at + 7), told(at + 6, "thirty dollars"), over(at + 8)]
    return [*facts, ended(1 + 10 * turns)]


CHAT = script(*[asks(Expectation())] * 6)


@pytest.mark.parametrize("over_in", [{0, 1, 2, 3, 4, 5}, {0, 2, 4}])
def test_an_agent_that_talks_over_again_and_again_fails(over_in: set[int]) -> None:
    found = failure(READY, chat(6, over_in), played=CHAT)
    assert found.kind is K.TALKS_OVER and found.turn == 0
    assert f"in {len(over_in)} turns, first in turn 1, at 3.0 s" in found.headline


@pytest.mark.parametrize("over_in", [set[int](), {3}, {1, 4}])
def test_doing_so_now_and_then_is_no_failure(over_in: set[int]) -> None:
    assert come_to(READY, chat(6, over_in), played=CHAT).success is True


def test_a_scenario_may_allow_it() -> None:
    allowed = CHAT.model_copy(update={"may_be_talked_over": True})
    assert come_to(READY, chat(6, {0, 1, 2, 3, 4, 5}), played=allowed).success is True


def test_talking_over_where_it_was_forbidden_is_the_kind() -> None:
    forbidden = script(asks(Expectation(event=AGENT_NEVER_TALKS_OVER)))
    found = failure(chat(1, {0}), played=forbidden)
    assert found.kind is K.TALKS_OVER and "talked over the caller" in found.headline


# Words that were reported, and whose audio did not arrive.

GREETING = "Good evening and welcome to our restaurant in the old harbour."
DROPPED = "The weekend special costs exactly thirty dollars for each guest."
LAST = "Would you like to book a table for tonight or for tomorrow?"
ANSWER = script(Turn(action=Listen(), expect=(Expectation(),)), asks(PRICE))


def reply(*, spoken: bool, recognised: str) -> list[TimelineEvent]:
    return [
        taken_up(1),
        *speech(1.5, 5.1),
        told(1.6, GREETING),
        heard(1.5, 5.1, GREETING),
        over(6),
        taken_up(6.1, 1),
        *line(6.2, 7.5, 1),
        told(8.3, DROPPED),
        told(8.4, LAST),
        *speech(8.4, 16 if spoken else 12.2),
        heard(8.4, 16 if spoken else 12.2, recognised),
        over(17),
        CallerTurnSettled(at_ns=s(17), turn=1, failed=False),
        ended(18),
    ]


def test_a_sentence_whose_audio_was_dropped_is_not_passed() -> None:
    found = failure(READY, reply(spoken=False, recognised=LAST), played=ANSWER)
    assert found.kind is K.SILENT and found.turn == 1
    assert "reported" in found.headline and "thirty dollars" in found.headline
    assert "no audio of it arrived" in found.headline


def test_a_spoken_sentence_counts_though_recognition_missed_it() -> None:
    assert come_to(READY, reply(spoken=True, recognised=LAST), played=ANSWER).success is True


def test_a_sentence_that_was_misheard_counts() -> None:
    misheard = "The weak end special coasts exactly dirty dolls for each guest. " + LAST
    assert come_to(READY, reply(spoken=False, recognised=misheard), played=ANSWER).success is True
