"""Our loader against Pipecat's own: what both load means the same."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger
from pipecat.evals.scenario import (
    EvalExpectation,
    EvalScenarioFile,
    EvalScriptScenario,
    EvalScriptTurn,
    EvalSimulationScenario,
)

from bots.caller.event_names import EVENT_NAMES
from bots.caller.script import (
    BEHAVIOURS,
    AfterAgentTurn,
    AfterEvent,
    Expectation,
    FunctionCall,
    Listen,
    Pause,
    Play,
    PressKeys,
    Speak,
    Turn,
    Words,
)
from runner.errors import UsageError
from runner.scenarios import evals
from runner.scenarios.evals import load_file
from runner.scenarios.markup import unknown_markup
from runner.scenarios.model import Scenario
from runner.scenarios.typed import FileModel
from runner.settings import Settings
from tests.examples import examples
from tests.scenarios.conftest import CORPUS
from tests.scenarios.models import models_of

PIPECAT_FILES = sorted(path.name for path in CORPUS.glob("*.yaml"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Pipecat's warnings about an eval that makes little sense are not of interest."""
    logger.disable("pipecat")
    yield
    logger.enable("pipecat")


def ours(path: Path, root: Path | None = None) -> list[Scenario]:
    return load_file(path, Settings(scenarios_dir=root or path.parent.parent))


def theirs(path: Path) -> list[EvalScriptScenario | EvalSimulationScenario]:
    with warnings.catch_warnings(record=True):
        return EvalScenarioFile.load(path).scenarios


def written(corpus: Path, text: str) -> Path:
    path = corpus / "written.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def assert_same(mine: list[Scenario], pipecat: list[EvalScriptScenario | EvalSimulationScenario]) -> None:
    assert [scenario.name for scenario in mine] == [scenario.name for scenario in pipecat]
    for scenario, other in zip(mine, pipecat, strict=True):
        if isinstance(other, EvalSimulationScenario):
            assert scenario.script is None
            continue
        script = scenario.script
        assert script is not None
        assert script.name == other.name
        assert script.stop_on_failure == other.stop_on_failure
        assert len(script.turns) == len(other.turns)
        for turn, their_turn in zip(script.turns, other.turns, strict=True):
            assert_same_turn(turn, their_turn, speaks=other.bot_audio)


def assert_same_turn(turn: Turn, other: EvalScriptTurn, *, speaks: bool) -> None:
    match turn.action:
        case Speak(parts=parts):
            said = [part.text if isinstance(part, Words) else part.pause_ms for part in parts]
            assert said == (other.parts or [other.user])
            assert turn.action.text == other.user
            assert (other.audio, other.dtmf) == (None, None)
        case Play(path=path, text=text):
            assert (str(path.resolve()), text, other.dtmf) == (other.audio, other.user, None)
        case PressKeys(keys=keys):
            assert (keys, other.user, other.audio) == (other.dtmf, None, None)
        case action:
            assert (other.user, other.audio, other.dtmf) == (None, None, None)
            assert isinstance(action, Listen)
    match turn.start:
        case AfterEvent(event=event, delay_ms=delay_ms):
            assert other.send_after is not None
            assert (event, delay_ms) == (other.send_after.event, other.send_after.delay_ms)
        case start:
            assert other.send_after is None
            assert isinstance(start, AfterAgentTurn)
    assert len(turn.expect) == len(other.expect)
    for expectation, their_expectation in zip(turn.expect, other.expect, strict=True):
        assert_same_expectation(expectation, their_expectation, speaks=speaks)


def assert_same_expectation(expectation: Expectation, other: EvalExpectation, *, speaks: bool) -> None:
    # By text Pipecat takes a response for what the LLM says; here the agent always speaks.
    event = "llm_response" if expectation.event == "response" and not speaks else expectation.event
    assert event == other.event
    assert expectation.criterion == other.eval
    same = ("within_ms", "text_contains", "text_excludes", "check_from", "absent")
    for key in (*same, "marker", "marker_first", "markers", "text_after"):
        assert getattr(expectation, key) == getattr(other, key), key
    calls = [FunctionCall(name=call.name, args=call.args) for call in other.calls or ()]
    # Without a name and arguments any call will do, which is no list of calls here.
    assert list(expectation.calls or ()) == ([] if calls == [FunctionCall()] and not expectation.calls else calls)


@pytest.mark.parametrize("name", PIPECAT_FILES)
def test_a_file_of_pipecat_means_the_same_here_and_can_be_played(corpus: Path, name: str) -> None:
    assert_same(ours(corpus / name), theirs(corpus / name))
    assert all(scenario.playable() == scenario.script for scenario in ours(corpus / name))


