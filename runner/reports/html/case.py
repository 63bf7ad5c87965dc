"""Why a run did not pass, as a page puts it first: one sentence, and what was expected beside what came."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bots.caller.script import FunctionCall, Script
from bots.clock import NS_PER_S
from bots.timeline import (
    AgentAudioLost,
    AgentCalledFunction,
    AgentError,
    AgentProbed,
    AgentProcessEnded,
    AgentSaid,
    AgentSessionEnded,
    CallerHeardAs,
    CallerStartedSpeaking,
    CallerUnderrun,
    HarnessStalled,
    MachineBusy,
    Source,
    TimelineEvent,
)
from runner.calls.run_file import RunReport
from runner.evaluation.dropped import dropped_words
from runner.evaluation.failure import Failure
from runner.evaluation.search import CALLS
from runner.evaluation.verdicts import Evidence, ExpectationVerdict
from runner.evaluation.view import CallView
from runner.evaluation.wording import contains_words
from runner.reports.evidence import event_label, headline_of, process_end
from runner.reports.html.shown import sentence, whole_units, words

LEAD_S = 2.0
"""So much of the call is heard before the failing moment."""

LONGEST_LEAD_S = 12.0
"""It begins with the end of the caller's line, where that is no longer ago."""

BEFORE_LINE_END_S = 1.0
AFTER_S = 4.0
LONGEST_SNIPPET_S = 15.0

_MOST_ERRORS = 3
_HEADLINE_LIMIT = 300
_VALUE_LIMIT = 200
_TOLD = " (told)"
_FIRST_WORDS = 100
"""By so many characters words are found that a failure quotes: it cuts what is long."""

_OF_SPEECH = frozenset({"agent_started_speaking", "agent_stopped_speaking"})
_BESIDE_LINE = _OF_SPEECH | {"agent_left"}
_ONLY_TOLD = "Told, not heard"


@dataclass(frozen=True)
class Piece:
    """A piece of a text; ``mark`` says whether it is what was wanted (``good``) or what came instead (``bad``)."""

    text: str
    mark: str | None = None


@dataclass(frozen=True)
class CaseRow:
    """One line of the evidence.

    Attributes:
        at_s: Where it can be heard; None where it has no place.
        code: Whether it is a function call.
    """

    label: str
    pieces: tuple[Piece, ...]
    at_s: float | None = None
    code: bool = False

    @property
    def text(self) -> str:
        """The text, without marks."""
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True)
class Case:
    """Why a run did not pass.

    Attributes:
        reason: The same without the verdict; empty for a run that passed.
        at_s: The failing moment; None where nothing of the call shows it.
        hear_s: From where on to listen.
        until_s: Until where.
    """

    title: str
    reason: str
    rows: tuple[CaseRow, ...]
    at_s: float | None
    hear_s: float
    until_s: float


def case_of(run: RunReport, view: CallView, script: Script | None) -> Case:
    """Return why a run did not pass."""
    failure = run.failure
    verdict = "Failed" if run.success is False else "Inconclusive"
    if failure is None:
        headline = words(headline_of(None, run.detail, run.ended_reason), _HEADLINE_LIMIT)
        return Case(sentence(f"{verdict}: {headline}"), headline, (), None, 0.0, 0.0)
    wrong = _wrong_call(run, failure, view, script)
    errors = list(_error_rows(failure, view))
    rows = [*wrong.rows(), *errors] if wrong else [*_expected(failure), *errors, *_heard(failure, view)]
    at_s = wrong.came.at_s if wrong else _moment_s(run, failure, view)
    rows += _then_said(failure, view, rows, at_s)
    rows += _evidence_rows(failure, view, rows)
    if wrong is None:
        rows.sort(key=_in_order)
    what = headline_of(failure, run.detail, run.ended_reason)
    if failure.turn is not None:
        what = what.removeprefix(f"turn {failure.turn + 1}: ")
    if wrong and run.success is False and not failure.kind.about.says_why:
        what = wrong.sentence()
    what = words(what, _HEADLINE_LIMIT)
    turn = "" if failure.turn is None else f"turn {failure.turn + 1}: "
    title = whole_units(sentence(f"{verdict} in {turn}{what}" if turn else f"{verdict}: {what}"))
    hear_s = _hear_from(run, failure, at_s)
    until_s = 0.0 if at_s is None else min(at_s + AFTER_S, hear_s + LONGEST_SNIPPET_S)
    return Case(title, f"{turn}{what}", tuple(rows), at_s, hear_s, until_s)


