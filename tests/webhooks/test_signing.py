"""Signatures of webhooks."""

import base64
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from runner.webhooks.signing import headers, signature, signing_key

# The reference vector of Standard Webhooks.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP_S = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_signature_is_that_of_the_standard() -> None:
    assert signature(SECRET, MESSAGE_ID, TIMESTAMP_S, BODY) == SIGNATURE


@pytest.mark.parametrize("change", [{"message_id": "msg_other"}, {"timestamp_s": 1}, {"body": b"{}"}])
def test_a_signature_is_of_id_time_and_body(change: dict[str, object]) -> None:
    given: dict[str, object] = {"message_id": MESSAGE_ID, "timestamp_s": TIMESTAMP_S, "body": BODY, **change}
    assert signature(SECRET, **given) != SIGNATURE  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("secret", [SECRET, "a plain secret of ours"])
def test_what_is_sent_can_be_checked_with_a_library(secret: str) -> None:
    body = '{"name": "Grüße"}'.encode()
    sent = headers(secret, MESSAGE_ID, int(time.time()), body, "result_completed:1")
    assert Webhook(signing_key(secret)).verify(body, sent) == {"name": "Grüße"}
    with pytest.raises(WebhookVerificationError):
        Webhook(signing_key(secret)).verify(body + b" ", sent)


def test_a_secret_that_only_signs_is_not_sent() -> None:
    sent = headers(SECRET, MESSAGE_ID, TIMESTAMP_S, BODY, "result_completed:1")
    assert "X-CEKURA-SECRET" not in sent and SECRET not in str(sent)
    assert sent["X-CEKURA-IDEMPOTENCY-KEY"] == "result_completed:1"


def test_any_other_secret_goes_where_cekuras_receivers_look() -> None:
    assert headers("plain secret", MESSAGE_ID, TIMESTAMP_S, BODY, "k")["X-CEKURA-SECRET"] == "plain secret"


def test_without_a_secret_nothing_is_signed() -> None:
    assert "webhook-signature" not in headers(None, MESSAGE_ID, TIMESTAMP_S, BODY, "k")


@pytest.mark.parametrize(
    "secret", ["", "short", "x" * 201, "whsec_", "whsec_no base64", "whsec_" + base64.b64encode(b"x" * 23).decode()]
)
def test_what_is_no_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="must "):
        signing_key(secret)
