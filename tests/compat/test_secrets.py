"""What was planted as a secret turns up nowhere: in no answer, log line, database file or artefact."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.compat.conftest import API, LISTENS, WAITS, Server, Stage, starting_server, until

pytestmark = [pytest.mark.webrtc, pytest.mark.slow]

TOKEN = "planted-room-token"
REFUSED_TOKEN = "planted-token-that-is-refused"
CANCELLED_TOKEN = "planted-token-of-a-cancelled-run"
MISPLACED_TOKEN = "planted-token-where-none-belongs"
QUERY_TOKEN = "planted-in-the-rooms-query"
REFUSED_QUERY = "planted-in-a-refused-rooms-query"
PROVIDER_KEY = "planted-provider-key"
SAVED_CONFIG = "planted-in-the-saved-config"
LAUNCHED_CONFIG = "planted-in-a-launchs-config"
WRONG_KEY = "psr_planted-key-of-nobody"
DATA = "planted-in-the-data-message"
DATA_TOKEN = "planted-token-in-the-data-message"

SECRETS = (
    TOKEN,
    REFUSED_TOKEN,
    CANCELLED_TOKEN,
    MISPLACED_TOKEN,
    QUERY_TOKEN,
    REFUSED_QUERY,
    PROVIDER_KEY,
    SAVED_CONFIG,
    LAUNCHED_CONFIG,
    WRONG_KEY,
    DATA_TOKEN,
)

KEPT_KEYS = {"worker.key", "secret.key"}
"""What the server keeps for itself, for its own user's eyes."""


