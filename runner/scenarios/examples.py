"""The example scenarios that come along: ``example:booking`` names one wherever a scenario file is named."""

import os
from pathlib import Path

from runner.errors import UsageError

PREFIX = "example:"
_PACKAGED = Path(__file__).parent / "examples"
_IN_CHECKOUT = Path(__file__).parents[2] / "config" / "scenarios"


def example_names() -> list[str]:
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def example_file(name: str) -> Path:
    """Return the file of an example. Raises UsageError: there is no such example."""
    if name not in example_names():
        raise UsageError(f"{PREFIX}{name}: no such example; there are: {', '.join(example_names())}")
    return _folder() / f"{name}.yaml"


def _folder() -> Path:
    return _PACKAGED if _PACKAGED.is_dir() else _IN_CHECKOUT


def split_spec(spec: str, folder: Path = Path()) -> tuple[Path, str]:
    """Return file and name of ``FILE[:NAME]``, of which either may hold colons, or of ``example:FILE[:NAME]``.

    The file is relative to ``folder``, and need not be there; the name is empty where all of the file is meant.

    Raises:
        UsageError: There is no such example.
    """
    if spec.startswith(PREFIX):
        example, _, name = spec.removeprefix(PREFIX).partition(":")
        return example_file(example), name
    ends = [len(spec), *(i for i in range(len(spec) - 1, 0, -1) if spec[i] == ":")]
    for end in ends:
        if os.path.isfile(folder / spec[:end]):  # noqa: PTH113 - unlike pathlib's, never an error
            return folder / spec[:end], spec[end + 1 :]
    return (folder / spec, "") if len(ends) == 1 else (folder / spec[: ends[1]], spec[ends[1] + 1 :])
