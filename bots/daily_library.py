"""What daily-python adds to every sample it hands over, as far as it is always the same.

The library gives no timestamps: what it hands over went through its jitter buffer and its decoder before.
"""

from bots.clock import NS_PER_MS

RECEIVE_DELAY_NS = 30 * NS_PER_MS
"""So long after a sample left for the network the library hands it over, where the network adds nothing.

Measured on one machine with version 0.36 (``benchmarks.calls --room daily``). On a network whose delay varies the
library waits for longer, and tells nobody.
"""

PLACE_OFF_MS = 40.0
"""A latency between two users of the library is so far off at most, in 95 of 100 cases, where the network is even."""
