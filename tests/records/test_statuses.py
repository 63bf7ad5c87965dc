"""Statuses move one way only, but for a run that is given back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.records.statuses import FINAL_RESULT, FINAL_RUN, ResultStatus, RunStatus, result_status

PENDING, RUNNING, EVALUATING, COMPLETED, FAILED, CANCELLED = RunStatus


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
