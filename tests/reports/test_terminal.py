"""A call on the terminal, line by line."""

import io
from collections.abc import Callable, Sequence

import pytest
from rich.console import Console

from bots.caller.script import Expectation, FunctionCall, Script, Speak, Turn, Words
from bots.clock import NS_PER_S
from bots.timeline import (
    AgentAudioLost,
    AgentCalledFunction,
    AgentError,
    AgentJoined,
    AgentLeft,
    AgentMediaResumed,
    AgentMediaStopped,
    AgentProcessEnded,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    AgentTurnEnded,
    BotReady,
    CallEnded,
    CallerPressedKeys,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerTurnStarted,
    CallerUnderrun,
    CallStarted,
    DataMessagePublished,
    EndedReason,
    HarnessStalled,
    MessageReceived,
    RoomEntered,
    Source,
    TimelineEvent,
)
from runner.calls.repeating import earlier_attempt
from runner.calls.request import Afterwards
from runner.calls.run_file import judge_run
from runner.evaluation.outcome import Failure, FailureKind
from runner.evaluation.verdicts import Cause, Evidence, ExpectationVerdict, Verdict
from runner.reports.terminal import TerminalReport, print_summary
from tests.evaluation.facts import heard, s, told

SCRIPT = Script(
    name="booking",
    turns=(
        Turn(
            action=Speak(parts=(Words(text="A table, please."),)),
            expect=(
                Expectation(event="function_call", calls=(FunctionCall(name="book"),)),
                Expectation(text_contains="how many"),
                Expectation(text_contains="smoking", within_ms=3_000),
            ),
        ),
    ),
)
FACTS: list[TimelineEvent] = [
    CallStarted(
        at_ns=0,
        run_id="20260101-000000-abc",
        scenario="booking",
        room="http://localhost:7860/api/offer",
        wall_time="2026-01-01T00:00:00.000Z",
        monotonic_ns=5,
    ),
    RoomEntered(at_ns=s(0.5)),
    AgentJoined(at_ns=s(0.6), participant="Bot"),
    BotReady(at_ns=s(0.65)),
    DataMessagePublished(at_ns=s(0.7), message={"type": "x"}),
    AgentStartedSpeaking(at_ns=s(1)),
    told(1.1, "Hello."),
    AgentStoppedSpeaking(at_ns=s(1.6)),
    heard(1, 1.6, "hello"),
    AgentTurnEnded(at_ns=s(2)),
    CallerTurnStarted(at_ns=s(2), turn=0),
    CallerStartedSpeaking(at_ns=s(2.1), turn=0, text="A table, please."),
    CallerStoppedSpeaking(at_ns=s(3.25), turn=0),
    AgentCalledFunction(at_ns=s(3.5), call_id="c", name="book", arguments={"people": 2}),
    AgentStartedSpeaking(at_ns=s(4)),
    told(4.2, "For how many?"),
    AgentStoppedSpeaking(at_ns=s(5)),
    heard(4, 5, "for how many"),
    AgentTurnEnded(at_ns=s(6)),
    CallEnded(at_ns=s(7), reason=EndedReason.CALLER_HUNG_UP),
]
LINES = [
    "    0.00 s  call    booking at http://localhost:7860/api/offer",
    "    0.50 s  call    in the room",
    "    0.60 s  agent   joined (Bot)",
    "    0.70 s  call    data message published",
    "    1.10 s  agent   Hello.",
    "    1.60 s  agent   hello (heard)",
    "    2.10 s  caller  A table, please.",
    "    3.50 s  agent   → book(people=2)",
    "    4.20 s  agent   For how many? (750 ms)",
    "    5.00 s  agent   for how many (heard)",
    "    7.00 s  call    caller-hung-up",
]


def printed(show: Callable[[Console], None], *, terminal: bool = False) -> list[str]:
    file = io.StringIO()
    show(Console(file=file, width=60, force_terminal=terminal, color_system=None, legacy_windows=False))
    return file.getvalue().splitlines()


def report(
    facts: Sequence[TimelineEvent] = (),
    verdicts: Sequence[ExpectationVerdict] = (),
    *,
    show_heard: bool = False,
    terminal: bool = False,
) -> list[str]:
    def show(console: Console) -> None:
        with TerminalReport(console, show_heard=show_heard) as shown:
            for fact in facts:
                shown.fact(fact)
            shown.verdicts(verdicts)

    return printed(show, terminal=terminal)


def texts(*facts: TimelineEvent) -> list[str]:
    return [line[20:] for line in report(facts)]


