"""The images as they run: read-only, without privileges, as a user of their own; and real calls through them.

``make image`` builds them and runs this. Where there are none it is left out.
"""

import json
import os
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from runner.sessions.local_agent import free_port
from tests.patience import wait_until
from tests.serving import API, launch, make_scenario, metronome, until
from tests.test_deploy import OURS, names

pytestmark = [pytest.mark.slow, pytest.mark.webrtc, pytest.mark.timeout(300)]

ENGINE = shutil.which("podman") or shutil.which("docker") or ""
CONFINED = [
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--network", "host", *shlex.split(os.environ.get("IMAGE_RUN_OPTIONS", ""))),
]
VOLUME = "/var/lib/scenario-runner"
LISTENS = "name: listens\nturns:\n  - expect:\n      - { event: response, within_ms: 10000 }\n"
INSTALLED = (
    "import importlib.metadata as m; print(*(d.metadata['Name'].lower() for d in m.distributions()), sep='\\n')"
)
WRITES = "import pathlib, sys; pathlib.Path(sys.argv[1], 'there').touch()"


def engine(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([ENGINE, *arguments], capture_output=True, text=True, check=False)


def done(*arguments: str) -> str:
    """Return what the engine prints."""
    found = engine(*arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    if not ENGINE or any(engine("image", "inspect", name).returncode for name in OURS):
        pytest.skip("there are no images: make image")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    with metronome(tmp_path) as offers:
        yield offers


class Running:
    """A container that runs."""

    def __init__(self, name: str, image: str):
        self.name = name
        self._image = image

    def is_healthy(self) -> bool:
        """Return whether what the image says that its health is checked with finds it so."""
        (image,) = json.loads(done("image", "inspect", self._image))
        # Podman has it beside what it is configured with, Docker within.
        kind, *command = (image.get("Healthcheck") or image["Config"]["Healthcheck"])["Test"]
        assert kind == "CMD"
        return engine("exec", self.name, *command).returncode == 0

    def log(self) -> str:
        found = engine("logs", self.name)
        return found.stdout + found.stderr

    def stop(self) -> int:
        done("stop", "--time", "60", self.name)
        return int(done("wait", self.name))


@contextmanager
def running(image: str, *arguments: str, options: tuple[str, ...] = ()) -> Iterator[Running]:
    name = f"scenario-runner-test-{secrets.token_hex(4)}"
    done("run", "--detach", "--name", name, *CONFINED, "--volume", f"{name}:{VOLUME}", *options, image, *arguments)
    try:
        yield Running(name, image)
    finally:
        engine("rm", "--force", name)
        engine("volume", "rm", "--force", name)


@pytest.mark.parametrize(("image", "target"), OURS.items())
def test_an_image_holds_what_its_lock_file_says(image: str, target: str) -> None:
    found = set(done("run", "--rm", *CONFINED, "--entrypoint", "python", image, "-c", INSTALLED).split())
    assert {name.replace("_", "-") for name in found} == {*names(f"{target}.lock"), "pipecat-scenario-runner"}


@pytest.mark.parametrize("image", OURS)
def test_a_container_is_nobody_and_writes_to_its_volume_alone(image: str) -> None:
    python = ("run", "--rm", *CONFINED, "--entrypoint", "python", image, "-c")
    assert done(*python, "import os; print(os.getuid(), os.getgid())").split() == ["10001", "10001"]
    assert engine(*python, WRITES, VOLUME).returncode == 0
    for folder in ("/opt/scenario-runner", "/usr", "/etc", "/"):
        assert engine(*python, WRITES, folder).returncode == 1


def test_a_confined_worker_s_image_makes_a_call(tmp_path: Path, agent: str) -> None:
    (tmp_path / "listens.yaml").write_text(LISTENS)
    mounted = ("--volume", f"{tmp_path / 'listens.yaml'}:/listens.yaml:ro")
    call = ("call", agent, "--scenario", "/listens.yaml", "--json", "--out", "/tmp/run")
    run = json.loads(done("run", "--rm", *CONFINED, *mounted, "scenario-runner-worker", *call))
    assert run["success"] is True, run


def test_a_call_is_made_through_both_images(tmp_path: Path, agent: str) -> None:
    port, health = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    record = ("serve", "--no-worker", "--host", "127.0.0.1", "--port", str(port), "-v")
    with running("scenario-runner", *record) as api:
        wait_until(lambda: "API key" in api.log(), api.log)
        (key,) = [line.rpartition(" ")[2] for line in api.log().splitlines() if line.startswith("API key")]
        create = ("scenario-runner", "keys", "create", "--kind", "worker", "--name", "w")
        worker_key = done("exec", api.name, *create).strip()
        (tmp_path / "key").write_text(worker_key)
        # The containers' user is not the one that runs this.
        (tmp_path / "key").chmod(0o444)
        told = ("--volume", f"{tmp_path / 'key'}:/run/secrets/worker_key:ro")
        told += ("--env", f"SCENARIO_RUNNER_WORKER__RECORD_URL={url}")
        told += ("--env", f"SCENARIO_RUNNER_WORKER__HEALTH_PORT={health}")
        command = ("worker", "--key-file", "/run/secrets/worker_key", "-v")
        with running("scenario-runner-worker", *command, options=told) as worker:
            wait_until(lambda: ready(health), worker.log, timeout_s=120)
            with httpx.Client(base_url=url, headers={"X-CEKURA-API-KEY": key}, timeout=10) as client:
                made = launch(client, make_scenario(client, "listens", LISTENS), agent)
                over = ("completed", "failed", "cancelled")
                until(client, f"{API}/results/{made['id']}/", lambda found: found["status"] in over)
                ours = client.get(f"{API}/runs/{made['runs'][0]['id']}/").json()["scenario_runner"]
            assert ours["success"] is True, ours
            log = worker.log()
            assert "Traceback" not in log and worker_key not in log
            assert worker.stop() == 0, worker.log()
        assert api.stop() == 0, api.log()


@pytest.mark.parametrize("image", OURS)
def test_an_image_has_a_check_of_its_health(image: str) -> None:
    if OURS[image] == "server":
        with running(image) as container:
            wait_until(container.is_healthy, container.log)
    else:
        # Nobody answers there before it is started.
        with running(image, "infinity", options=("--entrypoint", "sleep")) as container:
            assert not container.is_healthy()


def ready(port: int) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    return False
