"""Our endings in Cekura's words (``metadata.ended_reason``), for scripts that read them."""

from bots.timeline import EndedReason

CEKURA_ENDED_REASON: dict[EndedReason, str] = {
    EndedReason.ROOM_UNREACHABLE: "Testing agent-did-not-connect",
    EndedReason.AGENT_AT_CAPACITY: "pipecat-agent-concurrency-limit-reached",
    EndedReason.TOKEN_REFUSED: "Testing agent-did-not-connect",
    EndedReason.ICE_FAILED: "Testing agent-did-not-connect",
    EndedReason.AGENT_NEVER_JOINED: "Main agent-call-not-connected",
    EndedReason.AGENT_NEVER_SPOKE: "Main agent-silence-timed-out",
    EndedReason.AGENT_LEFT: "Main agent-ended-call",
    EndedReason.AGENT_VANISHED: "participant_disconnected",
    EndedReason.AGENT_FROZE: "Main agent-silence-timed-out",
    EndedReason.CALLER_HUNG_UP: "Testing agent-ended-call",
    EndedReason.MAX_DURATION: "exceeded-max-duration",
    EndedReason.CANCELLED: "run-cancelled-by-user",
    EndedReason.RUNNER_ERROR: "Testing agent-pipeline-error",
}
