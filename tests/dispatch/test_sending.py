"""Where webhooks may be sent, and how."""

import base64
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from standardwebhooks import Webhook, WebhookVerificationError

from runner.dispatch.sending import Sender, headers, signature, signing_key
from runner.errors import UsageError
from runner.hosts import HostRefused
from runner.records.deliveries import Sent
from runner.settings import ServerSettings
from tests.doubles.receiver import Answer, Receiver, answers, receiving

pytestmark = pytest.mark.anyio
NAME = "hooks.example.com"
PUBLIC = "93.184.215.14"


class Names:
    """Looks names up: each time with the next of these addresses, and then always with the last ones."""

    def __init__(self, *found: list[str]):
        self._found = list(found)
        self.asked = 0

    async def __call__(self, host: str) -> list[str]:
        self.asked += 1
        return self._found.pop(0) if len(self._found) > 1 else self._found[0]


def sender(names: Names | None = None, *allowed: str, loopback: bool = True) -> Sender:
    settings = ServerSettings(allowed_webhooks=list(allowed or (NAME,)), allow_loopback=loopback)
    return Sender(settings, names or Names(["127.0.0.1"]))


async def send(to: Sender, url: str, timeout_s: float = 5) -> Sent:
    return await to.send(url, {"webhook-id": "msg_1"}, b"{}", timeout_s=timeout_s)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


async def test_a_message_arrives_as_it_is(receiver: Receiver) -> None:
    sent = await send(sender(), receiver.url("/a/b?c=d", host=NAME))
    assert (sent.arrived, sent.status_code, sent.error) == (True, 200, "") and sent.duration_ms > 0
    [one] = receiver.received
    assert (one.path, one.content, one.headers["webhook-id"]) == ("/a/b?c=d", b"{}", "msg_1")
    assert one.headers["host"] == f"{NAME}:{receiver.port}"


async def test_a_host_is_looked_up_once_for_a_message(receiver: Receiver) -> None:
    # What a name server says the second time does not matter: it is not asked.
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    assert (await send(sender(names), receiver.url(host=NAME))).arrived
    assert names.asked == 1


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (["10.0.0.5"], "no public address"),
        (["169.254.169.254"], "no public address"),
        ([PUBLIC, "192.168.1.1"], "no public address"),
        (["::ffff:10.0.0.5"], "no public address"),
        (["fd00::1"], "no public address"),
        (["127.0.0.1"], "this machine itself"),
    ],
)
async def test_a_name_that_leads_inside_is_refused(found: list[str], why: str) -> None:
    sent = await send(sender(Names(found), loopback=False), f"https://{NAME}/hook")
    assert not sent.arrived and not sent.again and why in sent.error


@pytest.mark.parametrize("host", ["other.example.com", "10.0.0.5", "[::1]", "2130706433", PUBLIC])
async def test_a_host_that_is_not_allowed_is_refused(host: str) -> None:
    with pytest.raises(HostRefused, match=r"server\.allow"):
        await sender(Names([PUBLIC]), loopback=False).check(f"https://{host}/hook")


async def test_an_address_is_allowed_by_its_network(receiver: Receiver) -> None:
    assert (await send(sender(None, "127.0.0.0/8", loopback=False), receiver.url())).arrived


async def test_a_name_server_that_is_away_is_tried_again() -> None:
    by_network = sender(Names([]), "10.0.0.0/8")
    sent = await send(by_network, "https://inside.example.com/hook")
    assert sent.again and "inside.example.com has no address" in sent.error
    with pytest.raises(HostRefused):
        await by_network.check("https://inside.example.com/hook")


async def test_without_tls_nothing_leaves_for_the_internet() -> None:
    await sender(Names([PUBLIC])).check(f"https://{NAME}/hook")
    with pytest.raises(UsageError, match="https://"):
        await sender(Names([PUBLIC])).check(f"http://{NAME}/hook")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hook",
        "ftp://hooks.example.com/",
        "https://",
        "https://user:pw@hooks.example.com/",
        "https://[::1/",
        "https://h:x/",
        "https://hooks.example.com/a b",
        "https://hooks.example.com/ä",
        "https://hooks.example.com/" + "x" * 2_000,
    ],
)
async def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        await sender().check(url)
    assert str(refused.value).startswith("webhook URL: ") and "pw" not in str(refused.value)


