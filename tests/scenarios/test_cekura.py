"""Scenarios as Cekura holds them, turned into scripts."""

from typing import Any

import pytest

from bots.caller.body import Body, Say
from bots.caller.script import (
    AfterAgentTurn,
    AfterEvent,
    Pause,
    PressKeys,
    Script,
    Speak,
    StaySilent,
    TurnTaking,
    Words,
)
from runner.errors import UsageError
from runner.scenarios.cekura import ScenarioFields, as_played
from runner.scenarios.conditional_actions import ConditionalActionsError, Step, read_conditional_actions
from runner.scenarios.placeholders import substitute
from runner.settings import Settings

SETTINGS = Settings(turn_taking=TurnTaking(greeting_wait_ms=2_000), max_duration_s=99)


def row(number: int, condition: Any, action: str, kind: str = "standard", fixed: bool = True) -> dict[str, Any]:
    """Return a condition of the older shape."""
    return {"id": number, "condition": condition, "action": action, "type": kind, "fixed_message": fixed}


def older(*rows: dict[str, Any], first: str = "") -> dict[str, Any]:
    return {"role": "A guest", "functions": [], "conditions": [row(0, "FIRST_MESSAGE", first), *rows]}


def newer(*conditions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "A guest", "first_message": "", "functions": [], "conditions": list(conditions), **more}


def said(when: str, say: str, *then: str) -> dict[str, Any]:
    """Return a condition of the newer shape."""
    return {"when": when, "say": say, "then": list(then)}


def played(actions: dict[str, Any], **variables: Any) -> Script:
    return as_played(ScenarioFields("x", "conditional_actions", None, actions, None, variables), SETTINGS).script


def refused(actions: dict[str, Any], **variables: Any) -> str:
    with pytest.raises(UsageError) as error:
        played(actions, **variables)
    return str(error.value)


def errors(actions: Any) -> tuple[str, ...]:
    with pytest.raises(ConditionalActionsError) as error:
        read_conditional_actions(actions)
    return error.value.errors


def lines(script: Script) -> list[str]:
    return [turn.action.text if isinstance(turn.action, Speak) else turn.action.kind for turn in script.turns]


def test_steps_are_played_in_order_after_each_agent_turn() -> None:
    for actions in (
        older(
            row(1, "The agent asks for the name", "John Smith"),
            row(2, 1, "And spell it back.", "action_followup"),
            row(3, 'contains "phone" OR contains "number"', "None."),
        ),
        newer(
            said("The agent asks for the name", "John Smith", "And spell it back."), said('contains "phone"', "None.")
        ),
    ):
        script = played(actions)
        assert lines(script) == ["John Smith", "And spell it back.", "None."]
        assert all(turn.start == AfterAgentTurn() and not turn.expect for turn in script.turns)
        assert (script.name, script.max_duration_s, script.hang_up) == ("x", 99, True)


def test_a_first_message_is_said_as_the_call_begins() -> None:
    for actions in (
        older(row(1, 0, "Are you there?", "action_followup"), row(2, "It greets", "Bye"), first="Hello!"),
        newer(said("It greets", "Bye"), first_message={"say": "Hello!", "then": ["Are you there?"]}),
    ):
        script = played(actions)
        assert lines(script) == ["Hello!", "Are you there?", "Bye"]
        assert [turn.start for turn in script.turns] == [AfterEvent(), AfterAgentTurn(), AfterAgentTurn()]
        assert script.turn_taking.greeting_wait_ms == 2_000
    assert lines(played(newer(first_message="Hello!"))) == ["Hello!"]


def test_only_a_first_message_is_said_before_the_agent_spoke() -> None:
    first = Body(played(newer(said("a", "Bye"), first_message="Hello!"))).begin(0)
    assert Say(0) in first
    assert not Body(played(newer(said("a", "Bye")))).begin(0)


def test_without_a_first_message_the_greeting_is_waited_for() -> None:
    assert played(older(row(1, "It greets", "Hi"))).turn_taking.greeting_wait_ms == 30_000


