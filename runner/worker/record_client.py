"""The record as a worker sees it: over HTTP, with a worker's key."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from runner.evaluation.asked import NOTHING, Asked
from runner.worker.errors import RecordError
from runner.worker.together import Together

API = "/worker/v1/runs"
TIMEOUT_S = 30.0
QUICK_TIMEOUT_S = 5.0
"""What may be lost, or is asked again in a moment, does not wait for longer."""

CLAIMS_GATHERING_S = 0.02
OUTCOMES_GATHERING_S = 0.1
"""How long what is to be told waits for others of its kind. For a claim a room waits; for an outcome only the next
run that is to have its place."""

UPLOAD_TIMEOUT_S = 300.0
UPLOAD_CHUNK_BYTES = 256 * 1024

_T = TypeVar("_T", bound=BaseModel)

_LATER = frozenset({401, 403, 408, 425, 429})
"""Answers below 500 that may be others a little later: a key can be mended, a limit passes."""

REFUSED = frozenset({401, 403})
"""Answers to a key that is refused, or has no right to this."""

_OF_NO_RECORD = frozenset({502, 504})
"""Answers of what stands before a record that does not answer. 503 may be either's."""


class SessionStart(BaseModel):
    """How a session of the agent is started.

    Attributes:
        start_url: Where to post.
        transport: ``daily`` or ``webrtc``; None leaves it to the other side.
        data: The body that reaches the agent.
        room_properties: Of the Daily room that comes with it.
        credential: Goes along as a bearer header, if there is one.
        private_key: Asks Pipecat Cloud about sessions, and stops them; ``credential`` starts them.
        start_timeout_s: How long starting may take; None as sessions have it.
        agent_join_timeout_s: How long the agent may take to be in the room; None as the settings have it.
        bot_ready_timeout_s: How long to wait for the agent to say that it is ready; None likewise.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    start_url: str
    transport: str | None = None
    data: dict[str, Any] = Field(default_factory=dict, repr=False)
    room_properties: dict[str, Any] = Field(default_factory=dict, repr=False)
    credential: SecretStr | None = None
    private_key: SecretStr | None = None
    start_timeout_s: float | None = None
    agent_join_timeout_s: float | None = None
    bot_ready_timeout_s: float | None = None


class Job(BaseModel):
    """A run that a worker has taken on.

    Attributes:
        run_id: The run.
        attempt: Which attempt at it this is; every report names it.
        scenario: The scenario's name.
        script: What the caller does: a dump of :class:`bots.caller.script.Script`.
        notes: What of the scenario is played otherwise than it says.
        room_url: The room; None where a session is to be started.
        token: The room's token.
        data_message: ``{"value": …}`` where a message is to be published.
        session: How a session is started; None where there is a room.
        session_data: What an agent gets that is started in ``room_url``, where that is a Pipecat runner.
        transcribe: Whether to recognise what the agent said.
        allow_unjudged: Whether the run passes although expectations were not judged or not observable.
        asked: What is asked for besides the script.
        participant_name: The agent's user name in a Daily room; None: as the settings have it.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    run_id: int
    attempt: int
    scenario: str
    script: dict[str, Any] = Field(repr=False)
    notes: tuple[str, ...] = ()
    room_url: str | None = None
    token: SecretStr | None = None
    data_message: dict[str, Any] | None = Field(default=None, repr=False)
    session: SessionStart | None = None
    session_data: dict[str, Any] = Field(default_factory=dict, repr=False)
    transcribe: bool = True
    allow_unjudged: bool = False
    asked: Asked = Field(default=NOTHING, repr=False)
    participant_name: str | None = None


class Problem(BaseModel):
    """Why a run came to no call.

    Attributes:
        cause: Whose fault it was, as :class:`runner.evaluation.outcome.Cause` has it.
        reason: How it ended, as :class:`bots.timeline.EndedReason` has it.
        detail: What happened, in one line; holds no token.
    """

    model_config = ConfigDict(frozen=True)

    cause: str
    reason: str
    detail: str


class RunProgress(BaseModel):
    """How far a run has come.

    Attributes:
        run_id: The run.
        attempt: The attempt.
        status: ``running`` or ``evaluating``.
        joined: Whether the caller is in the room with the agent, or was.
        said: Whether anything was said or published there.
    """

    model_config = ConfigDict(frozen=True)

    run_id: int
    attempt: int
    status: str
    joined: bool
    said: bool


