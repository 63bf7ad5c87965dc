"""In what circumstances two sets of runs differ, besides the agent."""

from collections.abc import Iterable, Sequence
from typing import Any

from runner.comparison.facts import SessionFacts

MAX_NAMED = 3
"""How many values of each side are named."""


def other_circumstances(base: Sequence[SessionFacts], current: Sequence[SessionFacts]) -> list[str]:
    """Return a sentence for each circumstance that differs between two sets of sessions.

    The agent is left out: it is what is compared.
    """
    sentences: list[str] = []
    for name, values in _circumstances([*base, *current]).items():
        before, after = (list(dict.fromkeys(values(session) for session in side)) for side in (base, current))
        if set(before) != set(after) and None not in (*before, *after):
            sentences.append(f"{name} differs: {_named(before)} in the base, {_named(after)} now")
    return sentences


def _circumstances(sessions: Iterable[SessionFacts]) -> dict[str, Any]:
    """Return how each circumstance is read of a session."""
    found: dict[str, Any] = {
        "host": lambda s: s.host,
        "transport": lambda s: s.transport,
        "concurrency": lambda s: s.concurrency,
    }
    for session in sessions:
        found |= {f"version of {name}": _item("versions", name) for name in session.versions if name != "agent"}
        found |= {f"setting {name}": _item("settings", name) for name in session.settings}
    return found


def _item(attribute: str, name: str) -> Any:
    return lambda session: known.get(name, "none") if (known := getattr(session, attribute)) else None


def _named(values: Sequence[Any]) -> str:
    named = ", ".join(str(value) for value in values[:MAX_NAMED])
    return named + (", …" if len(values) > MAX_NAMED else "")
