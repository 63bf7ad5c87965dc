"""The judge over an endpoint: what it sends, what it makes of the answers, and how it fails."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from loguru import logger

from bots.timeline import AgentSaid, CallerStartedSpeaking, CallerTurnStarted, Source, TimelineEvent
from runner.errors import UsageError
from runner.evaluation.verdicts import Judgement, Question
from runner.judge.judge import GRACE_S, LLMJudge, make_judge
from runner.settings import JudgeSettings, load_settings
from tests.examples import named
from tests.judge.endpoint import (
    HANGS,
    Body,
    Endpoint,
    Reply,
    asks_for_reason,
    call_verdict,
    completion,
    prompt,
    reason,
    serve,
    verdict,
)

KEY = "sk-a-key-that-nobody-may-see"
SLACK_S = 5
"""For a busy machine: an endpoint that hangs does so for longer than that."""
FACTS: list[TimelineEvent] = [
    AgentSaid(at_ns=1, text="Good evening, the Lanterna.", source=Source.TOLD),
    CallerTurnStarted(at_ns=2, turn=0),
    CallerStartedSpeaking(at_ns=3, turn=0, text="A table for two at seven, please."),
    AgentSaid(at_ns=9, text="Seven it is.", source=Source.TOLD),
]
REPLY = Question(
    turn=0, index=0, kind="reply", subject="Seven it is.", criterion="confirms a table at seven", at_ns=9
)
CALL = REPLY.model_copy(
    update={"kind": "call", "subject": 'book({"people": 2, "note": "(by the window)"})', "criterion": "is for two"}
)


def ask(judge: LLMJudge, question: Question = REPLY, facts: list[TimelineEvent] = FACTS) -> Judgement:
    return anyio.run(judge.ask, question, facts)


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), level=0, backtrace=True, diagnose=True)
    yield lines
    logger.remove(sink)


def test_a_question_is_asked_once_at_temperature_0_with_a_shape() -> None:
    with serve(verdict("yes")) as endpoint:
        judgement = ask(LLMJudge(endpoint.settings(api_key=KEY)))
    (body,) = endpoint.bodies
    assert body["temperature"] == 0
    assert body["model"] == "m"
    assert body["stream"] is False
    response_format = body["response_format"]
    assert response_format["type"] == "json_schema"
    assert response_format["json_schema"]["strict"] is True
    shape = response_format["json_schema"]["schema"]["properties"]["verdict"]["properties"]
    assert shape["choice"]["enum"] == ["yes", "no", "continue"]
    assert endpoint.keys == [f"Bearer {KEY}"]
    assert (judgement.question, judgement.model) == (REPLY, "m")


def test_a_question_holds_the_conversation_and_the_criterion() -> None:
    with serve(verdict("yes")) as endpoint:
        ask(LLMJudge(endpoint.settings()))
    text = prompt(endpoint.bodies[0])
    state, _ = json.JSONDecoder().raw_decode(text[text.index('{\n  "conversation"') :])
    assert [(entry["speaker"], entry["text"]) for entry in state["conversation"]] == [
        ("bot", "Good evening, the Lanterna."),
        ("user", "A table for two at seven, please."),
    ]
    assert state["latest_bot_reply"] == "Seven it is."
    assert "Criterion: confirms a table at seven." in text


def test_a_function_call_is_judged_by_its_name_and_arguments() -> None:
    with serve(call_verdict(0.9)) as endpoint:
        judgement = ask(LLMJudge(endpoint.settings()), CALL)
    text = prompt(endpoint.bodies[0])
    state, _ = json.JSONDecoder().raw_decode(text[text.index('{\n  "conversation"') :])
    assert state["call"] == {"name": "book", "arguments": {"people": 2, "note": "(by the window)"}}
    assert state["conversation"][-1]["text"] == "Seven it is."
    assert (judgement.answer, judgement.confidence) == ("yes", 0.9)


@pytest.mark.parametrize("answer", ["yes", "no", "continue"])
@pytest.mark.parametrize("probability", [0.97, 0.6])
def test_an_answer_has_its_confidence_and_reason_where_needed(answer: str, probability: float) -> None:
    with serve(
        lambda body: reason("He named seven.") if asks_for_reason(body) else verdict(answer, probability)
    ) as e:
        judgement = ask(LLMJudge(e.settings()))
    assert (judgement.answer, judgement.confidence) == (answer, probability)
    explained = answer == "no" or (answer == "yes" and probability < 0.75)
    assert len(e.bodies) == 1 + explained
    assert (
        judgement.reason == "He named seven." if explained else f"P({answer})={probability:.2f}" in judgement.reason
    )


@pytest.mark.parametrize(("probability", "answer", "confidence"), [(0.5, "yes", 0.5), (0.2, "no", 0.8)])
def test_a_call_is_a_yes_from_one_half_on(probability: float, answer: str, confidence: float) -> None:
    with serve(lambda body: reason("For two.") if asks_for_reason(body) else call_verdict(probability)) as endpoint:
        judgement = ask(LLMJudge(endpoint.settings()), CALL)
    assert (judgement.answer, judgement.confidence, judgement.reason) == (answer, confidence, "For two.")


@pytest.mark.parametrize(
    "content",
    [
        '{"verdict": {"choice": "yes", "probabilities": {"yes": 0.97, "no": 0.02, "continue": 0.01}}}',
        'Sure!\n```json\n{"verdict": {"choice": "yes", "probabilities": {"yes": 0.97}}}\n```',
        '{"choice": "yes", "probabilities": {"yes": "0.97"}}',
    ],
)
def test_an_answer_in_another_wrapping_is_read_as_well(content: str) -> None:
    with serve(completion(content)) as endpoint:
        judgement = ask(LLMJudge(endpoint.settings()))
    assert (judgement.answer, judgement.confidence) == ("yes", 0.97)


def test_a_reason_is_one_line_and_not_too_long() -> None:
    with serve(lambda body: reason("a\nb  " + "c" * 1_000) if asks_for_reason(body) else verdict("no")) as endpoint:
        judgement = ask(LLMJudge(endpoint.settings()))
    assert judgement.reason.startswith("a b c") and len(judgement.reason) == 301


def test_tokens_are_counted_and_have_their_price() -> None:
    prices = {"usd_per_million_input_tokens": 2.0, "usd_per_million_output_tokens": 10.0}
    with serve(lambda body: reason("x") if asks_for_reason(body) else verdict("no")) as endpoint:
        judge = LLMJudge(endpoint.settings(**prices))
        assert judge.usage().model_dump() == {
            "model": "m",
            "questions": 0,
            "input_tokens": None,
            "output_tokens": None,
            "cost_usd": None,
        }
        ask(judge)
        ask(judge, CALL)
    # The second is asked twice: what it is sent is no answer to a question about a call.
    requests = len(endpoint.bodies)
    usage = judge.usage()
    assert (usage.questions, usage.input_tokens, usage.output_tokens) == (2, 100 * requests, 10 * requests)
    assert usage.cost_usd == pytest.approx(requests * (100 * 2 + 10 * 10) / 1e6)


def test_without_prices_or_without_counts_no_cost_is_stated() -> None:
    with serve(verdict("yes")) as endpoint:
        priceless = LLMJudge(endpoint.settings())
        ask(priceless)
    assert priceless.usage().input_tokens == 100 and priceless.usage().cost_usd is None
    with serve(completion('{"choice": "yes"}', sent=None)) as endpoint:
        uncounted = LLMJudge(endpoint.settings(usd_per_million_input_tokens=1.0, usd_per_million_output_tokens=1.0))
        ask(uncounted)
    assert uncounted.usage().input_tokens is None and uncounted.usage().cost_usd is None


def error(status: int, **headers: str) -> Reply:
    return Reply({"error": {"message": f"no: {KEY} is wrong"}}, status, headers)


FAILURES = named(
    ("500", error(500), "Error code: 500", 2),
    ("503", error(503), "Error code: 503", 2),
    ("429", error(429, **{"Retry-After": "0.1"}), "Error code: 429", 2),
    ("401", error(401), "Error code: 401", 1),
    ("404", error(404), "Error code: 404", 1),
    ("timeout", HANGS, "did not answer within 1.0s", 2),
    ("prose", completion("I would say yes."), "did not answer with a JSON object", 2),
    ("no option", completion('{"verdict": {"choice": "maybe"}}'), "'maybe', which is not an option", 2),
    ("half an answer", completion('{"verdict": {"choice": '), "JSON", 2),
    ("nothing", completion(None), "did not answer with a JSON object", 2),
    ("a web page", Reply("<html>Welcome</html>"), "no chat completion", 2),
    ("no choices", Reply({"choices": []}), "no chat completion", 2),
)


@pytest.mark.parametrize("question", [REPLY, CALL], ids=["reply", "call"])
@pytest.mark.parametrize(("answer", "problem", "requests"), FAILURES)
def test_a_judge_that_fails_says_why_after_one_retry_and_in_time(
    answer: Reply, problem: str, requests: int, question: Question, log: list[str]
) -> None:
    if question is CALL and "option" in problem:
        problem = "no usable 'probability'"
    with serve(answer) as endpoint:
        settings = endpoint.settings(api_key=KEY, timeout_s=1.0 if answer.hangs else 5)
        judge = LLMJudge(settings)
        began_s = time.monotonic()
        judgement = ask(judge, question)
        took_s = time.monotonic() - began_s
    assert (judgement.answer, judgement.confidence) == ("none", None)
    assert judgement.reason.startswith("the judge gave no answer: ") and problem in judgement.reason
    assert len(endpoint.bodies) == requests
    assert took_s < 2 * settings.timeout_s + GRACE_S + SLACK_S
    # The endpoint says the key back: nobody else does.
    everything = [judgement.reason, repr(judgement), repr(judge), repr(settings), str(settings), *log]
    assert not any(KEY in text for text in everything)


def test_a_refused_connection_says_so_and_where() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        judge = LLMJudge(JudgeSettings(base_url=f"http://127.0.0.1:{port}/v1", model="m", timeout_s=5))
        began_s = time.monotonic()
        judgement = ask(judge)
    assert judgement.answer == "none"
    assert f"127.0.0.1:{port}" in judgement.reason and "Connection error" in judgement.reason
    assert time.monotonic() - began_s < 5


def after(count: int, first: Reply, then: Reply) -> Callable[[Body], Reply]:
    seen: list[Body] = []

    def answer(body: Body) -> Reply:
        seen.append(body)
        return first if len(seen) <= count else then

    return answer


@pytest.mark.parametrize("first", [error(500), error(429, **{"Retry-After": "0.1"}), HANGS, completion("Well…")])
def test_a_failure_that_passes_is_none(first: Reply) -> None:
    with serve(after(1, first, verdict("yes"))) as endpoint:
        judgement = ask(LLMJudge(endpoint.settings(timeout_s=1.0 if first.hangs else 5)))
    assert judgement.answer == "yes"
    assert len(endpoint.bodies) == 2


@pytest.mark.parametrize(("question", "answer"), [(REPLY, verdict("no")), (CALL, call_verdict(0.1))])
@pytest.mark.parametrize("why", [HANGS, error(500), error(401)], ids=["hangs", "500", "401"])
def test_a_verdict_counts_although_its_reason_never_came(
    question: Question, answer: Reply, why: Reply, log: list[str]
) -> None:
    with serve(lambda body: why if asks_for_reason(body) else answer) as endpoint:
        settings = endpoint.settings(api_key=KEY, timeout_s=1.0 if why.hangs else 5)
        began_s = time.monotonic()
        judgement = ask(LLMJudge(settings), question)
    assert judgement.answer == "no"
    assert judgement.confidence == pytest.approx(0.9, abs=0.1)
    assert judgement.reason and (judgement.reason == "no reason was given in time") is why.hangs
    assert time.monotonic() - began_s < 2 * settings.timeout_s + GRACE_S + SLACK_S
    assert not any(KEY in text for text in [judgement.reason, *log])


def test_a_judge_that_failed_can_be_asked_again() -> None:
    with serve(after(1, error(401), verdict("yes"))) as endpoint:
        judge = LLMJudge(endpoint.settings())
        assert [ask(judge).answer, ask(judge).answer] == ["none", "yes"]
    assert judge.usage().questions == 2


def test_questions_can_be_asked_at_once() -> None:
    async def many(judge: LLMJudge) -> list[str]:
        answers: list[str] = []

        async def one(index: int) -> None:
            question = REPLY.model_copy(update={"criterion": f"criterion {index}"})
            answers.append((await judge.ask(question, FACTS)).answer)

        async with anyio.create_task_group() as tasks:
            for index in range(5):
                tasks.start_soon(one, index)
        return answers

    with serve(verdict("yes")) as endpoint:
        judge = LLMJudge(endpoint.settings())
        assert anyio.run(many, judge) == ["yes"] * 5
    assert judge.usage().questions == 5
    assert judge.usage().input_tokens == 500


# Settings: everything that is wrong with them is one error, before any call.


def service(endpoint: Endpoint, **given: Any) -> JudgeSettings:
    """The same endpoint by way of a Pipecat service."""
    return JudgeSettings(
        service="pipecat.services.openai.llm.OpenAILLMService",
        params={"api_key": KEY, "base_url": endpoint.url},
        settings={"model": "m", **given},
        timeout_s=5,
    )


def test_any_pipecat_service_can_judge_at_temperature_0_too(log: list[str]) -> None:
    with serve(verdict("yes")) as endpoint:
        judgement = ask(LLMJudge(service(endpoint)))
        ask(LLMJudge(service(endpoint, temperature=0.3)))
    assert (judgement.answer, judgement.model) == ("yes", "m")
    assert [body["temperature"] for body in endpoint.bodies] == [0, 0.3]
    with serve(error(401)) as endpoint:
        judgement = ask(LLMJudge(service(endpoint)))
    assert "401" in judgement.reason
    assert not any(KEY in text for text in [judgement.reason, *log])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"service": "nowhere.Judge"}, "can't be imported"),
        ({"service": "pipecat.services.openai.llm.NoService"}, "has no 'NoService'"),
        ({"service": "pathlib.Path"}, "is not a LLMService"),
        ({"service": "nothing"}, "no dotted path"),
        ({"model": "m", "api_key": "env:NO_SUCH_VARIABLE_ANYWHERE"}, "'NO_SUCH_VARIABLE_ANYWHERE' is not set"),
        (
            {
                "service": "pipecat.services.openai.llm.OpenAILLMService",
                "params": {"api_key": "env:NO_SUCH_VARIABLE_ANYWHERE"},
            },
            "'NO_SUCH_VARIABLE_ANYWHERE' is not set",
        ),
        (
            {
                "service": "pipecat.services.openai.llm.OpenAILLMService",
                "params": {"api_key": KEY},
                "settings": {"modle": "m"},
            },
            "'model'",
        ),
        ({"model": "m", "base_url": "localhost:11434/v1"}, "judge.base_url"),
        ({"model": "m", "base_url": "http://[::1/v1"}, "judge.base_url"),
    ],
)
def test_a_judge_that_can_t_be_made_is_a_usage_error(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_judge(JudgeSettings(**settings))
    assert problem in str(caught.value)
    assert str(caught.value).startswith("judge") and "llm:" not in str(caught.value)
    assert "\n" not in str(caught.value) and KEY not in str(caught.value)


def test_without_settings_there_is_no_judge() -> None:
    assert make_judge(JudgeSettings()) is None


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ('model = "m"\nservice = "a.B"\n', "an endpoint (model, base_url, api_key) or a service"),
        (f'service = "a.B"\napi_key = "{KEY}"\n', "an endpoint (model, base_url, api_key) or a service"),
        ('base_url = "http://localhost:1/v1"\n', "an endpoint needs model"),
        (f'params = {{ api_key = "{KEY}" }}\n', "belong to a service"),
        ('model = "m"\ntimeout_s = 0\n', "timeout_s"),
        ('model = "m"\ntemprature = 1\n', "there is no such setting"),
    ],
)
def test_settings_that_contradict_each_other_are_one_usage_error(tmp_path: Path, file: str, problem: str) -> None:
    path = tmp_path / "runner.toml"
    path.write_text("[judge]\n" + file)
    with pytest.raises(UsageError) as caught:
        load_settings(path)
    assert problem in str(caught.value)
    assert KEY not in str(caught.value)


def test_the_key_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_THE_JUDGE", KEY)
    with serve(error(401)) as endpoint:
        judgement = ask(LLMJudge(endpoint.settings(api_key="env:KEY_OF_THE_JUDGE")))
    assert endpoint.keys == [f"Bearer {KEY}"]
    assert KEY not in judgement.reason
