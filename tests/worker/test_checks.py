"""What is found out before a worker starts, and before it takes a run."""

import shutil
from pathlib import Path

import pytest

from runner.errors import UsageError
from runner.protocol.messages import VERSION
from runner.worker.checks import check_outbox, check_record, lack_of_space
from tests.worker.record_double import RecordDouble


@pytest.mark.anyio
async def test_a_key_that_is_refused(record: RecordDouble) -> None:
    await check_record(record.client())
    with pytest.raises(UsageError, match=r"refuses the worker's key \(HTTP 401\)") as caught:
        await check_record(record.client("psr_planted"))
    assert "planted" not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("status", [301, 404, 405])
async def test_a_server_that_is_no_record(record: RecordDouble, status: int) -> None:
    record.refusals["hello"] = [status]
    with pytest.raises(UsageError, match=rf"HTTP {status}; is it the server's address\?"):
        await check_record(record.client())


@pytest.mark.anyio
@pytest.mark.parametrize("status", [None, 426])
async def test_a_record_of_another_version(record: RecordDouble, status: int | None) -> None:
    record.protocol = VERSION + 1
    if status is not None:
        record.refusals["hello"] = [status]
    with pytest.raises(UsageError) as caught:
        await check_record(record.client())
    assert "address?" not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_record_that_may_take_it_later(record: RecordDouble, status: int) -> None:
    record.refusals["hello"] = [status]
    await check_record(record.client())


@pytest.mark.anyio
async def test_a_silent_server_is_no_reason_not_to_start(record: RecordDouble) -> None:
    record.is_down = True
    await check_record(record.client())


def test_a_folder_that_can_t_be_written() -> None:
    # Nobody can write there, whoever runs the tests.
    with pytest.raises(UsageError, match=r"/proc/self: can't be written"):
        check_outbox(Path("/proc/self"))
    with pytest.raises(UsageError, match=r"/proc/self/outbox: the folder can't be made"):
        check_outbox(Path("/proc/self/outbox"))


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    free_bytes = shutil.disk_usage(tmp_path).free
    assert lack_of_space(tmp_path, 0) == lack_of_space(tmp_path, free_bytes // 2) == ""
    said = lack_of_space(tmp_path, 10**18)
    assert said.startswith("its disk is full (") and said.endswith("MB free, and it needs 1000000000000)")
    assert "can't be read (No such file" in lack_of_space(tmp_path / "none", 0)
