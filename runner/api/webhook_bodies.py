"""What webhooks say of results and schedules: in the shapes that receivers made for Cekura read, and in Slack's."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from sqlalchemy import null, select
from sqlalchemy.orm import Session

from runner.api.schemas.runs import RECORDING, TranscriptItem, expected_outcome, failure, measured, numbers
from runner.dispatch.slack import result_message, schedule_message
from runner.metrics.latency import latency
from runner.records.filters import chunks
from runner.records.results import count_runs, short_runs
from runner.records.tables import CronJob, Firing, ResultRow, RunRow, WebhookDelivery, utc_now
from runner.records.webhooks import Event, Kind

MAX_TRANSCRIPTS = 500
"""A result of more runs is told without their transcripts."""

_RESULTS, _RUNS = "test_framework/v1/results", "test_framework/v1/runs"
_SCHEDULES = "schedules/v1/cron-jobs"


class WebhookBodies:
    """Makes them, with links to where clients reach the API."""

    def __init__(self, base_url: str):
        self._base_url = base_url.rstrip("/")

    def make(self, session: Session, delivery: WebhookDelivery) -> dict[str, Any]:
        """Return what a delivery tells."""
        in_slack = delivery.kind == Kind.SLACK.value
        if delivery.firing_id is not None:
            firing = session.get_one(Firing, delivery.firing_id)
            job = session.get_one(CronJob, firing.job_id)
            if in_slack:
                return schedule_message(job.name, firing.reason, self._history(job.id))
            return {"event_type": delivery.event, "data": self._not_launched(job, firing)}
        result = session.get_one(ResultRow, delivery.result_id)
        if in_slack:
            agent = f" of {result.agent_name}" if result.agent_name else ""
            title = f"{result.name or f'Result {result.id}'}{agent}"
            firing = _firing_of(session, result.id)
            return result_message(title, _rows(session, result.id), self._link(result.id), firing)
        of_launch = delivery.event == Event.PRE_TRIGGER.value
        data = self._launched(session, result) if of_launch else self._completed(session, result)
        return {"event_type": delivery.event, "data": data}

    def _not_launched(self, job: CronJob, firing: Firing) -> dict[str, Any]:
        return {
            "cron_job": job.id,
            "name": job.name,
            "agent": job.agent_id,
            "is_cronjob": True,
            "timestamp": _time(firing.ended_at),
            "error_message": firing.reason,
            "scenario_runner": {"firing": _firing(firing), "link": self._history(job.id)},
        }

    def _launched(self, session: Session, result: ResultRow) -> dict[str, Any]:
        return {
            "result_id": result.id,
            "label": result.name,
            "agent_id": result.agent_id,
            "timestamp": _time(utc_now()),
            "runs": {
                str(row.id): {
                    "id": row.id,
                    "scenario": {"id": row.scenario_id, "name": row.scenario_name},
                    "test_profile": row.snapshot["test_profile"],
                    "personality": _named(row.snapshot["personality"]),
                    "phone_number": next(filter(None, numbers(row.snapshot["agent"])), None),
                }
                for row in _rows(session, result.id)
            },
        }

    def _completed(self, session: Session, result: ResultRow) -> dict[str, Any]:
        counts = count_runs(session, [result.id])[result.id]
        has_transcripts = counts.total <= MAX_TRANSCRIPTS
        return {
            "id": result.id,
            "name": result.name,
            "agent": result.agent_id,
            "agent_name": result.agent_name,
            "status": result.status,
            "met_expected_outcome_count": counts.met,
            "total_expected_outcome_count": counts.expected,
            "total_runs_count": counts.total,
            "success_runs_count": counts.success,
            "failed_runs_count": counts.failed,
            "inconclusive_runs_count": counts.inconclusive,
            "success_rate": counts.success_rate,
            "run_as_text": result.run_as_text,
            "is_cronjob": result.is_cronjob,
            "created_at": _time(result.created_at),
            "runs": {str(run["id"]): run for run in self._runs(session, result.id, has_transcripts=has_transcripts)},
            "scenario_runner": {
                "link": self._link(result.id),
                "has_transcripts": has_transcripts,
                "firing": _firing(_firing_of(session, result.id)),
            },
        }

    def _runs(self, session: Session, result_id: int, *, has_transcripts: bool) -> Iterator[dict[str, Any]]:
        for some in chunks(_ids(session, result_id)):
            transcript = RunRow.outcome["transcript_object"] if has_transcripts else null()
            kept = {
                row[0]: row[1:]
                for row in session.execute(select(RunRow.id, RunRow.artefacts, transcript).where(RunRow.id.in_(some)))
            }
            for row in short_runs(session, some):
                artefacts, said = kept[row.id]
                outcome = expected_outcome(row)
                yield {
                    "id": row.id,
                    "scenario": {
                        "id": row.scenario_id,
                        "name": row.scenario_name,
                        "personality_name": (row.snapshot["personality"] or {}).get("name"),
                        "expected_outcome_prompt": row.snapshot["expected_outcome_prompt"],
                    },
                    "status": row.status,
                    "success": row.passed,
                    "expected_outcome": None if outcome is None else outcome.model_dump(mode="json"),
                    "evaluation": {"metrics": _dumped(measured({latency.code: row.latencies_ms}))},
                    "transcript_object": _dumped([TranscriptItem.model_validate(one) for one in said or ()]),
                    # Also where it is still to come: a moment later it is there.
                    "voice_recording": self._recording(row.id) if RECORDING in artefacts else None,
                    "timestamp": _time(row.started_at or row.created_at),
                    "executed_at": _time(row.started_at),
                    "error_message": row.error_message,
                    "scenario_runner": failure(row),
                }

    def _link(self, result_id: int) -> str:
        return f"{self._base_url}/{_RESULTS}/{result_id}/"

    def _history(self, job_id: int) -> str:
        return f"{self._base_url}/{_SCHEDULES}/{job_id}/history/"

    def _recording(self, run_id: int) -> str:
        return f"{self._base_url}/{_RUNS}/{run_id}/artefacts/{RECORDING}"


def _firing_of(session: Session, result_id: int) -> Firing | None:
    """Return the firing of a schedule that a result is of; None if it is of none, or that is forgotten."""
    return session.scalar(select(Firing).where(Firing.result_id == result_id))


def _firing(firing: Firing | None) -> dict[str, Any] | None:
    if firing is None:
        return None
    compared = firing.comparison or {}
    return {
        "id": firing.id,
        "cron_job": firing.job_id,
        "trigger": firing.trigger,
        "due_at": _time(firing.due_at),
        "state": firing.state,
        "reason": firing.reason,
        "change": compared.get("change"),
        "baseline": compared.get("baseline"),
    }


def _ids(session: Session, result_id: int) -> Sequence[int]:
    return session.scalars(select(RunRow.id).where(RunRow.result_id == result_id).order_by(RunRow.id)).all()


def _rows(session: Session, result_id: int) -> list[RunRow]:
    return short_runs(session, _ids(session, result_id))


def _named(personality: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if personality is None else {name: personality.get(name) for name in ("id", "name")}


def _dumped(models: Sequence[BaseModel]) -> list[dict[str, Any]]:
    return [one.model_dump(mode="json") for one in models]


def _time(at: Any) -> str | None:
    return None if at is None else at.isoformat().replace("+00:00", "Z")
