"""Daily rooms without Daily: the real daily-python, on this machine, in rooms that a test orders about."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import trustme

ROOT = Path(__file__).parents[2]
REDIRECT = Path(__file__).parent / "redirect"
DOMAIN_URL = "https://acme.daily.co"


@dataclass(frozen=True)
class DailyRooms:
    """The room server, as a test sees it.

    Attributes:
        proxy_url: Where daily-python is sent.
        authority: File with the certificate that vouches for it.
        api_url: Where its REST API and its orders are.
    """

    proxy_url: str
    authority: Path
    api_url: str

    def url(self, room: str) -> str:
        """Return a room's address; a room is there as soon as somebody asks for it."""
        return f"{DOMAIN_URL}/{room}"

    def environment(self) -> dict[str, str]:
        """Return what a process needs in its environment so that its daily-python comes here."""
        path = os.pathsep.join([str(REDIRECT), str(ROOT)])
        return {
            "PYTHONPATH": path,
            "TEST_DAILY_PROXY": self.proxy_url,
            "SSL_CERT_FILE": str(self.authority),
            "DAILY_API_URL": f"{self.api_url}/v1",
            "DAILY_API_KEY": "any",
        }

    def order(self, room: str, **orders: Any) -> None:
        """Give a room its orders: see ``Orders`` in the server."""
        httpx.patch(f"{self.api_url}/control/{room}", json=orders).raise_for_status()

    def act(self, room: str, verb: str, name: str | None = None) -> list[str]:
        """Do something to everybody in a room, or to one; return the names of those it was done to.

        Verbs: ``cut`` and ``mend`` (their packets), ``silence`` (their microphone), ``close`` (their websocket),
        ``drop`` (take them out), ``delete`` (the room).
        """
        query = {} if name is None else {"name": name}
        answer = httpx.post(f"{self.api_url}/control/{room}/{verb}", params=query)
        return answer.raise_for_status().json()["peers"]

    def state(self, room: str) -> dict[str, Any]:
        """Return who is in a room, what they send and receive, and every message that was sent there."""
        return httpx.get(f"{self.api_url}/control/{room}").raise_for_status().json()

    def check(self) -> None:
        """Fail if the library has said anything that the server does not know."""
        unknown = self.state("-")["unknown"]
        assert not unknown, f"daily-python said what the tests' room server does not know: {unknown}"


@contextmanager
def daily_rooms(folder: Path) -> Iterator[DailyRooms]:
    """Run the room server as a process of its own, with certificates of its own, kept in ``folder``."""
    authority_file, key_file, certificate_file = folder / "authority.pem", folder / "key.pem", folder / "server.pem"
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(authority_file))
    certificate.private_key_pem.write_to_path(str(key_file))
    certificate.cert_chain_pems[0].write_to_path(str(certificate_file))
    command = [sys.executable, "-m", "tests.daily_rooms.server", "--certificate", certificate_file, "--key", key_file]
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, (folder / "server.log").read_text()
            ports = json.loads(line)
            yield DailyRooms(
                f"https://localhost:{ports['https']}/", authority_file, f"http://127.0.0.1:{ports['http']}"
            )
        finally:
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def library_sent_to(rooms: DailyRooms) -> Iterator[None]:
    """Send the daily-python of this process to the room server for as long as the context is open."""
    import daily
    from pipecat.transports.daily import transport

    spec = importlib.util.spec_from_file_location("redirect", REDIRECT / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    real, trusted = daily.CallClient, os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(rooms.authority)
    module.redirect(daily, rooms.proxy_url)
    transport.CallClient = daily.CallClient  # type: ignore[misc]
    try:
        yield
    finally:
        daily.CallClient = transport.CallClient = real  # type: ignore[misc]
        del os.environ["SSL_CERT_FILE"]
        if trusted is not None:
            os.environ["SSL_CERT_FILE"] = trusted
