"""Agents."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from runner.api.schemas.common import Id, JsonObject, Name, ResponseBody, Timestamp, Token, Unset, Whole, WrittenBody
from runner.api.schemas.webhooks import WebhookConfiguration, WebhookFields
from runner.errors import UsageError
from runner.rooms.urls import check_start_url

PhoneNumber = Annotated[str, StringConstraints(max_length=40)]


class AgentSession(WrittenBody):
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
        participant_name: The agent's user name in Daily rooms; null as the settings have it.
        max_calls: How many calls the agent takes at once; null as the settings have it.
    """

    start_url: Annotated[str, StringConstraints(max_length=2_000)] | None = None
    transport: Literal["webrtc", "daily"] | None = None
    data: JsonObject = Field(default_factory=dict)
    start_timeout_s: float = Field(default=60.0, gt=0, le=600)
    agent_join_timeout_s: float | None = Field(default=None, gt=0, le=600)
    bot_ready_timeout_s: float | None = Field(default=None, ge=0, le=60)
    participant_name: Name | None = None
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


class TelephonyBody(WrittenBody):
    """The agent's number. Nobody is called by telephone here; its runs show it."""

    phone_number: PhoneNumber | None = None
    inbound: bool = True


class PipecatConfig(WrittenBody):
    """How sessions are started at Pipecat Cloud.

    Attributes:
        pipecat_agent_name: The agent's name there.
        config: The body of a start, which reaches the agent.
        room_properties: Of the Daily room that comes with the session.
        tracing_enabled: Whether a tracer inside the agent reports; one that does is always heard.
    """

    pipecat_agent_name: Annotated[str, StringConstraints(max_length=200)] | None = None
    config: JsonObject | None = None
    room_properties: JsonObject | None = None
    tracing_enabled: bool | None = None


class Credentials(WrittenBody):
    """What sessions are started with. Kept encrypted, and never given back.

    Attributes:
        api_key: The key of Pipecat Cloud, or of the agent's own start address.
        private_api_key: Ours: a private key of Pipecat Cloud. It stops sessions, and asks how they ended.
        config: How they are started.
    """

    api_key: Token | None = None
    private_api_key: Token | None = None
    config: PipecatConfig | None = None


class ProviderBody(WrittenBody):
    """Where the agent runs.

    Attributes:
        type: ``pipecat``; others are not called here.
        agent_id: The agent's id there.
        credentials: Left out, they stay as they are; null erases them.
    """

    type: Literal["pipecat", ""] | None = None
    agent_id: Annotated[str, StringConstraints(max_length=200)] | None = None
    credentials: Credentials | None = None


class AgentFields(WebhookFields):
    """What an agent has besides its name. Its webhooks go where it says, or else where its project does."""

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


class Agent(WebhookConfiguration):
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


for _body in (AgentPatch, AgentBody):
    _body.READ_ONLY = frozenset(Agent.model_fields)
ProviderBody.READ_ONLY = frozenset(Provider.model_fields)


def session_of(stored: dict[str, Any]) -> AgentSession:
    """Return how a session is started, as the record holds it."""
    return AgentSession.model_validate(stored)
