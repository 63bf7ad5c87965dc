"""What the restaurant understands of a caller: numbers, days, times, names and telephone numbers, spoken or written.

It is lenient where recognition errs: digits for words and words for digits, "for" for "four", "to" for "two". What is
found is taken out of the text, so that no number counts twice.
"""

import re

_UNITS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
_HOMOPHONES = {"for": 4, "fore": 4, "to": 2, "too": 2, "won": 1, "ate": 8, "tree": 3, "free": 3, "sex": 6, "sicks": 6}
WORDS_OF = {value: word for word, value in (*_UNITS.items(), *_TENS.items())}
_ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth",
    "twentieth",
)  # fmt: skip
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip

_NUMBER = rf"(?:\d{{1,2}}|{'|'.join([*_TENS, *sorted(_UNITS, key=len, reverse=True)])})"
_HOUR = r"(?:\d{1,2}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
_MINUTE = r"(?:fifteen|thirty|forty[ -]?five|twenty|ten|forty|fifty|o'?clock|oh five|five)"
_HALF_DAY = r"(?:\s*(?P<half>[ap])\.?\s*m\b\.?)?"

_TIMES = [
    re.compile(rf"\bhalf past (?P<hour>{_HOUR})\b{_HALF_DAY}"),
    re.compile(rf"\bquarter (?P<rel>past|after|to|of|before) (?P<hour>{_HOUR})\b{_HALF_DAY}"),
    re.compile(rf"\b(?P<hour>\d{{1,2}})\s*[:.h]\s*(?P<min>\d{{2}})\b{_HALF_DAY}"),
    re.compile(rf"\b(?P<hour>{_HOUR})[ -](?P<wmin>{_MINUTE})\b{_HALF_DAY}"),
    re.compile(rf"\b(?P<hour>{_HOUR})(?:\s*o'?clock|\s*(?=[ap]\.?\s*m\b))\b{_HALF_DAY}"),
    re.compile(rf"\b(?P<hour>{_HOUR})\s+(?:in the (?P<part>morning|evening|afternoon)|at night|tonight)\b"),
    re.compile(rf"\b(?:at|around|about|by)\s+(?:about\s+|around\s+)?(?P<hhmm>\d{{3,4}})\b{_HALF_DAY}"),
    re.compile(
        rf"\b(?:at|around|about|by)\s+(?:about\s+|around\s+)?(?P<hour>{_HOUR})\b(?!\s*(?:people|persons|of us))"
        + _HALF_DAY
    ),
    re.compile(rf"\btime\s+(?:to|is|should be|as)\s+(?P<hour>{_HOUR})\b{_HALF_DAY}"),
]
_BARE_TIMES = [
    re.compile(rf"^\W*(?:the\s+|let's say\s+|maybe\s+)?(?P<hhmm>\d{{3,4}})\b{_HALF_DAY}"),
    re.compile(rf"\b(?P<hour>{_HOUR})\b{_HALF_DAY}"),
    re.compile(r"^\W*(?P<hour>ate)\W*$"),
]
_PEOPLE = [
    re.compile(rf"\b(?P<n>{_NUMBER}|for|to|too)\s+(?:people|persons?|guests?|adults|of us|seats)\b"),
    re.compile(rf"\b(?:party|group|table|number|us)\s+(?:of|is|to)\s+(?P<n>{_NUMBER}|for|to|too)\b"),
    re.compile(rf"\btable\b.{{0,12}}?\bfor\s+(?:the\s+)?(?P<n>{_NUMBER}|for|four|to|too)\b(?!\s*[:.]\d)"),
    re.compile(rf"\b(?:people|guests|persons)\s+(?:to|is|should be)\s+(?P<n>{_NUMBER}|for|to|too)\b"),
    re.compile(
        r"\b(?:for|make (?:it|that)|change (?:it|that) to|be|are|with)\s+(?:just\s+|only\s+)?"
        rf"(?P<n>{_NUMBER}|for)\b(?!\s*[:.]\d)"
    ),
    re.compile(r"\bmake (?:it|that)\s+(?P<n>for|to|too)\s*[.!]?\s*$"),
]
MAKE_IT_FEW = re.compile(r"\bmake (?:it|that)\s+(?:one|two|three|four|for|to|too|[1-4])\s*[.!]?\s*$")
_COUPLE = re.compile(
    r"\b(?:me and my|my)\s+(?:wife|husband|partner|girlfriend|boyfriend)\b|\ba couple\b|\bthe two of us\b"
)
_NAME = re.compile(
    r"\b(?:my (?:last |first |full )?name(?: is|'s)|(?:the )?name(?: is|'s)|name of|name to|name should be|name|"
    r"under|it is|it's|its|i'm|i am|this is|that's|that is|call me)\s+(?P<name>(?:[a-z][\w'.-]*\s*){1,3})",
    re.IGNORECASE,
)
_NOT_NAMES = {
    "a", "an", "and", "the", "my", "name", "is", "it", "its", "it's", "i'm", "i", "am", "this", "that", "that's",
    "under", "on", "for", "to", "please", "yes", "yeah", "no", "not", "ok", "okay", "sure", "um", "uh", "er", "well",
    "so", "of", "course", "hello", "hi", "thanks", "thank", "you", "right", "correct", "wrong", "at", "phone",
    "number", "table", "booking", "book", "people", "would", "like", "actually", "sorry", "make", "change", "wait",
    "going", "just", "be", "in", "with", "want", "calling", "from", "here", "good", "evening", "all", "fine", "great",
    "perfect", "mr", "mrs", "ms", "miss", "mister",
}  # fmt: skip
_PARTS_OF_DAY = re.compile(r"\b(?:in the |this )?(?:morning|afternoon|evening|night)\b")

