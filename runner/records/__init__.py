"""The result record: what was launched, what became of it, and who may see it."""
