"""Launches."""

from typing import Annotated, Any

from pydantic import Field, JsonValue, StringConstraints

from runner.api.schemas.common import ResponseBody, Timestamp
from runner.records.fields import RoomEntry
from runner.records.honoured import NO_MOCKS, NO_TELEPHONE
from runner.records.statuses import ResultStatus, RunStatus
from runner.records.written import Id, JsonObject, RoomUrl, Short, Token, Whole, WrittenBody, refused

Tag = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Number = Annotated[str, StringConstraints(max_length=40)]

MAX_ENTRIES = 10_000


class RerunEntry(WrittenBody):
    """What a run is made again with, in place of what it had. What is not given stays as it was."""

    run: Id
    """The run."""
    pipecat_room_url: RoomUrl | None = None
    """Another room. The token of the one before is not taken along."""
    pipecat_token: Token | None = None
    """The room's token; null enters without."""
    publish_data_message: JsonValue = None
    """Another message; null publishes none."""


class LaunchCommon(WrittenBody):
    """What both kinds of launch have.

    Attributes:
        agent: The agent; without one that of the first scenario.
        agent_id: The same.
        name: A label for the result.
        frequency: How often each scenario is run.
        concurrency_limit: How many of the runs may be on at once.
        priority: Ours: runs with a lower one go first; without it it is 100.
        delay_s: Ours: none of the runs begins before so many seconds have passed.
        mock_tool_names: Null or none: tools are not mocked here.
    """

    agent: Id | None = None
    agent_id: Id | None = None
    name: Short | None = None
    frequency: Annotated[int, Whole, Field(ge=1, le=100)] | None = None
    concurrency_limit: Annotated[int, Whole, Field(ge=1, le=10_000)] | None = None
    priority: Annotated[int, Whole, Field(ge=1, le=1_000)] | None = None
    delay_s: Annotated[float, Field(ge=0, le=30 * 86_400)] | None = None
    mock_tool_names: Annotated[list[Short] | None, Field(max_length=1_000), refused(NO_MOCKS)] = None


class RoomLaunch(LaunchCommon):
    """Scenarios that are played in rooms that are there: one run for each entry.

    ``name``, ``frequency`` and ``concurrency_limit`` are ours too.
    """

    scenarios: Annotated[list[RoomEntry], Field(min_length=1, max_length=MAX_ENTRIES)]


class SessionEntry(WrittenBody):
    """A scenario for which a session of the agent is started."""

    scenario: Id
    publish_data_message: JsonValue = None


SessionScenario = Id | SessionEntry
"""The scenario alone, or with a data message."""


class PipecatData(WrittenBody):
    """In place of what is saved with the agent; nothing is merged. Kept encrypted, and never given back.

    Attributes:
        pipecat_agent_name: The agent's name at Pipecat Cloud.
        config: The body that reaches the agent.
        room_properties: Of the Daily room that comes with the session.
    """

    pipecat_agent_name: Annotated[str, StringConstraints(max_length=200)] | None = None
    config: JsonObject | None = None
    room_properties: JsonObject | None = None


class SessionLaunch(LaunchCommon):
    """Scenarios for which sessions of the agent are started.

    Attributes:
        scenarios: Ids, or objects that may bring a data message.
        tags: In place of scenarios: the agent's that have one of these.
        folder_path: In place of scenarios: those in this folder, and below it.
        project_id: Where that folder is; the key's project.
        personality_ids: Every scenario is run with each of these.
        personality_id: One more of them.
        test_profile_ids: Every scenario is run with each of these.
        test_profile_id: One more of them.
        pipecat_data: In place of what is saved with the agent.
        agent_number: Refused: nobody is called by telephone.
        outbound_phone_number: Likewise.
    """

    scenarios: Annotated[list[SessionScenario], Field(max_length=MAX_ENTRIES)] | None = None
    tags: Annotated[list[Tag], Field(max_length=1_000)] | None = None
    folder_path: Annotated[str, StringConstraints(max_length=400)] | None = None
    project_id: Id | None = None
    personality_ids: Annotated[list[Id], Field(max_length=1_000)] | None = None
    personality_id: Id | None = None
    test_profile_ids: Annotated[list[Id], Field(max_length=1_000)] | None = None
    test_profile_id: Id | None = None
    pipecat_data: PipecatData | None = None
    agent_number: Annotated[Number | None, refused(NO_TELEPHONE)] = None
    outbound_phone_number: Annotated[Number | None, refused(NO_TELEPHONE)] = None


class LaunchedRun(ResponseBody):
    """A run, as a launch answers with it.

    Attributes:
        number: The agent's number, if it calls.
        inbound_number: The agent's number, if it is called.
        test_profile_data: The test profile, ``{id, name, information}``.
        outbound_dial_window_opens_at: Nobody is called by telephone: always null, as the two below.
    """

    id: int
    status: RunStatus
    scenario: int | None
    number: str | None
    inbound_number: str | None
    scenario_name: str
    test_profile_data: dict[str, Any] | None
    outbound_dial_window_opens_at: None = None
    outbound_dial_window_seconds: None = None
    outbound_dial_window_closes_at: None = None


class Launched(ResponseBody):
    """The result that a launch created, with its runs."""

    id: int
    agent: int | None
    name: str
    status: ResultStatus
    success_rate: float
    run_as_text: bool
    is_cronjob: bool
    created_at: Timestamp
    updated_at: Timestamp
    runs: list[LaunchedRun]
