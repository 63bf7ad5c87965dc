"""What users write into the record: every field once, with its type, its limits, its example, and what it means.

What a request may hold, what is answered, what the API's description says, what is refused, and the form of the page
are made of this. The text below a field is its description. A new field of a scenario stands here, and where it has
its effect; nothing else has to know of it, for what has no column of its own is kept in the row's ``data``.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, SecretStr, StringConstraints

from runner.errors import UsageError
from runner.records.crontab import check_crontab, zones
from runner.records.honoured import NO_MOCKS, NO_TELEPHONE, only, other_language, unknown_metrics, unknown_tools
from runner.records.tables import Agent, Personality, ResultRow, ScenarioRow, TestProfile
from runner.records.written import (
    Id,
    JsonObject,
    Kept,
    Name,
    RoomUrl,
    Short,
    Token,
    Whole,
    WrittenBody,
    refused,
    unless_empty,
)
from runner.rooms.urls import check_start_url

_Long = Annotated[str, StringConstraints(max_length=200_000)]
_Tag = Annotated[str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True)]
_Number = Annotated[str, StringConstraints(max_length=40)]
_Ids = Annotated[list[Id], Field(max_length=100)]
_LanguageCode = Annotated[str, StringConstraints(min_length=1, max_length=20)]
_ScenarioName = Annotated[str, StringConstraints(min_length=1, max_length=80, strip_whitespace=True)]

ScenarioName = Annotated[_ScenarioName, Kept("name")]
RowName = Annotated[Name, Kept("name")]


def _each_once(values: Any) -> list[Any]:
    return list(dict.fromkeys(values or ()))


def _text(value: Any) -> str:
    return value or ""


def _was_removed(value: Any) -> None:
    if value is not None:
        raise ValueError("dynamic_variable_values was removed; use a test profile.")


class ScenarioFields(WrittenBody):
    """What a scenario has besides its name."""

    project: Id | None = None
    """The key's own."""
    agent: Annotated[Id | None, Kept("agent_id", Agent)] = None
    """The agent it is for."""
    assistant_id: Short | None = None
    """In place of ``agent``: its id at its provider."""
    personality: Annotated[Id | None, Kept("personality_id", Personality)] = None
    """The caller's."""
    test_profile: Annotated[Id | None, Kept("test_profile_id", TestProfile)] = None
    """What its placeholders stand for."""
    tags: Annotated[list[_Tag] | None, Field(max_length=100), Kept("tags", as_kept=_each_once)] = None
    """To find it by."""
    folder_path: Annotated[
        str | None, StringConstraints(max_length=400), Kept("folder_path", as_kept=lambda path: path or None)
    ] = None
    """Dotted."""

    scenario_type: Literal["instruction", "conditional_actions", "pipecat_eval"] | None = None
    """By default what is given says it."""
    instructions: _Long | None = None
    """For a model; or ``conditional_actions`` as JSON."""
    conditional_actions: JsonObject | None = None
    """What the caller does, step by step, in either of Cekura's shapes."""
    pipecat_eval: str | None = None
    """Ours: what the caller does and what must follow, as the text of a Pipecat Evals file that holds one
    scenario."""
    first_message: _Long | None = None
    """The one inside the conditional actions counts, and is shown here."""

    scenario_language: Annotated[
        Literal[
            "af", "ar", "bn", "bg", "zh", "cs", "da", "nl", "en", "et", "fi", "fr", "de", "el", "gu", "hi", "he",
            "hu", "id", "it", "ja", "kn", "ko", "ms", "ml", "mr", "multi", "no", "pl", "pa", "pt", "ro", "ru", "sk",
            "es", "sv", "th", "tr", "tl", "ta", "te", "uk", "vi",
        ] | None,
        Kept(
            refusal=other_language("the caller speaks", "tts"),
            label="Language",
            hint="such as en; conditional actions need it",
        ),
    ] = None  # fmt: skip
    """The caller's language: the one that the settings' voice speaks."""
    expected_outcome_prompt: Annotated[
        _Long | None, Kept(label="What must be true afterwards", hint="asked of the judge", lines=3)
    ] = Field(default=None, examples=["The agent confirms a table for four on Friday at 8 PM."])
    """What must be true afterwards: the judge is asked once the call is over."""
    max_duration: Annotated[Annotated[int, Whole, Field(ge=10, le=3_600)] | None, Kept()] = None
    """The longest a call may take, in seconds, from 10 to 3600; null as the settings have it."""
    metrics: Annotated[list[Id] | None, Field(max_length=1_000), Kept(refusal=unknown_metrics)] = None
    """Ids of metrics. There is one, the latency, and it is measured of every run."""
    tool_ids: Annotated[list[Short] | None, Field(max_length=100), Kept(refusal=unknown_tools)] = None
    """What the caller may use: ``dtmf`` and ``end_call``, where its script says so."""
    generated_mock_tool_entries: Annotated[JsonValue, Kept(refusal=only(NO_MOCKS))] = None
    """Refused: tools are not mocked."""
    phone_number: Annotated[_Number | None, Kept(refusal=only(NO_TELEPHONE))] = None
    """Refused: nobody is called by telephone."""
    dynamic_variable_values: Annotated[None, BeforeValidator(_was_removed)] = None
    """Was removed."""


