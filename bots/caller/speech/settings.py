"""Which speech services the caller uses. Any Pipecat service can be named."""

import os
import re
from pathlib import Path
from typing import Any, cast

from platformdirs import user_cache_dir
from pydantic import BaseModel, ConfigDict, Field, field_validator

from bots.paths import NamedPath

__all__ = ["OFFLINE", "OFFLINE_SEED", "SECRET_NAME", "ServiceSettings", "SpeechSettings", "from_environment"]

OFFLINE = "offline"
"""The service that comes with the ``offline`` extra: no network and no key."""

OFFLINE_SEED = 0
"""The offline voice adds noise from a random generator that begins so: equal text gives identical bytes. Nothing else
about the caller is random. Whoever changes it changes the format of the cache of lines too."""

SECRET_NAME = re.compile("key|token|secret|password|credential|auth", re.IGNORECASE)
"""A parameter with such a name holds a secret."""

_FROM_ENVIRONMENT = "env:"
_DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServiceSettings(_Model):
    """A Pipecat service by name: ``offline``, or the dotted path of its class.

    A string value ``env:NAME`` in ``params`` (keyword arguments of the class) or ``settings`` (those of its
    ``Settings``, such as ``voice`` and ``model``) stands for the environment variable ``NAME``, read when the service
    is made, so that keys never stand in files.
    """

    service: str = OFFLINE
    # Either can hold a key that stands in the file itself.
    params: dict[str, Any] = Field(default_factory=dict, repr=False)
    settings: dict[str, Any] = Field(default_factory=dict, repr=False)

    @field_validator("service")
    @classmethod
    def _is_offline_or_dotted(cls, service: str) -> str:
        if service != OFFLINE and not _DOTTED_PATH.fullmatch(service):
            raise ValueError(
                f"service {service!r} is neither {OFFLINE!r} nor the dotted path of a Pipecat service class, such as "
                "'pipecat.services.cartesia.tts.CartesiaTTSService'"
            )
        return service


class SpeechSettings(_Model):
    """How the caller speaks, and how what was said is recognised.

    Attributes:
        level_dbfs: RMS level of the caller's speech, in dB relative to full scale.
        cache_dir: Where synthesised lines are kept, so that each is made once.
        cache_max_mb: How large that directory may grow, in megabytes; what was not used for longest goes first.
    """

    tts: ServiceSettings = ServiceSettings()
    stt: ServiceSettings = ServiceSettings()
    level_dbfs: float = Field(default=-20.0, ge=-60.0, le=0.0)
    cache_dir: NamedPath = Field(default_factory=lambda: Path(user_cache_dir("pipecat-scenario-runner")) / "lines")
    cache_max_mb: int = Field(default=256, ge=1)


def from_environment(values: dict[str, Any], where: str) -> tuple[dict[str, Any], frozenset[str]]:
    """Return values with each ``env:NAME`` replaced by that environment variable, at any depth.

    Returns also what came from the environment: secrets that no message may show.

    Raises:
        ValueError: A variable is not set; it names the setting (by ``where`` it stands) and the variable.
    """
    secrets: set[str] = set()

    def replaced(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            items = cast(dict[str, Any], value).items()
            return {key: replaced(item, f"{path}.{key}") for key, item in items}
        if isinstance(value, list):
            return [replaced(item, f"{path}[{index}]") for index, item in enumerate(cast(list[Any], value))]
        if not isinstance(value, str) or not value.startswith(_FROM_ENVIRONMENT):
            return value
        name = value.removeprefix(_FROM_ENVIRONMENT)
        found = os.environ.get(name)
        if not found:
            raise ValueError(f"{path}: the environment variable {name!r} is not set. Set it, or change {path}.")
        secrets.add(found)
        return found

    return cast(dict[str, Any], replaced(values, where)), frozenset(secrets)
