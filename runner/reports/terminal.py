"""A call on the terminal: who is speaking, lines as they are heard, latencies, expectations as they resolve."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bots.clock import NS_PER_MS
from bots.timeline import (
    AgentAudioLate,
    AgentAudioLost,
    AgentCalledFunction,
    AgentError,
    AgentJoined,
    AgentLeft,
    AgentMediaResumed,
    AgentMediaStopped,
    AgentProcessEnded,
    AgentSaid,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    CallEnded,
    CallerPressedKeys,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerTurnStarted,
    CallerUnderrun,
    CallStarted,
    DataMessagePublished,
    HarnessStalled,
    MachineBusy,
    MediaNotConnected,
    RoomEntered,
    Source,
    TimelineEvent,
)
from runner.calls.request import Afterwards
from runner.calls.run_file import Run
from runner.evaluation.outcome import Status
from runner.evaluation.trouble import media_problem
from runner.evaluation.verdicts import ExpectationVerdict, Verdict
from runner.reports.console import print_line, shown
from runner.reports.evidence import (
    attempt_line,
    evidence_line,
    failure_lines,
    headline_of,
    latency_text,
    process_end,
    refused_line,
    verdict_word,
    verdict_words,
)
from runner.reports.progress import TimeLeft

_MARKS = {
    Verdict.MET: "[green]✓[/]",
    Verdict.MISSED: "[red]✗[/]",
    Verdict.NOT_JUDGED: "[yellow]?[/]",
    Verdict.NOT_OBSERVABLE: "[yellow]?[/]",
    Verdict.PENDING: "…",
}
WORTH_SAYING_S = 0.05
"""A line that comes later than this after what it tells of says so."""

_STYLES = {True: "bold green", False: "bold red", None: "bold yellow"}


class TerminalReport:
    """Shows a call as it goes on; plain lines where the output is no terminal.

    Args:
        turns: How many turns its script has, where that is known.
        show_heard: Show words that were heard too, where the agent also tells them.
    """

    def __init__(
        self,
        console: Console,
        *,
        turns: int | None = None,
        show_heard: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console = console
        self._turns = turns
        self._show_heard = show_heard
        self._clock = clock
        self._doing = "preparing what the caller says"
        self._way_out = ""
        self._turn = 0
        self._left: TimeLeft | None = None
        self._caller_speaking = False
        self._agent_speaking = False
        self._caller_end_ns: int | None = None
        self._latency_ms: float | None = None
        self._tells = False
        self._reported: set[tuple[int, int]] = set()
        self._told_s = 0.0
        self._live = Live(get_renderable=self.status, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        """Begin to show who is speaking, at the bottom of the terminal."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop showing it."""
        if self._live.is_started:
            self._live.stop()

    def fact(self, event: TimelineEvent) -> None:
        """Show a fact, if it is one a person wants to see."""
        match event:
            case CallStarted():
                self._doing = "entering the room"
                self._line(event, "call", f"[bold]{shown(event.scenario)}[/] at {shown(event.room)}")
            case RoomEntered():
                # Empty: it was in the room before us.
                self._doing = "waiting for the agent" if self._doing else ""
                self._line(event, "call", "in the room")
            case AgentJoined():
                self._doing = ""
                name = f" ({shown(event.participant)})" if event.participant else ""
                self._line(event, "agent", f"joined{name}", style="magenta")
            case MediaNotConnected():
                self._line(event, "call", f"[yellow]{media_problem(event)}[/]")
            case DataMessagePublished():
                self._line(event, "call", "data message published")
            case CallerTurnStarted():
                self._turn = event.turn + 1
            case CallerStartedSpeaking():
                self._caller_speaking = True
                self._latency_ms = None
                self._line(event, "caller", shown(event.text), style="cyan")
            case CallerStoppedSpeaking():
                self._caller_speaking = False
                self._caller_end_ns = event.at_ns
            case CallerPressedKeys():
                self._line(event, "caller", f"\\[keys] {event.keys}", style="cyan")
            case CallerUnderrun():
                self._line(event, "call", f"[yellow]the caller's audio was {event.duration_ms:.0f} ms late[/]")
            case HarnessStalled():
                self._line(event, "call", f"[yellow]the runner stood still for {event.duration_ms:.0f} ms[/]")
            case MachineBusy():
                self._line(
                    event, "call", f"[yellow]the machine is too busy: we wait {event.waited:.0%} of the time[/]"
                )
            case AgentAudioLost():
                self._line(event, "agent", f"[yellow]{event.duration_ms:.0f} ms of its audio were lost[/]")
            case AgentAudioLate():
                self._line(event, "agent", f"[yellow]its audio came up to {event.late_ms:.0f} ms late[/]")
            case AgentError():
                fatal = " fatal" if event.fatal else "n"
                self._line(event, "agent", f"[red]reports a{fatal} error: {shown(event.text)}[/]", style="magenta")
            case AgentProcessEnded():
                self._line(event, "agent", f"[red]its process {process_end(event.exit_code)}[/]", style="magenta")
            case AgentStartedSpeaking():
                self._agent_speaking = True
                self._note_latency(event)
            case AgentStoppedSpeaking():
                self._agent_speaking = False
            case AgentSaid():
                self._words(event)
            case AgentCalledFunction():
                arguments = ", ".join(f"{k}={v!r}" for k, v in (event.arguments or {}).items())
                call = f"→ {event.name or '(unnamed)'}({arguments})"
                self._line(event, "agent", shown(call), style="magenta")
            case AgentLeft():
                self._line(event, "agent", f"left: {shown(event.detail or '')}", style="magenta")
            case AgentMediaStopped():
                self._line(event, "agent", "[yellow]nothing arrives from it any more[/]", style="magenta")
            case AgentMediaResumed():
                self._line(event, "agent", "is heard again", style="magenta")
            case CallEnded():
                self._doing = "the call is over"
                detail = f": {shown(event.detail)}" if event.detail else ""
                self._line(event, "call", f"{event.reason.value}{detail}")
            case _:
                pass

    def afterwards(self, step: Afterwards, share: float) -> None:
        """Show what is done now that the call is over, and how long it will take.

        Args:
            share: Which share of it is done, from 0 to 1.
        """
        if share == 0 or self._left is None:
            self._left = TimeLeft(self._clock)
        self._left.done(share)
        self._doing = step.value
        self._way_out = "" if step is Afterwards.MEASURING else " (Ctrl-C to go without)"

    def verdicts(self, verdicts: Sequence[ExpectationVerdict]) -> None:
        """Show expectations that are newly decided."""
        for verdict in verdicts:
            key = (verdict.turn, verdict.index)
            if verdict.verdict is Verdict.PENDING or key in self._reported:
                continue
            self._reported.add(key)
            reason = f": {shown(verdict.reason)}" if verdict.reason and verdict.verdict is not Verdict.MET else ""
            source = f" [dim]({verdict.source.value})[/]" if verdict.source is not None else ""
            print_line(
                self._console,
                f"{'':>18}{_MARKS[verdict.verdict]} ",
                f"{shown(verdict.expected)}{source}{reason}",
            )

    def audio(self, channel: int, at_ns: int, pcm: bytes) -> None:
        """Hear nothing: this report is for the eyes."""

    def _words(self, event: AgentSaid) -> None:
        if event.source is Source.TOLD:
            self._tells = True
        elif self._tells and not self._show_heard:
            return
        latency = "" if self._latency_ms is None else f" [dim]({self._latency_ms:.0f} ms)[/]"
        heard = " [dim](heard)[/]" if event.source is Source.HEARD else ""
        self._latency_ms = None
        self._line(event, "agent", f"{shown(event.text)}{latency}{heard}", style="magenta")

    def _note_latency(self, event: AgentStartedSpeaking) -> None:
        if self._caller_end_ns is not None and not self._caller_speaking:
            self._latency_ms = (event.at_ns - self._caller_end_ns) / NS_PER_MS
        self._caller_end_ns = None

    def _line(self, event: TimelineEvent, who: str, text: str, style: str = "dim") -> None:
        """Print a line. What is known only later is told then, and says when it was: times never go back."""
        self._told_s = max(event.at_s, 0.0 if isinstance(event, CallStarted) else self._told_s)
        if self._told_s - event.at_s >= WORTH_SAYING_S:
            text += f" [dim](at {event.at_s:.2f} s)[/]"
        print_line(self._console, f"[dim]{self._told_s:8.2f} s[/]  [{style}]{who:<6}[/]  ", text)

    def status(self) -> Text:
        """Return the line that says what is going on."""
        if self._doing:
            left = "" if self._left is None else self._left.words()
            return Text(f"{'':>12}{self._doing}{left} …{self._way_out}", style="bold")
        caller = "● caller" if self._caller_speaking else "○ caller"
        agent = "● agent" if self._agent_speaking else "○ agent"
        turn = f"   turn {self._turn}" if self._turn else ""
        of = f" of {self._turns}" if turn and self._turns is not None else ""
        return Text(f"{'':>12}{caller}   {agent}{turn}{of}", style="bold")


