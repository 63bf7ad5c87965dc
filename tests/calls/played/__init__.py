"""Scenarios that use every key that can be played against the restaurant, and what must become of each.

Each is played in a simulated room, by voice over WebRTC, and by Pipecat's own harness, which reads the same files:
what becomes of a scenario is written down once, for all of them.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import soundfile

from bots.caller.script import Speak, Words
from bots.caller.speech.level import from_pcm16
from bots.caller.speech.voice import RATE_HZ, Voice
from runner.scenarios.evals import load_file
from runner.scenarios.model import Scenario
from runner.settings import Settings

FOLDER = Path(__file__).parent
FILES = ("text.yaml", "audio.yaml", "own.yaml")
RECORDING = "recording.wav"
RECORDED = "A table for four on Friday at eight o'clock, please."

Place = tuple[int, int]
"""A turn, and the place of an expectation in it, both from 0."""


@dataclass(frozen=True)
class Expected:
    """What must become of a scenario.

    Attributes:
        missed: The expectations that are not met, without those that stand below one that is not.
        not_observable: Those of which nobody can tell in a room.
        pipecat: What Pipecat's harness says is missed, where it can tell more.
        ours_alone: It hangs on keys of our own, which Pipecat passes over.
    """

    missed: frozenset[Place] = frozenset()
    not_observable: frozenset[Place] = frozenset()
    pipecat: frozenset[Place] | None = None
    ours_alone: bool = False

    @property
    def success(self) -> bool | None:
        """What the run must say: passed, failed, or that nobody can tell."""
        if self.missed:
            return False
        return None if self.not_observable else True

    @property
    def missed_by_pipecat(self) -> frozenset[Place]:
        return self.missed if self.pipecat is None else self.pipecat


def passes(*, ours_alone: bool = False) -> Expected:
    return Expected(ours_alone=ours_alone)


def fails_at(*places: Place, ours_alone: bool = False) -> Expected:
    return Expected(missed=frozenset(places), ours_alone=ours_alone)


TABLE: dict[str, Expected] = {
    # By text there, by voice here.
    "text/hours": passes(),
    "text/functions": passes(),
    "text/keys": passes(),
    "text/quiet": passes(),
    "text/judged": passes(),
    "text/judged_no": fails_at((1, 0)),
    "text/goes_on": fails_at((1, 0), (2, 0)),
    "text/missing_call": fails_at((1, 1)),
    "text/looks_on": fails_at((1, 1)),
    "text/speaks_after_all": fails_at((1, 0)),
    # By voice in both.
    "audio/thinks": passes(),
    "audio/wrong_order": fails_at((1, 1)),
    "audio/recording": passes(),
    "audio/interrupts": passes(),
    "audio/other_words": fails_at((1, 1)),
    # Pipecat asks the agent for raw VAD events, which it then reports, and for markers, of which there are none.
    "audio/on_request": Expected(not_observable=frozenset({(1, 0), (1, 2)}), pipecat=frozenset({(1, 2)})),
    # With keys of our own.
    "own/barge_in": passes(ours_alone=True),
    "own/silence": passes(ours_alone=True),
    "own/goodbye": passes(ours_alone=True),
    "own/late": fails_at((0, 1), (1, 0), (1, 1), ours_alone=True),
    # That it does not hang up is not told: the call reaches its limit before.
    "own/stays": fails_at((1, 0), ours_alone=True),
}


@dataclass(frozen=True)
class Played:
    """The scenarios, with their recording, in a folder of their own."""

    folder: Path
    settings: Settings
    scenarios: dict[str, Scenario]


async def prepare(folder: Path) -> Played:
    """Copy the scenarios into a folder, make their recording there, and load them."""
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    settings = Settings(scenarios_dir=folder)
    (line,) = await Voice(settings.speech).synthesise([Speak(parts=(Words(text=RECORDED),))])
    soundfile.write(folder / RECORDING, from_pcm16(line.pcm), RATE_HZ)
    loaded = [scenario for file in FILES for scenario in load_file(folder / file, settings)]
    return Played(folder, settings, {scenario.name: scenario for scenario in loaded})


def satisfies(criterion: str, subject: str) -> bool:
    """The rule by which both judges go: everything in quotes is there."""
    return all(word.lower() in subject.lower() for word in re.findall(r"'([^']+)'", criterion))
