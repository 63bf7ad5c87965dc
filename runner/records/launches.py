"""From a launch to a result with its runs, waiting for workers: all of it, or nothing."""

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, cast

from pydantic import SecretStr
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from runner.errors import UsageError
from runner.records.changes import work_changed
from runner.records.filters import chunks
from runner.records.jobs import RoomSecrets, RunType, open_pipecat_data, seal_pipecat_data, shown_settings
from runner.records.launch_check import Check, find
from runner.records.launch_request import DEFAULT_PRIORITY, Errors, Launch, LaunchEntry, LaunchRefused
from runner.records.record import Record
from runner.records.secrets import Vault
from runner.records.tables import Agent, ResultRow, RunRow, utc_now
from runner.records.webhooks import hold_for_webhook
from runner.rooms.allowed import RoomGuard

PATIENCE_S = 3.0
"""For how long a large launch lets those go first who read much."""

ATTEMPTS = 3
"""How often a launch is checked anew because what it names went between checking and writing."""

Within = Callable[[AsyncSession, Callable[[], Awaitable[ResultRow]]], Awaitable[ResultRow | None]]
"""Does more in the transaction that creates a result: it is given what creates it, and may leave that."""


async def launch(record: Record, launch: Launch) -> ResultRow:
    """Create a result with its runs, which wait for workers from then on.

    A launch that was there before (by its idempotency key, or by its digest within the settings' window) creates
    nothing: its result is returned.

    Raises:
        LaunchRefused: Something is wrong with it; nothing was created.
    """

    async def within(session: AsyncSession, create: Callable[[], Awaitable[ResultRow]]) -> ResultRow:
        return await create()

    return cast(ResultRow, await launch_within(record, launch, within))


async def launch_within(record: Record, launch: Launch, within: Within) -> ResultRow | None:
    """Do the same as :func:`launch`, and something else in the same transaction; return None if ``within`` left it.

    ``within`` is called again if the transaction has to be tried again, and not at all for a launch that was there
    before.

    Raises:
        LaunchRefused: Something is wrong with it; nothing was created.
    """
    patient_until_s = time.monotonic() + PATIENCE_S
    guard = await _guard(record, launch)
    for attempt in range(1, ATTEMPTS + 1):
        async with record.database.reading() as session:
            earlier = await _earlier(record, session, launch)
            if earlier is not None:
                return earlier
            found = await find(session, launch)
        runs = await Check(record, launch, found, guard).plan(patient_until_s)
        try:
            async with record.database.session() as session:
                await _lock(session, launch)
                result = await _earlier(record, session, launch)
                if result is None:
                    result = await within(session, partial(_write, record, session, launch, found.agent, runs))
                work_changed(session.sync_session)
            return result
        except IntegrityError:
            # A scenario or agent was deleted after it was looked up: checking again says which.
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


async def mistakes(record: Record, launch: Launch) -> Errors:
    """Return all that is wrong with a launch, by field; nothing is created whatever it is."""
    guard = await _guard(record, launch)
    async with record.database.reading() as session:
        found = await find(session, launch)
    try:
        await Check(record, launch, found, guard).plan(time.monotonic() + PATIENCE_S)
    except LaunchRefused as error:
        return error.errors
    return {}


@dataclass(frozen=True)
class Anew:
    """What a run is made again with, in place of what it had.

    Attributes:
        given: Which of the following are given, by their names; the others stay as they were.
        pipecat_room_url: Another room. The token of the one before is not taken along.
        pipecat_token: The room's token; None enters without.
        publish_data_message: ``{"value": …}``; None publishes nothing.
    """

    given: frozenset[str] = frozenset()
    pipecat_room_url: str | None = None
    pipecat_token: SecretStr | None = None
    publish_data_message: dict[str, Any] | None = field(default=None, repr=False)


