"""Brings the list of packages in docs/licences.md up to date: ``.venv/bin/python deploy/licences.py``.

What is installed is asked, not remembered: a package's licence is what it says of itself.
"""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "licences.md"
IMAGES = {"server": ("server",), "worker": ("worker", "offline")}
"""The images, and the extras that are in each."""

_START, _END = "<!-- packages -->\n", "<!-- end of packages -->\n"
_LIBRARY = re.compile(r"lib([^.].*?)(?:[-_]+[0-9a-f]{8})*(?:_x86_64|_arm64|-x86_64-linux-gnu)?[-\d.]*\.so(?:\.|$)")


def closure(*extras: str) -> set[str]:
    """Return the packages that extras of the project need here, and all that those need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ]
    waiting = [need for need in map(Requirement, asked) if _is_for(need, {""})]
    found: dict[str, set[str]] = {}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        # Without an extra it is asked for as well.
        new = {"", *requirement.extras} - found.get(name, set())
        if new:
            found.setdefault(name, set()).update(new)
            needs = map(Requirement, distribution(name).requires or ())
            waiting += [need for need in needs if _is_for(need, new)]
    return set(found)


def licence(name: str) -> str:
    """Return what a package says that its licence is."""
    said = distribution(name).metadata
    words = said["License"] or ""
    classifiers = [
        line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or () if line.startswith("License")
    ]
    return said["License-Expression"] or (words if words and "\n" not in words else "") or " or ".join(classifiers)


def libraries(name: str) -> set[str]:
    """Return the compiled libraries that a package's wheel brings, by their names without ``lib``."""
    files = distribution(name).files or ()
    return {found[1] for file in files if (found := _LIBRARY.match(file.name))}


def table() -> str:
    """Return the packages of each image with their licences, as a table."""
    images = {image: closure(*extras) for image, extras in IMAGES.items()}
    rows = [
        f"| {name} | {licence(name)} | {', '.join(image for image, names in images.items() if name in names)} |\n"
        for name in sorted(set().union(*images.values()))
    ]
    return "".join(["| package | licence, as it says itself | in the image |\n|---|---|---|\n", *rows])


def listed() -> Iterator[list[str]]:
    """Yield the cells of every row of the document's tables."""
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def main() -> None:
    """Write the list of packages anew."""
    before, _, rest = DOCUMENT.read_text().partition(_START)
    _, _, after = rest.partition(_END)
    DOCUMENT.write_text("".join([before, _START, "\n", table(), "\n", _END, after]))


def _is_for(requirement: Requirement, extras: set[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


if __name__ == "__main__":
    main()
