"""What is masked within texts, and what is secret in data by its name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from bots.masking import (
    MASK,
    MAX_DEPTH,
    SURE_CHARACTERS,
    is_secret_name,
    masked,
    masked_within,
    redacted,
    secrets_within,
)

LONG = "psw_0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "secret", "shown"),
    [
        ("the outbox is full", "x", "the outbox is full"),
        ("x: refused", "x", "***: refused"),
        ("don't", "t", "don't"),
        ("no 't' here", "t", "no '***' here"),
        ("a tokenizer, a token", "token", "a tokenizer, a ***"),
        ("Bearer t0ken99, token=t0ken99&a=1", "t0ken99", "Bearer ***, token=***&a=1"),
        ("my_t0ken99 t0ken999", "t0ken99", "my_t0ken99 t0ken999"),
        # In the form of other languages: the letters of an escape are none of the word.
        (r"{\"a\": \"t0ken99\"} a\nt0ken99 \u0022t0ken99", "t0ken99", r"{\"a\": \"***\"} a\n*** \u0022***"),
        ("?q=%22t0ken99%22", "t0ken99", "?q=%22***%22"),
        # What is as long as this is nowhere by chance.
        (f"key{LONG}2", LONG, "key***2"),
        ("a+b(c)", "a+b(c)", "***"),
        ("nothing", "", "nothing"),
    ],
)
def test_a_secret_is_masked_as_a_word_or_anywhere_if_long(text: str, secret: str, shown: str) -> None:
    assert masked(text, [secret]) == shown


def test_several_secrets_are_masked_at_once_the_longest_first() -> None:
    assert masked("abc abc-def", ["abc", SecretStr("abc-def"), None, "*", "abc"]) == "*** ***"


@given(
    st.text(alphabet="ab1_-%\\ ", max_size=20), st.text(alphabet="ab1", min_size=SURE_CHARACTERS), st.text(max_size=9)
)
def test_a_long_secret_is_never_left(before: str, secret: str, after: str) -> None:
    assert secret not in masked(before + secret + after, [secret])


@pytest.mark.parametrize(
    "name",
    [
        *(
            "token",
            "Tokens",
            "api_key",
            "apiKey",
            "APIKey",
            "X-API-Key",
            "apikey",
            "key",
            "accessToken2",
            "OAuthToken",
        ),
        *(
            "authorization",
            "Authorization",
            "db.password",
            "PASSWORD",
            "client secret",
            "credentials",
            "pin",
            "userPIN",
        ),
    ],
)
def test_a_name_that_has_a_secret_word_is_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["", "type", "keyboard", "monkey", "author", "tokenizer", "secretary", "pinned", "name", "shipping"]
)
def test_a_name_that_merely_holds_the_letters_is_not(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize("name", ["ssn", "user_ssn", "SSN", "userSSN", "cardNumber", "CARD-NUMBER", "card number"])
def test_further_names_count_as_whole_words(name: str) -> None:
    assert is_secret_name(name, ["ssn", "card number"])
    assert not is_secret_name(name)
    assert not is_secret_name("numbers of cards", ["ssn", "card number"])


MESSAGE: dict[str, Any] = {
    "type": "hello",
    "user": {"name": "Zoë", "api_key": "k-1", "tokens": ["t-1", {"deep": 7}], "password": None, "auth": True},
    "list": [{"pin": 1234}, "token"],
    "secret": "",
}


def test_what_stands_under_secret_names_is_not_shown() -> None:
    before = repr(MESSAGE)
    assert redacted(MESSAGE) == {
        "type": "hello",
        "user": {"name": "Zoë", "api_key": MASK, "tokens": MASK, "password": None, "auth": True},
        "list": [{"pin": MASK}, "token"],
        "secret": "",
    }
    assert repr(MESSAGE) == before
    assert redacted(redacted(MESSAGE)) == redacted(MESSAGE)
    assert redacted({"name": "Zoë", "nick": "Z"}, ["name"]) == {"name": MASK, "nick": "Z"}
    assert redacted("a text") == "a text"


@pytest.mark.parametrize("message", [MESSAGE, "a text", 5, [1], False])
def test_a_star_stands_for_the_whole_message(message: Any) -> None:
    assert redacted(message, ["*"]) == MASK


def test_what_is_nested_beyond_measure_is_not_shown() -> None:
    deep: Any = {"token": "t"}
    for _ in range(5_000):
        deep = [deep]
    assert repr(redacted(deep)).count(MASK) == 1
    assert secrets_within(deep) == frozenset()
    fits: Any = {"a": 1}
    for _ in range(MAX_DEPTH - 2):
        fits = [fits]
    assert redacted(fits) == fits


def test_a_messages_secrets_are_known_again_in_what_comes_back() -> None:
    secrets = secrets_within(MESSAGE)
    assert secrets == {"k-1", "t-1", "7", "1234"}
    assert secrets_within({"name": "Zoë"}, ["name", "*"]) == {"Zoë"}
    echo = {"said": ["you sent k-1", {"PIN": "1234"}], "count": 7, "name": "k-12"}
    assert masked_within(echo, secrets) == {"said": ["you sent ***", {"PIN": "***"}], "count": 7, "name": "k-12"}
