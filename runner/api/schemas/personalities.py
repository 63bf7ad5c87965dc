"""Personalities."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from runner.api.schemas.common import Id, JsonObject, Name, Timestamp, Unset, Whole, WrittenBody

_Short = Annotated[str, StringConstraints(max_length=200)]


class MessagePlan(WrittenBody):
    """What the caller does when nobody says anything."""

    idle_timeout_seconds: float | None = Field(default=None, ge=1)
    idle_message_max_spoken_count: Annotated[int, Whole, Field(ge=1, le=1_000)] | None = None


class Traits(WrittenBody):
    """A caller's voice and manners. What can't be had here is refused (:mod:`runner.records.honoured`)."""

    prompt: Annotated[str, StringConstraints(max_length=100_000)] | None = None
    accent: _Short | None = None
    background_noise: Annotated[str, StringConstraints(max_length=2_000)] = "off"
    voice_model: _Short | None = None
    voice_id: _Short | None = None
    provider: _Short | None = None
    interruption_level: _Short | None = None
    speed: float | None = Field(default=None, gt=0, le=4)
    generation_config: JsonObject | None = None
    network_simulation: JsonObject | None = None
    message_plan: MessagePlan | None = None
    start_speaking_plan: float | JsonObject | None = None
    stop_speaking_plan: JsonObject | None = None
    background_sound_volume: JsonObject | None = None
    end_call_enabled: bool = True


class PersonalityPatch(Traits):
    """What of a personality is to be changed."""

    name: Name = Unset
    language: Annotated[str, StringConstraints(min_length=1, max_length=20)] = "en"
    project: Id | None = None


class PersonalityBody(Traits):
    """A whole personality."""

    name: Name
    language: Annotated[str, StringConstraints(min_length=1, max_length=20)] = "en"
    project: Id | None = None


class ForkBody(WrittenBody):
    """What a copy is called; by default as the one it is of."""

    name: Name | None = None


class _Head(WrittenBody):
    """What a personality begins with when it is shown."""

    id: int
    name: str
    language: str
    project: int | None


class Personality(Traits, _Head):
    """A caller's voice and manners. Those of no project are built in and can't be changed."""

    gender: str | None
    enabled: Literal[True] = True
    is_starred: Literal[False] = False
    forked_from: int | None
    organization: None = None
    created_at: Timestamp
    updated_at: Timestamp


TRAITS = tuple(Traits.model_fields)

for _body in (PersonalityPatch, PersonalityBody):
    _body.READ_ONLY = frozenset({*Personality.model_fields, "call_service_provider", "provider_agent_id"})