class RunOrder(BaseModel):
    """What the record wants done about a run.

    Attributes:
        run_id: The run.
        attempt: The attempt.
        executor: The worker that has the run, or had it when it ended.
        counts: Whether this attempt counts (any more).
        cancel_requested: Whether its call is to end.
        events_from: How many of its events the record has, where somebody watches it; None where nobody does.
    """

    model_config = ConfigDict(frozen=True)

    run_id: int
    attempt: int
    executor: str | None = None
    counts: bool
    cancel_requested: bool
    events_from: int | None


class _Orders(BaseModel):
    runs: list[RunOrder]


class _Accepted(BaseModel):
    accepted: bool


class _Jobs(BaseModel):
    jobs: list[Job]


class _Answer(BaseModel):
    accepted: bool
    error: str | None


class _Answers(BaseModel):
    answers: list[_Answer]


@dataclass(frozen=True)
class _Claim:
    """A run that is to be taken on."""

    run_id: int
    attempt: int
    executor: str


@dataclass(frozen=True)
class _Outcome:
    """What there is to tell of what a run came to."""

    run_id: int
    attempt: int
    report: dict[str, Any] | Problem

    @property
    def told(self) -> dict[str, Any]:
        """How it is told."""
        report = self.report
        if isinstance(report, Problem):
            return {"attempt": self.attempt, "run": None, "error": report.model_dump(mode="json")}
        return {"attempt": self.attempt, "run": report, "error": None}


class _Released(BaseModel):
    again: bool | None


