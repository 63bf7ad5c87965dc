"""What of what can be written into the record has an effect here, and in which words the rest is refused.

What has none is refused when it is saved, in one sentence. What was saved all the same (by an older version, built
in, or because a client must send it) makes the runs that use it inconclusive: they name it. Which field is refused in
which way stands with the field (:mod:`runner.records.fields`).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from runner.metrics.registry import metric_ids, metrics
from runner.settings import Settings

DEFAULT_LANGUAGE = "en"
MANY_LANGUAGES = "multi"
"""What a service is told that speaks or recognises several."""

CALLER_TOOLS = frozenset({"dtmf", "TOOL_DTMF", "end_call", "TOOL_END_CALL"})
"""What the caller can do without being asked: its script says when."""

NO_TELEPHONE = "nobody is called by telephone here; leave it out."
NO_MOCKS = "tools are not mocked here; leave it out."
NOT_KNOWN = "This field is not known here and would have no effect; leave it out."

Refusal = Callable[[Any, Settings], str | None]
"""Says why a value can't be had; None where it can."""

Sentences = dict[str, str]
"""What is wrong, by field."""


def is_nothing(value: Any) -> bool:
    """Return whether a value asks for nothing: null, empty, or an object of nothing but such values."""
    if isinstance(value, Mapping):
        return all(is_nothing(item) for item in value.values())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value is None or value in ("", [])


def only(sentence: str, *values: Any) -> Refusal:
    """Refuse everything but these values in one sentence."""
    return lambda value, settings: None if value in values else sentence


def language_of(settings: Settings, service: Literal["tts", "stt"]) -> str:
    """Return the language that the caller speaks (``tts``), or in which the agent is heard (``stt``)."""
    return str(getattr(settings.speech, service).settings.get("language") or DEFAULT_LANGUAGE)


def other_language(who: str, service: Literal["tts", "stt"]) -> Refusal:
    """Refuse every language but the one that a service of the settings has."""

    def refuse(language: Any, settings: Settings) -> str | None:
        spoken = language_of(settings, service)
        if spoken == MANY_LANGUAGES or _main_part(str(language)) == _main_part(spoken):
            return None
        place = f"speech.{service}.settings.language"
        return f"{str(language)[:20]!r} can't be had: {who} {spoken!r} ({place}); send {spoken!r}."

    return refuse


def unknown_metrics(wanted: Iterable[Any], settings: Settings) -> str | None:
    """Refuse ids of which there is no metric."""
    unknown = [metric for metric in wanted if metric not in metric_ids()]
    if not unknown:
        return None
    ids = ", ".join(str(metric) for metric in unknown[:10])
    known = ", ".join(f"{metric.id} ({metric.name})" for metric in metrics().values())
    return f"there is no metric {ids}; there is {known}, measured of every run."


def unknown_tools(wanted: Iterable[Any], settings: Settings) -> str | None:
    """Refuse what the caller can't do."""
    unknown = [str(tool) for tool in wanted if tool not in CALLER_TOOLS]
    return f"the caller can't use {', '.join(unknown[:10])}; it can use dtmf and end_call." if unknown else None


def in_words(kind: str, sentences: Sentences) -> list[str]:
    """Return sentences that name their fields, and what these are of."""
    return [f"{kind}.{name}: {sentence.removesuffix('.')}" for name, sentence in sentences.items()]


def _main_part(language: str) -> str:
    return language.replace("_", "-").split("-")[0].casefold()
