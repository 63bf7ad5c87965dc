"""What was asked for besides the script: a run that passes by it passes only if all of that was judged and had."""

from typing import Any

import pytest

from bots.caller.script import Listen, Script, Speak, Turn, Words
from bots.timeline import (
    AgentAudioLost,
    AgentSaid,
    CallEnded,
    CallerTurnStarted,
    CallStarted,
    EndedReason,
    HarnessStalled,
    MachineBusy,
    Source,
    TimelineEvent,
)
from runner.calls.run_file import Circumstances, Run, judge_run
from runner.evaluation.asked import (
    Asked,
    Condition,
    OutcomeJudgement,
    Statement,
    is_expression,
    judged,
    not_honoured,
    open_questions,
)
from runner.evaluation.outcome import FailureKind
from runner.evaluation.verdicts import Cause, Judgement, by_question

SCRIPT = Script(
    name="asked",
    turns=(Turn(action=Listen()), Turn(action=Speak(parts=(Words(text="John Smith"),)))),
)
PROMPT = "must sing an opera"


def facts(*said: tuple[str, Source], reason: EndedReason = EndedReason.CALLER_HUNG_UP) -> list[TimelineEvent]:
    """Return a call in which the agent says something before the caller's second turn."""
    return [
        CallStarted(at_ns=0, run_id="1", scenario="asked", room="r", wall_time="now", monotonic_ns=1),
        CallerTurnStarted(at_ns=10, turn=0),
        *(AgentSaid(at_ns=20 + n, text=text, source=source) for n, (text, source) in enumerate(said)),
        CallerTurnStarted(at_ns=100, turn=1),
        AgentSaid(at_ns=120, text="Later: the name, please.", source=Source.HEARD),
        CallEnded(at_ns=200, reason=reason),
    ]


NAME = (("May I have your name?", Source.HEARD),)


def run_of(asked: Asked, said: Any = NAME, **circumstances: Any) -> Run:
    reason = circumstances.pop("reason", EndedReason.CALLER_HUNG_UP)
    return judge_run(SCRIPT, facts(*said, reason=reason), Circumstances(asked=asked, **circumstances))


def answer(*answers: Any) -> OutcomeJudgement:
    return judged(
        PROMPT, [Statement(statement=f"s{n}", answer=a, reason=f"r{n}") for n, a in enumerate(answers)], "m"
    )


def test_a_run_of_which_nothing_was_asked_passes_by_its_script() -> None:
    run = run_of(Asked())
    assert (run.success, run.failure, run.not_honoured) == (True, None, [])


def test_a_prompt_that_nobody_judged_is_not_passed() -> None:
    run = run_of(Asked(expected_outcome=PROMPT))
    assert (run.success, run.cause) == (None, None)
    assert run.detail is not None and run.detail.startswith(
        "expected_outcome_prompt was not judged: no judge was asked"
    )
    assert run.failure is not None and run.failure.kind is FailureKind.NOT_JUDGED
    assert run.failure.headline == run.detail


@pytest.mark.parametrize(
    ("answers", "success", "score"),
    [
        (("yes", "yes"), True, 100),
        (("yes", "unreached"), None, 50),
        (("unreached", "no"), False, 0),
    ],
)
def test_the_judges_answer_counts(answers: tuple[str, ...], success: bool | None, score: int) -> None:
    judgement = answer(*answers)
    assert judgement.score == score
    run = run_of(Asked(expected_outcome=PROMPT), expected_outcome=judgement)
    assert run.success is success and run.expected_outcome == judgement
    assert run.cause is (Cause.AGENT if success is False else None)
    if success is not True:
        assert run.detail is not None and run.detail.endswith("s1: r1")


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [
        (MachineBusy(at_ns=15, duration_ms=2_000, waited=0.55, shared=True), Cause.AGENT),
        (HarnessStalled(at_ns=15, duration_ms=300), Cause.AGENT),
        (MachineBusy(at_ns=15, duration_ms=2_000, waited=0.9, shared=True), Cause.HARNESS),
        (HarnessStalled(at_ns=15, duration_ms=1_500), Cause.HARNESS),
        (AgentAudioLost(at_ns=15, duration_ms=80), Cause.NETWORK),
    ],
)
def test_what_only_slows_an_agent_down_excuses_no_wrong_end(trouble: TimelineEvent, cause: Cause) -> None:
    told = [*facts(*NAME), trouble]
    asked = Circumstances(asked=Asked(expected_outcome=PROMPT), expected_outcome=answer("no"))
    assert judge_run(SCRIPT, told, asked).cause is cause


def test_a_judge_that_gives_no_answer_passes_nothing() -> None:
    silent = OutcomeJudgement(prompt=PROMPT, score=None, reason="the judge gave no answer: it is away")
    run = run_of(Asked(expected_outcome=PROMPT), expected_outcome=silent)
    assert run.success is None
    assert run.detail == "expected_outcome_prompt was not judged: the judge gave no answer: it is away"
    assert judged(PROMPT, [], "m").score == 50


