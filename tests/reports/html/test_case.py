"""Why a run did not pass: the sentence, the rows below it, and the moment to listen to."""

from typing import Any

import pytest

from bots.caller.script import Expectation, FunctionCall
from bots.timeline import AgentError, AgentProcessEnded, EndedReason
from runner.evaluation.view import CallView
from runner.reports.html.case import Case, case_of
from tests.evaluation.facts import asks, ended, s, script
from tests.reports.html.calls import WRONG_CALL, call_facts, calls_with, judged


def case(played: Any = WRONG_CALL, facts: Any = None) -> Case:
    facts = call_facts() if facts is None else facts
    return case_of(judged(played, facts), CallView.measured(facts), played)


def rows(found: Case) -> dict[str, str]:
    return {row.label: row.text for row in found.rows}


def test_a_wrong_value_is_named_in_the_title_and_marked_in_the_call() -> None:
    found = case()
    assert found.title == "Failed in turn 2: check_availability was called with people = 5; 4 was expected."
    marked = [(row.label, piece.text, piece.mark) for row in found.rows for piece in row.pieces if piece.mark]
    assert marked == [("Expected", "4", "good"), ("Called", "5", "bad"), ("It had understood", "4", "good")]
    assert rows(found)["Called"] == "check_availability(people = 5, day = Friday)"
    assert rows(found)["It then said"] == "“For five people.”"
    assert {row.label: row.at_s for row in found.rows if row.at_s} == {
        "Called": 8.2,
        "It had understood": 4.0,
        "It then said": 10.0,
    }


def test_several_wrong_values_are_all_named() -> None:
    wanted = FunctionCall(name="check_availability", args={"people": 4, "day": "Sunday"})
    played = WRONG_CALL.model_copy(
        update={
            "turns": (
                WRONG_CALL.turns[0],
                asks(Expectation(event="function_call", calls=(wanted,), within_ms=6_000)),
            )
        }
    )
    found = case(played)
    assert "was called with people = 5, day = Friday; 4, Sunday were expected." in found.title
    assert "It had understood" not in rows(found)


def test_the_moment_is_heard_from_the_end_of_the_callers_line() -> None:
    found = case()
    assert (found.at_s, found.hear_s, found.until_s) == (8.2, 5.0, 12.2)


@pytest.mark.parametrize(
    ("understood", "shown"),
    [
        (["A table for 4 on Friday."], "“A table for 4 on Friday.”"),
        (["A table for five."], "“A table for five.”"),
        (["A table for four.", "At 4 o'clock."], None),
        (["A table for 4, or for 5."], None),
        (["On Friday."], None),
        ([], None),
    ],
)
def test_what_was_understood_is_shown_only_where_it_is_plain(understood: list[str], shown: str | None) -> None:
    assert rows(case(facts=call_facts(understood=understood))).get("It had understood") == shown


@pytest.mark.parametrize(("people", "wanted"), [(True, False), ([4], 4), (None, 4), ("", "x"), ({"a": 1}, 4)])
def test_a_value_that_nobody_says_is_followed_nowhere(people: Any, wanted: Any) -> None:
    found = case(calls_with(people, wanted=wanted), call_facts(people=people, understood=["true 4 x False"]))
    assert "It had understood" not in rows(found)
    assert "Called" in rows(found)


def test_a_call_of_another_function_is_no_wrong_value() -> None:
    found = case(calls_with(4, name="book_table"))
    assert "no call of book_table" in found.title
    assert "It had understood" not in rows(found)


def test_an_error_of_the_agent_is_shown_with_its_place() -> None:
    facts = [*call_facts()[:-1], AgentError(at_ns=s(7), text="KeyError: 'order'"), ended(15)]
    error = next(row for row in case(facts=facts).rows if row.label == "Its error")
    assert (error.text, error.at_s) == ("KeyError: 'order'", 7.0)


def test_the_last_line_of_a_process_that_died_is_shown() -> None:
    facts = [
        *call_facts()[:10],
        AgentProcessEnded(at_ns=s(7), exit_code=1, log_tail="Traceback\nKeyError: 'order'\n"),
        ended(9, EndedReason.AGENT_VANISHED),
    ]
    found = case(facts=facts)
    assert rows(found)["It printed"] == "KeyError: 'order'"
    assert "exit code 1" in found.title


def test_a_run_that_was_never_begun_has_no_moment() -> None:
    facts = [call_facts()[0], ended(0, EndedReason.ROOM_UNREACHABLE, "nothing answers at http://localhost:1")]
    found = case(script(asks()), facts)
    assert found.title == "Inconclusive: nothing answers at http://localhost:1."
    assert (found.rows, found.at_s, found.until_s) == ((), None, 0.0)


def test_numbers_stay_with_their_units() -> None:
    facts = [call_facts()[0], ended(0, EndedReason.ROOM_UNREACHABLE, "it took 30 s")]
    assert "30\u00a0s" in case(script(asks()), facts).title