_VOICE = only("the caller speaks with the voice of the settings (speech.tts); leave it out.")
_SERVICE = only("the caller speaks with the service of the settings (speech.tts); leave it out.")
_TURNS = only("the settings say how the caller takes turns (turn_taking); leave it out.")
_PATIENCE = only("the caller does not ask whether anybody is there; leave it out.")


class MessagePlan(WrittenBody):
    """What the caller does when nobody says anything."""

    idle_timeout_seconds: float | None = Field(default=None, ge=1)
    """After how many seconds of silence the caller asks whether the agent is there."""
    idle_message_max_spoken_count: Annotated[int, Whole, Field(ge=1, le=1_000)] | None = None
    """How often it asks."""


class Traits(WrittenBody):
    """A caller's voice and manners."""

    background_noise: Annotated[
        str,
        StringConstraints(max_length=2_000),
        Kept(refusal=only('no background is played behind the caller; send "off".', "off")),
    ] = Field(default="off", examples=["off"])
    """What is heard behind the caller; `off` for nothing."""
    voice_model: Annotated[
        Short | None,
        Kept(
            refusal=only(
                'the caller speaks with the service of the settings (speech.tts); send "default".', "default"
            ),
            when_played=True,
        ),
    ] = None
    """The model that speaks."""
    voice_id: Annotated[Short | None, Kept(refusal=_VOICE)] = None
    """The voice."""
    provider: Annotated[Short | None, Kept(refusal=_SERVICE)] = None
    """Whose voice it is."""
    prompt: Annotated[
        str | None,
        StringConstraints(max_length=100_000),
        Kept(refusal=only("the caller says what its script says, word for word; leave it out.")),
    ] = None
    """The caller's manners in words, for a model that speaks as the caller."""
    accent: Annotated[Short | None, Kept(refusal=_VOICE)] = None
    """The caller's accent."""
    interruption_level: Annotated[
        Short | None, Kept(refusal=only('the caller interrupts only where its script says so; send "off".', "off"))
    ] = None
    """How readily the caller talks over the agent."""
    speed: Annotated[
        float | None,
        Field(gt=0, le=4),
        Kept(refusal=only("the caller speaks at the speed of the settings' voice; send 1.", 1)),
    ] = None
    """How fast the caller speaks; 1 is the voice's own pace."""
    generation_config: Annotated[JsonObject | None, Kept(refusal=_SERVICE)] = None
    """Settings of the voice."""
    network_simulation: Annotated[
        JsonObject | None, Kept(refusal=only("no network is simulated here; leave it out."))
    ] = None
    """A network that loses and delays audio."""
    message_plan: Annotated[MessagePlan | None, Kept(refusal=_PATIENCE)] = None
    """What the caller does when the agent says nothing."""
    start_speaking_plan: Annotated[float | JsonObject | None, Kept(refusal=_TURNS)] = None
    """When the caller begins to speak."""
    stop_speaking_plan: Annotated[JsonObject | None, Kept(refusal=_TURNS)] = None
    """When the caller stops as it is talked over."""
    background_sound_volume: Annotated[
        JsonObject | None, Kept(refusal=only("no background is played behind the caller; leave it out."))
    ] = None
    """How loud that is."""
    end_call_enabled: Annotated[
        bool, Kept(refusal=only("the caller hangs up after its last step; send true.", True))
    ] = True
    """Whether the caller may hang up."""


class _Spoken(WrittenBody):
    language: Annotated[_LanguageCode, Kept("language", refusal=other_language("the caller speaks", "tts"))] = "en"
    project: Id | None = None


class PersonalityFields(Traits, _Spoken):
    """What a personality has besides its name."""


DESCRIBES = frozenset({"accent"})
"""What of a built-in personality only describes it."""


class ProfileFields(WrittenBody):
    """What a test profile has besides its name."""

    agent: Annotated[Id | None, Kept("agent_id", Agent)] = None
    """The agent it is for; null for all of the project."""
    project: Id | None = None
    """The key's own."""
    information: JsonObject | None = None
    """``{main_agent_variables, testing_agent_variables}``: what goes to the agent's session, and what the caller's
    placeholders stand for. Anything else is taken for both."""


