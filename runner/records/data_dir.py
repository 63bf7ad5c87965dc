"""The folder that a server keeps everything in, unless told otherwise."""

from pathlib import Path

from runner.files import private_folder
from runner.settings import ServerSettings


def data_dir(settings: ServerSettings) -> Path:
    """Return the data folder as an absolute path, made if it is not there: for this user alone.

    Raises:
        UsageError: It can't be made.
    """
    return private_folder(settings.data_dir)
