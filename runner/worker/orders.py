"""What a supervisor tells a worker's process to do, a line each."""

DRAIN = "drain"
"""Take nothing more; let calls that are on finish, release what is left when the limit has passed, and end."""

FORCE_STOP = "force-stop"
"""Do the same, without waiting for calls."""
