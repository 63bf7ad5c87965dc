"""What calls need, loaded before the first of them."""

import importlib
from contextlib import suppress

_NEEDED = ("runner.rooms.smallwebrtc", "runner.rooms.daily", "bots.caller.speech.recognition")


def load() -> None:
    """Load what calls need: seconds of imports, which the first call would wait for, and calls under way with it."""
    for module in _NEEDED:
        # What is not installed is missed by the run that needs it.
        with suppress(ImportError):
            importlib.import_module(module)