def _start_url(url: str | None) -> str | None:
    if not url:
        return None
    try:
        check_start_url(url)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return url


class AgentSession(WrittenBody):
    """Ours: how a session of the agent is started, where a launch gives no room; and how many calls it takes.

    Without ``start_url`` an agent with Pipecat Cloud credentials is started there. The key in
    ``provider.credentials`` goes along as a bearer header.
    """

    start_url: Annotated[str | None, StringConstraints(max_length=2_000), AfterValidator(_start_url)] = None
    """The whole address to post to, such as ``http://localhost:7860/start``."""
    transport: Literal["webrtc", "daily"] | None = None
    """What kind of room to ask for; null leaves it to the other side."""
    data: JsonObject = Field(default_factory=dict)
    """Reaches the bot as its runner arguments' ``body``. Nothing secret: it is given back."""
    start_timeout_s: float = Field(default=60.0, gt=0, le=600)
    """How long a start may take, cold starts included."""
    agent_join_timeout_s: float | None = Field(default=None, gt=0, le=600)
    """How long the agent may take to be in the room; null as the settings have it."""
    bot_ready_timeout_s: float | None = Field(default=None, ge=0, le=60)
    """How long to wait for the agent to say that it is ready; null as the settings have it."""
    participant_name: Name | None = None
    """The agent's user name in Daily rooms; null as the settings have it."""
    max_calls: Annotated[int, Whole, Field(ge=1, le=10_000)] | None = None
    """How many calls the agent takes at once; null as the settings have it."""


class TelephonyBody(WrittenBody):
    """The agent's number. Nobody is called by telephone here; its runs show it."""

    phone_number: Annotated[_Number | None, Kept("phone_number", as_kept=lambda number: number or None)] = None
    inbound: Annotated[bool, Kept("inbound")] = True


class PipecatConfig(WrittenBody):
    """How sessions are started at Pipecat Cloud."""

    pipecat_agent_name: Short | None = None
    """The agent's name there."""
    config: JsonObject | None = None
    """The body of a start, which reaches the agent."""
    room_properties: JsonObject | None = None
    """Of the Daily room that comes with the session."""
    tracing_enabled: bool | None = None
    """Whether a tracer inside the agent reports; one that does is always heard."""


class Credentials(WrittenBody):
    """What sessions are started with. Kept encrypted, and never given back."""

    api_key: Token | None = None
    """The key of Pipecat Cloud, or of the agent's own start address."""
    private_api_key: Token | None = None
    """Ours: a private key of Pipecat Cloud. It stops sessions, and asks how they ended."""
    config: PipecatConfig | None = None
    """How they are started."""


class ProviderBody(WrittenBody):
    """Where the agent runs."""

    type: Literal["pipecat", ""] | None = None
    """``pipecat``; others are not called here."""
    agent_id: Short | None = None
    """The agent's id there."""
    credentials: Credentials | None = None
    """Left out, they stay as they are; null erases them."""


class AgentFields(WrittenBody):
    """What an agent has besides its name."""

    description: Annotated[str | None, StringConstraints(max_length=100_000), Kept("description", as_kept=_text)] = (
        None
    )
    project: Id | None = None
    language: Annotated[
        _LanguageCode, Kept("language", refusal=other_language("the agent's words are recognised as", "stt"))
    ] = "en"
    telephony: TelephonyBody | None = None
    provider: ProviderBody | None = None
    """Where the agent runs."""
    session: AgentSession | None = None


class RoomEntry(WrittenBody):
    """A scenario, and the room it is played in."""

    scenario: Id
    """The scenario."""
    pipecat_room_url: RoomUrl
    """A Daily room, an ``/api/offer`` address, or the base address of a Pipecat runner."""
    pipecat_token: Token | None = None
    """The room's token; elsewhere than on Daily it goes along as a bearer header. Kept encrypted until the run ends,
    then erased."""
    publish_data_message: JsonValue = None
    """Sent once, unchanged, when caller and agent are both in the room. Null is none. What stands under secret names
    is shown as ``***``; then the message is kept as the token is."""
    participant_name: Name | None = None
    """Ours: the agent's user name in a Daily room; null as the agent has it."""

    @property
    def token(self) -> SecretStr | None:
        """The token; None where it is empty."""
        return unless_empty(self.pipecat_token)


MAX_ROOMS = 1_000
MAX_BASELINES = 20

Baseline = Literal["previous"] | Id | Annotated[list[Id], Field(min_length=1, max_length=MAX_BASELINES)]
"""Results, or the schedule's own last ones."""

ExecutionMode = Literal[
    "voice", "text", "sip", "vapi_webrtc", "retell_webrtc", "elevenlabs", "ello", "livekit_v2", "pipecat_v2", "agora",
    "pipecat",
]  # fmt: skip


