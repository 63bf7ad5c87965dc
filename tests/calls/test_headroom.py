"""How many calls a machine takes at once: decided in virtual time, from made-up measurements."""

import random
from dataclasses import dataclass, field

import pytest

from runner.calls.headroom import (
    LATE_LIMIT_MS,
    MACHINE_LIMIT,
    RECOVERED_AFTER_S,
    SETTLED_AFTER_S,
    STALLED_LIMIT_MS,
    WINDOW_S,
    CallLimit,
    MachineUse,
    UseMeter,
    available_cores,
)


@dataclass
class Machine:
    """A machine on which as many calls are on as are allowed.

    Attributes:
        limit: What decides how many.
        cores: How many cores it has.
        a_call_cores: What a call takes.
        others_cores: What else is going on.
        lag_ms: How late the event loop is.
        now_s: The time.
        seen: How many were allowed, second by second.
    """

    limit: CallLimit
    cores: float = 2
    a_call_cores: float = 0.06
    others_cores: float = 0.0
    lag_ms: float = 1.0
    now_s: float = 100.0
    seen: list[int] = field(default_factory=list[int])

    def idle(self) -> None:
        self.limit.sample(self.now_s, self.load(0), 0)

    def load(self, live: int) -> MachineUse:
        process_cores = self.a_call_cores * live
        machine = min((process_cores + self.others_cores) / self.cores, 1.0)
        return MachineUse(machine=machine, process_cores=process_cores, lag_ms=self.lag_ms)

    def goes_on(self, seconds: int, live: int | None = None) -> int:
        for _ in range(seconds):
            self.now_s += 1
            on = self.limit.allowed if live is None else live
            self.limit.sample(self.now_s, self.load(on), on)
            self.seen.append(self.limit.allowed)
        return self.limit.allowed


def rising(most: int = 16, cores: float = 2, **given: float) -> Machine:
    machine = Machine(CallLimit(most, rises=True, cores=cores), cores=cores, **given)
    machine.idle()
    return machine


def test_it_begins_with_one_and_goes_up_one_by_one() -> None:
    machine = rising()
    assert machine.limit.allowed == 1
    machine.goes_on(200)
    steps = [after - before for before, after in zip(machine.seen, machine.seen[1:], strict=False)]
    assert set(steps) <= {0, 1}
    first = machine.seen.index(2)
    assert first >= SETTLED_AFTER_S - 1 and machine.seen.index(3) - first >= SETTLED_AFTER_S


def test_it_never_goes_above_the_limit_whatever_the_headroom() -> None:
    assert rising(most=3, a_call_cores=0.0).goes_on(1_000) == 3


@pytest.mark.parametrize(
    ("given", "most"),
    [
        # The event loop's own core is what is short: 0.7 of it, and a call takes 0.06.
        ({"a_call_cores": 0.06}, 11),
        # The machine is: 0.75 of two cores, of which others use one.
        ({"a_call_cores": 0.06, "others_cores": 1.0}, 8),
        ({"others_cores": 1.5}, 1),
        ({"a_call_cores": 0.6}, 1),
        ({"lag_ms": 60.0}, 1),
    ],
)
def test_it_goes_up_as_far_as_there_is_headroom(given: dict[str, float], most: int) -> None:
    assert rising(**given).goes_on(600) == most


def test_headroom_keeps_the_machine_below_its_limit() -> None:
    making_up = random.Random(3)
    for _ in range(200):
        cores = making_up.choice([1, 2, 4, 8])
        machine = rising(
            most=64,
            cores=cores,
            a_call_cores=making_up.uniform(0.01, 0.3),
            others_cores=making_up.uniform(0, cores),
        )
        allowed = machine.goes_on(800)
        assert allowed == 1 or machine.load(allowed).machine <= MACHINE_LIMIT + 1e-9


def test_no_more_are_allowed_while_fewer_are_on_than_may_be() -> None:
    machine = rising()
    machine.goes_on(20)
    allowed = machine.limit.allowed
    assert machine.goes_on(100, live=allowed - 1) == allowed


