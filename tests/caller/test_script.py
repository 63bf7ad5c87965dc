"""The script model: what a script may say, up to its bounds and no further."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from bots.caller.script import (
    KEYS,
    AfterAgentTurn,
    AfterEvent,
    AfterSilence,
    AgentHeardFor,
    Expectation,
    Listen,
    Pause,
    Play,
    PressKeys,
    Script,
    Speak,
    StaySilent,
    Turn,
    TurnTaking,
    Words,
)

HOUR_MS = 3_600_000
TURN = Turn()


def in_script(**options: Any) -> Script:
    return Script(name="s", turns=(TURN,), **options)


BOUNDS: list[Any] = [
    pytest.param(lambda n: Pause(pause_ms=n), 0, 60_000, id="pause"),
    pytest.param(lambda n: StaySilent(duration_ms=n), 0, HOUR_MS, id="silence"),
    pytest.param(lambda n: AfterEvent(delay_ms=n), 0, HOUR_MS, id="delay"),
    pytest.param(lambda n: AgentHeardFor(duration_ms=n), 0, 600_000, id="barge-in"),
    pytest.param(lambda n: AfterSilence(duration_ms=n), 0, HOUR_MS, id="after silence"),
    pytest.param(lambda n: Expectation(within_ms=n), 0, HOUR_MS, id="within"),
    pytest.param(lambda n: TurnTaking(end_of_turn_ms=n), 200, 10_000, id="end of turn"),
    pytest.param(lambda n: TurnTaking(greeting_wait_ms=n), 0, 60_000, id="greeting"),
    pytest.param(lambda n: TurnTaking(answer_timeout_s=n), 1, 3_600, id="answer"),
    pytest.param(lambda n: in_script(max_duration_s=n), 1, 7_200, id="duration"),
    pytest.param(lambda n: PressKeys(keys="1" * n), 1, 64, id="keys"),
]


@pytest.mark.parametrize(("make", "least", "most"), BOUNDS)
def test_numbers_have_bounds_that_belong_to_them(make: Callable[[int], BaseModel], least: int, most: int) -> None:
    make(least)
    make(most)
    for beyond in (least - 1, most + 1):
        with pytest.raises(ValidationError):
            make(beyond)


@pytest.mark.parametrize("keys", ["12a", "A", "1 2", "+49", "1-2", "１", "1\n", ""])
def test_only_keys_of_a_telephone_can_be_pressed(keys: str) -> None:
    assert PressKeys(keys=KEYS).keys == KEYS
    with pytest.raises(ValidationError):
        PressKeys(keys=keys)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Script(name="s", turns=()),
        lambda: Script(name="", turns=(TURN,)),
        lambda: Speak(parts=()),
        lambda: Words(text=""),
    ],
)
def test_nothing_is_no_script_and_no_line(make: Callable[[], BaseModel]) -> None:
    with pytest.raises(ValidationError):
        make()


@pytest.mark.parametrize("pattern", ["(", "[a", "*a", "a{2,1}", "(?=a)", r"(a)\1"])
def test_a_pattern_must_be_a_regular_expression(pattern: str) -> None:
    assert Expectation(text_matches="booked|reserved").text_matches == "booked|reserved"
    with pytest.raises(ValidationError, match="text_matches"):
        Expectation(text_matches=pattern)


@pytest.mark.parametrize(
    "value",
    [
        {"action": {"kind": "sing"}},
        {"action": {"duration_ms": 5}},
        {"start": {"kind": "listen"}},
        {"action": {"kind": "listen", "loudly": True}},
        {"expects": []},
        {"expect": [{"event": "response", "contains": "x"}]},
    ],
)
def test_what_is_not_known_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        Turn.model_validate(value)


def test_a_turn_that_says_nothing_listens_for_the_agents_turn() -> None:
    assert (TURN.action, TURN.start, TURN.expect) == (Listen(), AfterAgentTurn(), ())


def test_the_text_of_a_line_is_its_words_without_its_pauses() -> None:
    line = Speak(parts=(Words(text="Let me see."), Pause(pause_ms=400), Words(text="At eight.")))
    assert line.text == "Let me see. At eight."
    assert Speak(parts=(Pause(pause_ms=1),)).text == ""


@pytest.mark.parametrize(
    ("expectation", "needs"),
    [
        (Expectation(), False),
        (Expectation(event="function_call"), False),
        (Expectation(absent=True), False),
        (Expectation(text_contains="x"), True),
        (Expectation(text_excludes=""), True),
        (Expectation(text_matches="x"), True),
    ],
)
def test_a_script_needs_words_if_anything_it_expects_does(expectation: Expectation, needs: bool) -> None:
    assert expectation.needs_words is needs
    assert Script(name="s", turns=(TURN, Turn(expect=(Expectation(), expectation)))).needs_words is needs


def test_a_script_comes_back_from_json_as_it_went() -> None:
    actions = [
        Speak(parts=(Words(text="a"), Pause(pause_ms=5))),
        Play(path=Path("a.wav"), text="a"),
        PressKeys(keys="1#"),
        StaySilent(duration_ms=5),
        Listen(),
    ]
    starts = [
        AfterAgentTurn(),
        AfterEvent(event="response"),
        AgentHeardFor(duration_ms=5),
        AfterSilence(duration_ms=5),
    ]
    turns = [*(Turn(action=action) for action in actions), *(Turn(start=start) for start in starts)]
    script = Script(name="s", turns=tuple(turns), turn_taking=TurnTaking(smart_turn=True), hang_up=False)
    assert Script.model_validate_json(script.model_dump_json()) == script


def test_a_script_never_changes() -> None:
    script = in_script()
    with pytest.raises(ValidationError):
        script.name = "other"  # type: ignore[misc]
