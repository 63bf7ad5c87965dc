"""Text a speech synthesiser reads as a person would say it.

Synthesisers read quantities, prices, dates and times well, and codes badly: "555-0142" came out as "five hundred
fifty-five one forty-two". Codes are therefore written out here, digit by digit and letter by letter; everything else
is left to the synthesiser's own rules.
"""

import re
from collections.abc import Callable

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]+@[\w-]+(?:\.[\w-]+)+", re.ASCII)
_EMAIL_SIGNS = {".": "dot", "_": "underscore", "-": "dash", "+": "plus", "%": "percent", "@": "at"}
_DOMAIN_WORDS = frozenset({"com", "org", "net", "edu", "gov", "info", "dev", "app"})

# What may not stand right before or after a code: there it is part of a price, decimal, date, time or longer word.
_BEFORE = r"(?<![\w.,:/$€£+\-–@])"
_AFTER = r"(?![\w%@]|[.,:/\-–]\d)"

_GROUPED = re.compile(
    r"(?<![\w.,:/$€£\-–@+])\+?\(?[0-9]{1,8}\)?(?:(?:[ .\-–]|\) |(?<=\)))\(?[0-9]{2,8}\)?){1,8}" + _AFTER, re.ASCII
)
_SINGLE_DIGITS = re.compile(_BEFORE + r"[0-9](?:-[0-9]){2,}" + _AFTER, re.ASCII)
_POSTCODE = re.compile(_BEFORE + r"[A-Z]{1,2}[0-9][A-Z0-9]? [0-9][A-Z]{2}" + _AFTER, re.ASCII)
_MIXED = re.compile(
    r"(?<![\w@.'’/\-–])(?=[A-Za-z-]*[0-9])(?=[0-9-]*[A-Za-z])[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*(?![\w@/'’]|[-.]\w)",
    re.ASCII,
)
_LEADING_ZERO = re.compile(_BEFORE + r"0[0-9]+" + _AFTER, re.ASCII)
_LONG = re.compile(_BEFORE + r"[0-9]{5,}" + _AFTER, re.ASCII)
_HASH = re.compile(r"(?<![\w#])#([0-9]{3,})" + _AFTER, re.ASCII)
_NAMED = re.compile(
    r"""\b(
        (?:order|ticket|case|booking|account|invoice|reservation|claim|confirmation|reference|tracking|policy|member
          |membership|serial|routing|card|room|customer|phone|flight)\ (?:number|no\.?|id|code)
        |(?:my|the|this|that|your|our|his|her|for|about)[ ]
          (?:order|ticket|case|booking|account|invoice|reservation|claim|policy)
        |pin|passcode|password|zip|zip\ code|postcode|postal\ code|area\ code|code|id|flight|extension|call|dial
    )
    ((?:\ (?:is|was|number))?[:=]?\ \#?)
    ([0-9]{3,})"""
    + _AFTER,
    re.ASCII | re.VERBOSE | re.IGNORECASE,
)
# "order 250 envelopes": the number counts something.
_COUNTED = re.compile(
    r" (?:people|percent|men|women|children|feet|a |per |(?!(?:is|was|has|as|its|this|yes|thanks|plus)\b)[a-z]+s\b)"
)
_PARTS = re.compile(r"[A-Za-z]+|[0-9]+")
_UNITS = frozenset(
    {
        "st", "nd", "rd", "th", "s", "am", "pm", "k", "m", "b", "bn", "x", "g", "d", "c", "f", "v", "w", "h", "l",
        "p",
        "kb", "mb", "gb", "tb", "mm", "cm", "km", "mg", "kg", "ml", "hz", "khz", "mhz", "ghz", "kw", "kwh", "ft",
        "in", "lb", "lbs", "oz", "mph", "kmh", "yo", "min", "hr", "hrs", "px", "fps",
    }
)  # fmt: skip


def speakable(text: str) -> str:
    """Write out what a synthesiser would read wrongly.

    Telephone and card numbers, order numbers, codes of letters and digits, numbers with leading zeros and e-mail
    addresses become words. Quantities, prices, dates and times stay as they are. Speakable text comes back unchanged.
    """
    # Each round leaves fewer digits or at signs, so that this ends: nearly always after one round and a look.
    while (written_out := _write_out(text)) != text:
        text = written_out
    return text


def _write_out(text: str) -> str:
    if "@" in text:
        text = _EMAIL.sub(_email, text)
    if not any("0" <= character <= "9" for character in text):
        return text
    rules: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
        (_GROUPED, _grouped),
        (_SINGLE_DIGITS, lambda found: _digits(found[0].replace("-", ""))),
        (_POSTCODE, _spelt),
        (_MIXED, _mixed),
        (_NAMED, _named),
        (_HASH, lambda found: f"number {_digits(found[1])}"),
        (_LEADING_ZERO, lambda found: _digits(found[0])),
        (_LONG, _long),
    )
    for pattern, write in rules:
        text = pattern.sub(write, text)
    return text


def _digits(digits: str) -> str:
    return " ".join(_DIGITS[int(digit)] for digit in digits)


