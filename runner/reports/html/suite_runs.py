"""The runs of a suite or a result, by scenario: what their page is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

from runner.calls.suite_file import SkippedScenario, SuiteResult, SuiteRun, by_scenario
from runner.reports.evidence import headline_of


@dataclass(frozen=True)
class RunLink:
    """The page of a run, and the reason that it gives."""

    href: str
    reason: str = ""


@dataclass(frozen=True)
class RunFacts:
    """What a suite's page says of one run.

    Attributes:
        number: Which run of its scenario it is, from 1.
        group: Runs that failed for the same reason have the same.
        state: Why there is no result (``under way``, ``not made``); empty where there is one.
        latencies_ms: Of each turn that was answered.
    """

    number: int
    success: bool | None = None
    reason: str = ""
    group: str = ""
    href: str | None = None
    state: str = ""
    latencies_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class ScenarioRuns:
    """The runs of a scenario.

    Attributes:
        skipped: Why there are none.
        limit_ms: Within how long the agent is to answer.
        change: What the comparison with the baseline says.
    """

    name: str
    runs: tuple[RunFacts, ...] = ()
    skipped: str = ""
    limit_ms: float | None = None
    change: "Change | None" = None


@dataclass(frozen=True)
class Change:
    """What a comparison says of a scenario, or of the suite.

    Attributes:
        kind: ``worse``, ``better``, ``same`` or ``unsure``.
        brief: The same in a few words.
    """

    kind: str
    name: str
    text: str
    brief: str = ""

    @property
    def mark(self) -> str:
        """The sign that stands before it."""
        return {"worse": "▼", "better": "▲", "same": "=", "unsure": "?"}[self.kind]


def scenarios_of(
    result: SuiteResult,
    pages: Mapping[str, RunLink],
    limits_ms: Mapping[tuple[str, str], float] | None = None,
    changes: Mapping[str, Change] | None = None,
) -> list[ScenarioRuns]:
    """Return the runs of a suite by scenario.

    Args:
        pages: The page of each run, by its folder.
        limits_ms: Within how long the agent is to answer, by scenario file and name.
    """
    found: list[ScenarioRuns] = []
    for runs in by_scenario(result):
        first = runs[0]
        if isinstance(first, SkippedScenario):
            found.append(ScenarioRuns(first.scenario, skipped=first.reason))
            continue
        facts = [
            _facts(run, pages)
            if isinstance(run, SuiteRun)
            else RunFacts(run.repeat, state="under way" if run.under_way else "not made")
            for run in runs
            if not isinstance(run, SkippedScenario)
        ]
        found.append(
            ScenarioRuns(
                first.scenario,
                tuple(sorted(facts, key=lambda run: run.number)),
                limit_ms=(limits_ms or {}).get((first.file, first.scenario)),
                change=(changes or {}).get(first.scenario),
            )
        )
    return found


def _facts(run: SuiteRun, pages: Mapping[str, RunLink]) -> RunFacts:
    page = None if run.folder is None else pages.get(run.folder)
    reason, group = "", ""
    if not run.success:
        headline = headline_of(run.failure, run.detail, run.ended_reason)
        reason = headline if page is None else page.reason or headline
        failure = run.failure
        group = run.ended_reason.value if failure is None else f"{failure.kind.value} {failure.turn}"
    return RunFacts(
        run.repeat,
        run.success,
        reason,
        group,
        None if page is None else page.href,
        latencies_ms=tuple(run.response_latencies_ms),
    )
