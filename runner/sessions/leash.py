"""Starts a program that ends when its parent does, however the parent ends.

python -m runner.sessions.leash PARENT_PID COMMAND…
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the command. Where the system can't do that, only the latter."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):
            # It died before we were tied to it.
            sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the command is the user's own
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