def test_times_never_go_back_what_is_known_late_says_when_it_was() -> None:
    ended = CallerStartedSpeaking(at_ns=5 * NS_PER_S, turn=0, text="Hello?")
    late = HarnessStalled(at_ns=4 * NS_PER_S, duration_ms=310)
    assert report([ended, late]) == [
        "    5.00 s  caller  Hello?",
        "    5.00 s  call    the runner stood still for 310 ms (at 4.00 s)",
    ]


def test_a_call_is_shown_as_who_said_and_did_what_when() -> None:
    assert report(FACTS, show_heard=True) == LINES


def test_what_was_heard_is_left_out_if_the_agent_tells_its_words() -> None:
    assert report(FACTS) == [line for line in LINES if "(heard)" not in line]


def test_what_was_heard_is_shown_where_the_agent_tells_nothing() -> None:
    assert texts(heard(1, 2, "hello")) == ["hello (heard)"]


@pytest.mark.parametrize(
    ("fact", "text"),
    [
        (AgentJoined(at_ns=0), "joined"),
        (AgentLeft(at_ns=0, detail="it closed the connection"), "left: it closed the connection"),
        (AgentMediaStopped(at_ns=0), "nothing arrives from it any more"),
        (AgentMediaResumed(at_ns=0), "is heard again"),
        (CallerPressedKeys(at_ns=0, turn=0, keys="12#"), "[keys] 12#"),
        (CallerUnderrun(at_ns=0, turn=0, duration_ms=39.6), "the caller's audio was 40 ms late"),
        (HarnessStalled(at_ns=0, duration_ms=1003.5), "the runner stood still for 1004 ms"),
        (AgentAudioLost(at_ns=0, duration_ms=60), "60 ms of its audio were lost"),
        (AgentError(at_ns=0, text="'order' [x]"), "reports an error: 'order' [x]"),
        (AgentError(at_ns=0, text="no", fatal=True), "reports a fatal error: no"),
        (AgentProcessEnded(at_ns=0, exit_code=3), "its process ended with exit code 3"),
        (AgentProcessEnded(at_ns=0, exit_code=-9), "its process was ended by SIGKILL"),
        (AgentCalledFunction(at_ns=0, call_id="c"), "→ (unnamed)()"),
        (CallEnded(at_ns=0, reason=EndedReason.ICE_FAILED, detail="no way"), "ice-failed: no way"),
    ],
)
def test_what_else_a_person_wants_to_see(fact: TimelineEvent, text: str) -> None:
    assert texts(fact) == [text]


def test_what_only_a_machine_wants_to_see_is_left_out() -> None:
    assert report([MessageReceived(at_ns=0, message={}), CallerTurnStarted(at_ns=0, turn=0)]) == []


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/]", "[red", "a \\[b]", ":smile:", "x" * 200])
def test_words_are_shown_as_they_were_said_whatever_they_hold(text: str) -> None:
    assert texts(told(0, text)) == [text]
    assert texts(CallerStartedSpeaking(at_ns=0, turn=0, text=text)) == [text]
    assert texts(AgentCalledFunction(at_ns=0, call_id="c", name=text)) == [f"→ {text}()"]
    assert texts(CallEnded(at_ns=0, reason=EndedReason.AGENT_LEFT, detail=text)) == [f"agent-left: {text}"]


def line(start_s: float, end_s: float, turn: int = 0) -> list[TimelineEvent]:
    started = CallerStartedSpeaking(at_ns=s(start_s), turn=turn, text="line")
    return [started, CallerStoppedSpeaking(at_ns=s(end_s), turn=turn)]


def test_a_latency_stands_once_with_the_words_that_follow_it() -> None:
    shown = texts(*line(1, 2), AgentStartedSpeaking(at_ns=s(2.5)), told(2.6, "One."), told(3, "Two."))
    assert shown == ["line", "One. (500 ms)", "Two."]


def test_an_agent_that_speaks_over_the_caller_has_no_latency() -> None:
    started, stopped = line(1, 2)
    onset = AgentStartedSpeaking(at_ns=s(1.5))
    assert texts(started, onset, told(1.6, "One."), stopped, told(2.1, "Two.")) == ["line", "One.", "Two."]


def test_speaking_over_the_next_line_is_no_late_answer() -> None:
    facts = [*line(1, 2), line(5, 6, 1)[0], AgentStartedSpeaking(at_ns=s(5.5)), told(5.6, "One.")]
    assert texts(*facts) == ["line", "line", "One."]


def test_a_latency_never_stands_with_the_words_of_a_later_turn() -> None:
    answer = AgentStartedSpeaking(at_ns=s(2.5))
    shown = texts(*line(1, 2), told(2.4, "One."), answer, *line(5, 6, 1), told(6.4, "Two."))
    assert shown == ["line", "One.", "line", "Two."]


def verdict(state: Verdict, index: int = 0, **fields: str) -> ExpectationVerdict:
    values = {"event": "response", "expected": "response with [x]", "reason": "the agent said [y]"} | fields
    return ExpectationVerdict(turn=0, index=index, verdict=state, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (Verdict.MET, "✓ response with [x]"),
        (Verdict.MISSED, "✗ response with [x]: the agent said [y]"),
        (Verdict.NOT_JUDGED, "? response with [x]: the agent said [y]"),
        (Verdict.NOT_OBSERVABLE, "? response with [x]: the agent said [y]"),
    ],
)
def test_an_expectation_is_shown_with_what_became_of_it(state: Verdict, shown: str) -> None:
    assert [text.strip() for text in report(verdicts=[verdict(state)])] == [shown]


