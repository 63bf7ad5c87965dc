"""Runs: the list, and one: its report, made from what the record and the store have of it."""

import io
from dataclasses import dataclass

import anyio.to_thread
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bots.caller.script import Script
from bots.timeline import TimelineEvent
from runner.api.details import Kept
from runner.api.live_sound import RATE_HZ
from runner.api.routes.runs import artefact, find_run
from runner.calls import recording as recordings
from runner.calls import run_file
from runner.calls import timeline as timelines
from runner.calls.recording import AGENT, CALLER, parse_recording
from runner.calls.timeline import parse_stored
from runner.errors import UsageError
from runner.records.endings import read_outcome
from runner.records.runs import request_cancel
from runner.records.statuses import FINAL_RUN, RunStatus
from runner.records.store import ArtefactMissing, artefact_key
from runner.records.tables import ResultRow, RunRow
from runner.reports.html.render import script_data
from runner.reports.html.run_page import Link, Sound, Surroundings, run_page
from runner.reports.html.shown import words
from runner.reports.html.waveform import waveform
from runner.web import lists
from runner.web.answers import HEADERS
from runner.web.visits import Visit

MAX_RECORDING_BYTES = 200_000_000
MAX_TIMELINE_BYTES = 20_000_000
"""What is larger is not drawn; it can still be fetched."""

KEPT_BYTES = 16_000_000
"""How much is kept of waveforms that were drawn, some two hundred."""

_FILES = (recordings.FILE_NAME, timelines.FILE_NAME, run_file.FILE_NAME)


@dataclass(frozen=True)
class _Facts:
    """What the store has of a call.

    Attributes:
        sound: Its recording; None where there is none.
        missing: What is not there, a sentence each.
    """

    events: list[TimelineEvent]
    sound: Sound | None
    missing: list[str]


async def list_runs(visit: Visit) -> Response:
    """Show the runs of the project, the latest first."""
    return await lists.show(visit, "runs.html", lists.runs)


async def show_run(visit: Visit) -> Response:
    """Show a run: its report; as long as it is under way, what happens."""
    services = visit.services
    async with services.database.reading() as session:
        row = await find_run(session, visit.reading, visit.number)
        same = RunRow.scenario_id == row.scenario_id
        if row.scenario_id is None:
            same = RunRow.scenario_name == row.scenario_name
        of_scenario = select(RunRow.id).where(RunRow.result_id == row.result_id, same).order_by(RunRow.id)
        siblings = list(await session.scalars(of_scenario))
        result_name = await session.scalar(select(ResultRow.name).where(ResultRow.id == row.result_id))
    place = f"run {siblings.index(row.id) + 1} of {len(siblings)}"
    crumbs = (
        Link(result_name or f"Result {row.result_id}", f"/results/{row.result_id}"),
        Link(row.scenario_name),
        Link(place),
    )
    status = RunStatus(row.status)
    if status not in FINAL_RUN:
        name = words(row.scenario_name, 200)
        return visit.show("live_run.html", run=row, crumbs=crumbs, name=name, rate_hz=RATE_HZ)
    files = tuple(Link(name, f"/runs/{row.id}/{name}") for name in _FILES if name in row.kept)
    if not row.outcome:
        return visit.show(
            "no_call.html",
            run=row,
            crumbs=crumbs,
            files=files,
            verdict=lists.verdict_of(status, row.success),
            name=words(row.scenario_name, 200),
            reason=lists.why(None, None, row.error_message, row.ended_reason),
        )
    report = read_outcome(row.outcome)
    found = await _facts(visit, row)
    script = row.snapshot.get("script")
    around = Surroundings(
        crumbs=crumbs,
        files=files,
        missing=tuple(found.missing),
    )
    page = await anyio.to_thread.run_sync(
        lambda: run_page(
            report,
            found.events,
            script=None if script is None else Script.model_validate(script),
            sound=found.sound,
            around=around,
        )
    )
    return visit.show("run_report.html", page=page, sound=found.sound, data=script_data(page))


async def give_file(visit: Visit) -> Response:
    """Give out the recording, timeline or report of a run; a range of it where one is asked for."""
    name: str = visit.request.path_params["name"]
    response = await artefact(visit.request, visit.services, visit.reading, visit.number, name)
    # Whatever an agent said: a file that is opened by itself is shown by nobody as a page.
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response


async def end_call(visit: Visit) -> Response:
    """End a call that is on, or won't begin."""
    await visit.form()
    async with visit.services.database.session() as session:
        row = await find_run(session, visit.reading, visit.number)
        await session.run_sync(request_cancel, [row.id])
    return RedirectResponse(f"/runs/{visit.number}", 303, headers=HEADERS)


async def _facts(visit: Visit, row: RunRow) -> _Facts:
    missing: list[str] = []
    events: list[TimelineEvent] = []
    text = await _stored(visit, row, timelines.FILE_NAME, MAX_TIMELINE_BYTES)
    if text is None:
        missing.append(f"There are no facts of the call: {_absence(row, timelines.FILE_NAME)}.")
    else:
        try:
            stored = await anyio.to_thread.run_sync(parse_stored, text, timelines.FILE_NAME)
            events = stored.events
        except UsageError as error:
            missing.append(f"There are no facts of the call: {error}.")
    sound = await _sound(visit, row)
    if sound is None:
        missing.append(f"There is no recording to draw: {_absence(row, recordings.FILE_NAME)}.")
    return _Facts(events, sound, missing)


def _absence(row: RunRow, name: str) -> str:
    is_coming = row.artefacts.get(name, 0) is None
    return f"{name} is still being uploaded" if is_coming else f"{name} is not kept, or too large"


async def _sound(visit: Visit, row: RunRow) -> Sound | None:
    """Return the recording of a run, as its page plays and draws it."""
    kept, key = _kept(visit.request), (row.id, row.attempt)
    sound = kept.find(key)
    if sound is None:
        data = await _stored(visit, row, recordings.FILE_NAME, MAX_RECORDING_BYTES)
        sound = None if data is None else await anyio.to_thread.run_sync(_drawn, data, row.id)
        if sound is not None:
            kept.keep(key, sound)
    return sound


def _drawn(data: bytes, run_id: int) -> Sound | None:
    try:
        channels, rate_hz = parse_recording(io.BytesIO(data), recordings.FILE_NAME)
    except UsageError:
        return None
    if not channels.shape[1]:
        return None
    return Sound(
        uri=f"/runs/{run_id}/{recordings.FILE_NAME}",
        length_s=round(channels.shape[1] / rate_hz, 3),
        caller=waveform(channels[CALLER], rate_hz),
        agent=waveform(channels[AGENT], rate_hz),
    )


async def _stored(visit: Visit, row: RunRow, name: str, most_bytes: int) -> bytes | None:
    """Return what the store has of a run under a name; None where that is nothing, or too much."""
    size = row.kept.get(name)
    if size is None or size > most_bytes:
        return None
    try:
        return b"".join([piece async for piece in visit.services.store.get(artefact_key(row.id, name, row.attempt))])
    except ArtefactMissing:
        return None


def _kept(request: Request) -> Kept[tuple[int, int], Sound]:
    """Return the application's drawn waveforms."""
    if not hasattr(request.app.state, "page_sounds"):
        request.app.state.page_sounds = Kept[tuple[int, int], Sound](
            KEPT_BYTES, lambda sound: sum(len(side.peaks) + len(side.body) for side in (sound.caller, sound.agent))
        )
    found: Kept[tuple[int, int], Sound] = request.app.state.page_sounds
    return found
