"""Why a run did not pass: the table of the kinds of failure there are, and what is kept of one.

All there is to say of a kind stands here: its key, whose fault it is, its sentences, and how reports show it. To add
one, write it into :class:`FailureKind`, and into the code that finds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from runner.evaluation.verdicts import Cause, Evidence


@dataclass(frozen=True)
class Kind:
    """What there is to say of a kind of failure.

    Attributes:
        key: Its name, in files and in the API; reports show it with blanks.
        sentences: What a headline says, by how the failure was found; empty: the finder has its own words.
        cause: Whose fault it is; None where nobody's.
        follows: Whether it follows from the end of the call, where that ended in the same turn by the agent's doing.
        by_process: Whether it is a crash if the agent's process ended with an error.
        unheard: Whether reports say that words were only told, or that nothing was heard.
        shows_at: The type of the evidence that is the failing moment; None: the first there is.
        says_why: Whether the headline says what led to it, so that reports put no other in its place.
    """

    key: str
    sentences: Mapping[str, str]
    cause: Cause | None = Cause.AGENT
    follows: bool = False
    by_process: bool = False
    unheard: bool = False
    shows_at: str | None = None
    says_why: bool = False


_TROUBLE = {
    "before": "inconclusive: {what}; then: {then}",
    "turn": "inconclusive: turn {turn}: {what}",
}


class FailureKind(StrEnum):
    """What went wrong, in one word."""

    _value_: str
    about: Kind

    def __new__(cls, about: Kind) -> Self:
        kind = str.__new__(cls, about.key)
        kind._value_ = about.key
        kind.about = about
        return kind

    # It said or did something else than was expected.
    WRONG = Kind(
        "wrong",
        {
            "words": "expected {expected}; {reason}",
            "outcome": "the expected outcome is not true: {reason}",
            "stays": "the agent was to hang up, and did not",
        },
        follows=True,
    )
    # It said nothing, or its audio did not arrive although it reports that it spoke.
    SILENT = Kind(
        "silent",
        {
            "limit": "{reason} (limit {limit_s:g} s)",
            "unheard": "the agent reported {words!r}, but no audio of it arrived",
        },
        follows=True,
        by_process=True,
        unheard=True,
    )
    LATE = Kind("late", {"limit": "{reason} (limit {limit_s:g} s)", "words": "too slow: {reason}"})
    TALKS_OVER = Kind(
        "talks_over",
        {
            "line": "talked over the caller: {reason}",
            "call": "the agent talked over the caller",
            "often": "the agent talked over the caller in {count} turns, first {place}",
        },
        shows_at="agent_started_speaking",
    )
    WILL_NOT_STOP = Kind("will_not_stop", {"barge_in": "did not stop in time: {reason}"})
    CRASHED = Kind(
        "crashed",
        {
            "process": "the agent's process ended with exit code {code}",
            "signal": "the agent's process was ended by signal {code}",
            "before": "there was no call: {end}",
            "vanished": "the agent's process died: nothing arrives from it any more, "
            "and its address refuses connections",
            "session": "the agent's session ended with an error",
            "left": "its session ended with an error, by the word of whoever runs it",
        },
        by_process=True,
    )
    LEFT = Kind(
        "left",
        {
            "unknown": "it hung up or crashed, and nothing tells which",
            "hung_up": "it hung up: its session is complete, by the word of whoever runs it",
            "speaking": "the agent left in the middle of its own sentence: {why}",
            "owing": "the agent left and owed the caller an answer: {why}",
            "early": "the agent left before the script had come to its end",
        },
        by_process=True,
    )
    # It reported an error of its own, and what was expected of it did not come.
    ERRORED = Kind("errored", {"then": "the agent reported an error ({error}); then: {then}"}, says_why=True)

    RECOGNITION_UNSURE = Kind(
        "recognition_unsure",
        _TROUBLE | {"waited": "the caller waited for speech to end that the recording does not have"},
        cause=Cause.CALLER,
    )
    NO_ROOM = Kind("no_room", _TROUBLE, cause=Cause.ROOM)
    NETWORK_TROUBLE = Kind("network_trouble", _TROUBLE, cause=Cause.NETWORK)
    HARNESS_TROUBLE = Kind(
        "harness_trouble",
        _TROUBLE
        | {
            "broken_off": "the timeline breaks off: the runner was stopped in the middle of the call",
            "gave_up": "the caller gave up in turn {turn}, which the recording shows to have passed",
            "took_for_silent": "the caller took the agent for silent ({then}), but the recording has its answer",
        },
        cause=Cause.HARNESS,
    )
    # Something that was asked for could not be judged or observed.
    NOT_JUDGED = Kind("not_judged", {}, cause=None)

    @classmethod
    def of_trouble(cls, cause: Cause | None) -> "FailureKind":
        """Return what kind of failure an inconclusive run is, by its cause: the first in the table."""
        return next(kind for kind in cls if kind.about.cause is cause)

    @property
    def words(self) -> str:
        """Its name for people."""
        return self.value.replace("_", " ")

    def says(self, how: str, **what: Any) -> str:
        """Return the sentence for how it was found, with what was found in it."""
        return self.about.sentences[how].format(**what)


class Failure(BaseModel):
    """Why a run did not pass: the earliest thing that explains the rest.

    Attributes:
        cause: Whose fault it was; None where nobody's.
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

    @classmethod
    def of(cls, kind: FailureKind, headline: str, **more: Any) -> "Failure":
        """Return a failure of a kind, whose fault is the kind's."""
        return cls(kind=kind, cause=kind.about.cause, headline=headline, **more)
