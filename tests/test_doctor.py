"""What the doctor finds, on this machine and in a room."""

from pathlib import Path

import pytest

from bots.caller.speech.settings import ServiceSettings, SpeechSettings
from runner.cli import machine_checks
from runner.cli.machine_checks import Finding, examine
from runner.cli.room_visit import visit_room
from runner.rooms.open import RoomAddress
from runner.sessions.local_agent import free_port, local_agent, reference_agent_command
from runner.settings import JudgeSettings, Settings
from tests.patience import best_of_three

pytestmark = pytest.mark.anyio


def is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


async def findings(settings: Settings, monkeypatch: pytest.MonkeyPatch, *names: str) -> tuple[bool, list[Finding]]:
    monkeypatch.setattr(
        machine_checks, "CHECKS", {name: check for name, check in machine_checks.CHECKS.items() if name in names}
    )
    found: list[Finding] = []
    fine = await examine(settings, found.append)
    return fine, found


async def test_a_missing_service_is_found_with_how_to_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(speech=SpeechSettings(tts=ServiceSettings(service="pipecat.services.nosuch.tts.NoSuchTTS")))
    fine, (speaks, hears) = await findings(settings, monkeypatch, "speaking", "recognising")
    assert not fine
    assert not speaks.ok and "pipecat.services.nosuch.tts" in speaks.detail
    assert not hears.ok and "nothing can be spoken to it" in hears.detail


async def test_a_check_that_breaks_keeps_no_other_from_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(settings: Settings) -> Finding:
        raise ZeroDivisionError("by zero")

    async def finds(settings: Settings) -> Finding:
        return Finding("second", True, "fine")

    monkeypatch.setattr(machine_checks, "CHECKS", {"first": breaks, "second": finds})
    found: list[Finding] = []
    assert not await examine(Settings(), found.append)
    assert [(f.check, f.ok) for f in found] == [("first", False), ("second", True)]
    assert "ZeroDivisionError: by zero" in found[0].detail


async def test_what_is_kept_from_last_time_proves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings(speech=SpeechSettings(cache_dir=tmp_path))
    _, (speaks,) = await findings(settings, monkeypatch, "speaking")
    assert speaks.ok and is_empty(tmp_path)


async def test_a_judge_is_asked_or_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    fine, (judges,) = await findings(Settings(), monkeypatch, "judging (eval)")
    assert fine and not judges.ok and not judges.required and "no judge is configured" in judges.detail
    dead = JudgeSettings.model_validate({"model": "m", "base_url": f"http://127.0.0.1:{free_port()}/v1"})
    fine, (judges,) = await findings(Settings(judge=dead), monkeypatch, "judging (eval)")
    assert not fine and "the judge gave no answer" in judges.detail


@pytest.mark.webrtc
@best_of_three
@pytest.mark.slow
async def test_a_visit_says_who_is_there_and_that_audio_arrives() -> None:
    port = free_port()
    async with local_agent(reference_agent_command("metronome", port), port) as base_url:
        visit = await visit_room(RoomAddress(f"{base_url}/api/offer"), Settings())
    assert visit.error is None and visit.agent is not None
    assert visit.audio_s > 1 and visit.agent_level_dbfs is not None


async def test_a_room_that_can_t_be_entered_is_said_to_be_so() -> None:
    visit = await visit_room(RoomAddress(f"http://127.0.0.1:{free_port()}/api/offer"), Settings())
    assert visit.error is not None and visit.error.startswith("room-unreachable: ")
    assert visit.agent is None
