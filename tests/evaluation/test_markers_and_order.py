"""In which order expectations are met and by what, what can't be seen, and what a call then comes to."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipecat.evals.events import EvalEventStream
from pipecat.evals.matcher import ExpectationMatcher
from pipecat.evals.results import EvalTrace
from pipecat.evals.script import EvalExpectation, EvalFunctionCall

from bots.caller.script import (
    AGENT_SPEAKS,
    AfterEvent,
    Expectation,
    FunctionCall,
    Script,
    Turn,
)
from bots.timeline import (
    CallerHeardAs,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    EndedReason,
    MessageReceived,
    TimelineEvent,
)
from runner.evaluation.outcome import decide, judge_expectations
from runner.evaluation.verdicts import Cause, Verdict
from tests.evaluation.facts import (
    MET,
    MISSED,
    NOT_JUDGED,
    NOT_OBSERVABLE,
    PENDING,
    READY,
    SPEAK,
    called,
    ended,
    expect,
    judge,
    message,
    onset,
    over,
    s,
    told,
    verdicts,
)
from tests.evaluation.facts import taken_up as turn
from tests.examples import examples, named

DONE, THINKING, WAITING = "✓", "○", "◐"


def back(event: str = "response", **kwargs: Any) -> Expectation:
    return Expectation(event=event, check_from="turn_start", **kwargs)


def call(name: str | None = None, **args: Any) -> tuple[FunctionCall, ...]:
    return (FunctionCall(name=name, args=args or None),)


def marker(at_s: float, kind: str | None, raw: str, text: str = "") -> TimelineEvent:
    return message(at_s, "bot-llm-marker", kind=kind, raw=raw, text=text, markers=[DONE, THINKING, WAITING])


# Order.

TALK = [
    READY,
    turn(10),
    onset(11),
    told(11.1, "one"),
    CallerHeardAs(at_ns=s(11.5), text="x"),
    called(12),
    told(13, "two"),
    over(15),
]
ORDER = named(
    ("what came before is past", [expect("function_call"), expect(text_contains="one")], [MET, MISSED]),
    ("unless looked for from the start", [expect("function_call"), back(text_contains="one")], [MET, MET]),
    ("what was used is not used again", [expect(text_contains="one"), back(text_contains="one")], [MET, MISSED]),
    (
        "looking back, and on from where it was",
        [expect("function_call"), back(text_contains="one"), expect(text_contains="two")],
        [MET, MET, MET],
    ),
    (
        "looking back does not go back, even a little",
        [expect("function_call"), back(text_contains="one"), expect("user_transcription")],
        [MET, MET, MISSED],
    ),
    (
        "looking back does not give back",
        [expect("function_call"), back(text_contains="one"), expect("function_call")],
        [MET, MET, MISSED],
    ),
    ("what was passed over is still there", [expect(text_contains="two"), back("function_call")], [MET, MET]),
    ("words that were joined are all used", [expect(text_contains="two"), back(text_contains="one")], [MET, MISSED]),
    ("one call", [expect("function_call"), back("function_call")], [MET, MISSED]),
    ("different events", [back("function_call"), back("llm_response")], [MET, MET]),
    ("one response is no three", [expect(), expect(), expect()], [MET, MET, MISSED]),
    ("an onset, and its response", [expect("bot_started_speaking"), expect()], [MET, MET]),
    ("and its words", [expect("bot_started_speaking"), expect(text_contains="one")], [MET, MET]),
)


@pytest.mark.parametrize(("expectations", "expected"), ORDER)
def test_where_an_expectation_looks_from(expectations: list[Expectation], expected: list[Verdict]) -> None:
    assert verdicts(TALK, *expectations) == expected


def test_looking_back_ends_at_the_beginning_of_the_turn() -> None:
    facts = [READY, onset(8), told(9, "one"), turn(10), onset(11), told(11, "two")]
    assert verdicts(facts, back(text_contains="one")) == [MISSED]


def test_one_reply_is_one_response() -> None:
    assert verdicts([turn(10), onset(11), over(13)], expect(), expect()) == [MET, MISSED]
    assert verdicts([READY, turn(10), onset(11), told(11.5, "one"), over(13)], expect(), expect()) == [MET, MISSED]
    assert verdicts([turn(10), onset(11), onset(14)], expect(), expect()) == [MET, MET]


def test_what_is_excluded_is_excluded_from_the_whole_reply() -> None:
    facts = [READY, turn(10), onset(11), told(11, "one"), told(12, "sorry"), over(13), told(15, "two"), over(16)]
    assert verdicts(facts, expect(text_excludes="sorry")) == [MISSED]
    assert verdicts(facts, expect(text_excludes="sorry"), now_s=12.5) == [MISSED]
    assert verdicts(facts, expect(text_excludes="two")) == [MET]
    assert verdicts(facts[:4], expect(text_excludes="sorry"), now_s=11.5) == [PENDING]


@pytest.mark.parametrize("first", [expect("function_call"), expect("user_transcription")])
def test_a_response_after_another_sound_is_a_new_one(first: Expectation) -> None:
    silent = expect(absent=True, within_ms=6_000)
    facts = [READY, turn(10), CallerHeardAs(at_ns=s(10.5), text="x"), called(11)]
    assert verdicts([*facts, onset(12), told(12.1, "one"), over(14)], first, silent) == [MET, MISSED]
    assert verdicts([*facts, onset(17), over(19)], first, silent) == [MET, MET]


def test_a_response_that_goes_on_after_a_call_is_no_new_one() -> None:
    facts = [READY, turn(10), onset(10.5), called(11), told(12, "one"), onset(12.5), over(14)]
    assert verdicts(facts, expect("function_call"), expect(absent=True, within_ms=6_000)) == [MET, MET]
    assert verdicts([*facts, onset(15.5)], expect("function_call"), expect(absent=True, within_ms=6_000)) == [
        MET,
        MISSED,
    ]


def test_words_are_waited_for_as_long_as_the_agent_speaks() -> None:
    """The first words of a call are told when they were spoken: after the onset is known."""
    facts = [READY, turn(10), onset(11)]
    assert verdicts(facts, expect(text_contains="one"), now_s=12) == [PENDING]
    assert verdicts([*facts, told(12.5, "one")], expect(text_contains="one"), now_s=12.6) == [MET]
    assert verdicts([*facts, over(14)], expect(text_contains="one"), now_s=28) == [PENDING]
    assert verdicts([*facts, over(14)], expect(text_contains="one"), now_s=30) == [NOT_OBSERVABLE]
    assert verdicts([*facts, over(14)], expect(text_contains="one")) == [NOT_OBSERVABLE]


# Markers and the words of messages.

MARKERS = named(
    ("complete", marker(11, "complete", f"{DONE} Hello."), {"marker": "complete"}, MET),
    ("short is not complete", marker(11, "short", THINKING), {"marker": "complete"}, MISSED),
    ("short is incomplete", marker(11, "short", THINKING), {"marker": "incomplete"}, MET),
    ("long is incomplete", marker(11, "long", WAITING), {"marker": "incomplete"}, MET),
    ("complete is not", marker(11, "complete", DONE), {"marker": "incomplete"}, MISSED),
    ("long is not short", marker(11, "long", WAITING), {"marker": "short"}, MISSED),
    ("of no known meaning", marker(11, None, "Hello."), {"marker": "complete"}, MISSED),
    ("first, but for blanks", marker(11, "complete", f" {DONE} Hello."), {"marker_first": True}, MET),
    ("not first", marker(11, "complete", f"Hello. {DONE}"), {"marker_first": True}, MISSED),
    ("not first, as it should", marker(11, "complete", f"Hello. {DONE}"), {"marker_first": False}, MET),
    ("first, as it should not", marker(11, "complete", f"{DONE} Hi."), {"marker_first": False}, MISSED),
    ("none is not first", marker(11, None, "Hello."), {"marker_first": True}, MISSED),
    ("none is not first, as it should", marker(11, None, "Hello."), {"marker_first": False}, MET),
    ("three", marker(11, "complete", f"{DONE} a {DONE} b {THINKING}"), {"markers": 3}, MET),
    ("two are not one", marker(11, "complete", f"{DONE} a {DONE} b"), {"markers": 1}, MISSED),
    ("none", marker(11, None, "Hello."), {"markers": 0}, MET),
    ("text after it", marker(11, "complete", f"{DONE} Hello."), {"text_after": True}, MET),
    ("no text after it", marker(11, "short", f"{THINKING} \n"), {"text_after": True}, MISSED),
    ("no text, as it should", marker(11, "short", f"{THINKING} \n"), {"text_after": False}, MET),
    ("text, as it should not", marker(11, "short", f"{THINKING} hm"), {"text_after": False}, MISSED),
    ("no marker to be followed", marker(11, None, "Hello."), {"text_after": True}, MISSED),
    ("no marker to be followed by nothing", marker(11, None, "Hello."), {"text_after": False}, MISSED),
    (
        "all at once",
        marker(11, "short", f"a {THINKING}", THINKING),
        {"marker": "short", "marker_first": False, "markers": 1, "text_after": False, "text_contains": THINKING},
        MET,
    ),
    ("another marker", marker(11, "short", THINKING, THINKING), {"text_contains": DONE}, MISSED),
    ("no data, no check", MessageReceived(at_ns=s(11), message={"type": "bot-llm-marker"}), {}, MET),
    (
        "data of another shape",
        MessageReceived(at_ns=s(11), message={"type": "bot-llm-marker", "data": [1]}),
        {"markers": 1},
        MISSED,
    ),
)


@pytest.mark.parametrize(("fact", "checks", "expected"), MARKERS)
def test_a_marker_is_checked_against_what_the_llm_wrote(
    fact: TimelineEvent, checks: dict[str, Any], expected: Verdict
) -> None:
    (result,) = judge([READY, turn(10), fact], expect("llm_marker", **checks))
    assert result.verdict is expected
    assert bool(result.reason) is (expected is MISSED)


def test_the_first_marker_decides_and_the_next_is_for_the_next() -> None:
    facts = [READY, turn(10), marker(11, "short", THINKING), marker(13, "complete", f"{DONE} Hi.")]
    complete, short = expect("llm_marker", marker="complete"), expect("llm_marker", marker="short")
    assert verdicts(facts, complete) == [MISSED]
    assert verdicts(facts, complete, now_s=11.1) == [MISSED]
    assert verdicts(facts, short, complete) == [MET, MET]
    assert verdicts(facts, short, short) == [MET, MISSED]


def backchannel(at_s: float, text: str, spoken: str | None = None) -> TimelineEvent:
    data: dict[str, Any] = {"output_type": "backchannel", "spoken_status": "completed", "text": text}
    return message(
        at_s, "bot-output", **data, **({"spoken_progress": {"accumulated_text": spoken}} if spoken else {})
    )


def test_a_backchannel_has_words() -> None:
    said = expect("bot_backchannel", text_contains="mm-hmm")
    assert verdicts([READY, turn(10), backchannel(11, "Mm-hmm.")], said) == [MET]
    assert verdicts([READY, turn(10), backchannel(11, "Okay.", "Mm-hmm.")], said) == [MET]
    assert verdicts([READY, turn(10), backchannel(11, "Okay.")], said) == [MISSED]
    heard = message(11, "user-input", input_type="backchannel", text="Right.")
    (result,) = judge([READY, turn(10), heard], expect("user_backchannel", text_contains="right"))
    assert (result.verdict, result.evidence[0].text) == (MET, "Right.")


# What can't be seen.

ON_REQUEST = ["llm_marker", "vad_user_started_speaking", "vad_user_stopped_speaking"]


@pytest.mark.parametrize("event", ON_REQUEST)
def test_what_is_reported_on_request_only_is_given_time_to_show(event: str) -> None:
    facts = [READY, turn(10), onset(11), told(11.1, "one"), over(13)]
    for within_ms, until_s in ((None, 15.0), (2_000, 12.0), (9_000, 15.0)):
        assert verdicts(facts, expect(event, within_ms=within_ms), now_s=until_s) == [PENDING]
        (result,) = judge(facts, expect(event, within_ms=within_ms), now_s=until_s + 0.001)
        assert result.verdict is NOT_OBSERVABLE and "does not report" in result.reason
        assert verdicts(facts, expect(event, within_ms=within_ms)) == [NOT_OBSERVABLE]


@pytest.mark.parametrize("event", ON_REQUEST)
def test_an_agent_that_reported_it_once_is_taken_to_do_so(event: str) -> None:
    once = message(3, {"llm_marker": "bot-llm-marker"}.get(event, event.replace("_", "-")))
    assert verdicts([READY, once, turn(10)], expect(event)) == [MISSED]
    assert verdicts([READY, once, turn(10)], expect(event), now_s=40) == [PENDING]
    assert verdicts([READY, once, turn(10)], expect(event, absent=True, within_ms=500)) == [MET]
    assert verdicts([READY, turn(10)], expect(event, absent=True, within_ms=500)) == [NOT_OBSERVABLE]


def test_calls_without_names_can_only_be_counted() -> None:
    facts = [READY, turn(10), called(11, None)]
    assert verdicts(facts, expect("function_call", calls=call("book"))) == [NOT_OBSERVABLE]
    assert verdicts(facts, expect("function_call", calls=call("book")), now_s=15) == [PENDING]
    assert verdicts(facts, expect("function_call", calls=call("book")), now_s=15.001) == [NOT_OBSERVABLE]
    assert verdicts(facts, expect("function_call", calls=call())) == [MET]
    assert verdicts([*facts, called(12, "cancel")], expect("function_call", calls=call("book"))) == [MISSED]


def test_an_agent_gets_time_to_show_that_it_has_rtvi() -> None:
    facts = [turn(10), onset(11)]
    for event in ("function_call", "llm_response", "user_transcription", "llm_marker"):
        assert verdicts(facts, expect(event), now_s=15) == [PENDING]
        (result,) = judge(facts, expect(event), now_s=15.001)
        assert result.verdict is NOT_OBSERVABLE and "does not speak RTVI" in result.reason


def test_what_can_t_be_judged_does_not_stop_the_rest() -> None:
    facts = [READY, turn(10), onset(11), told(11.1, "one"), over(12), onset(13), told(13.1, "two"), over(14)]
    results = judge(
        facts,
        expect("llm_marker"),
        expect(text_contains="one"),
        expect("function_call", calls=call("book")),
        expect(text_contains="two"),
    )
    assert [r.verdict for r in results] == [NOT_OBSERVABLE, MET, MISSED, MISSED]
    results = judge(facts, expect("llm_marker"), expect(text_contains="one"), expect(criterion="names two"), expect())
    assert [r.verdict for r in results] == [NOT_OBSERVABLE, MET, NOT_JUDGED, MISSED]
    results = judge(facts, expect(criterion="names one", within_ms=1_500), expect(text_contains="two"))
    assert [r.verdict for r in results] == [NOT_JUDGED, MET]


def test_told_words_that_nobody_could_hear_are_no_response() -> None:
    """An agent whose voice is broken still tells over RTVI what it would say."""
    mute = [READY, turn(10), told(11, "A table at seven."), over(13)]
    for expectation in (expect(), expect(text_contains="seven"), expect(text_excludes="eight")):
        (result,) = judge(mute, expectation)
        assert (result.verdict, result.evidence[0].text) == (MISSED, "A table at seven.")
        assert result.reason == "the agent reported text, but no audio arrived"
        assert verdicts(mute, expectation, now_s=20) == [PENDING]
        assert verdicts([*mute, onset(10.9)], expectation) == [MET]
    assert verdicts(mute, expect("llm_response", text_contains="seven"), expect("llm_response")) == [MET, MISSED]
    assert verdicts(mute, expect("tts_response", text_contains="seven")) == [MET]


# What a call comes to.


def come_to(
    script: Script, facts: Sequence[TimelineEvent], *, allow_unjudged: bool = False
) -> tuple[list[Verdict], bool | None, int, str | None]:
    results = judge_expectations(script, facts)
    outcome = decide(script, facts, results, allow_unjudged=allow_unjudged)
    return [r.verdict for r in results], outcome.success, outcome.exit_code, outcome.detail


def waits_for(event: str | None, *later: Turn) -> Script:
    one = Turn(action=SPEAK, expect=(expect(text_contains="one"),))
    two = Turn(action=SPEAK, start=AfterEvent(event=event, delay_ms=100), expect=(expect(), expect("llm_marker")))
    return Script(name="t", turns=(one, two, *later), stop_on_failure=not later)


THREE = Turn(action=SPEAK, expect=(expect(text_contains="three"),))
FIRST = [READY, turn(10), onset(11), told(11.1, "one"), over(13)]


@pytest.mark.parametrize("reason", [EndedReason.CALLER_HUNG_UP, EndedReason.MAX_DURATION])
@pytest.mark.parametrize("event", ON_REQUEST)
@pytest.mark.parametrize("allow_unjudged", [True, False])
def test_a_turn_waiting_for_what_is_never_reported_is_no_failure(
    reason: EndedReason, event: str, allow_unjudged: bool
) -> None:
    states, success, code, detail = come_to(
        waits_for(event), [*FIRST, ended(75, reason)], allow_unjudged=allow_unjudged
    )
    assert states == [MET, NOT_OBSERVABLE, NOT_OBSERVABLE]
    assert (success, code) == (None, 2)
    assert detail is not None and f"turn 2 starts after {event}" in detail


def test_a_turn_that_waits_for_what_never_happened_is() -> None:
    for facts in ([*FIRST, ended(75)], [message(2, "bot-llm-marker"), *FIRST, ended(75)]):
        script = waits_for("function_call" if len(facts) == len(FIRST) + 1 else "llm_marker")
        states, success, code, _ = come_to(script, facts)
        assert (states[1:], success, code) == ([MISSED, MISSED], False, 1)


def test_an_agent_that_left_before_a_turn_is() -> None:
    states, success, _, _ = come_to(waits_for("llm_marker"), [*FIRST, ended(14, EndedReason.AGENT_LEFT)])
    assert (states[1:], success) == ([MISSED, MISSED], False)


def test_something_missed_before_it_counts() -> None:
    facts = [READY, turn(10), onset(11), told(11.1, "two"), over(13), ended(75)]
    states, success, code, _ = come_to(waits_for("llm_marker"), facts, allow_unjudged=True)
    assert (states, success, code) == ([MISSED, NOT_OBSERVABLE, NOT_OBSERVABLE], False, 1)


@pytest.mark.parametrize("reason", [EndedReason.CALLER_HUNG_UP, EndedReason.AGENT_LEFT])
def test_turns_that_were_played_after_it_are_judged_all_the_same(reason: EndedReason) -> None:
    facts = [*FIRST, turn(75, 2), onset(76), told(76.1, "three"), over(78)]
    states, success, code, _ = come_to(waits_for("llm_marker", THREE), [*facts, ended(140, reason)])
    assert (states, success, code) == ([MET, NOT_OBSERVABLE, NOT_OBSERVABLE, MET], None, 2)
    facts[-2] = told(76.1, "four")
    states, success, code, _ = come_to(waits_for("llm_marker", THREE), [*facts, ended(140, reason)])
    assert (states[-1], success, code) == (MISSED, False, 1)


@pytest.mark.parametrize("allow_unjudged", [True, False])
@pytest.mark.parametrize("unseen", [expect("llm_marker"), expect(criterion="is polite")])
def test_an_inconclusive_run_passes_only_if_that_is_allowed(unseen: Expectation, allow_unjudged: bool) -> None:
    script = Script(name="t", turns=(Turn(action=SPEAK, expect=(unseen,)),))
    facts = [*FIRST, ended(20)]
    _, success, code, detail = come_to(script, facts, allow_unjudged=allow_unjudged)
    assert (success, code) == ((True, 0) if allow_unjudged else (None, 2))
    assert detail is not None and detail.startswith("turn 1: ")


EXPECTATIONS = st.lists(
    st.sampled_from(
        [
            expect(),
            expect(text_contains="one"),
            expect(text_contains="four"),
            expect("llm_marker"),
            expect("function_call", calls=call("book", people=2)),
            expect(criterion="is polite"),
            expect(absent=True, within_ms=500),
            expect(AGENT_SPEAKS, within_ms=1_000),
        ]
    ),
    max_size=4,
)
SAMPLE = [READY, onset(11), told(11.1, "one"), over(13), called(12), marker(12, "short", THINKING), onset(14)]


@given(EXPECTATIONS, st.lists(st.sampled_from(SAMPLE)), st.sampled_from(EndedReason), st.booleans())
@settings(max_examples=examples(300), deadline=None)
def test_a_call_in_which_something_was_missed_is_never_a_success(
    expectations: list[Expectation], facts: list[TimelineEvent], reason: EndedReason, allow_unjudged: bool
) -> None:
    script = Script(name="t", turns=(Turn(action=SPEAK, expect=tuple(expectations)),))
    line = [
        CallerStartedSpeaking(at_ns=s(10), turn=0, text="x"),
        CallerStoppedSpeaking(at_ns=s(10.5), turn=0),
    ]
    played = [turn(10), *line, *facts, ended(90, reason)]
    results = judge_expectations(script, played)
    outcome = decide(script, played, results, allow_unjudged=allow_unjudged)
    states = {r.verdict for r in results}
    assert PENDING not in states
    if MISSED in states:
        assert outcome.success is not True
        assert outcome.success is False or outcome.cause is not Cause.AGENT
    if outcome.success is True:
        assert states <= ({MET, NOT_JUDGED, NOT_OBSERVABLE} if allow_unjudged else {MET})
    assert outcome.exit_code == {True: 0, False: 1, None: 2}[outcome.success]


# The same sequences in Pipecat's own matcher.

Event = tuple[str, str]
"""A kind of event, and its words or name."""


def pipecat_event(event: Event) -> dict[str, Any]:
    kind, text = event
    match kind:
        case "function_call":
            return {"type": kind, "name": text, "args": {"people": 2}}
        case "llm_marker":
            raw = {"short": THINKING, "complete": f"{DONE} Hi."}[text]
            return {"type": kind, "text": raw[0], "kind": text, "raw": raw, "markers": [DONE, THINKING]}
        case "user_transcription":
            return {"type": kind, "transcript": text}
        case _:
            return {"type": kind, "text": text}


def our_fact(at_s: float, event: Event) -> TimelineEvent:
    kind, text = event
    match kind:
        case "function_call":
            return called(at_s, text, people=2)
        case "llm_marker":
            data = {k: v for k, v in pipecat_event(event).items() if k != "type"}
            return message(at_s, "bot-llm-marker", **data)
        case "user_transcription":
            return CallerHeardAs(at_ns=s(at_s), text=text)
        case _:
            return told(at_s, text)


def pipecat_expectation(expectation: Expectation) -> EvalExpectation:
    shared = (
        "event",
        "text_contains",
        "text_excludes",
        "marker",
        "marker_first",
        "markers",
        "text_after",
        "check_from",
    )
    calls = expectation.calls
    if calls is None and expectation.event == "function_call":
        calls = (FunctionCall(),)
    return EvalExpectation(
        **{name: getattr(expectation, name) for name in shared},
        calls=None if calls is None else [EvalFunctionCall(name=c.name, args=c.args) for c in calls],
    )


async def first_failure_in_pipecat(
    events: Sequence[Event], expectations: Sequence[Expectation], within_ms: int
) -> int | None:
    """Return which expectation Pipecat's matcher fails at; None if all are met. Everything has arrived already."""
    trace = EvalTrace()
    stream = EvalEventStream(bot_audio=False, trace=trace)
    matcher = ExpectationMatcher(stream=stream, judge=None, trace=trace)
    matcher.reset_turn()
    for event in events:
        await stream.append(pipecat_event(event))
    for index, expectation in enumerate(expectations):
        try:
            failure = await matcher.match(pipecat_expectation(expectation), time.monotonic(), within_ms, 0, index)
        except TimeoutError:
            return index
        if failure is not None:
            return index
    return None


