"""Pipecat's judge over any LLM service: one question, one answer, and what it took."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import anyio
import httpx
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient
from pipecat.classifiers.base_classifier import ChoiceResult, ClassifierError, ClassifierResult, YesNoResult
from pipecat.classifiers.llm.classifier import LLMClassifier
from pipecat.evals.judge import EvalJudge, JudgeVerdict
from pipecat.services.llm_service import LLMService
from pipecat.services.openai.llm import OpenAILLMService
from pydantic import ValidationError

from bots.caller.speech.services import make_llm
from bots.caller.speech.settings import SECRET_NAME, ServiceSettings, from_environment
from bots.masking import masked
from bots.timeline import TimelineEvent
from runner.errors import UsageError
from runner.evaluation.asked import OutcomeJudgement, judged
from runner.evaluation.verdicts import Judgement, JudgeUsage, Question
from runner.judge import outcome as outcomes
from runner.judge.conversation import conversation_before
from runner.settings import JudgeSettings

__all__ = ["Judge", "LLMJudge", "make_judge"]

HTTP_RETRIES = 1
"""Of a request that was refused or failed, with the client library's own backoff. The one retry it gets: the judge
itself asks again only where no answer came in time, or one that is none."""

GRACE_S = 1.0
"""How much longer than two timeouts a question may take."""

_LLM_SETTING = re.compile(r"(?<![\w.])llm(?=[.:])")


class Judge(Protocol):
    """Answers questions about a call."""

    async def ask(self, question: Question, facts: Sequence[TimelineEvent]) -> Judgement:
        """Answer a question; never raises for a judge that can't be reached: the answer is then ``none``."""
        ...

    def usage(self) -> JudgeUsage:
        """Return what judging took so far."""
        ...


def make_judge(settings: JudgeSettings) -> "LLMJudge | None":
    """Return the judge that the settings name; None where they name none.

    Raises:
        UsageError: The settings name no LLM service that can be made.
    """
    if not settings.configured:
        return None
    try:
        return LLMJudge(settings)
    except ValueError as error:
        # Made as any LLM service is, but its settings have another name.
        problem = _LLM_SETTING.sub("judge", str(error))
        raise UsageError(problem if problem.startswith("judge") else f"judge: {problem}") from error


class _Tokens:
    """Counts what an OpenAI-compatible endpoint says it used."""

    def __init__(self) -> None:
        self.sent: int | None = None
        self.answered: int | None = None

    async def count(self, response: httpx.Response) -> None:
        await response.aread()
        try:
            usage = response.json().get("usage")
        except (ValueError, AttributeError):
            return
        if isinstance(usage, dict):
            counts = [n if isinstance(n, int) else 0 for n in map(usage.get, ("prompt_tokens", "completion_tokens"))]
            self.sent, self.answered = (self.sent or 0) + counts[0], (self.answered or 0) + counts[1]


class _OpenAICompatible(OpenAILLMService):
    """An endpoint that speaks OpenAI's chat completions; counts tokens, as Pipecat's one-shot inference does not."""

    def __init__(self, tokens: _Tokens, timeout_s: float, **kwargs: Any):
        self._tokens = tokens
        self._timeout_s = timeout_s
        super().__init__(**kwargs)

    def create_client(self, api_key: Any = None, base_url: Any = None, *args: Any, **kwargs: Any) -> AsyncOpenAI:
        return AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            max_retries=HTTP_RETRIES,
            timeout=self._timeout_s,
            http_client=DefaultAsyncHttpxClient(event_hooks={"response": [self._tokens.count]}),
        )

    async def run_inference(self, *args: Any, **kwargs: Any) -> str | None:
        try:
            return await super().run_inference(*args, **kwargs)
        except (ValueError, AttributeError, LookupError, TypeError) as error:
            raise ValueError("what it sent is no chat completion; is base_url right?") from error


class _Classifier(LLMClassifier):
    """Remembers what the last question came to: why it failed, which the judge itself only logs, or its answer.

    ``shown`` makes a text fit to be shown: takes the secrets out.
    """

    def __init__(self, shown: Callable[[str], str], **kwargs: Any):
        super().__init__(**kwargs)
        self._shown = shown
        self.problem = ""
        self.result: ClassifierResult | None = None
        self._tried_again = False

    async def _ask(self, *args: Any, **kwargs: Any) -> Any:
        if self._tried_again:
            raise ClassifierError(self.problem)
        try:
            answers, usage = await super()._ask(*args, **kwargs)
        except ClassifierError as error:
            # The client tried again where that could help.
            self._tried_again = isinstance(error.__cause__, APIStatusError | APIConnectionError)
            self.problem = self._shown(str(error))
            # Without the cause: it could show the key.
            raise ClassifierError(self.problem) from None
        self.result = next(iter(answers.values()))
        return answers, usage


class _Explainer(LLMService[Any]):
    """Gives the reasons; an error of the service it asks, which the judge logs, is fit to be shown."""

    def __init__(self, llm: LLMService[Any], shown: Callable[[str], str]):
        super().__init__()
        self._llm = llm
        self._shown = shown

    async def run_inference(self, *args: Any, **kwargs: Any) -> str | None:
        try:
            return await self._llm.run_inference(*args, **kwargs)
        except Exception as error:
            raise RuntimeError(self._shown(str(error))) from None


