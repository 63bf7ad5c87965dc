"""What was measured, as facts of the call's timeline."""

from bots.timeline import AgentSpeechMeasured, RecordingMeasured, TimelineEvent
from runner.evaluation.measure.agent import Measured


def measured_facts(measured: Measured, at_ns: int) -> list[TimelineEvent]:
    """Return the facts that say what was measured: one for each speech, then that the recording was measured.

    Args:
        measured: What was measured.
        at_ns: When the recording had been measured, or the end of the call: the time of the last fact.
    """
    facts: list[TimelineEvent] = [
        AgentSpeechMeasured(
            at_ns=speech.onset_ns,
            end_ns=speech.end_ns,
            onset_uncertainty_ms=speech.onset_uncertainty_ms,
            end_uncertainty_ms=speech.end_uncertainty_ms,
            level_dbfs=speech.level_dbfs,
            bed_dbfs=speech.bed_dbfs,
            too_loud=speech.too_loud,
        )
        for speech in measured.speeches
    ]
    facts.append(
        RecordingMeasured(
            at_ns=at_ns,
            method=measured.method,
            bed_dbfs=measured.bed_dbfs,
            agent_dbfs=measured.agent_dbfs,
            too_loud=measured.too_loud,
        )
    )
    return facts
