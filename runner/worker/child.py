"""A process of a worker: started by its supervisor, and told by it what to do.

Its settings come by the environment, its orders by its standard input. Signals mean to drain, and so does the end of
its input, which comes when the supervisor has died. Its standard output has a line of its status every second and
when something changes, and one with an ``error`` where it can't be started as it was told to.
"""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator

import anyio
import httpx
from loguru import logger

from runner.errors import USAGE_EXIT_CODE, RunnerError, UsageError
from runner.files import private_folder
from runner.json_log import log_as_json
from runner.settings import Settings, load_settings
from runner.worker.checks import OUTBOX, check_outbox, check_record
from runner.worker.record_client import RecordClient
from runner.worker.status import DRAIN, FORCE_STOP

STATUS_INTERVAL_S = 1.0

_STDIN = 0
_BROKEN_EXIT_CODE = 1


class _Supervisor:
    """Whoever reads what this process says of itself. If nobody does, that is no reason to stand still."""

    def __init__(self) -> None:
        # What anybody prints does not get in between.
        self._out = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        os.set_blocking(self._out, False)

    def tell(self, line: str) -> None:
        try:
            os.write(self._out, line.encode() + b"\n")
        except OSError:
            # Full, or broken: a later one will do.
            return


async def _run(name: str, settings: Settings, supervisor: _Supervisor) -> None:
    worker = settings.worker
    if worker.record_url is None or worker.key is None:
        raise UsageError("a worker's process is started by `scenario-runner worker`")
    try:
        client = httpx.AsyncClient(base_url=worker.record_url)
    except httpx.InvalidURL as error:
        raise UsageError(f"the server's address is none: {error}") from None
    async with client as http:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await check_record(RecordClient(http, worker.key))
            # Loads what calls need, for seconds.
            from runner.worker.process import WorkerProcess

            check_outbox(private_folder(worker.data_dir) / OUTBOX)

            def say() -> None:
                supervisor.tell(process.status.model_dump_json())

            async def say_regularly() -> None:
                while True:
                    say()
                    await anyio.sleep(STATUS_INTERVAL_S)

            async def obey() -> None:
                async for order in _orders():
                    process.stop()
                    if order == FORCE_STOP:
                        process.force_stop()

            async def obey_signals() -> None:
                # However many: who stops a group of processes sends each one, and the supervisor its order as well.
                async for _ in signals:
                    process.stop()

            process = WorkerProcess(settings, http, worker.key, name, on_change=say)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(obey_signals)
                tasks.start_soon(obey)
                tasks.start_soon(say_regularly)
                await process.run()
                tasks.cancel_scope.cancel()


async def _orders() -> AsyncIterator[str]:
    """Yield what the supervisor tells this process to do; at last, when it is gone, to drain."""
    os.set_blocking(_STDIN, False)
    left = b""
    while True:
        await anyio.wait_readable(_STDIN)
        try:
            read = os.read(_STDIN, 1_024)
        except BlockingIOError:
            continue
        except OSError:
            read = b""
        if not read:
            yield DRAIN
            return
        *lines, left = (left + read).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")


def main(name: str) -> int:
    """Be a worker's process; return its exit code."""
    supervisor = _Supervisor()
    try:
        settings = load_settings()
        log_as_json(settings.log_level)
        anyio.run(_run, name, settings, supervisor, backend_options={"use_uvloop": True})
    except RunnerError as error:
        supervisor.tell(json.dumps({"error": str(error)}))
        return USAGE_EXIT_CODE
    except KeyboardInterrupt:
        return 0
    except Exception as error:
        logger.opt(exception=True).error("worker {}: broke off ({})", name, type(error).__name__)
        return _BROKEN_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
