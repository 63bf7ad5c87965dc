"""Speech models in a process of their own: one beside each process that calls, and less important than it.

Recognising and speaking use a core for seconds. In the process that calls, that would hold up what has to be on time;
beside it, at a lower priority, the machine gives it what is left over. It is started when it is first needed, shared
by all calls, started again should it die, and ends with the process it belongs to, however that ends.

Requests and answers are pickles over the process's own pipes. It is started from the program text alone, so that a
caller's script is not run a second time (as :mod:`multiprocessing` would).
"""

import asyncio
import atexit
import itertools
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, Any

from bots.caller.speech.errors import SpeechError

__all__ = ["run"]

NICENESS = 10
"""How much less important the process is than the one that calls."""

ATTEMPTS = 2
"""A request whose process died is made once more."""

_Request = tuple[int, Callable[..., Awaitable[Any]] | None, tuple[Any, ...]]
"""Number, what to call (None to give the request up), and its arguments."""

_LENGTH = struct.Struct("<Q")
_START = "from bots.caller.speech.apart import serve; serve()"


async def run(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Call a module's own coroutine function in the other process.

    It is found there by its name; its arguments and result must be picklable.

    Raises:
        SpeechError: The process died, twice.
        Exception: What the function raised.
    """
    for attempt in itertools.count(1):
        process = await asyncio.to_thread(_current)
        number, answer = process.ask(function, args)
        try:
            return await asyncio.wrap_future(answer)
        except asyncio.CancelledError:
            process.give_up(number)
            raise
        except _Died as died:
            if attempt == ATTEMPTS:
                raise SpeechError(f"the speech process ended by itself, {ATTEMPTS} times ({died})") from None
    raise AssertionError  # pragma: no cover - the loop has no other end


class _Died(Exception):
    """The process ended before it answered."""


class _Process:
    """The process, seen from the one it belongs to."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}  # noqa: PTH109
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-c", _START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._open: dict[int, Future[Any]] = {}
        self._requests: SimpleQueue[_Request | None] = SimpleQueue()
        self.died = False
        for work in (self._send_requests, self._take_answers):
            threading.Thread(target=work, name="speech process", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> tuple[int, Future[Any]]:
        answer: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            if self.died:
                answer.set_exception(_Died("it had ended"))
            else:
                self._open[number] = answer
                self._requests.put((number, function, args))
        return number, answer

    def give_up(self, number: int) -> None:
        with self._lock:
            if self._open.pop(number, None) is not None:
                self._requests.put((number, None, ()))

    def end(self) -> None:
        self._requests.put(None)
        self._process.kill()
        self._process.wait()

    def _send_requests(self) -> None:
        """Write requests, from a thread of its own: a busy process may take a while to read them."""
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        while (request := self._requests.get()) is not None:
            try:
                _send(self._process.stdin, request)
            except OSError:
                return
            except Exception as error:
                # It can't be pickled.
                self._settle(request[0], None, error)

    def _take_answers(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        try:
            while (answer := _receive(self._process.stdout)) is not None:
                self._settle(*answer)
        except Exception:
            # An answer that can't be read: those after it can't be either.
            self._process.kill()
        code = self._process.wait()
        self._requests.put(None)
        with self._lock:
            self.died = True
            left = list(self._open)
        for number in left:
            self._settle(number, None, _Died(f"exit code {code}"))

    def _settle(self, number: int, value: Any, error: Exception | None) -> None:
        with self._lock:
            answer = self._open.pop(number, None)
        # Cancelled is who asked for it.
        if answer is None or not answer.set_running_or_notify_cancel():
            return
        if error is None:
            answer.set_result(value)
        else:
            answer.set_exception(error)


_process: _Process | None = None
_process_lock = threading.Lock()


def _current() -> _Process:
    global _process  # noqa: PLW0603 - one for the whole process
    with _process_lock:
        if _process is None or _process.died:
            _process = _Process()
        return _process


@atexit.register
def _end() -> None:
    if _process is not None:
        _process.end()


def _send(stream: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """Return the next message; None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    return pickle.loads(data) if len(data) == length else None  # noqa: S301 - from our own process


# --------------------------------------------------------------------------------------------- in the other process


def serve() -> None:
    """Answer requests until the process that makes them ends."""
    os.nice(NICENESS)
    # Ctrl-C reaches all processes of a terminal: what it means for a call is decided where the call is.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a library prints is no answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="ERROR")
    asyncio.run(_Server(answers).run())


class _Server:
    def __init__(self, answers: IO[bytes]):
        self._answers = answers
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()

        def take_requests() -> None:
            try:
                while (request := _receive(sys.stdin.buffer)) is not None:
                    loop.call_soon_threadsafe(self._take, *request)
            except Exception:
                # What comes after what can't be read can't be read either: whoever waits must know.
                os._exit(1)
            # Nobody is left to answer to, whatever is under way.
            os._exit(0)

        threading.Thread(target=take_requests, name="requests", daemon=True).start()
        await asyncio.Event().wait()

    def _take(self, number: int, function: Callable[..., Awaitable[Any]] | None, args: tuple[Any, ...]) -> None:
        if function is not None:
            self._tasks[number] = asyncio.create_task(self._answer(number, function, args))
        elif number in self._tasks:
            self._tasks[number].cancel()

    async def _answer(self, number: int, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            answer = (number, await function(*args), None)
        except Exception as error:
            answer = (number, None, _picklable(error))
        finally:
            del self._tasks[number]
        try:
            _send(self._answers, answer)
        except OSError:
            raise
        except Exception as error:
            # The answer itself can't be sent.
            _send(self._answers, (number, None, _picklable(error)))


def _picklable(error: Exception) -> Exception:
    with suppress(Exception):
        if repr(pickle.loads(pickle.dumps(error))) == repr(error):  # noqa: S301 - made here
            return error
    return SpeechError(f"{type(error).__name__}: {error}")
