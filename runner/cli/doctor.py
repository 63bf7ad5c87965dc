"""The command that checks this machine, or a room."""

from typing import TYPE_CHECKING

import click

from runner.cli.options import TOKEN_VARIABLE, read_token
from runner.cli.running import with_settings
from runner.errors import USAGE_EXIT_CODE

if TYPE_CHECKING:
    from rich.console import Console

    from runner.rooms.open import RoomAddress
    from runner.settings import Settings


@click.command()
@click.option("--room", "room_url", metavar="URL", help="Enter this room, say who is there, and leave.")
@click.option("--token", help=f"Room token; - reads it from standard input (or the variable {TOKEN_VARIABLE}).")
@click.option("--participant-name", metavar="NAME", help="The agent's user name in a Daily room.")
@with_settings
async def doctor(settings: "Settings", room_url: str | None, token: str | None, participant_name: str | None) -> int:
    """Check this machine, or with --room that a room can be entered.

    Without --room: whether the speech models load, and whether a WebRTC call works on this machine. It says what is
    missing and how to install it.

    Exit codes: 0 calls can be made, or with --room the agent's audio arrived; 2 not.
    """
    from runner.cli.machine_checks import Finding, examine
    from runner.reports.console import make_console
    from runner.rooms.open import RoomAddress

    console = make_console()
    if room_url is not None:
        address = RoomAddress(room_url, read_token(token), participant_name=participant_name)
        return await _visit(console, address, settings)

    def report(finding: Finding) -> None:
        mark = "[green]✓[/]" if finding.ok else ("[red]✗[/]" if finding.required else "[yellow]-[/]")
        console.print(f"{mark} {finding.check}: ", end="", highlight=False)
        console.print(finding.detail, markup=False, highlight=False, soft_wrap=True)

    return 0 if await examine(settings, report) else USAGE_EXIT_CODE


async def _visit(console: "Console", address: "RoomAddress", settings: "Settings") -> int:
    from runner.cli.room_visit import visit_room

    visit = await visit_room(address, settings)

    def say(ok: bool, text: str) -> None:
        console.print(f"{'✓' if ok else '✗'} {text}", markup=False, highlight=False, soft_wrap=True)

    if visit.error is not None:
        say(False, visit.error)
        return USAGE_EXIT_CODE
    say(True, f"entered the room after {visit.entered_s:.1f} s")
    say(bool(visit.participants), f"there: {', '.join(visit.participants) or 'nobody else'}")
    if visit.agent is None:
        say(
            False,
            "nobody sends audio: the agent is not in the room, or not by the name that --participant-name or the "
            "setting room.participant_name gives",
        )
        return USAGE_EXIT_CODE
    if visit.audio_s == 0:
        say(False, f"the agent is {visit.agent!r}, but no audio of it arrived")
        return USAGE_EXIT_CODE
    level = "silence so far" if visit.agent_level_dbfs is None else f"peak {visit.agent_level_dbfs:.0f} dBFS"
    say(True, f"the agent is {visit.agent!r}: {visit.audio_s:.1f} s of audio ({level}), {visit.messages} messages")
    return 0
