"""Calls are watched and listened to through any of several API processes."""

from collections.abc import Callable

import anyio
import pytest

from runner.api import relay
from runner.api.app import create_app
from runner.api.live_sound import live_sounds
from runner.api.relay import Relay
from runner.api.routes.events import live_timelines
from runner.api.services import Services

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)]

EVENTS = [{"type": "agent_said", "text": f"word {n}, " + "ä" * 3_000} for n in range(5)]


async def happens(what: Callable[[], bool], within_s: float = 10.0) -> None:
    with anyio.fail_after(within_s):
        while not what():
            await anyio.sleep(0.02)


async def test_what_a_worker_tells_one_process_is_seen_and_heard_in_another(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "ANNOUNCE_EVERY_S", 0.1)
    monkeypatch.setattr(relay, "BELIEVED_S", 1.0)
    polled, other = create_app(services), create_app(services)
    of_worker, of_viewer = live_timelines(polled), live_timelines(other)
    sounds = live_sounds(polled)
    async with anyio.create_task_group() as tasks:
        for app in (polled, other):
            tasks.start_soon(Relay(app).run)
        with of_worker.watched(7):
            of_worker.post(7, 1, EVENTS[:3])
            with of_viewer.watched(7), live_sounds(other).listened(7) as listener:
                # What was told before comes, too.
                await happens(lambda: (live := of_viewer.live(7)) is not None and live.known == 3)
        with of_viewer.watched(7), live_sounds(other).listened(7) as listener:
            await happens(lambda: of_worker.is_watched(7) and sounds.is_listened_to(7))
            assert of_worker.wanted_from(7, 1) == 3
            of_worker.post(7, 1, EVENTS[2:], 2)
            await happens(lambda: (live := of_viewer.live(7)) is not None and live.known == 5)
            pcm = bytes(range(256)) * 90
            sounds.post(7, pcm)
            assert await listener.next(timeout_s=10) == pcm
        live = of_viewer.live(7)
        assert live is not None and [text for _, text in live.after(0)] == [
            text for _, text in (of_worker.live(7) or live).after(0)
        ]
        await happens(lambda: not of_worker.is_watched(7) and not sounds.is_listened_to(7))
        assert of_worker.wanted_from(7, 1) is None
        tasks.cancel_scope.cancel()
