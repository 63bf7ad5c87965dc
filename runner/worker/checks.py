"""Whether a worker could take runs: found out before it loads what calls need, and before it takes one."""

import shutil
import tempfile
from pathlib import Path

from loguru import logger

from runner.errors import UsageError
from runner.files import private_folder
from runner.worker.record_client import REFUSED, RecordClient, RecordError

OUTBOX = "outbox"
"""The folder of what a worker has to report, in that for its data."""

REPORT = "report.json"
"""In the folder of a call: what came of it."""


async def check_record(record: RecordClient) -> None:
    """See that the record takes the key, and speaks as this worker does. It need not answer yet.

    Raises:
        UsageError: It refuses the key, is of another version, or there is no record.
    """
    try:
        await record.hello()
    except RecordError as error:
        if error.status in REFUSED:
            raise UsageError(
                f"the server refuses the worker's key (HTTP {error.status}); "
                "`scenario-runner keys create --kind worker` makes one"
            ) from None
        if not error.transient:
            # It could neither be given runs nor report any.
            hint = "; is it the server's address?" if error.status not in (None, 426) else ""
            raise UsageError(f"{error}{hint}") from None
        logger.warning("{}; runs wait for that", error)


def check_outbox(folder: Path) -> None:
    """See that outcomes can be kept in a folder. Blocks.

    Raises:
        UsageError: It can't be made or written.
    """
    private_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: can't be written ({error.strerror})") from None


def lack_of_space(folder: Path, min_free_bytes: int) -> str:
    """Return why a call's recording and outcome could not be kept in a folder; nothing if they could."""
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        return f"its folder for outcomes can't be read ({error.strerror})"
    if free_bytes >= min_free_bytes:
        return ""
    return f"its disk is full ({free_bytes / 1e6:.0f} MB free, and it needs {min_free_bytes / 1e6:.0f})"
