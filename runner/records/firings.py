"""When schedules fire: what is launched, what waits, what is skipped, and what came of it.

Each time at which a schedule is due makes one firing. It is written in the transaction that launches its result and
moves the schedule on to its next time: whoever else was about to do the same, in this process or in another one,
finds that done, and a process that is killed leaves all of it or nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from loguru import logger
from sqlalchemy import Select, bindparam, delete, exists, func, literal_column, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from runner.errors import RunnerError
from runner.records.crontab import COUNTED, latest_due, next_due
from runner.records.launch_request import Errors, Launch, LaunchRefused
from runner.records.launches import launch_within
from runner.records.record import Record
from runner.records.schedules import Overlap, launch_of
from runner.records.statuses import FINAL_RESULT, FiringState
from runner.records.tables import CRON_JOBS, FIRINGS, RESULTS, CronJob, Firing, ResultRow, utc_now
from runner.records.webhooks import schedule_failed

LATE = timedelta(seconds=15)
"""What fires later than that is said to be late."""

KEPT = 1_000
"""So many firings of a schedule are remembered."""

AT_ONCE = 100
"""How many firings are looked for at once."""


class Trigger(StrEnum):
    """Why a schedule fired."""

    CLOCK = "clock"
    CATCH_UP = "catch_up"
    """It was due earlier, and no server fired it then."""
    MANUAL = "manual"


_OTHERS = FIRINGS.alias("others")
_IS_OVER = RESULTS.c.status.in_([literal_column(f"'{status}'") for status in sorted(FINAL_RESULT)])
_IS_HELD = (
    select(_OTHERS.c.id)
    .join(RESULTS, RESULTS.c.id == _OTHERS.c.result_id)
    .where(_OTHERS.c.job_id == FIRINGS.c.job_id, _OTHERS.c.ended_at.is_(None), ~_IS_OVER)
    .exists()
)
_DUE = (
    select(CRON_JOBS.c.id)
    .where(CRON_JOBS.c.next_due_at <= bindparam("now", type_=CRON_JOBS.c.next_due_at.type))
    .order_by(CRON_JOBS.c.next_due_at)
    .limit(AT_ONCE)
)
_QUEUED = (
    select(FIRINGS.c.id)
    .join(CRON_JOBS, CRON_JOBS.c.id == FIRINGS.c.job_id)
    .where(
        FIRINGS.c.ended_at.is_(None),
        FIRINGS.c.state == FiringState.QUEUED,
        or_(~_IS_HELD, CRON_JOBS.c.is_active.is_(False)),
    )
    .order_by(FIRINGS.c.id)
    .limit(AT_ONCE)
)
_ENDED = (
    select(FIRINGS.c.id)
    .outerjoin(RESULTS, RESULTS.c.id == FIRINGS.c.result_id)
    .where(
        FIRINGS.c.ended_at.is_(None),
        FIRINGS.c.state == FiringState.RUNNING,
        or_(FIRINGS.c.result_id.is_(None), _IS_OVER),
    )
    .order_by(FIRINGS.c.id)
    .limit(AT_ONCE)
)


def due(session: Session, now: datetime) -> Sequence[int]:
    """Return the schedules that are due at a time."""
    return session.scalars(_DUE, {"now": now}).all()


def queued(session: Session) -> Sequence[int]:
    """Return the firings that waited for others, and need not any more."""
    return session.scalars(_QUEUED).all()


def ended(session: Session) -> Sequence[int]:
    """Return the firings whose results have ended, and that are not concluded."""
    return session.scalars(_ENDED).all()


_Claim = Callable[[AsyncSession], Awaitable[Firing | None]]
"""Takes a firing within a transaction; None where there is nothing to take any more."""


async def fire(record: Record, job_id: int, now: datetime) -> None:
    """Fire a schedule that is due: once for all the times at which it was due by now, by the record's clock.

    If it is not due (any more), nothing happens.
    """
    async with record.database.reading() as session:
        job = await session.get(CronJob, job_id)
        if job is None or job.next_due_at is None or job.next_due_at > now:
            return
        asked = await _asked(record, session, job)
    first, updated_at = job.next_due_at, job.updated_at
    due_at, missed = latest_due(job.crontab_expression, job.timezone, first, now)
    coming = next_due(job.crontab_expression, job.timezone, now)
    trigger = Trigger.CATCH_UP if missed or now - due_at > LATE else Trigger.CLOCK

    async def claim(session: AsyncSession) -> Firing | None:
        # By another process in the meantime, or changed by somebody: then it is looked at anew.
        moved = await session.execute(
            update(CronJob)
            .where(CronJob.id == job_id, CronJob.next_due_at == first, CronJob.updated_at == updated_at)
            .values(next_due_at=coming, updated_at=CronJob.updated_at)
            .returning(CronJob.id)
        )
        if moved.first() is None:
            return None
        if await session.scalar(select(exists().where(Firing.job_id == job_id, Firing.due_at == due_at))):
            return None
        await _forget_old(session, job_id)
        firing = Firing(
            job_id=job_id,
            trigger=trigger,
            due_at=due_at,
            missed=missed,
            state=FiringState.RUNNING,
            reason=_late(missed) if trigger is Trigger.CATCH_UP else "",
        )
        session.add(firing)
        await session.flush()
        return firing

    await _launch(record, job, asked, claim)


async def fire_queued(record: Record, firing_id: int) -> None:
    """Launch a firing that waits, unless it still has to."""
    async with record.database.reading() as session:
        firing = await session.get(Firing, firing_id)
        job = None if firing is None else await session.get(CronJob, firing.job_id)
        if job is None:
            return
        asked = await _asked(record, session, job)

    async def claim(session: AsyncSession) -> Firing | None:
        is_active = await _lock(session, job.id)
        found = await session.get(Firing, firing_id, with_for_update=True)
        if found is None or found.state != FiringState.QUEUED:
            return None
        if not is_active:
            _end(found, FiringState.SKIPPED, "the schedule was paused while this firing waited")
            return None
        return found

    await _launch(record, job, asked, claim)


async def run_now(
    record: Record, job_id: int, *, key_id: int | None = None, digest: str | None = None
) -> Firing | None:
    """Launch a schedule by hand, whether or not it is paused, and whatever else of it is on.

    By ``digest`` the same request is known again for a short while. ``key_id`` is None for the command line.

    Returns:
        The firing; None if there is no such schedule.

    Raises:
        LaunchRefused: It can't be launched; nothing was.
    """
    async with record.database.reading() as session:
        job = await session.get(CronJob, job_id)
        if job is None:
            return None
        asked = await launch_of(session, record.vault, job, key_id=key_id, digest=digest)

    async def within(session: AsyncSession, create: Callable[[], Awaitable[ResultRow]]) -> ResultRow | None:
        if await _lock(session, job_id) is None:
            return None
        await _forget_old(session, job_id)
        result = await create()
        firing = Firing(job_id=job_id, trigger=Trigger.MANUAL, due_at=utc_now(), missed=0, reason="")
        _run(firing, result)
        session.add(firing)
        return result

    result = await launch_within(record, asked, within)
    if result is None:
        return None
    async with record.database.reading() as session:
        return await session.scalar(select(Firing).where(Firing.result_id == result.id))


def history(job_id: int) -> Select[Firing]:
    """Return what selects the firings of a schedule, the latest first."""
    return select(Firing).where(Firing.job_id == job_id).order_by(Firing.due_at.desc())


async def latest_firings(session: AsyncSession, job_ids: Sequence[int]) -> dict[int, Firing]:
    """Return the latest firing of each of some schedules that has one."""
    latest = (
        select(Firing.job_id, func.max(Firing.due_at).label("due_at"))
        .where(Firing.job_id.in_(job_ids))
        .group_by(Firing.job_id)
        .subquery()
    )
    of_latest = (Firing.job_id == latest.c.job_id) & (Firing.due_at == latest.c.due_at)
    return {firing.job_id: firing for firing in await session.scalars(select(Firing).join(latest, of_latest))}


async def _asked(record: Record, session: AsyncSession, job: CronJob) -> Launch | str:
    """Return what a schedule launches, or why that can't be."""
    try:
        return await launch_of(session, record.vault, job)
    except LaunchRefused as error:
        return refusal(error.errors)
    except RunnerError as error:
        return str(error)
    except Exception as error:
        return _own_failure(job, error)


