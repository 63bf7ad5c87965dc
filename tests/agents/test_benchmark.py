"""The benchmark over backgrounds: what the metronome's log says is matched with what runs state."""

from typing import Any

import pytest

from benchmarks.backgrounds import CLEAN, Answer, Row, add, answers_of, claims_of
from benchmarks.calls import conversation
from bots.timeline import EndedReason
from runner.calls.run_file import Run
from runner.evaluation.turns import TurnMeasures

MS = 1_000_000
ORIGIN_NS = 7_000_000_000


def logged(tag_ms: int, session: str = "a", caller_end_ms: int = 1_000, answer_ms: int = 800) -> list[dict[str, Any]]:
    """A greeting, and an answer that lasts 1.5 s; times in ms after the call's zero."""

    def event(name: str, at_ms: int, **more: Any) -> dict[str, Any]:
        return {"event": name, "session": session, "at_ns": ORIGIN_NS + at_ms * MS, **more}

    begin_ms = caller_end_ms + answer_ms
    return [
        event("session_started", -500, stop_ms=tag_ms),
        event("answer_started", -400, kind="greeting"),
        event("answer_ended", -100, kind="greeting", interrupted=False),
        event("caller_speech_ended", caller_end_ms),
        event("answer_started", begin_ms, kind="answer"),
        event("answer_ended", begin_ms + 1_500, kind="answer", interrupted=False),
    ]


def run(turns: list[TurnMeasures], reason: EndedReason = EndedReason.CALLER_HUNG_UP) -> Run:
    return Run.model_construct(script=conversation(1), turns=turns, ended_reason=reason)


def turn(latency_ms: float | None, uncertainty_ms: float | None = None, refused: str | None = None) -> TurnMeasures:
    return TurnMeasures(
        turn=0,
        said="Hello?",
        started_s=0.2,
        caller_speech_end_s=1.001,
        response_latency_ms=latency_ms,
        uncertainty_ms=uncertainty_ms,
        refused=refused,
    )


def counted(run: Run, turn_ends_ms: tuple[int, ...] = (900, 4_300)) -> Row:
    row = Row("crowd")
    ends_ns = [ORIGIN_NS + at_ms * MS for at_ms in turn_ends_ms]
    add(row, run, ORIGIN_NS, ends_ns, answers_of(logged(301), 301))
    return row


def test_a_session_is_known_by_its_tag() -> None:
    log = [*logged(300, "a"), *logged(301, "b", caller_end_ms=2_000)]
    greeting, answer = answers_of(log, 301)
    assert greeting.caller_ended_ns is None
    assert answer == Answer(*(ORIGIN_NS + at_ms * MS for at_ms in (2_000, 2_800, 4_300)), interrupted=False)
    assert answers_of(log, 302) == []


def test_an_error_is_what_is_stated_less_what_the_log_says() -> None:
    row = counted(run([turn(807.0, 8.0)]))
    assert row.errors_ms == [pytest.approx(7.0)]
    assert (row.turns, row.coverage, row.p95_ms) == (1, 1.0, pytest.approx(7.0))


@pytest.mark.parametrize(
    ("latency_ms", "uncertainty_ms", "coverage"), [(800.0, None, 0.0), (830.0, 20.0, 0.0), (770.0, 30.0, 1.0)]
)
def test_an_uncertainty_covers_an_error_that_is_no_greater(
    latency_ms: float, uncertainty_ms: float | None, coverage: float
) -> None:
    assert counted(run([turn(latency_ms, uncertainty_ms)])).coverage == coverage


def test_a_turn_without_a_latency_is_refused_or_unexplained() -> None:
    assert [counted(run([turn(None, refused=why)])).refused for why in ("too loud to tell", None)] == [1, 0]
    assert counted(run([turn(None)])).unexplained == 1
    assert counted(run([])).unexplained == 1, "never spoken"


@pytest.mark.parametrize(("latency_ms", "counts"), [(None, (1, 0)), (700.0, (0, 1))])
def test_what_the_log_has_no_answer_to_has_no_latency(latency_ms: float | None, counts: tuple[int, int]) -> None:
    row = Row("crowd")
    add(row, run([turn(latency_ms)]), ORIGIN_NS, [], answers_of(logged(301, caller_end_ms=300), 301))
    assert (row.unanswered, row.unexplained, row.errors_ms) == (*counts, [])


def test_turn_ends_count_from_the_last_sample_of_an_answer() -> None:
    row = counted(run([turn(800.0)]), turn_ends_ms=(900, 4_400))
    assert row.turn_ends_ms == [1_000.0, 1_100.0]
    assert row.early == 0
    early = counted(run([turn(800.0)]), turn_ends_ms=(900, 2_000, 4_400))
    assert (early.turn_ends_ms, early.early) == ([1_000.0], 1)


def test_a_call_that_ends_by_the_clock_hangs() -> None:
    assert counted(run([turn(800.0)], EndedReason.MAX_DURATION)).hung == 1
    assert counted(run([turn(800.0)])).hung == 0


def test_claims_hold_for_a_good_row_and_not_without_figures() -> None:
    good = counted(run([turn(805.0, 8.0)]))
    good.background = CLEAN
    assert all(claim.holds for claim in claims_of([good]))
    without = claims_of([Row(CLEAN)])
    assert not any(claim.holds for claim in without if "latency or" not in claim.text and "hangs" not in claim.text)
