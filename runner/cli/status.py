"""The command that shows how things stand. Importing this imports no database: the command loads what it needs."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from runner.cli.options import json_option
from runner.cli.running import on_record
from runner.errors import USAGE_EXIT_CODE
from runner.text import one_line

if TYPE_CHECKING:
    from runner.records.database import Database
    from runner.records.workers import Overview, QueueState, Stuck, WorkerView
    from runner.settings import Settings


@click.command()
@json_option
@on_record
async def status(database: "Database", settings: "Settings", as_json: bool) -> int:
    """Show queued and active runs, worker health, and stuck runs.

    Reads the server's database, and needs neither the API nor a key.

    Exit codes: 0 no run is stuck; 2 some are, or the database can't be read. A stuck run will not go on without you.
    """
    from runner.records.workers import read_overview

    overview = await read_overview(database, max_duration_s=settings.max_duration_s, lease_s=settings.server.lease_s)
    if as_json:
        click.echo(json.dumps(asdict(overview)))
    else:
        for line in _lines(overview):
            click.echo(line)
    for stuck in overview.stuck:
        click.echo(_stuck(stuck), err=True)
    return USAGE_EXIT_CODE if overview.stuck else 0


def _lines(overview: "Overview") -> Iterator[str]:
    queue = overview.queue
    yield f"waiting  {_waiting(queue)}"
    yield f"live     {queue.handed_over} handed over, {queue.running} running, {queue.evaluating} evaluating"
    living = sum(not worker.is_gone for worker in overview.workers)
    yield f"workers  {living or 'none'}"
    width = max((len(worker.name) for worker in overview.workers), default=0)
    for worker in overview.workers:
        yield f"  {one_line(worker.name):<{width}}  {_worker(worker)}"


def _waiting(queue: "QueueState") -> str:
    oldest = "" if queue.oldest_waiting_s is None else f", the oldest for {_age(queue.oldest_waiting_s)}"
    delayed = f"; {queue.delayed} delayed" if queue.delayed else ""
    return f"{queue.waiting or 'none'}{oldest}{delayed}"


def _worker(worker: "WorkerView") -> str:
    parts = [
        f"{worker.state:<10}",
        f"{len(worker.live)}/{worker.limit} calls",
        f"lag {worker.loop_lag_ms:.0f} ms",
        f"{worker.underruns} underruns",
        f"{len(worker.kept)} reports waiting",
        f"seen {_age(worker.seen_s)} ago",
        f"{'was ' if worker.is_gone else ''}up {_age(worker.up_s)}",
        one_line(worker.version),
        *([one_line(worker.why)] if worker.why else []),
    ]
    return "  ".join(parts)


def _stuck(stuck: "Stuck") -> str:
    runs = "1 run" if stuck.count == 1 else f"{stuck.count} runs"
    more = ", …" if stuck.count > len(stuck.run_ids) else ""
    return f"stuck: {runs} ({', '.join(map(str, stuck.run_ids))}{more}): {one_line(stuck.why)}"


def _age(seconds: float) -> str:
    """Return how long ago something was, roughly."""
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
