"""An agent that keeps account of who called it: the metronome, with a log of every connection.

    python tests/cluster/witness.py -t webrtc --port 7860

It is the other side of every call, so it knows what no record can: that a caller came, how long it was heard, and
that it hung up. Each event is a line of JSON in the file that ``WITNESS_LOG`` names, with ``at_ns`` on
``time.monotonic_ns()``, ``call`` (its number), ``run`` (the run's id, which every caller brings) and ``room``:

    entered    a caller's offer came
    silent     nothing has come from it for half a second; ``heard_ns`` is when the last packet came
    resumed    it is heard again
    left       the call is over; ``heard_ns`` as above

Every room has a name, so that callers who meet in one are seen: ``/rooms/<name>/api/offer`` is an offer's address,
and a session's room is called as the session is. Before any address, ``/slow/<seconds>`` has sessions start, or
offers be answered, so much later: not at all if the caller has gone by then.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from bots.agents import metronome
from bots.agents.serve import run_agent

LOOK_INTERVAL_S = 0.05
SILENT_AFTER_S = 0.5

_room: ContextVar[str] = ContextVar("room", default="")
_numbers = itertools.count(1)


class Rooms:
    """Gives rooms their names: an application before Pipecat's."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            wait_s = 0.0
            if slow := re.fullmatch(r"/slow/([0-9.]+)(/.+)", path):
                path, wait_s = slow[2], float(slow[1])
            if room := re.fullmatch(r"/rooms/([^/]+)(/api/offer)", path):
                _room.set(room[1])
                path = room[2]
            elif session := re.match(r"/sessions/([^/]+)/", path):
                _room.set(session[1])
            if scope["method"] == "POST":
                body = await _body(receive)
                if wait_s and await _has_gone(receive, wait_s):
                    return
                receive = _again(body, receive)
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


async def _body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _has_gone(receive: Any, wait_s: float) -> bool:
    """Wait, and return whether whoever asked has gone meanwhile."""
    try:
        await asyncio.wait_for(receive(), wait_s)
    except TimeoutError:
        return False
    return True


def _again(body: bytes, receive: Any) -> Any:
    whole = iter([{"type": "http.request", "body": body}])

    async def receive_again() -> Any:
        return next(whole, None) or await receive()

    return receive_again


class Watch:
    def __init__(self, connection: Any, run: Any, log: Path):
        self._connection = connection
        self._told = {"call": next(_numbers), "run": run, "room": _room.get()}
        self._log = log
        self._heard_ns = time.monotonic_ns()
        self._packets = 0
        self._over = False
        self._say("entered")
        connection.add_event_handler("closed", self._closed)
        self._looking = asyncio.create_task(self._look())

    def end(self) -> None:
        """Say that the call is over, once."""
        self._looking.cancel()
        if not self._over:
            self._over = True
            self._say("left", heard_ns=self._heard_ns)

    async def _closed(self, _connection: Any) -> None:
        self.end()

    async def _look(self) -> None:
        silent = False
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            now_ns = time.monotonic_ns()
            if await self._has_come():
                self._heard_ns = now_ns
                if silent:
                    silent = False
                    self._say("resumed")
            elif not silent and now_ns - self._heard_ns > SILENT_AFTER_S * 1e9:
                silent = True
                self._say("silent", heard_ns=self._heard_ns)

    async def _has_come(self) -> bool:
        report = await self._connection.pc.getTransceivers()[0].receiver.getStats()
        packets = sum(stats.packetsReceived for stats in report.values() if stats.type == "transport")
        before, self._packets = self._packets, packets
        return packets > before

    def _say(self, event: str, **detail: Any) -> None:
        line = {"event": event, "at_ns": time.monotonic_ns(), **self._told, **detail}
        with self._log.open("a") as file:
            file.write(json.dumps(line) + "\n")


async def bot(runner_args: Any) -> None:
    body = runner_args.body if isinstance(runner_args.body, dict) else {}
    watch = Watch(runner_args.webrtc_connection, body.get("cekura_run_id"), Path(os.environ["WITNESS_LOG"]))
    try:
        await metronome.bot(runner_args)
    finally:
        watch.end()


def main() -> None:
    from pipecat.runner.run import app

    app.add_middleware(Rooms)
    run_agent(argparse.ArgumentParser(description="An agent that keeps account of who called it"), metronome.preload)


if __name__ == "__main__":
    sys.exit(main())
