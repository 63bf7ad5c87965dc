"""Speech models work in one process beside this one, which ends with it and can be lost without losing a call."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bots.caller.speech import apart
from bots.caller.speech.errors import MissingSpeechPackage, SpeechError
from tests.patience import wait_until

pytestmark = pytest.mark.anyio


async def about_it() -> tuple[int, int]:
    return os.getpid(), os.nice(0)


async def double(value: int) -> int:
    return 2 * value


async def sleep(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


async def die(code: int) -> None:
    os._exit(code)


async def die_once(witness: str) -> str:
    try:
        Path(witness).mkdir()  # noqa: ASYNC240 - nobody else is there
    except FileExistsError:
        return "answered"
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


async def print_something() -> str:
    print("no answer")
    sys.stdout.flush()
    return "answered"


async def fail(kind: str) -> None:
    odd = type("Odd", (Exception,), {})
    raise {"value": ValueError("no such voice"), "package": MissingSpeechPackage("hibari-tts"), "odd": odd("odd")}[
        kind
    ]


async def test_it_is_one_process_of_lower_priority_and_not_this_one() -> None:
    (pid, nice), (again, _) = await apart.run(about_it), await apart.run(about_it)
    assert pid == again != os.getpid()
    assert nice == os.nice(0) + apart.NICENESS
    assert await asyncio.gather(*[apart.run(double, number) for number in range(50)]) == [2 * n for n in range(50)]


async def test_requests_do_not_wait_for_each_other() -> None:
    slow = asyncio.create_task(apart.run(sleep, 30))
    assert await apart.run(double, 4) == 8
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow


async def test_event_loops_share_it() -> None:
    here = await apart.run(about_it)
    assert await asyncio.to_thread(lambda: asyncio.run(apart.run(about_it))) == here


async def test_what_fails_there_is_raised_here() -> None:
    with pytest.raises(ValueError, match=r"^no such voice$"):
        await apart.run(fail, "value")
    with pytest.raises(MissingSpeechPackage, match=r"needs the extra 'offline' \(hibari-tts is") as missing:
        await apart.run(fail, "package")
    assert str(missing.value) == str(MissingSpeechPackage("hibari-tts"))
    with pytest.raises(SpeechError, match="Odd: odd"):
        await apart.run(fail, "odd")
    with pytest.raises(Exception, match="pickle"):
        await apart.run(lambda: None)  # type: ignore[arg-type]
    assert await apart.run(double, 1) == 2


async def test_what_is_printed_there_is_no_answer() -> None:
    assert await apart.run(print_something) == "answered"


async def test_when_it_dies_another_takes_over(tmp_path: object) -> None:
    before, _ = await apart.run(about_it)
    assert await apart.run(die_once, f"{tmp_path}/witness") == "answered"
    after, _ = await apart.run(about_it)
    assert after != before


async def test_when_it_dies_again_that_is_an_error_with_its_exit_code() -> None:
    with pytest.raises(SpeechError, match=r"ended by itself, 2 times \(exit code 7\)"):
        await apart.run(die, 7)
    assert await apart.run(double, 2) == 4


async def test_what_was_given_up_is_worked_on_no_more() -> None:
    given_up = asyncio.create_task(apart.run(sleep, 60))
    pid, _ = await apart.run(about_it)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert await apart.run(open_tasks) == 1, f"process {pid} still sleeps"


async def open_tasks() -> int:
    await asyncio.sleep(0.05)
    return sum(task.get_coro().__name__ == "_answer" for task in asyncio.all_tasks())  # type: ignore[union-attr]


async def test_ctrl_c_is_none_of_its_business() -> None:
    pid, _ = await apart.run(about_it)
    os.kill(pid, signal.SIGINT)
    assert (await apart.run(about_it))[0] == pid


BUSY = """
import asyncio
import signal
from bots.caller.speech import apart
from tests.speech.test_apart import about_it, sleep

async def main():
    print((await apart.run(about_it))[0], flush=True)
    waiting = asyncio.create_task(apart.run(sleep, 600))
    # As in a call, something is always about to happen: a Ctrl-C between the loop's last look at signals and its wait
    # is seen with the next event, and never where there is none (no wake-up file of asyncio.Runner's handler).
    while not waiting.done():
        await asyncio.sleep(0.05)

# What a shell starts in the background ignores it from birth.
signal.signal(signal.SIGINT, signal.default_int_handler)
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_the_process_it_belongs_to(number: signal.Signals) -> None:
    # Not guarded by __name__: a script that calls is not run a second time.
    owner = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert owner.stdout is not None
    own = psutil.Process(int(owner.stdout.readline()))
    owner.send_signal(number)
    owner.wait(30)
    wait_until(lambda: not own.is_running() or own.status() == psutil.STATUS_ZOMBIE, timeout_s=20)
