"""What is put on the line bears on the call, and an empty line adds nothing."""

from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from bots.clock import CallClock
from bots.levels import QUIET_PEAK
from runner.errors import UsageError
from runner.rooms.base import EMPTY, Forward, Line
from runner.rooms.open import RoomAddress
from runner.rooms.smallwebrtc.outgoing import FRAME_BYTES, CallerTrack
from runner.sessions.opening import open_address
from runner.settings import RoomSettings
from tests.doubles.daily import Meeting
from tests.patience import until
from tests.rooms.in_daily import URL
from tests.rooms.in_daily import entered as in_daily
from tests.rooms.listener import Listener
from tests.rooms.peer import entered

pytestmark = pytest.mark.anyio

LOUD = np.full(960, 8_000, np.int16).tobytes()


def humming(pcm: bytes) -> bytes:
    """A bed under everything: a tone, begun anew with each piece."""
    samples = np.frombuffer(pcm, np.int16)
    return (samples + 6_000 * np.sin(np.arange(samples.size) / 8)).astype(np.int16).tobytes()


@pytest.mark.webrtc
async def test_a_filter_changes_what_the_agent_gets_even_where_the_caller_is_silent() -> None:
    async with entered(line=Line(samples=humming), speaking=False) as meeting:
        await until(lambda: len(meeting.agent.heard) >= 15)
        await until(lambda: meeting.agent.heard[-1] > 3_000)
        await until(lambda: meeting.listener.caller)
        # What left is what is recorded.
        assert meeting.listener.caller[-1][1] == humming(bytes(FRAME_BYTES))


async def test_a_filter_changes_what_leaves_for_a_daily_room(meeting: Meeting) -> None:
    def heard(pieces: list[bytes]) -> int:
        return int(np.count_nonzero(np.frombuffer(b"".join(pieces), np.int16)))

    # Of each piece, 40 ms, one sample is left.
    async with in_daily(samples=lambda pcm: bytes(len(pcm) - 2) + pcm[:2]) as call:
        await until(meeting.sending.is_set)
        for _ in range(5):
            await call.say(LOUD)
        await until(lambda: heard([block.pcm for block in meeting.heard]) == 5)
        await until(lambda: heard([pcm for _, pcm in call.listener.caller]) == 5)


@pytest.mark.webrtc
async def test_the_agents_packets_are_lost_and_doubled_before_anybody_counts_them() -> None:
    seen = 0

    def fault(data: bytes, forward: Forward) -> None:
        nonlocal seen
        seen += 1
        for _ in range((1, 0, 1, 1, 1, 1, 2, 1)[seen % 8]):
            forward(data)

    async with entered(line=Line(from_agent=fault)) as meeting:
        await until(lambda: seen >= 64)
        quality = meeting.room.agent_audio_quality(0)
    assert quality is not None
    # Of eight one is lost, and one comes again when its place was filled.
    assert quality.lost == pytest.approx(seen / 8, abs=3)
    assert quality.late == pytest.approx(seen / 8, abs=3)


@pytest.mark.webrtc
async def test_an_empty_line_puts_nothing_in_the_way() -> None:
    async with entered(speaking=False) as meeting:
        connection: Any = meeting.room._connection
        await until(lambda: len(meeting.agent.heard) >= 15)
        assert max(meeting.agent.heard) <= QUIET_PEAK
        audio = connection._pc.getTransceivers()[0]
        assert connection._sender._fault is None and meeting.room._track._samples is None
        assert "_handle_rtp_data" not in vars(audio.receiver.transport)
    assert CallerTrack()._samples is None  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    "line", [Line(to_agent=lambda data, forward: None), Line(from_agent=lambda data, forward: None)]
)
async def test_faults_of_packets_are_refused_on_daily(line: Line) -> None:
    async with httpx.AsyncClient() as http, anyio.create_task_group() as tasks:
        with pytest.raises(UsageError, match="packets of a Daily room"):
            await open_address(
                RoomAddress(URL, SecretStr("t")),
                RoomSettings(),
                clock=CallClock(),
                listener=Listener(),
                http=http,
                tasks=tasks,
                line=line,
            )
    assert Line() == EMPTY
