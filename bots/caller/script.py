"""The script: the deterministic part of a scenario.

A script is a sequence of turns. Each turn waits for its trigger, does one thing (speak, play a recording, press
keys, stay silent, or only listen) and says what must follow before the next turn is taken up.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import re2
from pydantic import BaseModel, ConfigDict, Field, field_validator

DEFAULT_WITHIN_MS = 60_000
"""How long an expectation waits where it sets no ``within_ms`` (as in Pipecat Evals)."""

KEYS = "0123456789*#"
"""The keys of a telephone keypad that can be pressed."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Words(_Model):
    """Text to be spoken."""

    text: str = Field(min_length=1)


class Pause(_Model):
    pause_ms: int = Field(ge=0, le=60_000)


class Speak(_Model):
    """Say something, with pauses where a person would stop to think."""

    kind: Literal["speak"] = "speak"
    parts: tuple[Words | Pause, ...] = Field(min_length=1)

    @property
    def text(self) -> str:
        return " ".join(part.text for part in self.parts if isinstance(part, Words))


class Play(_Model):
    """Play a recording in place of speaking. ``text`` is what the recording says."""

    kind: Literal["play"] = "play"
    path: Path
    text: str = ""


class PressKeys(_Model):
    kind: Literal["press_keys"] = "press_keys"
    keys: str = Field(min_length=1, max_length=64, pattern=r"^[0-9*#]+$")


class StaySilent(_Model):
    """Say nothing for so long, whatever the agent does."""

    kind: Literal["stay_silent"] = "stay_silent"
    duration_ms: int = Field(ge=0, le=3_600_000)


class Listen(_Model):
    """Do nothing but listen: for what is expected, or else for the agent's turn."""

    kind: Literal["listen"] = "listen"


Action = Annotated[Speak | Play | PressKeys | StaySilent | Listen, Field(discriminator="kind")]


class AfterAgentTurn(_Model):
    """Start when the agent has finished its turn, as a polite person does."""

    kind: Literal["after_agent_turn"] = "after_agent_turn"


class AfterEvent(_Model):
    """Start ``delay_ms`` after an event was seen, earlier in the call or now.

    Without an ``event`` the delay counts from when everything the turn before expects was decided, or from the
    start of one that expects nothing.
    """

    kind: Literal["after_event"] = "after_event"
    event: str | None = None
    delay_ms: int = Field(default=0, ge=0, le=3_600_000)


class AgentHeardFor(_Model):
    """Start so long after the agent is heard to start speaking: a barge-in."""

    kind: Literal["agent_heard_for"] = "agent_heard_for"
    duration_ms: int = Field(ge=0, le=600_000)


class AfterSilence(_Model):
    """Start when neither side has been heard for so long."""

    kind: Literal["after_silence"] = "after_silence"
    duration_ms: int = Field(ge=0, le=3_600_000)


Trigger = Annotated[AfterAgentTurn | AfterEvent | AgentHeardFor | AfterSilence, Field(discriminator="kind")]


class FunctionCall(_Model):
    """A function call to look for. ``args`` is a subset: every key given must be there with its value."""

    name: str | None = None
    args: dict[str, Any] | None = None


AGENT_SPEAKS = "agent_speaks"
"""The agent's first audible sample after the caller's last one."""
AGENT_STOPS = "agent_stops"
"""The end of the agent's speech that was under way when the caller barged in."""
AGENT_NEVER_TALKS_OVER = "agent_never_talks_over"
"""No agent speech begins while the caller still speaks, its own pauses included."""
AGENT_HANGS_UP = "agent_hangs_up"
"""The agent leaves the room in an orderly way."""

BEHAVIOURS = frozenset({AGENT_SPEAKS, AGENT_STOPS, AGENT_NEVER_TALKS_OVER, AGENT_HANGS_UP})
"""What is expected of how the agent behaves, told from the audio alone; each stands for itself, in no order."""

MarkerKind = Literal["complete", "short", "long", "incomplete"]


def compile_pattern(pattern: str) -> Any:
    """Return a pattern that ignores case and is matched in time that grows with the text alone (RE2).

    Raises ValueError: it is no regular expression of RE2, which has no lookaround and no backreferences.
    """
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0]
        problem = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"{problem} (RE2 syntax: no lookaround, no backreferences)") from None


