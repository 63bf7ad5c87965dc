"""What the caller says over RTVI, and the facts it reads from an agent's messages."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots.caller.rtvi import MAX_DEPTH, RtviReader, client_ready, dtmf
from bots.timeline import (
    EVENT_ADAPTER,
    AgentCalledFunction,
    AgentFunctionReturned,
    AgentSaid,
    BotReady,
    CallerHeardAs,
    MessageReceived,
    Source,
    TimelineEvent,
)

AT_NS = 5


def rtvi(kind: Any, data: Any = None) -> dict[str, Any]:
    return {"label": "rtvi-ai", "type": kind, "id": "1", "data": data}


def read(*messages: Any) -> list[TimelineEvent]:
    reader = RtviReader()
    return [event for message in messages for event in reader.facts(AT_NS, message)]


def kept(message: Any) -> MessageReceived:
    return MessageReceived(at_ns=AT_NS, message=message)


def told(text: str) -> AgentSaid:
    return AgentSaid(at_ns=AT_NS, text=text, source=Source.TOLD)


def output(text: Any, **data: Any) -> dict[str, Any]:
    return rtvi("bot-output", {"text": text, "will_be_spoken": True, "spoken_status": "completed"} | data)


def test_the_caller_says_that_it_is_ready() -> None:
    message = client_ready()
    assert (message["label"], message["type"]) == ("rtvi-ai", "client-ready")
    assert message["data"]["version"].startswith("2.")
    assert message["id"] != client_ready()["id"]


def test_keys_are_pressed_one_by_one_in_one_message() -> None:
    message = dtmf("12#")
    assert (message["label"], message["type"]) == ("rtvi-ai", "dtmf")
    assert message["data"] == {"buttons": ["1", "2", "#"]}


def bot_ready(version: str | None, about: Any = None) -> BotReady:
    return BotReady(at_ns=AT_NS, protocol_version=version, about=about)


def heard_as(text: str) -> CallerHeardAs:
    return CallerHeardAs(at_ns=AT_NS, text=text)


def transcription(text: Any) -> dict[str, Any]:
    return rtvi("bot-transcription", {"text": text})


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (
            rtvi("bot-ready", {"version": "2.0.0", "about": {"library": "pipecat"}}),
            bot_ready("2.0.0", {"library": "pipecat"}),
        ),
        (rtvi("bot-ready", {"version": "2.0.0"}), bot_ready("2.0.0")),
        *((rtvi("bot-ready", data), bot_ready(None)) for data in ({"version": 2, "about": "x"}, {}, None, "ready")),
        (transcription("Hello."), told("Hello.")),
        (output("Hello."), told("Hello.")),
        (rtvi("user-transcription", {"text": "a table", "final": True, "user_id": "u"}), heard_as("a table")),
    ],
)
def test_a_message_is_read_whatever_else_is_in_it(message: Any, event: TimelineEvent) -> None:
    assert read(message) == [event]


@pytest.mark.parametrize(
    "message",
    [
        # What was not spoken,
        output("x", spoken_status="in-progress"),
        output("x", spoken_status=None),
        output("x", will_be_spoken=False),
        output("x", will_be_spoken="yes"),
        *(output(nothing) for nothing in ("", None, ["x"])),
        *(transcription(nothing) for nothing in ("", 1)),
        rtvi("bot-transcription"),
        # or is on its way to being spoken,
        *(
            rtvi(f"bot-{kind}", {"text": "Hel"})
            for kind in ("llm-text", "tts-text", "llm-started", "started-speaking")
        ),
        # what the agent has not understood yet,
        rtvi("user-transcription", {"text": "a tab", "final": False, "user_id": "u"}),
        *(
            rtvi("user-transcription", data)
            for data in ({"text": "a"}, {"text": "a", "final": "true"}, {"final": True})
        ),
        # and what is no RTVI.
        {"type": "bot-ready", "data": {}},
        {"label": "other", "type": "bot-transcription", "data": {"text": "x"}},
        {"label": ["rtvi-ai"], "type": "bot-ready"},
        {"type": "order", "items": [1, None, {"é": "🙂"}]},
        *(["rtvi-ai"], "bot-ready", 0, None),
    ],
)
def test_what_says_nothing_of_its_own_is_kept_as_it_came(message: Any) -> None:
    assert read(message) == [kept(message)]


def test_each_agent_is_read_by_itself() -> None:
    read(output("Hi."))
    assert read(transcription("Hi.")) == [told("Hi.")]


def call_of(call_id: str, **data: Any) -> dict[str, Any]:
    return rtvi("llm-function-call-in-progress", {"tool_call_id": call_id} | data)


def return_of(call_id: str, **data: Any) -> dict[str, Any]:
    return rtvi("llm-function-call-stopped", {"tool_call_id": call_id} | data)


def test_a_function_call_has_its_name_arguments_and_result() -> None:
    called, returned = read(
        call_of("c", function_name="book", arguments={"people": 2}),
        return_of("c", function_name="book", result={"ok": True}, cancelled=False),
    )
    assert called == AgentCalledFunction(at_ns=AT_NS, call_id="c", name="book", arguments={"people": 2})
    assert returned == AgentFunctionReturned(at_ns=AT_NS, call_id="c", name="book", result={"ok": True})


def test_an_agent_may_keep_names_and_arguments_to_itself() -> None:
    assert read(call_of("c"), return_of("c")) == [
        AgentCalledFunction(at_ns=AT_NS, call_id="c"),
        AgentFunctionReturned(at_ns=AT_NS, call_id="c"),
    ]


def test_a_return_without_a_name_has_that_of_its_call() -> None:
    *_, second, first = read(
        call_of("1", function_name="look"), call_of("2", function_name="book"), return_of("2"), return_of("1")
    )
    assert isinstance(second, AgentFunctionReturned) and isinstance(first, AgentFunctionReturned)
    assert (second.call_id, second.name, first.call_id, first.name) == ("2", "book", "1", "look")


@pytest.mark.parametrize(("cancelled", "is_cancelled"), [(True, True), (False, False), ("yes", False), (None, False)])
def test_a_call_that_was_cancelled_says_so(cancelled: Any, is_cancelled: bool) -> None:
    (event,) = read(return_of("c", cancelled=cancelled))
    assert isinstance(event, AgentFunctionReturned) and event.cancelled is is_cancelled


@pytest.mark.parametrize("arguments", ["{}", [1], 1, None])
def test_arguments_that_are_no_object_are_not_known(arguments: Any) -> None:
    (event,) = read(call_of("c", function_name="book", arguments=arguments))
    assert isinstance(event, AgentCalledFunction) and (event.name, event.arguments) == ("book", None)


ANY_TEXT = st.text(st.characters(exclude_categories=()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=8,
)
CALLS = ("llm-function-call-in-progress", "llm-function-call-stopped")
KINDS = ["bot-ready", "bot-output", "bot-transcription", "user-transcription", *CALLS]
OF_CALLS = ("arguments", "cancelled", "function_name", "result", "tool_call_id")
KEYS = ["about", "final", "spoken_status", "text", "version", "will_be_spoken", *OF_CALLS]
ALMOST_RTVI = st.builds(
    rtvi,
    st.sampled_from(KINDS) | JSON,
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from([True, "completed"]) | JSON) | JSON,
)


@given(st.lists(JSON | ALMOST_RTVI, min_size=1, max_size=4))
def test_whatever_an_agent_sends_is_one_fact_to_write_and_read(messages: list[Any]) -> None:
    events = read(*messages)
    assert len(events) == len(messages)
    for event in events:
        assert event.at_ns == AT_NS
        assert type(EVENT_ADAPTER.validate_json(EVENT_ADAPTER.dump_json(event))) is type(event)


def test_half_a_character_does_not_cost_the_words_around_it() -> None:
    message = json.loads('{"label": "rtvi-ai", "type": "bot-transcription", "data": {"text": "Hi \\ud83d there"}}')
    assert read(message) == [told("Hi \ufffd there")]


def test_a_message_nested_too_deep_is_kept_as_far_as_possible() -> None:
    deep = json.loads("[" * 900 + "]" * 900)
    (event,) = read(deep)
    assert EVENT_ADAPTER.validate_json(EVENT_ADAPTER.dump_json(event)) == event
    assert EVENT_ADAPTER.dump_json(event).count(b"[") == MAX_DEPTH


READY_2, READY_1 = rtvi("bot-ready", {"version": "2.2.0"}), rtvi("bot-ready", {"version": "1.2.0"})
QUESTION, GREETING = "What can I help you with today?", "Good evening. How can I help?"


def protocol_1(text: str, by: str, spoken: bool = True) -> dict[str, Any]:
    return rtvi("bot-output", {"text": text, "spoken": spoken, "aggregated_by": by})


@pytest.mark.parametrize(
    ("messages", "counted"),
    [
        pytest.param([output("Hi."), transcription("Bye."), output("Bye.")], ["Hi.", "Bye."], id="what was spoken"),
        pytest.param([READY_2, transcription("Hi."), output("Hi.")], ["Hi."], id="of protocol 2 the later"),
        pytest.param(
            [
                READY_1,
                protocol_1("Hi there.", "sentence", False),
                protocol_1("Hi", "word"),
                protocol_1("Hi.", "sentence"),
            ],
            ["Hi."],
            id="of protocol 1 the sentences",
        ),
        pytest.param([transcription(QUESTION), output("day")], [QUESTION, "day"], id="a part of a word is another"),
        pytest.param(
            [transcription(GREETING), output("Good evening."), output("How can I help?"), output("Good evening.")],
            [GREETING, "Good evening."],
            id="in two pieces once, and said again it is news",
        ),
    ],
)
def test_words_that_are_told_in_two_ways_count_once(messages: list[Any], counted: list[str]) -> None:
    events = read(*messages)
    assert [event.text for event in events if isinstance(event, AgentSaid)] == counted
    assert len(events) == len(messages)


def test_white_space_is_no_word_and_no_error() -> None:
    assert len(read(transcription(QUESTION), output(" \n"))) == 2
