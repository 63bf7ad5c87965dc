"""Each fault of the restaurant is caught as the table says, and the good restaurant is not blamed for anything."""

from pathlib import Path

import pytest

from bots.agents.faults import FAULTS as KNOWN_FAULTS
from tests.faults import FAULTS, GOOD, came_to, make_all

pytestmark = [pytest.mark.anyio, pytest.mark.webrtc, pytest.mark.slow]


def test_every_fault_has_its_line_in_the_table() -> None:
    assert {caught.fault for caught in FAULTS} == set(KNOWN_FAULTS)


@pytest.mark.timeout(400)
async def test_every_fault_is_caught_as_the_table_says(tmp_path: Path) -> None:
    runs = await make_all(FAULTS, tmp_path)
    details = {c.fault: run.detail for c, run in runs}
    assert {c.fault: came_to(run) for c, run in runs} == {c.fault: c.verdict for c in FAULTS}, details
    assert not [c.fault for c, run in runs if not c.is_told(run)], details


@pytest.mark.timeout(400)
async def test_the_good_agent_is_blamed_for_nothing(tmp_path: Path) -> None:
    runs = await make_all(GOOD, tmp_path)
    details = {c.scenario: run.detail for c, run in runs}
    assert {c.scenario: came_to(run) for c, run in runs} == {c.scenario: c.verdict for c in GOOD}, details