def test_notes_say_what_is_played_otherwise() -> None:
    actions = newer(said("a", "Hi"))
    notes = as_played(ScenarioFields("x", "conditional_actions", None, actions), SETTINGS).notes
    assert "in the order written" in notes[0]
    assert "no <endcall/>" in notes[1]
    actions = newer(said("a", "Bye <endcall/>"), said("b", "never said"))
    found = as_played(ScenarioFields("x", "conditional_actions", None, actions), SETTINGS)
    assert lines(found.script) == ["Bye"]
    assert found.notes[1].startswith("endcall:")


def test_tags_are_played_where_they_stand() -> None:
    text = 'Well <silence time="1.5s"/> yes.<dtmf digits="12 3#"/><silence time="90s"/><dtmf digits=\'*\'/> done'
    script = played(newer(said("a", text)))
    assert [turn.action for turn in script.turns] == [
        Speak(parts=(Words(text="Well"), Pause(pause_ms=1_500), Words(text="yes."))),
        PressKeys(keys="123#"),
        StaySilent(duration_ms=90_000),
        PressKeys(keys="*"),
        Speak(parts=(Words(text="done"),)),
    ]
    assert [turn.start for turn in script.turns] == [AfterAgentTurn(), *[AfterEvent()] * 4]
    long = played(newer(said("a", 'a<silence time="70s"/>b'))).turns[0].action
    assert long == Speak(parts=(Words(text="a"), Pause(pause_ms=60_000), Pause(pause_ms=10_000), Words(text="b")))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<hold time='2s'/>", "<hold>"),
        ("Hi <spell>AB</spell>", "<spell>"),
        ("Hi </voice>", "</voice>"),
        ('<silence time="soon"/>', "time"),
        ("<silence/>", "time"),
        ('<silence time="0s"/>', "more than 0"),
        ('<silence time="99999s"/>', "at most"),
        ('<dtmf digits="12a"/>', "digits"),
        ("<dtmf/>", "digits"),
        ("<endcall/>", "before it has done anything"),
        ("{{caller.name}}", "{{caller.name}}"),
        ('{{test_profile["a}}', "not known"),
    ],
)
def test_what_is_not_played_here_is_refused_by_its_name(text: str, error: str) -> None:
    assert error in refused(newer(said("a", text)))


def test_less_than_and_greater_than_are_words_too() -> None:
    assert lines(played(newer(said("a", "1 < 2 and 3 > 2, I <3 you [1]")))) == ["1 < 2 and 3 > 2, I <3 you [1]"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ha [laughter] yes", "[laughter]"),
        ("[clears throat] Yes", "[clears throat]"),
        ('Well <Silence time="2s"/> yes', '<Silence time="2s"/>'),
        ('Well < silence time="2s" /> yes', '< silence time="2s" />'),
        ('Well <silence time="2s" yes', "<silence"),
        ("<EndCall/>", "<EndCall/>"),
        ("<break/> yes", "<break>"),
        ("Say <emotion value='sad'>no</emotion>", "<emotion>"),
        ('<silence time="2s" kind="soft"/> yes', "'kind'"),
        ("Bye <endcall now/>", "'now'"),
        ('<dtmf digits="1" pause="3"/>', "'pause'"),
        ('<dtmf digits="1" loud/>', "'loud'"),
        ("{{nobody.name}}", "{{nobody.name}}"),
    ],
)
def test_markup_that_nobody_plays_is_refused_when_saved(text: str, shown: str) -> None:
    (error,) = errors(newer(said("a", text)))
    assert error.startswith("conditions[0].say: ") and shown in error
    (error,) = errors(older(row(1, "a", text)))
    assert error.startswith("conditions[1].action: ")
    (error,) = errors(newer(said("a", "Hi", text), first_message="Hello"))
    assert error.startswith("conditions[0].then[0]: ")