def test_an_expectation_is_shown_once_when_it_is_decided() -> None:
    first = verdict(Verdict.MET)
    shown = report(verdicts=[verdict(Verdict.PENDING), first, first, verdict(Verdict.PENDING, 1)])
    assert [text.strip() for text in shown] == ["✓ response with [x]"]


def test_a_terminal_shows_who_is_speaking() -> None:
    def last(*facts: TimelineEvent) -> str:
        shown = report([AgentJoined(at_ns=0), *facts], terminal=True)
        return next(text for text in reversed(shown) if "caller" in text)

    assert "○ caller   ○ agent" in last()
    assert "○ caller   ● agent" in last(AgentStartedSpeaking(at_ns=0))
    assert "● caller   ○ agent" in last(CallerStartedSpeaking(at_ns=0, turn=0, text="x"))
    assert "○ caller   ○ agent" in last(*line(0, 1), AgentStartedSpeaking(at_ns=1), AgentStoppedSpeaking(at_ns=2))


def summary(facts: Sequence[TimelineEvent], folder: str = "runs/x", warnings: Sequence[str] = ()) -> list[str]:
    run = judge_run(SCRIPT, facts).model_copy(update={"warnings": list(warnings)})
    return printed(lambda console: print_summary(console, run, folder))


def test_a_terminal_shows_what_is_done_and_how_long_it_takes() -> None:
    now_s = 100.0
    console = Console(file=io.StringIO())
    report = TerminalReport(console, turns=7, clock=lambda: now_s)
    seen = [report.status().plain.strip()]
    for fact in (FACTS[0], RoomEntered(at_ns=0), AgentJoined(at_ns=0), CallerTurnStarted(at_ns=0, turn=2)):
        report.fact(fact)
        seen.append(report.status().plain.strip())
    report.fact(FACTS[-1])
    for share in (0.0, 0.25):
        report.afterwards(Afterwards.RECOGNISING, share)
        seen.append(report.status().plain.strip())
        now_s += 5
    assert seen == [
        "preparing what the caller says …",
        "entering the room …",
        "waiting for the agent …",
        "○ caller   ○ agent",
        "○ caller   ○ agent   turn 3 of 7",
        "recognising what the agent said … (Ctrl-C to go without)",
        "recognising what the agent said, about 15 s left … (Ctrl-C to go without)",
    ]
    assert "about 10 s left" in report.status().plain


MISSING = "response containing 'smoking' within 3 s"
FAILURE = Failure(
    kind=FailureKind.LATE,
    cause=Cause.AGENT,
    headline="turn 1 failed: the agent [x] answered 1.2 s too late (limit 3 s)",
    turn=0,
    expected="response containing 'smoking' within 3 s",
    heard="'For how many?'",
    evidence=(Evidence(event="response", at_s=5, text="For how many?", source=Source.HEARD),),
)


def test_the_summary_has_turn_times_misses_and_the_verdict() -> None:
    assert summary(FACTS, warnings=["slow [x]"]) == [
        "",
        f"failed (wrong): turn 1: expected {MISSING}; the agent said nothing within 3 s",
        f"    expected  {MISSING}",
        "    heard     hello for how many",
        "",
        "  turn 1        750 ms   A table, please.",
        f"  ✗ turn 1: {MISSING}: the agent said nothing within 3 s",
        "  ! slow [x]",
        "failed: 2 of 3 expectations met in 7.0 s (caller-hung-up, cause: agent)",
        "  runs/x",
    ]


