"""The worker as its users start it: processes of its own, and a record behind HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from click.testing import CliRunner

from runner.cli import main
from runner.protocol.messages import VERSION
from runner.sessions.local_agent import free_port
from runner.settings import load_settings
from runner.worker.parent import environment
from tests.patience import wait_until
from tests.worker.record_double import KEY, RecordDouble, job

SECRET = "pl4nted-s3cret"
URL = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def folder(bare_folder: Path) -> Path:
    return bare_folder


@dataclass
class Running:
    process: "subprocess.Popen[str]"
    log: Path
    said: str

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def end(self) -> int:
        return self.process.wait(timeout=30)


@contextmanager
def running(folder: Path, record_url: str, *options: str) -> Generator[Running]:
    log = folder / "worker.log"
    where = ["--record-url", record_url, "--name", "w"]
    command = [sys.executable, "-m", "runner.cli", "worker", *where, "-v", *options]
    env = {**os.environ, "SCENARIO_RUNNER_WORKER__KEY": KEY}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    left: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said, log.read_text()
        found = Running(process, log, said.strip())
        left = found.children()
        yield found
        text = log.read_text()
        assert "Traceback" not in text and KEY not in text
        assert all(json.loads(line)["message"] for line in text.splitlines())
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for child in left:
            if child.is_running():
                child.kill()
        if process.stdout is not None:
            process.stdout.close()


def workers(record: RecordDouble) -> dict[str, str]:
    """Return the names of those that poll, with their executors."""
    polls = list(record.polls)
    ended = {poll["worker"]["executor"] for poll in polls if poll["state"] == "stopped"}
    found = {poll["worker"]["name"]: poll["worker"]["executor"] for poll in polls}
    return {name: executor for name, executor in found.items() if executor not in ended}


@pytest.fixture
def room() -> Iterator[str]:
    """A room whose door is never opened."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield f"http://127.0.0.1:{door.getsockname()[1]}/api/offer"


@pytest.mark.slow
def test_two_processes_survive_a_kill_and_release_what_is_left(folder: Path, room: str) -> None:
    record = RecordDouble(jobs={7: job(7, room_url=room)}, waits_again={7, 8})
    port = free_port()
    options = ("--processes", "2", "--calls", "3", "--health-port", str(port))
    with record.listening() as record_url, running(folder, record_url, *options) as worker:
        assert worker.said == f"worker w: 2 processes, 3 calls each, server {record_url}"
        wait_until(lambda: sorted(workers(record)) == ["w-1", "w-2"])
        assert KEY not in " ".join(psutil.Process(worker.process.pid).cmdline())
        assert not [child for child in worker.children() if KEY in " ".join(child.cmdline())]
        health = httpx.Client(base_url=f"http://127.0.0.1:{port}")
        assert health.get("/healthz").status_code == health.get("/readyz").status_code == 200

        wait_until(lambda: 7 in record.taken)
        taker = record.taken[7]
        (first,) = [child for child in worker.children() if f"-{child.pid}-" in taker]
        first.kill()
        # So its run need not wait for the lease to end; and it is for others to say what became of it.
        wait_until(lambda: record.reported_gone == [taker])
        assert record.outcomes == [] and record.released == []
        wait_until(lambda: sorted(workers(record)) == ["w-1", "w-2"] and taker not in workers(record).values())
        wait_until(lambda: not list((folder / "data" / "outbox").glob(f"{taker}*")))
        assert "recording.wav" in record.artefacts, "what it left of its call is found"

        record.jobs[8] = job(8, room_url=room)
        wait_until(lambda: 8 in record.taken)
        # As systemd does it: one for each process, and the supervisor passes on its own. That hurries nobody.
        for process in [*worker.children(), psutil.Process(worker.process.pid)]:
            process.send_signal(signal.SIGTERM)
        wait_until(lambda: health.get("/readyz").status_code == 503)
        time.sleep(0.5)
        assert record.released == []
        worker.process.send_signal(signal.SIGINT)
        assert worker.end() == 0
        health.close()
    assert record.outcomes == []
    assert [told["run_id"] for told in record.released] == [8]
    assert record.released[0]["release"]["detail"] == "its worker was stopped"
    assert list((folder / "data" / "outbox").iterdir()) == []
    # Those that were still there said that they ended; the killed one is reported, and nobody else.
    assert workers(record) == {} and record.reported_gone == [taker]


def test_processes_whose_supervisor_was_killed_end_in_good_order(folder: Path) -> None:
    record = RecordDouble()
    with record.listening() as record_url, running(folder, record_url) as worker:
        assert worker.said.startswith("worker w: 1 process, 4 calls each")
        (child,) = worker.children()
        wait_until(lambda: workers(record))
        worker.process.kill()
        worker.process.wait()
        _, alive = psutil.wait_procs([child], timeout=15)
        assert alive == []
    assert workers(record) == {}


def refused(*arguments: str, stdin: str = "", key: str | None = None) -> str:
    """Return the one line that a wrong command comes to."""
    env = {"SCENARIO_RUNNER_WORKER__KEY": key}
    result = CliRunner().invoke(main, ["worker", *arguments], input=stdin, env=env)
    assert result.exit_code == 2, result.output
    assert result.stdout == "" and SECRET not in result.output
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("error: ") and "our own error" not in line
    return line