def test_the_corpus_holds_every_key_of_the_language() -> None:
    held = {
        following.value
        for path in CORPUS.rglob("*.yaml")
        for following in yaml.scan(path.read_text(encoding="utf-8"))
        if isinstance(following, yaml.ScalarToken)
    }
    assert not set[str]().union(*(model.keys() for model in models_of(FileModel, evals))) - held


def test_pipecat_passes_over_our_own_keys_and_loads_the_rest(corpus: Path) -> None:
    mine, pipecat = ours(corpus / "own" / "keys.yaml", corpus), theirs(corpus / "own" / "keys.yaml")
    assert [scenario.name for scenario in mine] == [scenario.name for scenario in pipecat]
    for scenario, other in zip(mine, pipecat, strict=True):
        assert isinstance(other, EvalScriptScenario)
        for turn, their_turn in zip(scenario.playable().turns, other.turns, strict=True):
            assert getattr(turn.action, "text", None) == their_turn.user
            assert getattr(turn.action, "keys", None) == their_turn.dtmf
            asked = [e.event for e in turn.expect if e.event not in BEHAVIOURS]
            assert [e.replace("response", "llm_response") for e in asked] == [e.event for e in their_turn.expect]


def test_what_a_room_can_t_offer_loads_in_both(corpus: Path) -> None:
    path = corpus / "unplayable" / "kinds.yaml"
    assert_same(ours(path, corpus), theirs(path))


# A grammar of what Pipecat's loader takes.

WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Co", "Cn")), min_size=1, max_size=12).filter(
    # Markup is read aloud there, and refused here.
    lambda text: bool(text.strip()) and unknown_markup(text) is None
)
MILLISECONDS = st.integers(0, 3_600_000)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)
ARGS = st.dictionaries(WORDS, JSON, max_size=3)
CALL = st.fixed_dictionaries({}, optional={"name": WORDS, "args": ARGS})
EVENTS = st.sampled_from(sorted(EVENT_NAMES | {"image"}))


def _expectation(event: str) -> st.SearchStrategy[dict[str, Any]]:
    fixed: dict[str, Any] = {"event": st.just(event)}
    anything: dict[str, Any] = {
        "within_ms": MILLISECONDS,
        "text_contains": WORDS,
        "text_excludes": WORDS,
        "check_from": st.sampled_from(["previous", "turn_start"]),
        "absent": st.just(False),
        "eval": WORDS,
    }
    quiet = st.fixed_dictionaries({**fixed, "absent": st.just(True)}, optional={"within_ms": MILLISECONDS})
    if event == "llm_marker":
        anything |= {
            "marker": st.sampled_from(["complete", "short", "long", "incomplete"]),
            "marker_first": st.booleans(),
            "markers": st.integers(0, 9),
            "text_after": st.booleans(),
        }
    if event == "function_call_stopped":
        del anything["eval"]
    if event in ("function_call", "function_call_stopped"):
        calls = st.lists(CALL | WORDS, min_size=1, max_size=3)
        listed = st.fixed_dictionaries(fixed, optional={**anything, "calls": calls})
        return listed | st.fixed_dictionaries(fixed, optional={**anything, "name": WORDS, "args": ARGS}) | quiet
    return st.fixed_dictionaries(fixed, optional=anything) | quiet


