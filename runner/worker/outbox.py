"""Outcomes, on disk before they are sent: whatever ends, the record gets them.

Below the folder ``outbox`` each worker has a folder of its own, named by its executor id, with a folder for each of
its calls, ``<run>-<attempt>``: the call's facts as it writes them, and ``report.json`` once it is over. A folder goes
when the record has taken what is in it, or does not want it any more.

Next to a worker's folder is a file that is locked for as long as its process lives. The kernel lets go of a lock when
a process ends, however it ends: a folder whose lock is free was left behind, and whoever finds it delivers it.
"""

import fcntl
import math
import os
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from loguru import logger
from pydantic import ValidationError

from bots.timeline import EndedReason
from runner.calls import recording, run_file, timeline
from runner.evaluation.verdicts import Cause
from runner.files import private_folder, write_atomically
from runner.protocol.messages import MAX_RUNS, Kept, Problem, Receipt, Report
from runner.worker.checks import REPORT
from runner.worker.record_client import RecordClient, RecordError, retried

ARTEFACTS = (recording.FILE_NAME, timeline.FILE_NAME, run_file.FILE_NAME)
ASIDE = "aside"
"""The folder for reports that are none, or that the record refuses for good."""

MAX_ASIDE = 20
SWEEP_INTERVAL_S = 30.0
"""How often to look for what others left behind."""

ADOPTED_AT_ONCE = 4
"""How many reports of dead workers are delivered at once."""

OWED_AT_ONCE = 4
"""How many calls' files are uploaded at once whose outcome did not wait for them."""

UPLOAD_PATIENCE_S = 20.0
"""How long uploads may hold an outcome back while the record fails at them, as it does without its store."""

_LOCK_SUFFIX = ".lock"
_CALL_FOLDER = re.compile(r"([1-9]\d{0,18})-([1-9]\d{0,9})")
_GONE = frozenset({404, 409})
_AWAY = frozenset({502, 503, 504})


@dataclass(eq=False)
class Entry:
    """A call's folder on its way to the record."""

    run_id: int
    attempt: int
    executor: str
    folder: Path
    report: Report | None
    handed_in: anyio.Event | None = None
    is_told: bool = False


