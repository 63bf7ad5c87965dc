"""Scenarios: the list, one to edit, and to try."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from starlette.datastructures import FormData
from starlette.responses import RedirectResponse, Response

from runner.api.errors import ApiError, BadRequest
from runner.api.routes.scenarios import SCENARIOS
from runner.api.schemas.scenarios import Scenario, ScenarioBody, ScenarioPatch
from runner.records.tables import Agent, ScenarioRow
from runner.records.written import kept_in
from runner.reports.html.shown import words
from runner.scenarios.cekura import CONDITIONAL_ACTIONS, INSTRUCTION, PIPECAT_EVAL
from runner.web import lists
from runner.web.answers import HEADERS
from runner.web.launches import launch_what
from runner.web.visits import Visit

PAGE = 200

EXAMPLE = """\
name: opening hours
turns:
  - expect:
      - event: response
  - user: When are you open today?
    expect:
      - event: response
        text_contains: open
"""
"""What a new scenario begins with."""

TEXTS = {name: kept for name, _, kept in kept_in(ScenarioBody) if kept.label}
"""What the form has besides, by the names of the fields."""

KINDS = {
    PIPECAT_EVAL: "A scenario file of Pipecat Evals (YAML)",
    CONDITIONAL_ACTIONS: "Conditional actions (JSON)",
    INSTRUCTION: "Instructions, for a model that speaks as the caller",
}


async def list_scenarios(visit: Visit) -> Response:
    """Show the scenarios of the project, by name."""
    search = visit.request.query_params.get("search", "").replace("\0", "").strip()[:200]
    statement = (
        select(
            ScenarioRow.id, ScenarioRow.name, ScenarioRow.scenario_type, ScenarioRow.tags, Agent.name.label("agent")
        )
        .outerjoin(Agent, Agent.id == ScenarioRow.agent_id)
        .where(ScenarioRow.project_id == visit.project)
        .order_by(ScenarioRow.name, ScenarioRow.id)
    )
    if search:
        statement = statement.where(ScenarioRow.name.icontains(search, autoescape=True))
    page = min(lists.number_of(visit.request.query_params.get("page")) or 1, 10_000)
    async with visit.services.database.reading() as session:
        rows = (await session.execute(statement.offset((page - 1) * PAGE).limit(PAGE + 1))).all()
    return visit.show("scenarios.html", rows=rows[:PAGE], search=search, page=page, has_more=len(rows) > PAGE)


async def new_scenario(visit: Visit) -> Response:
    """Show the form of a new scenario."""
    return await _form(visit, None, {"kind": PIPECAT_EVAL, "content": EXAMPLE})


async def show_scenario(visit: Visit) -> Response:
    """Show a scenario to edit."""
    scenario = await SCENARIOS.get(visit.services, visit.project, visit.number)
    return await _form(visit, scenario, _values(scenario))


async def make_scenario(visit: Visit) -> Response:
    """Make a scenario of a form, and try it if the form says so."""
    form = await visit.form()
    try:
        body = ScenarioBody.model_validate(_body(form))
        scenario = await SCENARIOS.create(visit.services, visit.project, body)
    except (ValidationError, ApiError) as error:
        return await _form(visit, None, _given(form), problems=_problems(error))
    return await _after(visit, form, scenario)


async def save_scenario(visit: Visit) -> Response:
    """Save what a form changes of a scenario, and try it if the form says so."""
    form = await visit.form()
    before = await SCENARIOS.get(visit.services, visit.project, visit.number)
    try:
        body = ScenarioPatch.model_validate(_body(form, before.model_dump()["tags"]))
        scenario = await SCENARIOS.change(visit.services, visit.project, visit.number, body, whole=False)
    except (ValidationError, ApiError) as error:
        return await _form(visit, before, _given(form), problems=_problems(error))
    return await _after(visit, form, scenario)


async def _after(visit: Visit, form: FormData, scenario: Scenario) -> Response:
    if form.get("then") != "try":
        return RedirectResponse(f"/scenarios/{scenario.id}?saved=1", 303, headers=HEADERS)
    try:
        made = await launch_what(visit, form, [scenario.id], name=f"Try: {scenario.name}"[:200])
    except BadRequest as error:
        problems = ["It was saved, and can't be tried:", *lists.problems_of(error.body)]
        return await _form(visit, scenario, {**_values(scenario), **_room(form)}, problems=problems)
    return RedirectResponse(f"/runs/{made.runs[0].id}", 303, headers=HEADERS)


async def _form(
    visit: Visit, scenario: Scenario | None, values: Mapping[str, str], *, problems: Sequence[str] = ()
) -> Response:
    async with visit.services.database.reading() as session:
        agents = await session.run_sync(lists.agents, visit.project)
    return visit.show(
        "scenario.html",
        400 if problems else 200,
        scenario=scenario,
        values=values,
        agents=agents,
        kinds=KINDS,
        texts=TEXTS,
        problems=problems,
        was_saved=visit.request.query_params.get("saved") == "1",
    )


def _values(scenario: Scenario) -> dict[str, str]:
    shown, actions = scenario.model_dump(), scenario.conditional_actions
    kind = PIPECAT_EVAL if scenario.pipecat_eval else (CONDITIONAL_ACTIONS if actions else INSTRUCTION)
    content = scenario.pipecat_eval or (
        json.dumps(actions, indent=2, ensure_ascii=False) if actions else scenario.instructions
    )
    return {
        "name": scenario.name,
        "kind": kind,
        "content": content,
        "agent": "" if shown["agent"] is None else str(shown["agent"]),
        "tags": ", ".join(shown["tags"]),
        **{name: shown[name] or "" for name in TEXTS},
    }


def _given(form: FormData) -> dict[str, str]:
    return {name: str(value) for name, value in form.items() if name != "token"}


def _room(form: FormData) -> dict[str, str]:
    return {name: str(form.get(name, "")) for name in ("way", "room_url", "data_message")}


def _body(form: FormData, tags: Sequence[str] = ()) -> dict[str, Any]:
    # Browsers send line ends as a network protocol has them.
    names = ("content", "tags", "name", *TEXTS)
    text = {name: str(form.get(name, "")).replace("\r\n", "\n") for name in names}
    kind = str(form.get("kind", PIPECAT_EVAL))
    body: dict[str, Any] = {
        "name": text["name"],
        "agent": lists.number_of(str(form.get("agent", ""))),
        "tags": lists.tags_of(text["tags"], tags),
        "scenario_type": kind if kind in KINDS else INSTRUCTION,
        **{name: text[name].strip() or None for name in TEXTS},
    }
    # Conditional actions may stand as JSON in the instructions.
    return {**body, "pipecat_eval" if kind == PIPECAT_EVAL else "instructions": text["content"]}


def _problems(error: ValidationError | ApiError) -> list[str]:
    if isinstance(error, ApiError):
        return lists.problems_of(error.body)
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [words(f"{'.'.join(map(str, one['loc']))}: {one['msg']}", 500) for one in found]
