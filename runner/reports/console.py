"""The terminal everything is shown on."""

import os
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table


class CalmConsole(Console):
    """A console that falls silent when nobody reads it any more: a call goes on, and its result is what counts."""

    def on_broken_pipe(self) -> None:
        """Stop writing; Rich's own way is to end the program in the middle of whatever it does."""
        self.quiet = True
        # What the stream still holds would fail again when Python closes it.
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path of ours
            os.dup2(nowhere.fileno(), (sys.stderr if self.stderr else sys.stdout).fileno())


def make_console(*, stderr: bool = False) -> Console:
    """Return the console to show things on; words of others are shown as they are, without emoji codes."""
    return CalmConsole(stderr=stderr, emoji=False)


def shown(text: str) -> str:
    """Return words of others as markup that shows them as they are: no control codes reach the terminal."""
    return escape("".join(character if character.isprintable() else "�" for character in text))


def print_line(console: Console, label: str, markup: str) -> None:
    """Print a line. On a terminal what does not fit goes on below its beginning, broken between words.

    Elsewhere it stays one line, which can be searched.
    """
    if not console.is_terminal:
        console.print(label + markup, emoji=False, highlight=False, soft_wrap=True)
        return
    line = Table.grid()
    line.add_column(no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(label, markup)
    console.print(line, emoji=False, highlight=False)
