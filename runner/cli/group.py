"""The group of all commands. A command's module is imported when the command is asked for, or its help."""

from importlib import import_module

import click

_COMMANDS = {
    "agent": "agent:agent",
    "call": "call:call",
    "check": "check:check",
    "compare": "compare:compare",
    "demo": "demo:demo",
    "doctor": "doctor:doctor",
    "evaluate": "evaluate:evaluate",
    "init": "init:init",
    "keys": "keys:keys",
    "measure": "measure:measure",
    "migrate": "migrate:migrate",
    "projects": "projects:projects",
    "replay": "replay:replay",
    "report": "report:report",
    "run": "run:run_suite",
    "schedules": "schedules:schedules",
    "serve": "serve:serve",
    "status": "status:status",
    "webhooks": "webhooks:webhooks",
    "worker": "worker:worker",
}
"""Where each command is: module of this package, and name in it."""


class _Commands(click.Group):
    """The commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        return getattr(import_module(f"runner.cli.{module}"), name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pipecat-scenario-runner")
def main() -> None:
    """Call voice agents as a user would, and tell whether they still work.

    Exit codes of call, demo, run, evaluate and replay: 0 passed, 1 the agent failed, 2 anything else. The other
    commands: 0 done, 2 not; compare, doctor, status and `webhooks test` say what 0 is of theirs.
    """
