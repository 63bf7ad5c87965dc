"""The queue and the schedules, on an existing engine."""