_THINKING = re.compile(
    r"\W*(?:(?:well|so|okay|ok|oh|yes|yeah|um+|uh+|er+|hm+|let me (?:see|think|check)|let's see|hold on|hang on|wait|"
    r"(?:just )?(?:a|one) (?:moment|second|minute)|please)\W*)+"
)
_THINKING_WORD = re.compile(r"\b(?:um+|uh+|er+|hm+|let|hold|hang|wait|moment|second|minute)\b")


def is_thinking(text: str) -> bool:
    """Tell whether a caller has only said that they are thinking, as in "Let me see", and is about to go on."""
    words = normal(text)
    return bool(_THINKING.fullmatch(words) and _THINKING_WORD.search(words))


def normal(text: str) -> str:
    text = text.lower().replace("’", "'")
    text = re.sub(r"(\d)(?:st|nd|rd|th)\b", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"[^a-z0-9:.,'\- ]", " ", text)).strip()


def _value(word: str) -> int | None:
    if word.isdigit():
        return int(word)
    return _UNITS.get(word, _TENS.get(word, _HOMOPHONES.get(word)))


def _without(text: str, match: re.Match[str]) -> str:
    return f"{text[: match.start()]} , {text[match.end() :]}"


def find_phone(words: str, at_least: int) -> tuple[str | None, str]:
    """Find the longest run of digits, spoken or written, of at least so many."""
    best: tuple[str, int, int] | None = None
    digits, start, end, times = "", 0, 0, 1
    for match in [*re.finditer(r"[a-z']+|\d+", words), None]:
        word = match.group() if match else ""
        value: str | None = None
        if word in ("double", "triple"):
            times = 2 if word == "double" else 3
            if not digits and match:
                start = match.start()
            continue
        if word.isdigit():
            value = word
        elif word in ("oh", "o"):
            value = "0"
        elif word in _UNITS:
            value = str(_UNITS[word])
        elif digits and word in ("for", "to", "too", "won", "ate"):
            value = str(_HOMOPHONES[word])
        if value is not None and match:
            if not digits and times == 1:
                start = match.start()
            digits += value * times
            end = match.end()
        elif not (digits and word in ("and", "then", "dash")):
            if len(digits) >= at_least and (best is None or len(digits) > len(best[0])):
                best = (digits, start, end)
            digits = ""
        times = 1
    if best is None:
        return None, words
    return best[0], f"{words[: best[1]]} , {words[best[2] :]}"


