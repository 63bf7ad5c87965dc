"""How well edges of the agent's speech are measured: against calls built at known sample positions.

    python -m benchmarks.timing

The final measure and the live hearing stand beside two public detectors, over the same calls: Silero's model with its
usual thresholds, and a fixed energy threshold. No voice, sentence or seed of these calls was used while developing.

An onset is the first of what is measured after the caller's line, an end the last of what is measured before its next
one: what is heard where nothing was said counts against a detector. Gross is lost, or off by more than 500 ms.
"""

import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shutil import which
from typing import cast

import numpy as np
import soxr
from numpy.typing import NDArray

from benchmarks.common import Claim, median, parser, percentile, report
from benchmarks.timing_corpus import (
    RATE_HZ,
    BuiltCall,
    Row,
    Samples,
    build_call,
    natural_voices,
    synthetic_voices,
)
from bots.caller.hearing import Heard, Hearing
from bots.caller.speech.silero import RATE_HZ as MODEL_RATE_HZ
from bots.caller.speech.silero import WINDOW, speech_probabilities
from bots.clock import NS_PER_S, samples_to_ns
from runner.evaluation.measure import measure_agent

GROSS_MS = 500.0
SEED = 95_000
LIVE_PIECE = MODEL_RATE_HZ // 50
COVERED = 0.95
TURN_END_MS = 1_300.0
END_OF_TURN_AFTER_NOTICE_MS = 800.0
"""The caller takes a turn to be over this long after it notices the end (``end_of_turn_ms`` of 1000)."""

BEDS = {
    "white": (-38, -35, -30),
    "office": (-38, -35, -30),
    "keyboard": (-38, -30),
    "hold_music": (-38, -30),
    "city": (-38, -30),
    "crowd": (-38, -35, -30),
    "babble": (-40, -35),
}
QUIET_BEDS = ("white", "office", "keyboard", "hold_music", "city")

ROWS = (
    Row("clean"),
    Row("Opus 24 kbit/s", codec="opus"),
    Row("mu-law", codec="mulaw"),
    Row("loss 5 %", loss=0.05),
    Row("quiet, -38 dBFS", level_dbfs=-38),
    Row("noise -60 dBFS", bed="white", bed_dbfs=-60),
    Row("noise -50 dBFS", bed="white", bed_dbfs=-50),
    *(Row(f"{bed} {dbfs}", bed=bed, bed_dbfs=dbfs) for bed, levels in BEDS.items() for dbfs in levels),
    Row("natural, clean", natural=True),
    Row("natural, office -38", natural=True, bed="office"),
    Row("natural, crowd -38", natural=True, bed="crowd"),
)


@dataclass(frozen=True)
class Span:
    """A speech as a detector has it, in seconds; with the errors it admits to, where it does."""

    start_s: float
    end_s: float
    start_within_ms: float = 0.0
    end_within_ms: float = 0.0
    too_loud: bool = False
    end_noticed_s: float = 0.0


@dataclass(frozen=True)
class Detected:
    """What a detector makes of a call, and whether it says that the background is too loud to tell."""

    spans: list[Span]
    too_loud: bool = False


