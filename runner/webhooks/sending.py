"""Sends webhooks: to hosts that the settings allow, at the addresses that were checked, and following no redirect."""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

import anyio
import httpx

from runner.errors import UsageError
from runner.hosts import Address, HostRefused, HostRules, HostUnknown, Resolve, host_of, resolve
from runner.settings import ServerSettings

MAX_URL_CHARACTERS = 2_000

_SETTING = "server.allowed_webhooks"


@dataclass(frozen=True)
class Sent:
    """What came of sending a message once.

    Attributes:
        status_code: The HTTP status that was answered; None where none was.
        error: Why it did not arrive; empty where it did.
        duration_ms: How long it took.
        again: Whether it is worth trying again.
    """

    status_code: int | None
    error: str
    duration_ms: float
    again: bool = True

    @property
    def arrived(self) -> bool:
        """Whether the receiver has it."""
        return not self.error


class Sender:
    """Sends messages.

    A host is looked up once for each message. All its addresses must be allowed; they are connected to as they are,
    and the certificate is checked against the host's name.

    Args:
        settings: Name the hosts that are allowed.
        resolve: Returns the addresses of a name.
    """

    def __init__(self, settings: ServerSettings, resolve: Resolve = resolve):
        self._rules = HostRules(settings.allowed_webhooks, allow_loopback=settings.allow_loopback, setting=_SETTING)
        self._resolve = resolve

    async def check(self, url: str) -> None:
        """Refuse an address that nothing may be sent to.

        Raises:
            UsageError: It is no address to send to.
            HostRefused: It is one that must not be used.
        """
        check_url(url)
        await self._addresses(url)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float) -> Sent:
        """Send a message, and return what came of it.

        Args:
            url: Where to.
            headers: What goes before it.
            body: The message.
            timeout_s: How long it may take until the answer begins.
        """
        began_s = time.monotonic()
        status: int | None = None
        error, again = "", True
        try:
            with anyio.fail_after(timeout_s):
                status = await self._post(url, headers, body)
            if status // 100 != 2:
                error = _refusal(status)
                # 410: the receiver wants no more of these.
                again = status != 410
        except (HostRefused, UsageError) as refused:
            error, again = str(refused), isinstance(refused, HostUnknown)
        except TimeoutError:
            error = f"no answer within {timeout_s:g} s"
        except httpx.HTTPError as failed:
            # What it says itself can quote the address, which may be a secret.
            error = f"the receiver can't be reached ({type(failed).__name__})"
        return Sent(status, error, round((time.monotonic() - began_s) * 1_000, 1), again)

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        check_url(url)
        addresses = await self._addresses(url)
        if not addresses:
            raise httpx.ConnectError("the name has no address")
        parts = urlsplit(url)
        async with httpx.AsyncClient(verify=self._certificates, trust_env=False, timeout=None) as http:  # noqa: S113 - the caller limits it
            for address in addresses:
                request = http.build_request(
                    "POST",
                    httpx.URL(url).copy_with(host=str(address)),
                    headers={**headers, "Host": parts.netloc},
                    content=body,
                    extensions={"sni_hostname": host_of(url)},
                )
                try:
                    answer = await http.send(request, stream=True, follow_redirects=False)
                except httpx.ConnectError:
                    if address == addresses[-1]:
                        raise
                    continue
                await answer.aclose()
                return answer.status_code
        raise AssertionError("unreachable")

    async def _addresses(self, url: str) -> list[Address]:
        host = host_of(url)
        if host is None:
            raise UsageError("webhook URL: names no host")
        addresses = await self._rules.addresses(host, self._resolve)
        if urlsplit(url).scheme == "http" and any(address.is_global for address in addresses):
            raise UsageError("webhook URL: must begin with https://; without it whoever is in between reads along")
        return addresses

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()


def check_url(url: str) -> None:
    """Refuse what is no address to send to.

    Raises:
        UsageError: It is none.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise UsageError(f"webhook URL: has more than {MAX_URL_CHARACTERS} characters")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError("webhook URL: holds white space, or letters that are not ASCII")
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        raise UsageError("webhook URL: its host or port is not written as a URL has it") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError("webhook URL: must begin with https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise UsageError("webhook URL: holds a user name or password; give a webhook_secret instead")


def _refusal(status: int) -> str:
    if status // 100 == 3:
        return f"the receiver answered {status}; redirects are not followed"
    return f"the receiver answered {status}"
