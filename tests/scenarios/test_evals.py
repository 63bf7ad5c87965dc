"""Scenario files: what our own keys come to, and what every mistake is told as."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from bots.caller.script import (
    AGENT_HANGS_UP,
    AGENT_NEVER_TALKS_OVER,
    AGENT_SPEAKS,
    AGENT_STOPS,
    AfterAgentTurn,
    AfterEvent,
    AfterSilence,
    AgentHeardFor,
    PressKeys,
    Speak,
    StaySilent,
    TurnTaking,
)
from runner.scenarios.evals import load_file, load_scenario
from runner.scenarios.model import Scenario
from runner.settings import Settings
from tests.scenarios.conftest import CORPUS, refused


def load(tmp_path: Path, text: str, settings: Settings | None = None) -> list[Scenario]:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return load_file(path, settings or Settings())


def test_our_own_keys() -> None:
    behaviours, overridden, ready = load_file(CORPUS / "own" / "keys.yaml", Settings())
    script = behaviours.playable()
    assert (script.hang_up, script.max_duration_s) == (False, 45.5)
    assert script.turn_taking == TurnTaking(end_of_turn_ms=800, greeting_wait_ms=1000, answer_timeout_s=12.5)
    starts = [type(turn.start) for turn in script.turns]
    assert starts == [
        *[AfterAgentTurn] * 2,
        AgentHeardFor,
        AfterEvent,
        AfterAgentTurn,
        AfterSilence,
        AfterAgentTurn,
    ]
    expected = [[(e.event, e.within_ms) for e in turn.expect] for turn in script.turns]
    assert expected == [
        [("response", None)],
        [(AGENT_SPEAKS, 1500), (AGENT_NEVER_TALKS_OVER, None)],
        [(AGENT_STOPS, 500)],
        [(AGENT_STOPS, 600), (AGENT_NEVER_TALKS_OVER, None)],
        [("response", None)],
        [],
        [(AGENT_NEVER_TALKS_OVER, None), (AGENT_HANGS_UP, None)],
    ]
    assert script.turns[0].expect[0].text_matches == "^(hello|hi)\\b"
    assert script.turns[2].start == AgentHeardFor(duration_ms=700)
    assert script.turns[4].action == StaySilent(duration_ms=4000)
    assert (script.turns[5].action, script.turns[5].start) == (PressKeys(keys="1"), AfterSilence(duration_ms=2500))
    script = overridden.playable()
    assert (script.hang_up, script.max_duration_s, script.turns[0].expect) == (True, 20, ())
    # As with Pipecat's keys the whole value is replaced: what the file says of turn taking is not merged in.
    assert script.turn_taking == TurnTaking(smart_turn=True)
    assert ready.playable().turns[0].start == AfterEvent(event="bot_ready", delay_ms=100)


def test_the_settings_say_what_a_scenario_does_not(tmp_path: Path) -> None:
    settings = Settings(max_duration_s=77, turn_taking=TurnTaking(end_of_turn_ms=1500, greeting_wait_ms=5))
    plain, own = load(
        tmp_path,
        "name: x\nscenarios:\n  - { name: a, turns: [{ user: hi }] }\n"
        "  - { name: b, turn_taking: { end_of_turn_ms: 900, answer_timeout_s: }, turns: [{ user: hi }] }\n",
        settings,
    )
    assert plain.playable().max_duration_s == 77
    assert plain.playable().turn_taking == settings.turn_taking
    assert own.playable().turn_taking == TurnTaking(end_of_turn_ms=900, greeting_wait_ms=5)


def test_a_scenario_begins_where_its_mapping_does(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text("\nname: b\nturns: [{ user: hi }]\n")
    first, second = load(
        tmp_path,
        "name: x\n\nscenarios:\n  - name: a\n    turns: [{ user: hi }]\n  - !include part.yaml\n",
    )
    assert (first.name, first.short_name, first.path, first.line) == ("x/a", "a", tmp_path / "file.yaml", 4)
    assert (second.name, second.path, second.line) == ("x/b", tmp_path / "part.yaml", 2)


IMAGE = "it waits for an image of the agent (event:)"


def test_what_a_room_cannot_offer_loads_and_says_why_it_is_not_played() -> None:
    kinds = {s.short_name: s for s in load_file(CORPUS / "unplayable" / "kinds.yaml", Settings())}
    assert {name: scenario.refusal for name, scenario in kinds.items()} == {
        "history": "it sets the agent's context, which a deployed agent keeps to itself (context:)",
        "shows an image": "it shows the agent an image (image:)",
        "expects an image": IMAGE,
        "waits for an image": IMAGE,
        "persona": "it is a simulation (persona:); only scripted scenarios (turns:) are played so far",
        "plays": None,
    }
    for name, scenario in kinds.items():
        if scenario.refusal is None:
            assert isinstance(scenario.playable().turns[0].action, Speak)
        else:
            where = f"{scenario.path}:{scenario.line}: kinds/{name}"
            assert refused(scenario.playable) == f"{where} can't be played in a room: {scenario.refusal}"


def test_every_reason_is_named_and_an_empty_context_is_none(tmp_path: Path) -> None:
    turns = "turns: [{ user: hi, image: a.jpg, expect: [{ event: image }] }]"
    (scenario,) = load(tmp_path, f"name: x\ncontext: [{{ role: system }}]\n{turns}\n")
    assert scenario.refusal is not None and scenario.refusal.count(";") == 2
    (scenario,) = load(tmp_path, "name: x\ncontext: []\nturns: [{ user: hi }]\n")
    assert scenario.playable()


def test_what_is_played_otherwise_is_noted(tmp_path: Path) -> None:
    (scenario,) = load(
        tmp_path,
        "name: x\nuser: { modality: text }\njudge: { modality: audio, transcription: { service: whisper } }\n"
        "trigger_disconnect: true\nturns: [{ user: hi }]\n",
    )
    user, judge, leaving = scenario.notes
    assert "speech.tts" in user
    assert user.endswith("the file asks for text")
    assert "speech.stt" in judge
    assert not judge.endswith("the file asks for text")
    assert "always leaves" in leaving


class TestLoadScenario:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        turns = "turns: [{ user: hi }]"
        (tmp_path / "one.yaml").write_text(f"name: one\n{turns}\n")
        names = ("a", "b: c", "d/e", "f/e", "x/a")
        entries = "".join(f"  - {{ name: '{name}', {turns} }}\n" for name in names)
        (tmp_path / "many.yaml").write_text(f"name: many\nscenarios:\n{entries}")
        (tmp_path / "with:colon.yaml").write_text(f"name: colon\n{turns}\n")
        return tmp_path

    @pytest.mark.usefixtures("folder")
    @pytest.mark.parametrize(
        ("spec", "name"),
        [
            ("one.yaml", "one"),
            ("one.yaml:one", "one"),
            ("many.yaml:many/a", "many/a"),
            ("many.yaml:b: c", "many/b: c"),
            ("many.yaml:d/e", "many/d/e"),
            ("with:colon.yaml", "colon"),
            ("with:colon.yaml:colon", "colon"),
        ],
    )
    def test_a_scenario_is_named_by_file_and_name(self, spec: str, name: str) -> None:
        assert load_scenario(spec, Settings()).name == name

    @pytest.mark.usefixtures("folder")
    @pytest.mark.parametrize(
        ("spec", "says"),
        [
            ("none.yaml", "none.yaml: can't be read (No such file or directory)"),
            ("none.yaml:a", "none.yaml: can't be read (No such file or directory)"),
            (".", ".: can't be read (Is a directory)"),
            ("many.yaml", "many.yaml: holds 5 scenarios; name one: many.yaml:NAME with NAME of a, b: c, e, e, a"),
            ("many.yaml:z", "many.yaml: no scenario called 'z'; there are: a, b: c, e, e, a"),
            ("many.yaml:e", "many.yaml: 'e' can be many/d/e or many/f/e; give the whole name"),
            ("many.yaml:a", "many.yaml: 'a' can be many/a or many/x/a; give the whole name"),
            ("x" * 5_000, "can't be read (File name too long)"),
        ],
    )
    def test_what_names_none_is_told(self, spec: str, says: str) -> None:
        assert says in refused(lambda: load_scenario(spec, Settings()))


TOP = [
    ("name: x\nturn: []\n", 2, "unknown key 'turn' in the file; did you mean 'turns'?"),
    ("name: x\nscenarois: []\n", 2, "unknown key 'scenarois' in the file; did you mean 'scenarios'?"),
    ("turns: [{ user: hi }]\n", 1, "the file needs 'name'"),
    ("name:\nturns: [{ user: hi }]\n", 1, "the file needs 'name'"),
    ("name: ' '\nturns: [{ user: hi }]\n", 1, "name must be a text, not ' '"),
    ("name: [x]\nturns: [{ user: hi }]\n", 1, "name must be a text, not a list"),
    ("\n- name: x\n", 2, "the file must be a mapping (key: value), not a list"),
    ("name: x\n", 1, "the file needs 'turns': what the caller does"),
    ("name: x\nturns:\n", 1, "the file needs 'turns': what the caller does"),
    ("name: x\nturns: []\n", 2, "turns must hold at least one"),
    ("name: x\nturns: { user: hi }\n", 2, "turns must be a list (- …), not a mapping"),
    ("name: x\nscenarios: []\n", 2, "scenarios must hold at least one"),
    ("name: x\nscenarios: { a: b }\n", 2, "scenarios must be a list (- …), not a mapping"),
    ("name: x\npersona: p\nturns: [{ user: hi }]\n", 2, "turns (scripted) or a persona (simulated), not both"),
    ("name: x\ngoal: win\nturns: [{ user: hi }]\n", 2, "goal belongs to a simulated scenario, which has a persona"),
    ("name: x\nruns: 3\nscenarios: [{ name: a, turns: [{ user: hi }] }]\n", 2, "runs belongs to a simulated"),
]
SCENARIO = [
    ("- turns: [{ user: hi }]", "scenarios #1 needs 'name'"),
    ("- a", "scenarios #1 must be a mapping (key: value), not 'a'"),
    ("- { name: a, turns: [{ user: hi }], stop_on_failre: true }", "did you mean 'stop_on_failure'?"),
    ("- { name: a, turns: [{ user: hi }], scenarios: [] }", "a scenario can't hold scenarios of its own"),
    ("- { name: a, turns: [{ user: hi }], persona: p }", "turns (scripted) or a persona (simulated), not both"),
    ("- { name: a, turns: [{ user: hi }], success: s }", "success belongs to a simulated scenario"),
    ("- { name: a, turns: [{ user: hi }], stop_on_failure: never }", "stop_on_failure must be true or false"),
    ("- { name: a, turns: [{ user: hi }], hang_up: 1 }", "hang_up must be true or false, not '1'"),
    ("- { name: a, turns: [{ user: hi }], max_duration_s: 0 }", "max_duration_s must be from 1 to 7200, not 0"),
    ("- { name: a, turns: [{ user: hi }], max_duration_s: 9s }", "max_duration_s must be a number, not '9s'"),
    ("- { name: a, turns: [{ user: hi }], agent_never_talks_over: 5 }", "agent_never_talks_over must be true or"),
    ("- { name: a, turns: [{ user: hi }], context: { role: system } }", "context must be a list (- …)"),
    ("- { name: a, turns: [{ user: hi }], turn_taking: { end_of_turn: 5 } }", "did you mean 'end_of_turn_ms'?"),
    ("- { name: a, turns: [{ user: hi }], turn_taking: { end_of_turn_ms: 5 } }", "end_of_turn_ms: Input should be"),
    ("- { name: a, turns: [{ user: hi }], turn_taking: fast }", "turn_taking must be a mapping"),
    ("- { name: a, turns: [{ user: hi }], user: audio }", "user must be a mapping (key: value), not 'audio'"),
    ("- { name: a, turns: [{ user: hi }], user: { modalty: audio } }", "did you mean 'modality'?"),
    ("- { name: a, turns: [{ user: hi }], user: { modality: adio } }", "there is no 'adio'; did you mean 'audio'?"),
    ("- { name: a, turns: [{ user: hi }], user: { speech: kokoro } }", "speech must be a mapping: which service"),
    ("- { name: a, turns: [{ user: hi }], judge: { evl: {} } }", "unknown key 'evl' in judge; did you mean 'eval'?"),
    ("- { name: a, turns: [{ user: hi }], judge: { eval: gpt } }", "eval must be a mapping: which service"),
    ("- { name: a, turns: [{ user: hi }], judge: { transcription: [] } }", "transcription must be a mapping"),
    ("- { name: a, turns: [{ user: hi }], judge: { modality: video } }", "known are: audio, text"),
]
TURN = [
    ("hello", "must be a mapping (key: value), not 'hello'"),
    ("{ usr: hi }", "unknown key 'usr' in turns #2; did you mean 'user'?"),
    ("{ interupt_after_ms: 5 }", "did you mean 'interrupt_after_ms'?"),
    ("{ user: { text: hi } }", "user must be a text, not a mapping"),
    ("{ user: '' }", "user must be a text, not ''"),
    ("{ user: [] }", "user must hold words, not pauses alone; to say nothing use silence_ms"),
    ("{ user: [{ pause_ms: 5 }] }", "user must hold words, not pauses alone; to say nothing use silence_ms"),
    ("{ user: [hi, { pause: 5 }] }", "unknown key 'pause' in user #2; did you mean 'pause_ms'?"),
    ("{ user: [hi, { pause_ms: 0 }] }", "pause_ms must be from 1 to 60000, not 0"),
    ("{ user: [hi, { pause_ms: long }] }", "pause_ms must be a whole number, not 'long'"),
    ("{ user: [hi, { }] }", "user #2 needs 'pause_ms'"),
    ("{ user: [hi, [ho]] }", "user #2 must be a text, not a list"),
    ("{ user: hi, dtmf: '1' }", "a turn has one of user, dtmf and silence_ms, not user and dtmf"),
    ("{ user: hi, silence_ms: 5 }", "a turn has one of user, dtmf and silence_ms, not user and silence_ms"),
    ("{ dtmf: 12a }", "dtmf must be up to 64 keys of 0123456789*# (quote it: an unquoted # begins a comment)"),
    ("{ dtmf: [1] }", "dtmf must be a text, not a list"),
    ("{ silence_ms: -1 }", "silence_ms must be from 0 to 3600000, not -1"),
    ("{ silence_ms: 1s }", "silence_ms must be a whole number, not '1s'"),
    ("{ audio: hi.wav }", "a turn with audio needs user as well: what the recording says"),
    ("{ audio: hi.wav, dtmf: '1' }", "a turn has audio or dtmf, not both"),
    ("{ audio: hi.wav, user: [hi, { pause_ms: 5 }] }", "a recording has its own pauses: with audio, user is one"),
    ("{ audio: none.wav, user: hi }", "audio: there is no file "),
    ("{ audio: ., user: hi }", "audio: there is no file "),
    ("{ audio: [hi.wav], user: hi }", "audio must be the path of a file, not a list"),
    ("{ audio: ../secret.wav, user: hi }", "is outside of "),
    ("{ audio: link.wav, user: hi }", "is outside of "),
    ("{ audio: /etc/hostname, user: hi }", "is outside of "),
    (f"{{ audio: {'x' * 300}.wav, user: hi }}", "audio: there is no file "),
    ("{ image: [a.jpg] }", "image must be a text, not a list"),
    ("{ user: !include none.yaml }", "none.yaml: can't be read (No such file or directory)"),
    ("{ user: !include ../secret.wav }", "is outside of "),
    ("{ user: !include file.yaml }", "!include goes round in a circle: file.yaml -> file.yaml"),
    ("{ user: hi, send_after: 5 }", "send_after must be a mapping (key: value), not '5'"),
    ("{ user: hi, send_after: { } }", "send_after needs an event, or a delay_ms above 0"),
    ("{ user: hi, send_after: { delay_ms: 0 } }", "send_after needs an event, or a delay_ms above 0"),
    ("{ user: hi, send_after: { delay: 5 } }", "unknown key 'delay' in send_after; did you mean 'delay_ms'?"),
    ("{ user: hi, send_after: { delay_ms: -5 } }", "delay_ms must be from 0 to 3600000, not -5"),
    ("{ user: hi, send_after: { event: llm_start } }", "event: there is no 'llm_start'; did you mean 'llm_started'?"),
    ("{ send_after: { delay_ms: 5 } }", "send_after says when user or dtmf is sent; the turn has neither"),
    ("{ user: hi, send_after: { delay_ms: 5 }, after_silence_ms: 5 }", "starts in one way, not by send_after and"),
    ("{ user: hi, interrupt_after_ms: -5 }", "interrupt_after_ms must be from 0 to 600000, not -5"),
    ("{ user: hi, after_silence_ms: soon }", "after_silence_ms must be a whole number, not 'soon'"),
    ("{ user: hi, agent_speaks_within_ms: 1.5 }", "agent_speaks_within_ms must be a whole number, not '1.5'"),
    ("{ user: hi, agent_stops_within_ms: 5 }", "agent_stops_within_ms belongs to a barge-in: user with"),
    ("{ dtmf: 1, interrupt_after_ms: 5, agent_stops_within_ms: 5 }", "agent_stops_within_ms belongs to a barge-in"),
    ("{ silence_ms: 5, agent_never_talks_over: true }", "belongs to a turn in which the caller speaks (user)"),
    ("{ user: hi, agent_hangs_up: maybe }", "agent_hangs_up must be true or false, not 'maybe'"),
    ("{ user: hi, expect: { event: response } }", "expect must be a list (- …), not a mapping"),
    ("{ user: hi, expect: }", "expect is empty; indent its list below it, or leave it out"),
]
EXPECTATION = [
    ("response", "expect #1 must be a mapping (key: value), not 'response'"),
    ("{ text_contains: a }", "expect #1 needs 'event': what to look for"),
    ("{ event: respons }", "event: there is no 'respons'; did you mean 'response'?"),
    ("{ event: zzz }", "event: there is no 'zzz'; known are: bot_backchannel, "),
    ("{ event: [response] }", "event must be a text, not a list"),
    ("{ event: response, text_contain: a }", "unknown key 'text_contain' in expect #1; did you mean 'text_contains'"),
    ("{ event: response, within: 5 }", "did you mean 'within_ms'?"),
    ("{ event: response, within_ms: -1 }", "within_ms must be from 0 to 3600000, not -1"),
    ("{ event: response, within_ms: '5' }", "within_ms must be a whole number, not '5'"),
    ("{ event: response, text_contains: [a] }", "text_contains must be a text, not a list"),
    ("{ event: response, eval: '' }", "eval must be a text, not ''"),
    ("{ event: response, absent: maybe }", "absent must be true or false, not 'maybe'"),
    ("{ event: response, absent: true, eval: a }", "absent goes by the event alone; it can't be combined with eval"),
    ("{ event: response, absent: true, text_matches: a }", "it can't be combined with text_matches"),
    ("{ event: response, absent: true, check_from: previous }", "it can't be combined with check_from"),
    ("{ event: function_call, absent: true, name: a }", "it can't be combined with name"),
    ("{ event: response, check_from: turnstart }", "check_from: there is no 'turnstart'; did you mean 'turn_start'?"),
    ("{ event: response, marker: short }", "marker belongs to the event llm_marker"),
    ("{ event: response, text_after: true }", "text_after belongs to the event llm_marker"),
    ("{ event: llm_marker, marker: shrt }", "marker: there is no 'shrt'; did you mean 'short'?"),
    ("{ event: llm_marker, markers: true }", "markers must be a whole number, not 'true'"),
    ("{ event: llm_marker, marker_first: 1 }", "marker_first must be true or false, not '1'"),
    ("{ event: function_call_stopped, eval: a }", "put it on function_call"),
    ("{ event: function_call, text_matches: a }", "text_matches belongs to events that carry words"),
    ("{ event: response, text_matches: '(' }", "text_matches is no regular expression: missing ): ("),
    ("{ event: response, text_matches: '(?<=a)b' }", "RE2 syntax: no lookaround, no backreferences"),
    ("{ event: response, text_matches: '(a)\\1' }", "RE2 syntax: no lookaround, no backreferences"),
    ("{ event: response, calls: [a] }", "calls belongs to the events function_call and function_call_stopped"),
    ("{ event: response, args: { a: b } }", "args belongs to the events function_call and function_call_stopped"),
    ("{ event: function_call, calls: a }", "calls must be a list (- …), not 'a'"),
    ("{ event: function_call, calls: [] }", "calls must hold at least one"),
    ("{ event: function_call, calls: [a], args: { } }", "an expectation has calls or args, not both"),
    ("{ event: function_call, calls: [{ nam: a }] }", "unknown key 'nam' in calls #1; did you mean 'name'?"),
    ("{ event: function_call, calls: [[a]] }", "calls #1 must be a text, not a list"),
    ("{ event: function_call, args: a }", "args must be a mapping"),
    ("{ event: function_call, args: { 5: a } }", "args: the key 5 is no text, as those of a call are; quote it"),
    ("{ event: function_call, args: { a: { a: 1, a: 2 } } }", "'a' stands twice in a"),
]


TWO = "- { name: a, turns: [{ user: hi }] }"
MISTAKES = [
    *TOP,
    *((f"name: x\nscenarios:\n\n  {entry}\n", 4, says) for entry, says in SCENARIO),
    *((f"name: x\nturns:\n  - user: hi\n\n  - {turn}\n", 5, says) for turn, says in TURN),
    *((f"name: x\nturns:\n  - user: hi\n    expect:\n      - {wrong}\n", 5, says) for wrong, says in EXPECTATION),
    (f"name: x\nscenarios:\n  {TWO}\n  {TWO}\n", 4, "there are two scenarios called 'x/a'"),
    (f"name: x\nhang_up: later\nscenarios:\n  {TWO}\n", 2, "hang_up must be true or false"),
]


@pytest.mark.parametrize(("text", "line", "says"), MISTAKES)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.wav").write_bytes(b"")
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    soundfile.write(folder / "hi.wav", np.zeros(80, dtype=np.float32), 8_000)
    assert says in refused(lambda: load(folder, text), f"{folder}/file.yaml:{line}: ")


def test_keys_of_simulations_do_not_concern_scripts(tmp_path: Path) -> None:
    script, simulation = load(
        tmp_path,
        "name: x\nmax_turns: 8\nscenarios:\n  - { name: a, turns: [{ user: hi }] }\n"
        "  - { name: b, persona: p, goal: g, success: s }\n",
    )
    assert script.playable()
    assert simulation.script is None