def _zone(name: str) -> str:
    if name not in zones():
        raise ValueError("Not a time zone; give an IANA name such as Europe/Berlin.")
    return name


Expression = Annotated[
    str,
    StringConstraints(max_length=100, strip_whitespace=True),
    AfterValidator(check_crontab),
    Kept("crontab_expression"),
]


class CronJobFields(WrittenBody):
    """What a schedule has besides when it is due."""

    name: Annotated[
        str | None, StringConstraints(max_length=200, strip_whitespace=True), Kept("name", as_kept=_text)
    ] = None
    """What it is called."""
    timezone: Annotated[str, StringConstraints(max_length=60), AfterValidator(_zone), Kept("timezone")] = "UTC"
    """IANA name in which the expression is read."""
    is_active: Annotated[bool, Kept("is_active")] = True
    """Whether it fires. False pauses it."""
    agent: Annotated[Id | None, Kept("agent_id", Agent)] = None
    """The agent; by default that of the first scenario."""
    scenarios: Annotated[
        list[Id] | None,
        Field(max_length=10_000),
        Kept("scenario_ids", ScenarioRow, as_kept=_each_once, is_shown=False),
    ] = None
    """Ids of what is run."""
    personality: Annotated[Id | None, Kept(of=Personality)] = None
    """One in place of ``personalities``."""
    personalities: Annotated[_Ids | None, Kept(of=Personality)] = None
    """In place of the scenarios' own."""
    test_profiles: Annotated[_Ids | None, Kept(of=TestProfile)] = None
    """In place of the scenarios' own."""
    tags: Annotated[list[_Tag] | None, Field(max_length=100), Kept()] = None
    """In place of ``scenarios``: those of the agent that have any of these tags when it fires."""
    rooms: Annotated[list[RoomEntry] | None, Field(max_length=MAX_ROOMS)] = None
    """Ours: in place of ``scenarios`` and ``tags``: scenarios, each with the room it is played in every time, as
    ``run_scenarios_pipecat`` takes them. Tokens are kept encrypted; ``rooms_data`` shows the rest."""
    frequency: Annotated[int, Whole, Field(ge=1, le=100), Kept()] = 1
    """Runs per scenario."""
    concurrency_limit: Annotated[Annotated[int, Whole, Field(ge=1, le=10_000)] | None, Kept(is_shown=False)] = None
    """How many runs at once."""
    run_as_text: Annotated[bool, refused("Runs are calls here, and never text; leave it out."), Kept()] = False
    """Refused: runs are calls."""
    execution_mode: Annotated[
        ExecutionMode | None,
        refused(
            "Schedules call Pipecat agents here, and nothing else; send pipecat_v2.", but=("pipecat_v2", "pipecat")
        ),
    ] = None
    """How it is run: ``pipecat_v2``, in sessions that are started, or ``pipecat``, in ``rooms``."""
    notify_on: Annotated[Literal["never", "success", "failure", "both"], Kept()] = "never"
    """Of which firings the webhooks of agent or project are told: those that passed (``success``), the others
    (``failure``), ``both``, or ``never``."""
    overlap: Annotated[Literal["skip", "queue", "both"], Kept()] = "queue"
    """Ours: what a firing does while the one before it is still on: ``skip``, ``queue`` (waits for it; one at most)
    or ``both`` (is launched beside it)."""
    baseline: Annotated[Baseline | None, Kept(of=ResultRow)] = None
    """Ours: what each of its results is compared with: a result, several, or ``previous``: its own last five that got
    no worse and in which a run passed. A firing fails if a scenario got worse."""


class Toggles(WrittenBody):
    """Which events are told."""

    notify_pre_run_webhook: Annotated[bool, Kept()] = False
    """Whether a webhook is sent, and waited for, before the runs of a launch begin."""
    notify_result_webhook_success: Annotated[bool, Kept()] = True
    """Whether one is sent for a result of which all runs passed."""
    notify_result_webhook_failed: Annotated[bool, Kept()] = True
    """Whether one is sent for a result with a run in which the agent failed."""
    notify_result_webhook_error: Annotated[bool, Kept()] = True
    """Whether one is sent for a result with a run that has an error message."""
    notify_cronjob_webhook_success: Annotated[bool, Kept()] = True
    """Whether one is sent for a schedule's result that passed."""
    notify_cronjob_webhook_failed: Annotated[bool, Kept()] = True
    """Whether one is sent for a schedule's result that failed or got worse."""
    notify_cronjob_webhook_error: Annotated[bool, Kept()] = True
    """Whether one is sent for a schedule's result without a verdict, or for none."""


TOGGLES: dict[str, bool] = {name: field.default for name, field in Toggles.model_fields.items()}
"""Which events are told, where a project does not say."""
