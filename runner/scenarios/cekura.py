"""Scenarios as Cekura holds them, turned into scripts.

Conditional actions are played in the order written, one step after each turn of the agent. Whether the condition of a
step had come true by then is told once the call is over: from the words where it is ``contains "word"``, else by the
judge. Where it had not, the run is inconclusive. ``pipecat_eval`` is ours: the text of a file as
:mod:`runner.scenarios.evals` reads it, with one scenario.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from bots.caller.script import (
    Action,
    AfterAgentTurn,
    AfterEvent,
    Pause,
    PressKeys,
    Script,
    Speak,
    StaySilent,
    Trigger,
    Turn,
    Words,
)
from runner.errors import UsageError
from runner.evaluation import asked
from runner.scenarios.conditional_actions import Condition, ConditionalActions, Step, read_conditional_actions
from runner.scenarios.evals import MAX_TURNS, load_text
from runner.scenarios.markup import pieces
from runner.scenarios.model import Scenario
from runner.scenarios.placeholders import substitute, substituted
from runner.settings import Settings

PIPECAT_EVAL = "pipecat_eval"
CONDITIONAL_ACTIONS = "conditional_actions"
INSTRUCTION = "instruction"

GREETING_WAIT_MS = 30_000
"""How long a caller without a first message waits for the agent's greeting before it speaks all the same."""

_IMPROVISES = "needs a caller that improvises, which is not there yet"


