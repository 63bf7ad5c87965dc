"""A worker that is cut off from the API: it hangs up before somebody else is given what it has."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cluster.checks import check, logs
from tests.cluster.client import PASSES, WAITS
from tests.cluster.cluster import LEASE_S, Cluster, Worker, cluster
from tests.cluster.link import Fault, Link
from tests.cluster.store import POSTGRESQL
from tests.patience import wait_until

pytestmark = [pytest.mark.webrtc, pytest.mark.slow, pytest.mark.timeout(180)]

CALLS = 3


@dataclass
class Deployed:
    """Two workers: one beside the API, and one behind a link."""

    made: Cluster
    near: Worker
    far: Worker
    link: Link

    def far_is(self, state: str) -> None:
        store = self.made.store
        wait_until(
            lambda: self.far.state(store)[1] == state, lambda: f"{state}: {self.far.state(store)}", timeout_s=20
        )

    def began(self, run_id: int) -> list[str]:
        """Return the workers that began a run, in order."""
        return [change.executor for change in self.made.store.changes()[run_id] if change.status == "running"]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with cluster(POSTGRESQL, tmp_path_factory.mktemp("cluster")) as made:
        link = Link(made.port)
        near = made.add_worker("near", calls=CALLS)
        far = made.add_worker("far", calls=CALLS, record_url=link.url)
        made.wait()
        yield Deployed(made, near, far, link)
        made.stop()
        link.close()
        assert logs(made) == []


@pytest.fixture(autouse=True)
def mended(deployed: Deployed) -> Iterator[None]:
    deployed.far_is("taking")
    yield
    deployed.link.mend()


@pytest.mark.parametrize("fault", Fault)
def test_its_runs_go_to_another_once_it_has_hung_up(deployed: Deployed, fault: Fault) -> None:
    made, far = deployed.made, deployed.far
    launched = made.client.launch(WAITS, CALLS, sessions=True)
    wait_until(lambda: set(launched.runs) <= made.agent.runs_on(), "all calls are on")
    mine = far.has(made.store)
    executor, _ = far.state(made.store)
    assert mine
    deployed.link.cut(fault)
    near, _ = deployed.near.state(made.store)
    wait_until(lambda: all(deployed.began(run) == [executor, near] for run in mine), "another one makes them")
    # Nothing can reach it meanwhile.
    after = made.client.launch(PASSES, CALLS, success=True)
    made.client.end([launched])
    made.client.until_ended([after])
    assert {worker for run in after.runs for worker in deployed.began(run)} == {near}
    deployed.link.mend()
    deployed.far_is("taking")
    assert far.state(made.store)[0] != executor
    check(made, [launched, after])


def test_a_short_break_ends_no_call(deployed: Deployed) -> None:
    made, far = deployed.made, deployed.far
    launched = made.client.launch(PASSES, 2 * CALLS, success=True)
    mine = wait_until(lambda: far.has(made.store) & made.agent.runs_on(), "calls are on")
    deployed.link.cut(Fault.LOST)
    time.sleep(LEASE_S / 3)
    deployed.link.mend()
    made.client.until_ended([launched])
    check(made, [launched])
    assert {len(deployed.began(run)) for run in mine} == {1}
