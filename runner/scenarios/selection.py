"""Which runs of a suite are made: an expression over the scenarios' names and tags, as pytest's ``-k`` has it.

::

    expression: term ("or" term)*
    term:       factor ("and" factor)*
    factor:     "not" factor | "(" expression ")" | word

A word is true of a scenario whose name, or one of whose tags, contains it; upper and lower case are the same.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from runner.errors import UsageError
from runner.scenarios.model import Scenario
from runner.scenarios.suites import PlannedRun, Suite

MAX_CHARACTERS = 2_000
MAX_DEPTH = 50
SHOWN_NAMES = 10

Selects = Callable[[Scenario], bool]

_TOKEN = re.compile(r"\s*([()]|[\w:+\-.\[\]\\/#]+)")
_RESERVED = ("and", "or", "not", "(", ")")


def parse_expression(text: str) -> Selects:
    """Return what says of a scenario whether an expression is true of it.

    Raises UsageError: it is not an expression; says where.
    """
    if len(text) > MAX_CHARACTERS:
        raise UsageError(f"-k: longer than {MAX_CHARACTERS} characters")
    return _Parser(list(_tokens(text))).whole()


def select_scenarios(suite: Suite, expression: str) -> Suite:
    """Return a suite with the runs of those scenarios alone that an expression is true of.

    Raises UsageError: it is not an expression, or true of no scenario of the suite.
    """
    selects = parse_expression(expression)
    runs = [run for run in suite.runs if selects(run.scenario)]
    if not runs:
        names = list(dict.fromkeys(run.scenario.name for run in suite.runs))
        more = ", …" if len(names) > SHOWN_NAMES else ""
        raise UsageError(f"-k: no scenario matches {expression!r}; there are: {', '.join(names[:SHOWN_NAMES])}{more}")
    skipped = tuple(scenario for scenario in suite.skipped if selects(scenario))
    return replace(with_runs(suite, runs), skipped=skipped)


def with_runs(suite: Suite, runs: list[PlannedRun]) -> Suite:
    return replace(suite, runs=tuple(replace(run, index=index) for index, run in enumerate(runs)))


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    at = 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None:
            column = len(text) - len(text[at:].lstrip()) + 1
            raise UsageError(f"-k: column {column}: {text[column - 1]!r} can't be part of an expression")
        yield found.start(1) + 1, found[1]
        at = found.end()


class _Parser:
    def __init__(self, tokens: list[tuple[int, str]]):
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> Selects:
        selects = self._joined("or")
        if self._at < len(self._tokens):
            raise self._unexpected("and, or, or the end")
        return selects

    def _joined(self, word: str) -> Selects:
        read, holds = (lambda: self._joined("and"), any) if word == "or" else (self._factor, all)
        parts = [read()]
        while self._takes(word):
            parts.append(read())
        return lambda scenario: holds(part(scenario) for part in parts)

    def _factor(self) -> Selects:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UsageError(f"-k: nested more than {MAX_DEPTH} deep")
        try:
            if self._takes("not"):
                negated = self._factor()
                return lambda scenario: not negated(scenario)
            if self._takes("("):
                inner = self._joined("or")
                if not self._takes(")"):
                    raise self._unexpected(")")
                return inner
            if self._next in (None, *_RESERVED):
                raise self._unexpected("a word, not, or (")
            word = (self._next or "").casefold()
            self._at += 1
            return lambda scenario: any(word in name.casefold() for name in (scenario.name, *scenario.tags))
        finally:
            self._depth -= 1

    @property
    def _next(self) -> str | None:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else None

    def _takes(self, token: str) -> bool:
        taken = self._next == token
        self._at += taken
        return taken

    def _unexpected(self, expected: str) -> UsageError:
        if self._next is None:
            return UsageError(f"-k: ends where {expected} is expected")
        column, token = self._tokens[self._at]
        return UsageError(f"-k: column {column}: expected {expected}, not {token!r}")
