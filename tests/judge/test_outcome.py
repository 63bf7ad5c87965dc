"""The judge about a whole call: what it is told, and what is made of its answer."""

import json
from typing import Any

import anyio
import pytest

from bots.timeline import (
    AgentCalledFunction,
    AgentSaid,
    CallEnded,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    EndedReason,
    Source,
    TimelineEvent,
)
from runner.evaluation.asked import OutcomeJudgement
from runner.judge.judge import LLMJudge
from tests.judge.endpoint import HANGS, Body, Reply, completion, prompt, serve

PROMPT = "The agent greets, and sings an opera."
KEY = "sk-a-key-that-nobody-may-see"
FACTS: list[TimelineEvent] = [
    AgentSaid(at_ns=2_000_000_000, text="Good evening.", source=Source.HEARD, started_ns=1_000_000_000),
    CallerStartedSpeaking(at_ns=3_000_000_000, turn=0, text="A table for two."),
    CallerStoppedSpeaking(at_ns=4_000_000_000, turn=0),
    AgentCalledFunction(at_ns=5_000_000_000, call_id="1", name="book_table", arguments={"people": 2}),
    CallEnded(at_ns=41_500_000_000, reason=EndedReason.CALLER_HUNG_UP),
]


def answered(*answers: tuple[str, str, str]) -> Reply:
    statements = [{"statement": s, "answer": a, "reason": r} for s, a, r in answers]
    return completion(json.dumps({"statements": statements}))


def ask(endpoint: Any, **settings: Any) -> tuple[OutcomeJudgement, LLMJudge]:
    judge = LLMJudge(endpoint.settings(api_key=KEY, **settings))
    return anyio.run(judge.ask_outcome, PROMPT, FACTS), judge


def test_the_judge_gets_expectation_transcript_and_ending() -> None:
    with serve(answered(("it greets", "yes", "Good evening."))) as endpoint:
        judgement, _ = ask(endpoint)
    (body,) = endpoint.bodies
    told = prompt(body)
    assert PROMPT in told and body["temperature"] == 0
    assert "[1.0 to 2.0] Main Agent: Good evening." in told
    assert "[3.0 to 4.0] Testing Agent: A table for two." in told
    assert 'Function Call: book_table {"id": "1", "name": "book_table", "arguments": {"people": 2}}' in told
    assert "Testing agent-ended-call, after 41.5 s" in told
    assert (judgement.prompt, judgement.model) == (PROMPT, "m")


@pytest.mark.parametrize(
    ("answers", "score"),
    [(("yes", "yes"), 100), (("yes", "unreached"), 50), (("unreached", "no"), 0), (("no", "yes"), 0)],
)
def test_any_no_is_0_else_any_open_one_50_else_100(answers: tuple[str, str], score: int) -> None:
    reply = answered(("it greets", answers[0], "Good evening."), ("it sings", answers[1], "It did not."))
    with serve(reply) as endpoint:
        judgement, judge = ask(endpoint)
    assert judgement.score == score
    assert [one.answer for one in judgement.statements] == list(answers)
    usage = judge.usage()
    assert (usage.questions, usage.input_tokens) == (1, 100)


def test_an_answer_within_prose_counts_and_none_is_asked_again() -> None:
    text = json.dumps({"statements": [{"statement": "a", "answer": "yes", "reason": "b"}]})
    replies = [completion("I think it went well."), completion(f"Sure!\n```json\n{text}\n```")]
    with serve(lambda _: replies.pop(0)) as endpoint:
        judgement, _ = ask(endpoint)
    assert judgement.score == 100 and len(endpoint.bodies) == 2


@pytest.mark.parametrize(
    "reply",
    [
        completion("no idea"),
        completion(json.dumps({"statements": []})),
        completion(json.dumps({"statements": [{"statement": "a", "answer": "maybe", "reason": "b"}]})),
        completion(json.dumps({"statements": [{"statement": "a", "answer": "yes", "reason": "b"}] * 101})),
        completion(None),
        Reply({"error": {"message": f"the key {KEY} is wrong"}}, 401),
        Reply("nothing of the kind"),
        HANGS,
    ],
)
def test_a_silent_judge_gives_no_score_and_its_key_stays_hidden(reply: Reply) -> None:
    with serve(reply) as endpoint:
        judgement, _ = ask(endpoint, timeout_s=0.3 if reply.hangs else 5)
    assert judgement.score is None and judgement.statements == ()
    assert judgement.reason.startswith("the judge gave no answer: ")
    assert KEY not in judgement.model_dump_json()


def test_a_key_that_the_model_repeats_is_not_kept() -> None:
    def answer(_: Body) -> Reply:
        return answered((f"say {KEY}", "no", f"it is {KEY}"))

    with serve(answer) as endpoint:
        judgement, _ = ask(endpoint)
    assert judgement.score == 0 and KEY not in judgement.model_dump_json()
