"""Real speech: synthesised and recognised by the models that come in packages."""

import time
from pathlib import Path

import pytest

from bots.caller.script import Pause, Speak, Words
from bots.caller.speech.level import from_pcm16, speech_dbfs
from bots.caller.speech.recognition import transcribe
from bots.caller.speech.settings import ServiceSettings, SpeechSettings
from bots.caller.speech.voice import RATE_HZ, Voice
from runner.evaluation.wording import contains_words, normalise_words

pytestmark = pytest.mark.anyio


def say(text: str) -> Speak:
    return Speak(parts=(Words(text=text),))


async def test_what_is_spoken_is_recognised(tmp_path: Path) -> None:
    texts = ["I would like to book a table for two people.", "Yes, please.", "My number is 555-0142."]
    lines = await Voice(SpeechSettings(cache_dir=tmp_path)).synthesise([say(text) for text in texts])
    for line in lines:
        assert speech_dbfs(from_pcm16(line.pcm)) == pytest.approx(-20.0, abs=1.0)
    segments = [lines[0].pcm, b"", bytes(RATE_HZ), lines[1].pcm, lines[2].pcm]
    began_s = time.perf_counter()
    heard = await transcribe(segments, RATE_HZ, ServiceSettings())
    print(f"recognised in {time.perf_counter() - began_s:.2f} s: {heard}")
    assert [normalise_words(text) for text in heard] == [
        normalise_words(texts[0]),
        "",
        "",
        normalise_words(texts[1]),
        normalise_words(texts[2]),
    ]


async def test_equal_text_gives_equal_bytes(tmp_path: Path) -> None:
    line = Speak(parts=(Words(text="Hello there. How are you?"), Pause(pause_ms=300), Words(text="Good.")))
    one = await Voice(SpeechSettings(cache_dir=tmp_path / "a")).synthesise([line])
    two = await Voice(SpeechSettings(cache_dir=tmp_path / "b")).synthesise([say("Something else."), line])
    assert one[0] == two[1]


async def test_a_streaming_service_is_fed_in_real_time() -> None:
    stt = ServiceSettings(service="tests.speech.fakes.CountingSTTService")
    assert await transcribe([bytes(2 * 800), bytes(2 * 1600)], 8000, stt) == ["700 ms", "800 ms"]
    assert await transcribe([], 8000, stt) == []


@pytest.mark.slow
async def test_codes_are_heard_as_meant(tmp_path: Path) -> None:
    texts = ["My order number is AB-1207.", "It is extension 042."]
    lines = await Voice(SpeechSettings(cache_dir=tmp_path)).synthesise([say(text) for text in texts])
    heard = await transcribe([line.pcm for line in lines], RATE_HZ, ServiceSettings())
    assert contains_words(heard[0], "1207")
    assert contains_words(heard[1], "042")
