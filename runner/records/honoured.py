"""What of what can be written into the record has an effect here, and what has none.

What has none is refused when it is saved, in one sentence. What was saved all the same (by an older version, built
in, or because a client must send it) makes the runs that use it inconclusive: they name it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from bots.caller.speech.settings import ServiceSettings
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

Sentences = dict[str, str]
"""What is wrong, by field."""

_PLAIN: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "background_noise": (("off",), 'no background is played behind the caller; send "off".'),
    "voice_model": (("default",), 'the caller speaks with the service of the settings (speech.tts); send "default".'),
    "voice_id": ((), "the caller speaks with the voice of the settings (speech.tts); leave it out."),
    "provider": ((), "the caller speaks with the service of the settings (speech.tts); leave it out."),
    "prompt": ((), "the caller says what its script says, word for word; leave it out."),
    "accent": ((), "the caller speaks with the voice of the settings (speech.tts); leave it out."),
    "interruption_level": (("off",), 'the caller interrupts only where its script says so; send "off".'),
    "speed": ((1,), "the caller speaks at the speed of the settings' voice; send 1."),
    "generation_config": ((), "the caller speaks with the service of the settings (speech.tts); leave it out."),
    "network_simulation": ((), "no network is simulated here; leave it out."),
    "message_plan": ((), "the caller does not ask whether anybody is there; leave it out."),
    "start_speaking_plan": ((), "the settings say how the caller takes turns (turn_taking); leave it out."),
    "stop_speaking_plan": ((), "the settings say how the caller takes turns (turn_taking); leave it out."),
    "background_sound_volume": ((), "no background is played behind the caller; leave it out."),
    "end_call_enabled": ((True,), "the caller hangs up after its last step; send true."),
}
"""What of a personality can be had: these values, or none at all; and what to say of others."""

MUST_BE_SENT = frozenset({"voice_model"})
"""What clients of Cekura's API must send, and have no neutral value for."""

DESCRIBES = frozenset({"accent"})
"""What of a built-in personality only describes it."""


def caller_language(settings: Settings) -> str:
    """Return the language that the caller speaks."""
    return _language(settings.speech.tts)


def heard_language(settings: Settings) -> str:
    """Return the language that the agent's words are recognised as."""
    return _language(settings.speech.stt)


def is_nothing(value: Any) -> bool:
    """Return whether a value asks for nothing: null, empty, or an object of nothing but such values."""
    if isinstance(value, Mapping):
        return all(is_nothing(item) for item in value.values())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value is None or value in ("", [])


def personality_sentences(
    language: str | None, traits: Mapping[str, Any], settings: Settings, *, built_in: bool = False
) -> Sentences:
    """Return what of a personality can't be had.

    Args:
        language: Its language; None where that is not asked about.
        traits: Its traits, or some of them.
        settings: What the caller speaks with.
        built_in: Whether it comes with the record.
    """
    found: Sentences = {}
    if language is not None and not _is_spoken(language, caller_language(settings)):
        found["language"] = _other_language(language, "the caller speaks", caller_language(settings), "speech.tts")
    for name, (known, sentence) in _PLAIN.items():
        value = traits.get(name)
        if is_nothing(value) or value in known or (built_in and name in DESCRIBES):
            continue
        found[name] = sentence
    return found


def scenario_sentences(fields: Mapping[str, Any], settings: Settings) -> Sentences:
    """Return what of a scenario's fields can't be had."""
    found: Sentences = {}
    language = fields.get("scenario_language")
    if not is_nothing(language) and not _is_spoken(str(language), caller_language(settings)):
        spoken = caller_language(settings)
        found["scenario_language"] = _other_language(str(language), "the caller speaks", spoken, "speech.tts")
    if unknown := [metric for metric in fields.get("metrics") or () if metric not in metric_ids()]:
        found["metrics"] = no_metric(unknown)
    if unknown := [tool for tool in fields.get("tool_ids") or () if tool not in CALLER_TOOLS]:
        found["tool_ids"] = f"the caller can't use {', '.join(map(str, unknown[:10]))}; it can use dtmf and end_call."
    if not is_nothing(fields.get("generated_mock_tool_entries")):
        found["generated_mock_tool_entries"] = NO_MOCKS
    if not is_nothing(fields.get("phone_number")):
        found["phone_number"] = NO_TELEPHONE
    return found


def agent_sentences(language: str | None, settings: Settings) -> Sentences:
    """Return what of an agent can't be had: its words are recognised in one language."""
    if language is None or _is_spoken(language, heard_language(settings)):
        return {}
    heard = heard_language(settings)
    return {"language": _other_language(language, "the agent's words are recognised as", heard, "speech.stt")}


def no_metric(unknown: Iterable[Any]) -> str:
    """Return what is said of metrics that there are not."""
    ids = ", ".join(str(metric) for metric in list(unknown)[:10])
    known = ", ".join(f"{metric.id} ({metric.name})" for metric in metrics().values())
    return f"there is no metric {ids}; there is {known}, measured of every run."


def in_words(kind: str, sentences: Sentences) -> list[str]:
    """Return sentences that name their fields.

    Args:
        kind: What the fields are of.
        sentences: By field.
    """
    return [f"{kind}.{name}: {sentence.removesuffix('.')}" for name, sentence in sentences.items()]


def _language(service: ServiceSettings) -> str:
    return str(service.settings.get("language") or DEFAULT_LANGUAGE)


def _is_spoken(language: str, spoken: str) -> bool:
    if spoken == MANY_LANGUAGES:
        return True
    return language.replace("_", "-").split("-")[0].casefold() == spoken.replace("_", "-").split("-")[0].casefold()


def _other_language(language: str, who: str, spoken: str, setting: str) -> str:
    return f"{language[:20]!r} can't be had: {who} {spoken!r} ({setting}.settings.language); send {spoken!r}."
