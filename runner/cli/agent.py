"""The command that serves a reference agent."""

from collections.abc import Sequence

import click

from runner.cli.options import log_level, verbose_option
from runner.cli.running import fail, need_agents_extra
from runner.errors import MissingExtra

AGENTS = {
    "restaurant": "takes a booking; with --fault NAME it fails as real agents do",
    "metronome": "answers after a known delay, and logs it",
    "quickstart": "repeats what it heard",
}

# What stands after \b is not wrapped.
HELP = """Serve a reference agent over SmallWebRTC, until Ctrl-C.

\b
{}

OPTIONS go to the agent and to Pipecat's own runner as they are: `agent restaurant -- --help` lists them.
""".format("\n".join(f"{name:<10}  {words}" for name, words in AGENTS.items()))


@click.command(context_settings={"ignore_unknown_options": True}, help=HELP)
@click.argument("name", type=click.Choice(list(AGENTS)))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65_535), default=7860, show_default=True)
@verbose_option
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def agent(name: str, host: str, port: int, verbose: int, options: Sequence[str]) -> None:
    """Serve a reference agent until Ctrl-C."""
    try:
        need_agents_extra()
    except MissingExtra as error:
        fail(str(error))
    from bots.agents.serve import serve

    serve(name, host, port, log_level=log_level("WARNING", verbose), options=options)
