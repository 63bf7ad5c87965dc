"""One view of a call: its facts in order, and what every question about them starts from, indexed once.

The caller asks it while the call is on, one fact after the other; the final judgement asks it when all is known. The
difference is the agent's speech: live it is what the live hearing made of it, finally what the recording says.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from bots.caller.event_names import names_of, told_speaking
from bots.clock import NS_PER_MS
from bots.timeline import (
    AgentAudioLate,
    AgentJoined,
    AgentSaid,
    AgentSpeechMeasured,
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    AgentTurnEnded,
    BotReady,
    CallEnded,
    CallerPressedKeys,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    CallerTurnStarted,
    MessageReceived,
    RecordingMeasured,
    Source,
    TimelineEvent,
)
from runner.evaluation.ending import Ending, ending_of

JOINED_GAP_NS = 200 * NS_PER_MS
"""Measured speech that goes on after a shorter gap is one stretch, as it is to the live hearing."""

CUT_AT_END_NS = 100 * NS_PER_MS
"""Speech that was measured up to so shortly before the call's end was still under way then."""

TOO_SHORT_NS = 1_000 * NS_PER_MS
"""Speech that began so shortly before the call's end may be too short to be measured: what was heard live counts."""

LIVE_UNCERTAINTY_NS = 120 * NS_PER_MS
"""How far off what was heard live may be."""

LATE_MARGIN_NS = 100 * NS_PER_MS
"""An edge this near to audio that came late is as uncertain as an edge within it."""

SAME_SPEECH_NS = 700 * NS_PER_MS
"""Words whose live onset lies within so much of a measured one were heard in that speech."""

_E = TypeVar("_E")
_Edge = AgentStartedSpeaking | AgentStoppedSpeaking


@dataclass(frozen=True)
class Speech:
    """A stretch of audible agent speech.

    ``stopped`` is None while it lasts. Its edges lie within their uncertainty of those stated; 0: that is not known.
    ``too_loud`` is whether the background was too loud to tell it apart.
    """

    started: AgentStartedSpeaking
    stopped: AgentStoppedSpeaking | None
    onset_uncertainty_ns: int = 0
    end_uncertainty_ns: int = 0
    too_loud: bool = False

    def lasts_at(self, at_ns: int) -> bool:
        """Whether it began before a time and ends after it."""
        return self.started.at_ns < at_ns and (self.stopped is None or self.stopped.at_ns > at_ns)

    def touches(self, from_ns: int, to_ns: int | None) -> bool:
        """Whether some of it lies in a span of time; None: without an end."""
        began_in_time = to_ns is None or self.started.at_ns <= to_ns
        return began_in_time and (self.stopped is None or self.stopped.at_ns >= from_ns)

    def end_or(self, until_ns: int) -> int:
        """Return when it ended, or until when it is known to have lasted."""
        return until_ns if self.stopped is None else self.stopped.at_ns


