"""Sends webhooks: to hosts that the settings allow, at the addresses that were checked, and following no redirect.

They are signed as Standard Webhooks 1.0.0 has it (https://www.standardwebhooks.com).
"""

import base64
import binascii
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from urllib.parse import urlsplit

import anyio
import httpx
from standardwebhooks import Webhook

from runner.errors import UsageError
from runner.hosts import Address, HostRefused, HostRules, HostUnknown, Resolve, host_of, resolve
from runner.records.deliveries import Sent
from runner.settings import ServerSettings

MAX_URL_CHARACTERS = 2_000

SIGNING_PREFIX = "whsec_"
"""How a secret begins that only signs: base64 of the key follows."""

MIN_KEY_BYTES, MAX_KEY_BYTES = 24, 64
MIN_SECRET_CHARACTERS, MAX_SECRET_CHARACTERS = 8, 200

_SETTING = "server.allowed_webhooks"


class Sender:
    """Sends messages.

    A host is looked up once for each message, by ``resolve``. All its addresses must be allowed; they are connected
    to as they are, and the certificate is checked against the host's name.
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
        _check_url(url)
        await self._addresses(url)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float) -> Sent:
        """Send a message, and return what came of it. The answer must begin within the timeout."""
        began_s = time.monotonic()
        status: int | None = None
        error, again = "", True
        try:
            with anyio.fail_after(timeout_s):
                status = await self._post(url, headers, body)
            if status // 100 != 2:
                error = f"the receiver answered {status}"
                if status // 100 == 3:
                    error += "; redirects are not followed"
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
        _check_url(url)
        addresses = await self._addresses(url)
        if not addresses:
            raise httpx.ConnectError("the name has no address")
        async with httpx.AsyncClient(verify=self._certificates, trust_env=False, timeout=None) as http:  # noqa: S113 - the caller limits it
            for address in addresses:
                request = http.build_request(
                    "POST",
                    httpx.URL(url).copy_with(host=str(address)),
                    headers={**headers, "Host": urlsplit(url).netloc},
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


def _check_url(url: str) -> None:
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


def signing_key(secret: str) -> bytes:
    """Return the key that a secret stands for: ``whsec_`` and base64, or any other text: then its UTF-8 bytes.

    Raises:
        ValueError: It is no secret; says what one is.
    """
    if not secret.startswith(SIGNING_PREFIX):
        if not MIN_SECRET_CHARACTERS <= len(secret) <= MAX_SECRET_CHARACTERS:
            raise ValueError(f"must have {MIN_SECRET_CHARACTERS} to {MAX_SECRET_CHARACTERS} characters")
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(SIGNING_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise ValueError(f"must be {SIGNING_PREFIX} and {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes in base64")
    return key


def signature(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the ``webhook-signature`` of a message: HMAC-SHA256 over its id, its time since 1970 and its body."""
    return Webhook(signing_key(secret)).sign(message_id, datetime.fromtimestamp(timestamp_s, UTC), body.decode())


def headers(
    secret: str | None, message_id: str, timestamp_s: int, body: bytes, idempotency_key: str
) -> dict[str, str]:
    """Return the headers of a message; without a secret it is unsigned.

    A secret that only signs is not sent. Any other goes along in ``X-CEKURA-SECRET``, where receivers made for Cekura
    look for it.
    """
    found = {
        "Content-Type": "application/json",
        "User-Agent": "pipecat-scenario-runner",
        "X-CEKURA-IDEMPOTENCY-KEY": idempotency_key,
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
    }
    if secret is not None:
        found["webhook-signature"] = signature(secret, message_id, timestamp_s, body)
        if not secret.startswith(SIGNING_PREFIX):
            found["X-CEKURA-SECRET"] = secret
    return found
