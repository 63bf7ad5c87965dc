"""Outcomes on disk: whatever ends, and whoever is away, the record gets them once, and facts before outcomes."""

import errno
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from loguru import logger

from runner.protocol.messages import Kept, Release, Report
from runner.worker import outbox as outboxes
from runner.worker.outbox import Outbox, Section
from runner.worker.record_client import RecordError
from tests.patience import until
from tests.worker.record_double import RecordDouble, job

pytestmark = pytest.mark.anyio

RUN = {"id": "7", "status": "completed"}
OUTCOME = Report(run_id=7, attempt=1, executor="me", run=RUN)
TOLD = OUTCOME.model_dump(mode="json")

# A worker that writes down what its calls came to, says so, and waits to be killed.
WORKER = """
import asyncio, sys, time
from pathlib import Path
from runner.protocol.messages import Report
from runner.worker.outbox import Outbox
section = Outbox(Path(sys.argv[1]), None).open("dead")
for run_id in (7, 8):
    folder = section.folder(run_id, 1)
    folder.mkdir()
    (folder / "recording.wav").write_bytes(b"RIFF")
asyncio.run(section.put(Report(run_id=7, attempt=1, executor="dead", run={"id": "7"})))
print("written", flush=True)
time.sleep(60)
"""

UPLOADED = ["recording.wav?", "recording.wav", "timeline.jsonl?", "timeline.jsonl"]


@asynccontextmanager
async def delivering(record: RecordDouble, folder: Path) -> AsyncGenerator[Outbox]:
    outbox = Outbox(folder, record.client())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.run)
        yield outbox
        tasks.cancel_scope.cancel()
    outbox.close()


def call(section: Section) -> None:
    """Leave what a call leaves."""
    folder = section.folder(7, 1)
    folder.mkdir()
    (folder / "recording.wav").write_bytes(b"RIFF")
    (folder / "timeline.jsonl").write_bytes(b"{}")


