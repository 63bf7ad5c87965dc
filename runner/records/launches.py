"""From a launch to a result with its runs, waiting for workers: all of it, or nothing."""

import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar, cast

from pydantic import SecretStr
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from bots.masking import redacted
from runner.errors import RunnerError, UsageError
from runner.evaluation.asked import Asked
from runner.protocol.messages import SessionStart
from runner.records.changes import work_changed
from runner.records.honoured import agent_sentences, in_words, personality_sentences, scenario_sentences
from runner.records.jobs import (
    RoomSecrets,
    RunType,
    open_pipecat_data,
    seal_pipecat_data,
    session_start,
    shown_settings,
)
from runner.records.record import Record
from runner.records.runs import AT_ONCE
from runner.records.secrets import Vault
from runner.records.tables import Agent, Personality, ResultRow, RunRow, ScenarioRow, TestProfile, utc_now
from runner.records.webhooks import hold_for_webhook
from runner.rooms.allowed import RoomGuard, RoomRefused
from runner.rooms.urls import RoomKind, check_data_message
from runner.scenarios.cekura import ScenarioFields, as_played
from runner.sessions.pipecat_cloud import CLOUD_URL
from runner.settings import Settings
from runner.text import UNSENDABLE, fits_header, public_url

MAX_RUNS = 10_000
"""How many runs a launch may make."""

DEFAULT_PRIORITY = 100

PATIENCE_S = 3.0
"""For how long a large launch lets those go first who read much."""

ATTEMPTS = 3
"""How often a launch is checked anew because what it names went between checking and writing."""

Errors = dict[str, Any]

_T = TypeVar("_T")


class LaunchRefused(RunnerError):
    """A launch is wrong, and nothing of it was created.

    Args:
        errors: What is wrong, by field; for ``scenarios`` a list as long as the launch's, empty where all is well.
    """

    def __init__(self, errors: Errors):
        super().__init__("the launch was refused")
        self.errors = errors


@dataclass(frozen=True)
class LaunchEntry:
    """One scenario of a launch.

    Attributes:
        scenario_id: The scenario.
        room_url: Where it is played; None where a session is started for it.
        token: The room's token.
        data_message: ``{"value": …}`` where a message is to be published.
        personality_id: In place of the scenario's own.
        test_profile_id: In place of the scenario's own.
        session_data: Goes into the body of a started session, over everything else.
        participant_name: The agent's user name in a Daily room, in place of what is saved with the agent.
    """

    scenario_id: int
    room_url: str | None = None
    token: SecretStr | None = None
    data_message: dict[str, Any] | None = field(default=None, repr=False)
    personality_id: int | None = None
    test_profile_id: int | None = None
    session_data: dict[str, Any] = field(default_factory=dict[str, Any])
    participant_name: str | None = None


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


@dataclass(frozen=True)
class Launch:
    """What is to be run.

    Attributes:
        project_id: The project; nothing of another is seen.
        key_id: The key that launches; None for the server itself.
        agent_id: The agent; None takes the first scenario's.
        entries: The scenarios, in order.
        run_type: How the runs come to their rooms.
        name: A label.
        frequency: How often each is run.
        personality_ids: Every entry is run with each of these, in place of its own.
        test_profile_ids: The same with test profiles.
        concurrency_limit: How many of the runs may be on at once.
        priority: Runs with a lower one go first; from 1.
        delay_s: None of the runs begins before so many seconds have passed.
        idempotency_key: A launch with the same one is this one.
        digest: A launch with the same one, and no idempotency key, is this one for a short while.
        run_settings: What was asked for, as it is shown.
        pipecat_data: ``{pipecat_agent_name, config, room_properties}`` in place of what is saved with the agent. Kept
            encrypted, and not shown.
        mock_tool_names: Tools to be mocked; None for all.
        is_cronjob: Whether a schedule launches.
    """

    project_id: int
    key_id: int | None
    agent_id: int | None
    entries: Sequence[LaunchEntry]
    run_type: RunType
    name: str = ""
    frequency: int = 1
    personality_ids: Sequence[int] = ()
    test_profile_ids: Sequence[int] = ()
    concurrency_limit: int | None = None
    priority: int = DEFAULT_PRIORITY
    delay_s: float = 0.0
    idempotency_key: str | None = None
    digest: str | None = None
    run_settings: dict[str, Any] = field(default_factory=dict[str, Any])
    pipecat_data: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    mock_tool_names: Sequence[str] | None = None
    is_cronjob: bool = False


