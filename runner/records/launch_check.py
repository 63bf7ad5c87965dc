"""A launch, checked: the runs it comes to, or everything that is wrong with it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pydantic import SecretStr
from sqlalchemy import false, select
from sqlalchemy.ext.asyncio import AsyncSession

from bots.masking import redacted
from runner.errors import UsageError
from runner.evaluation.asked import Asked
from runner.protocol.messages import SessionStart
from runner.records.fields import DESCRIBES, AgentFields, PersonalityFields, ScenarioFields
from runner.records.filters import AT_ONCE, chunks
from runner.records.honoured import in_words
from runner.records.jobs import RoomSecrets, RunType, session_start
from runner.records.launch_request import Errors, Launch, LaunchEntry, LaunchRefused
from runner.records.record import Record
from runner.records.tables import Agent, Personality, ScenarioRow, TestProfile
from runner.records.written import sentences
from runner.rooms.allowed import RoomGuard, RoomRefused
from runner.rooms.urls import RoomKind, check_data_message
from runner.scenarios import cekura
from runner.sessions.pipecat_cloud import CLOUD_URL
from runner.settings import Settings
from runner.text import UNSENDABLE, fits_header, public_url

MAX_RUNS = 10_000
"""How many runs a launch may make."""


_Row = TypeVar("_Row", ScenarioRow, Agent, Personality, TestProfile)


@dataclass(frozen=True)
class Found:
    """What of a launch's ids there is, in its project."""

    scenarios: dict[int, ScenarioRow]
    agent: Agent | None
    personalities: dict[int, Personality]
    test_profiles: dict[int, TestProfile]


async def find(session: AsyncSession, launch: Launch) -> Found:
    """Return what of a launch's ids there is."""

    async def rows(table: type[_Row], ids: Iterable[int | None], *, built_in: bool = False) -> dict[int, _Row]:
        found: dict[int, _Row] = {}
        for some in chunks(sorted({one for one in ids if one is not None})):
            of_project = table.project_id == launch.project_id
            of_project |= table.project_id.is_(None) if built_in else false()
            found |= {
                row.id: row for row in await session.scalars(select(table).where(table.id.in_(some), of_project))
            }
        return found

    scenarios = await rows(ScenarioRow, (entry.scenario_id for entry in launch.entries))
    first = scenarios.get(launch.entries[0].scenario_id) if launch.entries else None
    agents = await rows(Agent, [launch.agent_id or (first and first.agent_id)])
    named = [*launch.entries, *scenarios.values()]
    personality_ids = (*launch.personality_ids, *(one.personality_id for one in named))
    profile_ids = (*launch.test_profile_ids, *(one.test_profile_id for one in named))
    return Found(
        scenarios,
        next(iter(agents.values()), None),
        await rows(Personality, personality_ids, built_in=True),
        await rows(TestProfile, profile_ids),
    )


_Shown = tuple[dict[str, Any], list[str]]
"""A personality as a run shows it, and what of it can't be had."""


class Check:
    """Goes through a launch once, collecting everything that is wrong with it."""

    def __init__(self, record: Record, launch: Launch, found: Found, guard: RoomGuard):
        self._record = record
        self._launch = launch
        self._found = found
        self._guard = guard
        self._snapshots: dict[tuple[int, int | None], dict[str, Any] | str] = {}
        self._personalities: dict[int, _Shown] = {}
        self._kinds: dict[str, RoomKind | str] = {}

    async def plan(self, patient_until_s: float) -> list[dict[str, Any]]:
        """Return what is to be written: of each run the columns that are its own.

        Until a time it lets those go first who read much.

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
        runs: list[dict[str, Any]] = []
        entry_errors: list[Errors] = []
        for some in chunks(entries):
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
        return runs

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

    async def _entry(self, entry: LaunchEntry, wrong: Errors, session: RoomKind | None) -> list[dict[str, Any]]:
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
        url, message, secrets = _kept_of(entry, self._record.settings)
        runs: list[dict[str, Any]] = []
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
                snapshot = {
                    **self._with(played, personality),
                    "sealed": secrets.names,
                    "participant_name": entry.participant_name,
                }
                planned = {
                    "scenario_id": scenario.id,
                    "scenario_name": scenario.name,
                    "snapshot": snapshot,
                    "expects": bool(snapshot["expected_outcome_prompt"]),
                    "room_url": url,
                    "room_token": secrets.seal(self._record.vault),
                    "data_message": message,
                    "session_data": {**_variables(profile, "main"), **entry.session_data},
                    "room_key": _room_key(entry, kind),
                    "room_kind": None if kind is RoomKind.PIPECAT_RUNNER else kind,
                }
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
        asked = {"language": personality.language, **personality.data}
        found = sentences(PersonalityFields, asked, settings, but=DESCRIBES if built_in else ())
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
        played = cekura.as_played(cekura.ScenarioFields.of(cast(Any, scenario), variables), settings)
        spoken = {} if agent is None else {"language": agent.language}
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
                        *in_words("scenario", sentences(ScenarioFields, scenario.data, settings)),
                        *in_words(
                            "agent",
                            sentences(AgentFields, spoken, settings),
                        ),
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


def _kept_of(entry: LaunchEntry, settings: Settings) -> tuple[str | None, dict[str, Any] | None, RoomSecrets]:
    """Return an entry's address and data message as they are shown, and what of the entry is kept encrypted."""
    url, message = entry.room_url, entry.data_message
    has_query = url is not None and ("?" in url or "#" in url)
    shown_url = public_url(url) if url is not None and has_query else url
    shown = None if message is None else {"value": redacted(message["value"], settings.redact_keys)}
    secrets = RoomSecrets(
        token=entry.token,
        url=SecretStr(url) if url is not None and has_query else None,
        data_message=None if message is None or message == shown else message["value"],
    )
    return shown_url, shown, secrets


def _room_key(entry: LaunchEntry, kind: RoomKind | None) -> str | None:
    """Return what a run needs for itself.

    A Daily room: two callers in one would talk to each other. An ``/api/offer`` address is no such room, since every
    offer gets a bot of its own.
    """
    if kind is not RoomKind.DAILY or entry.room_url is None:
        return None
    return public_url(entry.room_url).rstrip("/").lower()


_STARTED_ELSEWHERE = (
    "test_profile: the agent in this room was started elsewhere; whoever started it gave it its main_agent_variables"
)


def _is_for_the_agent_alone(profile: TestProfile, entry: LaunchEntry, kind: RoomKind | None) -> bool:
    """Whether a profile has variables for an agent that is not started here, other than those for the caller."""
    main = _variables(profile, "main")
    started_here = entry.room_url is None or kind is RoomKind.PIPECAT_RUNNER
    return not started_here and bool(main) and main != _variables(profile, "testing")


def _variables(profile: TestProfile | None, side: str) -> dict[str, Any]:
    """Return the variables a test profile has for a side, ``main`` (the agent) or ``testing`` (the caller).

    One without sides, as there were once, holds for both.
    """
    information = {} if profile is None else profile.information
    sides = ("main_agent_variables", "testing_agent_variables")
    if any(key in information for key in sides):
        found = information.get(f"{side}_agent_variables")
        return cast(dict[str, Any], found) if isinstance(found, dict) else {}
    return information


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


def _missing(of_id: int | None) -> str:
    return f'Invalid pk "{of_id}" - object does not exist.'
