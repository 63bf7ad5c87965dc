"""What schedules say: what they launch, in which rooms, and what they do when one firing meets another."""

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from runner.records.filters import holds_any
from runner.records.jobs import RunType
from runner.records.launch_request import Launch, LaunchEntry, LaunchRefused
from runner.records.secrets import Vault
from runner.records.tables import CronJob, ScenarioRow


class Overlap(StrEnum):
    """What a firing does while the one before it is still on."""

    SKIP = "skip"
    """It is not launched, and its history says so."""
    QUEUE = "queue"
    """It is launched once the other has ended. One waits at most: another one is skipped."""
    BOTH = "both"
    """It is launched beside the other."""


class FixedRoom(BaseModel):
    """A room that is there, and the scenario that a schedule plays in it each time it fires."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    scenario: int
    url: SecretStr
    token: SecretStr | None = None
    data_message: Any = Field(default=None, repr=False)
    participant_name: str | None = None


PREVIOUS = "previous"
"""A baseline that is the schedule's own last firings: those that got no worse, and in which a run passed."""

_ROOMS = TypeAdapter(list[FixedRoom])


def baseline_results(baseline: int | Sequence[int] | str | None) -> list[int]:
    """Return the results that a baseline names."""
    if baseline is None or isinstance(baseline, str):
        return []
    return [baseline] if isinstance(baseline, int) else list(dict.fromkeys(baseline))


def seal_rooms(vault: Vault, rooms: Sequence[FixedRoom]) -> bytes | None:
    """Return rooms encrypted; None if there are none."""
    if not rooms:
        return None
    return vault.seal(json.dumps([_plain(room) for room in rooms]))


def seal_erased_rooms(vault: Vault) -> bytes:
    """Return what a schedule has in place of rooms that no key opens any more: :func:`launch_of` refuses it.

    It is not None, with which a session would be started for each run.
    """
    return vault.seal("[]")


def open_rooms(vault: Vault, sealed: bytes | None) -> list[FixedRoom]:
    """Return what :func:`seal_rooms` made.

    Raises:
        UsageError: They were encrypted with another key.
    """
    return [] if sealed is None else _ROOMS.validate_json(vault.open(sealed))


def _plain(room: FixedRoom) -> dict[str, Any]:
    token = None if room.token is None else room.token.get_secret_value()
    return {**room.model_dump(), "url": room.url.get_secret_value(), "token": token}


async def launch_of(
    session: AsyncSession, vault: Vault, job: CronJob, *, key_id: int | None = None, digest: str | None = None
) -> Launch:
    """Return what a schedule launches: scenarios that have its tags now are among it.

    ``key_id`` is of the key that launches it by hand, None for the clock; ``digest`` is by which the launch is known
    again for a short while.

    Raises:
        LaunchRefused: No scenario has its tags, or its rooms were erased.
        UsageError: Its rooms were encrypted with another key.
    """
    data = job.data
    rooms = open_rooms(vault, job.rooms)
    tags: list[str] = data.get("tags") or []
    if job.rooms is not None and not rooms:
        raise LaunchRefused({"rooms": ["They were erased when the secret key was lost; give them again."]})
    if rooms:
        entries = [
            LaunchEntry(
                scenario_id=room.scenario,
                room_url=room.url.get_secret_value(),
                token=room.token,
                data_message=None if room.data_message is None else {"value": room.data_message},
                participant_name=room.participant_name,
            )
            for room in rooms
        ]
    else:
        ids = list(job.scenario_ids)
        if tags:
            tagged = select(ScenarioRow.id).where(
                ScenarioRow.project_id == job.project_id,
                ScenarioRow.agent_id == job.agent_id,
                holds_any(ScenarioRow.tags, tags),
            )
            ids = list(await session.scalars(tagged.order_by(ScenarioRow.id)))
            if not ids:
                raise LaunchRefused({"tags": [f"No scenario of agent {job.agent_id} has any of them."]})
        entries = [LaunchEntry(scenario_id=scenario_id) for scenario_id in ids]
    personality = data.get("personality")
    personalities = [*(data.get("personalities") or []), *([] if personality is None else [personality])]
    settings = {
        "cron_job": job.id,
        "frequency": data.get("frequency", 1),
        "concurrency_limit": data.get("concurrency_limit"),
        "personality_ids": personalities,
        "test_profile_ids": data.get("test_profiles") or [],
    }
    return Launch(
        project_id=job.project_id,
        key_id=key_id,
        agent_id=job.agent_id,
        entries=entries,
        run_type=RunType.ROOMS if rooms else RunType.SESSIONS,
        name=job.name,
        frequency=data.get("frequency", 1),
        personality_ids=list(dict.fromkeys(personalities)),
        test_profile_ids=data.get("test_profiles") or [],
        concurrency_limit=data.get("concurrency_limit"),
        digest=digest,
        run_settings={name: value for name, value in settings.items() if value not in (None, [])},
        is_cronjob=True,
    )
