"""Markup in what a caller says. What is not known here is refused: a synthesiser would read it aloud."""

import re
from collections.abc import Iterator

from bots.caller.script import KEYS, Pause, PressKeys, Words
from runner.errors import UsageError

_PLACEHOLDER = re.compile(r"\{\{[^{}]*\}\}")
_MARKUP = re.compile(
    # A tag, whole or begun: "1 < 2" is none, and neither is "<3".
    r"</?[A-Za-z][\w-]*(?:\s[^<>]*)?/?>|<[A-Za-z][\w-]*\s+[\w-]+\s*="
    # With space before its name only where nothing else can be meant.
    r"|<\s+/?\s*[A-Za-z][\w-]*(?:\s+[\w-]+\s*=[^<>]*|\s*/)\s*>"
)
_BRACKETS = re.compile(r"\[\s*/?[A-Za-z][^\[\]\n]{0,80}\]")
_MAX_SHOWN = 40

TAG = re.compile(r"<(?P<close>/?)(?P<name>[a-z_]+)(?P<attributes>(?:\s[^<>]*)?)(?P<empty>/?)>")
"""A tag of Cekura's."""

_ATTRIBUTE = re.compile(r"""(?P<name>[a-z_]+)\s*=\s*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)')""")
_PLAYED_TAGS: dict[str, tuple[str, ...]] = {"silence": ("time",), "dtmf": ("digits",), "endcall": ()}
"""The tags that are played, and their attributes."""
_PLAYED = '<silence time="2s"/>, <dtmf digits="123#"/> and <endcall/> are played'
_SECONDS = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s)?")
_KEY_FORMATTING = re.compile(r"[\s().+-]")


def unknown_markup(text: str, played: str = "") -> str | None:
    """Return what is wrong with markup in a text that none is played in but ``played``; None if there is none.

    ``{{placeholders}}`` are no markup.
    """
    plain = _PLACEHOLDER.sub(" ", text)
    found = min((m for m in (_MARKUP.search(plain), _BRACKETS.search(plain)) if m), key=re.Match.start, default=None)
    if found is None:
        return None
    shown = found[0].strip()
    shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}…"
    instead = f"; {played}" if played else "; leave it out, or write it in words"
    return f"{shown} is no markup that is played here, and would be read aloud{instead}"


def pieces(text: str) -> Iterator[Words | Pause | PressKeys | None]:
    """Return what a step consists of, in its order; None stands for hanging up.

    Raises UsageError: it has a tag that is not played here, or a wrong one.
    """
    end = 0
    for tag in TAG.finditer(text):
        if words := text[end : tag.start()].strip():
            yield _words(words)
        end = tag.end()
        attributes = _attributes(tag)
        match tag["close"], tag["name"]:
            case "", "silence":
                yield from _pauses(attributes.get("time", ""))
            case "", "dtmf":
                keys = _KEY_FORMATTING.sub("", attributes.get("digits", ""))
                if not keys or set(keys) - set(KEYS) or len(keys) > 64:
                    raise UsageError(f"<dtmf/>: digits must be up to 64 keys of {KEYS}")
                yield PressKeys(keys=keys)
            case "", "endcall":
                yield None
            case _:
                raise UsageError(f"the tag <{tag['close']}{tag['name'][:40]}> is not played here; {_PLAYED}")
    if words := text[end:].strip():
        yield _words(words)


def _words(text: str) -> Words:
    if (problem := unknown_markup(text, _PLAYED)) is not None:
        raise UsageError(problem)
    return Words(text=text)


def _attributes(tag: re.Match[str]) -> dict[str, str]:
    """Return the attributes of a tag.

    Raises UsageError: there is one that is not known, or something that is none.
    """
    given = tag["attributes"].strip().removesuffix("/")
    found = {a["name"]: a["double"] or a["single"] or "" for a in _ATTRIBUTE.finditer(given)}
    known = _PLAYED_TAGS.get(tag["name"])
    if known is None or tag["close"]:
        return found
    unknown = next((name for name in found if name not in known), None) or _ATTRIBUTE.sub("", given).strip()
    if unknown:
        may = f"it may have {', '.join(known)}" if known else "it has none"
        raise UsageError(f"<{tag['name']}/>: the attribute {unknown[:40]!r} is not known; {may}")
    return found


def _pauses(time: str) -> Iterator[Pause]:
    given = _SECONDS.fullmatch(time.strip())
    if given is None:
        raise UsageError('<silence/>: needs a time, such as time="2s"')
    left_ms = round(float(given["number"]) * (1 if given["unit"] == "ms" else 1_000))
    if not 0 < left_ms <= 600_000:
        raise UsageError("<silence/>: the time must be more than 0 and at most 600 s")
    while left_ms > 0:
        yield Pause(pause_ms=min(left_ms, 60_000))
        left_ms -= 60_000