@dataclass(frozen=True)
class _WrongCall:
    """A function that was called with other arguments than were expected."""

    wanted: FunctionCall
    came: AgentCalledFunction
    view: CallView

    @property
    def differing(self) -> dict[str, tuple[Any, Any]]:
        """What was expected and what came, of each argument that differs."""
        actual = self.came.arguments or {}
        wanted = self.wanted.args or {}
        return {key: (value, actual.get(key)) for key, value in wanted.items() if actual.get(key) != value}

    def sentence(self) -> str:
        came = ", ".join(f"{key} = {_value(actual)}" for key, (_, actual) in self.differing.items())
        wanted = ", ".join(_value(value) for value, _ in self.differing.values())
        were = "was" if len(self.differing) == 1 else "were"
        return f"{self.came.name} was called with {came}; {wanted} {were} expected"

    def rows(self) -> Iterator[CaseRow]:
        differing = self.differing
        yield CaseRow("Expected", _call(self.wanted.name, self.wanted.args or {}, differing, "good"), code=True)
        came = _call(self.came.name, self.came.arguments or {}, differing, "bad")
        yield CaseRow("Called", came, self.came.at_s, code=True)
        if len(differing) == 1 and (heard := understood(*next(iter(differing.values())), self.came, self.view)):
            yield heard


def _wrong_call(run: RunReport, failure: Failure, view: CallView, script: Script | None) -> _WrongCall | None:
    """Return the call that has the name that was expected and other arguments; None if there is no such call."""
    missed = _verdict_of(run, failure)
    if script is None or missed is None or missed.event not in CALLS or missed.turn >= len(script.turns):
        return None
    calls = script.turns[missed.turn].expect[missed.index].calls or ()
    at = {evidence.at_s for evidence in missed.evidence}
    for wanted in calls:
        for came in view.of(AgentCalledFunction):
            same_name = came.name is not None and wanted.name == came.name
            if same_name and came.arguments is not None and wanted.args and round(came.at_s, 3) in at:
                found = _WrongCall(wanted, came, view)
                if found.differing:
                    return found
    return None


def understood(wanted: Any, came: Any, call: AgentCalledFunction, view: CallView) -> CaseRow | None:
    """Return what the agent had understood when it got a value wrong; None where that can't be told.

    Of all that it reports to have understood before the call, exactly one sentence must hold one of the two values,
    and none the other: then it is plain where the value came from, or that it was changed afterwards.
    """
    values = [str(value) for value in (wanted, came) if _can_be_said(value)]
    if len(values) != 2:
        return None
    found = [
        (event, value)
        for event in view.of(CallerHeardAs)
        for value in values
        if event.at_ns < call.at_ns and contains_words(event.text, value)
    ]
    if len(found) != 1:
        return None
    event, value = found[0]
    mark = "good" if value == values[0] else "bad"
    line = view.turn_at(event.at_ns)
    spoken = None if line is None else view.line(line)
    return CaseRow(
        "It had understood",
        _marked(f"“{words(event.text.strip())}”", value, mark),
        event.at_s if spoken is None else spoken.at_s,
    )


def _can_be_said(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool) and bool(str(value).strip())


def _marked(text: str, value: str, mark: str) -> tuple[Piece, ...]:
    """Return a text with a value marked, where it is written the same way."""
    before, found, after = text.partition(value)
    whole = found and not (before[-1:].isalnum() or after[:1].isalnum())
    return (Piece(before), Piece(found, mark), Piece(after)) if whole else (Piece(text),)