class Outbox:
    """The outbox of a process: of all the workers it is, one after the other, and of dead ones that it found.

    Its folder is shared by all processes of this machine. ``changed`` is called when :attr:`kept` has changed.
    """

    def __init__(self, folder: Path, record: RecordClient, *, changed: Callable[[], None] = lambda: None):
        self._folder = folder
        self._record = record
        self._changed = changed
        self._locks = _Locks(folder)
        self._sections: dict[str, Section] = {}
        self._starting: list[tuple[Section, Entry]] = []
        self._woken = anyio.Event()
        self._adopting = anyio.CapacityLimiter(ADOPTED_AT_ONCE)
        self._owing = anyio.CapacityLimiter(OWED_AT_ONCE)
        self._complained: set[Path] = set()
        self.kept: tuple[Kept, ...] = ()
        """The reports that are on disk, and that the record has not taken."""

    def open(self, executor: str) -> "Section":
        """Return a new folder for a worker of this process. Blocks.

        Raises:
            UsageError: The outbox's folder can't be made.
            OSError: The folder can't be written.
        """
        private_folder(self._folder)
        self._locks.hold(executor)
        section = Section(executor, self._folder / executor, self._start)
        try:
            section.path.mkdir(mode=0o700)
        except OSError:
            self._locks.discard(executor)
            raise
        self._sections[executor] = section
        return section

    async def run(self) -> None:
        """Deliver until cancelled, also what dead workers left behind."""
        async with anyio.create_task_group() as tasks:
            next_sweep_s = anyio.current_time()
            while True:
                starting, self._starting = self._starting, []
                for section, entry in starting:
                    tasks.start_soon(self._deliver, section, entry)
                if anyio.current_time() >= next_sweep_s:
                    await self._adopt(tasks)
                    next_sweep_s = anyio.current_time() + SWEEP_INTERVAL_S
                with anyio.move_on_after(next_sweep_s - anyio.current_time()):
                    await self._woken.wait()
                self._woken = anyio.Event()

    def shut(self, section: "Section") -> None:
        """Take a worker's folder for done with: it goes when nothing is in it any more. Blocks a little."""
        section.is_open = False
        self._tidy(section)

    def close(self) -> None:
        """Leave what is still there to whoever finds it. Blocks a little."""
        for section in list(self._sections.values()):
            section.is_open = False
            section.entries.clear()
            self._tidy(section)

    # Delivering.

    def _start(self, section: "Section", entry: Entry) -> None:
        section.entries.append(entry)
        self._starting.append((section, entry))
        self._woken.set()
        self._note()

    async def _deliver(self, section: "Section", entry: Entry) -> None:
        with logger.contextualize(run_id=entry.run_id, attempt=entry.attempt):
            try:
                await self._hand_in(section, entry)
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(entry.folder, ignore_errors=True))
            except Exception as error:
                # It stays on disk, for the next one who finds it.
                logger.opt(exception=True).error(
                    "run {}: could not be reported ({})", entry.run_id, type(error).__name__
                )
            if entry.handed_in is not None:
                entry.handed_in.set()
            section.entries.remove(entry)
            self._note()
            if not section.is_open and not section.entries:
                await anyio.to_thread.run_sync(self._tidy, section)

    async def _hand_in(self, section: "Section", entry: Entry) -> None:
        """Deliver a call's folder. Its outcome waits for its files only for so long; then they come later."""
        # What others left behind may be much: it comes besides what happens now.
        async with self._adopting if entry.handed_in is None else nullcontext():
            is_owed = await self._report(section, entry)
        if is_owed:
            if entry.handed_in is not None:
                entry.handed_in.set()
            async with self._owing:
                await self._upload(entry)

    async def _report(self, section: "Section", entry: Entry) -> bool:
        """Report what came of a call, and return whether files of it come later."""
        run_id, report = entry.run_id, entry.report
        owed = await self._upload(entry, patience_s=UPLOAD_PATIENCE_S) if report is None or report.may_end else ()
        if report is None:
            logger.info("run {}: what a killed worker left of it was seen to", run_id)
            return False
        report = report.model_copy(update={"owed": owed})
        try:
            receipt = await retried(lambda: self._record.report(report))
        except RecordError as error:
            logger.error("run {}: its outcome was refused: {}", run_id, error)
            instead = _our_failure(report, f"the server refused the outcome: {error}")
            try:
                receipt = await retried(lambda: self._record.report(instead))
            except RecordError as refusal:
                logger.error("run {}: and so was that: {}", run_id, refusal)
                await anyio.to_thread.run_sync(self._put_aside, section, entry)
                return False
        logger.info("run {}: {}", run_id, _in_words(report, receipt))
        entry.is_told = True
        self._note()
        return bool(owed) and receipt.counted

    async def _upload(self, entry: Entry, *, patience_s: float = math.inf) -> tuple[str, ...]:
        """Upload what there is of a call, and return the names of what could not be taken within the patience."""
        failing_since_s: float | None = None

        def gives_up(error: RecordError) -> bool:
            nonlocal failing_since_s
            if error.status is None or error.status < 500 or error.status in _AWAY:
                # The outcome could not be told either.
                return False
            failing_since_s = failing_since_s or anyio.current_time()
            return anyio.current_time() - failing_since_s >= patience_s

        owed: list[str] = []
        for name in ARTEFACTS:
            path = entry.folder / name
            if not await anyio.Path(path).is_file():
                continue
            try:
                await retried(
                    lambda name=name, path=path: self._record.put_artefact(
                        entry.run_id, entry.attempt, entry.executor, name, path
                    ),
                    gives_up=gives_up,
                )
            except (RecordError, OSError) as error:
                if isinstance(error, RecordError) and error.status in _GONE:
                    return ()
                logger.warning("run {}: {} could not be uploaded: {}", entry.run_id, name, error)
                if isinstance(error, RecordError) and error.transient:
                    owed.append(name)
        return tuple(owed)

    def _note(self) -> None:
        reports = [
            entry.report
            for section in self._sections.values()
            for entry in section.entries
            if entry.report is not None and not entry.is_told
        ]
        kept = tuple(report.kept for report in sorted(reports, key=lambda report: report.key)[:MAX_RUNS])
        if kept != self.kept:
            self.kept = kept
            self._changed()

    # What dead workers left behind.

    async def _adopt(self, tasks: TaskGroup) -> None:
        try:
            found = await anyio.to_thread.run_sync(self._find)
        except Exception as error:
            logger.warning("the outbox can't be searched for what others left behind ({})", type(error).__name__)
            return
        for section in found:
            self._sections[section.executor] = section
            self._note()
            for entry in list(section.entries):
                tasks.start_soon(self._deliver, section, entry)
            if not section.entries:
                await anyio.to_thread.run_sync(self._tidy, section)

    def _find(self) -> list["Section"]:
        """Return the folders of dead workers, their locks held."""
        found: list[Section] = []
        for executor in self._locks.take_dead():
            section = Section(executor, self._folder / executor, self._start, is_open=False)
            for folder in sorted(section.path.glob("*")):
                if (named := _CALL_FOLDER.fullmatch(folder.name)) is None:
                    continue
                entry = Entry(int(named[1]), int(named[2]), executor, folder, None)
                if self._can_be_delivered(section, entry):
                    section.entries.append(entry)
            if section.entries:
                reports = sum(entry.report is not None for entry in section.entries)
                logger.info(
                    "worker {} is gone: it left {} reports, and {} calls without one",
                    executor,
                    reports,
                    len(section.entries) - reports,
                )
            found.append(section)
        return found

    def _can_be_delivered(self, section: "Section", entry: Entry) -> bool:
        """Read the report of a folder that was left behind, if it holds one; return whether it can go on its way.

        What can't be read now, or is no report and can't be put aside, stays for the next time somebody looks.
        """
        path = entry.folder / REPORT
        try:
            report = Report.model_validate_json(path.read_bytes())
            if (report.run_id, report.attempt, report.executor) != (entry.run_id, entry.attempt, entry.executor):
                raise ValueError("is of another run")
            entry.report = report
        except FileNotFoundError:
            # It was killed before its call was over.
            return True
        except OSError as error:
            self._complain(path, f"can't be read: {path} ({error.strerror})", entry)
            return False
        except ValueError as error:
            said = "is no report" if isinstance(error, ValidationError) else str(error)
            try:
                self._put_aside(section, entry)
            except OSError as failure:
                self._complain(path, f"can't be used: {path} {said}; nor put aside ({failure.strerror})", entry)
                return False
            self._complain(path, f"can't be used: {path} {said}", entry)
        return True

    def _complain(self, path: Path, problem: str, entry: Entry) -> None:
        """Say once what is wrong with a report that is met with every time somebody looks."""
        if path not in self._complained:
            self._complained.add(path)
            logger.error("run {}: its report {}", entry.run_id, problem)

    def _put_aside(self, section: "Section", entry: Entry) -> None:
        """Keep a report that nobody can deliver, for somebody to look at.

        Raises:
            OSError: It stays where it is.
        """
        aside = self._folder / ASIDE
        name = f"{section.executor}-{entry.folder.name}.json"
        aside.mkdir(mode=0o700, exist_ok=True)
        (entry.folder / REPORT).replace(aside / name)
        with suppress(FileNotFoundError):
            # Another process may be at it.
            for old in sorted(aside.iterdir(), key=lambda path: path.stat().st_mtime)[:-MAX_ASIDE]:
                old.unlink()

    def _tidy(self, section: "Section") -> None:
        """Remove a folder that is done with; leave one that is not to whoever finds it."""
        if section.entries:
            return
        self._sections.pop(section.executor, None)
        try:
            section.path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            self._locks.let_go(section.executor)
            return
        self._locks.discard(section.executor)


