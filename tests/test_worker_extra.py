"""A worker as a machine of its own has it: installed from its own lock file, with no database and no API in reach."""

import signal
import subprocess
import sys
import wave
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from tests.cluster.program import environment
from tests.serving import API, launch, make_scenario, metronome, serving, until
from tests.test_deploy import NOT_FOR_WORKERS

pytestmark = [pytest.mark.slow, pytest.mark.webrtc, pytest.mark.timeout(600)]

PROJECT = Path(__file__).parents[1]
LISTENS = "name: listens\nturns:\n  - expect:\n      - { event: response, within_ms: 10000 }\n"
INSTALLED = (
    "import importlib.metadata as m; print(*(d.metadata['Name'].lower() for d in m.distributions()), sep='\\n')"
)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the extras ``worker`` and ``offline`` and nothing else."""
    venv = tmp_path_factory.mktemp("worker") / "venv"
    run("make", "-C", PROJECT, "install-worker", f"VENV={venv}", f"PYTHON={sys.executable}")
    return Path(f"{venv}-worker/bin/python")


def run(*command: str | Path) -> str:
    """Run a command somewhere else than here, where its modules would be found without being installed."""
    done = subprocess.run(command, cwd="/", env=bare(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bare(**more: str) -> dict[str, str]:
    """Return an environment that leads to none of these modules."""
    return {name: value for name, value in environment("none", **more).items() if name != "PYTHONPATH"}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    with metronome(tmp_path) as offers:
        yield offers


def test_its_environment_is_sound_without_database_and_api(python: Path) -> None:
    run(python, "-m", "pip", "check")
    assert not NOT_FOR_WORKERS & set(run(python, "-c", INSTALLED).split())


@pytest.mark.parametrize("module", ["runner.worker.child", "runner.worker.health", "runner.worker.supervisor"])
def test_its_modules_need_nothing_else(python: Path, module: str) -> None:
    run(python, "-c", f"import {module}")


def test_it_makes_a_real_call_for_an_api_elsewhere(python: Path, tmp_path: Path, agent: str) -> None:
    (tmp_path / "worker").mkdir()
    with serving(tmp_path, "--no-worker") as server:
        create = ["keys", "create", "--kind", "worker", "--name", "w", "--data-dir", str(tmp_path / "data")]
        key = subprocess.run(
            [sys.executable, "-m", "runner.cli", *create], check=True, capture_output=True, text=True
        ).stdout.strip()
        (tmp_path / "worker.key").write_text(key)
        options = ["--record-url", server.url, "--key-file", str(tmp_path / "worker.key")]
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [
                    python,
                    "-P",
                    "-m",
                    "runner.cli",
                    "worker",
                    *options,
                    "--data-dir",
                    "data",
                    "--drain-limit",
                    "5",
                    "-v",
                ],
                cwd=tmp_path / "worker",
                env=bare(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline().startswith("worker "), (tmp_path / "worker.log").read_text()
            with server.client(server.key) as client:
                made = launch(client, make_scenario(client, "listens", LISTENS), agent)
                over = ("completed", "failed", "cancelled")
                result = until(client, f"{API}/results/{made['id']}/", lambda found: found["status"] in over)
                assert result["status"] == "completed", result
                ours = client.get(f"{API}/runs/{made['runs'][0]['id']}/").json()["scenario_runner"]
                assert ours["success"] is True, ours
                recording = client.get(ours["artefacts"]["recording.wav"])
                with wave.open(BytesIO(recording.content)) as wav:
                    assert wav.getnchannels() == 2 and wav.getnframes() / wav.getframerate() > 1
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=60) == 0, (tmp_path / "worker.log").read_text()
        finally:
            worker.kill()
            worker.wait()
        text = (tmp_path / "worker.log").read_text()
        assert "Traceback" not in text and key not in text
        assert server.stop() == 0