Within = Callable[[AsyncSession, Callable[[], Awaitable[ResultRow]]], Awaitable[ResultRow | None]]
"""Does more in the transaction that creates a result: it is given what creates it, and may leave that."""


async def launch(record: Record, launch: Launch) -> ResultRow:
    """Create a result with its runs, which wait for workers from then on.

    A launch that was there before (by its idempotency key, or by its digest within the settings' window) creates
    nothing: its result is returned.

    Args:
        record: Where it is kept.
        launch: What is to be run.

    Raises:
        LaunchRefused: Something is wrong with it; nothing was created.
    """

    async def within(session: AsyncSession, create: Callable[[], Awaitable[ResultRow]]) -> ResultRow:
        return await create()

    return cast(ResultRow, await launch_within(record, launch, within))


async def launch_within(record: Record, launch: Launch, within: Within) -> ResultRow | None:
    """Do the same as :func:`launch`, and something else in the same transaction.

    Args:
        record: Where it is kept.
        launch: What is to be run.
        within: What else is done. It is called again if the transaction has to be tried again, and not at all for a
            launch that was there before.

    Returns:
        The result; None if ``within`` left it.

    Raises:
        LaunchRefused: Something is wrong with it; nothing was created.
    """
    patient_until_s = time.monotonic() + PATIENCE_S
    guard = RoomGuard(record.settings)
    await guard.look_up([entry.room_url for entry in launch.entries if entry.room_url is not None])
    for attempt in range(1, ATTEMPTS + 1):
        async with record.database.reading() as session:
            earlier = await _earlier(record, session, launch)
            if earlier is not None:
                return earlier
            found = await _find(session, launch)
        plan = await _Check(record, launch, found, guard).plan(patient_until_s)
        try:
            async with record.database.session() as session:
                await _lock(session, launch)
                result = await _earlier(record, session, launch)
                if result is None:
                    result = await within(session, partial(_write, record, session, launch, plan))
                work_changed(session.sync_session)
            return result
        except IntegrityError:
            # A scenario or agent was deleted after it was looked up: checking again says which.
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


async def mistakes(record: Record, launch: Launch) -> Errors:
    """Return all that is wrong with a launch, by field; nothing is created whatever it is.

    Args:
        record: Where it is kept.
        launch: What is to be run.
    """
    guard = RoomGuard(record.settings)
    await guard.look_up([entry.room_url for entry in launch.entries if entry.room_url is not None])
    async with record.database.reading() as session:
        found = await _find(session, launch)
    try:
        await _Check(record, launch, found, guard).plan(time.monotonic() + PATIENCE_S)
    except LaunchRefused as error:
        return error.errors
    return {}


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

    Args:
        record: Where it is kept.
        result: The result.
        runs: Those of its runs that are wanted.
        key_id: The key that launches.
        name: A label; empty for the result's own.
        digest: By which the launch is known again.
        anew: By the ids of runs, what these are made again with.

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


@dataclass(frozen=True)
class _Found:
    """What of a launch's ids there is, in its project."""

    scenarios: dict[int, ScenarioRow]
    agent: Agent | None
    personalities: dict[int, Personality]
    test_profiles: dict[int, TestProfile]


@dataclass(frozen=True)
class _PlannedRun:
    scenario: ScenarioRow
    entry: LaunchEntry
    kind: RoomKind | None
    """What kind of room it takes place in, where that is certain before it begins."""
    data_message: dict[str, Any] | None
    """As it is shown."""
    secrets: RoomSecrets
    snapshot: dict[str, Any]
    session_data: dict[str, Any]


