"""Scenarios."""

from typing import Literal

from pydantic import Field, JsonValue

from runner.api.schemas.common import ResponseBody, Timestamp, shows
from runner.api.schemas.test_profiles import ProfileData
from runner.records.fields import ScenarioFields, ScenarioName
from runner.records.written import Unset


class ScenarioPatch(ScenarioFields):
    """What of a scenario is to be changed."""

    name: ScenarioName = Unset


class ScenarioBody(ScenarioFields):
    """A whole scenario."""

    name: ScenarioName


@shows(ScenarioFields)
class Scenario(ResponseBody):
    """What the caller does and what must be true afterwards.

    ``instructions`` holds conditional actions as JSON, as Cekura's clients expect; ``conditional_actions`` the same
    as an object.
    """

    id: int
    name: str
    project: int
    agent_name: str | None
    personality_name: str | None
    scenario_type: str
    instructions: str
    conditional_actions: dict[str, JsonValue] | None
    pipecat_eval: str | None
    first_message: str | None
    metric_names: list[str] = Field(default_factory=list)
    test_profile_data: ProfileData | None
    simulation_description: str = ""
    information_fields: list[str] = Field(default_factory=list)
    suite_type: Literal["undefined"] = "undefined"
    is_predefined: Literal[False] = False
    condition_audio: list[JsonValue] = Field(default_factory=list)
    created_at: Timestamp
    updated_at: Timestamp


for _body in (ScenarioPatch, ScenarioBody):
    _body.READ_ONLY = frozenset(Scenario.model_fields)
