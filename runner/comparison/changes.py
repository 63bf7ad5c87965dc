"""What a comparison came to. Importing this needs no statistics library: reports show it without."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, computed_field

FORMAT_VERSION = 1


class Change(StrEnum):
    """What became of an agent between two sets of runs."""

    UNCHANGED = "unchanged"
    """No difference showed; how large one had to be is said with it."""
    IMPROVED = "improved"
    REGRESSED = "regressed"
    FLAKY = "flaky"
    """It passes and fails on both sides, without a difference between them."""
    TOO_FEW = "too_few"
    """Too few runs to say."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class RateChange(_Model):
    """Pass rates of both sides, of their decided runs. Inconclusive runs are left out.

    The difference is current minus base, in percentage points; of a suite the mean over its scenarios. It is null
    where a side has no decided run. The true one lies from ``low_points`` to ``high_points`` in 95 of 100 cases.

    Attributes:
        p: Of the test; null where there are too few runs to test.
        significant: Whether it is significant at the level of the rule, and as large as it must be.
        shows_points: The smallest drop that would have shown with 80 % power; null where none would, and for a suite.
    """

    base_passed: int
    base_runs: int
    current_passed: int
    current_runs: int
    difference_points: float | None = None
    low_points: float | None = None
    high_points: float | None = None
    p: float | None = None
    significant: bool = False
    shows_points: int | None = None


class LatencyChange(_Model):
    """Latencies of both sides, one value a call that has one; a session, where their means are tested.

    Difference, interval and test are as those of :class:`RateChange`, and all null where there are too few calls to
    test. ``shows_ms`` is the smallest difference that would have shown with 80 % power.
    """

    base_calls: int
    current_calls: int
    difference_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    p: float | None = None
    significant: bool = False
    shows_ms: float | None = None


class ScenarioChange(_Model):
    """What became of a scenario.

    Attributes:
        scenario: Its name.
        latency: Latencies; null where no call on either side has one.
        base_inconclusive: Runs of the base that are inconclusive.
        current_inconclusive: Runs of the current side that are.
        runs_needed: With too few runs: how many decided runs of each side it would take, if what was seen is so.
            Null where that is not known, or more than 500.
        current_runs_needed: The same with the base as it is; null where no number of runs is enough.
        why_too_few: With too few runs: in words.
        was_edited: Whether both sides played the same; null where that is not known.
    """

    scenario: str
    change: Change
    pass_rate: RateChange
    latency: LatencyChange | None = None
    base_inconclusive: int = 0
    current_inconclusive: int = 0
    runs_needed: int | None = None
    current_runs_needed: int | None = None
    why_too_few: str | None = None
    was_edited: bool | None = None


class Comparison(_Model):
    """What a comparison came to.

    Attributes:
        change: What became of the whole: regressed if the suite or any scenario did.
        pass_rate: Of all scenarios that both sides have, and whether the suite's pass rate changed.
        latency: Of the same, and whether the suite's latency changed.
        scenarios: The scenarios that both sides have.
        base_sessions: In how many sessions the base was made.
        interleaved: Whether both sides were made in the same sessions.
        by_session: Whether means of sessions were tested, not calls.
        why_too_few: Where the whole has too few runs to say: in words.
        warnings: What to bear in mind, such as other versions, other scenarios, drift.
    """

    format: int = FORMAT_VERSION
    change: Change
    pass_rate: RateChange
    latency: LatencyChange | None
    scenarios: list[ScenarioChange]
    only_in_base: list[str] = []
    only_in_current: list[str] = []
    base_sessions: int
    current_sessions: int
    interleaved: bool
    by_session: bool
    base_inconclusive: int
    current_inconclusive: int
    why_too_few: str | None = None
    warnings: list[str] = []

    @computed_field
    @property
    def exit_code(self) -> int:
        """0 no regression, 1 regressed, 2 too few runs to say."""
        return {Change.REGRESSED: 1, Change.TOO_FEW: 2}.get(self.change, 0)
