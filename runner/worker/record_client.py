"""The record as a worker sees it: over HTTP, with an address and a worker's key."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpx
from loguru import logger
from pydantic import SecretStr, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, retry_if_result, wait_exponential

from runner.errors import RunnerError
from runner.protocol.messages import (
    PART_BYTES,
    ROOT,
    VERSION,
    Answer,
    AnyMessage,
    EventsTaken,
    Gone,
    Hello,
    Message,
    Poll,
    Receipt,
    Report,
    Stored,
    hold_s,
)

TIMEOUT_S = 30.0
PART_TIMEOUT_S = 300.0
"""For a part of a file, as long as something of it goes out every :data:`TIMEOUT_S`."""

QUICK_TIMEOUT_S = 5.0
"""What may be lost, or is asked again in a moment, does not wait for longer. A waiting poll has so long besides."""

CHUNK_BYTES = 256 * 1024

_LATER = frozenset({401, 403, 408, 425, 429})
"""Answers below 500 that may be others a little later: a key can be mended, a limit passes."""

REFUSED = frozenset({401, 403})
"""Answers to a key that is refused, or has no right to this."""

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 3.0
"""How long to wait before the record is told again: longer each time."""

_WARNED_AT = (5, 50)
"""After so many tries it is worth a warning."""

_JSON = {"Content-Type": "application/json"}

_T = TypeVar("_T")


class RecordError(RunnerError):
    """The record did not take what it was told.

    Args:
        transient: Whether the same may be taken a little later.
        status: The HTTP status; None where there was no answer.
    """

    def __init__(self, message: str, *, transient: bool, status: int | None = None):
        super().__init__(message)
        self.transient = transient
        self.status = status


class GivenUp(RunnerError):
    """The record has given this worker up for lost: what it had is somebody else's."""


class RecordClient:
    """Talks to the record, over a client with its address. What it does not take raises :class:`RecordError`."""

    def __init__(self, http: httpx.AsyncClient, key: SecretStr):
        self._http = http
        self._key = key

    async def hello(self) -> Hello:
        """Ask whether the record is there, takes the key, and speaks as this worker does."""
        said = _read(Hello, await self._send("GET", f"{ROOT}/hello", timeout=QUICK_TIMEOUT_S))
        if said.protocol != VERSION:
            raise RecordError(
                f"the server (release {said.version}) speaks version {said.protocol} of the workers' messages, "
                f"and this worker version {VERSION}: use the same release for both",
                transient=False,
            )
        return said

    async def poll(self, poll: Poll, *, lease_s: float) -> Answer:
        """Say what this worker is and has; return what it is to do. How long that may wait the last lease says.

        Raises:
            GivenUp: The record has given this worker up.
        """
        waits_s = hold_s(lease_s, has_runs=bool(poll.runs)) if poll.waits else 0.0
        answer = await self._tell("/poll", poll, timeout=QUICK_TIMEOUT_S + waits_s, also={410})
        if answer.status_code == 410:
            raise GivenUp("the server gave this worker up for lost")
        return _read(Answer, answer)

    async def gone(self, gone: Gone) -> None:
        """Tell that a worker's process is dead."""
        await self._tell("/gone", gone, timeout=QUICK_TIMEOUT_S)

    async def report(self, report: Report) -> Receipt:
        """Tell what came of an attempt at a run."""
        return _read(Receipt, await self._tell("/report", report))

    async def events(self, run_id: int, attempt: int, events: Sequence[str], *, call: int, first: int) -> int | None:
        """Pass on facts of a call, each as JSON, to whoever watches; return which one is wanted next, if any."""
        told = f'{{"attempt": {attempt}, "call": {call}, "first": {first}, "events": [{", ".join(events)}]}}'
        answer = await self._send(
            "POST",
            f"{ROOT}/runs/{run_id}/events",
            content=told.encode(),
            headers=_JSON,
            timeout=QUICK_TIMEOUT_S,
        )
        return _read(EventsTaken, answer).next

    async def sound(self, run_id: int, attempt: int, pcm: bytes) -> None:
        """Pass on sound of a call to whoever listens to it. What is not taken is lost."""
        await self._send(
            "POST",
            f"{ROOT}/runs/{run_id}/sound",
            params={"attempt": attempt},
            content=pcm,
            headers={"Content-Type": "application/octet-stream"},
            timeout=QUICK_TIMEOUT_S,
        )

    async def put_artefact(self, run_id: int, attempt: int, executor: str, name: str, path: Path) -> None:
        """Upload a file, in parts: what is there already is not sent again.

        Raises:
            OSError: It can't be read.
        """
        size = (await anyio.Path(path).stat()).st_size
        address = f"{ROOT}/runs/{run_id}/artefacts/{name}"
        whose: dict[str, Any] = {"attempt": attempt, "executor": executor}
        there = _read(Stored, await self._send("GET", address, params=whose))
        while not there.is_whole:
            length = min(PART_BYTES, size - there.size)
            if length < 0:
                raise RecordError(f"the server has more of {name} than there is", transient=False)
            # 409: an earlier part that was given up has come after all. Whether it is that, asking again tells.
            answer = await self._send(
                "PUT",
                address,
                params={**whose, "offset": there.size, "size": size},
                content=_part(path, there.size, length),
                headers={"Content-Length": str(length), "Content-Type": "application/octet-stream"},
                timeout=PART_TIMEOUT_S,
                later={*_LATER, 409},
            )
            there = _read(Stored, answer)

    async def _tell(
        self, path: str, message: Message, *, timeout: float = TIMEOUT_S, also: Collection[int] = ()
    ) -> httpx.Response:
        return await self._send(
            "POST", f"{ROOT}{path}", content=message.on_the_wire(), headers=_JSON, timeout=timeout, also=also
        )

    async def _send(
        self,
        method: str,
        path: str,
        *,
        also: Collection[int] = (),
        later: Collection[int] = _LATER,
        timeout: float = TIMEOUT_S,
        **request: Any,
    ) -> httpx.Response:
        headers = {**request.pop("headers", {}), "Authorization": f"Bearer {self._key.get_secret_value()}"}
        answer: httpx.Response | None = None
        try:
            # Cut off half way it may have been taken or not: everything can be told again.
            with anyio.move_on_after(timeout):
                answer = await self._http.request(
                    method, path, headers=headers, timeout=min(timeout, TIMEOUT_S), **request
                )
        except httpx.HTTPError as error:
            raise self._no_answer(f"({type(error).__name__})") from error
        if answer is None:
            raise self._no_answer(f"within {timeout:g} s")
        if answer.is_success or answer.status_code in also:
            return answer
        raise RecordError(
            f"the server answered {path} with HTTP {answer.status_code}{_detail(answer)}",
            transient=answer.status_code >= 500 or answer.status_code in later,
            status=answer.status_code,
        )

    def _no_answer(self, how: str) -> RecordError:
        return RecordError(f"{self._http.base_url}: the server does not answer {how}", transient=True)


