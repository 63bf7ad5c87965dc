"""The settings: where each comes from, and what is said of one that is wrong."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from bots.caller.script import TurnTaking
from bots.caller.speech.settings import ServiceSettings, SpeechSettings
from runner.errors import UsageError
from runner.settings import (
    IceServer,
    JudgeSettings,
    RoomSettings,
    ServerSettings,
    Settings,
    WorkerSettings,
    load_settings,
)

EXAMPLE = Path(__file__).parents[1] / "config" / "runner.toml"
SECRET = "s3cr3t-k3y"


@pytest.fixture(autouse=True)
def folder(bare_folder: Path) -> Path:
    return bare_folder


def write(text: str, name: str = "mine.toml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(file: Path | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        load_settings(file)
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__
    return text


def test_everything_has_a_default() -> None:
    settings = load_settings()
    assert settings.runs_dir == Path("runs")
    assert settings.max_duration_s == 300
    assert settings.log_level == "WARNING"
    assert settings.room == RoomSettings(
        caller_name="Testing Agent",
        participant_name=None,
        daily_domains=[],
        ice_servers=[],
        join_timeout_s=40,
        agent_join_timeout_s=30,
        bot_ready_timeout_s=3,
    )
    assert settings.turn_taking == TurnTaking()
    assert (settings.speech.tts.service, settings.speech.stt.service) == ("offline", "offline")


def test_a_file_sets_what_it_names_and_leaves_the_rest() -> None:
    settings = load_settings(
        write(
            """
            max_duration_s = 60
            [room]
            participant_name = "Bella"
            daily_domains = ["rooms.example.com"]
            [[room.ice_servers]]
            urls = "turn:turn.example.com"
            credential = "c"
            [speech.tts]
            service = "pipecat.services.cartesia.tts.CartesiaTTSService"
            """
        )
    )
    assert settings.max_duration_s == 60
    assert (settings.room.participant_name, settings.room.caller_name) == ("Bella", "Testing Agent")
    assert settings.room.daily_domains == ["rooms.example.com"]
    (server,) = settings.room.ice_servers
    assert server.credential is not None and server.credential.get_secret_value() == "c"
    assert settings.speech.tts.service.endswith("CartesiaTTSService")
    assert settings.speech.stt.service == "offline"


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('max_duration_s = 60\n[room]\nparticipant_name = "Bella"\ncaller_name = "Ann"\n')
    monkeypatch.setenv("SCENARIO_RUNNER_ROOM__PARTICIPANT_NAME", "Carla")
    monkeypatch.setenv("SCENARIO_RUNNER_RUNS_DIR", "/elsewhere")
    settings = load_settings(path)
    assert (settings.room.participant_name, settings.room.caller_name) == ("Carla", "Ann")
    assert (settings.runs_dir, settings.max_duration_s) == (Path("/elsewhere"), 60)


def test_lists_are_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENARIO_RUNNER_ROOM__ICE_SERVERS", '[{"urls": ["stun:a", "stun:b"]}]')
    assert load_settings().room.ice_servers == [IceServer(urls=["stun:a", "stun:b"])]


def test_a_file_is_found_by_argument_then_variable_then_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(file: Path | None = None) -> float:
        return load_settings(file).max_duration_s

    write("max_duration_s = 1", "config/runner.toml")
    assert found() == 1
    monkeypatch.setenv("SCENARIO_RUNNER_CONFIG", str(write("max_duration_s = 2", "named.toml")))
    assert found() == 2
    assert found(write("max_duration_s = 3")) == 3


def test_a_file_that_is_named_but_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(Path("none.toml")).startswith("none.toml: there is no such")
    monkeypatch.setenv("SCENARIO_RUNNER_CONFIG", "gone.toml")
    assert refused().startswith("gone.toml: there is no such")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("max_duration = 5", "max_duration: there is no such setting"),
        ("[room]\nagent = 'Bella'", "room.agent: there is no such setting"),
        ("[speech.tts]\nvoice = 'x'", "speech.tts.voice: there is no such setting"),
        ("[[room.ice_servers]]\nurls = 'stun:a'\npassword = 'x'", "room.ice_servers.0.password: there is no such"),
        ("max_duration_s = 'long'", "max_duration_s: "),
        ("max_duration_s = 0", "max_duration_s: "),
        ("log_level = 'LOUD'", "log_level: "),
        ("redact_keys = ['ssn', ' ']", "redact_keys.1: must be a name"),
        ("room = 5", "room: "),
        ("[room]\nparticipant_name = ['Bella']", "room.participant_name: "),
        ("[room]\njoin_timeout_s = 121", "room.join_timeout_s: "),
        ("[[room.ice_servers]]\nusername = 'u'", "room.ice_servers.0.urls: "),
        ("[turn_taking]\nend_of_turn_ms = 1.5", "turn_taking.end_of_turn_ms: "),
        ("[speech.stt]\nservice = 'deepgram'", "speech.stt.service: "),
        ("[server]\nconcurrency = 4", "server.concurrency: there is no such setting"),
        ("[server]\nmax_calls = 0", "server.max_calls: "),
        ("[server]\ndata_dir = ''", "server.data_dir: a path is missing"),
        (
            "[server]\ntrusted_proxies = ['proxy.example.com']",
            "server.trusted_proxies.0: must be an address (10.0.0.5)",
        ),
        ("[server]\ntrusted_proxies = ['10.0.0.5/8']", "server.trusted_proxies.0: must be an address (10.0.0.5)"),
        ("[worker]\ncalls = 65", "worker.calls: "),
        ("[worker]\nname = 'two words'", "worker.name: "),
    ],
)
def test_a_wrong_setting_is_named_by_file_and_key(text: str, place: str) -> None:
    assert refused(write(text)).startswith(f"mine.toml: {place}")


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("MAX_DURATION_S", "long", "MAX_DURATION_S: Input"),
        ("SERVER__DATA_DIR", "", "SERVER__DATA_DIR: a path is missing"),
        ("SPEECH__CACHE_DIR", "", "SPEECH__CACHE_DIR: a path is missing"),
        ("ROOM__AGENT", "Bella", "ROOM__AGENT: there is no such setting"),
        ("ROOM__DAILY_DOMAINS", "rooms.example.com", "ROOM__DAILY_DOMAINS: must be JSON"),
        ("ROOM__ICE_SERVERS", '[{"urls": "turn:a", "secret": 1}]', "ROOM__ICE_SERVERS: 0.secret: there is no such"),
        ("ROOM", '{"participant_name": 1}', "ROOM: participant_name: Input"),
        ("ROOM", "{", "ROOM: must be JSON"),
    ],
)
def test_a_wrong_environment_setting_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, place: str
) -> None:
    monkeypatch.setenv(f"SCENARIO_RUNNER_{name}", value)
    for file in (None, write("max_duration_s = 5")):
        assert refused(file).startswith(f"SCENARIO_RUNNER_{place}")


@pytest.mark.parametrize("text", ["max_duration_s = ", "[room", "hello", f"key = {SECRET}"])
def test_a_file_that_is_no_toml_says_where(text: str) -> None:
    message = refused(write(text))
    assert message.startswith("mine.toml: no TOML (")
    assert "line 1" in message or "end of document" in message


def test_a_file_that_is_no_text_is_no_toml() -> None:
    Path("mine.toml").write_bytes(b"\xff\xfe\x00")
    assert refused(Path("mine.toml")).startswith("mine.toml: no TOML (")


@pytest.mark.parametrize(
    "text",
    [
        f"[[room.ice_servers]]\nurls = 'turn:a'\ncredential = ['{SECRET}']",
        f"[[room.ice_servers]]\ncredential = '{SECRET}'",
        f"[speech.tts]\nparams = '{SECRET}'",
        f"[speech.tts]\nparams = {{ api_key = '{SECRET}' }}\nsettings = 1",
        f"token = '{SECRET}'",
        f"max_duration_s = '{SECRET}'",
        f"[worker]\nkey = ['{SECRET}']",
    ],
)
def test_no_error_shows_a_secret(text: str) -> None:
    refused(write(text))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROOM__ICE_SERVERS", f'[{{"urls": "turn:a", "credential": "{SECRET}"'),
        ("ROOM__ICE_SERVERS", f'[{{"credential": "{SECRET}"}}]'),
        ("SPEECH__TTS__PARAMS", f"api_key={SECRET}"),
        ("MAX_DURATION_S", SECRET),
    ],
)
def test_no_error_about_the_environment_shows_a_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"SCENARIO_RUNNER_{name}", value)
    refused()


def test_settings_can_be_shown_without_their_secrets() -> None:
    settings = load_settings(
        write(
            f"""
            [[room.ice_servers]]
            urls = "turn:a"
            credential = "{SECRET}"
            [speech.tts]
            params = {{ api_key = "{SECRET}" }}
            settings = {{ token = "{SECRET}" }}
            [judge]
            service = "pipecat.services.openai.llm.OpenAILLMService"
            params = {{ api_key = "{SECRET}" }}
            settings = {{ token = "{SECRET}" }}
            [worker]
            key = "{SECRET}"
            """
        )
    )
    assert settings.speech.tts.params == {"api_key": SECRET}
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    assert SECRET not in repr(load_settings(write(f'[judge]\nmodel = "m"\napi_key = "{SECRET}"')))


def test_the_example_file_changes_nothing() -> None:
    assert load_settings(EXAMPLE).model_dump() == load_settings().model_dump()


@pytest.mark.parametrize(
    "model",
    [
        Settings,
        RoomSettings,
        IceServer,
        TurnTaking,
        SpeechSettings,
        ServiceSettings,
        JudgeSettings,
        ServerSettings,
        WorkerSettings,
    ],
)
def test_the_example_file_documents_every_setting(model: type[BaseModel]) -> None:
    documented = set(re.findall(r"^(?:# *)?\[?\[?(?:\w+\.)*(\w+)(?: = |\])", EXAMPLE.read_text(), re.MULTILINE))
    assert set(model.model_fields) <= documented


def test_what_the_example_file_shows_can_be_set() -> None:
    text = re.sub(r"^# (?=\[|\w+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    settings = load_settings(write(text))
    assert settings.room.participant_name == "Bella"
    assert settings.room.ice_servers[0].username == "user"
    assert settings.speech.tts.params == {"api_key": "env:CARTESIA_API_KEY"}
    assert settings.turn_taking == TurnTaking()
    assert settings.judge.model is not None and settings.judge.configured
    assert settings.worker.health_port == 9090 and settings.server.max_calls == 50


def test_a_mistyped_variable_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENARIO_RUNNER_RUN_DIR", "elsewhere")
    with pytest.raises(
        UsageError, match=r"^SCENARIO_RUNNER_RUN_DIR: .*did you mean SCENARIO_RUNNER_RUNS_DIR\?"
    ) as refused:
        load_settings()
    assert "elsewhere" not in str(refused.value)