async def test_a_redirect_is_not_followed() -> None:
    with receiving() as elsewhere:
        to = Answer(302, {"Location": elsewhere.url()})
        with receiving(lambda _: to) as receiver:
            sent = await send(sender(), receiver.url(host=NAME))
    assert not sent.arrived and sent.again and "302" in sent.error and "redirects" in sent.error
    assert not elsewhere.received


@pytest.mark.parametrize(("status", "again"), [(500, True), (404, True), (429, True), (410, False)])
async def test_what_is_refused_is_sent_again_unless_it_is_gone(status: int, again: bool) -> None:
    with receiving(answers(status)) as receiver:
        sent = await send(sender(), receiver.url(host=NAME))
    assert (sent.status_code, sent.again, sent.error) == (status, again, f"the receiver answered {status}")


async def test_a_receiver_that_does_not_answer_is_waited_for_no_longer() -> None:
    with receiving(answers(None)) as receiver:
        began_s = time.monotonic()
        sent = await send(sender(), receiver.url(host=NAME), timeout_s=0.3)
    assert sent.error == "no answer within 0.3 s" and time.monotonic() - began_s < 3


async def test_a_receiver_that_is_away_is_named_without_its_address() -> None:
    sent = await send(sender(), f"http://{NAME}:1/secret-path")
    assert sent.again and sent.error == "the receiver can't be reached (ConnectError)"


async def test_another_address_is_tried_where_one_is_away(receiver: Receiver) -> None:
    names = Names(["127.0.0.2", "127.0.0.1"])
    assert (await send(sender(names), receiver.url(host=NAME))).arrived


@pytest.mark.parametrize(("certified", "arrives"), [(NAME, True), ("other.example.com", False)])
async def test_the_certificate_is_checked_against_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certified: str, arrives: bool
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(certified).configure_cert(tls)
    with receiving(tls=tls) as receiver:
        sent = await send(sender(), receiver.url(host=NAME, scheme="https"))
    assert sent.arrived is arrives, sent
    assert len(receiver.received) == int(arrives)


# Signatures.

# The reference vector of Standard Webhooks.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP_S = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_a_signature_is_that_of_the_standard() -> None:
    assert signature(SECRET, MESSAGE_ID, TIMESTAMP_S, BODY) == SIGNATURE


@pytest.mark.parametrize("change", [{"message_id": "msg_other"}, {"timestamp_s": 1}, {"body": b"{}"}])
async def test_a_signature_is_of_id_time_and_body(change: dict[str, object]) -> None:
    given: dict[str, object] = {"message_id": MESSAGE_ID, "timestamp_s": TIMESTAMP_S, "body": BODY, **change}
    assert signature(SECRET, **given) != SIGNATURE  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("secret", [SECRET, "a plain secret of ours"])
async def test_what_is_sent_can_be_checked_with_a_library(secret: str) -> None:
    body = '{"name": "Grüße"}'.encode()
    sent = headers(secret, MESSAGE_ID, int(time.time()), body, "result_completed:1")
    assert Webhook(signing_key(secret)).verify(body, sent) == {"name": "Grüße"}
    with pytest.raises(WebhookVerificationError):
        Webhook(signing_key(secret)).verify(body + b" ", sent)


async def test_a_secret_that_only_signs_is_not_sent() -> None:
    sent = headers(SECRET, MESSAGE_ID, TIMESTAMP_S, BODY, "result_completed:1")
    assert "X-CEKURA-SECRET" not in sent and SECRET not in str(sent)
    assert sent["X-CEKURA-IDEMPOTENCY-KEY"] == "result_completed:1"


async def test_any_other_secret_goes_where_cekuras_receivers_look() -> None:
    assert headers("plain secret", MESSAGE_ID, TIMESTAMP_S, BODY, "k")["X-CEKURA-SECRET"] == "plain secret"


async def test_without_a_secret_nothing_is_signed() -> None:
    assert "webhook-signature" not in headers(None, MESSAGE_ID, TIMESTAMP_S, BODY, "k")


@pytest.mark.parametrize(
    "secret", ["", "short", "x" * 201, "whsec_", "whsec_no base64", "whsec_" + base64.b64encode(b"x" * 23).decode()]
)
async def test_what_is_no_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="must "):
        signing_key(secret)
