"""Which rooms may be opened."""

import pytest

from runner.errors import UsageError
from runner.rooms.allowed import RoomGuard, RoomRefused
from runner.rooms.urls import RoomKind
from runner.settings import RoomSettings, ServerSettings, Settings

pytestmark = pytest.mark.anyio

OFFER = "/api/offer"


class Names:
    """A resolver with a table, which counts what it is asked."""

    def __init__(self, **addresses: list[str]):
        self.table = {name.replace("_", "."): found for name, found in addresses.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        return self.table.get(host, [])


def guard(names: Names | None = None, **server: object) -> RoomGuard:
    settings = Settings(
        server=ServerSettings.model_validate(server), room=RoomSettings(daily_domains=["calls.acme.com"])
    )
    return RoomGuard(settings, names or Names())


async def refusal(checked: RoomGuard, url: str) -> str:
    with pytest.raises(RoomRefused) as caught:
        await checked.check_room(url)
    return str(caught.value)


async def test_daily_rooms_are_allowed_by_default() -> None:
    names = Names(acme_daily_co=["52.1.2.3", "2600:1f18::1"])
    assert await guard(names).check_room("https://acme.daily.co/r1") is RoomKind.DAILY


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example.com/api/offer",
        "https://daily.co.evil.example.com/api/offer",
        "https://xdaily.co/api/offer",
        "https://calls.acme.com/r1",
        "http://10.1.2.3/api/offer",
        "http://8.8.8.8/api/offer",
    ],
)
async def test_a_forbidden_host_is_refused_with_the_setting_to_change(url: str) -> None:
    assert "server.allowed_rooms" in await refusal(guard(), url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:7860",
        "localhost:7860",
        "bot.localhost",
        "LOCALHOST.",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ],
)
async def test_this_machine_is_refused_in_any_form_unless_allowed(host: str) -> None:
    url = f"http://{host}{OFFER}"
    assert "server.allow_loopback" in await refusal(guard(allowed_rooms=["*.daily.co"]), url)
    assert await guard(allow_loopback=True).check_room(url) is RoomKind.SMALLWEBRTC


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.5",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a00:5::1",
    ],
)
async def test_an_allowed_name_at_a_private_address_is_refused(address: str) -> None:
    names = Names(bots_acme_com=["93.184.216.34", address])
    message = await refusal(guard(names, allowed_rooms=["*.acme.com"]), "https://bots.acme.com/api/offer")
    assert "no public address" in message and "server.allowed_rooms" in message


async def test_an_allowed_name_at_this_machine_needs_the_setting() -> None:
    names = Names(bots_acme_com=["127.0.0.1"])
    message = await refusal(guard(names, allowed_rooms=["bots.acme.com"]), "https://bots.acme.com/api/offer")
    assert "server.allow_loopback" in message


@pytest.mark.parametrize("allowed", ["10.0.0.0/8", "10.0.0.5", "10.0.0.5/8"])
async def test_an_allowed_network_covers_numbers_and_names(allowed: str) -> None:
    names = Names(bot_internal=["10.0.0.5"], both_internal=["10.0.0.5", "11.0.0.5"])
    checked = guard(names, allowed_rooms=[allowed])
    assert await checked.check_room("http://10.0.0.5/api/offer") is RoomKind.SMALLWEBRTC
    assert await checked.check_room("http://bot.internal/api/offer") is RoomKind.SMALLWEBRTC
    await refusal(checked, "http://both.internal/api/offer")
    await refusal(checked, "http://unknown.internal/api/offer")


async def test_a_pattern_stands_for_what_is_below_it_alone() -> None:
    names = Names(bots_acme_com=["93.184.216.34"], acme_com=["93.184.216.34"])
    checked = guard(names, allowed_rooms=["*.Acme.com"])
    assert await checked.check_room("https://BOTS.acme.com/api/offer") is RoomKind.SMALLWEBRTC
    await refusal(checked, "https://acme.com/api/offer")


async def test_an_allowed_name_without_an_address_is_left_to_the_call() -> None:
    assert await guard().check_room("https://acme.daily.co/r1") is RoomKind.DAILY


async def test_a_name_is_asked_for_once_however_often_it_stands_there() -> None:
    names = Names(acme_daily_co=["52.1.2.3"])
    checked = guard(names)
    urls = [f"https://acme.daily.co/r{n}" for n in range(100)]
    await checked.look_up([*urls, "http://[broken", "no url"])
    for url in urls:
        await checked.check_room(url)
    assert names.asked == ["acme.daily.co"]


async def test_what_is_no_room_is_told_apart_from_what_is_not_allowed() -> None:
    for url in ["ftp://acme.daily.co/r1", "https://acme.daily.co", "https://u:p@acme.daily.co/r", "http://a b/"]:
        with pytest.raises(UsageError) as caught:
            await guard().check_room(url)
        assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "stun:stun.acme.com:3478",
        "turns:stun.acme.com?transport=tcp",
        "turn:10.1.2.3",
        "stun:[fd00::7]:3478",
    ],
)
async def test_an_ice_server_on_the_list_may_be_asked(url: str) -> None:
    names = Names(stun_acme_com=["52.1.2.3"])
    await guard(names, allowed_rooms=["*.acme.com", "10.0.0.0/8", "fd00::/8"]).check_ice_server(url)


@pytest.mark.parametrize(
    "url",
    [
        "stun:stun.l.google.com:19302",
        "turn:169.254.169.254:80?transport=tcp",
        "turn:127.0.0.1:6379?transport=tcp",
        "stun:localhost",
        "turns:[::1]:443",
        "stun:inside.daily.co",
    ],
)
async def test_an_ice_server_off_the_list_is_refused_with_the_setting(url: str) -> None:
    with pytest.raises(RoomRefused, match=r"server\.allow"):
        await guard(Names(inside_daily_co=["10.1.2.3"])).check_ice_server(url)


@pytest.mark.parametrize(
    "url",
    [
        "stun:",
        "turn:?transport=tcp",
        "turn:10.0.0.1#@x.daily.co",
        "turn:x.daily.co@10.0.0.1",
        "turn:10.0.0.1\\@x.daily.co",
        "turn:x.daily.co:80:90",
    ],
)
async def test_an_ice_server_that_two_could_read_in_two_ways_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="no host that can be checked"):
        await guard(Names(x_daily_co=["52.1.2.3"])).check_ice_server(url)


async def test_start_urls_are_held_to_the_same_list() -> None:
    await guard().check_start_url("https://api.pipecat.daily.co/v1/public/bot/start")
    with pytest.raises(RoomRefused):
        await guard().check_start_url("http://169.254.169.254/latest/start")
    with pytest.raises(UsageError):
        await guard().check_start_url("https://api.pipecat.daily.co")
