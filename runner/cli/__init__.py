"""The command line, one file a command. Importing it imports no Pipecat: a command loads what it needs to run."""

from runner.cli.group import main

__all__ = ["main"]
