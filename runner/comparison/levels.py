"""The levels and the smallest differences of the rule: what counts as a change.

The levels add up to 0.05 for a comparison of suites. A difference that is significant and smaller than the minimum is
no change: nobody acts on it.
"""

SUITE_RATE_LEVEL = 0.0125
SUITE_LATENCY_LEVEL = 0.0125
SCENARIO_RATE_LEVEL = 0.0167
"""For all scenarios together, shared out by Tarone."""
SCENARIO_LATENCY_LEVEL = 0.0083
"""For all scenarios together, shared out by Holm."""
NAMED_LEVEL = 0.05
"""A scenario that moved with its suite is named from this level on, once the suite itself has changed."""

SUITE_MIN_POINTS = 5.0
SUITE_MIN_MS = 100.0
SCENARIO_MIN_POINTS = 20.0
SCENARIO_MIN_MS = 150.0

MIN_RATE_RUNS = 5
"""A scenario's pass rate is tested from so many decided runs on each side on."""
MIN_LATENCY_RUNS = 3
"""A scenario's latency is tested from so many calls with a latency on each side on."""
MIN_SESSIONS = 5
"""From so many sessions of the base on, means of sessions are tested instead of calls."""

MAX_INCONCLUSIVE_SHARE = 0.2
UNEQUAL_LEVEL = 0.05
"""From this level on the sides differ in how many runs are inconclusive: what is left can't be compared."""

POWER = 0.8
"""How often a difference shows that is called one that would have shown."""
CONFIDENCE = 0.95
"""Of every interval that is shown, and of those that thresholds are judged by."""