def again(
    record: Record,
    result: ResultRow,
    runs: Sequence[RunRow],
    *,
    key_id: int | None,
    name: str,
    digest: str,
    anew: Mapping[int, Anew] | None = None,
) -> Launch:
    """Return the launch that makes runs of a result anew, with their scenarios as they are now, and without delay.

    An empty ``name`` is the result's own. ``anew`` says by the ids of runs what these are made again with.

    Raises:
        LaunchRefused: A scenario is gone, or a secret of a run, which is erased when it ends, and no other is given.
    """
    errors: Errors = {}
    entries: list[LaunchEntry] = []
    for run in runs:
        wrong: Errors = {}
        if run.scenario_id is None:
            errors[str(run.id)] = ["Its scenario was deleted."]
            continue
        entries.append(_entry_again(record.vault, run, run.scenario_id, (anew or {}).get(run.id, Anew()), wrong))
        if wrong:
            errors[str(run.id)] = wrong
    if errors:
        raise LaunchRefused({"runs": errors})
    try:
        pipecat_data = open_pipecat_data(record.vault, result.run_settings)
    except UsageError:
        raise LaunchRefused(
            {"pipecat_data": ["It was encrypted with another secret key; launch it anew, with what it is to be."]}
        ) from None
    return Launch(
        project_id=result.project_id,
        key_id=key_id,
        agent_id=result.agent_id,
        entries=entries,
        run_type=RunType(result.run_type),
        name=name or result.name,
        concurrency_limit=result.concurrency_limit,
        priority=result.run_settings.get("priority", DEFAULT_PRIORITY),
        digest=digest,
        run_settings={**_without_delay(shown_settings(result.run_settings)), "rerun_of": result.id},
        pipecat_data=pipecat_data,
        mock_tool_names=result.run_settings.get("mock_tool_names"),
    )


def _entry_again(vault: Vault, run: RunRow, scenario_id: int, anew: Anew, wrong: Errors) -> LaunchEntry:
    """Return a run as an entry of a launch. What is wrong, such as a secret that is gone, is added to ``wrong``."""
    try:
        kept = RoomSecrets.open(vault, run.room_token)
    except UsageError:
        # Encrypted with another key: as good as erased.
        kept = RoomSecrets()
    if run.room_url is None:
        for name in ("pipecat_room_url", "pipecat_token"):
            if name in anew.given:
                wrong[name] = ["A session is started for this run; leave it out."]
    url = run.room_url if kept.url is None else kept.url.get_secret_value()
    token, message = kept.token, run.data_message
    if kept.data_message is not None:
        message = {"value": kept.data_message}
    gone = [name for name in _sealed(run.snapshot) if name not in kept.names]
    if "pipecat_room_url" in anew.given:
        # A token is of a room.
        url, token = anew.pipecat_room_url, anew.pipecat_token
        gone = [name for name in gone if name == "data_message"]
    elif "pipecat_token" in anew.given:
        token = anew.pipecat_token
        gone = [name for name in gone if name != "token"]
    if "publish_data_message" in anew.given:
        message = anew.publish_data_message
        gone = [name for name in gone if name != "data_message"]
    for name in gone:
        wrong[_FIELDS[name]] = [_ERASED[name].format(run.id)]
    return LaunchEntry(
        scenario_id=scenario_id,
        room_url=url,
        token=token,
        data_message=message,
        personality_id=(run.snapshot.get("personality") or {}).get("id"),
        test_profile_id=(run.snapshot.get("test_profile") or {}).get("id"),
        participant_name=run.snapshot.get("participant_name"),
    )


_FIELDS = {"token": "pipecat_token", "url": "pipecat_room_url", "data_message": "publish_data_message"}
"""What a launch calls the secrets of a run."""

