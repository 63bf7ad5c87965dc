"""Agents."""

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, StringConstraints, field_validator

from runner.api.schemas.common import Id, JsonObject, Name, RequestBody, ResponseBody, Timestamp, Unset, Whole
from runner.errors import UsageError
from runner.rooms.urls import check_start_url

PhoneNumber = Annotated[str, StringConstraints(max_length=40)]


class AgentSession(RequestBody):
    """Ours: how a session of the agent is started, where a launch gives no room; and how many calls it takes.

    Without ``start_url`` an agent with Pipecat Cloud credentials is started there. The key in
    ``provider.credentials`` goes along as a bearer header.

    Attributes:
        start_url: The whole address to post to, such as ``http://localhost:7860/start``.
        transport: What kind of room to ask for; null leaves it to the other side.
        data: Reaches the bot as its runner arguments' ``body``. Nothing secret: it is given back.
        start_timeout_s: How long a start may take, cold starts included.
        agent_join_timeout_s: How long the agent may take to be in the room; null as the settings have it.
        bot_ready_timeout_s: How long to wait for the agent to say that it is ready; null as the settings have it.
        max_calls: How many calls the agent takes at once; null as the settings have it.
    """

    start_url: Annotated[str, StringConstraints(max_length=2_000)] | None = None
    transport: Literal["webrtc", "daily"] | None = None
    data: JsonObject = Field(default_factory=dict)
    start_timeout_s: float = Field(default=60.0, gt=0, le=600)
    agent_join_timeout_s: float | None = Field(default=None, gt=0, le=600)
    bot_ready_timeout_s: float | None = Field(default=None, ge=0, le=60)
    max_calls: Annotated[int, Whole, Field(ge=1, le=10_000)] | None = None

    @field_validator("start_url")
    @classmethod
    def _is_start_url(cls, url: str | None) -> str | None:
        if not url:
            return None
        try:
            check_start_url(url)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return url


class TelephonyBody(RequestBody):
    """The agent's number. Nobody is called by telephone here; it is kept and shown."""

    phone_number: PhoneNumber | None = None
    inbound: bool = True


class Credentials(RequestBody):
    """What sessions are started with. Kept encrypted, and never given back.

    Attributes:
        api_key: The key of Pipecat Cloud, or of the agent's own start address.
        config: ``pipecat_agent_name``, ``config`` (the body of a start) and ``room_properties``.
    """

    api_key: SecretStr | None = None
    config: JsonObject | None = None


class ProviderBody(RequestBody):
    """Where the agent runs.

    Attributes:
        type: The provider, such as ``pipecat``.
        agent_id: The agent's id there.
        credentials: Left out, they stay as they are; null erases them.
    """

    type: Annotated[str, StringConstraints(max_length=40)] | None = None
    agent_id: Annotated[str, StringConstraints(max_length=200)] | None = None
    credentials: Credentials | None = None


class AgentFields(RequestBody):
    """What an agent has besides its name."""

    description: Annotated[str, StringConstraints(max_length=100_000)] | None = None
    project: Id | None = None
    language: Annotated[str, StringConstraints(min_length=1, max_length=20)] = "en"
    telephony: TelephonyBody | None = None
    provider: ProviderBody | None = None
    session: AgentSession | None = None


class AgentPatch(AgentFields):
    """What of an agent is to be changed."""

    name: Name = Unset


class AgentBody(AgentFields):
    """A whole agent."""

    name: Name


class Telephony(ResponseBody):
    """The agent's number."""

    phone_number: str | None
    inbound: bool


class Provider(ResponseBody):
    """Where the agent runs; of its credentials only whether there are any."""

    type: str | None
    agent_id: str | None
    pipecat_agent_name: str | None
    credentials_configured: bool


class Agent(ResponseBody):
    """An agent under test."""

    id: int
    name: str
    description: str
    project: int
    language: str
    telephony: Telephony
    provider: Provider
    session: AgentSession
    created_at: Timestamp
    updated_at: Timestamp


def session_of(stored: dict[str, Any]) -> AgentSession:
    """Return how a session is started, as the record holds it."""
    return AgentSession.model_validate(stored)
