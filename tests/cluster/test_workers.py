"""Workers as their users start them, two on one SQLite file, and what they do when things go wrong."""

import time
from collections.abc import Iterator, Sequence

import pytest

from tests.cluster.agent import now_ns
from tests.cluster.checks import check, ended_once, logs
from tests.cluster.client import PASSES, WAITS, Launched
from tests.cluster.cluster import LEASE_S, Cluster, Worker, cluster
from tests.cluster.ordeal import killed, until_live
from tests.cluster.store import SQLITE
from tests.patience import wait_until

pytestmark = [pytest.mark.webrtc, pytest.mark.slow, pytest.mark.timeout(180)]

CALLS = 3
HURRIES_S = 1.0
TAKES_TIME_S = 60.0
SEEN_TO_S = LEASE_S * 1.25 + 10.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A deployment with two workers: ``one`` drains in a hurry, ``two`` takes its time."""
    with cluster(SQLITE, tmp_path_factory.mktemp("cluster")) as made:
        made.add_worker("one", calls=CALLS, drain_s=HURRIES_S)
        made.add_worker("two", calls=CALLS, drain_s=TAKES_TIME_S)
        made.wait()
        yield made
        made.stop()
        assert logs(made) == []


@pytest.fixture
def workers(made: Cluster) -> Iterator[list[Worker]]:
    """Both workers, running, with nothing to do."""
    for worker in made.workers:
        if not worker.is_running:
            worker.start()
    for worker in made.workers:
        worker.wait()
    yield made.workers
    made.client.end(made.client.launched)


def until_on(made: Cluster, launched: Sequence[Launched]) -> None:
    runs = {run for each in launched for run in each.runs}
    wait_until(lambda: runs <= made.agent.runs_on(), lambda: f"on are {made.agent.runs_on()} of {runs}")


def test_ending_a_result_ends_its_calls_on_every_worker_at_once(made: Cluster, workers: list[Worker]) -> None:
    slots = CALLS * len(workers)
    # However the runs are dealt out, each worker gets some of both.
    slow = {0, 1, 4}
    launched = made.client.launch(WAITS, slots + 4, slow=slow)
    starting = {launched.runs[index] for index in slow}
    live = set(launched.runs[:slots]) - starting
    wait_until(
        lambda: made.agent.runs_on() == live and len(made.store.taken()) == slots,
        lambda: f"{live} are on: {made.agent.runs_on()}; {starting} start: {made.store.taken()}",
    )
    for worker in workers:
        assert worker.has(made.store) & live and worker.has(made.store) & starting
    assert set(made.client.statuses(launched).values()) == {"running", "pending"}

    began_s, began_ns = time.monotonic(), now_ns()
    made.client.post(f"/results/{launched.id}/end_calls/")
    wait_until(
        lambda: set(made.client.statuses(launched).values()) == {"cancelled"} and not made.agent.runs_on(),
        lambda: f"all have ended: {made.client.statuses(launched)}, {made.agent.runs_on()}",
        timeout_s=10,
    )
    assert time.monotonic() - began_s < 2

    # Whatever was left over would be called before.
    after = made.client.launch(PASSES, 1, success=True)
    made.client.until_ended([after])
    calls = [call for call in made.agent.calls() if call.run in launched.runs]
    assert sorted(call.run for call in calls) == sorted(live)
    assert not [call for call in calls if call.entered_ns > began_ns]
    check(made, [launched, after])


def test_runs_of_a_dead_or_frozen_worker_are_moved_or_closed(made: Cluster, workers: list[Worker]) -> None:
    one, two = workers
    # In an order in which each worker gets one of each, unless one of them is too busy for a while.
    launched = [
        made.client.launch(WAITS, 1, greets=greets, sessions=sessions)
        for _ in workers
        for greets, sessions in ((True, False), (False, False), (True, True))
    ]
    said, silent, anew = ({launched[index].runs[0] for index in (kind, kind + 3)} for kind in range(3))
    # In a room that was given: what was said there since its worker polled last nobody knows.
    closed = said | silent
    until_on(made, launched)
    wait_until(lambda: _said(made) == said | anew, lambda: f"something was said in {said | anew}: {_said(made)}")
    at_two = two.has(made.store)

    died_s = time.monotonic()
    lost = killed(made, one)
    assert lost and at_two and silent | anew
    one.start()
    _until_seen_to(made, lost, closed, died_s)
    assert at_two <= made.agent.runs_on()

    # Room for what is to come.
    for run in lost - closed:
        made.client.post(f"/runs/{run}/end_call/")
    wait_until(lambda: made.agent.runs_on() == at_two, "the calls have ended")
    two.freeze()
    froze_s = time.monotonic()
    _until_seen_to(made, at_two, closed, froze_s)
    before = made.store.changes()
    # Nobody tells it that its calls are others' by now.
    made.api.kill()
    thawed_ns = now_ns()
    two.thaw()

    def hung_up() -> list[int]:
        return [made.agent.calls_of(run)[0].left_ns or 0 for run in at_two]

    wait_until(lambda: all(hung_up()), lambda: f"its calls are hung up: {hung_up()}", timeout_s=5)
    assert min(hung_up()) > thawed_ns
    made.start_api()
    wait_until(lambda: two.state(made.store)[1] == "taking", "the frozen worker takes runs again", timeout_s=15)
    assert {run: made.store.changes()[run] for run in at_two} == {run: before[run] for run in at_two}

    made.client.end(launched)
    check(made, launched, may_be_lost=closed)


def test_a_worker_that_is_told_to_stop_sees_its_calls_through(made: Cluster, workers: list[Worker]) -> None:
    _, two = workers
    before = made.client.launch(PASSES, CALLS + 1, success=True)
    mine = until_live(made, two)
    executor, _ = two.state(made.store)
    two.terminate()
    wait_until(lambda: two.state(made.store)[1] == "draining", "it says that it drains")
    later = made.client.launch(PASSES, CALLS, success=True)
    assert two.ends() == 0
    made.client.until_ended([before, later])
    changes = made.store.changes()
    assert {change.executor for run in mine for change in changes[run]} == {executor}
    began = {change.executor for run in later.runs for change in changes[run] if change.status == "running"}
    assert executor not in began
    check(made, [before, later])


def test_what_a_worker_has_no_time_for_is_made_by_another(made: Cluster, workers: list[Worker]) -> None:
    one, two = workers
    launched = made.client.launch(WAITS, CALLS + 1, sessions=True)
    until_on(made, [launched])
    run, *others = one.has(made.store)
    for other in [*others, *two.has(made.store)]:
        made.client.post(f"/runs/{other}/end_call/")
    wait_until(lambda: made.agent.runs_on() == {run}, "all others have ended")
    began_s = time.monotonic()
    one.terminate()
    assert one.ends() == 0
    assert time.monotonic() - began_s < HURRIES_S + 10
    wait_until(lambda: run in two.has(made.store) and run in made.agent.runs_on(), "the other one makes the call")
    assert [call.left_ns is not None for call in made.agent.calls_of(run)] == [True, False]
    made.client.end([launched])
    check(made, [launched])


def test_what_came_of_calls_while_the_record_was_away_arrives(made: Cluster, workers: list[Worker]) -> None:
    one, two = workers
    launched = [made.client.launch(PASSES, CALLS + 1, success=True, sessions=sessions) for sessions in (False, True)]
    wait_until(lambda: all(worker.has(made.store) & made.agent.runs_on() for worker in workers), "both make calls")
    made.api.kill()
    mine = {worker: worker.has(made.store) & made.agent.runs_on() for worker in workers}
    assert all(mine.values())
    for worker, runs in mine.items():
        wait_until(
            lambda worker=worker, runs=runs: worker.holds() >= runs,
            lambda worker=worker, runs=runs: f"{worker.name} holds {worker.holds()}, and not {runs}",
        )
    # One dies as a whole; of the other only what makes the calls.
    executor, _ = two.state(made.store)
    two.kill()
    _, *making = one.processes()
    for process in making:
        process.kill()
    made.start_api()
    wait_until(lambda: made.store.state(executor) == "lost", "the dead worker is given up for lost")
    two.start()
    made.client.until_ended(launched)
    statuses = check(made, launched)
    held = {run for runs in mine.values() for run in runs}
    assert {statuses[run] for run in held} == {"completed"}
    assert {made.client.run(run)["scenario_runner"]["attempt"] for run in held} == {1}


def _until_seen_to(made: Cluster, lost: set[int], may_close: set[int], since_s: float) -> None:
    """Wait until each run of a lost worker is closed, where something may have been said, or called again."""
    closed = lost & may_close
    calls = {run: len(made.agent.calls_of(run)) for run in lost - closed}

    def is_seen_to() -> bool:
        again = {run: made.agent.calls_of(run) for run in calls}
        return all(made.client.run(run)["status"] == "failed" for run in closed) and all(
            len(again[run]) > count and again[run][-1].is_on for run, count in calls.items()
        )

    wait_until(
        is_seen_to,
        lambda: f"{lost} are seen to: { {run: made.store.changes()[run] for run in lost} }",
        SEEN_TO_S - (time.monotonic() - since_s),
    )
    assert ended_once(made, closed) == []


def _said(made: Cluster) -> set[int]:
    rows = made.store.rows("SELECT id FROM runs WHERE said_at IS NOT NULL AND status = 'running'")
    return {row.id for row in rows}