EXPECT = st.lists(EVENTS.flatmap(_expectation), max_size=3)
SEND_AFTER = st.fixed_dictionaries({"event": EVENTS}, optional={"delay_ms": MILLISECONDS}) | st.fixed_dictionaries(
    {"delay_ms": st.integers(1, 3_600_000)}
)
PARTS = st.tuples(
    st.lists(WORDS | st.fixed_dictionaries({"pause_ms": st.integers(1, 60_000)}), max_size=3), WORDS
).map(lambda drawn: [*drawn[0], drawn[1]])
KEYS = st.text("0123456789*#", min_size=1, max_size=64) | st.integers(0, 10**9)
TURN = (
    st.fixed_dictionaries({"user": WORDS | PARTS}, optional={"send_after": SEND_AFTER, "expect": EXPECT})
    | st.fixed_dictionaries({"dtmf": KEYS}, optional={"send_after": SEND_AFTER, "expect": EXPECT})
    | st.fixed_dictionaries({"user": WORDS, "image": st.just("cat.jpg")}, optional={"expect": EXPECT})
    | st.fixed_dictionaries({"user": WORDS, "audio": st.just("hello.wav")}, optional={"send_after": SEND_AFTER})
    | st.fixed_dictionaries({}, optional={"expect": EXPECT})
)
TURNS = st.lists(TURN, min_size=1, max_size=4)
SPEECH = st.just({"modality": "audio", "speech": {"service": "kokoro", "voice": "af_heart"}})
BOT_SPEAKS = st.just({"modality": "audio", "transcription": {"service": "moonshine"}})
SETTINGS = {
    "stop_on_failure": st.booleans(),
    "context": st.lists(st.just({"role": "system", "content": "Be kind."}), max_size=1),
    "trigger_disconnect": st.booleans(),
}
SCENARIO = st.fixed_dictionaries({"name": WORDS}, optional={"turns": TURNS, **SETTINGS})
SIMULATION = st.fixed_dictionaries(
    {"name": WORDS.map(str.strip), "persona": WORDS, "goal": WORDS, "success": WORDS},
    optional={"max_turns": st.integers(1, 9), "runs": st.integers(1, 3)},
)
FILE = st.fixed_dictionaries(
    {
        "name": WORDS,
        "user": SPEECH,
        "judge": BOT_SPEAKS,
        "turns": TURNS,
        "scenarios": st.lists(SCENARIO, min_size=1, max_size=3, unique_by=lambda scenario: scenario["name"]),
    },
    optional=SETTINGS,
)
MIXED = st.fixed_dictionaries(
    {
        "name": WORDS,
        "user": SPEECH,
        "judge": BOT_SPEAKS,
        "max_silence_s": st.integers(1, 9),
        "scenarios": st.tuples(SCENARIO.filter(lambda scenario: "turns" in scenario), SIMULATION).filter(
            lambda drawn: drawn[0]["name"].strip() != drawn[1]["name"]
        ),
    }
).map(lambda file: {**file, "scenarios": list(file["scenarios"])})
SINGLE = st.fixed_dictionaries(
    {"name": WORDS, "user": SPEECH, "judge": BOT_SPEAKS, "turns": TURNS}, optional=SETTINGS
)


def test_a_simulation_s_name_is_trimmed_as_pipecat_trims_it(corpus: Path) -> None:
    simulation = "persona: Jamie, goal: a table, success: booked"
    path = written(corpus, f'name: " diner"\nscenarios:\n- {{ name: "book ", {simulation} }}\n')
    assert_same(ours(path), theirs(path))
    assert [scenario.name for scenario in ours(path)] == ["diner/book"]


@settings(max_examples=examples(200), deadline=None, suppress_health_check=list(HealthCheck))
@given(file=FILE | MIXED | SINGLE, flow=st.sampled_from([None, True, False]), width=st.integers(20, 200))
def test_whatever_pipecat_loads_means_the_same_here(corpus: Path, file: Any, flow: bool | None, width: int) -> None:
    text = yaml.dump(file, Dumper=_Dumper, default_flow_style=flow, width=width, allow_unicode=True, sort_keys=False)
    path = written(corpus, text)
    assert_same(ours(path), theirs(path))


class _Dumper(yaml.SafeDumper):
    # What is drawn twice would become an alias; those are in the corpus.
    def ignore_aliases(self, data: Any) -> bool:
        return True


