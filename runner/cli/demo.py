"""The command that books a table by voice: a whole call on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.one_call import make_call
from runner.cli.options import PATH
from runner.cli.running import need_agents_extra, with_settings

if TYPE_CHECKING:
    from runner.settings import Settings


@click.command()
@click.option("--listen", is_flag=True, help="Play the call on this machine's speakers.")
@click.option("--out", type=PATH, help="Folder for the run (default: runs/<id>).")
@click.option("--json", "as_json", is_flag=True, help="Print run.json alone on standard output.")
@with_settings
async def demo(settings: "Settings", listen: bool, out: Path | None, as_json: bool) -> int:
    """Book a table by voice: a real call to an agent on this machine.

    The agent is a real Pipecat bot, and the call a real WebRTC call. It needs no key and no network.
    """
    need_agents_extra()
    from runner.scenarios.evals import load_scenario
    from runner.sessions.local_agent import free_port, local_agent, reference_agent_command

    port = free_port()
    async with local_agent(reference_agent_command("restaurant", port), port) as base_url:
        from runner.calls.request import CallRequest
        from runner.rooms.open import RoomAddress

        request = CallRequest(load_scenario("example:booking", settings).playable(), RoomAddress(base_url))
        return await make_call(request, settings, out=out, as_json=as_json, listen=listen)
