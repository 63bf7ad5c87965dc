"""Signatures of webhooks, as Standard Webhooks 1.0.0 has them (https://www.standardwebhooks.com)."""

import base64
import binascii
from datetime import UTC, datetime

from standardwebhooks import Webhook

SIGNING_PREFIX = "whsec_"
"""How a secret begins that only signs: 24 to 64 bytes in base64 follow."""

MIN_KEY_BYTES, MAX_KEY_BYTES = 24, 64
"""How long a signing key may be."""

MIN_SECRET_CHARACTERS, MAX_SECRET_CHARACTERS = 8, 200


def signing_key(secret: str) -> bytes:
    """Return the key that a secret stands for.

    Args:
        secret: ``whsec_`` and base64, or any other text: then the key is its UTF-8 bytes.

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
    """Return the ``webhook-signature`` of a message: HMAC-SHA256 over its id, its time and its body.

    Args:
        secret: As for :func:`signing_key`.
        message_id: The ``webhook-id``.
        timestamp_s: The ``webhook-timestamp``, in seconds since 1970.
        body: What is sent: a text in UTF-8.

    Raises:
        ValueError: The secret is none.
    """
    at = datetime.fromtimestamp(timestamp_s, UTC)
    return Webhook(signing_key(secret)).sign(message_id, at, body.decode())


def headers(
    secret: str | None, message_id: str, timestamp_s: int, body: bytes, idempotency_key: str
) -> dict[str, str]:
    """Return the headers of a message.

    A secret that only signs is not sent. Any other goes along in ``X-CEKURA-SECRET``, where receivers made for Cekura
    look for it.

    Args:
        secret: As for :func:`signing_key`; None sends the message unsigned.
        message_id: The ``webhook-id``.
        timestamp_s: When it is sent, in seconds since 1970.
        body: What is sent.
        idempotency_key: The same whenever this event is sent.
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
