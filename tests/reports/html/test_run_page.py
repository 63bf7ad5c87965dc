"""What is on the page of a run, by its facts alone."""

import html
from collections.abc import Sequence
from typing import Any

import pytest

from bots.caller.script import AGENT_SPEAKS, AGENT_STOPS, AgentHeardFor, Expectation
from bots.timeline import AgentError, CallerHeardAs, EndedReason, TimelineEvent
from runner.evaluation.verdicts import Cause
from runner.reports.html.render import render_run
from runner.reports.html.run_page import RunPage, run_page
from runner.reports.html.said import Row
from tests.evaluation.facts import (
    JOINED,
    asks,
    ended,
    heard,
    line,
    measured,
    over,
    recording,
    s,
    script,
    speech,
    taken_up,
    told,
)
from tests.reports.html.calls import STARTED, WRONG_CALL, call_facts, judged, metrics


def page(played: Any = WRONG_CALL, facts: Sequence[TimelineEvent] | None = None, **given: Any) -> RunPage:
    facts = call_facts() if facts is None else facts
    found = run_page(judged(played, facts, **given), facts, script=played)
    assert found.title in html.unescape(render_run(found))
    return found


def rows(found: RunPage) -> list[Row]:
    return [row for turn in found.turns for row in turn.rows]


def one_turn(*facts: TimelineEvent, begin_s: float = 1.0) -> list[TimelineEvent]:
    return [STARTED, JOINED, taken_up(begin_s), *facts]


def test_what_was_never_reached_is_not_counted_as_missed() -> None:
    found = page()
    assert found.sub == "The agent's fault. 1 expectation met, 1 missed, 1 not reached."
    assert [(check.kind, check.place) for check in found.checks] == [
        ("fail", "Turn 2 · missed"),
        ("pass", "Turn 1 · met"),
    ]
    assert [check.anchor for check in found.unreached] == ["check-3-1"]


def test_what_follows_a_miss_in_its_turn_was_not_reached_either() -> None:
    played = script(asks(Expectation(text_contains="yes", within_ms=6_000), Expectation(text_contains="no")))
    found = page(played, one_turn(*line(1, 2), *speech(3, 4), told(4, "Maybe."), over(5), ended(20)))
    assert (found.checks[0].kind, found.unreached[0].kind) == ("fail", "none")


def test_turns_are_counted_from_one_everywhere() -> None:
    found = page()
    assert [turn.number for turn in found.turns] == [1, 2]
    assert [band.label for band in found.lanes.turns] == ["Turn 1", "Turn 2 · failed here"]
    assert found.bars[0].label == "Turn 2"


def test_every_place_on_the_axis_is_its_time() -> None:
    found = page()
    assert found.length_s == 15.0
    assert [band.x for band in found.lanes.turns] == [4.0, 23.333]
    [answer] = found.lanes.answers
    assert (answer.x, answer.x + answer.width, answer.label) == (40.0, 56.667, "2.50 s")
    assert found.lanes.failing == found.lanes.tools[0].x == 54.667
    assert [band.x for band in found.lanes.ticks][:3] == [0.0, 13.333, 26.667]
    assert {(span.kind, span.x) for span in found.spans} == {("a", 6.667), ("c", 26.667), ("a", 56.667)}


def test_rows_stand_in_the_order_of_their_times() -> None:
    found = rows(page())
    assert [(row.who, row.words) for row in found] == [
        ("Agent", "How can I help?"),
        ("Caller", "I'd like a table for four."),
        ("Tool", "check_availability(people = 5, day = Friday) → available = True"),
        ("Agent", "For five people."),
    ]
    assert found[1].under == ["The agent understood: “I'd like a table for 4.”"]


def test_an_answer_is_split_where_the_agent_sends_metrics() -> None:
    facts = [*call_facts()[:-1], metrics(7.0, ttfb=[{"processor": "STT", "value": 0.5}]), ended(15)]
    answer = next(row.answer for row in rows(page(facts=facts)) if row.answer)
    assert answer.text == "Answered after 2.50 s"
    assert [(part.name, share) for part, share in answer.parts] == [("recognising", 20.0), ("the rest", 80.0)]
    assert next(row.answer for row in rows(page()) if row.answer).parts == []


def test_an_answer_has_its_error_bar() -> None:
    facts = one_turn(*line(1, 2), measured(4, 5, onset_ms=100), heard(4, 5, "Yes."), over(6), recording(), ended(20))
    found = page(script(asks()), facts)
    [bar] = found.bars
    assert bar.x is not None and bar.low < bar.x < bar.high
    assert bar.text.startswith("2.00 ± 0.1")
    assert found.facts[0].note.startswith("± 0.1")


def test_an_answer_above_its_limit_is_marked() -> None:
    played = script(asks(Expectation(event=AGENT_SPEAKS, within_ms=1_500)))
    found = page(played, one_turn(*line(1, 2), *speech(4, 5), over(6), ended(20)))
    [bar] = found.bars
    assert bar.over and bar.limit is not None and bar.x is not None and bar.limit < bar.x
    assert found.has_limit and not page().has_limit