_ERASED = {
    "token": "The room's token was erased when the run ended; give one that holds, or null to enter without: "
    '"runs": [{{"run": {}, "pipecat_token": …}}].',
    "url": "The room's address held a token, which was erased when the run ended; give the whole address: "
    '"runs": [{{"run": {}, "pipecat_room_url": …}}].',
    "data_message": "The message held a secret, and was erased when the run ended; give it again, or null for none: "
    '"runs": [{{"run": {}, "publish_data_message": …}}].',
}


def _sealed(snapshot: Mapping[str, Any]) -> Sequence[str]:
    """Return which secrets a run had when it was launched."""
    sealed = snapshot.get("sealed")
    # Launched by a version that did not say which: then it was a token most of the time.
    return ["token"] if sealed is True else cast(list[str], sealed or [])


def _without_delay(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "delay_s"}


async def _guard(record: Record, launch: Launch) -> RoomGuard:
    """Return what says which rooms may be entered, and has looked up all those of a launch."""
    guard = RoomGuard(record.settings)
    await guard.look_up([entry.room_url for entry in launch.entries if entry.room_url is not None])
    return guard


async def _earlier(record: Record, session: AsyncSession, launch: Launch) -> ResultRow | None:
    """Return the result of the same launch, if there was one.

    Raises:
        LaunchRefused: Its idempotency key belongs to another launch.
    """
    of_project = select(ResultRow).where(ResultRow.project_id == launch.project_id)
    if launch.idempotency_key is not None:
        found = await session.scalar(of_project.where(ResultRow.idempotency_key == launch.idempotency_key))
        if found is not None and found.launch_digest != launch.digest:
            raise LaunchRefused({"Idempotency-Key": [f"It was used for another launch, result {found.id}."]})
        return found
    window_s = record.settings.server.duplicate_window_s
    if launch.digest is None or window_s <= 0:
        return None
    return await session.scalar(
        of_project.where(
            ResultRow.launch_digest == launch.digest,
            ResultRow.idempotency_key.is_(None),
            ResultRow.created_at > utc_now() - timedelta(seconds=window_s),
        )
        .order_by(ResultRow.id)
        .limit(1)
    )


async def _lock(session: AsyncSession, launch: Launch) -> None:
    """Let the same launch wait that comes at the same moment. On SQLite there is one writer anyway."""
    same = launch.idempotency_key or launch.digest
    connection = await session.connection()
    if same is None or connection.dialect.name != "postgresql":
        return
    number = int.from_bytes(hashlib.sha256(f"{launch.project_id}:{same}".encode()).digest()[:8], signed=True)
    await session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


async def _write(
    record: Record, session: AsyncSession, launch: Launch, agent: Agent | None, runs: Sequence[dict[str, Any]]
) -> ResultRow:
    agent_id = None if agent is None else agent.id
    settings = {**launch.run_settings, **seal_pipecat_data(record.vault, launch.pipecat_data)}
    if launch.mock_tool_names is not None:
        settings["mock_tool_names"] = list(launch.mock_tool_names)
    result = ResultRow(
        project_id=launch.project_id,
        agent_id=agent_id,
        agent_name="" if agent is None else agent.name,
        name=launch.name,
        run_type=launch.run_type.value,
        run_settings=settings,
        is_cronjob=launch.is_cronjob,
        concurrency_limit=launch.concurrency_limit,
        idempotency_key=launch.idempotency_key,
        launch_digest=launch.digest,
    )
    session.add(result)
    await session.flush()
    now = utc_now()
    due_at = now + timedelta(seconds=launch.delay_s) if launch.delay_s else None
    not_before = await session.run_sync(hold_for_webhook, result.id, due_at)
    common = {
        "result_id": result.id,
        "project_id": launch.project_id,
        "agent_id": agent_id,
        "priority": launch.priority,
        "not_before": not_before,
        "created_at": now,
        "updated_at": now,
    }
    # Row by row in one go: their ids go up in the order of the rows.
    connection = await session.connection()
    for some in chunks(runs):
        await connection.execute(insert(RunRow), [run | common for run in some])
    return result
