"""Test profiles."""

from typing import Any, cast

from pydantic import JsonValue

from runner.api.schemas.common import Id, JsonObject, Name, ResponseBody, Timestamp, Unset, WrittenBody

SIDES = ("main_agent_variables", "testing_agent_variables")


class ProfileFields(WrittenBody):
    """What a test profile has besides its name.

    Attributes:
        agent: The agent it is for; null for all of the project.
        project: The key's own.
        information: ``{main_agent_variables, testing_agent_variables}``: what goes to the agent's session, and what
            the caller's placeholders stand for. Anything else is taken for both.
    """

    agent: Id | None = None
    project: Id | None = None
    information: JsonObject | None = None


class ProfilePatch(ProfileFields):
    """What of a test profile is to be changed."""

    name: Name = Unset


class ProfileBody(ProfileFields):
    """A whole test profile."""

    name: Name


class Information(ResponseBody):
    """Values for both sides."""

    main_agent_variables: dict[str, JsonValue]
    testing_agent_variables: dict[str, JsonValue]


class TestProfile(ResponseBody):
    """Values for a scenario's placeholders, and for the agent's session."""

    __test__ = False

    id: int
    name: str
    agent: int | None
    agent_name: str | None
    project: int
    information: Information
    created_at: Timestamp
    updated_at: Timestamp


class ProfileData(ResponseBody):
    """A test profile as scenarios and runs show it."""

    id: int
    name: str
    information: Information


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
