"""What the server counts of itself, in Prometheus' format."""

import math
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from runner.protocol.messages import WorkerState
from runner.records.statuses import RunStatus
from runner.records.workers import QueueState, WorkerView

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SET_UP_BUCKETS_S = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0)
_QUEUE_BUCKETS_S = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0)


class Metrics:
    """The counters of one application, in a registry of their own.

    Labels hold route templates and never what was sent, and the names of workers that are there, so that their number
    is bounded. What is read from the record shows nothing while the record can't be read.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of_route = ("route", "method")
        self._requests = Counter(
            "scenario_runner_requests", "Requests answered.", (*of_route, "status"), registry=self.registry
        )
        self._seconds = self._histogram("request_seconds", "How long requests took to answer.", _BUCKETS_S, *of_route)
        self._labelled: list[Gauge] = []
        gauge, of_worker = self._gauge, "worker"
        self._runs = gauge("runs", "Runs in the record.", "status")
        self._readable = gauge("record_readable", "Whether the record could be read for the figures beside this.")
        self._waiting = gauge("runs_waiting", "Runs that wait: those due could begin, the others are delayed.", "due")
        self._oldest_s = gauge(
            "oldest_waiting_seconds", "How long the run could have begun that waits longest; 0 where none waits."
        )
        self._workers = gauge("workers", "Workers, those that went within the last hour included.", "state")
        self._calls = gauge("worker_calls", "Calls that a worker makes now.", of_worker)
        self._limit = gauge("worker_calls_limit", "Calls that a worker makes at once.", of_worker)
        lag = "How late a worker's event loop was at most, within its last seconds."
        self._lag_s = gauge("worker_loop_lag_seconds", lag, of_worker)
        held = "Outcomes that a worker has on disk and has not been able to report."
        self._held = gauge("worker_reports_waiting", held, of_worker)
        underruns = "How often a call of a worker had no audio to send, since it started."
        self._underruns = gauge("worker_underruns", underruns, of_worker)
        queued = "How long runs waited, from when they could begin until a worker began them."
        self._queued_s = self._histogram("run_queue_seconds", queued, _QUEUE_BUCKETS_S)
        set_up = "How long runs took from there until caller and agent were in the room."
        self._set_up_s = self._histogram("run_setup_seconds", set_up, _SET_UP_BUCKETS_S)

    def answered(self, route: str, method: str, status: int, took_s: float) -> None:
        """Count an answer."""
        known = method if method in _METHODS else "other"
        self._requests.labels(route, known, str(status)).inc()
        self._seconds.labels(route, known).observe(took_s)

    def ended(self, *, queued_s: float | None, set_up_s: float | None) -> None:
        """Count a run that a worker reported: how long it waited (None: it never began), and took into its room."""
        if queued_s is not None:
            self._queued_s.observe(max(0.0, queued_s))
        if set_up_s is not None:
            self._set_up_s.observe(max(0.0, set_up_s))

    def set_record(self, by_status: Mapping[str, int], queue: QueueState, workers: Sequence[WorkerView]) -> None:
        """Set what was read from the record."""
        self.clear_record()
        self._readable.set(1)
        for status in RunStatus:
            self._runs.labels(status.value).set(by_status.get(status.value, 0))
        self._waiting.labels("yes").set(queue.waiting)
        self._waiting.labels("no").set(queue.delayed)
        self._oldest_s.set(queue.oldest_waiting_s or 0.0)
        for state in WorkerState:
            self._workers.labels(state.value).set(sum(worker.state == state.value for worker in workers))
        for worker in workers:
            if not worker.is_gone:
                self._set_worker(worker)

    def clear_record(self) -> None:
        """Forget what was read from the record: it can't be read now, and old figures look like new ones."""
        self._readable.set(0)
        self._oldest_s.set(math.nan)
        for gauge in self._labelled:
            gauge.clear()

    def _histogram(self, name: str, documentation: str, buckets: Sequence[float], *labels: str) -> Histogram:
        name = f"scenario_runner_{name}"
        return Histogram(name, documentation, labels, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        gauge = Gauge(f"scenario_runner_{name}", documentation, labels, registry=self.registry)
        if labels:
            self._labelled.append(gauge)
        return gauge

    def _set_worker(self, worker: WorkerView) -> None:
        # Two processes of one name are there while one takes over from another.
        self._calls.labels(worker.name).inc(len(worker.live))
        self._limit.labels(worker.name).inc(worker.limit)
        self._lag_s.labels(worker.name).inc(worker.loop_lag_ms / 1_000)
        self._held.labels(worker.name).inc(len(worker.kept))
        self._underruns.labels(worker.name).inc(worker.underruns)

    def text(self) -> bytes:
        """Return everything as Prometheus reads it."""
        return generate_latest(self.registry)