@dataclass
class Errors:
    """What a detector got wrong in a row."""

    onsets_ms: list[float] = field(default_factory=list)
    ends_ms: list[float] = field(default_factory=list)
    answers: int = 0
    lost: int = 0
    gross: int = 0
    unflagged: int = 0
    stated: int = 0
    covered: int = 0
    uncertainties_ms: list[float] = field(default_factory=list)
    turn_ends_ms: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    audio_s: float = 0.0

    def add(self, call: BuiltCall, detected: Detected) -> None:
        """Hold what was detected in a call against the truth."""
        spans = detected.spans
        self.audio_s += call.agent.size / RATE_HZ
        for answer in call.answers:
            self.answers += 1
            after_s, before_s = answer.after / RATE_HZ, answer.before / RATE_HZ
            mine = [span for span in spans if span.end_s > after_s and span.start_s < before_s]
            if not mine:
                self.lost += 1
                self.gross += 2
                self.unflagged += 0 if detected.too_loud else 2
                continue
            first, last = min(mine, key=lambda span: span.start_s), max(mine, key=lambda span: span.end_s)
            onset_ms = (first.start_s - answer.onset / RATE_HZ) * 1000
            end_ms = (last.end_s - answer.end / RATE_HZ) * 1000
            self.onsets_ms.append(onset_ms)
            self.ends_ms.append(end_ms)
            self.uncertainties_ms.append(first.start_within_ms)
            self.turn_ends_ms.append((last.end_noticed_s - answer.end / RATE_HZ) * 1000 + END_OF_TURN_AFTER_NOTICE_MS)
            too_loud = first.too_loud or last.too_loud
            for error_ms, within_ms in ((onset_ms, first.start_within_ms), (end_ms, last.end_within_ms)):
                if not too_loud:
                    self.stated += 1
                    self.covered += abs(error_ms) <= within_ms
                if abs(error_ms) > GROSS_MS:
                    self.gross += 1
                    self.unflagged += not too_loud and abs(error_ms) > within_ms

    @property
    def gross_share(self) -> float:
        """The part of the edges that is lost or far off."""
        return self.gross / (2 * self.answers)

    @property
    def unflagged_share(self) -> float:
        """The part of the edges that is lost or far off, and nothing says so."""
        return self.unflagged / (2 * self.answers)

    @property
    def coverage(self) -> float:
        """The part of the edges that lies within its uncertainty; what is flagged as too loud to tell has none."""
        return self.covered / self.stated if self.stated else 1.0

    def onset_p95_ms(self) -> float:
        """Return the 95th percentile of the onsets' absolute errors."""
        return percentile([abs(ms) for ms in self.onsets_ms], 95)

    def end_p95_ms(self) -> float:
        """Return the 95th percentile of the ends' absolute errors."""
        return percentile([abs(ms) for ms in self.ends_ms], 95)


def final(call: BuiltCall) -> Detected:
    """Measure with the final measure."""
    caller = [(samples_to_ns(start, RATE_HZ), samples_to_ns(end, RATE_HZ)) for start, end in call.caller_spans]
    measured = measure_agent(call.agent, RATE_HZ, caller=caller)
    spans = [
        Span(
            speech.onset_ns / NS_PER_S,
            speech.end_ns / NS_PER_S,
            speech.onset_uncertainty_ms,
            speech.end_uncertainty_ms,
            speech.too_loud,
        )
        for speech in measured.speeches
    ]
    return Detected(spans, measured.too_loud)


def live(call: BuiltCall) -> Detected:
    """Hear the call live, in pieces of 20 ms."""
    pcm = np.rint(_narrow(call) * 32_767).astype(np.int16)
    hearing = Hearing()
    spans: list[Span] = []
    began_s = 0.0
    for start in range(0, pcm.size, LIVE_PIECE):
        piece = pcm[start : start + LIVE_PIECE]
        edges = hearing.hear(samples_to_ns(start, MODEL_RATE_HZ), piece.tobytes())
        if start + LIVE_PIECE >= pcm.size:
            edges += hearing.stop()
        for edge in edges:
            if edge.heard is Heard.ONSET:
                began_s = edge.at_ns / NS_PER_S
            else:
                noticed_s = (start + piece.size) / MODEL_RATE_HZ
                spans.append(Span(began_s, edge.at_ns / NS_PER_S, end_noticed_s=noticed_s))
    return Detected(spans)


def silero(call: BuiltCall) -> Detected:
    """Detect with Silero's model as its own utilities do: 0.5 in, 0.35 out, 100 ms of silence, 30 ms of padding."""
    probabilities = speech_probabilities(_narrow(call))
    window_s = WINDOW / MODEL_RATE_HZ
    spans: list[Span] = []
    start_s: float | None = None
    quiet_since_s: float | None = None
    for index, probability in enumerate(probabilities.tolist()):
        now_s = index * window_s
        if probability >= 0.5:
            start_s = now_s if start_s is None else start_s
            quiet_since_s = None
        elif probability < 0.35 and start_s is not None:
            quiet_since_s = now_s if quiet_since_s is None else quiet_since_s
            if now_s - quiet_since_s >= 0.1:
                if quiet_since_s - start_s >= 0.25:
                    spans.append(Span(start_s - 0.03, quiet_since_s + 0.03))
                start_s = quiet_since_s = None
    if start_s is not None:
        spans.append(Span(start_s - 0.03, len(probabilities) * window_s))
    return Detected(spans)


