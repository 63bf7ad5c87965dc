"""The worker: takes a run, makes the call, reports it."""
