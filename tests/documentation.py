"""The documentation as the tests read it: its pages, and what of them can be checked."""

import functools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (PROJECT / "docs").glob("*.md")
)
BESIDE_WHAT_THEY_DESCRIBE = [PROJECT / "deploy" / "README.md", PROJECT / "benchmarks" / "README.md"]

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_TITLE = re.compile(r"# (\S+\.ya?ml)\n")
_PLACEHOLDERS = (("git+<address of this repository>", "git+https://example.com/repository"), ("<id>", "PLACEHOLDER"))
_REDIRECTION = re.compile(r"\s\d?>>?\s*(?:&\d|\S+)")
_TIMES_OF_CRON = 5


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: Where it stands.
        line: Its first line there, from 1.
        language: What it is written in.
        text: What it holds.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def title(self) -> str | None:
        """The file that it is shown as: the comment in its first line."""
        found = _TITLE.match(self.text)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.page.relative_to(PROJECT)}:{self.line}"


@functools.cache
def tokens(page: Path) -> list[Token]:
    """Return what a page is made of, the parts of its lines included.

    Every process that shares the tests collects them all: each page is read once.
    """
    whole = _MARKDOWN.parse(page.read_text())
    return whole + [part for token in whole for part in token.children or ()]


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages that are written in one of these languages; without any, all of them."""
    return [
        Block(page, token.map[0] + 2, token.info.strip(), token.content)
        for page in PAGES
        for token in tokens(page)
        if token.type in ("fence", "code_block") and token.map
        if not languages or token.info.strip() in languages
    ]


def quoted(page: Path) -> list[str]:
    """Return what stands between backquotes within the lines of a page."""
    return [token.content for token in tokens(page) if token.type == "code_inline"]


def links(page: Path) -> list[str]:
    """Return what a page links to."""
    return [str(token.attrs["href"]) for token in tokens(page) if token.type == "link_open"]


def pictures(page: Path) -> list[str]:
    """Return the pictures that a page shows."""
    return [str(token.attrs["src"]) for token in tokens(page) if token.type == "image"]


def anchors(page: Path) -> set[str]:
    """Return what links into a page may end with: its headings, as GitHub names them."""
    headings = re.findall(r"^#{1,6} (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def filled_in(text: str) -> str:
    """Return a text with something in place of what readers fill in."""
    for placeholder, example in _PLACEHOLDERS:
        text = text.replace(placeholder, example)
    return text


def commands_of(text: str) -> Iterator[list[str]]:
    """Yield the commands of a shell's text, each as its words; variables that are set for it stand before them."""
    for line in filled_in(text).replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(_REDIRECTION.sub("", line), posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if re.fullmatch(r"[();<>|&]+", word):
                if command:
                    yield command
                command = []
            elif word not in ("{", "}"):
                command.append(word)


def commands() -> list[tuple[str, list[str]]]:
    """Return every command in a block, with its place: of shells, of cron, and of steps in a workflow."""
    found = [(str(block), command) for block in blocks("sh") for command in commands_of(block.text)]
    for block in blocks("crontab"):
        for line in block.text.splitlines():
            command = line.split(maxsplit=_TIMES_OF_CRON)[_TIMES_OF_CRON]
            found += [(str(block), words) for words in commands_of(command)]
    for block in blocks("yaml"):
        whole: Any = yaml.safe_load(block.text)
        for job in whole.get("jobs", {}).values():
            steps = [step["run"] for step in job["steps"] if "run" in step]
            found += [(str(block), words) for step in steps for words in commands_of(step)]
        if block.title == ".gitlab-ci.yml":
            steps = [step for job in whole.values() for step in job["script"]]
            found += [(str(block), words) for step in steps for words in commands_of(step)]
    return found
