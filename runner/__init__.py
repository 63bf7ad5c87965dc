"""Everything that gets a run done: rooms, calls, evaluation, reports and the command line."""
