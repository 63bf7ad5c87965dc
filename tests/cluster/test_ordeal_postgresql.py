"""API and workers on PostgreSQL, through everything that can happen to them."""

from pathlib import Path

import pytest

from tests.cluster.ordeal import FAST, SLOW, Times, ordeal
from tests.cluster.store import POSTGRESQL

pytestmark = [pytest.mark.webrtc, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("times", [pytest.param(FAST, id="fast"), pytest.param(SLOW, id="slow")])
def test_every_run_ends_once_and_as_it_should_whatever_happens(tmp_path: Path, times: Times) -> None:
    ordeal(POSTGRESQL, tmp_path, times)
