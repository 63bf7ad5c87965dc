"""Launching from the page: an agent's scenarios in sessions that are started, or in one room that is there."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import FormData
from starlette.responses import RedirectResponse, Response

from runner.api.errors import BadRequest
from runner.api.routes.launch import asked_by, launched
from runner.api.routing import read_json
from runner.api.schemas.launch import Launched, RoomLaunch, SessionLaunch
from runner.web import lists
from runner.web.answers import HEADERS
from runner.web.visits import Visit

ROOM, SESSION = "room", "session"


async def launch_form(visit: Visit, *, problems: Sequence[str] = (), given: FormData | None = None) -> Response:
    """Show what can be launched."""
    services, project = visit.services, visit.project
    async with services.database.reading() as session:
        agents = await session.run_sync(lists.agents, project)
        choices = await session.run_sync(lists.scenarios, project)
    values = {} if given is None else {name: str(value) for name, value in given.items() if name != "token"}
    ticked = [] if given is None else [lists.number_of(str(value)) for value in given.getlist("scenario")]
    return visit.show(
        "launch.html",
        400 if problems else 200,
        agents=agents,
        scenarios=choices,
        names=dict(agents),
        problems=problems,
        values=values,
        ticked=ticked,
    )


async def launch(visit: Visit) -> Response:
    """Launch what a form asks for, and go to its result."""
    form = await visit.form()
    ids = [number for text in form.getlist("scenario") if (number := lists.number_of(str(text))) is not None]
    if not ids:
        return await launch_form(visit, problems=["Choose a scenario."], given=form)
    try:
        made = await launch_what(visit, form, ids, name=str(form.get("name", "")).strip())
    except BadRequest as error:
        return await launch_form(visit, problems=lists.problems_of(error.body), given=form)
    return RedirectResponse(f"/results/{made.id}", 303, headers=HEADERS)


async def launch_what(visit: Visit, form: FormData, ids: Sequence[int], *, name: str) -> Launched:
    """Launch scenarios the way a form says.

    Args:
        visit: Who launches.
        form: ``way``, and for a room ``room_url``, ``token`` and ``data_message``; ``agent`` and ``frequency``.
        ids: The scenarios.
        name: What the result is called.

    Raises:
        BadRequest: Something is wrong with it; all of it is named.
    """
    digest = visit.digest(form, "page launch")
    frequency = str(form.get("frequency", "")).strip()
    common: dict[str, Any] = {
        "agent": lists.number_of(str(form.get("agent", ""))),
        "name": name or None,
        "frequency": int(frequency) if frequency.isascii() and frequency.isdigit() else (frequency or None),
    }
    try:
        if form.get("way") == ROOM:
            url = str(form.get("room_url", "")).strip()
            if not url:
                raise BadRequest({"room_url": ["Give the address of the room."]})
            entry = {
                "pipecat_room_url": url,
                "pipecat_token": str(form.get("token", "")).strip() or None,
                "publish_data_message": data_message(str(form.get("data_message", "")).strip()),
            }
            entries = [{"scenario": scenario, **entry} for scenario in ids]
            body = RoomLaunch.model_validate({**common, "scenarios": entries})
        else:
            body = SessionLaunch.model_validate({**common, "scenarios": list(ids)})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise BadRequest({str(one["loc"][-1] if one["loc"] else ""): [one["msg"]] for one in found}) from None
    return await launched(visit.services, *await asked_by(visit.services, body, visit.owner, digest))


def data_message(text: str, *, field: str = "data_message", called: str = "It") -> Any:
    """Return the data message that a form holds; None where it is empty.

    Raises:
        BadRequest: It is no JSON; said of ``field``.
    """
    if not text:
        return None
    try:
        return read_json(text.encode())
    except json.JSONDecodeError as error:
        raise BadRequest({field: [f"{called} must be JSON: {error.msg}."]}) from None
