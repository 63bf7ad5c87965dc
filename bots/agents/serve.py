"""Serve a reference agent the way a user's own bot is served: by Pipecat's development runner.

Every agent here is a module in Pipecat's quickstart pattern (an ``async def bot(runner_args)`` and a ``main`` guard),
so ``python -m bots.agents.restaurant -t webrtc --port 7860`` serves it with the routes any Pipecat bot has
(``/start``, ``/api/offer``, ``/sessions/<id>/api/offer``). :func:`serve` does just that from inside a program.
"""

import argparse
import asyncio
import importlib
import os
import runpy
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from loguru import logger

if TYPE_CHECKING:
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.transports.base_transport import BaseTransport

AGENTS: dict[str, str] = {
    "restaurant": "Takes a table booking; calls functions, takes DTMF, can be interrupted; --fault NAME breaks it.",
    "metronome": "Answers after a known time and logs the truth about it; for calibration and load.",
    "quickstart": "Repeats what it heard, in Pipecat's own quickstart pattern.",
}
"""The agents that can be served, and what each is for."""

LOG_LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR")


def serve(
    name: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    log_level: str = "WARNING",
    options: Sequence[str] = (),
) -> None:
    """Serve an agent over SmallWebRTC until the process is told to stop.

    Blocks. Takes over ``sys.argv`` and ``__main__`` for as long as it runs, because Pipecat's runner looks for the
    bot there. ``options`` are further command-line options, of the agent's own or of Pipecat's runner.

    Raises:
        ValueError: There is no such agent or log level.
    """
    if name not in AGENTS:
        raise ValueError(f"no agent is called {name!r}; there are: {', '.join(AGENTS)}")
    if log_level.upper() not in LOG_LEVELS:
        raise ValueError(f"no log level is called {log_level!r}; there are: {', '.join(LOG_LEVELS)}")
    set_log_level(log_level)
    own = [] if name == "quickstart" else ["--log-level", log_level.upper()]
    sys.argv = [name, "--host", host, "--port", str(port), "-t", "webrtc", *own, *options]
    if name == "quickstart":
        _keep_log_level(log_level)
    runpy.run_module(f"bots.agents.{name}", run_name="__main__", alter_sys=True)


def run_agent(parser: argparse.ArgumentParser, preload: Callable[[], Any] | None = None) -> None:
    """Run the calling module's ``bot`` in Pipecat's development runner; for the agents' own ``main`` guards.

    Adds ``--log-level`` to the agent's own options in the parser; Pipecat adds its own to it. ``preload`` is called
    once in a thread while the server already answers, to load models before the first call.
    """
    parser.add_argument(
        "--log-level", default="WARNING", type=str.upper, choices=LOG_LEVELS, help="Lowest level to log"
    )
    known, _ = parser.parse_known_args([arg for arg in sys.argv[1:] if arg not in ("-h", "--help")])
    set_log_level(known.log_level)
    from pipecat.runner.run import main

    _keep_log_level(known.log_level, preload)
    main(parser)


_calls: set["PipelineWorker"] = set()


async def run_call(worker: "PipelineWorker", transport: "BaseTransport") -> None:
    """Run a call until it ends by itself, the client leaves, or the server is told to stop.

    The server would wait for every call to end by itself before it exits.
    """
    from pipecat.workers.runner import WorkerRunner

    async def on_client_disconnected(_transport: Any, _client: Any) -> None:
        await worker.cancel()

    transport.add_event_handler("on_client_disconnected", on_client_disconnected)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    _calls.add(worker)
    try:
        await runner.run()
    finally:
        _calls.discard(worker)


def own_options(agent: str, body: Any) -> dict[str, Any]:
    """Return what the body of a session's start says to an agent: the object of its name, or else nothing."""
    own = body.get(agent) if isinstance(body, dict) else None
    return own if isinstance(own, dict) else {}


def options_of(agent: str, body: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return an agent's options: from the environment (``METRONOME_GREET``), and over it from a session's body."""
    own = own_options(agent, body)
    environment = {name: os.environ.get(f"{agent}_{name}".upper()) for name in names}
    return {name: own.get(name, value) for name, value in environment.items() if name in own or value}


def set_log_level(log_level: str) -> None:
    """Log to standard error from ``log_level`` on, and nothing else."""
    logger.remove()
    logger.add(sys.stderr, level=log_level.upper())


def _keep_log_level(log_level: str, preload: Callable[[], Any] | None = None) -> None:
    # Pipecat's runner sets its own log level (DEBUG) just before it starts the server, so ours is set again when the
    # server starts up. The runner keeps a lifespan it finds and adds its own to it. Uvicorn reads its levels from
    # this dictionary.
    from pipecat.runner.run import app
    from uvicorn.config import LOGGING_CONFIG

    importlib.import_module("pipecat.transports.smallwebrtc.transport")  # what it logs at import comes before that
    for settings in LOGGING_CONFIG["loggers"].values():
        settings["level"] = "DEBUG" if log_level.upper() == "TRACE" else log_level.upper()
    existing = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[None]:
        set_log_level(log_level)
        _end_calls_on_signals()
        async with existing(app):
            loading = asyncio.create_task(asyncio.to_thread(preload)) if preload else None
            yield
            if loading:
                loading.cancel()

    app.router.lifespan_context = lifespan


def _end_calls_on_signals() -> None:
    # Runs when uvicorn has set its own handlers, which these call in the end.
    loop = asyncio.get_running_loop()
    ending: set[asyncio.Task[None]] = set()

    def end_calls() -> None:
        if _calls:
            logger.warning(f"Told to stop: ending {len(_calls)} calls")
        for worker in _calls:
            task = loop.create_task(worker.cancel(reason="the server is stopping"))
            ending.add(task)
            task.add_done_callback(ending.discard)

    for number in (signal.SIGINT, signal.SIGTERM):
        uvicorns = signal.getsignal(number)

        def handle(number: int, frame: Any, uvicorns: Any = uvicorns) -> None:
            loop.call_soon_threadsafe(end_calls)
            if callable(uvicorns):
                uvicorns(number, frame)

        signal.signal(number, handle)