def test_markup_may_hold_placeholders_but_they_bring_none_in() -> None:
    steps = newer(said("a", "I am {{test_profile['name']}} <dtmf digits='{{test_profile.pin}}'/>"))
    read_conditional_actions(steps)
    assert "[laughter]" in refused(steps, name="[laughter] Ann", pin="12")
    assert "digits" in refused(steps, name="Ann", pin="12a")


def test_what_a_model_words_is_refused() -> None:
    for actions in (
        older(row(1, "a", "Ask for the price", fixed=False)),
        newer(said("a", "<ai_generated>Ask for the price</ai_generated>")),
        newer(said("a", "Hi", "<ai_generated>Ask for the price</ai_generated>")),
    ):
        assert "needs a caller that improvises, which is not there yet" in refused(actions)
    with pytest.raises(UsageError, match="needs a caller that improvises"):
        as_played(ScenarioFields("x", "instruction"), SETTINGS)


def test_functions_are_refused() -> None:
    function = {"name": "lookup", "config": {"response_mapping": {"city": "$.city"}}}
    actions = newer(said("a", "<function name='lookup'/> In {{function.lookup.city}}."), functions=[function])
    read_conditional_actions(actions)
    assert "lookup" in refused(actions)


def test_placeholders_stand_for_the_test_profile() -> None:
    profile = {"name": "Ann", "address": {"city": "Ulm", "lines": ["a", "b"]}, "n": 4, "ok": True, "pin": "12-34"}
    for text, expected in (
        ("{{test_profile.name}}", "Ann"),
        ("{{ test_profile.address.city }}!", "Ulm!"),
        ("{{test_profile['address']['city']}}", "Ulm"),
        ('{{test_profile["address"].lines[1]}}', "b"),
        ("{{test_profile.n}} {{test_profile.ok}}", "4 true"),
        ("<{{test_profile.missing}}|{{test_profile.name.more}}|{{test_profile.address}}>", "<||>"),
        ("{{test_profile.address.lines[9]}}", ""),
        ("{ {test_profile.name} }", "{ {test_profile.name} }"),
    ):
        assert substitute(text, profile) == expected
    script = played(newer(said("a", 'I am {{test_profile.name}}<dtmf digits="{{test_profile.pin}}"/>')), **profile)
    assert [turn.action for turn in script.turns] == [Speak(parts=(Words(text="I am Ann"),)), PressKeys(keys="1234")]


def test_a_step_that_is_empty_without_its_value_says_nothing() -> None:
    assert lines(played(newer(said("a", "{{test_profile.gone}}"), said("b", "Hi")))) == ["Hi"]


EVAL = """\
name: file
max_duration_s: 50
turns:
  - user: "I am {{test_profile.name}}"
    expect:
      - event: response
        text_contains: "{{test_profile.name}}"
"""


def of_eval(text: str, max_duration_s: float | None = None, **variables: Any) -> Script:
    return as_played(ScenarioFields("ours", "instruction", text, None, max_duration_s, variables), SETTINGS).script


def test_pipecat_eval_goes_before_everything_else() -> None:
    script = of_eval(EVAL, name="Ann: 'x'\n- y")
    assert (script.name, script.max_duration_s) == ("ours", 50)
    assert lines(script) == ["I am Ann: 'x'\n- y"]
    assert script.turns[0].expect[0].text_contains == "Ann: 'x'\n- y"
    assert of_eval(EVAL, 20, name="Ann").max_duration_s == 20


def test_a_line_empty_without_its_value_is_refused() -> None:
    with pytest.raises(UsageError, match="test profile"):
        of_eval(EVAL.replace("I am ", ""))