@dataclass(frozen=True)
class _Plan:
    agent: Agent | None
    runs: list[_PlannedRun]


async def _find(session: AsyncSession, launch: Launch) -> _Found:
    wanted = {entry.scenario_id for entry in launch.entries}
    scenarios: dict[int, ScenarioRow] = {}
    for ids in _chunks(sorted(wanted)):
        rows = await session.scalars(
            select(ScenarioRow).where(ScenarioRow.id.in_(ids), ScenarioRow.project_id == launch.project_id)
        )
        scenarios |= {row.id: row for row in rows}
    first = scenarios.get(launch.entries[0].scenario_id) if launch.entries else None
    agent_id = launch.agent_id or (first.agent_id if first is not None else None)
    agent = None if agent_id is None else await session.get(Agent, agent_id)
    if agent is not None and agent.project_id != launch.project_id:
        agent = None
    named = {e.personality_id for e in launch.entries} | {s.personality_id for s in scenarios.values()}
    personalities: dict[int, Personality] = {}
    for ids in _chunks(sorted({*launch.personality_ids, *(i for i in named if i is not None)})):
        of_project = (Personality.project_id == launch.project_id) | Personality.project_id.is_(None)
        rows = await session.scalars(select(Personality).where(Personality.id.in_(ids), of_project))
        personalities |= {row.id: row for row in rows}
    named = {e.test_profile_id for e in launch.entries} | {s.test_profile_id for s in scenarios.values()}
    profiles: dict[int, TestProfile] = {}
    for ids in _chunks(sorted({*launch.test_profile_ids, *(i for i in named if i is not None)})):
        rows = await session.scalars(
            select(TestProfile).where(TestProfile.id.in_(ids), TestProfile.project_id == launch.project_id)
        )
        profiles |= {row.id: row for row in rows}
    return _Found(scenarios, agent, personalities, profiles)


_Shown = tuple[dict[str, Any], list[str]]
"""A personality as a run shows it, and what of it can't be had."""


