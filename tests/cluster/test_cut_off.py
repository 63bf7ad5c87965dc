"""A worker that reaches the database and not the API: it is given runs through the one, and can't begin them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from runner.dispatch.dispatcher import UNBEGUN_LIMIT_S
from tests.cluster.checks import check, logs
from tests.cluster.client import PASSES
from tests.cluster.cluster import Cluster, Worker, cluster
from tests.cluster.link import Fault, Link
from tests.cluster.program import until
from tests.cluster.store import POSTGRESQL

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
        """Wait until the one behind the link is in a state."""
        store = self.made.store
        until(lambda: self.far.state(store)[1] == state, lambda: f"{state}: {self.far.state(store)}", timeout_s=20)

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
    """Begin with a link that is whole, and leave it so."""
    deployed.far_is("taking")
    yield
    deployed.link.mend()


@pytest.mark.parametrize("fault", Fault)
def test_what_it_was_given_is_made_by_another(deployed: Deployed, fault: Fault) -> None:
    made, far = deployed.made, deployed.far
    deployed.link.cut(fault)
    launched = [made.client.launch(PASSES, 2 * CALLS, success=True, sessions=sessions) for sessions in (False, True)]
    given = until(lambda: far.has(made.store), "it is given some")
    deployed.far_is("cut-off")
    made.client.until_ended(launched)
    executor, state = far.state(made.store)
    assert state == "cut-off"
    assert {executor for run in given for executor in deployed.began(run)} == {deployed.near.state(made.store)[0]}
    deployed.link.mend()
    deployed.far_is("taking")
    after = made.client.launch(PASSES, 2 * CALLS, success=True)
    made.client.until_ended([after])
    assert executor in {executor for run in after.runs for executor in deployed.began(run)}
    check(made, [*launched, after])


# What is sent again is there a quarter of a second later, and it is looked once a second.
@pytest.mark.parametrize("after_s", [0.2, 0.8, 1.4])
def test_a_run_is_in_one_place_only_where_it_can_begin_it_in_the_last_moment(
    deployed: Deployed, after_s: float
) -> None:
    made, far = deployed.made, deployed.far
    deployed.link.cut(Fault.LOST)
    launched = made.client.launch(PASSES, 2 * CALLS, success=True)
    until(lambda: far.has(made.store), "it is given some")
    time.sleep(UNBEGUN_LIMIT_S + after_s)
    deployed.link.mend()
    made.client.until_ended([launched])
    check(made, [launched])
    assert {len(deployed.began(run)) for run in launched.runs} == {1}
