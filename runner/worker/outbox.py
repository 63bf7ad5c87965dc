"""Outcomes, on disk before they are sent: whatever ends, the record gets them.

Below the folder ``outbox`` each worker has a folder of its own, named by its executor id, with a folder for each of
its calls, ``<run>-<attempt>``: the call's facts as it writes them, and ``report.json`` once it is over. A folder goes
when the record has taken what is in it, or does not want it any more.

Next to a worker's folder is a file that is locked for as long as its process lives. The kernel lets go of a lock when
a process ends, however it ends: a folder whose lock is free was left behind, and whoever finds it delivers it.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bots.timeline import EndedReason
from runner.calls import recording, run_file, timeline
from runner.evaluation.verdicts import Cause
from runner.files import write_atomically
from runner.records.data_dir import private_folder
from runner.records.statuses import RunStatus
from runner.worker.errors import RecordError
from runner.worker.record_client import Problem, RecordClient, RunProgress
from runner.worker.retries import retried

FILE_NAME = "report.json"
ARTEFACTS = (recording.FILE_NAME, timeline.FILE_NAME, run_file.FILE_NAME)
ASIDE = "aside"
"""The folder for reports that are none, or that the record refuses for good."""

MAX_ASIDE = 20
SWEEP_INTERVAL_S = 30.0
"""How often to look for what others left behind."""

ADOPTED_AT_ONCE = 4
UPLOAD_PATIENCE_S = 60.0
"""How long uploads may hold an outcome back while the record fails at them, as it does without its store."""

_LOCK_SUFFIX = ".lock"
_CALL_FOLDER = re.compile(r"([1-9]\d{0,18})-([1-9]\d{0,9})")
_GONE = frozenset({404, 409})
_AWAY = frozenset({502, 503, 504})


class GiveBack(BaseModel):
    """That a run was broken off, and somebody else may take it.

    Attributes:
        detail: Why, in one line.
        said: Whether anything was said or published in it.
        may_end: Whether the run may end by it, so that its facts are worth keeping.
    """

    model_config = ConfigDict(frozen=True)

    detail: str
    said: bool
    may_end: bool


class Report(BaseModel):
    """What there is to report of an attempt at a run: one of three things.

    Attributes:
        run_id: The run.
        attempt: The attempt.
        run: ``run.json`` without its script.
        problem: Why there was no call.
        back: That it is given back.
    """

    model_config = ConfigDict(frozen=True)

    run_id: int
    attempt: int
    run: dict[str, Any] | None = Field(default=None, repr=False)
    problem: Problem | None = None
    back: GiveBack | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(what is not None for what in (self.run, self.problem, self.back)) != 1:
            raise ValueError("is none, or more than one")
        return self

    @property
    def may_end(self) -> bool:
        """Whether the run may end by it."""
        return self.back is None or self.back.may_end


@dataclass(eq=False)
class Parcel:
    """A call's folder on its way to the record.

    Attributes:
        run_id: The run.
        attempt: The attempt.
        folder: The folder.
        report: What to report; None where there are facts and nothing else, for its process was killed.
        handed_in: Set when the record has it, or does not want it, or it can't be delivered; None if nobody waits.
        is_void: Whether the record does not want it.
    """

    run_id: int
    attempt: int
    folder: Path
    report: Report | None
    handed_in: anyio.Event | None = None
    is_void: bool = False


class Outbox:
    """The outbox of a process: of all the workers it is, one after the other, and of dead ones that it found.

    Args:
        folder: The folder that all processes of this machine share; is made.
        record: Where reports go.
        changed: Is called when :attr:`held` or :attr:`outcomes` has changed.
    """

    def __init__(self, folder: Path, record: RecordClient, *, changed: Callable[[], None] = lambda: None):
        self._folder = folder
        self._record = record
        self._changed = changed
        self._locks = _Locks(folder)
        self._shelves: dict[str, Shelf] = {}
        self._starting: list[tuple[Shelf, Parcel]] = []
        self._woken = anyio.Event()
        self._adopting = anyio.CapacityLimiter(ADOPTED_AT_ONCE)
        self._complained: set[Path] = set()
        self.held: tuple[int, ...] = ()
        """The runs whose report is on disk, and that the record has not taken."""
        self.outcomes: tuple[tuple[int, int], ...] = ()
        """Those of them that may end by it, each with its attempt: the rest waits for another worker."""
        self.adopted = 0
        """How many dead workers were found so far that had left something."""

    def open(self, executor: str) -> "Shelf":
        """Return a new folder for a worker of this process. Blocks.

        Raises:
            UsageError: The outbox's folder can't be made.
            OSError: The folder can't be written.
        """
        private_folder(self._folder)
        self._locks.hold(executor)
        shelf = Shelf(executor, self._folder / executor, self._start)
        try:
            shelf.path.mkdir(mode=0o700)
        except OSError:
            self._locks.bury(executor)
            raise
        self._shelves[executor] = shelf
        return shelf

    async def run(self) -> None:
        """Deliver until cancelled, also what dead workers left behind."""
        async with anyio.create_task_group() as tasks:
            next_sweep_s = anyio.current_time()
            while True:
                starting, self._starting = self._starting, []
                for shelf, parcel in starting:
                    tasks.start_soon(self._deliver, shelf, parcel)
                if anyio.current_time() >= next_sweep_s:
                    await self._adopt(tasks)
                    next_sweep_s = anyio.current_time() + SWEEP_INTERVAL_S
                with anyio.move_on_after(next_sweep_s - anyio.current_time()):
                    await self._woken.wait()
                self._woken = anyio.Event()

    def shut(self, shelf: "Shelf") -> None:
        """Take a worker's folder for done with: it goes when nothing is in it any more. Blocks a little."""
        shelf.is_open = False
        self._tidy(shelf)

    def close(self) -> None:
        """Leave what is still there to whoever finds it. Blocks a little."""
        for shelf in list(self._shelves.values()):
            shelf.is_open = False
            shelf.parcels.clear()
            self._tidy(shelf)

    # Delivering.

    def _start(self, shelf: "Shelf", parcel: Parcel) -> None:
        shelf.parcels.append(parcel)
        self._starting.append((shelf, parcel))
        self._woken.set()
        self._note()

    async def _deliver(self, shelf: "Shelf", parcel: Parcel) -> None:
        with logger.contextualize(run_id=parcel.run_id, attempt=parcel.attempt):
            try:
                await self._hand_in(shelf, parcel)
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(parcel.folder, ignore_errors=True))
            except Exception as error:
                # It stays on disk, for the next one who finds it.
                logger.opt(exception=True).error(
                    "run {}: could not be reported ({})", parcel.run_id, type(error).__name__
                )
            if parcel.handed_in is not None:
                parcel.handed_in.set()
            shelf.parcels.remove(parcel)
            self._note()
            if not shelf.is_open and not shelf.parcels:
                await anyio.to_thread.run_sync(self._tidy, shelf)

    async def _hand_in(self, shelf: "Shelf", parcel: Parcel) -> None:
        run_id, report = parcel.run_id, parcel.report
        if parcel.is_void:
            logger.info("run {}: what a worker left of it does not count any more", run_id)
            return
        if report is None or report.may_end:
            # First: an outcome never points at nothing.
            await self._upload(parcel)
        if report is None:
            logger.info("run {}: what a killed worker left of it was seen to", run_id)
            return
        try:
            said = await (self._told(report) if report.back is None else self._gave_back(report, report.back))
        except RecordError as error:
            logger.error("run {}: its outcome was refused: {}", run_id, error)
            refused = f"the record refused the outcome: {error}"
            problem = Problem(cause=Cause.HARNESS, reason=EndedReason.RUNNER_ERROR, detail=refused)
            try:
                said = await self._told(Report(run_id=run_id, attempt=report.attempt, problem=problem))
            except RecordError as refusal:
                logger.error("run {}: and so was that: {}", run_id, refusal)
                await anyio.to_thread.run_sync(self._put_aside, shelf, parcel)
                return
        logger.info("run {}: {}", run_id, said)

    async def _told(self, report: Report) -> str:
        """Report an outcome, and return what came of that.

        Raises:
            RecordError: It was refused.
        """
        what = report.problem or report.run or {}
        accepted = await retried(lambda: self._record.outcome(report.run_id, report.attempt, what))
        return "reported" if accepted else "reported, and did not count any more"

    async def _gave_back(self, report: Report, back: GiveBack) -> str:
        """Give a run back, and return what came of that.

        Raises:
            RecordError: It was refused.
        """
        again = await retried(
            lambda: self._record.release(report.run_id, report.attempt, detail=back.detail, said=back.said)
        )
        if again is None:
            return "given back, and did not count any more"
        return "given back, and waits for another worker" if again else "given back, and ended"

    async def _upload(self, parcel: Parcel) -> None:
        """Upload what there is of a call."""
        failing_since_s: float | None = None

        def gives_up(error: RecordError) -> bool:
            nonlocal failing_since_s
            if error.status is None or error.status < 500 or error.status in _AWAY:
                # The outcome could not be told either.
                return False
            failing_since_s = failing_since_s or anyio.current_time()
            return anyio.current_time() - failing_since_s >= UPLOAD_PATIENCE_S

        for name in ARTEFACTS:
            path = parcel.folder / name
            if not await anyio.Path(path).is_file():
                continue
            try:
                await retried(
                    lambda name=name, path=path: self._record.put_artefact(parcel.run_id, parcel.attempt, name, path),
                    gives_up=gives_up,
                )
            except (RecordError, OSError) as error:
                if isinstance(error, RecordError) and error.status in _GONE:
                    return
                logger.warning("run {}: {} could not be uploaded: {}", parcel.run_id, name, error)

    def _note(self) -> None:
        reports = [p for shelf in self._shelves.values() for p in shelf.parcels if p.report is not None]
        held = tuple(sorted({parcel.run_id for parcel in reports}))
        ends = {(parcel.run_id, parcel.attempt) for parcel in reports if parcel.report and parcel.report.may_end}
        outcomes = tuple(sorted(ends))
        if (held, outcomes) != (self.held, self.outcomes):
            self.held, self.outcomes = held, outcomes
            self._changed()

    # What dead workers left behind.

    async def _adopt(self, tasks: TaskGroup) -> None:
        try:
            found = await anyio.to_thread.run_sync(self._find)
        except Exception as error:
            logger.warning("the outbox can't be searched for what others left behind ({})", type(error).__name__)
            return
        for shelf in found:
            self._shelves[shelf.executor] = shelf
            self.adopted += bool(shelf.parcels)
            self._note()
            for parcel in list(shelf.parcels):
                tasks.start_soon(self._deliver_adopted, shelf, parcel)
            if not shelf.parcels:
                await anyio.to_thread.run_sync(self._tidy, shelf)

    async def _deliver_adopted(self, shelf: "Shelf", parcel: Parcel) -> None:
        async with self._adopting:
            parcel.is_void = not await self._is_known(shelf, parcel)
            await self._deliver(shelf, parcel)

    async def _is_known(self, shelf: "Shelf", parcel: Parcel) -> bool:
        """Return whether the record gave a run to the worker that left it: the record may be another one by now."""
        told = RunProgress(
            run_id=parcel.run_id, attempt=parcel.attempt, status=RunStatus.RUNNING.value, joined=False, said=False
        )
        try:
            orders = await retried(lambda: self._record.progress([told]))
        except RecordError as error:
            logger.warning("run {}: {}", parcel.run_id, error)
            return True
        return any(order.executor == shelf.executor for order in orders)

    def _find(self) -> list["Shelf"]:
        """Return the folders of dead workers, their locks held."""
        found: list[Shelf] = []
        for executor in self._locks.take_dead():
            shelf = Shelf(executor, self._folder / executor, self._start, is_open=False)
            for folder in sorted(shelf.path.glob("*")):
                if (named := _CALL_FOLDER.fullmatch(folder.name)) is None:
                    continue
                parcel = Parcel(int(named[1]), int(named[2]), folder, None)
                if self._can_be_delivered(shelf, parcel):
                    shelf.parcels.append(parcel)
            if shelf.parcels:
                reports = sum(parcel.report is not None for parcel in shelf.parcels)
                logger.info(
                    "worker {} is gone: it left {} reports, and {} calls without one",
                    executor,
                    reports,
                    len(shelf.parcels) - reports,
                )
            found.append(shelf)
        return found

    def _can_be_delivered(self, shelf: "Shelf", parcel: Parcel) -> bool:
        """Read the report of a folder that was left behind, if it holds one; return whether it can go on its way.

        What can't be read now, or is no report and can't be put aside, stays for the next time somebody looks.
        """
        path = parcel.folder / FILE_NAME
        try:
            report = Report.model_validate_json(path.read_bytes())
            if (report.run_id, report.attempt) != (parcel.run_id, parcel.attempt):
                raise ValueError("is of another run")
            parcel.report = report
        except FileNotFoundError:
            # It was killed before its call was over.
            return True
        except OSError as error:
            self._complain(path, f"can't be read: {path} ({error.strerror})", parcel)
            return False
        except ValueError as error:
            said = "is no report" if isinstance(error, ValidationError) else str(error)
            try:
                self._put_aside(shelf, parcel)
            except OSError as failure:
                self._complain(path, f"can't be used: {path} {said}; nor put aside ({failure.strerror})", parcel)
                return False
            self._complain(path, f"can't be used: {path} {said}", parcel)
        return True

    def _complain(self, path: Path, problem: str, parcel: Parcel) -> None:
        """Say once what is wrong with a report that is met with every time somebody looks."""
        if path not in self._complained:
            self._complained.add(path)
            logger.error("run {}: its report {}", parcel.run_id, problem)

    def _put_aside(self, shelf: "Shelf", parcel: Parcel) -> None:
        """Keep a report that nobody can deliver, for somebody to look at.

        Raises:
            OSError: It stays where it is.
        """
        aside = self._folder / ASIDE
        name = f"{shelf.executor}-{parcel.folder.name}.json"
        aside.mkdir(mode=0o700, exist_ok=True)
        (parcel.folder / FILE_NAME).replace(aside / name)
        with suppress(FileNotFoundError):
            # Another process may be at it.
            for old in sorted(aside.iterdir(), key=lambda path: path.stat().st_mtime)[:-MAX_ASIDE]:
                old.unlink()

    def _tidy(self, shelf: "Shelf") -> None:
        """Remove a folder that is done with; leave one that is not to whoever finds it."""
        if shelf.parcels:
            return
        self._shelves.pop(shelf.executor, None)
        try:
            shelf.path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            self._locks.let_go(shelf.executor)
            return
        self._locks.bury(shelf.executor)


