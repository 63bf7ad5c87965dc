"""One view of a call: the same whatever order facts come in, and measured where the recording was."""

import random

import pytest

from bots.clock import NS_PER_MS
from bots.timeline import AgentAudioLate, AgentSaid, AgentStartedSpeaking, TimelineEvent
from runner.evaluation.transcript import unrecognised
from runner.evaluation.view import CallView
from tests.evaluation.facts import JOINED, ended, heard, line, measured, over, recording, s, speech, taken_up

CALL: list[TimelineEvent] = [
    taken_up(1),
    *line(1.2, 3),
    *speech(3.8, 5),
    over(6),
    taken_up(6.1, 1),
    *line(6.2, 7, 1),
    *speech(8, 9.5),
    ended(12),
]


def spans(view: CallView) -> list[tuple[float, float | None]]:
    return [(x.started.at_s, None if x.stopped is None else x.stopped.at_s) for x in view.speeches]


@pytest.mark.parametrize("seed", range(20))
def test_a_view_is_the_same_whatever_order_its_facts_come_in(seed: int) -> None:
    shuffled = random.Random(seed).sample(CALL, len(CALL))
    one_by_one = CallView()
    for fact in shuffled:
        one_by_one.add(fact)
    whole = CallView(CALL)
    assert one_by_one.facts == whole.facts == sorted(CALL, key=lambda e: e.at_ns)
    assert spans(one_by_one) == spans(whole) == [(3.8, 5.0), (8.0, 9.5)]
    assert one_by_one.starts == whole.starts == {0: s(1), 1: s(6.1)}
    assert one_by_one.next_start_ns(0) == s(6.1) and one_by_one.next_start_ns(1) is None


def test_measured_speech_takes_the_place_of_what_was_heard_live() -> None:
    facts = [*CALL, recording(), measured(3.9, 5.1), measured(8.05, 9.4, onset_ms=20, end_ms=40)]
    view = CallView.measured(facts)
    assert spans(view) == [(3.9, 5.1), (8.05, 9.4)]
    assert [e.at_s for e in view.of(AgentStartedSpeaking)] == [3.9, 8.05]
    assert [x.onset_uncertainty_ns for x in view.speeches] == [s(0.008), s(0.02)]
    assert spans(CallView(facts)) == [(3.8, 5.0), (8.0, 9.5)], "while the call is on the live hearing counts"


def test_a_recording_without_speech_leaves_none() -> None:
    assert spans(CallView.measured([*CALL, recording()])) == []


def test_short_gaps_do_not_split_measured_speech() -> None:
    view = CallView.measured([ended(9), recording(), measured(1, 2), measured(2.1, 3), measured(3.3, 4)])
    assert spans(view) == [(1.0, 3.0), (3.3, 4.0)]


@pytest.mark.parametrize(
    ("recognised", "open_s"),
    [
        ([], [(1.0, 5.0)]),
        ([(1.0, 5.0)], []),
        ([(3.0, 5.0)], [(1.0, 3.0)]),
        ([(1.2, 4.9)], []),
        ([(2.0, 3.0)], [(1.0, 2.0), (3.0, 5.0)]),
    ],
)
def test_what_was_not_recognised_live_is_what_no_span_covers(
    recognised: list[tuple[float, float]], open_s: list[tuple[float, float]]
) -> None:
    view = CallView.measured([ended(9), recording(), measured(1, 5), over(6)])
    spans_ns = [(s(a), s(b)) for a, b in recognised]
    assert [(a / 1e9, b / 1e9) for a, b in unrecognised(view, spans_ns)] == open_s


def test_speech_up_to_the_end_of_the_call_was_still_under_way() -> None:
    assert spans(CallView.measured([ended(9), recording(9), measured(8, 8.95)])) == [(8.0, None)]


def test_speech_too_short_to_be_measured_is_what_was_heard_live() -> None:
    last = AgentStartedSpeaking(at_ns=s(11.6))
    assert spans(CallView.measured([*CALL, last, recording(), measured(3.9, 5.1)])) == [(3.9, 5.1), (11.6, None)]
    long_ago = AgentStartedSpeaking(at_ns=s(10.9))
    assert spans(CallView.measured([*CALL, long_ago, recording(), measured(3.9, 5.1)])) == [(3.9, 5.1)]
    found = [*CALL, last, recording(), measured(3.9, 5.1), measured(11.7, 11.95)]
    assert spans(CallView.measured(found)) == [(3.9, 5.1), (11.7, None)]


def test_heard_words_move_to_the_measured_onset_of_their_speech() -> None:
    facts = [*CALL, heard(3.8, 5, "hello"), heard(20, 21, "far away"), recording(), measured(3.9, 5.1)]
    words = CallView.measured(facts).of(AgentSaid)
    assert [w.started_ns for w in words] == [s(3.9), s(20)]


def test_an_edge_in_audio_that_came_late_is_less_exact() -> None:
    facts = [JOINED, measured(4, 6), measured(8, 9), recording()]
    late = AgentAudioLate(at_ns=s(3.9), duration_ms=200, late_ms=150)
    exact, moved = CallView.measured(facts).speeches, CallView.measured([*facts, late]).speeches
    assert moved[0].onset_uncertainty_ns == exact[0].onset_uncertainty_ns + 150 * NS_PER_MS
    assert moved[0].end_uncertainty_ns == exact[0].end_uncertainty_ns
    assert moved[1] == exact[1]
