"""The session of a run, as a worker starts it."""

import httpx
import pytest
from pydantic import SecretStr

from bots.timeline import EndedReason
from runner.errors import RoomError
from runner.protocol.messages import Job, SessionStart
from runner.sessions.start import SessionKind
from runner.settings import Settings
from runner.worker import session_rooms


def test_a_cloud_session_has_a_key_to_start_and_one_to_ask() -> None:
    start = SessionStart(
        start_url="https://api.pipecat.daily.co/v1/public/luigi/start",
        credential=SecretStr("pk_1"),
        private_key=SecretStr("sk_1"),
    )
    job = Job(run_id=7, attempt=1, scenario="s", script={}, session=start)
    spec = session_rooms._session(job)
    assert (spec.kind, spec.agent_name) == (SessionKind.PIPECAT_CLOUD, "luigi")
    assert (spec.api_key, spec.private_key) == (SecretStr("pk_1"), SecretStr("sk_1"))


@pytest.mark.anyio
async def test_ice_servers_of_a_session_are_held_to_the_records_list() -> None:
    answer = {"sessionId": "ab", "iceConfig": {"iceServers": [{"urls": "turn:10.1.2.3:22?transport=tcp"}]}}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
    start = SessionStart(start_url="http://10.9.9.9:7860/start", transport="webrtc")
    job = Job(run_id=7, attempt=1, scenario="s", script={}, session=start)
    base = Job(run_id=7, attempt=1, scenario="s", script={}, room_url="http://10.9.9.9:7860")
    async with httpx.AsyncClient(transport=transport) as http:
        allowed = job.model_copy(update={"allowed_rooms": ("10.1.2.3",)})
        async with session_rooms.room_of(allowed, http, Settings()) as session:
            assert session.address.ice_servers
        with pytest.raises(RoomError, match=r"10\.1\.2\.3 is not allowed") as caught:
            async with session_rooms.room_of(job, http, Settings()):
                pass
        assert caught.value.reason is EndedReason.ROOM_UNREACHABLE
        # Started when the room is opened.
        async with session_rooms.room_of(base, http, Settings()) as session:
            assert session.address.guard is not None


@pytest.mark.parametrize(
    ("room_url", "anew"),
    [
        ("http://localhost:7860/", True),
        ("http://localhost:7860/api/offer", False),
        ("http://localhost:7860/sessions/ab/api/offer", False),
        ("https://acme.daily.co/r", False),
    ],
)
def test_a_runners_base_address_gets_a_session_for_every_call(room_url: str, anew: bool) -> None:
    job = Job(run_id=7, attempt=1, scenario="s", script={}, room_url=room_url)
    assert session_rooms.starts_anew(job, []) is anew
