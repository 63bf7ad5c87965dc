"""The restaurant's faults, as simulated agents have them."""

from bots.agents.faults import SLOW_BY_S, TALKS_OVER_AFTER_MS, TALKS_OVER_WITH, WrongNumberOfPeople
from bots.agents.restaurant_dialogue import QUESTIONS
from tests.simulated.agent import Behaviour

TALKS_OVER_LEAD_MS = 400
"""What the real one takes to make speech of it, and the silence at its beginning."""

GOOD = Behaviour()

BEHAVIOURS: dict[str | None, Behaviour] = {
    None: GOOD,
    "slow": Behaviour(slow_by_ms=SLOW_BY_S * 1000),
    "talks_over": Behaviour(talks_over_ms=TALKS_OVER_AFTER_MS + TALKS_OVER_LEAD_MS, talks_over_with=TALKS_OVER_WITH),
    "never_stops": Behaviour(can_be_interrupted=False),
    "deaf": Behaviour(hears=False, silence_ms=None),
    "mute": Behaviour(is_heard=False),
    "wrong_answer": Behaviour(dialogue=WrongNumberOfPeople),
    "hangs_up": Behaviour(hangs_up_at_turn=2),
    "leaves": Behaviour(leaves_after_greeting=True),
    "crashes": Behaviour(crashes_at_turn=2),
    "errors": Behaviour(fails_at_turn=2, silence_ms=None),
    "drops_sentence": Behaviour(drops_sentence=QUESTIONS["name"]),
    "greets_early": Behaviour(greets_before_ready_ms=0),
    "stops_for_mm_hmm": Behaviour(hum_ms=0),
    "noisy": GOOD,
    "never_joins": Behaviour(joins=False),
}
"""Behaviours by the names of the faults; None is the good restaurant. What is heard behind it is none of these."""
