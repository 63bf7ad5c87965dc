"""Personalities."""

from typing import Literal

from runner.api.schemas.common import Timestamp
from runner.records.fields import PersonalityFields, RowName, Traits
from runner.records.written import Name, Unset, WrittenBody


class PersonalityPatch(PersonalityFields):
    """What of a personality is to be changed."""

    name: RowName = Unset


class PersonalityBody(PersonalityFields):
    """A whole personality."""

    name: RowName


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


for _body in (PersonalityPatch, PersonalityBody):
    _body.READ_ONLY = frozenset({*Personality.model_fields, "call_service_provider", "provider_agent_id"})