def first_failure_here(events: Sequence[Event], expectations: Sequence[Expectation]) -> int | None:
    facts = [READY, message(2, "bot-llm-marker"), turn(10)]
    facts += [our_fact(11 + index / 10, event) for index, event in enumerate(events)]
    states = verdicts(facts, *expectations)
    return states.index(MISSED) if MISSED in states else None


EVENTS = st.lists(
    st.sampled_from(
        [
            ("llm_response", "one"),
            ("llm_response", "two"),
            ("function_call", "book"),
            ("function_call", "find"),
            ("llm_marker", "short"),
            ("llm_marker", "complete"),
            ("user_transcription", "one"),
        ]
    ),
    max_size=6,
)
ASKED = st.builds(
    lambda expectation, check_from: expectation.model_copy(update={"check_from": check_from}),
    st.sampled_from(
        [
            expect("llm_response"),
            expect("llm_response", text_contains="one"),
            expect("llm_response", text_contains="two"),
            expect("llm_response", text_contains="one two"),
            expect("user_transcription"),
            expect("user_transcription", text_contains="one"),
            expect("function_call"),
            expect("function_call", calls=call("book", people=2)),
            expect("function_call", calls=(*call("find"), *call("book"))),
            expect("function_call", calls=call("book", people=3)),
            expect("llm_marker"),
            expect("llm_marker", marker="complete", marker_first=True),
            expect("llm_marker", marker="incomplete", markers=1, text_after=False),
        ]
    ),
    st.sampled_from(["previous", "turn_start"]),
)


@given(EVENTS, st.lists(ASKED, min_size=1, max_size=4))
@settings(max_examples=examples(250), deadline=None)
def test_pipecat_s_own_matcher_comes_to_the_same(events: list[Event], expectations: list[Expectation]) -> None:
    ours = first_failure_here(events, expectations)
    # Theirs waits for what never comes, by the machine's clock: in a moment in which nothing ran it finds nothing.
    theirs = (asyncio.run(first_failure_in_pipecat(events, expectations, within_ms)) for within_ms in (15, 1_000))
    assert ours in theirs
