"""Test profiles."""

from typing import Any, cast

from pydantic import JsonValue

from runner.api.schemas.common import ResponseBody, Timestamp, shows
from runner.records.fields import ProfileFields, RowName
from runner.records.written import Unset

SIDES = ("main_agent_variables", "testing_agent_variables")


class ProfilePatch(ProfileFields):
    """What of a test profile is to be changed."""

    name: RowName = Unset


class ProfileBody(ProfileFields):
    """A whole test profile."""

    name: RowName


class Information(ResponseBody):
    """Values for both sides."""

    main_agent_variables: dict[str, JsonValue]
    testing_agent_variables: dict[str, JsonValue]


class ProfileData(ResponseBody):
    """A test profile as scenarios and runs show it."""

    id: int
    name: str
    information: Information


@shows(ProfileFields)
class TestProfile(ProfileData):
    """Values for a scenario's placeholders, and for the agent's session."""

    __test__ = False

    agent_name: str | None
    project: int
    created_at: Timestamp
    updated_at: Timestamp


def information_of(given: dict[str, Any] | None) -> Information:
    """Return values by side; those of an older, flat profile go to both.

    Raises:
        ValueError: A side is no object.
    """
    values = given or {}
    if not any(side in values for side in SIDES):
        return Information(main_agent_variables=values, testing_agent_variables=values)
    sides: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        value = values.get(side)
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{side} must be an object.")
        sides[side] = cast(dict[str, Any], value or {})
    return Information(**sides)


for _body in (ProfilePatch, ProfileBody):
    _body.READ_ONLY = frozenset({*TestProfile.model_fields, "created_by", "last_updated_by"})