def kept(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_facts_go_before_the_outcome_and_the_folder_last(record: RecordDouble, tmp_path: Path) -> None:
    async with delivering(record, tmp_path) as outbox:
        section = outbox.open("me")
        call(section)
        await (await section.put(OUTCOME)).wait()
        assert record.told == [*UPLOADED, "report"]
        assert record.outcomes == [TOLD]
        assert outbox.kept == ()
        assert kept(tmp_path) == ["me.lock"] and names(section.path) == []
        outbox.shut(section)
    assert names(tmp_path) == []


async def test_a_report_is_whole_on_disk_before_it_is_sent(record: RecordDouble, tmp_path: Path) -> None:
    record.is_down = True
    async with delivering(record, tmp_path) as outbox:
        section = outbox.open("me")
        await section.put(OUTCOME)
        assert outbox.kept == (Kept(run_id=7, attempt=1, may_end=True),)
        assert json.loads((section.folder(7, 1) / "report.json").read_text())["run"] == RUN


async def test_a_record_that_is_away_gets_everything_when_it_is_back(
    record: RecordDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For one that answers, and can't keep a file.
    monkeypatch.setattr(outboxes, "UPLOAD_PATIENCE_S", 0.1)
    record.is_down = True
    async with delivering(record, tmp_path) as outbox:
        section = outbox.open("me")
        call(section)
        handed_in = await section.put(OUTCOME)
        # Far longer than a few tries take.
        await anyio.sleep(0.5)
        assert len(outbox.kept) == 1 and record.told == []
        record.is_down = False
        record.refusals = {"recording.wav?": [503], "recording.wav": [502, 503], "report": [503, 500, 429, 401]}
        await handed_in.wait()
    assert set(record.artefacts) == {"recording.wav", "timeline.jsonl"}
    assert record.outcomes == [TOLD], "nothing is owed"


async def test_what_a_stopped_worker_could_not_report_the_next_does(record: RecordDouble, tmp_path: Path) -> None:
    record.is_down = True
    async with delivering(record, tmp_path) as outbox:
        section = outbox.open("me")
        call(section)
        await section.put(OUTCOME)
        outbox.shut(section)
    assert "me/7-1/report.json" in kept(tmp_path)
    record.is_down = False
    async with delivering(record, tmp_path) as other:
        await until(lambda: names(tmp_path) == [])
        assert other.kept == ()
    # As the worker's whose run it was.
    assert record.told == [*UPLOADED, "report"] and record.outcomes == [TOLD]


async def test_what_was_left_behind_is_among_what_is_kept(record: RecordDouble, tmp_path: Path) -> None:
    record.is_down = True
    async with delivering(record, tmp_path) as outbox:
        call(section := outbox.open("me"))
        await section.put(OUTCOME)
    async with delivering(record, tmp_path) as other:
        await until(lambda: other.kept == (Kept(run_id=7, attempt=1, may_end=True),))
        record.is_down = False
        await until(lambda: other.kept == ())


async def test_leftovers_of_another_workers_run_do_not_count(record: RecordDouble, tmp_path: Path) -> None:
    record.is_down = True
    async with delivering(record, tmp_path) as outbox:
        call(section := outbox.open("me"))
        await section.put(OUTCOME)
    # Or a new record has a run of the same number.
    record.is_down, record.taken = False, {7: "another"}
    async with delivering(record, tmp_path):
        await until(lambda: names(tmp_path) == [])
    assert record.told == ["recording.wav?", "report"]
    assert record.outcomes == [] and record.artefacts == {} and record.parts == {}


async def test_only_outcomes_of_killed_workers_are_delivered(
    record: RecordDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "SWEEP_INTERVAL_S", 0.05)
    record.jobs[8] = job(8)
    process = await anyio.open_process([sys.executable, "-c", WORKER, str(tmp_path)], stderr=None)
    async with process, delivering(record, tmp_path):
        assert process.stdout is not None
        assert (await process.stdout.receive()).strip() == b"written"
        await anyio.sleep(0.3)
        assert record.told == []
        process.kill()
        await process.wait()
        await until(lambda: names(tmp_path) == [])
    # Run 7 was over; of run 8 there are facts and no more.
    assert [outcome["run"] for outcome in record.outcomes] == [{"id": "7"}]
    assert record.told.count("recording.wav?") == 2 and record.told.count("report") == 1


async def test_nothing_of_an_attempt_counts_that_somebody_else_has(record: RecordDouble, tmp_path: Path) -> None:
    record.attempts[7] = 2
    async with delivering(record, tmp_path) as outbox:
        section = outbox.open("me")
        call(section)
        await (await section.put(OUTCOME)).wait()
        assert names(section.path) == []
    assert record.artefacts == {} and record.outcomes == []
    # The first refusal says it: no more of it is uploaded.
    assert record.told == ["recording.wav?", "report"]


@pytest.mark.parametrize("waits_again", [True, False])
async def test_a_run_is_given_back(record: RecordDouble, tmp_path: Path, waits_again: bool) -> None:
    record.waits_again = {7} if waits_again else set()
    record.refusals["report"] = [503]
    back = Release(detail="its worker was stopped", said=True, may_end=not waits_again)
    async with delivering(record, tmp_path) as outbox:
        section = outbox.open("me")
        call(section)
        handed_in = await section.put(Report(run_id=7, attempt=1, executor="me", release=back))
        # Its run has to wait for it only where it may end by it.
        assert outbox.kept == (Kept(run_id=7, attempt=1, may_end=not waits_again),)
        await handed_in.wait()
    assert [told["release"] for told in record.released] == [back.model_dump()]
    assert bool(record.artefacts) is not waits_again


async def test_a_failing_store_holds_the_outcome_back_only_for_a_while(
    record: RecordDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "UPLOAD_PATIENCE_S", 0.3)
    record.refusals = {"recording.wav": [507] * 10_000, "timeline.jsonl": [507] * 10_000}
    async with delivering(record, tmp_path) as outbox:
        section = outbox.open("me")
        call(section)
        with anyio.fail_after(20):
            await (await section.put(OUTCOME)).wait()
        assert record.told.count("recording.wav") > 3 and record.told.count("timeline.jsonl") == 1
        (told,) = record.outcomes
        assert told["owed"] == ["recording.wav", "timeline.jsonl"] and outbox.kept == ()
        # Told, and not done with: the files are still here alone.
        assert "me/7-1/recording.wav" in kept(tmp_path)
        record.refusals.clear()
        await until(lambda: names(section.path) == [])
    assert set(record.artefacts) == {"recording.wav", "timeline.jsonl"} and len(record.outcomes) == 1


async def test_owed_files_come_even_if_the_worker_dies_meanwhile(
    record: RecordDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "UPLOAD_PATIENCE_S", 0.05)
    record.refusals = {"recording.wav": [507] * 10_000}
    async with delivering(record, tmp_path) as outbox:
        call(section := outbox.open("me"))
        await (await section.put(OUTCOME)).wait()
        assert record.outcomes[0]["owed"] == ["recording.wav"]
    record.refusals.clear()
    async with delivering(record, tmp_path):
        await until(lambda: names(tmp_path) == [])
    assert set(record.artefacts) == {"recording.wav", "timeline.jsonl"} and len(record.outcomes) == 1


async def test_nothing_is_owed_of_an_attempt_that_did_not_count(
    record: RecordDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "UPLOAD_PATIENCE_S", 0.05)
    record.refusals = {"recording.wav?": [507] * 10_000, "timeline.jsonl?": [507] * 10_000}
    record.attempts[7] = 2
    async with delivering(record, tmp_path) as outbox:
        call(section := outbox.open("me"))
        await (await section.put(OUTCOME)).wait()
        await until(lambda: names(section.path) == [])
    assert record.outcomes == []


async def test_few_files_that_are_owed_are_uploaded_at_once(
    record: RecordDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "UPLOAD_PATIENCE_S", 0.0)
    monkeypatch.setattr(outboxes, "OWED_AT_ONCE", 1)
    client = record.client()
    asked: list[int] = []

    async def full(run_id: int, *_: Any) -> None:
        asked.append(run_id)
        raise RecordError("its store is full", transient=True, status=507)

    monkeypatch.setattr(client, "put_artefact", full)
    outbox = Outbox(tmp_path, client)
    record.jobs = {run_id: job(run_id) for run_id in range(1, 6)}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.run)
        section = outbox.open("me")
        for run_id in record.jobs:
            section.folder(run_id, 1).mkdir()
            (section.folder(run_id, 1) / "recording.wav").write_bytes(b"RIFF")
            await (await section.put(Report(run_id=run_id, attempt=1, executor="me", run=RUN))).wait()
        asked.clear()
        await until(lambda: len(asked) > 5)
        assert len(set(asked)) == 1 and len(record.outcomes) == 5
        tasks.cancel_scope.cancel()
    outbox.close()


async def test_a_file_that_is_refused_does_not_keep_the_outcome_back(record: RecordDouble, tmp_path: Path) -> None:
    record.refusals = {"recording.wav": [413]}
    async with delivering(record, tmp_path) as outbox:
        section = outbox.open("me")
        call(section)
        await (await section.put(OUTCOME)).wait()
    assert set(record.artefacts) == {"timeline.jsonl"} and len(record.outcomes) == 1


@pytest.mark.parametrize("refusals", [[400], [413], [400, 503]])
async def test_an_outcome_refused_for_good_is_reported_as_our_failure(
    record: RecordDouble, tmp_path: Path, refusals: list[int]
) -> None:
    record.refusals = {"report": refusals.copy()}
    async with delivering(record, tmp_path) as outbox:
        await (await outbox.open("me").put(OUTCOME)).wait()
    [told] = record.outcomes
    assert told["problem"]["cause"] == "harness" and f"HTTP {refusals[0]}" in told["problem"]["detail"]


async def test_a_report_that_is_refused_whatever_it_says_is_put_aside(record: RecordDouble, tmp_path: Path) -> None:
    record.refusals = {"report": [400, 400]}
    async with delivering(record, tmp_path) as outbox:
        section = outbox.open("me")
        await (await section.put(OUTCOME)).wait()
        assert names(section.path) == []
    assert kept(tmp_path) == ["aside/me-7-1.json"]


async def test_a_report_stuck_on_the_disk_stays_where_it_is(record: RecordDouble, tmp_path: Path) -> None:
    (tmp_path / "aside").touch()
    record.refusals = {"report": [400, 400]}
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="ERROR")
    async with delivering(record, tmp_path) as outbox:
        section = outbox.open("me")
        await (await section.put(OUTCOME)).wait()
    logger.remove(sink)
    assert "me/7-1/report.json" in kept(tmp_path)
    assert said[-1] == "run 7: could not be reported (FileExistsError)"
    (tmp_path / "aside").unlink()
    async with delivering(record, tmp_path):
        await until(lambda: names(tmp_path) == [])
    assert len(record.outcomes) == 1


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff",
        OUTCOME.model_copy(update={"run_id": 8}).model_dump_json().encode(),
        OUTCOME.model_copy(update={"executor": "you"}).model_dump_json().encode(),
    ],
)
async def test_a_damaged_report_is_put_aside_once_with_its_facts(
    record: RecordDouble, tmp_path: Path, damage: bytes
) -> None:
    record.is_down = True
    async with delivering(record, tmp_path) as outbox:
        section = outbox.open("me")
        call(section)
        await section.put(OUTCOME)
    (tmp_path / "me" / "7-1" / "report.json").write_bytes(damage)
    record.is_down = False
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="ERROR")
    for _ in range(2):
        async with delivering(record, tmp_path):
            await until(lambda: kept(tmp_path) == ["aside/me-7-1.json"])
            await until(lambda: not (tmp_path / "me").exists())
    logger.remove(sink)
    assert record.told == UPLOADED
    assert len(said) == 1 and "me/7-1/report.json" in said[0]


