"""Forms of schedules: what one shows, and what it asks the API for. Fields are called as the API calls them."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import FormData

from runner.api.errors import BadRequest, field_errors
from runner.api.schemas.cron_jobs import CronJobBody, CronJobPatch
from runner.records.schedules import PREVIOUS, Overlap, baseline_results
from runner.records.tables import CronJob
from runner.web import lists
from runner.web.launches import data_message

KEEP, ROOM, SESSION = "keep", "room", "session"
RESULTS = "results"

OVERLAPS = {
    Overlap.QUEUE: "It waits for the one before; one waits at most",
    Overlap.SKIP: "It is skipped",
    Overlap.BOTH: "It is launched beside the one before",
}
BASELINES = {
    "": "Nothing",
    PREVIOUS: "Its own last five results in which a run passed, and that did not regress",
    RESULTS: "Certain results",
}
NOTIFICATIONS = {
    "never": "None",
    "failure": "Those that did not pass",
    "success": "Those that passed",
    "both": "All",
}
OTHER_SCENARIOS = "Each scenario keeps the room it has. For others choose a session, or a room for all of them."
NEW: dict[str, Any] = {"timezone": "UTC", "frequency": "1", "is_active": "yes", "way": SESSION}
"""What a new schedule's form begins with."""

FIELDS = (
    "name", "crontab_expression", "timezone", "agent", "scenarios", "tags", "rooms", "frequency", "concurrency_limit",
    "overlap", "baseline", "notify_on",
)  # fmt: skip
"""What has a place of its own for what is wrong with it."""

_TEXTS = (
    "name", "crontab_expression", "timezone", "agent", "tags", "frequency", "concurrency_limit", "overlap",
    "baseline", "baseline_results", "notify_on", "is_active", "way", "room_url", "data_message", "participant_name",
)  # fmt: skip


def shown(job: CronJob) -> dict[str, Any]:
    """Return what the form of a schedule shows: texts by field, and the ids of its scenarios."""
    data = job.data
    baseline = data.get("baseline")
    results = baseline_results(baseline)
    limit = data.get("concurrency_limit")
    return {
        "name": job.name,
        "crontab_expression": job.crontab_expression,
        "timezone": job.timezone,
        "agent": "" if job.agent_id is None else str(job.agent_id),
        "scenarios": list(job.scenario_ids),
        "tags": ", ".join(data.get("tags") or ()),
        "frequency": str(data.get("frequency", 1)),
        "concurrency_limit": "" if limit is None else str(limit),
        "overlap": data.get("overlap", Overlap.QUEUE),
        "baseline": RESULTS if results else (baseline or ""),
        "baseline_results": ", ".join(map(str, results)),
        "notify_on": data.get("notify_on", "never"),
        "is_active": "yes" if job.is_active else "",
        "way": SESSION if job.rooms is None else KEEP,
    }


def given(form: FormData) -> dict[str, Any]:
    """Return what a form that was sent shows again. Tokens are given again by whoever has them."""
    texts = {name: str(form.get(name, "")) for name in _TEXTS}
    return {**texts, "scenarios": _ids(form)}


def new_schedule(form: FormData) -> CronJobBody:
    """Return the schedule that a form asks for.

    Raises:
        BadRequest: Something in it is wrong, by field.
    """
    values = _values(form)
    try:
        return CronJobBody.model_validate(values)
    except ValidationError as error:
        raise _wrong(error, values) from None


def changed_schedule(form: FormData, job: CronJob) -> CronJobPatch:
    """Return what a form changes of a schedule. What no form has stays as it is.

    Raises:
        BadRequest: Something in it is wrong, by field.
    """
    values = _values(form, job.data.get("tags") or ())
    if form.get("way") == KEEP:
        if values["tags"] or set(values["scenarios"]) != set(job.scenario_ids):
            raise BadRequest({"scenarios": [OTHER_SCENARIOS]})
        values = {name: value for name, value in values.items() if name not in ("scenarios", "tags", "rooms")}
    try:
        return CronJobPatch.model_validate(values)
    except ValidationError as error:
        raise _wrong(error, values) from None


def _wrong(error: ValidationError, values: Mapping[str, Any]) -> BadRequest:
    problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors(include_url=False)]
    return BadRequest(field_errors(problems, values))


def _values(form: FormData, tags: Sequence[str] = ()) -> dict[str, Any]:
    text = {name: str(form.get(name, "")).strip() for name in _TEXTS}
    scenarios = _ids(form)
    common: dict[str, Any] = {
        "name": text["name"],
        "crontab_expression": text["crontab_expression"],
        "timezone": text["timezone"],
        "agent": lists.number_of(text["agent"]),
        "frequency": _number(text["frequency"]) or 1,
        "concurrency_limit": _number(text["concurrency_limit"]),
        "overlap": text["overlap"],
        "baseline": _baseline(text),
        "notify_on": text["notify_on"],
        "is_active": text["is_active"] == "yes",
        "tags": lists.tags_of(text["tags"], tags),
    }
    if text["way"] != ROOM:
        return {**common, "scenarios": scenarios, "rooms": []}
    if not text["room_url"]:
        raise BadRequest({"rooms": ["Give the address of the room."]})
    room = {
        "pipecat_room_url": text["room_url"],
        "pipecat_token": str(form.get("token", "")).strip() or None,
        "publish_data_message": data_message(text["data_message"], field="rooms", called="The data message"),
        "participant_name": text["participant_name"] or None,
    }
    return {**common, "scenarios": [], "rooms": [{"scenario": scenario, **room} for scenario in scenarios]}


def _ids(form: FormData) -> list[int]:
    return [number for text in form.getlist("scenarios") if (number := lists.number_of(str(text))) is not None]


def _number(text: str) -> int | str | None:
    return int(text) if lists.number_of(text) is not None else (text or None)


def _baseline(text: Mapping[str, str]) -> str | list[int] | None:
    if text["baseline"] != RESULTS:
        if text["baseline_results"]:
            raise BadRequest({"baseline": ["Choose certain results, or give no ids of results."]})
        return text["baseline"] or None
    numbers = [lists.number_of(part.strip()) for part in text["baseline_results"].split(",")]
    if None in numbers:
        raise BadRequest({"baseline": ["Give the ids of results, with commas between."]})
    return [number for number in numbers if number is not None]
