"""Scenarios: the model, and the loader of each format."""
