"""The folder that a server keeps everything in, unless told otherwise."""

from pathlib import Path

from runner.errors import UsageError
from runner.settings import ServerSettings


def data_dir(settings: ServerSettings) -> Path:
    """Return the data folder as an absolute path, made if it is not there: for this user alone.

    Raises:
        UsageError: It can't be made.
    """
    return private_folder(settings.data_dir)


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
