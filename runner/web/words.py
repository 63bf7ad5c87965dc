"""Times as pages show them."""

from datetime import datetime, timedelta


def day_and_time(moment: datetime | None) -> str:
    """Return a moment in UTC; a dash where there is none."""
    return "–" if moment is None else f"{moment.day} {moment:%b %Y, %H:%M:%S}"


def duration(length_s: float | None) -> str:
    """Return a duration in at most two units; a dash where there is none."""
    if length_s is None:
        return "–"
    left = timedelta(seconds=max(round(length_s), 0))
    if left >= timedelta(days=2):
        return f"{left.days} days"
    minutes, seconds = divmod(int(left.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
