"""The demo's scenario: the booking that is also the first example for users."""

from pathlib import Path

from bots.caller.script import Script
from runner.scenarios.evals import load_scenario
from runner.settings import Settings

_PACKAGED = Path(__file__).parent / "booking.yaml"
_IN_CHECKOUT = Path(__file__).parent.parent / "config" / "scenarios" / "booking.yaml"


def demo_script(settings: Settings) -> Script:
    """Return what the caller does in the demo."""
    path = _PACKAGED if _PACKAGED.is_file() else _IN_CHECKOUT
    return load_scenario(str(path), settings).playable()
