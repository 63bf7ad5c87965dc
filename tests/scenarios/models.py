"""The models that files are read by."""

from collections.abc import Iterator
from types import ModuleType

from runner.scenarios.typed import FileModel


def models_of(base: type[FileModel], module: ModuleType) -> Iterator[type[FileModel]]:
    """Yield the models of a module, each of which derives from another."""
    for model in base.__subclasses__():
        if model.__module__ == module.__name__:
            yield model
        yield from models_of(model, module)