class _Check:
    """Goes through a launch once, collecting everything that is wrong with it."""

    def __init__(self, record: Record, launch: Launch, found: _Found, guard: RoomGuard):
        self._record = record
        self._launch = launch
        self._found = found
        self._guard = guard
        self._snapshots: dict[tuple[int, int | None], dict[str, Any] | str] = {}
        self._personalities: dict[int, _Shown] = {}
        self._kinds: dict[str, RoomKind | str] = {}

    async def plan(self, patient_until_s: float) -> _Plan:
        """Return what is to be written.

        Args:
            patient_until_s: Until when it lets those go first who read much.

        Raises:
            LaunchRefused: Something is wrong.
        """
        launch, found = self._launch, self._found
        errors: Errors = {}
        entries = launch.entries
        count = len(entries) * launch.frequency
        count *= max(1, len(launch.personality_ids)) * max(1, len(launch.test_profile_ids))
        if not entries:
            errors["scenarios"] = ["Name at least one scenario."]
        elif count > MAX_RUNS:
            # One by one they are looked at once there are fewer.
            errors["scenarios"] = [f"These are {count} runs; a launch makes at most {MAX_RUNS}."]
            entries = ()
        if launch.agent_id is not None and found.agent is None:
            errors["agent"] = [_missing(launch.agent_id)]
        for name, ids, there in (
            ("personality_ids", launch.personality_ids, found.personalities),
            ("test_profile_ids", launch.test_profile_ids, found.test_profiles),
        ):
            if missing := [i for i in ids if i not in there]:
                errors[name] = [_missing(i) for i in missing]
        session = None
        if launch.run_type is RunType.SESSIONS and "agent" not in errors:
            start = await self._session(errors)
            session = None if start is None else _session_kind(start)
        runs: list[_PlannedRun] = []
        entry_errors: list[Errors] = []
        for some in _chunks(entries):
            for entry in some:
                wrong: Errors = {}
                runs += await self._entry(entry, wrong, session)
                entry_errors.append(wrong)
            if len(some) == AT_ONCE:
                await self._record.database.let_readers_go_first(patient_until_s)
        if any(entry_errors):
            errors["scenarios"] = entry_errors
        if errors:
            raise LaunchRefused(errors)
        return _Plan(found.agent, runs)

    async def _session(self, errors: Errors) -> SessionStart | None:
        agent = self._found.agent
        if agent is None:
            errors["agent"] = ["Name the agent: the first scenario has none."]
            return None
        start = session_start(agent, self._record.vault, self._launch.pipecat_data)
        if start is None:
            errors["agent"] = [
                f"Agent {agent.id} has no way to start a session: give it a start URL (session.start_url), or a "
                "Pipecat Cloud API key and a pipecat_agent_name."
            ]
            return None
        for name, secret in (("api_key", start.credential), ("private_api_key", start.private_key)):
            if secret is not None and not fits_header(secret.get_secret_value()):
                errors.setdefault("agent", []).append(f"Agent {agent.id}: its {name} {UNSENDABLE}; give another one.")
        if unused := _unused(self._launch.pipecat_data, agent, start):
            errors["pipecat_data"] = unused
        try:
            await self._guard.check_start_url(start.start_url)
        except (UsageError, RoomRefused) as error:
            errors.setdefault("agent", []).append(f"Agent {agent.id}: {error}")
        return start

    async def _entry(self, entry: LaunchEntry, wrong: Errors, session: RoomKind | None) -> list[_PlannedRun]:
        kind = session if entry.room_url is None else await self._kind(entry.room_url, wrong)
        if entry.data_message is not None and "pipecat_room_url" not in wrong:
            try:
                # A session that does not say where it takes place is most likely on Daily.
                check_data_message(kind or RoomKind.DAILY, entry.data_message["value"])
            except UsageError as error:
                wrong["publish_data_message"] = [str(error)]
        scenario = self._found.scenarios.get(entry.scenario_id)
        if scenario is None:
            wrong["scenario"] = [_missing(entry.scenario_id)]
            return []
        message, secrets = _kept_of(entry, self._record.settings)
        runs: list[_PlannedRun] = []
        for profile_id in self._launch.test_profile_ids or [entry.test_profile_id or scenario.test_profile_id]:
            profile = None if profile_id is None else self._found.test_profiles.get(profile_id)
            if profile is None and profile_id is not None:
                if not self._launch.test_profile_ids:
                    wrong["test_profile"] = [_missing(profile_id)]
                continue
            played = self._played(scenario, profile)
            if not isinstance(played, str) and profile is not None and _is_for_the_agent_alone(profile, entry, kind):
                played = {**played, "notes": [*played["notes"], _STARTED_ELSEWHERE]}
            if isinstance(played, str):
                wrong["scenario"] = [f"Scenario {scenario.id} can't be played: {played}"]
                continue
            for personality_id in self._launch.personality_ids or [entry.personality_id or scenario.personality_id]:
                personality = None if personality_id is None else self._found.personalities.get(personality_id)
                if personality is None and entry.personality_id is not None and not self._launch.personality_ids:
                    wrong["personality"] = [_missing(personality_id)]
                    continue
                planned = _PlannedRun(
                    scenario=scenario,
                    entry=entry,
                    kind=kind,
                    data_message=message,
                    secrets=secrets,
                    snapshot={
                        **self._with(played, personality),
                        "sealed": secrets.names,
                        "participant_name": entry.participant_name,
                    },
                    session_data=_session_data(profile, entry),
                )
                runs += [planned] * self._launch.frequency
        return runs

    async def _kind(self, url: str, wrong: Errors) -> RoomKind | None:
        if url not in self._kinds:
            try:
                self._kinds[url] = await self._guard.check_room(url)
            except (UsageError, RoomRefused) as error:
                self._kinds[url] = str(error)
        kind = self._kinds[url]
        if not isinstance(kind, RoomKind):
            wrong["pipecat_room_url"] = [kind]
            return None
        return kind

    def _with(self, played: dict[str, Any], personality: Personality | None) -> dict[str, Any]:
        """Return a scenario's part of the snapshot with the personality it is played with."""
        if personality is None:
            return {**played, "personality": None}
        if personality.id not in self._personalities:
            self._personalities[personality.id] = self._shown(personality)
        shown, sentences = self._personalities[personality.id]
        asked = played["asked"]
        asked = {**asked, "not_honoured": [*asked["not_honoured"], *sentences]}
        return {**played, "asked": asked, "personality": shown}

    def _shown(self, personality: Personality) -> _Shown:
        built_in = personality.project_id is None
        settings = self._record.settings
        found = personality_sentences(personality.language, personality.data, settings, built_in=built_in)
        shown = {"id": personality.id, "name": personality.name, "language": personality.language}
        return shown, in_words("personality", found)

    def _played(self, scenario: ScenarioRow, profile: TestProfile | None) -> dict[str, Any] | str:
        """Return a scenario's part of the snapshot, or why it can't be played."""
        key = (scenario.id, None if profile is None else profile.id)
        if key not in self._snapshots:
            try:
                self._snapshots[key] = self._read(scenario, profile)
            except UsageError as error:
                self._snapshots[key] = str(error)
        return self._snapshots[key]

    def _read(self, scenario: ScenarioRow, profile: TestProfile | None) -> dict[str, Any]:
        agent = self._found.agent
        variables = None if profile is None else _variables(profile, "testing")
        settings = self._record.settings
        played = as_played(ScenarioFields.of(cast(Any, scenario), variables), settings)
        prompt = (scenario.data.get("expected_outcome_prompt") or "").strip() or None
        return {
            "name": scenario.name,
            "scenario_type": scenario.scenario_type,
            "script": played.script.model_dump(mode="json"),
            "notes": list(played.notes),
            "expected_outcome_prompt": prompt,
            "asked": Asked(
                expected_outcome=prompt,
                conditions=played.conditions,
                not_honoured=tuple(
                    [
                        *in_words("scenario", scenario_sentences(scenario.data, settings)),
                        *in_words("agent", agent_sentences(None if agent is None else agent.language, settings)),
                    ]
                ),
            ).model_dump(mode="json"),
            "instructions": scenario.data.get("instructions"),
            "test_profile": None
            if profile is None
            else {"id": profile.id, "name": profile.name, "information": profile.information},
            "tags": list(scenario.tags),
            "agent": None
            if agent is None
            else {"name": agent.name, "inbound": agent.inbound, "phone_number": agent.phone_number},
        }


