"""Schedules from a file: applied when a server starts. Each has the fields that the API takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from runner.api.errors import BadRequest, field_errors
from runner.api.routes.cron_jobs import CRON_JOBS, see_that_it_can_fire
from runner.api.schemas.cron_jobs import CronJobBody
from runner.errors import UsageError
from runner.records.firings import refusal
from runner.records.launches import Errors
from runner.records.record import Record
from runner.records.seed import DEFAULT_PROJECT
from runner.records.tables import CronJob, Project
from runner.scenarios.nodes import Node, read_yaml
from runner.scenarios.targets import read_secret

VIA = "config"
"""What ``created_via`` is of these schedules."""

MAX_SCHEDULES = 1_000

_ROOM = ("scenario", "pipecat_room_url", "pipecat_token", "publish_data_message", "participant_name")
_NAME_CHARACTERS = 200


@dataclass(frozen=True)
class Configured:
    """A schedule of the file."""

    project_id: int
    name: str
    body: CronJobBody
    written: Node

    def error(self, errors: Errors) -> UsageError:
        """Return an error about what is wrong with it, by field: it names file and line of the first."""
        return _error(self.written, errors)


def read_schedules(path: Path) -> list[Configured]:
    """Return the schedules of a file.

    Raises:
        UsageError: Something in it is wrong; names file and line.
    """
    nodes = read_yaml(path).mapping(("schedules",))["schedules"].items()
    if len(nodes) > MAX_SCHEDULES:
        raise nodes[MAX_SCHEDULES].place.error(f"a file holds at most {MAX_SCHEDULES} schedules")
    found: dict[tuple[int, str], Configured] = {}
    for node in nodes:
        one = _configured(node)
        if (one.project_id, one.name) in found:
            raise one.written["name"].place.error(f"another schedule is called {one.name!r}; give it another name")
        found[one.project_id, one.name] = one
    return list(found.values())


def _configured(node: Node) -> Configured:
    written = node.mapping(("project", *CronJobBody.model_fields))
    name = written["name"].text(_NAME_CHARACTERS)
    project_id = written.get("project", lambda of: of.integer(1, 2**63 - 1)) or DEFAULT_PROJECT
    values: dict[str, Any] = {key: written[key].plain() for key in written if key in written and key != "project"}
    values["name"] = name
    if "rooms" in written:
        values["rooms"] = [_room(room) for room in written["rooms"].items()]
    try:
        body = CronJobBody.model_validate(values)
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors(include_url=False)]
        raise _error(written, field_errors(problems, values)) from None
    return Configured(project_id, name, body, written)


def _room(node: Node) -> dict[str, Any]:
    written = node.mapping(_ROOM)
    room = {key: written[key].plain() for key in written if key in written}
    if "pipecat_token" in written:
        room["pipecat_token"] = read_secret(written["pipecat_token"])
    return room


def _error(written: Node, errors: Errors) -> UsageError:
    known = {name: said for name, said in errors.items() if name in written}
    place = written[next(iter(known))].place if known else written.place
    return place.error(refusal(known or errors).removesuffix("."))


async def apply_schedules(record: Record, configured: Sequence[Configured]) -> None:
    """Let the record have the schedules of the file: new ones are made, changed ones changed.

    Those that came from the file and are not in it any more are paused; they keep their history, and can be deleted
    over the API. Those that were made over the API are left alone.

    Raises:
        UsageError: One of them can't be honoured; nothing was changed.
    """
    for one in configured:
        async with record.database.reading() as session:
            row = await _kept(session, one)
            if row is None:
                row = CronJob(project_id=one.project_id, scenario_ids=[], data={})
            else:
                session.expunge(row)
            try:
                await _fill(record, session, row, one)
                if row.is_active:
                    await see_that_it_can_fire(record, session, row)
            except BadRequest as error:
                raise one.error(error.body) from None
    try:
        await _write(record, configured)
    except IntegrityError:
        # Another process did the same at the same moment.
        await _write(record, configured)


async def _write(record: Record, configured: Sequence[Configured]) -> None:
    async with record.database.session() as session:
        left = {
            row.id: row for row in await session.scalars(select(CronJob).where(CronJob.configured_as.is_not(None)))
        }
        for one in configured:
            row = await _kept(session, one)
            if row is None:
                row = CronJob(project_id=one.project_id, scenario_ids=[], data={}, configured_as=one.name)
                session.add(row)
            left.pop(row.id, None)
            with session.no_autoflush:
                await _fill(record, session, row, one)
        for row in left.values():
            row.is_active, row.next_due_at = False, None
            row.data = {**row.data, "is_gone_from_file": True}


async def _kept(session: AsyncSession, one: Configured) -> CronJob | None:
    return await session.scalar(
        select(CronJob).where(CronJob.project_id == one.project_id, CronJob.configured_as == one.name)
    )


async def _fill(record: Record, session: AsyncSession, row: CronJob, one: Configured) -> None:
    if await session.get(Project, one.project_id) is None:
        raise BadRequest({"project": [f"There is no project {one.project_id}."]})
    was = row.crontab_expression, row.timezone, row.next_due_at
    await CRON_JOBS.write(session, row, one.body, record, whole=True)
    row.data = {**{k: v for k, v in row.data.items() if k != "is_gone_from_file"}, "created_via": VIA}
    if row.is_active and was[2] is not None and was[:2] == (row.crontab_expression, row.timezone):
        # What was due while the server was down is still to be made up for.
        row.next_due_at = was[2]
