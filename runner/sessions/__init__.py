"""Sessions: an agent instance started for a run, and the room it came with."""