def print_summary(console: Console, run: Run, folder: str) -> None:
    """Print what a call came to."""
    console.print()
    if not run.success:
        _print_failure(console, run)
    _print_turns(console, run)
    for verdict in run.expectations:
        # A call that did not take place says nothing about what was expected of it.
        if verdict.verdict is not Verdict.MET and run.status is Status.COMPLETED:
            cause = "" if verdict.cause is None else f" (cause: {verdict.cause})"
            text = f"turn {verdict.turn + 1}: {verdict.expected}: {verdict.reason}{cause}"
            print_line(console, f"  {_MARKS[verdict.verdict]} ", shown(text))
            for evidence in verdict.evidence:
                print_line(console, "      ", f"[dim]{shown(evidence_line(evidence))}[/]")
    for sentence in run.not_honoured:
        print_line(console, "  [yellow]?[/] ", shown(sentence))
    for warning in run.warnings:
        print_line(console, "  [yellow]![/] ", f"[yellow]{shown(warning)}[/]")
    for attempt in run.earlier_attempts:
        print_line(console, "  [yellow]![/] ", f"[yellow]{shown(attempt_line(attempt, attempt.folder))}[/]")
    met = sum(v.verdict is Verdict.MET for v in run.expectations)
    cause = f", cause: {run.cause.value}" if run.cause is not None else ""
    print_line(
        console,
        "",
        f"[{_STYLES[run.success]}]{verdict_word(run.success)}[/]: {met} of {len(run.expectations)} expectations met "
        f"in {run.duration_s:.1f} s ({run.ended_reason.value}{cause})",
    )
    console.print(f"  {shown(folder)}", emoji=False, highlight=False, soft_wrap=True)


