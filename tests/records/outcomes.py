"""What a worker reports of calls that never were."""

from typing import Any

from bots.caller.script import Listen, Script, Turn
from bots.timeline import EndedReason
from runner.calls.run_file import Run
from runner.evaluation.ending import CEKURA_ENDED_REASON
from runner.evaluation.outcome import Status
from runner.evaluation.transcript import TranscriptEntry
from runner.evaluation.turns import TurnMeasures
from runner.evaluation.verdicts import Cause, ExpectationVerdict, Verdict

SCRIPT = Script(name="s", turns=(Turn(action=Listen()),))


def outcome(
    status: Status = Status.COMPLETED,
    success: bool | None = True,
    *,
    reason: EndedReason = EndedReason.CALLER_HUNG_UP,
    cause: Cause | None = None,
    detail: str | None = None,
    latencies_ms: tuple[float | None, ...] = (800.0, 1200.0),
    duration_s: float = 41.0,
    **more: Any,
) -> Run:
    """Return a run as a worker reports it."""
    verdict = {True: Verdict.MET, False: Verdict.MISSED, None: Verdict.NOT_JUDGED}[success]
    given: dict[str, Any] = {
        "id": "1",
        "scenario": "s",
        "room": "http://localhost:7860/api/offer",
        "started_at": "2026-01-01T10:00:00.000Z",
        "status": status,
        "success": success,
        "cause": cause,
        "ended_reason": reason,
        "call_ended_reason": CEKURA_ENDED_REASON[reason],
        "detail": detail,
        "duration_s": duration_s,
        "first_response_ms": 640.0,
        "turns": [
            TurnMeasures(turn=n, said="Hello", started_s=1.0, response_latency_ms=ms)
            for n, ms in enumerate(latencies_ms)
        ],
        "expectations": [
            ExpectationVerdict(
                turn=0, index=0, event="response", expected="the agent says hello", verdict=verdict, reason="it did"
            )
        ],
        "transcript_object": [
            TranscriptEntry(role="Main Agent", content="Hello", time="00:01", start_time=1.2, end_time=2.0),
            TranscriptEntry(role="Testing Agent", content="Hi there", time="00:03", start_time=3.0, end_time=3.5),
        ],
        "publish_data_message": None,
        "caller_underruns": 0,
        "warnings": [],
        "versions": {},
        "script": SCRIPT,
        **more,
    }
    return Run.model_validate(given)


def agent_failed(detail: str = "turn 1: the agent says hello: it never did") -> Run:
    """Return a run in which the agent failed."""
    return outcome(success=False, cause=Cause.AGENT, detail=detail)


def undecided() -> Run:
    """Return a run of which nobody can say whether the agent passed."""
    return outcome(success=None, detail="turn 1: the agent is polite: not judged: there was no judge")


def no_call(detail: str = "nothing answers at http://localhost:7860") -> Run:
    """Return a run that came to no call."""
    return outcome(
        Status.FAILED, None, reason=EndedReason.ROOM_UNREACHABLE, cause=Cause.ROOM, detail=detail, latencies_ms=()
    )


def cancelled() -> Run:
    """Return a run that was broken off."""
    return outcome(Status.CANCELLED, None, reason=EndedReason.CANCELLED)


def reported(run: Run) -> dict[str, Any]:
    """Return a run as it goes over the wire."""
    return run.model_dump(mode="json", exclude={"script"})
