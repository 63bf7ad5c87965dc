"""Whether two texts say the same words, however they are written down.

What was heard is written by a recogniser, what should be heard by a person: "555-0142" and "five five five oh one
four two" are the same words. Both are brought to one form here, and compared in it.
"""

import itertools
import re
import unicodedata
from dataclasses import dataclass

__all__ = ["contains_words", "normalise_words", "same_words"]

_UP_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_UP_TO_NINETEENTH = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth"
)
_UNITS = {word: value for value, word in enumerate(_UP_TO_NINETEEN.split())}
_TENS = {
    word: 10 * value
    for value, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ORDINAL_UNITS = {word: value for value, word in enumerate(_UP_TO_NINETEENTH.split(), 1)}
_ORDINALS = _ORDINAL_UNITS | {f"{word[:-1]}ieth": value for word, value in _TENS.items()}
_TENS["fourty"] = 40
_NUMBER_WORDS = frozenset({*_UNITS, *_TENS, *_SCALES, *_ORDINALS, "hundred", "hundredth", "thousandth"})
_YEAR = "january february march april may june july august september october november december"
_MONTHS = _YEAR.split()
_SHORT_MONTHS = {month[:3]: month for month in _MONTHS if month != "may"} | {"sept": "september"}
_SAME = {
    "okay": "ok", "mr": "mister", "mrs": "missus", "dollars": "dollar", "cents": "cent", "pounds": "pound",
    "euros": "euro", "til": "till",
}  # fmt: skip
_CURRENCIES = {"$": "dollar", "£": "pound", "€": "euro"}

_DATE = re.compile(r"(?<![\w/.-])(?:([0-9]{4})-([0-9]{2})-([0-9]{2})|([0-9]{1,2})/([0-9]{1,2})/([0-9]{4}))(?![\w/-])")
_MONEY = re.compile(
    r"([$£€]) ?((?<![0-9])[0-9]{1,15}(?:,[0-9]{3}){0,5})(?:\.([0-9]{1,9}))?(?![0-9])"
    r"(?: (hundred|thousand|million|billion|trillion)\b)?"
)
_DOTTED_TIME = re.compile(r"(?<![\w:.])([0-9]{1,2})\.([0-9]{2})(?= ?[ap]\.? ?m\b)")
_FULL_HOUR = re.compile(r"(?<![\w:.])([0-9]{1,2}):00(?![0-9:])")
_DECIMAL = re.compile(r"(?<![\w.])([0-9]{1,15}(?:,[0-9]{3}){0,5})\.([0-9]{1,15})(?![0-9]|\.[0-9])")
_DAY_HALF = re.compile(r"\b([ap])\. ?m\b\.?|(?<=[0-9])([ap])m\b")
_ADDRESS_SIGNS = str.maketrans({".": " dot ", "_": " underscore ", "-": " dash ", "+": " plus ", "@": " at "})
_HOST = re.compile(r"(?<=[a-z0-9])\.(?=(?:com|org|net|edu|gov|io|dev|app|ai|info|co\.uk|uk)\b)")
_MIXED_CODE = re.compile(r"(?<![\w-])[A-Z0-9]+(?:-[A-Z0-9]+)*(?![\w-])")
_ORDINAL_DIGITS = re.compile(r"(?<![\w.])([0-9]{1,9})(?:st|nd|rd|th)\b")
_TOKEN = re.compile(r"[0-9]+|[^\W\d_]+")


@dataclass(frozen=True)
class _Atom:
    """The smallest piece of a text: a word, a number, or a letter that stands alone."""

    text: str
    is_number: bool = False
    is_letter: bool = False


def normalise_words(text: str) -> str:
    """Bring a text to the form in which equal words are equal strings.

    Lower case, no accents and no punctuation. Numbers become digits, whether written in digits or words, and numbers
    next to each other become one ("five five five, 0142" is ``5550142``); so do letters that stand alone ("A B" is
    ``ab``). Dates, hours and amounts of money lose what is only a way of writing them. Normalised text comes back
    unchanged.
    """
    return _Wording(text).text


def same_words(a: str, b: str) -> bool:
    return normalise_words(a) == normalise_words(b)


def contains_words(text: str, part: str) -> bool:
    """Return whether ``part`` is said in ``text``: whole words and whole numbers, one after the other.

    A number written in one piece counts whole: "5550142" does not contain "555", "five five five, 0142" does.
    An empty ``part`` is in every text.
    """
    wording, wanted = _Wording(text), normalise_words(part)
    if not wanted:
        return True
    at = wording.text.find(wanted)
    while at >= 0:
        if at in wording.starts and at + len(wanted) in wording.ends:
            return True
        at = wording.text.find(wanted, at + 1)
    return False


class _Wording:
    """A normalised text, and where in it words begin and end."""

    def __init__(self, text: str) -> None:
        atoms = list(_join_dates(_numbers(_tokens(text))))
        self.text = ""
        self.starts: set[int] = set()
        self.ends: set[int] = set()
        for group in _groups(atoms):
            # "t e n" must not become a word that would then be read as a number.
            parted = group[0].is_letter and len(group) > 1 and "".join(atom.text for atom in group) in _MEANINGFUL
            for index, atom in enumerate(group):
                if self.text and (index == 0 or parted):
                    self.text += " "
                self.starts.add(len(self.text))
                self.text += atom.text
                self.ends.add(len(self.text))


def _groups(atoms: list[_Atom]) -> list[list[_Atom]]:
    groups: list[list[_Atom]] = []
    for atom in atoms:
        last = groups[-1][-1] if groups else atom
        if groups and ((atom.is_number and last.is_number) or (atom.is_letter and last.is_letter)):
            groups[-1].append(atom)
        else:
            groups.append([atom])
    return groups


# ----------------------------------------------------------------------------------------------------------- tokens


def _tokens(text: str) -> list[str]:
    text = _MIXED_CODE.sub(_explode_code, unicodedata.normalize("NFKC", text))
    text = _fold(text)
    text = re.sub("['’‘`´]", "", text)
    text = _DATE.sub(_written_date, text)
    text = _MONEY.sub(_amount, text)
    text = _DOTTED_TIME.sub(r"\1:\2", text)
    text = _FULL_HOUR.sub(r"\1 ", text)
    text = _DAY_HALF.sub(lambda found: f" {found[1] or found[2]}m ", text)
    text = _DECIMAL.sub(lambda found: f" {found[1].replace(',', '')} point {' '.join(found[2])} ", text)
    text = _ORDINAL_DIGITS.sub(r"\1 ", text)
    if "@" in text:
        text = " ".join(
            word.strip(".,;:!?-").translate(_ADDRESS_SIGNS) if "@" in word else word for word in text.split()
        )
    text = _HOST.sub(" dot ", text)
    text = re.sub(r"\+(?=[0-9])", " plus ", text).replace("%", " percent ").replace("&", " and ")
    text = re.sub(r"#(?=[0-9])", " number ", text)
    words: list[str] = []
    for found in _TOKEN.finditer(text):
        same = _SAME.get(found[0], found[0])
        if same == "cent" and words[-1:] == ["per"]:
            words[-1] = "percent"
        else:
            words.append(same)
    return words


def _fold(text: str) -> str:
    for _ in range(2):  # lower case can bring forth new marks ("İ")
        text = unicodedata.normalize("NFKD", text.casefold())
        text = "".join(character for character in text if unicodedata.category(character)[0] != "M")
    return text


def _explode_code(found: re.Match[str]) -> str:
    code = found[0]
    if not (re.search("[0-9]", code) and re.search("[A-Z]", code)):
        return code
    # "AB-1207" is spoken letter by letter; the digits stay together. Ordinals in capitals ("1ST") stay one word.
    if re.fullmatch("[0-9]+(?:ST|ND|RD|TH|AM|PM)", code):
        return code
    return " ".join(re.findall("[A-Z]|[0-9]+", code))


def _written_date(found: re.Match[str]) -> str:
    year, month, day = (found[1], found[2], found[3]) if found[1] else (found[6], found[4], found[5])
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return found[0]
    return f" {_MONTHS[int(month) - 1]} {int(day)} {year} "


def _amount(found: re.Match[str]) -> str:
    currency, whole, fraction, scale = _CURRENCIES[found[1]], found[2].replace(",", ""), found[3], found[4]
    decimals = f" point {' '.join(fraction)}" if fraction else ""
    if scale:
        return f" {whole}{decimals} {scale} {currency} "
    if fraction and len(fraction) == 2:
        cents = f" {int(fraction)} cent" if int(fraction) else ""
        return f" {whole} {currency}{cents} "
    return f" {whole}{decimals} {currency} "


# ---------------------------------------------------------------------------------------------------------- numbers


def _numbers(text: list[str]) -> list[_Atom]:
    # Two words that are none: whatever is read looks no further ahead.
    words = [*text, "", ""]
    atoms: list[_Atom] = []
    at = 0
    while word := words[at]:
        after_number = bool(atoms) and atoms[-1].is_number
        number = _number_at(words, at)
        if number is not None:
            digits, at = number
            atoms.append(_Atom(digits, is_number=True))
        elif after_number and (word == "oclock" or words[at : at + 2] == ["o", "clock"]):
            at += 1 if word == "oclock" else 2
        elif after_number and word in {"a", "p"} and words[at + 1] == "m":
            atoms.append(_Atom(f"{word}m"))
            at += 2
        else:
            if word != "and" or not _is_money_and(atoms, words, at):
                atoms.append(_Atom(word, is_letter=len(word) == 1))
            at += 1
    return _zeros(atoms)


def _is_money_and(atoms: list[_Atom], words: list[str], at: int) -> bool:
    """Whether this is the "and" of "three dollars and twenty cents"."""
    if len(atoms) < 2 or atoms[-1].text not in {"dollar", "euro", "pound"} or not atoms[-2].is_number:
        return False
    number = _number_at(words, at + 1)
    return number is not None and words[number[1]] in {"cent", "pence"}


def _zeros(atoms: list[_Atom]) -> list[_Atom]:
    """Read "o" and "oh" as zero where they stand among digits: "four oh oh two", "o two o seven", "five five oh"."""
    read = list(atoms)
    runs = _runs_of_o(atoms)

    def are_digits(some: list[_Atom]) -> bool:
        return all(atom.is_number and len(atom.text) == 1 for atom in some)

    def is_between(first: int, end: int) -> bool:
        return first > 0 and read[first - 1].is_number and end < len(read) and read[end].is_number

    def is_start(first: int, end: int) -> bool:
        # Not the last letter of "I S O nine zero zero one", nor the exclamation.
        is_letter = all(atom.text == "o" for atom in read[first:end]) and not (
            first > 0 and read[first - 1].is_letter
        )
        return is_letter and end + 3 <= len(read) and are_digits(read[end : end + 3])

    def is_end(first: int, end: int) -> bool:
        is_hour = end < len(read) and read[end].text == "oclock"
        return not is_hour and first > 1 and are_digits(read[first - 2 : first])

    for is_zero in (is_between, is_start, is_end):
        for first, end in runs:
            if is_zero(first, end):
                read[first:end] = [_Atom("0", is_number=True)] * (end - first)
    return read


def _runs_of_o(atoms: list[_Atom]) -> list[tuple[int, int]]:
    are_o = itertools.groupby(range(len(atoms)), key=lambda at: atoms[at].text in {"o", "oh"})
    runs = [list(run) for is_o, run in are_o if is_o]
    return [(run[0], run[-1] + 1) for run in runs]


def _number_at(words: list[str], at: int) -> tuple[str, int] | None:
    """Return the digits of the number that starts here, and where the words after it start."""
    word = words[at]
    is_multiplied = bool(word) and (words[at + 1] == "hundred" or words[at + 1] in _SCALES)
    if word.isascii() and word.isdigit():
        return _cardinal(words, at) if len(word) <= 3 and is_multiplied else (word, at + 1)
    if word == "a" and is_multiplied:
        return _cardinal(words, at + 1)
    # "one second" is a time; "March second" a date.
    if word == "second" and words[at - 1] not in _MONTHS and words[at - 1] not in _SHORT_MONTHS:
        return None
    return _cardinal(words, at) if word in _NUMBER_WORDS else None


def _cardinal(words: list[str], at: int) -> tuple[str, int]:
    total = 0
    limit = 10**15
    while True:
        value, at, is_over = _below_thousand(words, at)
        scale = _SCALES.get(words[at], 0)
        if is_over or not scale or scale >= limit:
            return str(total + value), at
        total += value * scale
        limit = scale
        at += 1
        following = at + (words[at] == "and")
        if not _continues(words, following, scale):
            return str(total), at
        at = following


def _continues(words: list[str], at: int, scale: int) -> bool:
    """Whether a number word follows that belongs to the number: "two thousand | twenty four"."""
    if words[at] not in _NUMBER_WORDS or words[at] in {*_SCALES, "zero", "second", "thousandth"}:
        return False
    value, after, _ = _below_thousand(words, at)
    return _SCALES.get(words[after], 1) < scale and value < 1000


def _below_thousand(words: list[str], at: int) -> tuple[int, int, bool]:
    """Return a value as far as "hundred" goes, where it ends, and whether an ordinal has ended the number."""
    word = words[at]
    if word in _SCALES:
        return 1, at, False
    if word == "thousandth":
        return 1000, at + 1, True
    if word in {"hundred", "hundredth"}:
        value, is_over = 1, False
    elif word.isdigit():
        value, at, is_over = int(word), at + 1, False
    else:
        value, at, is_over = _below_hundred(words, at)
    if is_over or value == 0:
        return value, at, is_over
    if words[at] == "hundredth":
        return value * 100, at + 1, True
    if words[at] != "hundred" or value >= 100:
        return value, at, False
    value, at = value * 100, at + 1
    following = at + (words[at] == "and")
    word = words[following]
    if word in {*_UNITS, *_TENS, *_ORDINALS} - {"zero", "second"}:
        rest, at, is_over = _below_hundred(words, following)
        return value + rest, at, is_over
    return value, at, False


def _below_hundred(words: list[str], at: int) -> tuple[int, int, bool]:
    word = words[at]
    if word in _ORDINALS:
        return _ORDINALS[word], at + 1, True
    if word in _UNITS:
        return _UNITS[word], at + 1, False
    value = _TENS[word]
    following = words[at + 1]
    if 1 <= _UNITS.get(following, 0) <= 9:
        return value + _UNITS[following], at + 2, False
    if 1 <= _ORDINAL_UNITS.get(following, 0) <= 9:
        return value + _ORDINAL_UNITS[following], at + 2, True
    return value, at + 1, False


# ------------------------------------------------------------------------------------------------------------ dates


def _join_dates(atoms: list[_Atom]) -> list[_Atom]:
    """Leave out "the" and "of" around the day of a month: "the 14th of March", "March the 14th"."""
    groups = _long_months(_groups(atoms))
    firsts = [*(group[0].text for group in groups), "", ""]
    joined: list[_Atom] = []
    for index, group in enumerate(groups):
        next_is_month = firsts[index + 1] in _MONTHS
        if group[0].text == "of" and index and _is_day(groups[index - 1]):
            if next_is_month:
                continue
        elif _is_day(group):
            is_before_month = next_is_month or (firsts[index + 1] == "of" and firsts[index + 2] in _MONTHS)
            if is_before_month or _word_before_the(joined) in _MONTHS:
                while joined and joined[-1].text == "the":
                    joined.pop()
        joined.extend(group)
    return joined


def _long_months(groups: list[list[_Atom]]) -> list[list[_Atom]]:
    """Write out short months beside a day: "Mar 14", "the 14th of Mar"."""
    written = list(groups)
    for index, group in enumerate(groups):
        month = _SHORT_MONTHS.get(group[0].text)
        if month is None:
            continue
        before = index - 1 - (index > 0 and groups[index - 1][0].text == "of")
        after = index + 1
        while after < len(groups) and groups[after][0].text == "the":
            after += 1
        if (before >= 0 and _is_day(groups[before])) or (after < len(groups) and _is_day(groups[after])):
            written[index] = [_Atom(month)]
    return written


def _word_before_the(atoms: list[_Atom]) -> str:
    return next((atom.text for atom in reversed(atoms) if atom.text != "the"), "")


def _is_day(group: list[_Atom]) -> bool:
    digits = "".join(atom.text for atom in group)
    return group[0].is_number and len(digits) <= 2 and 1 <= int(digits) <= 31


_MEANINGFUL = frozenset(
    {
        *_NUMBER_WORDS, *_MONTHS, *_SHORT_MONTHS, *_SAME, *_SAME.values(), "o", "oh", "oclock", "clock", "and", "of",
        "the", "per", "percent", "cent", "pence", "am", "pm",
    }
)  # fmt: skip