class RecordClient:
    """Talks to the record.

    Args:
        http: A client with the record's base address, or with its application behind it.
        key: A worker's key.
        refused: Is called whenever the record refuses the key.
    """

    def __init__(self, http: httpx.AsyncClient, key: SecretStr, *, refused: Callable[[], None] = lambda: None):
        self._http = http
        self._key = key
        self._refused = refused
        self._claims = Together(self._claim_one, self._claim_several, gathering_s=CLAIMS_GATHERING_S)
        self._outcomes = Together(self._outcome_of_one, self._outcomes_of_several, gathering_s=OUTCOMES_GATHERING_S)
        self.heard_s = time.monotonic()
        """When the record last answered, on the clock of :func:`time.monotonic`."""
        self._unanswered_since_s: float | None = None

    @property
    def silent_s(self) -> float:
        """For how long it has been asked and has not done anything: it did not answer, or could not (5xx)."""
        since_s = self._unanswered_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    async def knock(self) -> None:
        """Ask whether the record takes the key.

        Raises:
            RecordError: There is no answer, or it does not (401 or 403).
        """
        await self.progress([])

    async def claim(self, run_id: int, attempt: int, executor: str) -> Job | None:
        """Take a run on; None if it is not this worker's any more. The same again gives the same.

        Raises:
            RecordError: There is no answer, or one that says nothing of the run.
        """
        return await self._claims.send(_Claim(run_id, attempt, executor))

    async def progress(self, runs: Sequence[RunProgress]) -> list[RunOrder]:
        """Say how far runs have come; return what is to be done about each.

        Raises:
            RecordError: The record did not take it.
        """
        told = {"runs": [run.model_dump() for run in runs]}
        answer = await self._send("POST", f"{API}/progress", json=told, timeout=QUICK_TIMEOUT_S)
        return _read(_Orders, answer).runs

    async def release(self, run_id: int, attempt: int, *, detail: str, said: bool) -> bool | None:
        """Give a run back.

        Args:
            run_id: The run.
            attempt: The attempt.
            detail: Why, in one line.
            said: Whether anything was said or published in it.

        Returns:
            Whether it waits for a worker again; false if it has ended, None if this attempt did not count any more.

        Raises:
            RecordError: The record did not take it.
        """
        told = {"attempt": attempt, "detail": detail, "said": said}
        answer = await self._send("POST", f"{API}/{run_id}/release", json=told, also={404, 409})
        return None if answer.status_code != 200 else _read(_Released, answer).again

    async def events(self, run_id: int, attempt: int, events: Sequence[str], *, first: int) -> None:
        """Pass on facts of a call, each as JSON, to whoever watches it live; the first has so many before it.

        Raises:
            RecordError: The record did not take them.
        """
        told = f'{{"attempt": {attempt}, "first": {first}, "events": [{", ".join(events)}]}}'
        headers = {"Content-Type": "application/json"}
        await self._send(
            "POST", f"{API}/{run_id}/events", content=told.encode(), headers=headers, timeout=QUICK_TIMEOUT_S
        )

    async def put_artefact(self, run_id: int, attempt: int, name: str, path: Path) -> None:
        """Upload a file.

        Raises:
            RecordError: The record did not take it.
            OSError: It can't be read.
        """
        size = (await anyio.Path(path).stat()).st_size

        async def chunks() -> AsyncGenerator[bytes]:
            async with await anyio.open_file(path, "rb") as file:
                while chunk := await file.read(UPLOAD_CHUNK_BYTES):
                    yield chunk

        await self._send(
            "PUT",
            f"{API}/{run_id}/artefacts/{name}",
            params={"attempt": attempt},
            content=chunks(),
            headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
            timeout=UPLOAD_TIMEOUT_S,
        )

    async def outcome(self, run_id: int, attempt: int, report: dict[str, Any] | Problem) -> bool:
        """Report what a run came to; return whether it counts.

        Args:
            run_id: The run.
            attempt: The attempt.
            report: ``run.json`` without its script, or why there was no call.

        Raises:
            RecordError: The record did not take it.
        """
        answer = await self._outcomes.send(_Outcome(run_id, attempt, report))
        if isinstance(answer, RecordError):
            raise answer
        return answer

    async def _claim_one(self, claim: _Claim) -> Job | None:
        told = {"executor": claim.executor, "attempt": claim.attempt}
        answer = await self._send("POST", f"{API}/{claim.run_id}/claim", json=told, also={404, 409})
        return None if answer.status_code != 200 else _read(Job, answer)

    async def _claim_several(self, claims: Sequence[_Claim]) -> list[Job | None]:
        told = [{"run_id": claim.run_id, "attempt": claim.attempt, "executor": claim.executor} for claim in claims]
        answer = await self._send("POST", f"{API}/claims", json={"claims": told})
        jobs = {(job.run_id, job.attempt): job for job in _read(_Jobs, answer).jobs}
        return [jobs.get((claim.run_id, claim.attempt)) for claim in claims]

    async def _outcome_of_one(self, outcome: _Outcome) -> bool | RecordError:
        path = f"{API}/{outcome.run_id}/outcome"
        answer = await self._send("POST", path, json=outcome.told, also={404, 409})
        return answer.is_success and _read(_Accepted, answer).accepted

    async def _outcomes_of_several(self, outcomes: Sequence[_Outcome]) -> list[bool | RecordError]:
        told = [{"run_id": outcome.run_id, **outcome.told} for outcome in outcomes]
        answer = await self._send("POST", f"{API}/outcomes", json={"outcomes": told})
        answers = _read(_Answers, answer).answers
        if len(answers) != len(outcomes):
            problem = "the record's answer can't be read: it is not of all outcomes"
            raise RecordError(problem, transient=False, status=answer.status_code)
        return [_accepted(each) for each in answers]

    async def _send(
        self, method: str, path: str, *, also: set[int] | None = None, timeout: float = TIMEOUT_S, **request: Any
    ) -> httpx.Response:
        headers = {**request.pop("headers", {}), "Authorization": f"Bearer {self._key.get_secret_value()}"}
        answer: httpx.Response | None = None
        asked_s = time.monotonic()
        try:
            # Cut off half way it may have been taken or not: everything can be told again.
            with anyio.move_on_after(timeout):
                answer = await self._http.request(method, path, headers=headers, timeout=timeout, **request)
        except httpx.HTTPError as error:
            raise self._no_answer(asked_s, f"({type(error).__name__})") from error
        if answer is None:
            raise self._no_answer(asked_s, f"within {timeout:g} s")
        if answer.status_code >= 500:
            self._note_silence(asked_s)
        else:
            self._unanswered_since_s = None
        if answer.status_code not in _OF_NO_RECORD:
            self.heard_s = time.monotonic()
        if answer.is_success or (also is not None and answer.status_code in also):
            return answer
        if answer.status_code in REFUSED:
            self._refused()
        transient = answer.status_code >= 500 or answer.status_code in _LATER
        raise RecordError(
            f"the record answered {path} with HTTP {answer.status_code}",
            transient=transient,
            status=answer.status_code,
        )

    def _no_answer(self, asked_s: float, how: str) -> RecordError:
        self._note_silence(asked_s)
        return RecordError(f"{self._http.base_url}: the record does not answer {how}", transient=True)

    def _note_silence(self, asked_s: float) -> None:
        # What was asked before it last answered says nothing of now.
        if self._unanswered_since_s is None and self.heard_s <= asked_s:
            self._unanswered_since_s = asked_s


def _read(model: type[_T], answer: httpx.Response) -> _T:
    try:
        return model.model_validate_json(answer.content)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise RecordError(
            f"the record's answer can't be read: {where}: {problem['msg']}; is it of another version?",
            transient=False,
            status=answer.status_code,
        ) from None


def _accepted(answer: _Answer) -> bool | RecordError:
    if answer.error is None:
        return answer.accepted
    return RecordError(f"the record refused an outcome: {answer.error}", transient=False, status=400)