def test_what_is_missing_or_wrong_is_one_line(folder: Path) -> None:
    (folder / "empty").touch()
    (folder / "binary").write_bytes(b"\xff\xfe")
    assert "server's address is missing: --server-url" in refused(key=KEY)
    for name in ("--server-url", "--record-url"):
        assert "a worker's key is missing" in refused(name, URL)
    for url in (
        "localhost:8000",
        "ftp://host",
        "http://",
        f"http://me:{SECRET}@host",
        "http://host?a=1",
        "http://h:x",
    ):
        assert "--server-url: must be like" in refused("--server-url", url, key=KEY)
    assert "--key: takes - alone" in refused("--record-url", URL, "--key", SECRET)
    assert "standard input holds no key" in refused("--record-url", URL, "--key", "-")
    assert "holds no key" in refused("--record-url", URL, "--key-file", "empty")
    assert "can't be read" in refused("--record-url", URL, "--key-file", "none")
    assert "can't be read (no text)" in refused("--record-url", URL, "--key-file", "binary")
    assert "give one of them" in refused("--record-url", URL, "--key", "-", "--key-file", "empty")
    assert "--name" in refused("--record-url", URL, "--name", "two words", key=KEY)
    assert "--drain-limit: " in refused("--record-url", URL, "--drain-limit", "nan", key=KEY)
    # As it stands in docs/workers.md, and a key with a line of something else.
    for key in ("psw_…", f"psw_{SECRET} # of rack 1"):
        assert "a key is ASCII without spaces" in refused("--record-url", URL, key=key)
    assert "no such settings file" in refused("--config", "none.toml")


def ended(folder: Path, *options: str, stdin: str = "", **env: str) -> str:
    """Return the one line that a worker ends with whose processes can't be started."""
    command = [sys.executable, "-m", "runner.cli", "worker", *options]
    done = subprocess.run(
        command,
        input=stdin,
        env={**os.environ, **env},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert SECRET not in done.stderr and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return line


def test_a_refused_key_is_one_line_and_not_one_a_process(folder: Path) -> None:
    (folder / "key").write_text(f"psr_{SECRET}\n")
    with RecordDouble().listening() as record_url:
        line = ended(folder, "--processes", "2", "--record-url", record_url, "--key-file", "key")
    assert line.startswith("error: the server refuses the worker's key (HTTP 401)")


@pytest.mark.slow
def test_a_server_of_another_version_is_one_line(folder: Path) -> None:
    with RecordDouble(protocol=VERSION + 1).listening() as record_url:
        line = ended(folder, "--record-url", record_url, "--key", "-", stdin=f"{KEY}\n")
    assert line.startswith("error: the server (release 9.9.9) speaks version") and "the same release for both" in line


@pytest.mark.slow
def test_what_only_a_process_finds_out_is_one_line(folder: Path) -> None:
    options = ("--key", "-", "--record-url", URL, "--data-dir", "/proc")
    line = ended(folder, *options, stdin=f"{SECRET}\n")
    assert line.startswith("error: /proc/outbox: the folder can't be made")


def test_an_address_that_is_none_is_one_line(folder: Path) -> None:
    line = ended(folder, "--key", "-", "--record-url", "http://xn--zz9\u00e9", stdin=f"{SECRET}\n")
    assert line.startswith("error: the server's address is none: ")


def test_a_port_that_is_taken_is_said_before_anything_is_started(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "name another --health-port" in refused("--record-url", URL, "--health-port", port, key=KEY)
    assert not (folder / "data").exists()


def test_settings_reach_the_processes_however_they_are_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "my.toml").write_text(
        '[room]\nparticipant_name = "Bella"\n[worker]\ndata_dir = "here"\ncalls = 9\nkey = "psw_file"\n'
        "min_free_bytes = 5\n"
    )
    monkeypatch.setenv("scenario_runner_worker__calls", "7")
    monkeypatch.setenv("SCENARIO_RUNNER_WORKER__RETRY_INCONCLUSIVE", "3")
    settings = load_settings(folder / "my.toml")
    told = environment(settings, folder / "my.toml")
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    theirs = load_settings()
    assert theirs.worker.calls == 7 and theirs.room.participant_name == "Bella"
    assert theirs.worker.key is not None and theirs.worker.key.get_secret_value() == "psw_file"
    assert theirs.worker.data_dir == folder / "here"
    assert (theirs.worker.min_free_bytes, theirs.worker.retry_inconclusive) == (5, 3)


def test_what_is_the_server_s_reaches_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENARIO_RUNNER_SERVER__DATABASE_URL", f"postgresql://me:{SECRET}@host/name")
    monkeypatch.setenv("scenario_runner_server", json.dumps({"retention_days": 123456789}))
    told = environment(load_settings(), None)
    values = "".join(told.values())
    assert SECRET not in values and "123456789" not in values and "PATH" in told


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
from runner.cli import main
main(["worker", "--help"], standalone_mode=False)
heavy = {"sqlalchemy", "dbos", "pipecat", "httpx", "starlette", "uvicorn", "prometheus_client", "anyio"}
print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert shown.stderr.strip() == "" and "--record-url" in shown.stdout
