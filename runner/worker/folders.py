"""Where a worker keeps what it has to report. By itself, for whoever makes no calls."""

OUTBOX = "outbox"
"""The folder, in that for the worker's data."""

REPORT = "report.json"
"""In the folder of a call: what came of it."""