def _kept_of(entry: LaunchEntry, settings: Settings) -> tuple[dict[str, Any] | None, RoomSecrets]:
    """Return an entry's data message as it is shown, and what of the entry is kept encrypted."""
    url, message = entry.room_url, entry.data_message
    shown = None if message is None else {"value": redacted(message["value"], settings.redact_keys)}
    return shown, RoomSecrets(
        token=entry.token,
        url=SecretStr(url) if url is not None and _has_query(url) else None,
        data_message=None if message is None or message == shown else message["value"],
    )


_STARTED_ELSEWHERE = (
    "test_profile: the agent in this room was started elsewhere; whoever started it gave it its main_agent_variables"
)


def _is_for_the_agent_alone(profile: TestProfile, entry: LaunchEntry, kind: RoomKind | None) -> bool:
    """Whether a profile has variables for an agent that is not started here, other than those for the caller."""
    main = _variables(profile, "main")
    started_here = entry.room_url is None or kind is RoomKind.PIPECAT_RUNNER
    return not started_here and bool(main) and main != _variables(profile, "testing")


def _session_data(profile: TestProfile | None, entry: LaunchEntry) -> dict[str, Any]:
    variables = {} if profile is None else _variables(profile, "main")
    return {**variables, **entry.session_data}


def _variables(profile: TestProfile, side: str) -> dict[str, Any]:
    """Return the variables a test profile has for a side, ``main`` (the agent) or ``testing`` (the caller).

    One without sides, as there were once, holds for both.
    """
    information = profile.information
    sides = ("main_agent_variables", "testing_agent_variables")
    if any(key in information for key in sides):
        found = information.get(f"{side}_agent_variables")
        return cast(dict[str, Any], found) if isinstance(found, dict) else {}
    return information


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


