"""A reply in two phrases, of an agent that tells nothing of its words: those of the second are waited for."""

import pytest

from bots.caller.script import Expectation
from bots.timeline import TimelineEvent
from runner.evaluation.expectations import evaluate
from runner.evaluation.replies import RECOGNITION_NS
from runner.evaluation.verdicts import KNOWN_LATE_NS, ExpectationVerdict, Verdict
from tests.evaluation.facts import READY, asks, ended, heard, line, over, s, script, speech, taken_up, told

SCRIPT = script(asks(Expectation(text_contains="which order", within_ms=5_000)))
# The turn was taken up at 1 s: its words must have come by 6 s. The second phrase is known to be one only at 5.2 s.
FIRST = [taken_up(1), *line(1.2, 2.5), *speech(3.2, 3.9)]
TURN_OVER = over(4.9)
SECOND = speech(4.8, 5.8)
OF_COURSE = heard(3.2, 3.9, "Of course.")
WHICH = heard(4.8, 5.8, "Which order is this about?")


def verdict(*facts: TimelineEvent | list[TimelineEvent], now_s: float | None) -> ExpectationVerdict:
    flat = [e for fact in facts for e in (fact if isinstance(fact, list) else [fact])]
    (found,) = evaluate(SCRIPT, flat, now_ns=None if now_s is None else s(now_s))
    return found


@pytest.mark.parametrize("now_s", [5.5, 6.5, 6.8, 7.5, 12.0])
def test_the_words_of_a_second_phrase_are_waited_for(now_s: float) -> None:
    open_verdict = verdict(FIRST, TURN_OVER, OF_COURSE, SECOND, now_s=now_s)
    assert open_verdict.verdict is Verdict.PENDING
    assert open_verdict.recheck_ns is not None and open_verdict.recheck_ns > s(now_s)


def test_they_count_when_they_come() -> None:
    assert verdict(FIRST, TURN_OVER, OF_COURSE, SECOND, over(6.8), WHICH, now_s=7.6).verdict is Verdict.MET
    assert verdict(FIRST, TURN_OVER, OF_COURSE, SECOND, over(6.8), WHICH, now_s=None).verdict is Verdict.MET


def test_they_are_not_waited_for_without_an_end() -> None:
    last_s = 6.8 + RECOGNITION_NS / 1e9
    facts = (FIRST, TURN_OVER, OF_COURSE, SECOND, over(6.8))
    assert verdict(*facts, now_s=last_s - 0.1).verdict is Verdict.PENDING
    assert verdict(*facts, now_s=last_s + 0.1).verdict is Verdict.MISSED


def test_speech_without_recognised_words_is_no_failure() -> None:
    greeted = [taken_up(0.1), *speech(0.3, 0.9), heard(0.3, 0.9, "Good evening.")]
    facts = [*greeted, taken_up(1.0, 1), *line(1.2, 2.5, 1), *speech(3.2, 4.9), over(6), ended(30)]
    played = script(asks(), asks(Expectation(text_contains="which order", within_ms=5_000)))
    (found,) = evaluate(played, facts)
    assert found.verdict is Verdict.NOT_OBSERVABLE


def test_speech_that_began_too_late_is_not_waited_for() -> None:
    late_s = 6 + KNOWN_LATE_NS / 1e9 + 0.01
    assert verdict(FIRST, TURN_OVER, OF_COURSE, speech(6.1, 6.3), now_s=late_s).verdict is Verdict.MISSED


def test_an_agent_that_tells_its_words_is_not_waited_for() -> None:
    late_s = 6 + KNOWN_LATE_NS / 1e9 + 0.01
    facts = (READY, FIRST, told(3.3, "Of course."), TURN_OVER, SECOND, told(4.9, "What was it about?"))
    assert verdict(*facts, now_s=late_s).verdict is Verdict.MISSED