def test_what_failed_or_is_undecided_by_the_script_stays_so() -> None:
    asked = Asked(expected_outcome=PROMPT, not_honoured=("x",))
    left = run_of(asked, expected_outcome=answer("yes"), reason=EndedReason.AGENT_FROZE)
    assert (left.success, left.cause) == (False, Cause.AGENT)
    lost = run_of(asked, expected_outcome=answer("no"), reason=EndedReason.ICE_FAILED)
    assert (lost.success, lost.cause) == (None, Cause.NETWORK)


def test_what_can_not_be_had_is_named_and_passes_nothing() -> None:
    run = run_of(Asked(not_honoured=("personality.background_noise: 'cafe' is not played here", "metrics: none")))
    assert run.success is None
    assert run.not_honoured == ["personality.background_noise: 'cafe' is not played here", "metrics: none"]
    assert run.detail == (
        "what was asked for was not all had: personality.background_noise: 'cafe' is not played here (and 1 more)"
    )


def test_allowing_unjudged_runs_passes_nothing_that_is_refuted() -> None:
    asked = Asked(expected_outcome=PROMPT, not_honoured=("x",))
    assert run_of(asked, allow_unjudged=True).success is True
    assert run_of(asked, allow_unjudged=True, expected_outcome=answer("unreached")).success is True
    assert run_of(asked, allow_unjudged=True, expected_outcome=answer("no")).success is False


def condition(when: str, turn: int = 1) -> Asked:
    return Asked(conditions=(Condition(turn=turn, where="conditions[1].condition", when=when),))


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ('contains "your  NAME"', True),
        ('contains "number"', False),
        ('contains "number" OR contains "name"', True),
        ('contains "name" AND contains "number"', False),
        ('contains "name" and contains "number" or contains "may i"', True),
        ('contains "Later"', False),
    ],
)
def test_a_condition_looks_at_the_words_before_the_line(when: str, holds: bool) -> None:
    assert is_expression(when)
    run = run_of(condition(when))
    assert run.success is (True if holds else None)
    if not holds:
        quoted = " ".join(when.split())
        assert run.not_honoured == [f"conditions[1].condition: {quoted!r} had not come true when its line was said"]
    assert open_questions(condition(when), facts(*NAME), {}) == []


def test_a_condition_holds_by_words_heard_or_told() -> None:
    said = (("My eye have your mane?", Source.HEARD), ("May I have your name?", Source.TOLD))
    assert run_of(condition('contains "name"'), said).success is True


def test_a_condition_in_words_takes_a_judge_and_its_yes() -> None:
    asked = condition("The agent asks for the name")
    (question,) = open_questions(asked, facts(*NAME), {})
    assert (question.subject, question.criterion) == ("May I have your name?", "The agent asks for the name")
    alone = run_of(asked)
    assert alone.success is None and "takes a judge" in alone.not_honoured[0]
    for said, success in (("yes", True), ("no", None), ("continue", None), ("none", None)):
        judgement = Judgement(question=question, answer=said, reason="because")  # type: ignore[arg-type]
        run = run_of(asked, judgements=[judgement])
        assert run.success is success, said
        assert all("because" in sentence for sentence in run.not_honoured)
        assert open_questions(asked, facts(*NAME), by_question([judgement])) == []
    assert "nobody was asked" in not_honoured(asked, facts(*NAME), {})[0]


def test_no_condition_is_true_before_the_agent_said_anything() -> None:
    for when in ("The agent asks for the name", 'contains "name"'):
        (sentence,) = not_honoured(condition(when), facts(), None)
        assert "had not come true" in sentence
        assert open_questions(condition(when), facts(), {}) == []


def test_a_line_that_was_never_said_asks_for_nothing() -> None:
    assert not_honoured(condition("The agent asks", turn=7), facts(*NAME), None) == []
    assert open_questions(condition("The agent asks", turn=7), facts(*NAME), {}) == []


def test_a_run_that_is_judged_again_is_the_same_byte_for_byte() -> None:
    asked = Asked(
        expected_outcome=PROMPT,
        conditions=condition("The agent asks for the name").conditions,
        not_honoured=("personality.language: 'es'",),
    )
    (question,) = open_questions(asked, facts(*NAME), {})
    run = run_of(
        asked,
        judgements=[Judgement(question=question, answer="no", reason="because")],
        expected_outcome=answer("yes", "no"),
        warnings=["w"],
        notes=["n"],
    )
    kept = Run.model_validate_json(run.model_copy(update={"versions": {"python": "2"}}).model_dump_json())
    again = judge_run(kept.script, facts(*NAME), kept.circumstances)
    assert again.model_dump_json() == kept.model_dump_json()


def test_a_condition_to_hang_up_looks_at_the_last_words() -> None:
    asked = Asked(conditions=(Condition(turn=2, where="conditions[2].when", when='contains "bye"', hangs_up=True),))
    assert "had not come true when the caller hung up" in not_honoured(asked, facts(*NAME), None)[0]
    later = asked.conditions[0].model_copy(update={"when": 'contains "later"'})
    assert not_honoured(Asked(conditions=(later,)), facts(*NAME), None) == []
    # The agent left: nobody hung up on it.
    assert not_honoured(asked, facts(*NAME, reason=EndedReason.AGENT_LEFT), None) == []