async def _write(record: Record, session: AsyncSession, launch: Launch, plan: _Plan) -> ResultRow:
    agent_id = None if plan.agent is None else plan.agent.id
    settings = {**launch.run_settings, **seal_pipecat_data(record.vault, launch.pipecat_data)}
    if launch.mock_tool_names is not None:
        settings["mock_tool_names"] = list(launch.mock_tool_names)
    result = ResultRow(
        project_id=launch.project_id,
        agent_id=agent_id,
        agent_name="" if plan.agent is None else plan.agent.name,
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
    # Row by row in one go: their ids go up in the order of the rows.
    connection = await session.connection()
    for runs in _chunks(plan.runs):
        rows = [
            {
                "result_id": result.id,
                "project_id": launch.project_id,
                "agent_id": agent_id,
                "scenario_id": run.scenario.id,
                "scenario_name": run.scenario.name,
                "snapshot": run.snapshot,
                "expects": bool(run.snapshot["expected_outcome_prompt"]),
                "room_url": _shown_url(run.entry.room_url),
                "room_token": run.secrets.seal(record.vault),
                "data_message": run.data_message,
                "session_data": run.session_data,
                "priority": launch.priority,
                "not_before": not_before,
                "room_key": _room_key(run),
                "room_kind": None if run.kind in (None, RoomKind.PIPECAT_RUNNER) else run.kind.value,
                "created_at": now,
                "updated_at": now,
            }
            for run in runs
        ]
        await connection.execute(insert(RunRow), rows)
    return result


def _shown_url(url: str | None) -> str | None:
    return public_url(url) if url is not None and _has_query(url) else url


def _unused(pipecat_data: dict[str, Any], agent: Agent, start: SessionStart) -> Errors:
    """Return what of a launch's ``pipecat_data`` the start of a session would pass over."""
    found: Errors = {}
    if pipecat_data.get("pipecat_agent_name") and agent.session.get("start_url"):
        own = f"Agent {agent.id} is started at its session.start_url, which takes no name; leave it out."
        found["pipecat_agent_name"] = [own]
    if pipecat_data.get("room_properties") and _session_kind(start) is not RoomKind.DAILY:
        own = f"Agent {agent.id} is not started in a Daily room (session.transport daily); leave it out."
        found["room_properties"] = [own]
    return found


def _session_kind(start: SessionStart) -> RoomKind | None:
    """Return what kind of room sessions come with; None where the other side decides."""
    if start.transport is None:
        return RoomKind.DAILY if start.start_url.startswith(f"{CLOUD_URL}/") else None
    return RoomKind.SMALLWEBRTC if start.transport == "webrtc" else RoomKind.DAILY


def _room_key(run: _PlannedRun) -> str | None:
    """Return what a run needs for itself.

    A Daily room: two callers in one would talk to each other. An ``/api/offer`` address is no such room, since every
    offer gets a bot of its own.
    """
    if run.kind is not RoomKind.DAILY or run.entry.room_url is None:
        return None
    return public_url(run.entry.room_url).rstrip("/").lower()


def _missing(of_id: int | None) -> str:
    return f'Invalid pk "{of_id}" - object does not exist.'


def _has_query(url: str) -> bool:
    return "?" in url or "#" in url


def _chunks(items: Sequence[_T]) -> Iterable[Sequence[_T]]:
    return (items[begin : begin + AT_ONCE] for begin in range(0, len(items), AT_ONCE))