@pytest.mark.parametrize(
    ("actions", "error"),
    [
        (newer(said(" ", "Hi")), "conditions[0].when: is required."),
        (newer({"when": "a", "say": "", "then": []}), "conditions[0].say has an empty step"),
        (newer({"when": "a"}), "conditions[0].say: is required."),
        (newer(said("a", "Hi", " ")), "conditions[0].then[0] has an empty step"),
        (newer({"when": "a", "say": "Hi", "then": "b"}), "conditions[0].then: must be a list."),
        (
            newer({**said("a", "Hi"), "fixed_message": True}),
            "conditions[0]: unknown field(s) 'fixed_message'. Allowed: when, say, then.",
        ),
        (
            newer(said("a", "Hi <ai_generated>and more</ai_generated>")),
            "conditions[0].say: <ai_generated> must wrap the whole step",
        ),
        (
            newer(said("a", "<ai_generated>a<ai_generated>b</ai_generated></ai_generated>")),
            "conditions[0].say: <ai_generated> must wrap the whole step",
        ),
        (newer(said("a", "<ai_generated> </ai_generated>")), "conditions[0].say has an empty step"),
        (
            newer(said("a", "Hi"), first_message="<ai_generated>Greet</ai_generated>"),
            "first_message: the first message is always said verbatim; <ai_generated> is not allowed.",
        ),
        (
            newer(said("a", "<ai_generated>Say <silence time='1s'/></ai_generated>")),
            "conditions[0].say: <silence> is not allowed in a generated step.",
        ),
        (newer(said("a", "<function name='x'/>")), "conditions[0].say: references an undefined function 'x'."),
        (
            newer(said("a", "{{function.f.out}}"), functions=[{"name": "f"}]),
            "conditions[0].say: 'out' is not a declared output of function 'f'.",
        ),
        (
            newer(said("a", "<ai_generated>Say {{function.f.out}}</ai_generated>"), functions=[{"name": "f"}]),
            "conditions[0].say: placeholders require a verbatim step.",
        ),
        (newer(functions=[{"name": "no spaces"}]), "functions[0].name: must be up to 64 letters, digits, _ and -."),
        (newer(), "conditions: the caller does nothing at all."),
        (older(), "conditions: the caller does nothing at all."),
        (newer(5), "conditions[0]: must be an object."),  # type: ignore[arg-type]
        ({"role": "x"}, "conditions: is required."),
        ({"conditions": {}}, "conditions: must be a list."),
        ([], "must be an object with role and conditions."),
        (
            {"conditions": [row(1, "a", "b")]},
            "conditions[0]: the first must have id 0, condition 'FIRST_MESSAGE' and fixed_message true.",
        ),
        (older(row(1, "a", "")), "conditions[1].action: only that of the first message may be empty."),
        (older(row(0, "a", "b")), "conditions[1].id: 0 stands twice."),
        (
            older(row(1, 7, "b", "action_followup")),
            "conditions[1].condition: a follow-up names the id of a condition.",
        ),
        (older(row(1, 7, "b")), "conditions[1].condition: is required."),
        (older(row(1, "a", "b", "other")), "conditions[1].type: must be standard or action_followup."),
        (older({**row(1, "a", "b"), "id": "1"}), "conditions[1].id: must be a whole number."),
        (older({**row(1, "a", "b"), "fixed_message": 1}), "conditions[1].fixed_message: must be true or false."),
    ],
)
def test_what_is_wrong_is_said_in_cekuras_words(actions: Any, error: str) -> None:
    assert errors(actions) == (error,)


def test_all_that_is_wrong_is_said_at_once() -> None:
    assert len(errors(newer({**said("", ""), "x": 1}, said("", "")))) == 5
    assert len(errors(newer({"when": 1, "say": 2}, {"then": 3}))) == 5


def test_defaults_of_the_older_shape_may_be_left_out() -> None:
    actions = read_conditional_actions(
        {"conditions": [row(0, "FIRST_MESSAGE", ""), {"id": 1, "condition": "a", "action": "Ask"}]}
    )
    assert actions.conditions[0].steps == (Step("Ask", verbatim=False),)


def test_hostile_texts_take_no_time() -> None:
    for text in ("<" * 5_000, "{{" * 2_500, "<a " + "x=" * 2_000, "{{test_profile" + ".a" * 2_000 + "}}"):
        try:
            played(newer(said("a", text)))
        except UsageError:
            continue
