"""What the server counts of itself, in Prometheus' format."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from runner.records.statuses import RunStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one application, in a registry of their own.

    Labels hold route templates and never what was sent, so that their number is bounded.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "scenario_runner_requests",
            "Requests answered.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "scenario_runner_request_seconds",
            "How long requests took to answer.",
            ("route", "method"),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._runs = Gauge("scenario_runner_runs", "Runs in the record.", ("status",), registry=self.registry)

    def answered(self, route: str, method: str, status: int, took_s: float) -> None:
        """Count an answer.

        Args:
            route: The route's template.
            method: The HTTP method.
            status: The HTTP status.
            took_s: How long it took, in seconds.
        """
        known = method if method in _METHODS else "other"
        self._requests.labels(route, known, str(status)).inc()
        self._seconds.labels(route, known).observe(took_s)

    def set_runs(self, by_status: Mapping[str, int]) -> None:
        """Set how many runs there are in each status; those that are not named have none."""
        for status in RunStatus:
            self._runs.labels(status.value).set(by_status.get(status.value, 0))

    def text(self) -> bytes:
        """Return everything as Prometheus reads it."""
        return generate_latest(self.registry)