class Expectation(_Model):
    """Something that must follow in a turn (or, if ``absent``, must not).

    Attributes:
        event: What to look for, by the names Pipecat Evals uses (``response``, ``function_call``, …), or one of
            :data:`BEHAVIOURS`.
        within_ms: The budget in milliseconds. It counts from the moment the turn began to be sent; for
            ``agent_speaks`` from the caller's last voiced sample, for ``agent_stops`` from its first.
        text_contains: The words must hold this, whatever the case, white space and punctuation.
        text_matches: A regular expression (RE2) the words must match somewhere, whatever the case.
        criterion: What a judge must find the words (or the function calls) to satisfy: ``eval`` in a file.
        calls: The function calls to find, in any order.
        marker: What the LLM's marker must mean (``llm_marker``); ``markers`` is how many the text must hold.
        check_from: Where to look from: where the expectation above was met, or the beginning of the turn.
        absent: Nothing of this kind may come before ``within_ms`` has passed.
    """

    event: str = "response"
    within_ms: int | None = Field(default=None, ge=0, le=3_600_000)
    text_contains: str | None = None
    text_excludes: str | None = None
    text_matches: str | None = None
    criterion: str | None = None
    calls: tuple[FunctionCall, ...] | None = None
    marker: MarkerKind | None = None
    marker_first: bool | None = None
    markers: int | None = None
    text_after: bool | None = None
    check_from: Literal["previous", "turn_start"] = "previous"
    absent: bool = False

    @field_validator("text_matches")
    @classmethod
    def _is_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            compile_pattern(pattern)
        return pattern

    @property
    def budget_ms(self) -> int:
        return DEFAULT_WITHIN_MS if self.within_ms is None else self.within_ms

    @property
    def needs_words(self) -> bool:
        """Whether it can only be decided by what the agent said."""
        if self.event in ("function_call", "function_call_stopped"):
            return False
        return any(t is not None for t in (self.text_contains, self.text_excludes, self.text_matches, self.criterion))


class Turn(_Model):
    """When the caller starts, what it does, and what must follow."""

    action: Action = Listen()
    start: Trigger = AfterAgentTurn()
    expect: tuple[Expectation, ...] = ()


class TurnTaking(_Model):
    """How the caller takes turns.

    Attributes:
        end_of_turn_ms: Silence after which the agent's turn is taken to be over.
        greeting_wait_ms: How long the first spoken turn waits for a greeting before it speaks first.
        answer_timeout_s: How long the agent may be silent when it is its turn, before the call ends as *agent froze*
            or *never spoke*. An expectation with a longer budget extends it.
        smart_turn: Let Pipecat's smart-turn model decide on the end of a turn in place of silence alone.
    """

    end_of_turn_ms: int = Field(default=1_000, ge=200, le=10_000)
    greeting_wait_ms: int = Field(default=3_000, ge=0, le=60_000)
    answer_timeout_s: float = Field(default=30.0, gt=0, le=3_600)
    smart_turn: bool = False


class Script(_Model):
    """What the caller does, turn by turn.

    Attributes:
        stop_on_failure: Whether the first turn that fails ends the call.
        hang_up: Whether the caller hangs up after its last turn; otherwise it waits for the agent to.
        may_be_talked_over: Whether an agent that talks over the caller again and again does as it should.
    """

    name: str = Field(min_length=1)
    turns: tuple[Turn, ...] = Field(min_length=1)
    stop_on_failure: bool = True
    hang_up: bool = True
    max_duration_s: float = Field(default=300.0, gt=0, le=7_200)
    turn_taking: TurnTaking = TurnTaking()
    may_be_talked_over: bool = False

    @property
    def needs_judge(self) -> bool:
        """Whether an expectation takes a judge."""
        return any(expectation.criterion is not None for turn in self.turns for expectation in turn.expect)

    @property
    def needs_words(self) -> bool:
        """Whether the caller must know what the agent says to go on: an expectation waits for words."""
        return any(expectation.needs_words for turn in self.turns for expectation in turn.expect)