class Shelf:
    """A worker's folder in the outbox.

    Args:
        executor: The worker.
        path: Its folder.
        start: Starts to deliver something.
        is_open: Whether more comes into it.
    """

    def __init__(self, executor: str, path: Path, start: Callable[["Shelf", Parcel], None], *, is_open: bool = True):
        self.executor = executor
        self.path = path
        self.is_open = is_open
        self.parcels: list[Parcel] = []
        """What is on its way."""
        self._start = start

    def folder(self, run_id: int, attempt: int) -> Path:
        """Return the folder of a call."""
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
        self._start(self, Parcel(report.run_id, report.attempt, folder, report, handed_in))
        return handed_in


def _keep(folder: Path, report: Report) -> Report:
    """Write a report into a folder, and return what can be reported."""
    try:
        text = report.model_dump_json()
        report = Report.model_validate_json(text)
    except ValueError as error:
        logger.error("run {}: its outcome can't be written down ({})", report.run_id, type(error).__name__)
        detail = f"our own error: the outcome can't be written down ({type(error).__name__})"
        problem = Problem(cause=Cause.HARNESS, reason=EndedReason.RUNNER_ERROR, detail=detail)
        report = Report(run_id=report.run_id, attempt=report.attempt, problem=problem)
        text = report.model_dump_json()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(folder / FILE_NAME, text)
    except OSError as error:
        # It is reported all the same, as long as this process lives.
        logger.error("run {}: its outcome can't be written to disk ({})", report.run_id, error.strerror)
    return report


class _Locks:
    """The locks of the workers that share a folder.

    Args:
        folder: Where the locks are.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._held: dict[str, int] = {}

    def hold(self, executor: str) -> None:
        """Say that a worker lives, until :meth:`bury` or the end of the process.

        Raises:
            OSError: The folder can't be written.
        """
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

    def bury(self, executor: str) -> None:
        """Remove a worker that left nothing behind."""
        with suppress(OSError):
            self._path(executor).unlink()
        self.let_go(executor)

    def _path(self, executor: str) -> Path:
        return self._folder / f"{executor}{_LOCK_SUFFIX}"
