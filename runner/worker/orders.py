"""What a supervisor tells a worker's process to do, a line each."""

DRAIN = "drain"
"""Take nothing more; let calls that are on finish, give back what is left when the limit has passed, and end."""

HURRY = "hurry"
"""Do the same, without waiting for calls."""
