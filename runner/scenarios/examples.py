"""The example scenarios that come along: ``example:booking`` names one wherever a scenario file is named."""

from pathlib import Path

from runner.errors import UsageError

PREFIX = "example:"
_PACKAGED = Path(__file__).parent / "examples"
_IN_CHECKOUT = Path(__file__).parents[2] / "config" / "scenarios"


def example_names() -> list[str]:
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def example_file(name: str) -> Path:
    """Return the file of an example.

    Raises:
        UsageError: There is no such example.
    """
    if name not in example_names():
        raise UsageError(f"{PREFIX}{name}: no such example; there are: {', '.join(example_names())}")
    return _folder() / f"{name}.yaml"


def _folder() -> Path:
    return _PACKAGED if _PACKAGED.is_dir() else _IN_CHECKOUT
