"""The metrics there are. A metric is one function, in a file of its own beside this one, under ``@metric``."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import runner.metrics
from runner.evaluation.turns import TurnMeasures


@dataclass(frozen=True)
class Sample:
    """One measured value of a run.

    Attributes:
        value: The value, in the metric's unit.
        uncertainty: The true one lies within so much of it, in 95 of 100 cases; None where that is not known.
        at_s: The moment it was taken from, in seconds of the call; None where it is of no moment.
        turn: The turn it is of, by its place in the script; None where it is of none.
    """

    value: float
    uncertainty: float | None = None
    at_s: float | None = None
    turn: int | None = None


Measure = Callable[[Sequence[TurnMeasures]], list[Sample]]
"""From what each turn took, in order, to the values; empty where there is nothing to measure."""


@dataclass(frozen=True)
class Metric:
    """A number that says something of a run.

    Attributes:
        id: Its id in the record.
        code: Its name in code, in files and in the record's tables.
        name: Its name as people see it.
        unit: Of its values.
        low: The least value there can be.
        high: The greatest; None where there is none.
        definition: What it is, in one sentence.
        source: Where the definition is from.
        told: What a summary of its values says: ``{count}`` is how many there are.
        measure: Takes it from a run.
    """

    id: int
    code: str
    name: str
    unit: str
    low: float
    high: float | None
    definition: str
    source: str
    told: str
    measure: Measure


_found: dict[str, Metric] = {}


def metric(**about: object) -> Callable[[Measure], Metric]:
    """Make a metric of a function. The arguments are the fields of :class:`Metric`."""

    def make(measure: Measure) -> Metric:
        made = Metric(measure=measure, **about)  # type: ignore[arg-type]
        if made.code in _found or any(made.id == other.id for other in _found.values()):
            raise ValueError(f"there are two metrics {made.code!r} ({made.id})")
        _found[made.code] = made
        return made

    return make


@cache
def metrics() -> Mapping[str, Metric]:
    """Return all metrics, by code, in the order of their ids."""
    for module in pkgutil.iter_modules(runner.metrics.__path__):
        importlib.import_module(f"{runner.metrics.__name__}.{module.name}")
    return dict(sorted(_found.items(), key=lambda found: found[1].id))


def metric_ids() -> list[int]:
    """Return the ids of all metrics."""
    return [found.id for found in metrics().values()]


def as_table() -> str:
    """Return all metrics as a table in Markdown."""
    rows = ["| metric | code, id | unit | range | definition | source |", "|---|---|---|---|---|---|"]
    for code, one in metrics().items():
        most = "" if one.high is None else f" to {one.high:g}"
        span = f"from {one.low:g}{most}"
        rows.append(f"| {one.name} | `{code}`, {one.id} | {one.unit} | {span} | {one.definition} | {one.source} |")
    return "\n".join(rows) + "\n"