class Section:
    """A worker's folder in the outbox."""

    def __init__(self, executor: str, path: Path, start: Callable[["Section", Entry], None], *, is_open: bool = True):
        self.executor = executor
        self.path = path
        self.is_open = is_open
        self.entries: list[Entry] = []
        """What is on its way."""
        self._start = start

    def folder(self, run_id: int, attempt: int) -> Path:
        return self.path / f"{run_id}-{attempt}"

    async def put(self, report: Report) -> anyio.Event:
        """Write a report down, and see to it from now on that the record gets it. Can't be cut off.

        Returns:
            What is set when the record has it, or does not want it, or it can't be delivered.
        """
        folder = self.folder(report.run_id, report.attempt)
        with anyio.CancelScope(shield=True):
            report = await anyio.to_thread.run_sync(_keep, folder, report)
        handed_in = anyio.Event()
        self._start(self, Entry(report.run_id, report.attempt, report.executor, folder, report, handed_in))
        return handed_in


def _in_words(report: Report, receipt: Receipt) -> str:
    told = "reported" if report.release is None else "released"
    if not receipt.counted:
        return f"{told}, and did not count any more"
    if report.release is None:
        return told
    return f"{told}, and {'waits for another worker' if receipt.waits_again else 'ended'}"


def _keep(folder: Path, report: Report) -> Report:
    """Write a report into a folder, and return what can be reported."""
    try:
        text = report.model_dump_json()
        report = Report.model_validate_json(text)
    except ValueError as error:
        logger.error("run {}: its outcome can't be written down ({})", report.run_id, type(error).__name__)
        report = _our_failure(report, f"our own error: the outcome can't be written down ({type(error).__name__})")
        text = report.model_dump_json()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(folder / REPORT, text)
    except OSError as error:
        # It is reported all the same, as long as this process lives.
        logger.error("run {}: its outcome can't be written to disk ({})", report.run_id, error.strerror)
    return report


