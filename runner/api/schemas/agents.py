"""Agents."""

from runner.api.schemas.common import ResponseBody, Timestamp, shows
from runner.api.schemas.webhooks import WebhookConfiguration, WebhookFields
from runner.records import fields
from runner.records.fields import AgentSession, ProviderBody, RowName, TelephonyBody
from runner.records.written import Unset


class AgentFields(WebhookFields, fields.AgentFields):
    """What an agent has besides its name. Its webhooks go where it says, or else where its project does."""


class AgentPatch(AgentFields):
    """What of an agent is to be changed."""

    name: RowName = Unset


class AgentBody(AgentFields):
    """A whole agent."""

    name: RowName


@shows(TelephonyBody)
class Telephony(ResponseBody):
    """The agent's number."""


class Provider(ResponseBody):
    """Where the agent runs; of its credentials only whether there are any."""

    type: str | None
    agent_id: str | None
    pipecat_agent_name: str | None
    credentials_configured: bool


@shows(AgentFields)
class Agent(WebhookConfiguration):
    """An agent under test."""

    id: int
    name: str
    description: str
    project: int
    telephony: Telephony
    provider: Provider
    session: AgentSession
    created_at: Timestamp
    updated_at: Timestamp


for _body in (AgentPatch, AgentBody):
    _body.READ_ONLY = frozenset(Agent.model_fields)
ProviderBody.READ_ONLY = frozenset(Provider.model_fields)
