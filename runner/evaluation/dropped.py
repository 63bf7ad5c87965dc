"""Whether the words an agent reports were heard: its text beside what was recognised in the same stretch of the call.

An agent's text over RTVI is exact, but it goes out whether or not its audio does. Recognition mishears, but it does
not leave out whole sentences that were spoken. So text is doubted only where two things come together: a run of its
words has no counterpart in what was recognised, and the agent did not speak for long enough to have said them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import islice

from bots.clock import NS_PER_MS, NS_PER_S
from bots.timeline import AgentSaid, Source
from runner.evaluation.transcript import agent_turns
from runner.evaluation.view import CallView
from runner.evaluation.wording import normalise_words

FEWEST_WORDS = 3
"""A shorter text is not doubted: recognition does leave out a word or two."""

HEARD_SHARE = 0.5
"""Text of which at least so many words have a counterpart was heard."""

FASTEST_WORDS_PER_S = 4.5
"""How fast an agent is taken to speak of whom nothing better is known. People say three words a second."""

TOLD_BESIDE_NS = 1_500 * NS_PER_MS
"""Text arrives so long before or after the speech it belongs to, at most."""


@dataclass
class _Turn:
    """A turn of the agent: how long it spoke, and what it says it said."""

    onset_ns: int
    end_ns: int
    spoke_s: float
    told: list[int] = field(default_factory=list[int])


def dropped_words(view: CallView) -> frozenset[int]:
    """Return the identities of the told words of a finished call whose audio is proven not to have arrived.

    Nothing is doubted where nothing was recognised.
    """
    told = view.said(Source.TOLD)
    heard = [word for event in view.said(Source.HEARD) for word in normalise_words(event.text).split()]
    if not heard or not told:
        return frozenset()
    words = [normalise_words(event.text).split() for event in told]
    counts = [len(own) for own in words]
    found = _counterparts(words, heard)
    missing = [
        count >= FEWEST_WORDS and share < HEARD_SHARE * count for count, share in zip(counts, found, strict=True)
    ]
    if not any(missing):
        return frozenset()
    turns = _turns(view, told)
    whole = [t for t in turns if t.told and t.spoke_s > 1 and not any(missing[i] for i in t.told)]
    rates = [sum(counts[i] for i in turn.told) / turn.spoke_s for turn in whole]
    words_per_s = max(rates, default=FASTEST_WORDS_PER_S)
    doubted: set[int] = set()
    for turn in turns:
        gone = [i for i in turn.told if missing[i]]
        needed = sum(counts[i] for i in turn.told) - HEARD_SHARE * sum(counts[i] for i in gone)
        if gone and turn.spoke_s * words_per_s < needed:
            doubted.update(gone)
    return frozenset(id(told[i]) for i in doubted)


def _turns(view: CallView, told: Sequence[AgentSaid]) -> list[_Turn]:
    turns = [
        _Turn(
            onset_ns,
            end_ns,
            sum(max(min(s.end_or(end_ns), end_ns) - max(s.started.at_ns, onset_ns), 0) for s in view.speeches)
            / NS_PER_S,
        )
        for onset_ns, end_ns in agent_turns(view)
    ]
    for index, event in enumerate(told):
        near = [t for t in turns if t.onset_ns - TOLD_BESIDE_NS <= event.at_ns <= t.end_ns + TOLD_BESIDE_NS]
        if near:
            # What is told late belongs to the turn that ended; what is told early, to the one that begins.
            min(near, key=lambda t: max(t.onset_ns - event.at_ns, event.at_ns - t.end_ns, 0)).told.append(index)
    return turns


def _counterparts(told: Sequence[Sequence[str]], heard: Sequence[str]) -> list[float]:
    """Return for each text how many of its words have a counterpart: the same word, or another in its place."""
    flat = [word for own in told for word in own]
    shares = [0.0] * len(flat)
    matcher = SequenceMatcher(None, flat, heard, autojunk=False)
    for kind, told_from, told_to, heard_from, heard_to in matcher.get_opcodes():
        if kind == "equal":
            shares[told_from:told_to] = [1.0] * (told_to - told_from)
        elif kind == "replace":
            share = min(1.0, (heard_to - heard_from) / (told_to - told_from))
            shares[told_from:told_to] = [share] * (told_to - told_from)
    in_order = iter(shares)
    return [sum(islice(in_order, len(own))) for own in told]
