"""Statuses move one way only, but for a run that is given back."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.records.statuses import FINAL_RESULT, FINAL_RUN, ResultStatus, RunStatus, may_move, result_status

PENDING, RUNNING, EVALUATING, COMPLETED, FAILED, CANCELLED = RunStatus


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PENDING, RUNNING),
        (PENDING, EVALUATING),
        (RUNNING, EVALUATING),
        *itertools.product((PENDING, RUNNING, EVALUATING), (COMPLETED, FAILED, CANCELLED)),
        # Given back.
        (RUNNING, PENDING),
        (EVALUATING, PENDING),
    ],
)
def test_forward_is_allowed_and_back_to_waiting(before: RunStatus, after: RunStatus) -> None:
    assert may_move(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (EVALUATING, RUNNING),
        *((status, status) for status in RunStatus),
        *itertools.product((COMPLETED, FAILED, CANCELLED), RunStatus),
    ],
)
def test_anything_else_is_not(before: RunStatus, after: RunStatus) -> None:
    assert not may_move(before, after)


@given(st.lists(st.sampled_from(RunStatus)))
def test_whatever_order_reports_arrive_in_the_first_final_one_stays(reports: list[RunStatus]) -> None:
    status = PENDING
    for report in reports:
        if may_move(status, report):
            status = report
    finals = [report for report in reports if report in FINAL_RUN]
    assert (status == finals[0]) if finals else (status not in FINAL_RUN)


@pytest.mark.parametrize(
    ("runs", "result"),
    [
        ([PENDING, PENDING], ResultStatus.PENDING),
        ([PENDING, RUNNING], ResultStatus.RUNNING),
        ([PENDING, COMPLETED], ResultStatus.RUNNING),
        ([EVALUATING, FAILED], ResultStatus.RUNNING),
        ([COMPLETED, FAILED, CANCELLED], ResultStatus.COMPLETED),
        ([FAILED, CANCELLED], ResultStatus.FAILED),
        ([CANCELLED, CANCELLED], ResultStatus.CANCELLED),
    ],
)
def test_a_result_follows_its_runs(runs: list[RunStatus], result: ResultStatus) -> None:
    assert result_status(runs) is result


@given(st.lists(st.sampled_from(RunStatus), min_size=1))
def test_a_result_has_ended_when_all_its_runs_have(runs: list[RunStatus]) -> None:
    assert (result_status(runs) in FINAL_RESULT) == all(run in FINAL_RUN for run in runs)
