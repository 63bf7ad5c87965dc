"""The quickstart bot, and how agents are served."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bots.agents.serve import AGENTS, serve
from tests.agents.client import call
from tests.agents.conftest import ROOT, Agents
from tests.agents.speech import speak

LINE = "The weather is nice today."


@pytest.mark.slow
@pytest.mark.webrtc
@pytest.mark.anyio
async def test_it_repeats_what_it_heard(agents: Agents) -> None:
    base = agents.start("quickstart")
    speak(LINE)
    async with call(base) as client:
        await client.expect("bot-started-speaking")
        client.mouth.say(speak(LINE))
        text = await client.said("You said", 12)
        assert "weather" in text.lower()


def test_every_agent_that_can_be_served_is_a_module() -> None:
    folder = ROOT / "bots" / "agents"
    assert {name for name in AGENTS if (folder / f"{name}.py").is_file()} == set(AGENTS)


@pytest.mark.parametrize(("arguments", "message"), [(("nobody",), "no agent"), (("metronome",), "no log level")])
def test_what_cannot_be_served_is_refused(arguments: tuple[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serve(*arguments, log_level="LOUD")


def test_serving_from_a_program_is_quiet_and_finds_the_bot(tmp_path: Path) -> None:
    import socket
    import time
    import urllib.request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from bots.agents.serve import serve; serve('metronome', port={port})"
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log, env={**os.environ}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/start", b'{"transport": "webrtc"}', {"Content-Type": "application/json"}
    )
    answer = b""
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                answer = opener.open(request, timeout=1).read()
                break
            except OSError:
                time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert b"sessionId" in answer, (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text() == ""