def _call(name: str | None, args: Mapping[str, Any], differing: Mapping[str, Any], mark: str) -> tuple[Piece, ...]:
    pieces = [Piece(f"{words(name or 'a function', _VALUE_LIMIT)}(")]
    for index, (key, value) in enumerate(args.items()):
        pieces.append(Piece(f"{', ' if index else ''}{words(key, _VALUE_LIMIT)} = "))
        pieces.append(Piece(_value(value), mark if key in differing else None))
    return (*pieces, Piece(")"))


def _value(value: Any) -> str:
    return words(value if isinstance(value, str) else repr(value), _VALUE_LIMIT)


def _verdict_of(run: RunReport, failure: Failure) -> ExpectationVerdict | None:
    """Return the expectation that a failure is about."""
    return next((v for v in run.expectations if (v.turn, v.expected) == (failure.turn, failure.expected)), None)


def _expected(failure: Failure) -> Iterator[CaseRow]:
    if failure.expected is not None:
        yield CaseRow("Expected", (Piece(words(failure.expected)),))


def _heard(failure: Failure, view: CallView) -> Iterator[CaseRow]:
    if failure.heard == "no call":
        yield CaseRow("Called", (Piece("nothing"),))
    elif failure.heard is not None:
        source = Source.TOLD if failure.heard.endswith(_TOLD) else Source.HEARD
        text = failure.heard.removesuffix(_TOLD)
        begin_ns = 0 if failure.turn is None else view.starts.get(failure.turn, 0)
        said = [_begin_s(e) for e in view.said(source) if text.startswith(_flat(e.text)[:_FIRST_WORDS])]
        at_s = min((at_s for at_s in said if at_s * NS_PER_S >= begin_ns), default=None)
        label = source.value.capitalize()
        if source is Source.TOLD and failure.kind.about.unheard:
            label = _ONLY_TOLD
        yield CaseRow(label, (Piece(f"“{words(text)}”"),), at_s)
    elif failure.kind.about.unheard and failure.expected is not None:
        yield CaseRow("Heard", (Piece("nothing"),))


def _flat(text: str) -> str:
    return " ".join(text.split())


def _error_rows(failure: Failure, view: CallView) -> Iterator[CaseRow]:
    """Yield what the agent says went wrong from the failing turn on, also where the verdict does not rest on it."""
    begin_ns = 0 if failure.turn is None else view.starts.get(failure.turn, 0)
    for error in [e for e in view.of(AgentError) if begin_ns <= e.at_ns <= view.end_ns][:_MOST_ERRORS]:
        yield CaseRow("Its error", (Piece(words(error.text), "bad"),), error.at_s)
    for process in view.of(AgentProcessEnded):
        last = process.log_tail.strip().splitlines()[-1:]
        if process.exit_code != 0 and last:
            yield CaseRow("It printed", (Piece(words(last[0]), "bad"),), process.at_s)


def _then_said(failure: Failure, view: CallView, rows: Sequence[CaseRow], at_s: float | None) -> Iterator[CaseRow]:
    """Yield what the agent said next after it called a function with something wrong."""
    if at_s is None or not any(row.label == "Called" for row in rows):
        return
    said = min((e for e in view.said() if _begin_s(e) >= at_s and e.text.strip()), key=_begin_s, default=None)
    if said is not None:
        yield CaseRow("It then said", (Piece(f"“{words(said.text)}”"),), _begin_s(said))


def _in_order(row: CaseRow) -> tuple[bool, float, bool]:
    """Put what was expected first, then what came, as it came."""
    at_s = math.inf if row.at_s is None else row.at_s
    return row.label != "Expected", at_s, row.label in ("Heard", "Told")