def test_words_that_were_not_heard_are_told_apart() -> None:
    facts = one_turn(
        *line(1, 2),
        measured(3, 4),
        heard(3, 4, "A table."),
        told(3.5, "A table."),
        told(9, "What name?"),
        over(5),
        recording(),
        ended(20),
    )
    found = {row.words: row.under for row in rows(page(script(asks()), facts))}
    assert found["A table."] == []
    assert found["What name?"] == ["reported by the agent, not heard in the recording"]


def test_a_barge_in_says_what_was_judged() -> None:
    barge_in = asks(
        Expectation(event=AGENT_STOPS, within_ms=500), text="Stop.", start=AgentHeardFor(duration_ms=1_000)
    )
    played = script(asks(), barge_in)
    facts = one_turn(*line(1, 2), *speech(3, 7), taken_up(3.9, 1), *line(4, 6, 1, "Stop."), over(8), ended(20))
    found = page(played, facts)
    [overlap] = found.lanes.overlaps
    assert (overlap.label, overlap.x, overlap.width) == ("broke in", 20.0, 10.0)
    [note] = [row.words for row in rows(found) if not row.who]
    assert note.startswith("The caller broke in: ") and "3000 ms" in note


def test_an_agent_that_talks_over_the_caller_is_marked() -> None:
    found = page(script(asks()), one_turn(*line(1, 4), *speech(2, 3), over(5), ended(20)))
    assert [band.label for band in found.lanes.overlaps] == ["talked over"]
    assert [row.words for row in rows(found) if not row.who] == [
        "The agent began to speak 1.00 s into the caller's line."
    ]


def test_errors_of_the_agent_stand_on_the_axis_and_in_the_transcript() -> None:
    facts = [*call_facts()[:-1], AgentError(at_ns=s(7.5), text="boom"), ended(15)]
    found = page(facts=facts)
    assert [(band.x, band.kind) for band in found.lanes.tools] == [(50.0, "error"), (54.667, "tool")]
    assert ("Error", "boom") in [(row.who, row.words) for row in rows(found)]


@pytest.mark.parametrize(
    ("reason", "whose"),
    [(EndedReason.ICE_FAILED, Cause.NETWORK), (EndedReason.ROOM_UNREACHABLE, Cause.ROOM)],
)
def test_a_call_that_did_not_take_place_blames_nobody_else(reason: EndedReason, whose: Cause) -> None:
    found = page(facts=[STARTED, ended(0.5, reason, "no way in")])
    assert (found.verdict, found.icon) == ("inconclusive", "unsure")
    assert whose.value in found.sub and "the agent isn't judged" in found.sub
    assert "3 expectations not reached" in found.sub
    assert (found.turns, found.checks, found.bars) == ([], [], [])


def test_a_run_that_passed_says_so_first() -> None:
    facts = one_turn(*line(1, 2), *speech(3, 4), told(4, "Yes."), over(5), ended(6))
    found = page(script(asks(Expectation(text_contains="yes"))), facts)
    assert (found.title, found.icon, found.case.rows) == ("Passed: the 1 expectation met.", "pass", ())


def test_without_a_timeline_what_the_run_says_is_shown() -> None:
    run = judged(WRONG_CALL, call_facts())
    found = run_page(run, [], script=WRONG_CALL)
    assert [row.who for row in rows(found)] == ["Agent", "Caller", "Tool", "Agent"]
    assert found.title.startswith("Failed in turn 2:")
    assert found.lanes.answers and not found.lanes.tools


def test_a_call_of_a_day_is_bounded() -> None:
    facts = [*call_facts()[:-1]]
    facts += [AgentError(at_ns=s(11) + n, text="boom") for n in range(3_100)]
    facts += [CallerHeardAs(at_ns=s(12) + n, text="x" * 2_000) for n in range(500)]
    found = page(facts=[*facts, ended(15)])
    assert len(found.lanes.tools) == 500
    assert len(rows(found)) == 3_001
    assert rows(found)[-1].words == "104 more rows in run.json"
    assert max(len(text) for row in rows(found) for text in [row.words, *row.under]) < 2_200
    assert len(found.case.rows) < 10


def test_the_text_to_copy_holds_the_evidence() -> None:
    assert page().text.splitlines() == [
        "booking/table_for_four: Failed in turn 2: check_availability was called with people = 5; 4 was expected.",
        "The agent's fault. 1 expectation met, 1 missed, 1 not reached.",
        "Expected: check_availability(people = 4)",
        "Called: check_availability(people = 5, day = Friday) [0:08.2]",
        "It had understood: “I'd like a table for 4.” [0:04.0]",
        "It then said: “For five people.” [0:10.0]",
        "run r1",
    ]