class LLMJudge:
    """A judge over an LLM service.

    Raises:
        ValueError: The settings name no service that can be made.
    """

    def __init__(self, settings: JudgeSettings):
        self._settings = settings
        self._tokens = _Tokens()
        self._secrets: frozenset[str] = frozenset()
        self._llm = self._make_llm()
        self._explainer = _Explainer(self._llm, self._shown)
        self._questions = 0
        self.model = str(settings.model or settings.settings.get("model") or settings.service)

    async def ask(self, question: Question, facts: Sequence[TimelineEvent]) -> Judgement:
        """Answer a question."""
        self._questions += 1
        classifier = _Classifier(self._shown, llm=self._llm, timeout=self._settings.timeout_s)
        judge = EvalJudge(classifier, explainer=self._explainer)
        add = {
            "caller": judge.add_user_message,
            "agent": judge.add_assistant_message,
            "function": judge.add_tool_call,
        }
        for said in conversation_before(facts, question):
            add[said.role](said.text)
        verdict: JudgeVerdict | None = None
        # Asked twice if need be; the time that is left goes into the reason.
        with anyio.move_on_after(self._settings.timeout_s * 2 + GRACE_S):
            if question.kind == "call":
                name, _, arguments = question.subject.partition("(")
                verdict = await judge.evaluate_call(name, json.loads(arguments[:-1]), question.criterion)
            else:
                judge.add_assistant_message(question.subject)
                verdict = await judge.evaluate(question.criterion)
        if verdict is None and classifier.result is not None:
            answer, confidence = _answer_of(classifier.result)
            return self._judgement(question, answer, "no reason was given in time", confidence)
        if verdict is None or verdict.confidence is None:
            problem = classifier.problem or "it did not answer in time"
            return self._judgement(question, "none", f"the judge gave no answer: {problem}", None)
        return self._judgement(question, verdict.verdict, self._shown(verdict.reason), verdict.confidence)

    async def ask_outcome(self, prompt: str, facts: Sequence[TimelineEvent]) -> OutcomeJudgement:
        """Say whether a whole call came to what was expected of it.

        Never raises for a judge that can't be reached: the score is then None.
        """
        self._questions += 1
        problem = "it did not answer in time"
        with anyio.move_on_after(self._settings.timeout_s * 2 + GRACE_S):
            for _ in range(2):
                try:
                    with anyio.fail_after(self._settings.timeout_s):
                        answer = await self._llm.run_inference(
                            outcomes.question(prompt, facts),
                            system_instruction=outcomes.INSTRUCTIONS,
                            response_schema=outcomes.SCHEMA,
                        )
                    return judged(prompt, outcomes.statements_of(answer or "", self._shown), self.model)
                except TimeoutError:
                    problem = "it did not answer in time"
                except outcomes.NoAnswer as error:
                    problem = self._shown(str(error))
                except Exception as error:
                    # Whatever a service throws. The client tried again where that could help.
                    problem = self._shown(f"{self._llm} failed to answer: {error}")
                    break
        reason = f"the judge gave no answer: {problem}"
        return OutcomeJudgement(prompt=prompt, score=None, reason=reason, model=self.model)

    def usage(self) -> JudgeUsage:
        """Return what judging took so far."""
        sent, answered = self._tokens.sent, self._tokens.answered
        usd_in, usd_out = self._settings.usd_per_million_input_tokens, self._settings.usd_per_million_output_tokens
        cost_usd = None
        if sent is not None and answered is not None and usd_in is not None and usd_out is not None:
            cost_usd = round((sent * usd_in + answered * usd_out) / 1e6, 6)
        return JudgeUsage(
            model=self.model, questions=self._questions, input_tokens=sent, output_tokens=answered, cost_usd=cost_usd
        )

    def _judgement(self, question: Question, answer: Any, reason: str, confidence: float | None) -> Judgement:
        return Judgement(question=question, answer=answer, reason=reason, confidence=confidence, model=self.model)

    def _make_llm(self) -> LLMService[Any]:
        settings = self._settings
        if settings.service is not None:
            given = {"temperature": 0, **settings.settings}
            try:
                service = ServiceSettings(service=settings.service, params=settings.params, settings=given)
            except ValidationError:
                problem = f"{settings.service!r} is no dotted path of a Pipecat LLM service class"
                raise ValueError(f"judge.service: {problem}") from None
            for values, where in ((settings.params, "judge.params"), (settings.settings, "judge.settings")):
                _, secrets = from_environment(values, where)
                written = {str(value) for name, value in values.items() if SECRET_NAME.search(name)}
                self._secrets |= secrets | written
            return make_llm(service)
        key = "none" if settings.api_key is None else settings.api_key.get_secret_value()
        values, secrets = from_environment({"api_key": key}, "judge")
        self._secrets = secrets if settings.api_key is None else secrets | {key}
        return _OpenAICompatible(
            self._tokens,
            settings.timeout_s,
            name=f"the endpoint {_host(settings.base_url)}",
            api_key=values["api_key"],
            base_url=settings.base_url,
            settings=OpenAILLMService.Settings(model=settings.model, temperature=0),
        )

    def _shown(self, text: str) -> str:
        """Return a text as it may be shown: on one line, without secrets, not too long."""
        text = " ".join(masked(text, self._secrets).split())
        return text if len(text) <= 300 else text[:300] + "…"


def _answer_of(result: ClassifierResult) -> tuple[str, float | None]:
    """Return an answer and the confidence in it, as Pipecat's judge makes them of a result."""
    if isinstance(result, ChoiceResult):
        return result.choice, result.confidence
    if isinstance(result, YesNoResult):
        return "yes" if result.is_yes else "no", max(result.probability, 1 - result.probability)
    return "none", None


def _host(base_url: str | None) -> str:
    try:
        url = httpx.URL(base_url or "https://api.openai.com/v1")
    except httpx.InvalidURL as error:
        raise ValueError(f"judge.base_url: no URL ({error})") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("judge.base_url: no address of an endpoint, such as http://localhost:11434/v1")
    return url.netloc.decode("ascii")