def _evidence_rows(failure: Failure, view: CallView, rows: Sequence[CaseRow]) -> Iterator[CaseRow]:
    shown = {round(row.at_s, 3) for row in rows if row.at_s is not None}
    doubted = dropped_words(view)
    quoted = next((row for row in rows if row.label in ("Heard", "Told", _ONLY_TOLD) and row.at_s is not None), None)
    for evidence in failure.evidence:
        fact = _fact(evidence, view)
        at_s = evidence.at_s if fact is None else _begin_s(fact)
        only_told = id(fact) in doubted
        said_above = quoted is not None and evidence.source is not None and _flat(evidence.text or "") in quoted.text
        # Where speech lies beside the caller's line is said of it whatever else is heard from there on.
        shown_above = evidence.event not in _OF_SPEECH and (evidence.at_s in shown or round(at_s, 3) in shown)
        if not only_told and (said_above or shown_above):
            continue
        label = event_label(evidence.event)
        if evidence.source is not None:
            label = _ONLY_TOLD if only_told else evidence.source.value.capitalize()
        if evidence.text:
            text = f"“{words(evidence.text)}”" if evidence.source is not None else words(evidence.text)
        else:
            text = _without_words(evidence, fact, view)
        yield CaseRow(label, (Piece(text, "bad" if only_told else None),), at_s)


def _without_words(evidence: Evidence, fact: TimelineEvent | None, view: CallView) -> str:
    """Return what evidence says that carries no words: of speech, where it lies beside the caller's line."""
    match fact:
        case CallerStartedSpeaking():
            return f"“{words(fact.text)}”"
        case AgentProbed():
            return {True: "takes connections", False: "refuses connections", None: "does not answer"}[fact.answers]
        case AgentProcessEnded():
            return process_end(fact.exit_code)
        case AgentSessionEnded():
            return words(fact.state)
        case HarnessStalled() | AgentAudioLost() | CallerUnderrun():
            return f"{fact.duration_ms:.0f} ms"
        case MachineBusy():
            return f"we waited for a processor for {fact.waited:.0%} of our time"
        case _:
            pass
    at_ns = round(evidence.at_s * NS_PER_S)
    turn = view.turn_at(at_ns)
    line, end = (None, None) if turn is None else (view.line(turn), view.line_end(turn))
    if line is not None and line.at_ns <= at_ns and evidence.event in _BESIDE_LINE:
        if evidence.event == "agent_stopped_speaking":
            return f"{(at_ns - line.at_ns) / NS_PER_S:.2f} s after the caller began"
        if end is None or at_ns < end.at_ns:
            return f"{(at_ns - line.at_ns) / NS_PER_S:.2f} s into the caller's line"
        return f"{(at_ns - end.at_ns) / NS_PER_S:.2f} s after the caller's line"
    return f"{evidence.at_s:.2f} s into the call"


def _fact(evidence: Evidence, view: CallView) -> TimelineEvent | None:
    """Return the fact that a piece of evidence is."""
    return next((e for e in view.facts if e.type == evidence.event and round(e.at_s, 3) == evidence.at_s), None)


def _begin_s(fact: TimelineEvent) -> float:
    """Return when something began: words are known at their end."""
    if isinstance(fact, AgentSaid) and fact.started_ns is not None:
        return fact.started_ns / 1e9
    return fact.at_s


def _moment_s(run: RunReport, failure: Failure, view: CallView) -> float | None:
    """Return the failing moment, in seconds of the call."""
    evidence = list(failure.evidence)
    # Where the caller began the line is evidence as well, and nothing was wrong with it.
    evidence = [e for e in evidence if e.event == failure.kind.about.shows_at] or evidence
    if evidence:
        first = evidence[0]
        fact = _fact(first, view)
        return min(first.at_s if fact is None else _begin_s(fact), run.duration_s)
    turn = next((t for t in run.turns if t.turn == failure.turn), None)
    if turn is not None:
        return turn.started_s if turn.caller_speech_end_s is None else turn.caller_speech_end_s
    return run.duration_s if run.turns else None


def _hear_from(run: RunReport, failure: Failure, at_s: float | None) -> float:
    """Return from where on to listen: the moment with what led to it."""
    if at_s is None:
        return 0.0
    turn = next((t for t in run.turns if t.turn == failure.turn), None)
    from_s = at_s - LEAD_S
    if turn is not None and turn.caller_speech_end_s is not None:
        line_end_s = turn.caller_speech_end_s - BEFORE_LINE_END_S
        from_s = min(from_s, line_end_s) if at_s - line_end_s <= LONGEST_LEAD_S else from_s
    return round(max(from_s, 0.0), 3)