class _Row(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def scenario_type(self) -> str: ...
    @property
    def pipecat_eval(self) -> str | None: ...
    @property
    def data(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ScenarioFields:
    """What a script is made of.

    Attributes:
        scenario_type: ``instruction``, ``conditional_actions`` or ``pipecat_eval``.
        pipecat_eval: The text of a scenario file; goes before everything else.
        conditional_actions: As they were written, in either shape.
        max_duration_s: None: as the settings, or the text, have it.
        variables: What ``{{test_profile.key}}`` stands for.
    """

    name: str
    scenario_type: str
    pipecat_eval: str | None = None
    conditional_actions: dict[str, Any] | None = None
    max_duration_s: float | None = None
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, row: _Row, variables: Mapping[str, Any] | None = None) -> "ScenarioFields":
        """Return those of a row of the record, with the caller's variables of the test profile."""
        return cls(
            name=row.name,
            scenario_type=row.scenario_type,
            pipecat_eval=row.pipecat_eval,
            conditional_actions=row.data.get(CONDITIONAL_ACTIONS),
            max_duration_s=row.data.get("max_duration"),
            variables=variables or {},
        )


@dataclass(frozen=True)
class Played:
    """How a scenario is played."""

    script: Script
    notes: tuple[str, ...]
    conditions: tuple[asked.Condition, ...] = ()


def as_played(scenario: ScenarioFields, settings: Settings) -> Played:
    """Return how a scenario is played; the settings give what it does not say itself.

    Raises UsageError: it can't be played; says why.
    """
    conditions: tuple[asked.Condition, ...] = ()
    if scenario.pipecat_eval is not None:
        found = read_pipecat_eval(scenario.pipecat_eval, settings)
        script, notes = substituted(found.playable(), scenario.variables), found.notes
    elif scenario.scenario_type == CONDITIONAL_ACTIONS:
        if scenario.conditional_actions is None:
            raise UsageError("it has no conditional actions")
        actions = read_conditional_actions(scenario.conditional_actions)
        script, notes, conditions = _Player(scenario, settings).play(actions)
    else:
        raise UsageError(f"a scenario of the type {scenario.scenario_type!r} {_IMPROVISES}")
    changes: dict[str, Any] = {"name": scenario.name}
    if scenario.max_duration_s is not None:
        changes["max_duration_s"] = float(scenario.max_duration_s)
    return Played(script.model_copy(update=changes), notes, conditions)


def read_pipecat_eval(text: str, settings: Settings) -> Scenario:
    """Return the one scenario of a text in the format of Pipecat Evals; it has a script.

    Raises UsageError: something in it is wrong, it holds several, or can't be played: ``pipecat_eval: line N: …``.
    """
    scenarios = load_text(text, PIPECAT_EVAL, settings)
    if len(scenarios) > 1:
        names = ", ".join([*(scenario.short_name for scenario in scenarios[:3]), *("…" for _ in scenarios[3:4])])
        raise UsageError(
            f"{PIPECAT_EVAL}: line {scenarios[1].line}: holds {len(scenarios)} scenarios ({names}); give one"
        )
    found = scenarios[0]
    if found.refusal is not None or found.script is None:
        raise UsageError(f"{PIPECAT_EVAL}: line {found.line}: can't be played in a room: {found.refusal}")
    if found.tags:
        raise UsageError(f"{PIPECAT_EVAL}: line {found.line}: tags: give them as the scenario's own field")
    return found


class _Ended(Exception):
    """The caller hangs up: what follows is not played."""


class _Player:
    def __init__(self, scenario: ScenarioFields, settings: Settings):
        self._scenario = scenario
        self._settings = settings
        self._turns: list[Turn] = []

    def play(self, actions: ConditionalActions) -> tuple[Script, tuple[str, ...], tuple[asked.Condition, ...]]:
        if actions.functions:
            raise UsageError(f"it calls functions ({', '.join(actions.functions)}), which are not called here yet")
        steps: list[tuple[Step, Condition | None]] = [(step, None) for step in actions.first]
        for condition in actions.conditions:
            # What follows the first step of a condition follows whatever the agent says.
            steps += [(step, condition if i == 0 else None) for i, step in enumerate(condition.steps)]
        if any(not step.verbatim for step, _ in steps):
            raise UsageError(f"a step that a model words (fixed_message false, or <ai_generated>) {_IMPROVISES}")
        notes = [
            "conditions: the steps are played in the order written, one after each turn of the agent; whether their "
            "conditions had come true by then is told once the call is over"
        ]
        conditions: list[asked.Condition] = []
        ended = False
        for index, (step, condition) in enumerate(steps):
            at_once = index == 0 and bool(actions.first)
            turn = len(self._turns)
            try:
                self._play(step, AfterEvent() if at_once else AfterAgentTurn())
            except _Ended:
                ended = True
            says = len(self._turns) > turn
            if condition is not None and condition.when and (says or ended):
                conditions.append(
                    asked.Condition(
                        turn=turn, where=condition.where, when=condition.when, hangs_up=ended and not says
                    )
                )
            if ended:
                break
        if ended:
            notes.append("endcall: the caller hangs up once the agent has answered its last words")
        else:
            notes.append("no <endcall/>: the caller hangs up once the agent has answered its last step")
        if not self._turns:
            raise UsageError("the caller hangs up before it has done anything")
        if len(self._turns) > MAX_TURNS:
            raise UsageError(f"more than {MAX_TURNS} steps; no call goes on for so long")
        taking = self._settings.turn_taking
        if not actions.first:
            taking = taking.model_copy(update={"greeting_wait_ms": max(GREETING_WAIT_MS, taking.greeting_wait_ms)})
        return (
            Script(
                name=self._scenario.name,
                turns=tuple(self._turns),
                max_duration_s=self._settings.max_duration_s,
                turn_taking=taking,
            ),
            tuple(notes),
            tuple(conditions),
        )

    def _play(self, step: Step, start: Trigger) -> None:
        """Add the turns that a step takes: one, or several where it presses keys or only waits."""
        text = substitute(step.text, self._scenario.variables)
        parts: list[Words | Pause] = []

        def add(action: Action) -> None:
            nonlocal start
            self._turns.append(Turn(action=action, start=start))
            start = AfterEvent()

        def flush() -> None:
            if any(isinstance(part, Words) for part in parts):
                add(Speak(parts=tuple(parts)))
            elif parts:
                add(StaySilent(duration_ms=sum(part.pause_ms for part in parts if isinstance(part, Pause))))
            parts.clear()

        for piece in pieces(text):
            match piece:
                case Words() | Pause():
                    parts.append(piece)
                case PressKeys():
                    flush()
                    add(piece)
                case _:
                    flush()
                    raise _Ended
        flush()