@pytest.mark.parametrize("is_damaged", [True, False])
async def test_a_report_unreadable_for_now_waits_for_the_next_time(
    record: RecordDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    record.is_down = True
    async with delivering(record, tmp_path) as outbox:
        await outbox.open("me").put(OUTCOME)
    record.is_down = False
    report = tmp_path / "me" / "7-1" / "report.json"
    whole = report.read_bytes()
    if is_damaged:
        report.write_bytes(b"{")
        (tmp_path / "aside").touch()
    else:
        report.unlink()
        report.symlink_to(report)
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="ERROR")
    monkeypatch.setattr(outboxes, "SWEEP_INTERVAL_S", 0.02)
    async with delivering(record, tmp_path):
        await until(lambda: said)
        # Looked at again and again meanwhile, and said once.
        await anyio.sleep(0.3)
        assert len(said) == 1
        assert report.is_symlink() or report.read_bytes() == b"{"
        assert record.told == []
        (tmp_path / "whole").write_bytes(whole)
        (tmp_path / "whole").replace(report)
        await until(lambda: record.outcomes)
    logger.remove(sink)
    assert record.outcomes == [TOLD]


async def test_few_are_kept_of_those_put_aside(
    record: RecordDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "MAX_ASIDE", 2)
    record.jobs.update({run_id: job(run_id) for run_id in range(1, 6)})
    async with delivering(record, tmp_path) as outbox:
        section = outbox.open("me")
        for run_id in range(1, 6):
            record.refusals = {"report": [400, 400]}
            await (await section.put(Report(run_id=run_id, attempt=1, executor="me", run={}))).wait()
    assert len(kept(tmp_path / "aside")) == 2


async def test_an_outcome_is_reported_also_where_it_can_t_be_written(
    record: RecordDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(outboxes, "write_atomically", full)
    async with delivering(record, tmp_path) as outbox:
        await (await outbox.open("me").put(OUTCOME)).wait()
    assert len(record.outcomes) == 1


@pytest.mark.parametrize("value", [float("nan"), "\ud800", {1, 2}])
async def test_an_outcome_that_is_no_json_is_an_outcome_all_the_same(
    record: RecordDouble, tmp_path: Path, value: Any
) -> None:
    report = Report(run_id=7, attempt=1, executor="me", run={"odd": value})
    async with delivering(record, tmp_path) as outbox:
        await (await outbox.open("me").put(report)).wait()
    assert len(record.outcomes) == 1