async def _part(path: Path, offset: int, length: int) -> AsyncGenerator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        await file.seek(offset)
        while length > 0 and (chunk := await file.read(min(CHUNK_BYTES, length))):
            length -= len(chunk)
            yield chunk


def _detail(answer: httpx.Response) -> str:
    """Return what an answer says of why a worker of this version is refused."""
    if answer.status_code != 426:
        return ""
    try:
        return f": {answer.json()['detail']}"
    except (ValueError, KeyError, TypeError):
        return ""


def _read(model: type[AnyMessage], answer: httpx.Response) -> AnyMessage:
    try:
        return model.model_validate_json(answer.content)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise RecordError(
            f"the server's answer can't be read: {where}: {problem['msg']}; is it of another version?",
            transient=False,
            status=answer.status_code,
        ) from None


async def retried(
    tell: Callable[[], Awaitable[_T]], *, gives_up: Callable[[RecordError], bool] = lambda error: False
) -> _T:
    """Tell the record something until it takes it, with waits that grow.

    Args:
        gives_up: Whether to try no more after an error, although the same may be taken a little later.

    Raises:
        RecordError: It never will, or was given up.
    """

    def is_retried(error: BaseException) -> bool:
        return isinstance(error, RecordError) and error.transient and not gives_up(error)

    def note(state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        logger.log("WARNING" if state.attempt_number in _WARNED_AT else "DEBUG", "{}; tried again", error)

    return await _retrying(retry=retry_if_exception(is_retried), before_sleep=note)(_once, tell)


async def retried_until_true(tell: Callable[[], Awaitable[bool]]) -> None:
    """Tell the record something until that returns True, with waits that grow."""
    await _retrying(retry=retry_if_result(lambda told: not told))(_once, tell)


def _retrying(**how: Any) -> AsyncRetrying:
    return AsyncRetrying(sleep=anyio.sleep, wait=wait_exponential(FIRST_WAIT_S, LONGEST_WAIT_S), **how)


async def _once(tell: Callable[[], Awaitable[_T]]) -> _T:
    return await tell()