def _own_failure(job: CronJob, error: Exception) -> str:
    """Say that the server failed. What a database or the network does is tried again.

    Raises:
        Exception: The error, if that is what it is.
    """
    if isinstance(error, SQLAlchemyError | OSError):
        raise error
    logger.opt(exception=error).error("schedule {}: can't be launched ({})", job.id, type(error).__name__)
    return f"the server failed, and its log says how ({type(error).__name__})"


async def _launch(record: Record, job: CronJob, asked: Launch | str, claim: _Claim) -> None:
    """Launch a schedule, or write down why nothing is launched: in one transaction with what claims it."""

    async def within(session: AsyncSession, create: Callable[[], Awaitable[ResultRow]]) -> ResultRow | None:
        firing = await claim(session)
        if firing is None or await _is_held(session, job, firing):
            return None
        result = await create()
        _run(firing, result)
        return result

    if isinstance(asked, Launch):
        try:
            result = await launch_within(record, asked, within)
            if result is not None:
                logger.info("schedule {}: fires, result {}", job.id, result.id)
            return
        except LaunchRefused as error:
            asked = refusal(error.errors)
        except Exception as error:
            asked = _own_failure(job, error)
    async with record.database.session() as session:
        firing = await claim(session)
        if firing is not None and not await _is_held(session, job, firing):
            await _end_without(session, job, firing, FiringState.FAILED, f"nothing was launched: {asked}")
            logger.warning("schedule {}: due {:%Y-%m-%d %H:%M:%S}: {}", job.id, firing.due_at, firing.reason)