class CallView:
    """The facts of a call, ordered by time, with indexes that grow as facts are added."""

    def __init__(self, facts: Iterable[TimelineEvent] = ()) -> None:
        self.facts: list[TimelineEvent] = []
        # When each turn was taken up, by its place in the script; and the time of the latest fact.
        self.starts: dict[int, int] = {}
        self.last_ns = 0
        self._by_type: dict[type, list[TimelineEvent]] = defaultdict(list)
        self._by_name: dict[str, list[TimelineEvent]] = defaultdict(list)
        # When the agent said, over RTVI, that it speaks from then on (true), or no more (false).
        self.told_speaking: list[tuple[int, bool]] = []
        self._lines: dict[int, CallerStartedSpeaking] = {}
        self._line_ends: dict[int, CallerStoppedSpeaking] = {}
        self._keys: dict[int, CallerPressedKeys] = {}
        self._speeches: list[Speech] | None = None
        self._measured: list[Speech] | None = None
        self._live: list[Speech] | None = None
        for event in sorted(facts, key=_at_ns):
            self.add(event)

    @classmethod
    def measured(cls, facts: Iterable[TimelineEvent]) -> "CallView":
        """Return the view of a finished call: the agent's speech as it was measured, where it was."""
        given = list(facts)
        if not any(isinstance(e, RecordingMeasured) for e in given):
            return cls(given)
        ended = next((e.at_ns for e in reversed(given) if isinstance(e, CallEnded)), None)
        live = _live_speeches([e for e in given if isinstance(e, _Edge)])
        late = [e for e in given if isinstance(e, AgentAudioLate)]
        speeches = _measured_speeches([e for e in given if isinstance(e, AgentSpeechMeasured)], late, ended)
        speeches += _too_short_to_measure(live, speeches, ended)
        kept = [
            _in_measured_speech(e, speeches)
            for e in given
            if not isinstance(e, AgentStartedSpeaking | AgentStoppedSpeaking)
        ]
        edges = [e for s in speeches for e in (s.started, s.stopped) if e is not None]
        view = cls([*kept, *edges])
        view._measured = speeches
        view._live = live
        return view

    def add(self, event: TimelineEvent) -> None:
        """Take in a fact. Messages that are known by no name are not kept."""
        self.last_ns = max(self.last_ns, event.at_ns)
        names = names_of(event)
        told = told_speaking(event)
        if isinstance(event, MessageReceived) and not names and told is None:
            return
        for index in (self.facts, self._by_type[type(event)], *(self._by_name[name] for name in names)):
            bisect.insort(index, event, key=_at_ns)
        if told is not None:
            bisect.insort(self.told_speaking, (event.at_ns, told), key=lambda e: e[0])
        match event:
            case CallerTurnStarted():
                self.starts[event.turn] = event.at_ns
            case CallerStartedSpeaking():
                self._lines.setdefault(event.turn, event)
            case CallerStoppedSpeaking():
                self._line_ends.setdefault(event.turn, event)
            case CallerPressedKeys():
                self._keys.setdefault(event.turn, event)
            case AgentStartedSpeaking() | AgentStoppedSpeaking():
                self._speeches = None
            case _:
                pass

    def of(self, kind: type[_E]) -> Sequence[_E]:
        return cast(Sequence[_E], self._by_type.get(kind, ()))

    def first(self, kind: type[_E]) -> _E | None:
        found = self.of(kind)
        return found[0] if found else None

    def last(self, kind: type[_E]) -> _E | None:
        found = self.of(kind)
        return found[-1] if found else None

    @property
    def joined(self) -> AgentJoined | None:
        """When the agent was there. Somebody else may have been taken for it before: then the last one is it."""
        return self.last(AgentJoined)

    def named(self, name: str) -> Sequence[TimelineEvent]:
        """Return the facts that are known by a name of Pipecat Evals, ordered."""
        return self._by_name.get(name, ())

    @property
    def speeches(self) -> Sequence[Speech]:
        """The stretches of agent speech, ordered."""
        if self._measured is not None:
            return self._measured
        if self._speeches is None:
            self._speeches = _live_speeches([*self.of(AgentStartedSpeaking), *self.of(AgentStoppedSpeaking)])
        return self._speeches

    @property
    def live_speeches(self) -> Sequence[Speech]:
        """The agent's speech as the live hearing had it."""
        return self.speeches if self._live is None else self._live

    def noticed_live(self, speech: Speech) -> bool:
        """Whether the live hearing had speech at the same time: what only the recording has may be a background."""
        return bool(self.beside(speech, self.live_speeches))

    def is_recorded(self, speech: Speech) -> bool:
        """Whether the recording has speech where the live hearing had some."""
        return bool(self.beside(speech, self.speeches))

    def beside(self, speech: Speech, others: Sequence[Speech]) -> list[Speech]:
        """Return those of other speeches that overlap one."""
        return [s for s in others if s.touches(speech.started.at_ns, speech.end_or(self.end_ns))]

    @property
    def is_measured(self) -> bool:
        """Whether the agent's speech is what was measured from the recording."""
        return self._measured is not None

    @property
    def rtvi(self) -> bool:
        return bool(self.of(BotReady))

    @property
    def ended(self) -> CallEnded | None:
        """The call's end; None while it is on."""
        return self.last(CallEnded)

    @property
    def ending(self) -> Ending | None:
        """How the call ended; None where its facts do not say so."""
        return ending_of(self.facts)

    @property
    def end_ns(self) -> int:
        """When the call ended; where its facts do not say so, the time of the last of them."""
        return self.last_ns if self.ended is None else self.ended.at_ns

    def line(self, turn: int) -> CallerStartedSpeaking | None:
        """Return the beginning of a turn's line; :meth:`line_end` its end, :meth:`keys` what was pressed."""
        return self._lines.get(turn)

    def line_end(self, turn: int) -> CallerStoppedSpeaking | None:
        return self._line_ends.get(turn)

    def keys(self, turn: int) -> CallerPressedKeys | None:
        return self._keys.get(turn)

    def handed_over(self, turn: int) -> CallerStoppedSpeaking | CallerPressedKeys | None:
        """Return the end of a turn's line, or else its keys: from then on it is the agent's turn."""
        return self.line_end(turn) or self.keys(turn)

    def next_start_ns(self, turn: int) -> int | None:
        """Return when the next turn after one was taken up; None if none was."""
        return min((at_ns for index, at_ns in self.starts.items() if index > turn), default=None)

    def turn_at(self, at_ns: int) -> int | None:
        """Return the turn that was taken up last before a time; None before the first."""
        return max((turn for turn, start_ns in self.starts.items() if start_ns <= at_ns), default=None)

    def said(self, source: Source | None = None) -> list[AgentSaid]:
        """Return the agent's words, of one source or of both."""
        return [e for e in self.of(AgentSaid) if source in (None, e.source)]

    def turn_ended_between(self, from_ns: int, to_ns: int) -> bool:
        """Whether the caller took the agent's turn to be over in a span of time, its ends included."""
        return any(from_ns <= e.at_ns <= to_ns for e in self.of(AgentTurnEnded))


