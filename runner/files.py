"""Files of ours: there whole or not at all, however the process ends, and read back with one clear error."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from runner.errors import UsageError

_Model = TypeVar("_Model", bound=BaseModel)


def private_folder(path: Path) -> Path:
    """Return a folder as an absolute path, made if it is not there: for this user alone.

    Raises:
        UsageError: It can't be made.
    """
    path = path.expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: the folder can't be made ({error.strerror})") from None
    return path


def write_atomically(path: Path, text: str) -> None:
    """Write a file as UTF-8, in place of the one that may be there.

    Args:
        path: The file; its folder exists.
        text: What it is to hold.

    Raises:
        OSError: It can't be written, and is named; what was there is still there.
    """
    write_together({path: text})


def write_together(texts: Mapping[Path, str]) -> None:
    """Write files that belong together as UTF-8: none takes its place before there is room for all of them.

    Args:
        texts: What each is to hold; their folders exist.

    Raises:
        OSError: One can't be written, and is named; what was there is still there.
    """
    written: dict[Path, Path] = {}
    path = Path()
    try:
        for path, text in texts.items():
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix, delete=False
            ) as file:
                written[path] = Path(file.name)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            written[path].chmod(0o644)
        for path, temporary in written.items():
            temporary.replace(path)
    except OSError as error:
        # A full disk names no file, everything else the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)


def keep_end(path: Path, max_bytes: int) -> None:
    """Shorten a file that has grown larger than a limit to the last lines that fit into half of it.

    It stays the same file: whoever appends to it goes on doing so.

    Args:
        path: The file; need not be there.
        max_bytes: The limit.

    Raises:
        OSError: It can't be shortened.
    """
    try:
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size <= max_bytes:
                return
            file.seek(size - max_bytes // 2)
            # What is left of the line it begins in goes too.
            file.readline()
            end = file.read()
            file.seek(0)
            file.write(end)
            file.truncate()
    except FileNotFoundError:
        return


def read_model(path: Path, model: type[_Model], what: str) -> _Model:
    """Return what a JSON file of ours holds.

    Args:
        path: The file.
        model: What it must hold.
        what: What that is called, such as ``run``.

    Raises:
        UsageError: The file is not there, or holds something else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        hint = f"a {what}'s folder holds {path.name}"
        raise UsageError(f"{path}: can't be read ({error.strerror}); {hint}") from error
    return parse_model(data, str(path), model, what)


def parse_model(data: bytes, name: str, model: type[_Model], what: str) -> _Model:
    """Return what the bytes of a JSON file of ours hold.

    Args:
        data: The bytes.
        name: What the file is called in errors.
        model: What it must hold.
        what: What that is called, such as ``run``.

    Raises:
        UsageError: It holds something else.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"{name}: no {what} ({place}: {problem['msg']})") from error
