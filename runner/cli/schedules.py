"""The commands that show schedules, and run one now. They read the database, and need neither the API nor a key."""

import json
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import click

from runner.cli.options import json_option
from runner.cli.running import delivering_later, on_record
from runner.errors import UsageError
from runner.text import one_line

if TYPE_CHECKING:
    from runner.records.database import Database
    from runner.records.tables import CronJob, Firing
    from runner.settings import Settings

_MANY = 500


@click.group(invoke_without_command=True)
@click.pass_context
def schedules(context: click.Context) -> None:
    """List schedules, run one now, and show what became of their firings."""
    if context.invoked_subcommand is None:
        context.invoke(list_schedules)


@schedules.command("list")
@json_option
@on_record
async def list_schedules(database: "Database", _: object, as_json: bool) -> None:
    """Print every schedule: id, when it is due next, the outcome of its last firing, expression, name.

    Times are those of each schedule's time zone.
    """
    from sqlalchemy import select

    from runner.records.firings import latest_firings
    from runner.records.tables import CronJob

    async with database.reading() as session:
        jobs = (await session.scalars(select(CronJob).order_by(CronJob.id))).all()
        last = await latest_firings(session, [job.id for job in jobs])
    if as_json:
        click.echo(json.dumps([_job_as_json(job, last.get(job.id)) for job in jobs]))
    else:
        for job in jobs:
            click.echo(_job_line(job, last.get(job.id)))


@schedules.command()
@click.argument("schedule", metavar="ID", type=click.IntRange(1))
@click.option("--limit", type=click.IntRange(1, _MANY), default=20, show_default=True, help="How many, the latest.")
@json_option
@on_record
async def history(database: "Database", _: object, schedule: int, limit: int, as_json: bool) -> None:
    """Print the firings of a schedule, the latest first: when it was due, its outcome and why, its result.

    Times are those of the schedule's time zone; in JSON they are UTC.
    """
    from runner.records.firings import history as firings_of
    from runner.records.tables import CronJob

    async with database.reading() as session:
        job = await session.get(CronJob, schedule)
        if job is None:
            raise UsageError(_there_is_none(schedule))
        firings = (await session.scalars(firings_of(schedule).limit(limit))).all()
    if as_json:
        click.echo(json.dumps([_firing_as_json(firing) for firing in firings]))
    else:
        for firing in firings:
            click.echo(_firing_line(firing, job.timezone))


@schedules.command("run-now")
@click.argument("schedule", metavar="ID", type=click.IntRange(1))
@on_record
async def run_schedule_now(database: "Database", settings: "Settings", schedule: int) -> None:
    """Launch a schedule now, and print its result's id: real calls, which start at once.

    Also if it is paused, or another firing is on. If no server is up, its runs wait until one is.
    """
    from runner.records.firings import refusal, run_now
    from runner.records.key_check import check_secret_key
    from runner.records.launch_request import LaunchRefused
    from runner.records.record import Record
    from runner.records.secrets import open_vault
    from runner.records.store import open_store

    # The server saw to its rooms when it was saved; whether that listens on this machine alone is not known here.
    server = settings.server.model_copy(update={"allow_loopback": True})
    vault = open_vault(server)
    await check_secret_key(database, vault)
    record = Record(settings.model_copy(update={"server": server}), database, vault, open_store(server))
    try:
        async with delivering_later(database, settings):
            firing = await run_now(record, schedule)
    except LaunchRefused as error:
        raise UsageError(f"schedule {schedule} can't be launched: {refusal(error.errors)}") from None
    if firing is None:
        raise UsageError(_there_is_none(schedule))
    click.echo(firing.result_id)


def _there_is_none(schedule: int) -> str:
    return f"there is no schedule {schedule}; `scenario-runner schedules list` shows them"


def _job_line(job: "CronJob", last: "Firing | None") -> str:
    due = "paused" if job.next_due_at is None else f"due {_minute(job.next_due_at, job.timezone)}"
    was = "never fired" if last is None else f"{last.state} {_minute(last.due_at, job.timezone)}"
    when = f"{job.crontab_expression} {job.timezone}"
    gone = "  (no longer in the file of schedules)" if job.data.get("is_gone_from_file") else ""
    return f"{job.id:>4}  {due:<20}  {was:<29}  {when:<28}  {one_line(job.name)}{gone}"


def _firing_line(firing: "Firing", zone: str) -> str:
    due, why = _minute(firing.due_at, zone), one_line(firing.reason)
    result = "" if firing.result_id is None else f"result {firing.result_id}"
    return f"{due}  {firing.trigger:<8}  {firing.state:<12}  {result:<14}  {why}".rstrip()


def _job_as_json(job: "CronJob", last: "Firing | None") -> dict[str, object]:
    return {
        "id": job.id,
        "project": job.project_id,
        "name": job.name,
        "crontab_expression": job.crontab_expression,
        "timezone": job.timezone,
        "is_active": job.is_active,
        "configured": job.configured_as is not None,
        "next_due_at": _iso(job.next_due_at),
        "last_firing": None if last is None else _firing_as_json(last),
    }


def _firing_as_json(firing: "Firing") -> dict[str, object]:
    return {
        "id": firing.id,
        "trigger": firing.trigger,
        "due_at": _iso(firing.due_at),
        "fired_at": _iso(firing.fired_at),
        "missed": firing.missed,
        "state": firing.state,
        "reason": firing.reason,
        "result": firing.result_id,
        "comparison": firing.comparison,
        "ended_at": _iso(firing.ended_at),
    }


def _minute(at: datetime, zone: str) -> str:
    return f"{at.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M}"


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat().replace("+00:00", "Z")