TURN_OF = "name: x\nturns:\n  - {}\n"
EXPECTING = "name: x\nturns:\n  - user: hi\n    expect: [{{ {} }}]\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\nsurprise: 1\nturns: [{ user: hi }]\n", "unknown key 'surprise'"),
        (TURN_OF.format("{ user: hi, uzer: ho }"), "did you mean 'user'?"),
        (EXPECTING.format("event: respond"), "did you mean 'response'?"),
        (TURN_OF.format("{ user: hi, send_after: { event: bot_left } }"), "there is no 'bot_left'"),
        (TURN_OF.format("{ user: hi, user: ho }"), "'user' stands twice"),
        (EXPECTING.format("event: function_call, args: { a: 1, a: 2 }"), "'a' stands twice"),
        (TURN_OF.format("{ <<: { user: hi }, <<: { user: ho } }"), "'<<' stands twice"),
        ("name: x\nturns: []\n", "at least one"),
        (TURN_OF.format("user: ''"), "must be a text"),
        (EXPECTING.format("event: response, text_contains: ''"), "must be a text"),
        ("name: x\nturns: [{ user: hi }]\ncontext: !include empty.yaml\n", "the file is empty"),
        ("name: x\ngoal: win\nturns: [{ user: hi }]\n", "goal belongs to a simulated scenario"),
        (EXPECTING.format("event: response, calls: [book]"), "calls belongs to the events function_call"),
        (EXPECTING.format("event: function_call, calls: [book], name: book"), "calls or name, not both"),
        (EXPECTING.format("event: function_call, name: book, args: [1]"), "args must be a mapping"),
        (EXPECTING.format("event: function_call, args: { 1: 2 }"), "the key 1 is no text"),
        (EXPECTING.format("event: function_call, args: { a: [{ yes: 2 }] }"), "the key True is no text"),
        (EXPECTING.format("event: function_call, args: { a: !!set { b } }"), "the tag '!!set' is not known"),
        (EXPECTING.format("event: function_call, args: { a: !!binary aGk= }"), "the tag '!!binary' is not known"),
        (EXPECTING.format("event: response, within_ms: soon"), "must be a whole number, not 'soon'"),
        (EXPECTING.format("event: response, within_ms: 2.5"), "must be a whole number"),
        (EXPECTING.format("event: response, within_ms: 3600001"), "from 0 to 3600000"),
        ('name: x\nstop_on_failure: "no"\nturns: [{ user: hi }]\n', "true or false"),
        pytest.param(f"name: x\nturns: [{'{ user: hi },' * 501}]\n", "more than 500 turns", id="turns"),
        (TURN_OF.format(f"user: {'a' * 5_001}"), "longer than 5000 characters"),
        (EXPECTING.format(f"event: response, text_contains: {'a' * 1_001}"), "longer than 1000 characters"),
        (TURN_OF.format(f'dtmf: "{"1" * 65}"'), "up to 64 keys"),
        (TURN_OF.format("dtmf: 1_000"), "up to 64 keys"),
        (TURN_OF.format("dtmf: +5"), "up to 64 keys"),
        ("name: x\nuser: { modality: audio }\nturns: [{ user: hi, audio: none.wav }]\n", "there is no file"),
        ("name: x\nuser: { modality: audio }\nturns: [{ user: hi, audio: ../../x.wav }]\n", "is outside of"),
    ],
)
def test_what_pipecat_takes_and_we_refuse_on_purpose(corpus: Path, text: str, says: str) -> None:
    (corpus / "empty.yaml").write_text("")
    path = written(corpus, text)
    theirs(path)
    with pytest.raises(UsageError, match=r"(written|empty)\.yaml:\d+: ") as caught:
        ours(path)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "name: 5\nturns: [{ user: hi }]\n",
        TURN_OF.format("user: 5"),
        TURN_OF.format("user: 2026-01-31"),
        TURN_OF.format("user: yes"),
        TURN_OF.format("{ user: hi, send_after: }"),
        TURN_OF.format("{ user: hi, audio: hello.wav }"),
        TURN_OF.format("user: [{ pause_ms: 5 }, hi]"),
        EXPECTING.format("event: tts_response"),
        "name: x\njudge: { modality: audio }\nturns: [{ user: hi }]\n",
        "name: x\nuser: { modality: audio }\nturns: [{ user: hi }]\n",
        "name: x\nturns: [{ <<: !include shared/quiet_turn.yaml, user: hi }]\n",
    ],
)
def test_what_pipecat_refuses_and_we_take(corpus: Path, text: str) -> None:
    (corpus / "shared" / "quiet_turn.yaml").write_text("expect: []\n")
    path = written(corpus, text)
    with pytest.raises((ValueError, yaml.YAMLError)):
        theirs(path)
    assert ours(path)


def test_stop_on_failure_without_a_value_is_true_here_alone(corpus: Path) -> None:
    path = written(corpus, "name: x\nstop_on_failure:\nturns: [{ user: hi }]\n")
    (scenario,), (other,) = ours(path), theirs(path)
    assert scenario.playable().stop_on_failure
    assert isinstance(other, EvalScriptScenario)
    assert not other.stop_on_failure


def test_a_date_in_arguments_is_the_text_it_is_written_as(corpus: Path) -> None:
    path = written(corpus, EXPECTING.format("event: function_call, args: { day: 2026-01-31, never: 2026-13-45 }"))
    (scenario,) = ours(path)
    (call,) = scenario.playable().turns[0].expect[0].calls or ()
    assert call.args == {"day": "2026-01-31", "never": "2026-13-45"}


def test_a_pause_alone_is_no_turn_in_either(corpus: Path) -> None:
    path = written(corpus, TURN_OF.format("user: [{ pause_ms: 5 }]"))
    with pytest.raises(ValueError, match="no text"):
        theirs(path)
    with pytest.raises(UsageError, match="words, not pauses alone"):
        ours(path)


def test_pauses_are_what_they_are(corpus: Path) -> None:
    (_, pauses, *_) = ours(corpus / "users.yaml")
    action = pauses.playable().turns[0].action
    assert isinstance(action, Speak)
    assert [part.pause_ms for part in action.parts if isinstance(part, Pause)] == [2000, 1]
