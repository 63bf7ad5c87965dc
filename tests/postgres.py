"""A real PostgreSQL for tests: one server a session, on a socket of its own, and a database for each test."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import psycopg
import pytest

WITHOUT = "TESTS_WITHOUT_POSTGRES"
USER = "runner"
_START_TIMEOUT_S = 30.0
_ROOM_BYTES = 1_000_000_000
_BY_SOCKET = ("listen_addresses=", "max_connections=200")
_FORGETFUL = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off")


class PostgresServer:
    """A PostgreSQL server that ends with this process.

    Args:
        binaries: The folder of ``initdb`` and ``postgres``.
        options: Its settings.
        survives_crashes: Whether it is as users have it, and still knows after :meth:`crash` what was committed.
    """

    def __init__(self, binaries: Path, options: Sequence[str] = _BY_SOCKET, *, survives_crashes: bool = False):
        # The name of a socket may have 107 bytes only: not below pytest's own folder.
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=_in_memory()))
        self._numbers = itertools.count(1)
        # It refuses to run as root.
        self._user = _unprivileged() if os.getuid() == 0 else None
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        data = self._folder / "data"
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self._user,
            cwd=self._folder,
            timeout=60,
        )
        options = [f"unix_socket_directories={self._folder}", *options, *(() if survives_crashes else _FORGETFUL)]
        self._command = [
            *ends_with_parent("INT"),
            binaries / "postgres",
            "-D",
            data,
            *(part for option in options for part in ("-c", option)),
        ]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self._user,
                cwd=self._folder,
                # In a group of its own: Ctrl-C is for the tests.
                process_group=0,
            )
        self._wait()

    def crash(self) -> None:
        """Stop it as ``pg_ctl stop -m immediate`` does: every connection breaks, and nothing is tidied up."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(timeout=20)

    @property
    def processes(self) -> list[psutil.Process]:
        """All of its processes."""
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def create(self, template: str = "template0") -> str:
        """Create a database and return its name.

        Args:
            template: The database that it is a copy of; nobody may be connected to it.
        """
        name = f"test_{next(self._numbers)}"
        # Copied file by file: that takes half of what PostgreSQL would take by itself.
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        self._run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        """Return the address of a database."""
        return f"postgresql://{USER}@/{name}?host={self._folder}"

    def stop(self) -> None:
        """Stop the server and delete what it kept."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                return self._run("SELECT 1")
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._folder / "log").read_text(errors="replace")
                    self.stop()
                    raise RuntimeError(f"PostgreSQL does not start: {log}") from None
                time.sleep(0.05)


def postgres_binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs, of the latest version that is installed."""
    debian = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if debian:
        return max(debian, key=lambda folder: int(folder.parent.name))
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The session's server. Tests that need it fail where there is none, unless they are told to do without."""
    binaries = postgres_binaries()
    if binaries is None:
        if os.environ.get(WITHOUT):
            pytest.skip(f"{WITHOUT} is set")
        pytest.fail(
            f"there is no PostgreSQL; run: sudo apt-get install postgresql (or set {WITHOUT}=1)", pytrace=False
        )
    server = PostgresServer(binaries)
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of a database that holds nothing yet."""
    name = postgres_server.create()
    yield postgres_server.url(name)
    postgres_server.drop(name)


def _in_memory() -> Path | None:
    """Return a folder that is no disk, if there is room: every new database is written whole."""
    folder = Path("/dev/shm")
    roomy = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > _ROOM_BYTES
    return folder if roomy else None


def _unprivileged() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def ends_with_parent(signal_name: str) -> list[str]:
    """Return what has the system send a command a signal when the tests end, whatever ends them."""
    return ["setpriv", "--pdeathsig", signal_name] if shutil.which("setpriv") else []
