"""The command that makes one call."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.one_call import make_call
from runner.cli.options import PATH, TOKEN_VARIABLE, json_object, json_value, read_token
from runner.cli.running import with_settings
from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.settings import Settings


@click.command()
@click.argument("room_url")
@click.option(
    "--scenario",
    "spec",
    required=True,
    metavar="FILE[:NAME]",
    help="What the caller does; NAME where the file holds several.",
)
@click.option(
    "--token",
    help=f"Room token; - reads it from standard input. Prefer the environment variable {TOKEN_VARIABLE}.",
)
@click.option("--publish", metavar="JSON", help="Data message, published once when both sides are in the room.")
@click.option("--data", metavar="JSON", help="Object for the bot's runner arguments (SmallWebRTC only).")
@click.option("--participant-name", metavar="NAME", help="The agent's user name in a Daily room.")
@click.option("--listen", is_flag=True, help="Play the call on this machine's speakers.")
@click.option("--out", type=PATH, help="Folder for the run, one that does not exist yet (default: runs/<id>).")
@click.option(
    "--html", type=PATH, metavar="FILE", help="The report's file (default: report.html in the run's folder)."
)
@click.option("--json", "as_json", is_flag=True, help="Print run.json alone on standard output.")
@click.option("--allow-unjudged", is_flag=True, help="Pass a run whose only problem is inconclusive checks.")
@with_settings
async def call(
    settings: "Settings",
    room_url: str,
    spec: str,
    token: str | None,
    publish: str | None,
    data: str | None,
    participant_name: str | None,
    listen: bool,
    out: Path | None,
    html: Path | None,
    as_json: bool,
    allow_unjudged: bool,
) -> int:
    """Make one call to the agent at ROOM_URL.

    ROOM_URL is a Daily room (https://acme.daily.co/room), a SmallWebRTC address
    (http://localhost:7860/api/offer), or the base address of a Pipecat runner
    (http://localhost:7860), which is asked to start a session first.
    """
    from runner.calls.request import CallRequest, DataMessage
    from runner.rooms.open import RoomAddress
    from runner.rooms.urls import RoomKind, check_data_message, room_kind
    from runner.scenarios.evals import load_scenario

    kind = room_kind(room_url, settings.room.daily_domains)
    message = None if publish is None else DataMessage(json_value(publish, "--publish"))
    if message is not None:
        check_data_message(kind, message.value)
    if data is not None and kind is RoomKind.DAILY:
        raise UsageError("--data: reaches no bot in a Daily room; leave it out, or use --publish")
    scenario = load_scenario(spec, settings)
    request = CallRequest(
        script=scenario.playable(),
        address=RoomAddress(
            room_url,
            read_token(token),
            request_data=None if data is None else json_object(data, "--data"),
            participant_name=participant_name,
        ),
        data_message=message,
        allow_unjudged=allow_unjudged,
        notes=scenario.notes,
    )
    return await make_call(request, settings, out=out, as_json=as_json, listen=listen, html=html)