def _at_ns(event: TimelineEvent) -> int:
    return event.at_ns


def _live_speeches(edges: Sequence[_Edge]) -> list[Speech]:
    speeches: list[Speech] = []
    for event in sorted(edges, key=_at_ns):
        lasts = bool(speeches) and speeches[-1].stopped is None
        if isinstance(event, AgentStartedSpeaking) and not lasts:
            speeches.append(Speech(event, None))
        elif isinstance(event, AgentStoppedSpeaking) and lasts:
            speeches[-1] = Speech(speeches[-1].started, event)
    return speeches


def _bar_ns(measured_ms: float, edge_ns: int, late: Sequence[AgentAudioLate]) -> int:
    """Return how exact an edge is: as measured, and by how much later than its place it may have been heard."""
    touching = (
        e.late_ms
        for e in late
        if e.at_ns - LATE_MARGIN_NS <= edge_ns <= e.at_ns + e.duration_ms * NS_PER_MS + LATE_MARGIN_NS
    )
    return round((measured_ms + max(touching, default=0.0)) * NS_PER_MS)


def _measured_speeches(
    measured: Sequence[AgentSpeechMeasured], late: Sequence[AgentAudioLate], ended_ns: int | None
) -> list[Speech]:
    ordered = sorted(measured, key=_at_ns)
    groups: list[list[AgentSpeechMeasured]] = []
    for stretch in ordered:
        if groups and stretch.at_ns - groups[-1][-1].end_ns < JOINED_GAP_NS:
            groups[-1].append(stretch)
        else:
            groups.append([stretch])
    speeches: list[Speech] = []
    for group in groups:
        last = max(group, key=lambda stretch: stretch.end_ns)
        end_ns = last.end_ns
        lasts = ended_ns is not None and end_ns >= ended_ns - CUT_AT_END_NS
        speeches.append(
            Speech(
                AgentStartedSpeaking(at_ns=group[0].at_ns),
                None if lasts else AgentStoppedSpeaking(at_ns=end_ns),
                onset_uncertainty_ns=_bar_ns(group[0].onset_uncertainty_ms, group[0].at_ns, late),
                end_uncertainty_ns=_bar_ns(last.end_uncertainty_ms, end_ns, late),
                too_loud=any(stretch.too_loud for stretch in group),
            )
        )
    return speeches


def _too_short_to_measure(live: Sequence[Speech], measured: Sequence[Speech], ended_ns: int | None) -> list[Speech]:
    """Return the live speech that the call's end cut off before there was enough of it to be measured."""
    if ended_ns is None or not live:
        return []
    last = live[-1]
    overlaps = any(s.touches(last.started.at_ns, last.end_or(ended_ns)) for s in measured)
    if overlaps or last.started.at_ns < ended_ns - TOO_SHORT_NS:
        return []
    return [Speech(last.started, last.stopped, LIVE_UNCERTAINTY_NS, LIVE_UNCERTAINTY_NS)]


def _in_measured_speech(event: TimelineEvent, speeches: Sequence[Speech]) -> TimelineEvent:
    """Return heard words with the measured onset of the speech they were heard in, where there is one."""
    if not isinstance(event, AgentSaid) or event.started_ns is None or not speeches:
        return event
    onset_ns = event.started_ns
    nearest = min((s.started.at_ns for s in speeches), key=lambda at_ns: abs(at_ns - onset_ns))
    if nearest == onset_ns or abs(nearest - onset_ns) > SAME_SPEECH_NS:
        return event
    return event.model_copy(update={"started_ns": nearest, "at_ns": max(event.at_ns, nearest)})
