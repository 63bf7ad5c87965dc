"""Calls: one conversation in one room, from join to leave, and the facts it leaves behind."""
