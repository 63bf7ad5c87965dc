"""What the agent says goes by three names, in the order in which Pipecat Evals knows them."""

from itertools import combinations

import pytest

from bots.caller.script import Expectation, Script, Speak, Turn, Words
from bots.timeline import (
    AgentCalledFunction,
    TimelineEvent,
)
from runner.evaluation.expectations import evaluate
from runner.evaluation.verdicts import Verdict
from tests.evaluation.facts import (
    MET,
    MISSED,
    READY,
    message,
    over,
    s,
    speech,
    taken_up,
    told,
)

# Words are told when they have been spoken: after the last audible sample, with the silence that ends them.
IN_ORDER = ("llm_started", "llm_response", "bot_started_speaking", "tts_response", "bot_stopped_speaking", "response")


BEFORE = [READY, taken_up(10)]
ONE = [message(12, "bot-llm-started"), *speech(12.3, 13), told(13.4)]
TWO = [*speech(13.6, 15), told(15.3, "two"), over(16)]


def verdicts(facts: list[TimelineEvent], *expectations: Expectation | str) -> list[Verdict]:
    expect = tuple(Expectation(event=e) if isinstance(e, str) else e for e in expectations)
    script = Script(name="t", turns=(Turn(action=Speak(parts=(Words(text="x"),)), expect=expect),))
    return [verdict.verdict for verdict in evaluate(script, facts)]


def words(event: str, text: str) -> Expectation:
    return Expectation(event=event, text_contains=text)


@pytest.mark.parametrize("names", [n for size in range(1, 7) for n in combinations(IN_ORDER, size)], ids="+".join)
def test_all_of_a_reply_is_found_in_its_order(names: tuple[str, ...]) -> None:
    facts = [*BEFORE, *ONE, over(14)]
    assert verdicts(facts, *names) == [MET] * len(names)
    with_words = [words(name, "one") if name.endswith("response") else name for name in names]
    assert verdicts(facts, *with_words) == [MET] * len(names)


@pytest.mark.parametrize(
    "names",
    [
        ("tts_response", "llm_response"),
        ("response", "llm_response"),
        ("response", "tts_response"),
        ("bot_started_speaking", "llm_started"),
        ("bot_stopped_speaking", "bot_started_speaking"),
        ("tts_response", "bot_started_speaking"),
        ("response", "bot_started_speaking"),
    ],
    ids="+".join,
)
def test_what_comes_before_is_not_found_after(names: tuple[str, str]) -> None:
    facts = [*BEFORE, *ONE, over(14)]
    assert verdicts(facts, *(words(name, "one") if name.endswith("response") else name for name in names)) == [
        MET,
        MISSED,
    ]


def test_the_same_words_meet_each_name_once() -> None:
    facts = [*BEFORE, *ONE, over(14)]
    for name in ("llm_response", "tts_response", "response"):
        assert verdicts(facts, words(name, "one"), words(name, "one")) == [MET, MISSED]
    everything = ("tts_response", "llm_response", "response")
    back = [Expectation(event=name, text_contains="one", check_from="turn_start") for name in everything]
    assert verdicts(facts, *back) == [MET, MET, MET]


def test_a_reply_of_two_phrases() -> None:
    facts = [*BEFORE, *ONE, *TWO]
    assert verdicts(facts, words("tts_response", "one"), words("tts_response", "two")) == [MET, MET]
    assert verdicts(facts, "bot_stopped_speaking", words("response", "one"), words("response", "two")) == [MET] * 3
    starts = ("bot_started_speaking", "bot_stopped_speaking", "bot_started_speaking", "bot_stopped_speaking")
    assert verdicts(facts, *starts) == [MET] * 4
    assert verdicts(facts, *starts, "bot_started_speaking") == [MET] * 4 + [MISSED]
    assert verdicts(facts, words("response", "two"), "bot_started_speaking") == [MET, MISSED]


def test_a_call_before_the_words_is_not_found_after_them() -> None:
    called = AgentCalledFunction(at_ns=s(12.5), call_id="c", name="book", arguments={})
    facts = [*BEFORE, *ONE, called, over(14)]
    for name in ("llm_response", "tts_response", "response"):
        assert verdicts(facts, words(name, "one"), "function_call") == [MET, MISSED]
