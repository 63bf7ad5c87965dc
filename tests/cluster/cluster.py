"""A whole deployment on this machine: API, workers, database and agent, each a process that can be done away with."""

import secrets
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from runner.sessions.local_agent import free_port
from tests.cluster.agent import Agent
from tests.cluster.client import Client
from tests.cluster.program import Program, environment, marked
from tests.cluster.store import Store, new_store, pid_of
from tests.patience import wait_until

CALLS = 4
LEASE_S = 10.0
"""Half of what it is by default: the tests wait for its end."""


class Worker(Program):
    """A worker: the process that supervises, and those that make calls."""

    def __init__(self, name: str, folder: Path, options: list[str], env: dict[str, str]):
        self.data_dir = folder / f"{name}-data"
        command = ["-m", "runner.cli", "worker", "--name", name, "--data-dir", str(self.data_dir), *options]
        super().__init__(name, command, folder, env)

    def wait(self) -> None:
        self.says(rf"^worker {self.name}:")

    def has(self, store: Store) -> set[int]:
        """Return the runs that the record gave it, and that have not ended."""
        pids = {process.pid for process in self.processes()}
        return {run for run, executor in store.taken().items() if pid_of(executor) in pids}

    def state(self, store: Store) -> tuple[str, str]:
        """Return the id of its one process that makes calls, and what it says that it is ready for."""
        pids = {process.pid for process in self.processes()}
        rows = store.rows("SELECT executor, state FROM workers ORDER BY started_at DESC")
        return next(((row.executor, row.state) for row in rows if pid_of(row.executor) in pids), ("", ""))

    def holds(self) -> set[int]:
        """Return the runs whose reports wait on its disk."""
        return {int(path.parent.name.partition("-")[0]) for path in self.reports()}

    def reports(self) -> list[Path]:
        return list(self.data_dir.rglob("report.json"))

    def leavings(self) -> list[Path]:
        """Return what is on its disk of calls, be they under way, waiting or put aside."""
        return [path for path in (self.data_dir / "outbox").rglob("*") if path.is_file() and path.suffix != ".lock"]


class Cluster:
    def __init__(self, folder: Path, store: Store, env: Mapping[str, str] | None = None, *, audited: bool = True):
        self.folder = folder
        self.store = store
        self._audited = audited
        self.mark = secrets.token_hex(8)
        self.env = environment(
            self.mark,
            **{
                "SCENARIO_RUNNER_LOG_LEVEL": "INFO",
                "SCENARIO_RUNNER_SERVER__REQUESTS_PER_MINUTE": "100000",
                "SCENARIO_RUNNER_SERVER__LEASE_S": f"{LEASE_S:g}",
                **(env or {}),
            },
        )
        self.agent = Agent(folder, self.mark)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._where = ["--data-dir", str(folder / "data"), "--database-url", store.url]
        self.api = self._new_api("api", self.port)
        self.second_api: Program | None = None
        self.workers: list[Worker] = []
        self.secrets: list[str] = []
        self.worker_key = ""
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        assert self._client is not None, "the cluster is not started"
        return self._client

    def _new_api(self, name: str, port: int) -> Program:
        command = ["-m", "runner.cli", "serve", "--no-worker", "--port", str(port), *self._where]
        return Program(name, command, self.folder, self.env)

    def add_api(self) -> str:
        port = free_port()
        self.second_api = self._new_api("api2", port)
        self.second_api.start()
        self.second_api.says(r"^serving on ")
        return f"http://127.0.0.1:{port}"

    def start(self) -> None:
        """Start the API and the agent, on an empty database."""
        self.agent.start()
        self.api.start()
        key = self.api.says(r"^API key.* (psr_\S+)$")[1]
        self.api.says(r"^serving on ")
        if self._audited:
            self.store.audit()
        worker_key = subprocess.run(
            [sys.executable, "-m", "runner.cli", "keys", "create", "--kind", "worker", "--name", "w", *self._where],
            env=self.env,
            cwd=self.folder,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        assert worker_key.startswith("psw_")
        self.worker_key = worker_key
        self.secrets = [key, worker_key]
        self._client = Client(self.url, key, self.agent)

    def wait(self) -> None:
        for worker in self.workers:
            worker.wait()
        self.agent.wait()
        self.client.start_sessions_at(self.agent.start_url())

    def start_api(self) -> None:
        self.api.start()
        self.api.says(r"^serving on ")

    def add_worker(
        self,
        name: str,
        *,
        processes: int = 1,
        calls: int = CALLS,
        drain_s: float = 60.0,
        record_url: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Worker:
        """Start a worker; :meth:`Worker.wait` waits for it."""
        options = [
            *("--processes", str(processes), "--calls", str(calls), "--drain-limit", f"{drain_s:g}"),
            *("--record-url", record_url or self.url),
        ]
        own = {**self.env, "SCENARIO_RUNNER_WORKER__KEY": self.worker_key, **(env or {})}
        worker = Worker(name, self.folder, options, own)
        self.workers.append(worker)
        worker.start()
        return worker

    @property
    def programs(self) -> list[Program]:
        apis = [self.api, *([] if self.second_api is None else [self.second_api])]
        return [*self.workers, *apis, self.agent.program]

    def stop(self) -> None:
        """Stop what runs, in good order."""
        workers = [worker for worker in self.workers if worker.is_running]
        for worker in workers:
            worker.terminate()
        for program in workers:
            assert program.ends() == 0, f"{program.name} ended with {program.ends()}: {program.tail()}"
        for api in (self.api, self.second_api):
            assert api is None or api.stop() == 0, api.tail()
        self.agent.program.stop()
        wait_until(
            lambda: not marked(self.mark),
            lambda: f"nobody is left: {[' '.join(process.cmdline()) for process in marked(self.mark)]}",
            timeout_s=5,
        )

    def kill(self) -> None:
        """Kill what there is, whatever its state."""
        for program in self.programs:
            program.thaw()
            program.kill()
        for process in marked(self.mark):
            process.kill()
        if self._client is not None:
            self._client.close()


@contextmanager
def cluster(
    kind: str, folder: Path, env: Mapping[str, str] | None = None, *, audited: bool = True
) -> Generator[Cluster]:
    """Yield a deployment with its API and its agent, and no worker yet; nothing of it outlives the context."""
    with new_store(kind, folder) as store:
        made = Cluster(folder, store, env, audited=audited)
        try:
            made.start()
            yield made
        finally:
            made.kill()
