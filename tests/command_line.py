"""Command lines and variables that are written down somewhere, held against the program without running it."""

import json
from typing import Any

import click

from runner.cli import main
from runner.settings import ENV_PREFIX, Settings


def check_command(arguments: list[str], group: Any = main) -> dict[str, Any]:
    """Parse arguments as the program does, run nothing, and return what they come to.

    Raises:
        click.UsageError: The program would refuse them.
    """
    context, command, name, rest = click.Context(group), group, "", arguments
    while hasattr(command, "resolve_command"):
        with context:
            name, command, rest = command.resolve_command(context, rest)
        if hasattr(command, "resolve_command"):
            context = click.Context(command, info_name=name, parent=context)
    return command.make_context(name, list(rest), parent=context).params


def check_variable(name: str, value: str) -> None:
    """Hold an environment variable against the settings."""
    assert name.startswith(ENV_PREFIX), name
    model: Any = Settings
    for part in name.removeprefix(ENV_PREFIX).lower().split("__"):
        model = model.model_fields[part].annotation
    if value.startswith(("[", "{")):
        json.loads(value)


def options_of(group: Any = main) -> dict[str, set[str]]:
    """Return the options of every command, those of commands within commands included, by its name."""
    found: dict[str, set[str]] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            found |= {f"{name} {inner}": options for inner, options in options_of(command).items()}
        found[name] = {option for parameter in command.get_params(context) for option in parameter.opts}
        found[name] |= {option for parameter in command.get_params(context) for option in parameter.secondary_opts}
    return found