def fixed_energy(call: BuiltCall) -> Detected:
    """Detect with a threshold of -45 dBFS on the level of 10 ms; silence of 200 ms ends a speech."""
    step = RATE_HZ // 100
    samples = call.agent[: call.agent.size // step * step].astype(np.float64).reshape(-1, step) / 32_768
    loud = np.flatnonzero(10 * np.log10(np.square(samples).mean(axis=1) + 1e-12) > -45)
    if loud.size == 0:
        return Detected([])
    breaks = np.flatnonzero(np.diff(loud) > 20)
    starts, ends = loud[np.concatenate([[0], breaks + 1])], loud[np.concatenate([breaks, [loud.size - 1]])]
    edges = zip(starts.tolist(), ends.tolist(), strict=True)
    return Detected([Span(a / 100, (b + 1) / 100) for a, b in edges if b - a >= 5])


DETECTORS: dict[str, Callable[[BuiltCall], Detected]] = {
    "final": final,
    "live": live,
    "Silero": silero,
    "energy": fixed_energy,
}


def _narrow(call: BuiltCall) -> NDArray[np.float32]:
    return cast(Samples, soxr.resample(call.agent.astype(np.float32) / np.float32(32_768), RATE_HZ, MODEL_RATE_HZ))


def measure_row(
    row: Row, voices: Sequence[Sequence[Samples]], callers: Sequence[Samples], calls: int
) -> dict[str, Errors]:
    """Build a row's calls, and hold every detector against them."""
    errors = {name: Errors() for name in DETECTORS}
    for index in range(calls):
        call = build_call(row, voices[index % len(voices)], callers, SEED + index)
        for name, detect in DETECTORS.items():
            began_s = time.process_time()
            detected = detect(call)
            errors[name].cpu_s += time.process_time() - began_s
            errors[name].add(call, detected)
    return errors


def claims(measured: dict[str, dict[str, Errors]]) -> list[Claim]:
    """Return what is said of the final measure and the live hearing, and whether it is so."""
    found: list[Claim] = []

    def say(text: str, rows: Sequence[str], holds: Callable[[Errors], bool], detector: str = "final") -> None:
        here = [name for name in rows if name in measured]
        wrong = [name for name in here if not holds(measured[name][detector])]
        if here:
            found.append(Claim(text + (f" (not: {', '.join(wrong)})" if wrong else ""), not wrong))

    def within(limit_ms: float) -> Callable[[Errors], bool]:
        return lambda errors: max(errors.onset_p95_ms(), errors.end_p95_ms()) <= limit_ms and errors.gross == 0

    at_38 = [f"{bed} -38" for bed in QUIET_BEDS]
    louder = [f"{bed} {dbfs}" for bed, levels in BEDS.items() for dbfs in levels if dbfs > -38]
    say("clean: p95 of onsets and ends at most 10 ms", ["clean"], within(10))
    say("natural voices, clean: at most 40 ms", ["natural, clean"], within(40))
    say("Opus, mu-law, loss, quiet: at most 20 ms", [row.name for row in ROWS[1:5]], within(20))
    say("beds at -38 dBFS: no gross miss", at_38, lambda errors: errors.gross == 0)
    say("beds at -38 dBFS: p95 of onsets at most 120 ms", at_38, lambda errors: errors.onset_p95_ms() <= 120)
    say("crowd at -38 dBFS: at most 1 % gross", ["crowd -38"], lambda errors: errors.gross_share <= 0.01)
    say("louder: at most 0.5 % gross and not flagged", louder, lambda errors: errors.unflagged_share <= 0.005)
    say("the uncertainty covers 95 % in every row", list(measured), lambda errors: errors.coverage >= COVERED)
    say("clean: median uncertainty at most 20 ms", ["clean"], lambda errors: median(errors.uncertainties_ms) <= 20)
    say(
        "live: a turn ends within 1.3 s at the median in every row",
        list(measured),
        lambda errors: median(errors.turn_ends_ms) <= TURN_END_MS,
        "live",
    )
    say("live, clean: p95 of onsets at most 10 ms", ["clean"], lambda errors: errors.onset_p95_ms() <= 10, "live")
    for name, limit, text in (
        ("final", 3.0 / 600, "the final measure takes under 3 s for ten minutes"),
        ("live", 0.03, "live hearing takes under 3 % of a core"),
    ):
        cpu_s = sum(errors[name].cpu_s for errors in measured.values())
        audio_s = sum(errors[name].audio_s for errors in measured.values())
        found.append(Claim(f"{text} (measured: {cpu_s / audio_s:.2%} of a core)", cpu_s / audio_s < limit))
    return found


def _cells(errors: Errors, *, flags: bool = False) -> list[str]:
    onset = f"{median(errors.onsets_ms):+.0f} / {errors.onset_p95_ms():.0f}"
    end = f"{median(errors.ends_ms):+.0f} / {errors.end_p95_ms():.0f}"
    gross = str(errors.gross)
    if flags:
        gross = f"{errors.gross} ({errors.gross - errors.unflagged} flagged)" if errors.gross else "0"
    return [f"{onset}; {end}", gross]


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--calls", type=int, default=9, help="calls in each row, of 12 answers each")
    options.add_argument("--row", action="append", help="only rows that have this in their name")
    options.add_argument("--sounds", type=Path, default=Path("/"), help="where Debian's sound packages are unpacked")
    given = options.parse_args()
    synthetic = synthetic_voices("benchmark")
    natural = natural_voices("benchmark", given.sounds)
    if not synthetic:
        print("no synthetic voice is installed: pip install 'pipecat-scenario-runner[offline]'", file=sys.stderr)
        return 2
    print(f"voices: {', '.join([*synthetic, *natural])}", file=sys.stderr)
    if importlib.util.find_spec("py_nanotts") is None or which("espeak-ng") is None:
        print("more voices: pip install py-nanotts; apt-get install espeak-ng", file=sys.stderr)
    if not natural:
        print(
            "no natural voices: apt-get install asterisk-core-sounds-en-wav; those rows are left out", file=sys.stderr
        )
    callers = [clip for clips in synthetic.values() for clip in clips]
    measured: dict[str, dict[str, Errors]] = {}
    for row in ROWS:
        if (row.natural and not natural) or (given.row and not any(part in row.name for part in given.row)):
            continue
        voices = list((natural if row.natural else synthetic).values())
        measured[row.name] = measure_row(row, voices, callers, given.calls)
        print(f"{row.name}: {_cells(measured[row.name]['final'], flags=True)}", file=sys.stderr)
    columns = ["agent channel", "final: onset; end", "gross", "covered", "± ms"]
    columns += ["live: onset; end", "gross", "turn ends"]
    columns += ["Silero: onset; end", "gross", "energy: onset; end", "gross"]
    rows = [
        [
            name,
            *_cells(errors["final"], flags=True),
            f"{errors['final'].coverage:.1%}",
            f"{median(errors['final'].uncertainties_ms):.0f}",
            *_cells(errors["live"]),
            f"{median(errors['live'].turn_ends_ms):.0f}",
            *_cells(errors["Silero"]),
            *_cells(errors["energy"]),
        ]
        for name, errors in measured.items()
    ]
    edges = 2 * 12 * given.calls
    return report(
        f"Edges of speech, of {edges} a row: median / p95 of |error| in ms",
        columns,
        rows,
        claims(measured),
        raw={name: {detector: asdict(e) for detector, e in errors.items()} for name, errors in measured.items()},
        json_file=given.json,
    )


if __name__ == "__main__":
    sys.exit(main())
