"""Why a run did not pass: what kind of failure it was, whose fault, and what was expected beside what was heard."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from runner.evaluation.verdicts import Cause, Evidence


class FailureKind(StrEnum):
    """What went wrong, in one word: the leaves of the cause tree."""

    # The agent
    WRONG = "wrong"
    """It said or did something else than was expected."""
    SILENT = "silent"
    """It said nothing, or its audio did not arrive although it reports that it spoke."""
    LATE = "late"
    TALKS_OVER = "talks_over"
    WILL_NOT_STOP = "will_not_stop"
    CRASHED = "crashed"
    LEFT = "left"
    ERRORED = "errored"
    """It reported an error of its own, and what was expected of it did not come."""
    # The caller
    RECOGNITION_UNSURE = "recognition_unsure"
    # Everything else
    NO_ROOM = "no_room"
    NETWORK_TROUBLE = "network_trouble"
    HARNESS_TROUBLE = "harness_trouble"
    NOT_JUDGED = "not_judged"
    """Something that was asked for could not be judged or observed."""


KIND_OF_TROUBLE: dict[Cause, FailureKind] = {
    Cause.HARNESS: FailureKind.HARNESS_TROUBLE,
    Cause.NETWORK: FailureKind.NETWORK_TROUBLE,
    Cause.ROOM: FailureKind.NO_ROOM,
    Cause.CALLER: FailureKind.RECOGNITION_UNSURE,
}
"""What kind of failure an inconclusive run is, by its cause."""


class Failure(BaseModel):
    """Why a run did not pass: the earliest thing that explains the rest.

    Attributes:
        kind: What went wrong.
        cause: Whose fault it was; None where nobody's.
        headline: One sentence for a person.
        turn: The turn it happened in, from 0; None where it belongs to no turn.
        expected: What was expected, in words.
        heard: What was heard instead (or told, marked as such).
        evidence: The facts it rests on.
    """

    model_config = ConfigDict(frozen=True)

    kind: FailureKind
    cause: Cause | None
    headline: str
    turn: int | None = None
    expected: str | None = None
    heard: str | None = None
    evidence: tuple[Evidence, ...] = ()
