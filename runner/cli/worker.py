"""The command that makes calls for a server elsewhere. Importing this imports no worker: the command does."""

import re
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from runner.cli.options import PATH, config_option, log_level, verbose_option
from runner.cli.running import needing, run_command
from runner.errors import UsageError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from runner.settings import Settings, WorkerSettings


KEY_VARIABLE = "SCENARIO_RUNNER_WORKER__KEY"


@click.command()
@click.option("--processes", type=click.IntRange(1, 256), help="How many processes make calls (default: 1).")
@click.option("--calls", type=click.IntRange(1, 64), help="How many calls each process makes at once (default: 4).")
@click.option(
    "--server-url",
    "--record-url",
    "record_url",
    metavar="URL",
    help="Where the server's API is reached (the setting worker.record_url).",
)
@click.option(
    "--key",
    metavar="-",
    help=f"`--key -` reads a worker's key from standard input; prefer the variable {KEY_VARIABLE}, or --key-file.",
)
@click.option("--key-file", type=PATH, help="A file that holds the key.")
@click.option("--name", help="What it is called in logs and lists (default: the machine's name).")
@click.option(
    "--data-dir",
    type=PATH,
    help="This worker's own folder: recordings and outcomes that the server does not have yet. Keep it across "
    "restarts; one for each worker (default: the setting worker.data_dir, else ./data).",
)
@click.option(
    "--drain-limit",
    "drain_limit_s",
    type=click.FloatRange(0, 86_400),
    metavar="SECONDS",
    help="How long calls may last once it is told to stop; the rest are released (default: 300).",
)
@click.option("--health-port", type=click.IntRange(1, 65_535), help="Answer /healthz, /readyz and /metrics there.")
@click.option("--health-host", help="On which address (default: 127.0.0.1).")
@config_option
@verbose_option
def worker(key: str | None, key_file: Path | None, config: Path | None, verbose: int, **told: object) -> None:
    """Make the calls of a server, until Ctrl-C. All it needs is the server's address and a key.

    Prints one line when it takes runs. Told to stop, it takes no more; calls that are on get their time to finish,
    and what is left is released: another worker takes it if its session can be started anew, or nothing was said in
    the room; otherwise it ends inconclusive. A second Ctrl-C releases everything at once.
    """

    async def run() -> None:
        from runner.settings import load_settings

        settings = load_settings(config)
        given = {**told, "key": _key(key, key_file)}
        with needing("worker"):
            from runner.json_log import log_as_json

            level = log_level(settings.log_level, verbose)
            log_as_json(level)
        of_worker = _with(settings.worker, {name: value for name, value in given.items() if value is not None})
        _check(of_worker)
        settings = settings.model_copy(update={"worker": of_worker, "log_level": level})
        await _supervise(settings, config)

    run_command(run, verbose=verbose, quotes=False, takes_signals=False)


async def _supervise(settings: "Settings", config: Path | None) -> None:
    import anyio

    from runner.worker.parent import supervise

    worker = settings.worker
    name = worker.name or socket.gethostname()

    def ready() -> None:
        several = "process" if worker.processes == 1 else "processes"
        click.echo(
            f"worker {name}: {worker.processes} {several}, {worker.calls} calls each, server {worker.record_url}"
        )
        sys.stdout.flush()

    with ExitStack() as stack:
        health: socket.socket | None = None
        if worker.health_port is not None:
            from runner.serving import listening

            # Before anything else: a port that is taken is found out first.
            health = stack.enter_context(listening(worker.health_host, worker.health_port, options="--health-"))
        signals = stack.enter_context(anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT))
        await supervise(settings, config, signals, ready=ready, health=health)


def _key(key: str | None, key_file: Path | None) -> "SecretStr | None":
    """Return the key that was named on the command line, if one was.

    Raises:
        UsageError: It can't be had that way.
    """
    from pydantic import SecretStr

    if key is not None and key_file is not None:
        raise UsageError("--key and --key-file: give one of them")
    if key is not None:
        if key != "-":
            # Not repeated: it may be one.
            raise UsageError(
                f"--key: takes - alone; anybody could read a key there, so use {KEY_VARIABLE} or --key-file"
            )
        text, where = sys.stdin.readline().strip(), "--key -: standard input"
    elif key_file is not None:
        try:
            text, where = key_file.read_text(encoding="utf-8").strip(), f"--key-file: {key_file}"
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else "no text"
            raise UsageError(f"--key-file: {key_file}: can't be read ({said})") from None
    else:
        return None
    if not text:
        raise UsageError(f"{where} holds no key")
    return SecretStr(text)


def _with(worker: "WorkerSettings", told: dict[str, object]) -> "WorkerSettings":
    """Return the settings of a worker, with what the command was told in their place.

    Raises:
        UsageError: A value can't be.
    """
    from pydantic import ValidationError

    try:
        return type(worker).model_validate({**dict(worker), **told})
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        option = str(problem["loc"][0]).removesuffix("_s").replace("_", "-")
        raise UsageError(f"--{option}: {problem['msg']}") from None


def _check(worker: "WorkerSettings") -> None:
    """Refuse what a worker can't be started with.

    Raises:
        UsageError: Something is missing or wrong.
    """
    if worker.record_url is None:
        raise UsageError("the server's address is missing: --server-url, or the setting worker.record_url")
    try:
        parts = urlsplit(worker.record_url)
        good = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
        # Reading it tells whether it is one.
        good = good and parts.username is None and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UsageError("--server-url: must be like https://voice-tests.example.com, without user, ? and #")
    if worker.key is None or not worker.key.get_secret_value().strip():
        raise UsageError(
            f"a worker's key is missing: the variable {KEY_VARIABLE}, --key-file or --key -; "
            "`scenario-runner keys create --kind worker` makes one"
        )
    if not re.fullmatch(r"[!-~]+", worker.key.get_secret_value().strip()):
        # Not repeated: most of it may be one.
        raise UsageError(
            "the worker's key is none: a key is ASCII without spaces, as it was printed when it was made"
        )
