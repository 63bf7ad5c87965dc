"""The quickstart bot, and how agents are served."""

import httpx
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


def test_serving_from_a_program_is_quiet_and_finds_the_bot(agents: Agents) -> None:
    base = agents.run("-c", "from bots.agents.serve import serve; serve('metronome', port={port})")
    answer = httpx.post(f"{base}/start", json={"transport": "webrtc"}, timeout=30, trust_env=False)
    assert "sessionId" in answer.text
    assert agents.log.read_text() == ""