def _print_failure(console: Console, run: Run) -> None:
    """Print why a run did not pass: the headline first."""
    failure = run.failure
    headline = headline_of(failure, run.detail, run.ended_reason)
    verdict = verdict_words(run.success, run.cause, failure)
    print_line(
        console,
        "",
        f"[{_STYLES[run.success]}]{verdict}[/]: [bold]{shown(headline)}[/]",
    )
    for line in () if failure is None else failure_lines(failure):
        print_line(console, "    ", shown(line))
    console.print()


def _print_turns(console: Console, run: Run) -> None:
    """Print what each turn took, with how sure that is."""
    took: list[str] = []
    spoken = [turn for turn in run.turns if turn.said is not None]
    for turn in spoken:
        if turn.response_latency_ms is not None:
            took.append(latency_text(turn.response_latency_ms, turn.uncertainty_ms))
        elif turn.refused is not None:
            took.append("refused")
        else:
            no_answer = "talked over" if turn.talked_over else "no answer"
            took.append("" if turn.caller_speech_end_s is None else no_answer)
    width = max([len("talked over"), *map(len, took)])
    for turn, text in zip(spoken, took, strict=True):
        print_line(console, f"  turn {turn.turn + 1:<3} {text:>{width}}   ", shown(_short(turn.said or "")))
    if run.latencies_include_jitter and any(turn.response_latency_ms is not None for turn in run.turns):
        print_line(console, "  ", "(in a Daily room these times include what the network's jitter adds)")
    reasons = [turn.refused for turn in run.turns if turn.refused is not None]
    if (line := refused_line(reasons, sum(turn.response_latency_ms is not None for turn in run.turns))) is not None:
        print_line(console, "  ", shown(line))


def _short(text: str, limit: int = 70) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
