"""What all bodies have in common."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    SecretStr,
    StringConstraints,
    model_validator,
)

from runner.records.honoured import is_nothing
from runner.text import UNSENDABLE, fits_header

MAX_ID = 2**63 - 1
MAX_TOKEN_CHARACTERS = 20_000


def _whole(value: Any) -> Any:
    """Return a whole number as one: to JSON, 2 and 2.0 are the same."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(_whole)
"""Belongs to every whole number in a body."""

Id = Annotated[int, Whole, Field(ge=1, le=MAX_ID)]
"""An id of the record."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]


def _sendable(token: SecretStr) -> SecretStr:
    if not fits_header(token.get_secret_value()):
        raise ValueError(f"It can't be sent: it {UNSENDABLE}.")
    return token


Token = Annotated[SecretStr, Field(max_length=MAX_TOKEN_CHARACTERS), AfterValidator(_sendable)]
"""A token or key that goes along in an HTTP header."""

JsonObject = dict[str, JsonValue]
"""A JSON object that is kept and given back as it is."""

Timestamp = Annotated[
    datetime,
    PlainSerializer(lambda at: at.isoformat().replace("+00:00", "Z"), return_type=str, when_used="json"),
]
"""ISO 8601, UTC, as Cekura writes it: ``2026-01-01T10:00:00.000000Z``."""


Unset: Any = Field(default_factory=str)
"""The default of a text that a change may leave out, and that has none: look at ``given``."""


class RequestBody(BaseModel):
    """Base of what is sent: types are what they are (no ``"1"`` for 1), and unknown fields are passed over."""

    model_config = ConfigDict(strict=True)

    def given(self, name: str) -> bool:
        """Whether a field was sent, also as null."""
        return name in self.model_fields_set


class WrittenBody(RequestBody):
    """Base of what is written by users: a field that is not known is refused, for it would have no effect.

    Passed over are unknown fields that ask for nothing, and those in ``READ_ONLY``: whoever writes back what was read
    sends them along.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    READ_ONLY: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        fields = cast(dict[Any, Any], given)
        known = cls.model_fields
        return {k: v for k, v in fields.items() if k in known or not (k in cls.READ_ONLY or is_nothing(v))}


class ResponseBody(BaseModel):
    """Base of what is answered."""

    model_config = ConfigDict(extra="forbid")


def of_row(row: Any, *names: str) -> dict[str, Any]:
    """Return attributes of a row, by their names."""
    return {name: getattr(row, name) for name in names}