def test_late_audio_lowers_it_and_it_stays_below() -> None:
    machine = rising()
    machine.goes_on(45)
    too_many = machine.limit.allowed
    assert too_many > 3
    assert machine.limit.trouble(machine.now_s, too_many, late_ms=LATE_LIMIT_MS)
    assert machine.limit.allowed == too_many // 2
    assert machine.limit.warning is None, "looking for the right number is no mistake"
    assert machine.goes_on(int(RECOVERED_AFTER_S) - 1) == too_many // 2
    assert machine.goes_on(1_000) == too_many - 1


# A fixed number.


def test_a_fixed_number_is_left_as_it_is_as_long_as_all_is_well() -> None:
    machine = Machine(CallLimit(4, rises=False, cores=2), others_cores=2.0)
    assert machine.goes_on(100) == 4
    assert machine.limit.warning is None


def test_a_fixed_number_that_is_too_many_goes_down_and_says_so() -> None:
    limit = CallLimit(4, rises=False, cores=2)
    assert limit.trouble(10, 4, late_ms=LATE_LIMIT_MS)
    assert limit.allowed == 2
    assert limit.warning == "4 calls at once were too many for this machine: went down to 2"
    assert limit.trouble(60, 2, late_ms=LATE_LIMIT_MS)
    assert limit.warning == "4 calls at once were too many for this machine: went down to 1", "one line for all of it"
    assert Machine(limit).goes_on(1_000) == 1, "it was asked for so many, and so many were too many"


def test_what_comes_of_too_many_is_counted_once() -> None:
    limit = CallLimit(8, rises=False, cores=2)
    assert limit.trouble(10, 8, late_ms=LATE_LIMIT_MS)
    for live in (8, 7, 6, 5):
        assert not limit.trouble(12, live, late_ms=5_000), "they began before fewer were allowed"
    assert limit.allowed == 4
    assert limit.trouble(40, 4, late_ms=LATE_LIMIT_MS)
    assert limit.allowed == 2


@pytest.mark.parametrize(("apart_s", "lowered"), [(1.0, True), (WINDOW_S + 1, False)])
def test_a_hiccup_is_no_reason_but_several_in_a_row_are(apart_s: float, lowered: bool) -> None:
    limit = CallLimit(4, rises=False, cores=2)
    later = [limit.trouble(10 + number * apart_s, 4, late_ms=LATE_LIMIT_MS / 4) for number in range(4)]
    assert any(later) is lowered
    assert limit.allowed == (2 if lowered else 4)


def test_a_stall_that_every_call_tells_of_is_one_stall() -> None:
    limit = CallLimit(4, rises=False, cores=2)
    assert not any(limit.trouble(10, 4, stalled_ms=STALLED_LIMIT_MS * 0.9) for _ in range(4))
    assert [limit.trouble(20, 4, stalled_ms=STALLED_LIMIT_MS) for _ in range(4)] == [False, False, False, True]
    assert limit.allowed == 2


def test_a_run_that_was_spoilt_lowers_it_unless_that_was_seen_to() -> None:
    limit = CallLimit(4, rises=False, cores=2)
    assert limit.trouble(10, 4, late_ms=LATE_LIMIT_MS)
    assert not limit.spoilt(30, began_s=5, live=2), "it began when there were too many"
    assert limit.allowed == 2
    assert limit.spoilt(60, began_s=31, live=2)
    assert limit.allowed == 1


def test_one_call_is_the_least_and_one_too_many_is_told() -> None:
    limit = CallLimit(1, rises=False, cores=1)
    assert not limit.trouble(10, 1, late_ms=10_000)
    assert limit.warning is None
    assert not limit.spoilt(20, began_s=5, live=1)
    assert limit.allowed == 1
    assert limit.warning == "even one call at a time was too much for this machine"


# What is measured.


def test_a_hiccup_long_ago_keeps_nothing_from_rising() -> None:
    machine = rising()
    machine.goes_on(20)
    allowed = machine.limit.allowed
    machine.limit.trouble(machine.now_s, allowed, late_ms=20)
    assert machine.goes_on(120) > allowed


def test_the_load_of_this_machine_is_measured() -> None:
    meter = UseMeter()
    sum(number * number for number in range(2_000_000))
    load = meter.read(12.5)
    assert 0 <= load.machine <= 1
    assert load.process_cores > 0
    assert load.lag_ms == 12.5
    assert available_cores() > 0