def find_day(words: str) -> tuple[str | None, str]:
    ordinal = "|".join(_ORDINALS)
    month = "|".join(_MONTHS)
    for pattern in (
        rf"\b(?P<month>{month})\s+(?:the\s+)?(?P<n>\d{{1,2}}|{ordinal}|{_NUMBER})\b",
        rf"\b(?:the\s+)?(?P<n>\d{{1,2}}|{ordinal})\s+(?:of\s+)?(?P<month>{month})\b",
    ):
        if match := re.search(pattern, words):
            word = match["n"]
            number = _ORDINALS.index(word) + 1 if word in _ORDINALS else _value(word)
            return f"{match['month'].capitalize()} {number}", _without(words, match)
    # The last one counts: "not Friday, Saturday".
    days = list(re.finditer(rf"\b(?P<day>{'|'.join(_DAYS)})s?\b", words))
    if days:
        day = days[-1]["day"].capitalize()
        return day, re.sub(rf"\b(?:{'|'.join(_DAYS)})s?\b", " , ", words)
    if match := re.search(r"\b(?:today|tonight|this evening)\b", words):
        return "today", _without(words, match)
    if match := re.search(r"\btomorrow\b", words):
        return "tomorrow", _without(words, match)
    return None, words


def find_time(words: str, *, bare: bool) -> tuple[str | None, str]:
    patterns = [*_TIMES, *_BARE_TIMES] if bare else _TIMES
    for pattern in patterns:
        for match in pattern.finditer(words):
            if time := _time_of(match):
                rest = _without(words, match)
                return time, _PARTS_OF_DAY.sub(" ", rest)
    return None, words


def _time_of(match: re.Match[str]) -> str | None:
    groups = match.groupdict()
    half = {"a": "am", "p": "pm"}.get(groups.get("half") or "")
    if (groups.get("part") or "") == "morning":
        half = "am"
    if hhmm := groups.get("hhmm"):
        return clock(hhmm[:-2], hhmm[-2:], half)
    minute = groups.get("min") or "0"
    if spoken := groups.get("wmin"):
        parts = re.split(r"[ -]", spoken.replace("fortyfive", "forty five"))
        minute = "0" if "clock" in spoken else str(sum(_value(part) or 0 for part in parts if part != "oh"))
    hour = groups["hour"]
    if match.group().startswith("half"):
        minute = "30"
    if relation := groups.get("rel"):
        minute = "15"
        if relation in ("to", "of", "before"):
            hour, minute = str((_value(hour) or 0) - 1 or 12), "45"
    return clock(hour, minute, half)


def clock(hour: str, minute: str, half: str | None = None) -> str | None:
    """Return the time in 24 hours; without ``am`` a restaurant's caller means the afternoon or evening."""
    hours, minutes = _value(hour), _value(minute)
    if hours is None or minutes is None or hours > 23 or minutes > 59:
        return None
    if 0 < hours < 12 and half != "am":
        hours += 12
    return f"{hours:02d}:{minutes:02d}"


def find_people(words: str, *, bare: bool) -> tuple[int | None, str]:
    # The last one counts: "for two, no, for three".
    matches = sorted((m for pattern in _PEOPLE for m in pattern.finditer(words)), key=lambda m: m.start("n"))
    for match in reversed(matches):
        value = _value(match["n"])
        if value and value < 100:
            return value, _without(words, match)
    if match := _COUPLE.search(words):
        return 2, _without(words, match)
    if bare:
        numbers = [m for m in re.finditer(rf"\b{_NUMBER}\b", words) if _value(m.group())]
        if numbers:
            return _value(numbers[-1].group()), _without(words, numbers[-1])
        if match := re.search(
            rf"^\W*(?:for |there are |we are )?(?P<n>{'|'.join(_HOMOPHONES)})\W*(?:please)?\W*$", words
        ):
            return _HOMOPHONES[match["n"]], ""
    return None, words


def name_after(spoken: str, *, strong: bool) -> str | None:
    """Find a name that is introduced; ``strong`` takes only the words that introduce nothing else."""
    for match in _NAME.finditer(spoken):
        introduction = match.group().lower()
        if strong and not re.match(r"my |the name|name|under|call me", introduction):
            continue
        if name := clean_name(match["name"]):
            return name
    return None


def clean_name(text: str) -> str | None:
    if spelled := re.fullmatch(r"\W*((?:[A-Za-z][\s.,-]+){2,}[A-Za-z])\W*", text):
        return re.sub(r"[^A-Za-z]", "", spelled[1]).capitalize()
    words: list[str] = []
    for word in re.findall(r"[A-Za-z][A-Za-z'-]*", text.replace("’", "'")):
        plain = word.lower()
        if plain in _NOT_NAMES or plain in _UNITS or plain in _DAYS:
            if words:
                break
            continue
        words.append(word if word[0].isupper() and not word.isupper() else word.capitalize())
    return " ".join(words[:3]) or None
