"""What watches a worker: ``/healthz``, ``/readyz`` and ``/metrics`` of its supervisor. None of it needs a key."""

import socket
import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runner.serving import METRICS_TYPE, WebServer
from runner.worker.status import STATES, WorkerStatus
from runner.worker.supervisor import Child

_PREFIX = "scenario_runner_worker_process_"
"""Not that of the server's figures: whoever adds up those of all workers counts none twice."""

_GAUGES: tuple[tuple[str, str, Callable[[WorkerStatus], float]], ...] = (
    ("calls_live", "Runs that are worked on.", lambda status: status.live),
    ("calls_limit", "How many calls are made at once.", lambda status: status.calls),
    ("reports_waiting", "Outcomes on disk that the server has not taken.", lambda status: status.kept),
    (
        "loop_lag_seconds",
        "The longest the event loop was late within the last seconds.",
        lambda status: status.loop_lag_ms / 1_000,
    ),
)
_COUNTERS: tuple[tuple[str, str, Callable[[WorkerStatus], float]], ...] = (
    ("calls_made", "Calls begun.", lambda status: status.calls_made),
    ("underruns", "How often a call had no audio to send.", lambda status: status.underruns),
)


class _Figures(Collector):
    """The figures of all processes, labelled with their names."""

    def __init__(self, children: Sequence[Child]):
        self._children = children

    def collect(self) -> Iterable[Metric]:
        labels = ("worker",)
        now_s = time.monotonic()
        up = GaugeMetricFamily(f"{_PREFIX}up", "Whether the process lives and its event loop goes on.", labels=labels)
        state = GaugeMetricFamily(f"{_PREFIX}state", "Which state it is in.", labels=("worker", "state"))
        restarts = CounterMetricFamily(f"{_PREFIX}restarts", "How often it was started again.", labels=labels)
        setting_up = SummaryMetricFamily(
            f"{_PREFIX}setup_seconds", "From when a run was taken to its room.", labels=labels
        )
        for child in self._children:
            up.add_metric((child.name,), float(child.is_healthy(now_s)))
            for name in STATES:
                state.add_metric((child.name, name), float(child.state(now_s) == name))
            restarts.add_metric((child.name,), child.restarts)
            setting_up.add_metric((child.name,), child.status.rooms_entered, child.status.setting_up_s)
        yield from (up, state, restarts, setting_up)
        for kind, figures in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
            for name, says, figure in figures:
                family = kind(f"{_PREFIX}{name}", says, labels=labels)
                for child in self._children:
                    family.add_metric((child.name,), figure(child.status))
                yield family


def health_app(children: Sequence[Child]) -> Starlette:
    """Return what answers for some processes."""
    registry = CollectorRegistry()
    registry.register(_Figures(children))

    async def healthz(request: Request) -> Response:
        now_s = time.monotonic()
        healthy = {child.name: child.is_healthy(now_s) for child in children}
        return JSONResponse(
            {"status": "ok" if all(healthy.values()) else "failing", "workers": healthy},
            200 if all(healthy.values()) else 503,
        )

    async def readyz(request: Request) -> Response:
        now_s = time.monotonic()
        is_ready = any(child.takes_runs(now_s) for child in children)
        states = {child.name: child.state(now_s) for child in children}
        return JSONResponse(
            {"status": "ready" if is_ready else "not ready", "workers": states}, 200 if is_ready else 503
        )

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), headers={"Content-Type": METRICS_TYPE})

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])


async def serve_health(children: Sequence[Child], listener: socket.socket) -> None:
    """Answer until cancelled."""
    await WebServer(health_app(children), connections_limit_s=1).serve([listener])
