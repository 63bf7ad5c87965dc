"""The command that serves. Importing this imports no server: it is loaded when the command runs."""

import sys
from pathlib import Path

import click
from pydantic import SecretStr

from runner.cli.options import log_level, record_options, server_settings, verbose_option
from runner.cli.running import needing, run_command


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--no-worker", is_flag=True, help="Serve the API and the page alone; make no calls.")
@record_options
@verbose_option
def serve(
    host: str,
    port: int,
    data_dir: Path | None,
    database_url: str | None,
    no_worker: bool,
    config: Path | None,
    verbose: int,
) -> None:
    """Serve the API and the page, and make the calls, until Ctrl-C.

    Prints on the first start a key, before it answers anything, and then its address. Brings the database up to date
    first: there is no way back to an older version.

    Told to stop, it lets calls of its own that are on last for the setting worker.drain_limit_s, 20 s at most, and
    then releases them; a second Ctrl-C releases them at once. A `worker` elsewhere goes on.
    """

    def announce(url: str) -> None:
        click.echo(f"serving on {url} (open it in a browser; API description: {url}/docs)")
        sys.stdout.flush()

    def announce_key(key: SecretStr) -> None:
        click.echo(f"API key, shown this once: {key.get_secret_value()}")
        sys.stdout.flush()

    async def run() -> None:
        settings = server_settings(config, data_dir, database_url)
        level = log_level(settings.log_level, verbose)
        settings = settings.model_copy(update={"log_level": level})
        with needing("server"):
            from runner.json_log import log_as_json

            log_as_json(level)
            from runner import server
        await server.serve(
            settings,
            host=host,
            port=port,
            with_worker=not no_worker,
            announce=announce,
            announce_key=announce_key,
            config=config,
        )

    run_command(run, verbose=verbose, quotes=False, takes_signals=False)