def test_a_failure_comes_first_with_what_was_expected_and_heard() -> None:
    run = judge_run(SCRIPT, FACTS).model_copy(update={"failure": FAILURE})
    assert printed(lambda console: print_summary(console, run, "runs/x"))[:6] == [
        "",
        "failed (late): turn 1 failed: the agent [x] answered 1.2 s too late (limit 3 s)",
        "    expected  response containing 'smoking' within 3 s",
        "    heard     'For how many?'",
        "    5.00 s: response (heard) 'For how many?'",
        "",
    ]


def test_a_call_that_did_not_happen_lists_no_missed_expectations() -> None:
    failed = CallEnded(at_ns=s(1), reason=EndedReason.ICE_FAILED, detail="no way through")
    assert summary([*FACTS[:2], failed]) == [
        "",
        "inconclusive (cause: network): no way through",
        "",
        "inconclusive: 0 of 3 expectations met in 1.0 s (ice-failed, cause: network)",
        "  runs/x",
    ]


def test_latencies_show_uncertainty_and_count_refused_ones() -> None:
    run = judge_run(SCRIPT, FACTS)
    (turn,) = run.turns
    turns = [
        turn.model_copy(update={"uncertainty_ms": 8.4}),
        turn.model_copy(update={"turn": 1, "response_latency_ms": None, "refused": "the background is too loud"}),
        turn.model_copy(update={"turn": 2, "response_latency_ms": 12_345.0, "uncertainty_ms": 120.0}),
    ]
    shown = printed(lambda console: print_summary(console, run.model_copy(update={"turns": turns}), "runs/x"))
    at = shown.index("  turn 1       750 ± 8 ms   A table, please.")
    assert shown[at : at + 4] == [
        "  turn 1       750 ± 8 ms   A table, please.",
        "  turn 2          refused   A table, please.",
        "  turn 3   12345 ± 120 ms   A table, please.",
        "  1 of 3 latencies refused: the background is too loud",
    ]


def test_a_call_that_was_made_again_is_told_with_why() -> None:
    run = judge_run(SCRIPT, FACTS)
    first = run.model_copy(update={"detail": "the caller's audio [x] was late", "failure": None})
    attempt = earlier_attempt(first, "inconclusive (cause: harness)", folder="runs/[0]")
    run = run.model_copy(update={"earlier_attempts": [attempt]})
    line = "  ! made again, inconclusive (cause: harness): the caller's audio [x] was late [runs/[0]]"
    assert line in printed(lambda console: print_summary(console, run, "runs/x"))


def test_on_a_terminal_no_word_is_broken() -> None:
    run = judge_run(SCRIPT, FACTS).model_copy(update={"failure": FAILURE, "warnings": ["goes on " * 20]})

    def both(console: Console) -> None:
        with TerminalReport(console) as shown:
            shown.fact(told(1, "unbreakable " * 12))
        print_summary(console, run, "runs/x")

    lines = [line.replace("\x1b[?25l", "") for line in printed(both, terminal=True) if "○" not in line]
    assert max(map(len, lines)) <= 60
    words = " ".join(lines).split()
    assert words.count("unbreakable") == 12
    assert set(FAILURE.headline.split()) <= set(words)
    assert [line for line in lines if line.startswith(" " * 20 + "unbreakable")], "below its beginning"


@pytest.mark.parametrize(
    ("after", "took"),
    [
        ([*line(2, 3)], "no answer"),
        ([*line(2, 3), AgentStartedSpeaking(at_ns=s(2.5))], "talked over"),
        ([line(2, 3)[0]], ""),
    ],
)
def test_a_turn_without_a_latency_says_why(after: list[TimelineEvent], took: str) -> None:
    facts = [FACTS[0], CallerTurnStarted(at_ns=s(2), turn=0), *after, FACTS[-1]]
    assert f"  turn 1   {took:>11}   line" in summary(facts)


def test_a_missed_expectation_stands_with_its_evidence() -> None:
    run = judge_run(SCRIPT, FACTS)
    met, *_ = run.expectations
    missed = met.model_copy(update={"verdict": Verdict.MISSED, "expected": "a [x]", "reason": "b"})
    assert missed.evidence
    run = run.model_copy(update={"expectations": [missed]})
    lines = printed(lambda console: print_summary(console, run, "runs/x"))
    at = lines.index("  ✗ turn 1: a [x]: b")
    assert lines[at + 1] == "      3.50 s: the agent called 'book'"


@pytest.mark.parametrize("folder", ["runs/[old]", "runs/[/]", "a" * 200])
def test_the_folder_is_shown_so_that_it_can_be_copied(folder: str) -> None:
    assert summary(FACTS, folder)[-1] == f"  {folder}"
