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


@pytest.mark.parametrize(
    ("data", "version", "about"),
    [
        ({"version": "2.0.0", "about": {"library": "pipecat"}}, "2.0.0", {"library": "pipecat"}),
        ({"version": "2.0.0"}, "2.0.0", None),
        ({"version": 2, "about": "pipecat"}, None, None),
        ({}, None, None),
        (None, None, None),
        ("ready", None, None),
    ],
)
def test_a_bot_that_is_ready_is_so_whatever_else_it_says(data: Any, version: str | None, about: Any) -> None:
    assert read(rtvi("bot-ready", data)) == [BotReady(at_ns=AT_NS, protocol_version=version, about=about)]


def test_a_transcription_of_the_bot_is_what_it_tells() -> None:
    assert read(rtvi("bot-transcription", {"text": "Hello."})) == [told("Hello.")]


def test_output_is_told_once_it_has_been_spoken() -> None:
    assert read(output("Hello.")) == [told("Hello.")]


@pytest.mark.parametrize(
    "message",
    [
        output("x", spoken_status="in-progress"),
        output("x", spoken_status=None),
        output("x", will_be_spoken=False),
        output("x", will_be_spoken="yes"),
        output(""),
        output(None),
        output(["x"]),
        rtvi("bot-transcription", {"text": ""}),
        rtvi("bot-transcription", {"text": 1}),
        rtvi("bot-transcription"),
    ],
)
def test_what_was_not_spoken_is_no_word_of_the_agent(message: Any) -> None:
    assert read(message) == [kept(message)]


def test_a_bot_that_says_what_was_spoken_is_not_counted_twice() -> None:
    transcription = rtvi("bot-transcription", {"text": "Bye."})
    assert read(output("Hi."), transcription, output("Bye.")) == [told("Hi."), kept(transcription), told("Bye.")]


def test_each_agent_is_read_by_itself() -> None:
    read(output("Hi."))
    assert read(rtvi("bot-transcription", {"text": "Hi."})) == [told("Hi.")]


@pytest.mark.parametrize("kind", ["bot-llm-text", "bot-tts-text", "bot-llm-started", "bot-started-speaking"])
def test_text_on_its_way_to_being_spoken_is_kept_as_it_came(kind: str) -> None:
    message = rtvi(kind, {"text": "Hel"})
    assert read(message) == [kept(message)]


def test_what_the_agent_understood_is_noted_when_it_is_final() -> None:
    interim = rtvi("user-transcription", {"text": "a tab", "final": False, "user_id": "u"})
    final = rtvi("user-transcription", {"text": "a table", "final": True, "user_id": "u"})
    assert read(interim, final) == [kept(interim), CallerHeardAs(at_ns=AT_NS, text="a table")]


@pytest.mark.parametrize("data", [{"text": "a"}, {"text": "a", "final": "true"}, {"final": True}, {"text": 1}])
def test_a_transcription_without_words_or_end_is_none(data: dict[str, Any]) -> None:
    assert read(rtvi("user-transcription", data)) == [kept(rtvi("user-transcription", data))]


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


@pytest.mark.parametrize(
    "message",
    [
        {"type": "bot-ready", "data": {}},
        {"label": "other", "type": "bot-transcription", "data": {"text": "x"}},
        {"label": ["rtvi-ai"], "type": "bot-ready"},
        {"type": "order", "items": [1, None, {"é": "🙂"}]},
        ["rtvi-ai"],
        "bot-ready",
        0,
        None,
    ],
)
def test_a_message_that_is_no_rtvi_is_kept_as_it_came(message: Any) -> None:
    assert read(message) == [kept(message)]


ANY_TEXT = st.text(st.characters(exclude_categories=()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=8,
)
KINDS = [
    "bot-ready",
    "bot-output",
    "bot-transcription",
    "user-transcription",
    "llm-function-call-in-progress",
    "llm-function-call-stopped",
]
KEYS = [
    "about",
    "arguments",
    "cancelled",
    "final",
    "function_name",
    "result",
    "spoken_status",
    "text",
    "tool_call_id",
    "version",
    "will_be_spoken",
]
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


def test_protocol_2_is_not_counted_twice_from_its_first_words() -> None:
    transcription = rtvi("bot-transcription", {"text": "Hi."})
    ready = rtvi("bot-ready", {"version": "2.2.0"})
    assert read(ready, transcription, output("Hi."))[1:] == [kept(transcription), told("Hi.")]


def test_of_protocol_1_the_sentences_count_and_not_the_words() -> None:
    ready = rtvi("bot-ready", {"version": "1.2.0"})
    sentence = rtvi("bot-output", {"text": "Hi there.", "spoken": True, "aggregated_by": "sentence"})
    word = rtvi("bot-output", {"text": "Hi", "spoken": True, "aggregated_by": "word"})
    unspoken = rtvi("bot-output", {"text": "Hi there.", "spoken": False, "aggregated_by": "sentence"})
    assert read(ready, unspoken, word, sentence)[1:] == [kept(unspoken), kept(word), told("Hi there.")]


def test_words_told_in_both_ways_before_ready_count_once() -> None:
    reader = RtviReader()

    def said(kind: str, text: str, **data: object) -> list[str]:
        message = {"label": "rtvi-ai", "type": kind, "data": {"text": text, **data}}
        return [e.text for e in reader.facts(1, message) if isinstance(e, AgentSaid)]

    spoken = {"will_be_spoken": True, "spoken_status": "completed"}
    assert said("bot-transcription", "What can I help you with today?") == ["What can I help you with today?"]
    assert said("bot-output", " \n", **spoken) in ([], [" \n"]), "white space is no word, and no error"
    assert said("bot-output", "day", **spoken) == ["day"], "a part of a word is another one"


def test_the_same_sentence_in_two_pieces_is_still_the_same() -> None:
    reader = RtviReader()

    def said(kind: str, text: str) -> list[str]:
        data = {"text": text, "will_be_spoken": True, "spoken_status": "completed"}
        message = {"label": "rtvi-ai", "type": kind, "data": data}
        return [e.text for e in reader.facts(1, message) if isinstance(e, AgentSaid)]

    assert said("bot-transcription", "Good evening. How can I help?")
    assert said("bot-output", "Good evening.") == said("bot-output", "How can I help?") == []
    assert said("bot-output", "Good evening.") == ["Good evening."], "said again, it is news"
