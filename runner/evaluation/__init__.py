"""Evaluation: timeline and audio in, judgement out. Pure functions; no Pipecat, no network, no database."""
