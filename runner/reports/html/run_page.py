"""What is on the page of a run: a pure function of the run and its facts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bots.caller.script import Script
from bots.timeline import (
    AgentAudioQuality,
    AgentProcessEnded,
    CallerAudioQuality,
    EndedReason,
    TimelineEvent,
)
from runner.calls.run_file import RunReport
from runner.comparison.intervals import median
from runner.evaluation.expectations import ABOVE_FAILED
from runner.evaluation.outcome import Status
from runner.evaluation.verdicts import Cause, ExpectationVerdict, Verdict
from runner.evaluation.view import CallView
from runner.reports.evidence import attempt_line
from runner.reports.html.case import Case, case_of
from runner.reports.html.lanes import Band, Lanes, lanes_of, overlaps_of, speech_bands
from runner.reports.html.latency_bars import LatencyBar, bars_note, latency_bars, limits_of
from runner.reports.html.said import TurnRows, turn_rows
from runner.reports.html.shown import clock, lines, percent, seconds, sentence, whole_units, words
from runner.reports.html.waveform import Waveform
from runner.text import count

MAX_CHECKS = 500
_LOG_CHARACTERS = 8_000

_WHOSE = {
    Cause.AGENT: "The agent's fault.",
    Cause.CALLER: "Our caller's fault: the agent isn't judged.",
    Cause.ROOM: "The room's fault: the agent isn't judged.",
    Cause.NETWORK: "The network's fault: the agent isn't judged.",
    Cause.HARNESS: "The test runner's own fault: the agent isn't judged.",
}

ENDED = {
    EndedReason.ROOM_UNREACHABLE: "the room could not be reached",
    EndedReason.AGENT_AT_CAPACITY: "no session was free",
    EndedReason.TOKEN_REFUSED: "the token was refused",
    EndedReason.ICE_FAILED: "no connection came about",
    EndedReason.AGENT_NEVER_JOINED: "the agent never joined",
    EndedReason.AGENT_NEVER_SPOKE: "the agent never spoke",
    EndedReason.AGENT_LEFT: "the agent left",
    EndedReason.AGENT_VANISHED: "the agent vanished",
    EndedReason.AGENT_FROZE: "the agent froze",
    EndedReason.CALLER_HUNG_UP: "the caller hung up",
    EndedReason.MAX_DURATION: "the call reached its limit",
    EndedReason.CANCELLED: "the call was cancelled",
    EndedReason.RUNNER_ERROR: "the runner failed",
}


@dataclass(frozen=True)
class Link:
    """A link; without an address it is text."""

    text: str
    href: str | None = None


@dataclass(frozen=True)
class Sound:
    """The recording of a call.

    Attributes:
        uri: Its audio, as a ``data:`` address.
    """

    uri: str
    length_s: float
    caller: Waveform
    agent: Waveform


@dataclass(frozen=True)
class Surroundings:
    """What lies around a run's page.

    Attributes:
        crumbs: Where the page is: from the top to the run itself.
        missing: What of the run is not there, a sentence each.
    """

    crumbs: tuple[Link, ...] = ()
    files: tuple[Link, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fact:
    """A fact with its name: the main part, and a quieter rest."""

    name: str
    value: str
    note: str = ""
    code: bool = False


@dataclass(frozen=True)
class Check:
    """What became of one expectation.

    Attributes:
        kind: ``pass``, ``fail``, ``unsure`` or ``none``.
        place: Its turn, and what became of it.
        reason: Why it failed, or could not be judged; empty where it passed.
        evidence: What that rests on: words, and where they are heard.
    """

    anchor: str
    kind: str
    place: str
    expected: str
    reason: str
    evidence: list[tuple[str, float]]


@dataclass(frozen=True)
class RunPage:
    """What is on the page of a run."""

    name: str
    verdict: str
    icon: str
    title: str
    sub: str
    case: Case
    length_s: float
    sound: Sound | None
    lanes: Lanes
    facts: list[Fact]
    turns: list[TurnRows]
    checks: list[Check]
    unreached: list[Check]
    bars: list[LatencyBar]
    bar_ticks: list[tuple[float, str]]
    bars_note: str
    warnings: list[str]
    more: list[Fact]
    log_tail: str
    around: Surroundings
    version: str
    began: str
    text: str = field(repr=False)
    spans: list[Band] = field(default_factory=list)

    @property
    def sound_width(self) -> float:
        """How much of the axis the recording takes, in percent."""
        return 100.0 if self.sound is None else percent(self.sound.length_s, self.length_s)

    @property
    def has_limit(self) -> bool:
        """Whether a turn has a limit."""
        return any(bar.limit is not None for bar in self.bars)


def run_page(
    run: RunReport,
    facts: Sequence[TimelineEvent],
    *,
    script: Script | None = None,
    sound: Sound | None = None,
    around: Surroundings | None = None,
) -> RunPage:
    """Return what is on the page of a run."""
    view = CallView.measured(facts)
    case = _passed(run) if run.success else case_of(run, view, script)
    length_s = max(run.duration_s, 0.0 if sound is None else sound.length_s, 0.1)
    overlaps = overlaps_of(view, run.expectations)
    checks, unreached = _checks(run)
    limits = {} if script is None else limits_of(script)
    bars, ticks = latency_bars(run, limits)
    placed = around or Surroundings()
    warnings = [*placed.missing, *run.not_honoured, *run.warnings, *run.notes]
    warnings += [attempt_line(attempt, attempt.folder) for attempt in run.earlier_attempts]
    sub = _sub(run)
    return RunPage(
        name=words(run.scenario, 120),
        verdict={True: "passed", False: "failed", None: "inconclusive"}[run.success],
        icon={True: "pass", False: "fail", None: "unsure"}[run.success],
        title=case.title,
        sub=sub,
        case=case,
        length_s=length_s,
        sound=sound,
        lanes=lanes_of(run, view, overlaps, length_s=length_s, failing_s=case.at_s),
        facts=_facts(run),
        turns=turn_rows(run, view, facts, overlaps),
        checks=checks,
        unreached=unreached,
        bars=bars,
        bar_ticks=ticks,
        bars_note=bars_note(run, limits),
        warnings=[whole_units(words(warning, 500)) for warning in dict.fromkeys(warnings)],
        more=_more(run, view),
        log_tail=next((lines(e.log_tail.strip(), _LOG_CHARACTERS) for e in view.of(AgentProcessEnded)), ""),
        around=placed,
        version=run.versions.get("pipecat-scenario-runner", ""),
        began=started(run.started_at),
        text=_text(run, case, sub),
        spans=[] if sound else speech_bands(view, length_s),
    )


def _passed(run: RunReport) -> Case:
    met = sum(v.verdict is Verdict.MET for v in run.expectations)
    left = len(run.expectations) - met
    title = f"Passed: {met} of {count(len(run.expectations), 'expectation')} met."
    if left == 0:
        title = "Passed." if not met else f"Passed: {'the' if met == 1 else 'all'} {count(met, 'expectation')} met."
    return Case(title, "", (), None, 0.0, 0.0)


def _sub(run: RunReport) -> str:
    whose = "" if run.success else ("No verdict could be reached." if run.cause is None else _WHOSE[run.cause])
    counts: dict[str, int] = dict.fromkeys(("met", "missed", "not judged", "not reached"), 0)
    for verdict in run.expectations:
        counts[_fate(run, verdict)] += 1
    told = [(number, fate) for fate, number in counts.items() if number]
    if run.success and len(told) <= 1:
        return f"{words(run.scenario, 120)}, {_length(run)}."
    parts = [f"{number} {fate}" for number, fate in told]
    if not parts:
        return whose or f"{words(run.scenario, 120)}."
    first = count(told[0][0], "expectation") + f" {told[0][1]}"
    return f"{whose} {', '.join([first, *parts[1:]])}.".strip()


def _fate(run: RunReport, verdict: ExpectationVerdict) -> str:
    """Return what became of an expectation, in words: what was never reached was not missed."""
    if verdict.verdict is Verdict.MET:
        return "met"
    reached = any(turn.turn == verdict.turn for turn in run.turns)
    if run.status is Status.FAILED or not reached or verdict.reason == ABOVE_FAILED:
        return "not reached"
    return "missed" if verdict.verdict is Verdict.MISSED else "not judged"


def _checks(run: RunReport) -> tuple[list[Check], list[Check]]:
    order = {"fail": 0, "unsure": 1, "pass": 2}
    checks: list[Check] = []
    unreached: list[Check] = []
    for verdict in run.expectations[:MAX_CHECKS]:
        fate = _fate(run, verdict)
        check = Check(
            anchor=f"check-{verdict.turn + 1}-{verdict.index + 1}",
            kind={"met": "pass", "missed": "fail", "not judged": "unsure", "not reached": "none"}[fate],
            place=f"Turn {verdict.turn + 1} · {fate}",
            expected=words(verdict.expected, 500),
            reason="" if fate in ("met", "not reached") else words(verdict.reason, 500),
            evidence=[(_evidence(e.text, e.event, e.source), e.at_s) for e in verdict.evidence[:10]],
        )
        (unreached if fate == "not reached" else checks).append(check)
    return sorted(checks, key=lambda check: order[check.kind]), unreached


def _evidence(text: str | None, event: str, source: object) -> str:
    if source is not None:
        return f"{source}: “{words(text or '', 300)}”"
    what = event.replace("_", " ")
    return f"{what} {words(text, 300)}" if text else what


def _facts(run: RunReport) -> list[Fact]:
    measured = [turn for turn in run.turns if turn.response_latency_ms is not None]
    facts: list[Fact] = []
    if measured:
        times = [turn.response_latency_ms for turn in measured if turn.response_latency_ms is not None]
        widest = max((turn.uncertainty_ms or 0.0 for turn in measured), default=0.0)
        sure = f", ± {seconds(widest)}" if widest else ""
        many = "" if len(times) == 1 else f"median of {len(times)}"
        facts.append(Fact("Answers after", seconds(median(times)), f"{many}{sure}".removeprefix(", ")))
    if run.first_response_ms is not None:
        facts.append(Fact("First words", seconds(run.first_response_ms), "after joining"))
    facts.append(Fact("Length", f"{run.duration_s:.1f} s", ENDED[run.ended_reason]))
    facts.append(Fact("Started", started(run.started_at), "UTC"))
    return facts


def _length(run: RunReport) -> str:
    return f"{run.duration_s:.1f} s, {ENDED[run.ended_reason]}"


def started(at: str) -> str:
    """Return a time in ISO 8601 as a person reads it."""
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return words(at, 40)
    return f"{moment.day} {moment:%b %Y, %H:%M:%S}"


def _more(run: RunReport, view: CallView) -> list[Fact]:
    more = [
        Fact("Run", words(run.id, 200), code=True),
        Fact("Scenario", words(run.scenario, 200), code=True),
        Fact("Room", words(run.room, 300), code=True),
        Fact(
            "Ended",
            sentence(
                f"{ENDED[run.ended_reason]}: {words(run.detail, 300)}" if run.detail else ENDED[run.ended_reason]
            ),
        ),
    ]
    for quality in view.of(AgentAudioQuality):
        text = f"{quality.packets:,} packets, {quality.lost:,} lost, jitter {quality.jitter_ms:.1f} ms"
        more.append(Fact("Agent's audio", text))
    for sent in view.of(CallerAudioQuality):
        lost = "" if sent.lost is None else f", {sent.lost:,} lost"
        more.append(Fact("Caller's audio", f"{count(sent.packets, 'packet')}{lost}, {sent.late:,} late"))
    if run.publish_data_message is not None:
        message = run.publish_data_message
        more.append(Fact("Data message", words(repr(message.message), 500), f"sent at {clock(message.sent_at_s)}"))
    if run.judge is not None:
        more.append(Fact("Judge", f"{words(run.judge.model, 100)}, {count(run.judge.questions, 'question')}"))
    more.append(Fact("Versions", ", ".join(f"{words(n, 60)} {words(v, 60)}" for n, v in run.versions.items())))
    return more


def _text(run: RunReport, case: Case, sub: str) -> str:
    rows = [f"{row.label}: {row.text}" + ("" if row.at_s is None else f" [{clock(row.at_s)}]") for row in case.rows]
    return "\n".join([f"{words(run.scenario, 200)}: {case.title}", sub, *rows, f"run {words(run.id, 200)}"])
