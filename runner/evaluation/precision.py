"""How exact a measured time is: what our own side and the network add to what the recording's edges leave open."""

from bots.clock import NS_PER_MS
from bots.timeline import AgentAudioQuality, CallCalibrated
from runner.evaluation.view import CallView

OWN_MS = 2.0
"""What placing and sending add at least: half a step of the levels, and the clock's reading."""

WIDEST_NS = 500 * NS_PER_MS
"""A sample less certain than this says nothing: it is refused."""


def own_uncertainty_ns(view: CallView) -> int:
    """Return what packet timing, placement and sending add to the uncertainty of a measured time."""
    calibrated = view.first(CallCalibrated)
    quality = view.first(AgentAudioQuality)
    sending_ms = 0.0 if calibrated is None else calibrated.send_lag_ms
    # The earliest packets place the stream, so jitter shows only as far as it is there all the time.
    arrival_ms = min((q for q in (_arrival_ms(calibrated), _jitter_ms(quality)) if q is not None), default=0.0)
    library_ms = 0.0 if calibrated is None else calibrated.library_ms
    return round((OWN_MS + sending_ms + arrival_ms + library_ms) * NS_PER_MS)


def includes_jitter(view: CallView) -> bool:
    """Whether the latencies of a call include what the network's jitter adds: nobody says when its packets came."""
    calibrated = view.first(CallCalibrated)
    return calibrated is not None and calibrated.library_ms > 0


def _arrival_ms(calibrated: CallCalibrated | None) -> float | None:
    return None if calibrated is None else calibrated.arrival_jitter_ms


def _jitter_ms(quality: AgentAudioQuality | None) -> float | None:
    return None if quality is None else quality.jitter_ms


def in_ms(duration_ns: int) -> float:
    """Return a duration in milliseconds, to a tenth."""
    return round(duration_ns / NS_PER_MS, 1)
