"""How long the house is, by package: all lines, and of these code, docstrings and comments.

    python -m benchmarks.lines

A line of code is one with anything but a docstring or a comment on it; imports and closing brackets are code.
"""

import ast
import io
import sys
import tokenize
from collections import defaultdict
from pathlib import Path

MAX_LINES = 500
"""Of a file of the product."""

LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING}


def count(source: str) -> tuple[int, int, int, int]:
    """Return how many lines a module has, and how many of them are code, docstrings and comments."""
    words: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=int(last)):
                words.update(range(first, last + 1))
            case _:
                pass
    code: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in LAYOUT:
            code.update(range(token.start[0], token.end[0] + 1))
    code -= words
    return source.count("\n"), len(code), len(words), len(comments - code)


def main() -> int:
    """Print the counts; end with 1 where a file of the product is longer than it may be."""
    totals: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    long: list[str] = []
    for top in ("bots", "runner", "tests"):
        for path in sorted(Path(top).rglob("*.py")):
            counts = count(path.read_text(encoding="utf-8"))
            if counts[0] > MAX_LINES and top != "tests":
                long.append(f"{path}: {counts[0]} lines")
            for name in {str(path.parent), f"{top} in all", *(() if top == "tests" else ("product in all",))}:
                totals[name] = [one + other for one, other in zip(totals[name], counts, strict=True)]
    print(f"{'':40}{'lines':>8}{'code':>8}{'docstrings':>12}{'comments':>10}")
    for name, (lines, code, docstrings, comments) in sorted(totals.items()):
        print(f"{name:40}{lines:8}{code:8}{docstrings:12}{comments:10}")
    print("\n".join(f"too long: {one}" for one in long))
    return 1 if long else 0


if __name__ == "__main__":
    sys.exit(main())