def _our_failure(report: Report, detail: str) -> Report:
    """Return what is reported in place of an outcome that can't be."""
    problem = Problem(cause=Cause.HARNESS, reason=EndedReason.RUNNER_ERROR, detail=detail)
    return report.model_copy(update={"run": None, "release": None, "problem": problem})


class _Locks:
    """The locks of the workers that share a folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._held: dict[str, int] = {}

    def hold(self, executor: str) -> None:
        """Say that a worker lives, until :meth:`discard` or the end of the process."""
        # Locked before it has its name: nobody finds it free.
        unnamed = self._folder / f".{executor}"
        descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            unnamed.rename(self._path(executor))
        except OSError:
            os.close(descriptor)
            raise
        self._held[executor] = descriptor

    def take_dead(self) -> list[str]:
        """Return the workers that are dead. Their locks are held from then on: nobody else gets to see to them."""
        dead: list[str] = []
        for path in sorted(self._folder.glob(f"*{_LOCK_SUFFIX}")):
            executor = path.name.removesuffix(_LOCK_SUFFIX)
            if executor in self._held:
                continue
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    os.close(descriptor)
                    continue
                self._held[executor] = descriptor
                dead.append(executor)
        return dead

    def let_go(self, executor: str) -> None:
        """Let go of a worker's lock and leave the file: whoever looks takes it for dead."""
        descriptor = self._held.pop(executor, None)
        if descriptor is not None:
            os.close(descriptor)

    def discard(self, executor: str) -> None:
        """Remove a worker that left nothing behind."""
        with suppress(OSError):
            self._path(executor).unlink()
        self.let_go(executor)

    def _path(self, executor: str) -> Path:
        return self._folder / f"{executor}{_LOCK_SUFFIX}"
