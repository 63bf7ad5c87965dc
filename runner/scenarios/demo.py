"""The demo's scenario: the booking that is also the first example for users."""

from pathlib import Path

from bots.caller.script import Script
from runner.scenarios.evals import load_scenario
from runner.settings import Settings

_PACKAGED = Path(__file__).parent / "booking.yaml"
_IN_CHECKOUT = Path(__file__).parents[2] / "config" / "scenarios" / "booking.yaml"


def demo_script(settings: Settings) -> Script:
    """Return what the caller does in the demo."""
    return load_scenario(str(booking_file()), settings).playable()


def booking_file() -> Path:
    """Return where the scenario is: in an installed package, or in a checkout."""
    return _PACKAGED if _PACKAGED.is_file() else _IN_CHECKOUT
