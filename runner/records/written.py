"""What bodies are made of: types of fields, where a field is kept, and how strictly what is sent is read."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    StringConstraints,
    model_validator,
)
from pydantic.fields import FieldInfo

from runner.records.honoured import Refusal, Sentences, is_nothing
from runner.settings import Settings
from runner.text import UNSENDABLE, fits_header

MAX_ID = 2**63 - 1
MAX_TOKEN_CHARACTERS = 20_000


def _whole(value: Any) -> Any:
    """Return a whole number as one: to JSON, 2 and 2.0 are the same."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def sendable(secret: SecretStr) -> SecretStr:
    """Return what fits into an HTTP header.

    Raises:
        ValueError: It does not.
    """
    if not fits_header(secret.get_secret_value()):
        raise ValueError(f"It can't be sent: it {UNSENDABLE}.")
    return secret


def unless_empty(token: SecretStr | None) -> SecretStr | None:
    """Return a token; None where it is empty."""
    return token if token is not None and token.get_secret_value() else None


def refused(sentence: str, *, but: Collection[Any] = ()) -> AfterValidator:
    """Refuse whatever is given but nothing, or some values, in one sentence."""

    def check(value: Any) -> Any:
        if value and value not in but:
            raise ValueError(sentence)
        return value

    return AfterValidator(check)


Whole = BeforeValidator(_whole)
"""Belongs to every whole number in a body."""

Id = Annotated[int, Whole, Field(ge=1, le=MAX_ID)]
"""An id of the record."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]

Token = Annotated[SecretStr, Field(max_length=MAX_TOKEN_CHARACTERS), AfterValidator(sendable)]
"""A token or key that goes along in an HTTP header."""

JsonObject = dict[str, JsonValue]
"""A JSON object that is kept and given back as it is."""

RoomUrl = Annotated[str, StringConstraints(min_length=1, max_length=2_000)]
Short = Annotated[str, StringConstraints(max_length=200)]

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


@dataclass(frozen=True)
class Kept:
    """Stands in the type of a field that is kept in a row just as it was given.

    Attributes:
        column: The row's attribute; None for its ``data``, under the field's own name.
        of: The table whose rows it names by their ids.
        as_kept: Makes what is kept of what was given.
        refusal: Says why a value can't be had.
        when_played: It is saved all the same, for clients must send it: the runs name it.
        is_shown: Whether it is answered as it is kept.
        label: What the page's form calls it; without one it is not there.
        hint: What stands beside that.
        lines: How many lines it has there.
    """

    column: str | None = None
    of: type[Any] | None = None
    as_kept: Callable[[Any], Any] = lambda value: value
    refusal: Refusal | None = None
    when_played: bool = False
    is_shown: bool = True
    label: str = ""
    hint: str = ""
    lines: int = 1


def kept_in(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo, Kept]]:
    """Yield the fields of a model that are kept as they were given."""
    for name, field in model.model_fields.items():
        for kept in field.metadata:
            if isinstance(kept, Kept):
                yield name, field, kept


def sentences(
    model: type[BaseModel], values: Mapping[str, Any], settings: Settings, *, but: Collection[str] = ()
) -> Sentences:
    """Return what of some values can't be had, by field.

    Args:
        model: What they are fields of.
        values: The values, or some of them.
        settings: What callers speak with, and agents are heard with.
        but: Fields that are not asked about.
    """
    found: Sentences = {}
    for name, _, kept in kept_in(model):
        value = values.get(name)
        if kept.refusal is None or name in but or is_nothing(value):
            continue
        if sentence := kept.refusal(value, settings):
            found[name] = sentence
    return found
