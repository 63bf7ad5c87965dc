"""Scenarios."""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints, field_validator

from runner.api.schemas.common import Id, JsonObject, ResponseBody, Timestamp, Unset, Whole, WrittenBody
from runner.api.schemas.test_profiles import ProfileData

Language = Literal[
    "af", "ar", "bn", "bg", "zh", "cs", "da", "nl", "en", "et", "fi", "fr", "de", "el", "gu", "hi", "he", "hu", "id",
    "it", "ja", "kn", "ko", "ms", "ml", "mr", "multi", "no", "pl", "pa", "pt", "ro", "ru", "sk", "es", "sv", "th",
    "tr", "tl", "ta", "te", "uk", "vi",
]  # fmt: skip

ScenarioName = Annotated[str, StringConstraints(min_length=1, max_length=80, strip_whitespace=True)]
_Short = Annotated[str, StringConstraints(max_length=200)]
_Long = Annotated[str, StringConstraints(max_length=200_000)]
_Tag = Annotated[str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True)]

IN_DATA = (
    "expected_outcome_prompt",
    "metrics",
    "tool_ids",
    "phone_number",
    "generated_mock_tool_entries",
    "first_message",
    "scenario_language",
    "max_duration",
)
"""What is kept in one column, and given back as it is."""


class ScenarioFields(WrittenBody):
    """What a scenario has besides its name.

    Attributes:
        agent: The agent it is for.
        project: The key's own.
        assistant_id: In place of ``agent``: its id at its provider.
        personality: The caller's.
        scenario_type: By default what is given says it.
        instructions: For a model; or ``conditional_actions`` as JSON.
        conditional_actions: What the caller does, step by step, in either of Cekura's shapes.
        pipecat_eval: Ours: what the caller does and what must follow, as the text of a Pipecat Evals file that holds
            one scenario.
        expected_outcome_prompt: What must be true afterwards: the judge is asked once the call is over.
        metrics: Ids of metrics. There is one, the latency, and it is measured of every run.
        tags: To find it by.
        tool_ids: What the caller may use: ``dtmf`` and ``end_call``, where its script says so.
        test_profile: What its placeholders stand for.
        phone_number: Refused: nobody is called by telephone.
        folder_path: Dotted.
        generated_mock_tool_entries: Refused: tools are not mocked.
        first_message: The one inside the conditional actions counts, and is shown here.
        scenario_language: The caller's language: the one that the settings' voice speaks.
        max_duration: The longest a call may take, in seconds, from 10 to 3600; null as the settings have it.
        dynamic_variable_values: Was removed.
    """

    agent: Id | None = None
    project: Id | None = None
    assistant_id: _Short | None = None
    personality: Id | None = None
    scenario_type: Literal["instruction", "conditional_actions", "pipecat_eval"] | None = None
    instructions: _Long | None = None
    conditional_actions: JsonObject | None = None
    pipecat_eval: str | None = None
    expected_outcome_prompt: _Long | None = None
    metrics: Annotated[list[Id], Field(max_length=1_000)] | None = None
    tags: Annotated[list[_Tag], Field(max_length=100)] | None = None
    tool_ids: Annotated[list[_Short], Field(max_length=100)] | None = None
    test_profile: Id | None = None
    phone_number: Annotated[str, StringConstraints(max_length=40)] | None = None
    folder_path: Annotated[str, StringConstraints(max_length=400)] | None = None
    generated_mock_tool_entries: JsonValue = None
    first_message: _Long | None = None
    scenario_language: Language | None = None
    max_duration: Annotated[int, Whole, Field(ge=10, le=3_600)] | None = None
    dynamic_variable_values: None = None

    @field_validator("dynamic_variable_values", mode="before")
    @classmethod
    def _was_removed(cls, value: Any) -> None:
        if value is not None:
            raise ValueError("dynamic_variable_values was removed; use a test profile.")


class ScenarioPatch(ScenarioFields):
    """What of a scenario is to be changed."""

    name: ScenarioName = Unset


class ScenarioBody(ScenarioFields):
    """A whole scenario."""

    name: ScenarioName


class Scenario(ResponseBody):
    """What the caller does and what must be true afterwards.

    ``instructions`` holds conditional actions as JSON, as Cekura's clients expect; ``conditional_actions`` the same
    as an object.
    """

    id: int
    name: str
    agent: int | None
    agent_name: str | None
    project: int
    personality: int | None
    personality_name: str | None
    scenario_type: str
    instructions: str
    conditional_actions: dict[str, JsonValue] | None
    pipecat_eval: str | None
    expected_outcome_prompt: str | None
    metrics: list[int]
    metric_names: list[str] = Field(default_factory=list)
    tags: list[str]
    tool_ids: list[str]
    test_profile: int | None
    test_profile_data: ProfileData | None
    phone_number: str | None
    folder_path: str | None
    generated_mock_tool_entries: JsonValue
    first_message: str | None
    scenario_language: str | None
    max_duration: int | None
    simulation_description: str = ""
    information_fields: list[str] = Field(default_factory=list)
    suite_type: Literal["undefined"] = "undefined"
    is_predefined: Literal[False] = False
    condition_audio: list[JsonValue] = Field(default_factory=list)
    created_at: Timestamp
    updated_at: Timestamp


for _body in (ScenarioPatch, ScenarioBody):
    _body.READ_ONLY = frozenset(Scenario.model_fields)