async def _is_held(session: AsyncSession, job: CronJob, firing: Firing) -> bool:
    """Return whether a firing is not launched now, because an earlier one is still on; write down what it does."""
    overlap = Overlap(job.data.get("overlap", Overlap.QUEUE))
    if overlap is Overlap.BOTH:
        return False
    is_queued = firing.state == FiringState.QUEUED
    others = (
        select(Firing.result_id, Firing.state)
        .outerjoin(ResultRow, ResultRow.id == Firing.result_id)
        .where(
            Firing.job_id == job.id,
            Firing.ended_at.is_(None),
            (ResultRow.status.not_in(FINAL_RESULT)) | (Firing.state == FiringState.QUEUED),
            Firing.id != firing.id,
        )
        .order_by(Firing.id)
    )
    found = (await session.execute(others)).all()
    running = [result_id for result_id, state in found if state == FiringState.RUNNING]
    if not found or (is_queued and not running):
        return False
    if is_queued:
        return True
    is_on = f"result {running[0]} was still on" if running else "the one before it had not begun"
    if overlap is Overlap.QUEUE and len(running) == len(found):
        firing.state = FiringState.QUEUED
        firing.reason = together(firing.reason, f"{is_on}: waits for it")
    else:
        more = ", and a firing waited already" if overlap is Overlap.QUEUE and running else ""
        await _end_without(session, job, firing, FiringState.SKIPPED, f"{is_on}{more}")
    return True


async def _lock(session: AsyncSession, job_id: int) -> bool | None:
    """Keep others from firing a schedule until the transaction is over.

    Returns:
        Whether it is active; None if it is not there.
    """
    return await session.scalar(select(CronJob.is_active).where(CronJob.id == job_id).with_for_update())


async def _forget_old(session: AsyncSession, job_id: int) -> None:
    oldest = (
        select(Firing.due_at)
        .where(Firing.job_id == job_id)
        .order_by(Firing.due_at.desc())
        .offset(KEPT - 1)
        .limit(1)
        .scalar_subquery()
    )
    old = delete(Firing).where(Firing.job_id == job_id, Firing.ended_at.is_not(None), Firing.due_at <= oldest)
    await session.execute(old.execution_options(synchronize_session=False))


def _run(firing: Firing, result: ResultRow) -> None:
    firing.state, firing.result_id, firing.fired_at = FiringState.RUNNING, result.id, utc_now()


async def _end_without(session: AsyncSession, job: CronJob, firing: Firing, state: FiringState, why: str) -> None:
    """End a firing that launches nothing, which no result can tell of."""
    _end(firing, state, why)
    if job.data.get("notify_on") in ("both", "failure"):
        await session.run_sync(schedule_failed, firing.id)


def _end(firing: Firing, state: FiringState, why: str) -> None:
    firing.state, firing.ended_at, firing.reason = state, utc_now(), together(firing.reason, why)


def _late(missed: int) -> str:
    # Whether no server was up, or it had too much to do, nothing tells.
    if not missed:
        return "it fired late"
    count = f"at least {COUNTED}" if missed == COUNTED else str(missed)
    return f"it fired late: it makes up for this time and {count} before it"


def together(first: str, second: str) -> str:
    """Return two reasons as one."""
    return "; ".join(filter(None, (first, second)))


def refusal(errors: Errors) -> str:
    """Return in one line why a launch was refused."""
    said: list[str] = []

    def collect(where: str, value: object) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                collect(f"{where}.{name}" if where else str(name), inner)
        elif isinstance(value, list):
            for place, inner in enumerate(value):
                collect(where if isinstance(inner, str) else f"{where}[{place}]", inner)
        else:
            said.append(f"{where}: {value}")

    collect("", errors)
    more = f" (and {len(said) - 3} more)" if len(said) > 3 else ""
    return " ".join(said[:3]) + more