class _Telltale(BaseHTTPRequestHandler):
    """An agent's side that refuses everything, and repeats what it was sent: headers, address and body."""

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(errors="replace")
        # Whoever complains quotes the body, with what was wrong in it; whoever refuses a key quotes everything.
        quoted = sent if self.server.status == 400 else f"{self.path} {dict(self.headers)} {sent}"  # type: ignore[attr-defined]
        told = json.dumps({"detail": f"no: {quoted}"}).encode()
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_PATCH = do_GET = do_DELETE = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def telltale(status: int) -> Iterator[str]:
    """Serve an agent's side that repeats what it was sent; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Telltale)
    server.status = status  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Planted:
    """What was found out while secrets were in use.

    Attributes:
        key: The user's key.
        share: The token of a link.
        answers: The texts of answers, by request.
        runs: The runs' ids, by what they are for.
        said: Those runs as the API shows them.
        files: The files under the data directory, by path, while the server ran and after it ended.
        log: What was logged.
        output: What was printed.
    """

    key: str = ""
    share: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    log: str = ""
    output: str = ""


class Scene:
    """A client that keeps every answer."""

    def __init__(self, server: Server, planted: Planted):
        self.client = server.client(server.key)
        self.planted = planted

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self.client.request(method, path, **options)
        name = f"{len(self.planted.answers)} {method} {path}"
        self.planted.answers[name] = answer.text + str(dict(answer.headers))
        return answer

    def made(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.ask("POST", path, json=body)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def rooms(self, name: str, **entry: Any) -> dict[str, Any]:
        body = {"agent": 1, "name": name, "scenarios": [entry]}
        launched = self.made(f"{API}/scenarios/run_scenarios_pipecat/", **body)
        self.planted.runs[name] = launched["runs"][0]["id"]
        return launched

    def sessions(self, name: str, agent: int, scenario: int, **more: Any) -> None:
        body = {"agent": agent, "name": name, "scenarios": [scenario], **more}
        launched = self.made(f"{API}/scenarios/run_scenarios_pipecat_v2/", **body)
        self.planted.runs[name] = launched["runs"][0]["id"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, stage: Stage) -> Planted:
    found = Planted()
    with (
        telltale(401) as refusing,
        telltale(400) as complaining,
        # Everything is logged that can be.
        starting_server(tmp_path_factory.mktemp("secrets"), "-vvv") as ready,
    ):
        server = ready()
        found.key = server.key
        scene = Scene(server, found)
        with scene.client:
            use_secrets(scene, stage.agent, refusing, complaining)
            look_everywhere(scene)
        found.files |= {f"running: {name}": content for name, content in files_of(server.data)}
        assert server.stop() == 0
        found.files |= {f"stopped: {name}": content for name, content in files_of(server.data)}
        found.log, found.output = server.log.read_text(), server.output
    return found


def use_secrets(scene: Scene, agent: str, refusing: str, complaining: str) -> None:
    """Make calls with tokens and keys: some that succeed, some that are refused, one that is cancelled."""
    waits, listens = (
        scene.made(f"{API}/scenarios/", name=name, agent=1, personality=1, pipecat_eval=text)["id"]
        for name, text in (("waits", WAITS), ("listens", LISTENS))
    )

    def started_at(address: str) -> int:
        credentials = {"api_key": PROVIDER_KEY, "config": {"config": {"secret": SAVED_CONFIG}}}
        return scene.made(
            "/test_framework/v2/aiagents/",
            name="started",
            provider={"type": "pipecat", "credentials": credentials},
            session={"start_url": f"{address}/start", "transport": "webrtc", "start_timeout_s": 5},
        )["id"]

    message = {"type": "hello", "value": DATA, "session": {"accessToken": DATA_TOKEN}}
    offer = f"{agent}/api/offer"
    scene.rooms("a call", scenario=listens, pipecat_room_url=offer, pipecat_token=TOKEN, publish_data_message=message)
    scene.rooms("a call by query", scenario=listens, pipecat_room_url=f"{offer}?token={QUERY_TOKEN}")
    scene.rooms("refused", scenario=listens, pipecat_room_url=f"{refusing}/api/offer", pipecat_token=REFUSED_TOKEN)
    scene.rooms("refused query", scenario=listens, pipecat_room_url=f"{complaining}/api/offer?t={REFUSED_QUERY}")
    good, bad = started_at(agent), started_at(complaining)
    scene.sessions("a refused session", bad, listens)
    data = {"config": {"secret": LAUNCHED_CONFIG}}
    scene.sessions("a session", good, listens, pipecat_data=data)
    scene.sessions("a refused session, with its own data", bad, listens, pipecat_data=data)
    cancelled = scene.rooms("cancelled", scenario=waits, pipecat_room_url=offer, pipecat_token=CANCELLED_TOKEN)

    # Where they don't belong: the answers that refuse repeat nothing.
    path = f"{API}/scenarios/run_scenarios_pipecat/"
    for entry in (
        {"scenario": MISPLACED_TOKEN, "pipecat_room_url": offer},
        {"scenario": listens, "pipecat_room_url": offer, "pipecat_token": {"token": MISPLACED_TOKEN}},
        {
            "scenario": listens,
            "pipecat_room_url": f"https://{MISPLACED_TOKEN}@rooms.example.com/?t={MISPLACED_TOKEN}",
        },
        {"scenario": listens, "pipecat_room_url": f"http://127.0.0.1/{MISPLACED_TOKEN}", "pipecat_token": 5},
        {"scenario": listens, "pipecat_room_url": offer, "publish_data_message": {"no type": MISPLACED_TOKEN}},
    ):
        assert scene.ask("POST", path, json={"scenarios": [entry]}).status_code == 400
    broken = f'{{"scenarios": [{{"pipecat_token": "{MISPLACED_TOKEN}"'
    assert scene.ask("POST", path, content=broken, headers={"Content-Type": "application/json"}).status_code == 400
    wrong = scene.ask("GET", f"{API}/runs/", headers={"X-CEKURA-API-KEY": WRONG_KEY})
    assert wrong.status_code == 401
    assert scene.ask("POST", f"/{MISPLACED_TOKEN}", params={"api_key": MISPLACED_TOKEN}).status_code == 404

    until(
        lambda: scene.client.get(f"{API}/runs/{scene.planted.runs['cancelled']}/").json(),
        lambda run: run["scenario_runner"]["joined_at"],
    )
    scene.ask("POST", f"{API}/results/{cancelled['id']}/end_calls/")
    until(
        lambda: scene.client.get(f"{API}/runs/").json()["results"],
        lambda runs: all(run["status"] in ("completed", "failed", "cancelled") for run in runs),
    )
    shared = scene.made(f"{API}/results/{cancelled['id']}/create_shareable_link_token/")
    scene.planted.share = shared["token"]
    # Given once; every other answer is searched for it.
    scene.planted.answers.popitem()
    reader = {"X-CEKURA-API-KEY": "", "X-VOCERA-SHAREABLE-LINK-TOKEN": shared["token"]}
    assert scene.ask("GET", f"{API}/results/{cancelled['id']}/", headers=reader).status_code == 200
    assert scene.ask("POST", f"{API}/results/{cancelled['id']}/rerun/").status_code == 400


def look_everywhere(scene: Scene) -> None:
    """Read whatever can be read."""
    runs = {run_id: name for name, run_id in scene.planted.runs.items()}
    for path in (
        *("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/user/v1/projects/"),
        "/test_framework/v2/aiagents/",
        *(f"{API}/{name}/" for name in ("personalities", "test-profiles", "scenarios", "results", "runs")),
        "/schedules/v1/cron-jobs/?project_id=1",
        f"{API}/runs/bulk/?run_ids={','.join(map(str, runs))}",
    ):
        assert scene.ask("GET", path).status_code == 200, path
    for item in scene.client.get(f"{API}/results/").json()["results"]:
        scene.ask("GET", f"{API}/results/{item['id']}/")
    for item in scene.client.get("/test_framework/v2/aiagents/").json()["results"]:
        scene.ask("GET", f"/test_framework/v2/aiagents/{item['id']}/")
    for run_id, name in runs.items():
        run = scene.ask("GET", f"{API}/runs/{run_id}/").json()
        scene.planted.said[name] = run
        scene.ask("GET", f"{API}/runs/{run_id}/events/")
        scene.ask("GET", f"{API}/runs/{run_id}/trace/")
        for address in run["scenario_runner"]["artefacts"].values():
            assert scene.ask("GET", address).status_code == 200


def files_of(folder: Path) -> list[tuple[str, bytes]]:
    return [(str(path.relative_to(folder)), path.read_bytes()) for path in folder.rglob("*") if path.is_file()]


def test_the_calls_were_made_with_what_was_planted(planted: Planted) -> None:
    statuses = {name: run["status"] for name, run in planted.said.items()}
    made = {"a call", "a call by query", "a session"}
    reasons = {name: run["error_message"] for name, run in planted.said.items()}
    assert {name for name, status in statuses.items() if status == "completed"} == made, reasons
    assert statuses["cancelled"] == "cancelled"
    assert all(statuses[name] == "failed" for name in statuses if "refused" in name)
    assert any(name.endswith(".sqlite") for name in planted.files)
    assert sum(name.endswith("recording.wav") for name in planted.files) >= 2 * len(made)
    assert len(planted.log) > 10_000


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_in_no_answer_log_file_or_output(planted: Planted, secret: str) -> None:
    assert not [name for name, text in planted.answers.items() if secret in text]
    assert not [name for name, content in planted.files.items() if secret.encode() in content]
    assert not [line for line in planted.log.splitlines() if secret in line]
    assert secret not in planted.output


def test_keys_are_kept_as_digests_and_shown_once(planted: Planted) -> None:
    for key in (planted.key, planted.share):
        assert not [name for name, text in planted.answers.items() if key in text]
        assert not [name for name, content in planted.files.items() if key.encode() in content]
        assert key not in planted.log
    assert planted.output.count(planted.key) == 1
    worker = planted.files["stopped: worker.key"].strip()
    assert worker.startswith(b"psw_") and worker.decode() not in planted.log
    assert not [
        name
        for name, content in planted.files.items()
        if worker in content and name.rpartition(" ")[2] not in KEPT_KEYS
    ]


def test_a_data_message_is_told_with_its_run_alone(planted: Planted) -> None:
    run_id = planted.runs["a call"]
    told = planted.said["a call"]["scenario_runner"]["publish_data_message"]["message"]
    assert (told["value"], told["session"]) == (DATA, {"accessToken": "***"})
    assert DATA not in planted.log and DATA not in planted.output
    own = re.compile(rf"GET (http://[^/]*)?{API}/runs/({run_id}/.*|bulk/.*)?$")
    told = [name for name, text in planted.answers.items() if DATA in text]
    assert told and not [name for name in told if not own.search(name)], told
    files = {name.partition(": ")[2] for name, content in planted.files.items() if DATA.encode() in content}
    assert not [name for name in files if not name.startswith((f"artefacts/runs/{run_id}/", "record.sqlite"))], files


def test_tokens_are_erased_when_their_runs_end(planted: Planted, tmp_path: Path) -> None:
    import sqlite3

    database = tmp_path / "record.sqlite"
    for name, content in planted.files.items():
        if name.startswith("stopped: record.sqlite"):
            (tmp_path / name.partition(": ")[2]).write_bytes(content)
    connection = sqlite3.connect(database)
    (left,) = connection.execute("SELECT count(*) FROM runs WHERE room_token IS NOT NULL").fetchone()
    (all_runs,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    connection.close()
    assert (left, all_runs) == (0, len(planted.runs))
