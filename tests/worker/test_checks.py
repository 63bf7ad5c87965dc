"""What is found out before a worker starts."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from runner.dispatch.errors import QueueError
from runner.errors import UsageError
from runner.records.tables import ApiKey
from runner.worker.checks import check, check_outbox, check_same
from tests.worker.record_double import KEY, RecordDouble

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///{folder}/none.sqlite", "is not there; run `scenario-runner migrate`"),
        ("sqlite:///{folder}/empty.sqlite", "has no tables"),
        ("sqlite:///{folder}/text.sqlite", "can't be opened"),
        ("postgresql://me:planted@127.0.0.1:1/none", "can't be opened"),
        ("mysql://me:planted@127.0.0.1/none", "is not supported"),
    ],
)
async def test_a_database_that_is_none(record: RecordDouble, tmp_path: Path, url: str, said: str) -> None:
    (tmp_path / "empty.sqlite").touch()
    (tmp_path / "text.sqlite").write_text("no database " * 1_000)
    with pytest.raises((UsageError, QueueError), match=said) as caught:
        await check(url.format(folder=tmp_path), record.client(), SecretStr(KEY))
    assert "planted" not in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "none.sqlite").exists()


async def test_a_key_that_is_refused(record: RecordDouble, database_url: str) -> None:
    await check(database_url, record.client(), SecretStr(KEY))
    with pytest.raises(UsageError, match=r"refuses the worker's key \(HTTP 401\)") as caught:
        await check(database_url, record.client("psr_planted"), SecretStr("psr_planted"))
    assert "planted" not in str(caught.value)


async def test_a_database_of_another_record(record: RecordDouble, database_url: str) -> None:
    await check_same(database_url, SecretStr(f"{KEY}\n"))
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.delete(ApiKey))
    engine.dispose()
    with pytest.raises(UsageError, match="must be of the same record") as caught:
        await check(database_url, record.client(), SecretStr(KEY))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("status", [301, 404, 405])
async def test_a_server_that_is_no_record(record: RecordDouble, database_url: str, status: int) -> None:
    record.refusals["progress"] = [status]
    with pytest.raises(UsageError, match=rf"HTTP {status}; is it the record's address\?"):
        await check(database_url, record.client(), SecretStr(KEY))


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_record_that_may_take_it_later(record: RecordDouble, database_url: str, status: int) -> None:
    record.refusals["progress"] = [status]
    await check(database_url, record.client(), SecretStr(KEY))


def test_a_folder_that_can_t_be_written() -> None:
    # Nobody can write there, whoever runs the tests.
    with pytest.raises(UsageError, match=r"/proc/self: can't be written"):
        check_outbox(Path("/proc/self"))
    with pytest.raises(UsageError, match=r"/proc/self/outbox: the folder can't be made"):
        check_outbox(Path("/proc/self/outbox"))


async def test_a_record_that_does_not_answer_yet_is_no_reason_not_to_start(
    record: RecordDouble, database_url: str
) -> None:
    record.is_down = True
    await check(database_url, record.client(), SecretStr(KEY))
