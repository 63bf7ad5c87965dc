import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bots.caller.script import Pause, Play, Speak, Words
from bots.caller.speech.errors import SpeechError
from bots.caller.speech.level import from_pcm16, speech_dbfs
from bots.caller.speech.settings import ServiceSettings, SpeechSettings
from bots.caller.speech.voice import RATE_HZ, Line, Voice
from tests.speech import fakes

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TONE_KEY", "s3cret")
    fakes.SPOKEN.clear()


def settings(directory: Path, service: str = "ToneTTSService", **more: object) -> SpeechSettings:
    params = {"api_key": "env:TONE_KEY"} if service == "ToneTTSService" else {}
    tts = ServiceSettings(service=f"tests.speech.fakes.{service}", params=params)
    return SpeechSettings(**{"tts": tts, "cache_dir": directory, **more})


async def spoken(directory: Path, *lines: Speak | Play, **more: object) -> list[Line]:
    return await Voice(settings(directory, **more)).synthesise(lines)  # type: ignore[arg-type]


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def run_in_a_fresh_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def say(*parts: str | int) -> Speak:
    return Speak(parts=tuple(Words(text=p) if isinstance(p, str) else Pause(pause_ms=p) for p in parts))


async def test_a_line_is_trimmed_levelled_and_measured(tmp_path: Path) -> None:
    [line] = await spoken(tmp_path, say("Hello"))
    assert line.text == "Hello"
    assert len(line.pcm) / 2 / RATE_HZ == pytest.approx(0.54, abs=0.01)
    assert speech_dbfs(from_pcm16(line.pcm)) == pytest.approx(-20.0, abs=0.3)
    assert line.first_voiced_sample <= 480
    assert len(line.pcm) // 2 - 1 - line.last_voiced_sample <= 480
    samples = np.abs(from_pcm16(line.pcm))
    assert samples[line.first_voiced_sample] > 0.003
    assert not (samples[: line.first_voiced_sample] > 0.0032).any()


async def test_pauses_are_exact(tmp_path: Path) -> None:
    whole, alone, silent = await spoken(tmp_path, say(250, "a", 1500, "b"), say("a"), say(100))
    piece = alone.pcm
    assert whole.pcm == bytes(2 * 6000) + piece + bytes(2 * 36_000) + piece
    assert whole.first_voiced_sample == 6000 + alone.first_voiced_sample
    assert whole.last_voiced_sample == 42_000 + len(piece) // 2 + alone.last_voiced_sample
    assert (silent.first_voiced_sample, silent.last_voiced_sample) == (0, 2399)


async def test_equal_parts_are_made_once_and_then_come_from_disk(tmp_path: Path) -> None:
    lines = [say("one", 10, "one"), say("5550142")]
    first = await spoken(tmp_path, *lines)
    assert fakes.SPOKEN == ["five five five zero one four two", "one"]
    assert await spoken(tmp_path, *lines) == first
    assert len(fakes.SPOKEN) == 2
    await spoken(tmp_path, say("one"), level_dbfs=-30.0)
    assert len(fakes.SPOKEN) == 3


async def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    [line] = await spoken(tmp_path, say("one"))
    [file] = files(tmp_path)
    for damaged in (b"", b"LINE0001", file.read_bytes()[:-2], file.read_bytes()[:-1] + b"\x55"):
        file.write_bytes(damaged)
        assert await spoken(tmp_path, say("one")) == [line]
    assert len(fakes.SPOKEN) == 5


async def test_no_key_gets_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await spoken(tmp_path, say("one"))
    assert all(b"s3cret" not in file.read_bytes() for file in files(tmp_path))
    monkeypatch.setenv("TONE_KEY", "another")
    await spoken(tmp_path, say("one"))
    monkeypatch.delenv("TONE_KEY")
    await spoken(tmp_path, say("one"))
    assert len(fakes.SPOKEN) == 1


async def test_the_least_used_goes_first(tmp_path: Path) -> None:
    voice = Voice(settings(tmp_path, cache_max_mb=1))
    for number in range(3):
        name = tmp_path / f"{number}.line"
        name.write_bytes(bytes(450_000))
        os.utime(name, (number, number))
    stale = tmp_path / "line-left.tmp"
    stale.write_bytes(b"x")
    os.utime(stale, (0, 0))
    await voice.synthesise([say("one")])
    names = {path.name for path in files(tmp_path)}
    assert not names & {"0.line", "line-left.tmp"}
    assert {"1.line", "2.line"} < names
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 1_000_000


async def test_several_voices_at_once_share_a_cache(tmp_path: Path) -> None:
    results = await asyncio.gather(*(Voice(settings(tmp_path)).synthesise([say("a"), say("b")]) for _ in range(4)))
    assert all(result == results[0] for result in results)
    assert len(files(tmp_path)) == 2


async def test_a_directory_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    [line] = await spoken(tmp_path / "file", say("one"))
    assert line.pcm


async def test_a_streaming_service(tmp_path: Path) -> None:
    lines = await Voice(settings(tmp_path, "StreamingTTSService")).synthesise([say("one"), say("two")])
    assert [len(line.pcm) / 2 / RATE_HZ for line in lines] == pytest.approx([0.5, 0.5], abs=0.01)


@pytest.mark.parametrize(("text", "says"), [("an error", "no more credit"), ("nothing", "no audio")])
async def test_a_service_that_fails_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SpeechError, match=says) as caught:
        await spoken(tmp_path, say(text))
    assert "ToneTTSService" in str(caught.value)


async def test_a_recording_is_played_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    tone = np.frombuffer(fakes.tone(1.0, 48_000), dtype="<i2")
    soundfile.write(path, np.stack([tone, tone], axis=1), 48_000)
    [line] = await spoken(tmp_path, Play(path=path, text="beep"))
    assert line.text == "beep"
    assert len(line.pcm) == 2 * RATE_HZ
    assert np.abs(from_pcm16(line.pcm)).max() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.wav", None, "no such recording"),
        ("text.wav", b"hello", "can't be read"),
        ("empty.wav", 0, "is empty"),
        ("long.flac", 601_000, "lasts 601 s"),
    ],
)
async def test_a_bad_recording_is_named(tmp_path: Path, name: str, content: bytes | int | None, says: str) -> None:
    path = tmp_path / name
    if isinstance(content, int):
        soundfile.write(path, np.zeros(content, np.int16), 1000)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=says) as caught:
        await spoken(tmp_path, Play(path=path))
    assert str(path) in str(caught.value)


async def test_lines_on_disk_need_neither_service_nor_pipecat(tmp_path: Path) -> None:
    await spoken(tmp_path, say("one"), say("two", 100, "one"))
    code = f"""
import time; began = time.process_time()
import asyncio, sys
from bots.caller.script import Speak, Words, Pause
from bots.caller.speech.settings import ServiceSettings, SpeechSettings
from bots.caller.speech.voice import Voice
tts = ServiceSettings(service="tests.speech.fakes.ToneTTSService", params={{"api_key": "env:TONE_KEY"}})
voice = Voice(SpeechSettings(tts=tts, cache_dir={str(tmp_path)!r}))
lines = asyncio.run(voice.synthesise([Speak(parts=(Words(text="two"), Pause(pause_ms=100), Words(text="one")))]))
assert lines[0].pcm
loaded = {{"pipecat", "numpy", "hibari", "soxr", "tests.speech.fakes"}} & set(sys.modules)
assert not loaded, loaded
print(time.process_time() - began)
"""
    # A third of it on an idle machine.
    assert float(run_in_a_fresh_process(code)) < 1.0
