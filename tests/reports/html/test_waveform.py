"""The shape of a recording: every position in it is a time."""

import re

import numpy as np
import pytest

from runner.reports.html.waveform import MAX_COLUMNS, waveform

RATE_HZ = 24_000


def drawn(path: str) -> list[int]:
    """Return the height of every column of a path."""
    heights: list[int] = []
    for height, until in re.findall(r"V(-?\d+)H(\d+)", path):
        heights += [-int(height)] * (int(until) - len(heights))
    return heights


@pytest.mark.parametrize("seconds", [0.5, 10.0, 61.7])
@pytest.mark.parametrize("at", [0.0, 0.37, 0.98])
def test_a_click_is_drawn_in_the_column_of_its_time(seconds: float, at: float) -> None:
    samples = np.zeros(round(seconds * RATE_HZ), dtype=np.int16)
    samples[round(at * samples.size)] = 20_000
    shape = waveform(samples, RATE_HZ)
    [column] = np.flatnonzero(drawn(shape.peaks))
    assert column / shape.columns <= at <= (column + 1) / shape.columns + 1e-9
    assert seconds / shape.columns <= 0.0205


def test_a_long_call_has_no_more_columns_than_fit() -> None:
    shape = waveform(np.zeros(100 * 1_000, dtype=np.int16), 1_000)
    assert shape.columns == MAX_COLUMNS
    assert shape.peaks == f"M0 0V0H{MAX_COLUMNS}V0z"


def test_the_loudest_sample_there_is_stays_inside() -> None:
    assert set(drawn(waveform(np.full(4_800, -32_768, dtype=np.int16), RATE_HZ).peaks)) == {100}


def test_silence_of_no_length_has_no_shape() -> None:
    assert waveform(np.zeros(0, dtype=np.int16), RATE_HZ).peaks == ""
