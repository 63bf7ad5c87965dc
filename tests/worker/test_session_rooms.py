"""The session of a run, as a worker starts it."""

from pydantic import SecretStr

from runner.sessions.start import SessionKind
from runner.worker import session_rooms
from runner.worker.record_client import Job, SessionStart


def test_a_cloud_session_has_the_key_that_starts_it_and_the_one_that_asks_how_it_ended() -> None:
    start = SessionStart(
        start_url="https://api.pipecat.daily.co/v1/public/luigi/start",
        credential=SecretStr("pk_1"),
        private_key=SecretStr("sk_1"),
    )
    job = Job(run_id=7, attempt=1, scenario="s", script={}, session=start)
    spec = session_rooms._session(job)
    assert (spec.kind, spec.agent_name) == (SessionKind.PIPECAT_CLOUD, "luigi")
    assert (spec.api_key, spec.private_key) == (SecretStr("pk_1"), SecretStr("sk_1"))