def _letters(letters: str) -> str:
    # With dots the letters are read as letters, and "A" not as the article.
    return letters.upper() if len(letters) == 1 else "".join(f"{letter}." for letter in letters.upper())


def _email(found: re.Match[str]) -> str:
    pieces = re.findall(r"[A-Za-z]+|[0-9]+|.", found[0], re.DOTALL)
    top = len(pieces) - 1
    words: list[str] = []
    for index, piece in enumerate(pieces):
        if piece in _EMAIL_SIGNS:
            words.append(_EMAIL_SIGNS[piece])
        elif piece[0] in "0123456789":
            words.append(_digits(piece))
        elif piece.isascii() and piece.isalpha() and _is_read_by_letters(piece, is_last=index == top):
            words.append(" ".join(piece.upper()))
        else:
            words.append(piece)
    return " ".join(words)


def _is_read_by_letters(piece: str, is_last: bool) -> bool:
    if piece.lower() in _DOMAIN_WORDS:
        return False
    return len(piece) == 1 or (is_last and len(piece) <= 3) or not re.search("[aeiouy]", piece, re.IGNORECASE)


def _grouped(found: re.Match[str]) -> str:
    groups: list[str] = re.findall(r"[0-9]+", found[0])
    if not _is_one_number(found[0], groups):
        return found[0]
    plus = "plus " if found[0].startswith("+") else ""
    return plus + ", ".join(_digits(group) for group in groups)


def _is_one_number(written: str, groups: list[str]) -> bool:
    lengths = tuple(len(group) for group in groups)
    if sum(lengths) < 7:
        return False
    if written[0] in "+(" or "(" in written:
        return True
    if _is_date(groups):
        return False
    has_leading_zero = any(group.startswith("0") and len(group) > 1 for group in groups)
    if len(groups) == 2 and lengths[0] == lengths[1] and not has_leading_zero and groups[0] < groups[1]:
        return False  # a range: 1990-2000
    if "." in written:
        return lengths in {(3, 4), (3, 3, 4), (1, 3, 3, 4)} or groups[0].startswith("0")
    if " " not in written:
        return True
    return has_leading_zero or lengths == (3, 4) or (len(groups) >= 3 and min(lengths[1:]) >= 3)


def _is_date(groups: list[str]) -> bool:
    match [len(group) for group in groups]:
        case [4, 2, 2]:
            return 1 <= int(groups[1]) <= 12 and 1 <= int(groups[2]) <= 31
        case [1 | 2, 1 | 2, 4]:
            return 1 <= int(groups[0]) <= 31 and 1 <= int(groups[1]) <= 31
        case _:
            return False


def _mixed(found: re.Match[str]) -> str:
    return _spelt(found) if _is_code(found[0]) else found[0]


def _is_code(written: str) -> bool:
    parts = _PARTS.findall(written)
    letters = [part for part in parts if part.isalpha()]
    digits = [part for part in parts if not part.isalpha()]
    digit_count = sum(len(part) for part in digits)
    if not letters or max(len(part) for part in letters) > 4 or digit_count < 2:
        return False
    if parts[0].isdigit() and all(part.lower() in _UNITS for part in letters):
        return False  # a measure: "50km", "12pm", "1h30m", "6ft2in", "10x20"
    is_upper = all(part.isupper() for part in letters)
    match len(parts):
        case 2 if parts[0].isalpha():
            has_code_digits = digit_count >= 3 or digits[0].startswith("0") or len(letters[0]) >= 2
            return is_upper and has_code_digits
        case 2:
            return is_upper and (len(letters[0]) >= 2 or digit_count >= 4)
        case 3:
            return is_upper
        case _:
            return True


def _spelt(found: re.Match[str]) -> str:
    parts: list[str] = re.findall(r"[A-Za-z]+|[0-9]+|[- ]", found[0])
    spelt = ""
    for index, part in enumerate(parts):
        if part in "- ":
            # A breath between groups of digits; letters and digits follow each other.
            spelt += "," if index and parts[index - 1].isdigit() else ""
            continue
        spelt += " " if spelt else ""
        spelt += _letters(part) if part.isalpha() else _digits(part)
        if part.upper() == "A" and index + 1 < len(parts):
            spelt += ","
    if spelt.endswith(".") and found.string[found.end() : found.end() + 1] == ".":
        return spelt[:-1]
    return spelt


def _named(found: re.Match[str]) -> str:
    if _is_counted(found):
        return found[0]
    label = found[1] + found[2]
    is_named_number = re.search("number|code|id|pin|zip", label, re.IGNORECASE)
    return label.replace("#", "" if is_named_number else "number ") + _digits(found[3])


def _long(found: re.Match[str]) -> str:
    digits = found[0]
    if len(digits) >= 10:
        return _digits(digits)
    is_round = digits.endswith("00" if len(digits) < 7 else "000")
    return digits if is_round or _is_counted(found) else _digits(digits)


def _is_counted(found: re.Match[str]) -> bool:
    return _COUNTED.match(found.string, found.end()) is not None
