"""What must not be shown: secrets within texts, and in data what stands under a name that says it is secret."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, cast

from pydantic import SecretStr

MASK = "***"

SURE_CHARACTERS = 16
"""A secret at least so long stands nowhere by chance: it is masked in the middle of a word too."""

SECRET_WORDS = frozenset(
    {
        *("apikey", "auth", "authorization", "bearer", "cookie", "credential", "jwt", "key", "otp", "passcode"),
        *("passphrase", "passwd", "password", "pin", "pwd", "secret", "token"),
    }
)
"""A name that has one of these among its words is that of a secret: ``api_key``, ``accessToken``, ``X-Auth``."""

EVERYTHING = "*"
"""In place of a name: nothing of a message is shown."""

MAX_DEPTH = 50
"""What is nested deeper is not shown."""

# A letter of an escape is none of the word that follows it: `%20t0ken`, `\nt0ken`.
_BEGINS = r"(?:(?<!\w)(?<!\w['’])|(?<=%[0-9A-Fa-f]{2})|(?<=\\[bfnrt])|(?<=\\u[0-9A-Fa-f]{4}))"
_ENDS = r"(?!\w)(?!['’]\w)"
_BETWEEN_WORDS = re.compile(
    r"[\W_]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])"
)


def masked(text: str, secrets: Iterable[str | SecretStr | None]) -> str:
    """Return a text with ``***`` in place of secrets; None and empty ones are passed over.

    A secret of fewer than :data:`SURE_CHARACTERS` is masked where it stands as a word of its own: ``box`` is not
    within ``outbox``.
    """
    plain = {secret.get_secret_value() if isinstance(secret, SecretStr) else secret for secret in secrets}
    # The longest first: one may hold another.
    patterns = [_pattern(secret) for secret in sorted(filter(None, plain), key=len, reverse=True)]
    return re.sub("|".join(patterns), MASK, text) if patterns else text


def redacted(message: Any, names: Iterable[str] = ()) -> Any:
    """Return a JSON value with ``***`` in place of what stands under secret names, at any depth.

    Null, true, false and empty texts stay: they tell no secret. ``names`` are further ones, or :data:`EVERYTHING`.
    """
    further = frozenset(names)
    return MASK if EVERYTHING in further else _redacted(message, further, MAX_DEPTH)


def secrets_within(message: Any, names: Iterable[str] = ()) -> frozenset[str]:
    """Return the texts and numbers that stand under secret names in a JSON value; ``names`` are further ones."""
    return frozenset(_secrets(message, frozenset(names) - {EVERYTHING}, MAX_DEPTH, is_secret=False))


def masked_within(value: Any, secrets: Iterable[str]) -> Any:
    """Return a JSON value in whose texts secrets are masked; what is nested too deep is not shown."""
    return _masked_within(value, frozenset(secrets), MAX_DEPTH)


def is_secret_name(name: str, names: Iterable[str] = ()) -> bool:
    """Return whether a name says that what it names is secret, by its words and whatever their case.

    Of further ``names`` ``ssn`` holds for ``user_ssn`` and ``userSSN``, ``card number`` for ``cardNumber``.
    """
    words = words_of(name)
    if any(word in SECRET_WORDS or word.removesuffix("s") in SECRET_WORDS for word in words):
        return True
    whole = _joined(words)
    return any(_joined(words_of(further)) in whole for further in names)


def words_of(name: str) -> list[str]:
    """Return the words of a name, in lower case: ``apiKey2`` has ``api``, ``key`` and ``2``."""
    return [word.casefold() for word in _BETWEEN_WORDS.split(name) if word]


def _joined(words: list[str]) -> str:
    return f" {' '.join(words)} "


def _pattern(secret: str) -> str:
    exact = re.escape(secret)
    return exact if len(secret) >= SURE_CHARACTERS else f"{_BEGINS}{exact}{_ENDS}"


def _redacted(value: Any, names: frozenset[str], depth: int) -> Any:
    if isinstance(value, dict | list) and depth == 0:
        return MASK
    if isinstance(value, dict):
        return {
            name: MASK if is_secret_name(name, names) and _tells(item) else _redacted(item, names, depth - 1)
            for name, item in cast(dict[str, Any], value).items()
        }
    if isinstance(value, list):
        return [_redacted(item, names, depth - 1) for item in cast(list[Any], value)]
    return value


def _tells(value: Any) -> bool:
    return not (value is None or isinstance(value, bool) or value in ("", [], {}))


def _secrets(value: Any, names: frozenset[str], depth: int, *, is_secret: bool) -> Iterator[str]:
    if depth == 0:
        return
    if isinstance(value, dict):
        for name, item in cast(dict[str, Any], value).items():
            yield from _secrets(item, names, depth - 1, is_secret=is_secret or is_secret_name(name, names))
    elif isinstance(value, list):
        for item in cast(list[Any], value):
            yield from _secrets(item, names, depth - 1, is_secret=is_secret)
    elif is_secret and isinstance(value, str | int | float) and _tells(value):
        yield str(value)


def _masked_within(value: Any, secrets: frozenset[str], depth: int) -> Any:
    if isinstance(value, str):
        return masked(value, secrets)
    if isinstance(value, dict | list) and depth == 0:
        return MASK
    if isinstance(value, dict):
        return {name: _masked_within(item, secrets, depth - 1) for name, item in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_masked_within(item, secrets, depth - 1) for item in cast(list[Any], value)]
    return value
