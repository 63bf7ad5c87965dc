"""A record is opened with the secret key that it is encrypted with, and with no other."""

import json

import anyio
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from runner.errors import UsageError
from runner.records.database import Database
from runner.records.jobs import seal_pipecat_data
from runner.records.key_check import Lost, check_secret_key, take_secret_key
from runner.records.launch_request import LaunchRefused
from runner.records.schedules import FixedRoom, launch_of, seal_rooms
from runner.records.secrets import Vault
from runner.records.tables import Agent, CronJob, Project, ResultRow, RunRow
from runner.records.webhooks import Kind, destination_of, toggles_of, write_webhooks

pytestmark = pytest.mark.anyio

OURS, OTHER = (Vault(Fernet.generate_key(), name) for name in ("secret.key", "another.key"))


async def refused(database: Database, vault: Vault) -> str:
    with pytest.raises(UsageError) as caught:
        await check_secret_key(database, vault)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_the_first_key_is_the_records(seeded: Database) -> None:
    await check_secret_key(seeded, OURS)
    await check_secret_key(seeded, OURS)
    said = await refused(seeded, OTHER)
    assert said.startswith("another.key: is not the secret key") and "migrate --new-secret-key" in said
    await check_secret_key(seeded, OURS)


@pytest.mark.both_databases
async def test_of_those_who_start_at_once_one_key_counts(seeded: Database) -> None:
    others = [Vault(Fernet.generate_key()) for _ in range(4)]
    taken: list[Vault] = []

    async def start(vault: Vault) -> None:
        try:
            await check_secret_key(seeded, vault)
        except UsageError:
            return
        taken.append(vault)

    async with anyio.create_task_group() as tasks:
        for vault in others:
            tasks.start_soon(start, vault)
    assert len(taken) == 1


async def fill(database: Database, *, credentials: Vault, waiting: Vault, launched: Vault) -> None:
    """Put into a record of an earlier version what is encrypted there."""
    sealed = json.dumps({"api_key": "k"})
    async with database.session() as session:
        (await session.get_one(Agent, 1)).credentials = OURS.seal(sealed)
        session.add(Agent(id=2, project_id=1, name="bot", credentials=credentials.seal(sealed)))
        session.add(
            ResultRow(
                id=1, project_id=1, run_type="pipecat", run_settings=seal_pipecat_data(launched, {"config": {}})
            )
        )
        await session.flush()
        token = waiting.seal('{"token": "t"}')
        session.add(RunRow(result_id=1, project_id=1, scenario_name="s", snapshot={}, room_token=token))


async def test_an_older_database_takes_the_key_that_opens_its_secrets(seeded: Database) -> None:
    await fill(seeded, credentials=OURS, waiting=OURS, launched=OURS)
    assert "another.key" in await refused(seeded, OTHER)
    await check_secret_key(seeded, OURS)
    await refused(seeded, OTHER)


@pytest.mark.parametrize("what", ["credentials", "waiting", "launched"])
async def test_a_key_that_does_not_open_all_that_is_there_is_refused(seeded: Database, what: str) -> None:
    await fill(seeded, **{"credentials": OURS, "waiting": OURS, "launched": OURS, what: OTHER})
    await refused(seeded, OURS)
    await refused(seeded, OTHER)


async def test_another_key_is_taken_at_the_cost_of_its_secrets(seeded: Database) -> None:
    await check_secret_key(seeded, OURS)
    await fill(seeded, credentials=OTHER, waiting=OURS, launched=OURS)
    assert await take_secret_key(seeded, OTHER) == Lost(agents=1, runs=1)
    await check_secret_key(seeded, OTHER)
    await refused(seeded, OURS)
    async with seeded.reading() as session:
        assert (await session.get_one(Agent, 1)).credentials is None
        kept = (await session.get_one(Agent, 2)).credentials
    assert kept is not None and OTHER.open(kept)
    assert await take_secret_key(seeded, OTHER) == Lost(runs=1)


async def test_webhooks_of_a_lost_key_can_be_given_anew(seeded: Database) -> None:
    hook = {"webhook_url": "https://example.com/hook", "webhook_secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODk="}
    async with seeded.session() as session:
        for of in (Project, Agent):
            write_webhooks(await session.get_one(of, 1), OURS, {**hook, "notify_pre_run_webhook": True})
    assert await take_secret_key(seeded, OTHER) == Lost(webhooks=2)
    async with seeded.session() as session:
        for of in (Project, Agent):
            row = await session.get_one(of, 1)
            assert destination_of(row, OTHER, Kind.WEBHOOK) is None
            write_webhooks(row, OTHER, {"webhook_url": hook["webhook_url"]})
            again = destination_of(row, OTHER, Kind.WEBHOOK)
            assert again is not None and again.secret is None
            assert toggles_of(row.webhooks)["notify_pre_run_webhook"]
    assert await take_secret_key(seeded, OTHER) == Lost()


async def test_a_schedule_whose_rooms_are_lost_launches_nothing_else(seeded: Database) -> None:
    rooms = [FixedRoom(scenario=1, url=SecretStr("https://acme.daily.co/one"), token=SecretStr("t"))]
    async with seeded.session() as session:
        job = CronJob(project_id=1, agent_id=1, name="night", crontab_expression="0 5 * * *", scenario_ids=[1])
        job.data, job.rooms = {}, seal_rooms(OURS, rooms)
        session.add(job)
    assert await take_secret_key(seeded, OTHER) == Lost(schedules=1)
    async with seeded.reading() as session:
        with pytest.raises(LaunchRefused) as refused:
            await launch_of(session, OTHER, await session.get_one(CronJob, job.id))
    assert "give them again" in str(refused.value.errors["rooms"])
    assert await take_secret_key(seeded, OTHER) == Lost()
