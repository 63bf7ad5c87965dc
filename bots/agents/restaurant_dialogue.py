"""The restaurant's side of a booking: what it understands, and what it says. Pure and deterministic, without Pipecat.

    Restaurant: Good evening, Bella Vista, how can I help you?
    Caller:     I'd like a table for four on Friday at half past seven.
    Restaurant: (check_availability) We have a table for four on Friday at 7:30 PM. What name is it for?
    Caller:     Miller.
    Restaurant: And what is your phone number?
    Caller:     Five five five, zero one four two.
    Restaurant: So that is a table for four ... Is that right?
    Caller:     Yes.
    Restaurant: (book_table) Your table is booked, Miller. Is there anything else?
    Caller:     No, thank you. Goodbye.
    Restaurant: Thank you for calling. Goodbye!

It is lenient where recognition errs: digits for words and words for digits, "for" for "four", "to" for "two".
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

GREETING = "Good evening, Bella Vista, how can I help you?"
HOURS = "We are open from Tuesday to Sunday, from five in the evening until eleven."
MENU = (
    "To begin with, we have tomato soup, and a salad of figs and goat cheese. "
    "After that there is fresh pasta with mushrooms, roast lamb, or the catch of the day."
)
"""Long enough to be interrupted: with the question that follows, it takes about eleven seconds to say."""
LARGEST_PARTY = 12

Slot = Literal["people", "day", "time", "name", "phone"]
SLOTS: tuple[Slot, ...] = ("people", "day", "time", "name", "phone")

QUESTIONS: dict[Slot, str] = {
    "people": "For how many people?",
    "day": "For which day?",
    "time": "At what time?",
    "name": "What name is it for?",
    "phone": "And what is your phone number?",
}

_UNITS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
_HOMOPHONES = {"for": 4, "fore": 4, "to": 2, "too": 2, "won": 1, "ate": 8, "tree": 3, "free": 3, "sex": 6, "sicks": 6}
_WORDS_OF = {value: word for word, value in (*_UNITS.items(), *_TENS.items())}
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
_MAKE_IT_FEW = re.compile(r"\bmake (?:it|that)\s+(?:one|two|three|four|for|to|too|[1-4])\s*[.!]?\s*$")
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

_BYE = re.compile(
    r"\b(?:good\s?bye|bye|see you|farewell|have a (?:nice|good|lovely|great) (?:day|evening|night|one))\b"
)
_NOTHING_ELSE = re.compile(
    r"\b(?:no|nope|nothing|that is all|that's all|that will be all|that'll be all|all good|thanks|thank you)\b"
)
_NO = re.compile(r"\b(?:no|nope|not right|not correct|isn't right|wrong|incorrect|not quite|mistake)\b")
_YES = re.compile(
    r"\b(?:yes|yeah|yep|yup|correct|right|exactly|perfect|sure|sounds good|please do|ok|okay|of course|great|fine|"
    r"good|absolutely|it is|go ahead)\b"
)
_THINKING = re.compile(
    r"\W*(?:(?:well|so|okay|ok|oh|yes|yeah|um+|uh+|er+|hm+|let me (?:see|think|check)|let's see|hold on|hang on|wait|"
    r"(?:just )?(?:a|one) (?:moment|second|minute)|please)\W*)+"
)
_THINKING_WORD = re.compile(r"\b(?:um+|uh+|er+|hm+|let|hold|hang|wait|moment|second|minute)\b")
_MENU_ASKED = re.compile(
    r"\b(?:menu|specials?|what (?:food|dishes)|what (?:do you|have you|you) (?:serve|got|have)|to eat|what's cooking|"
    r"recommend)\b(?! (?:free|available|open|left|on|at|tonight|tomorrow|today|for (?!dinner|dessert|starters)))"
)
_HOURS_ASKED = re.compile(r"\b(?:opening (?:hours|times)|open(?:ed)?|clos(?:e|ed|ing)|your hours)\b")
_REPEAT = re.compile(
    r"\b(?:repeat|say (?:that|it) again|pardon|come again|didn't (?:catch|hear|get)|what did you say)\b"
)
_CANCEL = re.compile(r"\b(?:cancel|never ?mind|forget (?:it|about it)|changed my mind)\b")
_BOOKING = re.compile(r"\b(?:book|booking|table|reserve|reservation)\b")
_HELLO = re.compile(r"\b(?:hello|hi|good (?:evening|morning|afternoon|day)|hey)\b")
_FAQ = [
    (
        re.compile(r"\b(?:where (?:are you|is the restaurant)|address|located|find you)\b"),
        "We are at 12 Harbour Street.",
    ),
    (re.compile(r"\b(?:vegetarian|vegan|gluten)\b"), "Yes, we have vegetarian, vegan and gluten free dishes."),
    (re.compile(r"\b(?:parking|park)\b"), "There is free parking behind the restaurant."),
]


@dataclass(frozen=True)
class Call:
    name: Literal["check_availability", "book_table"]
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """What the restaurant does next: says something, or calls a function, and perhaps ends the call."""

    say: str = ""
    call: Call | None = None
    end: bool = False


@dataclass(frozen=True)
class Booking:
    """What is known of a booking.

    Attributes:
        day: ``Friday``, ``today``, ``tomorrow`` or ``March 14``.
        time: 24 hours, ``19:30``.
        phone: Digits only.
    """

    people: int | None = None
    day: str | None = None
    time: str | None = None
    name: str | None = None
    phone: str | None = None

    def missing(self) -> Slot | None:
        return next((slot for slot in SLOTS if getattr(self, slot) is None), None)


def check_availability(people: int, day: str, time: str) -> dict[str, Any]:
    """Tell whether there is a table; closed on Mondays and outside 17:00 to 22:00, at most 12 people."""
    if people > LARGEST_PARTY:
        return {"available": False, "reason": "too_many_people"}
    if day == "Monday":
        return {"available": False, "reason": "closed_that_day"}
    if not "17:00" <= time <= "22:00":
        return {"available": False, "reason": "closed_at_that_time"}
    return {"available": True}


def book_table(name: str, people: int, day: str, time: str, phone: str) -> dict[str, Any]:
    """Book a table; the reference depends on nothing but the booking."""
    number = sum(map(ord, f"{name}{people}{day}{time}{phone}")) % 9000 + 1000
    return {"booked": True, "reference": f"BV{number}"}


@dataclass
class RestaurantDialogue:
    """One conversation. Feed it what the caller said and what functions returned; it tells what to do next."""

    booking: Booking = field(default_factory=Booking)
    booked: bool = False
    ended: bool = False
    _asked: Slot | Literal["confirm", "anything_else"] | None = None
    _last: str = ""
    _available_for: tuple[Any, ...] | None = None
    _phone_begun: str = ""
    _silences: int = 0

    def greet(self) -> Step:
        return self._say(GREETING)

    def hear(self, text: str) -> Step:
        self._silences = 0
        keys = re.findall(r"DTMF:\s*([0-9*#]+)", text)
        spoken = re.sub(r"DTMF:\s*[0-9*#]+", " ", text).strip()
        words = _normal(spoken)
        for sequence in keys:
            self._take_keys(sequence)
        if not words and not keys:
            return self._say(f"Sorry, I did not get that. {self._question()}")
        if _REPEAT.search(words):
            return self._say(self._last or GREETING)
        if is_thinking(words):
            return self._say("Take your time.", remember=False)
        if self.booked:
            return self._after_booking(words)
        if _CANCEL.search(words):
            return self._end("All right, I have not booked anything. Goodbye!")
        if words and (answer := self._small_question(words)):
            return self._say(f"{answer} {self._question()}".strip())
        before = self.booking
        change = self._understand(words, spoken) if words else {}
        if change:
            self.note(change)
        changed = self.booking != before or bool(keys)
        if not changed and _BYE.search(words):
            return self._end("Thank you for calling. Goodbye!")
        if self._asked == "confirm" and not changed:
            return self._confirmation(words)
        if not changed and not change and not self._phone_begun:
            return self._not_understood(words)
        return self._next("Good. " if changed and before != Booking() else "")

    def note(self, found: dict[str, Any]) -> None:
        """Write down what the caller said of the booking, by the names of :class:`Booking`'s attributes."""
        self.booking = replace(self.booking, **found)

    def function_returned(self, name: str, result: dict[str, Any]) -> Step:
        booking = self.booking
        if name == "book_table":
            self.booked = True
            self._asked = "anything_else"
            return self._say(f"Your table is booked, {booking.name}. Is there anything else?")
        if result.get("available"):
            self._available_for = (booking.people, booking.day, booking.time)
            return self._next(f"We have a table {_party(booking)} {_when(booking)}. ")
        reason = result.get("reason")
        if reason == "too_many_people":
            self.booking = replace(booking, people=None)
            return self._next(f"I am sorry, {LARGEST_PARTY} people is the most we can take. ")
        if reason == "closed_that_day":
            self.booking = replace(booking, day=None)
            return self._next(f"I am sorry, we are closed on {booking.day}s. ")
        self.booking = replace(booking, time=None)
        return self._next("I am sorry, our tables are from five to ten in the evening. ")

    def silent(self) -> Step:
        """The caller has said nothing for a while: ask again, at most twice; after a booking say goodbye."""
        self._silences += 1
        if self.booked or self._silences > 2:
            return self._end("Thank you for calling. Goodbye!")
        return self._say(f"Are you still there? {self._question()}".strip(), remember=False)

    def _say(self, text: str, *, remember: bool = True) -> Step:
        if remember:
            self._last = text
        return Step(say=text)

    def _end(self, text: str) -> Step:
        self.ended = True
        self._last = text
        return Step(say=text, end=True)

    def _question(self) -> str:
        if self._asked == "confirm":
            return "Is the booking right?"
        if self._asked == "anything_else":
            return "Is there anything else?"
        if self._asked is None:
            return "Would you like to book a table?"
        return QUESTIONS[self._asked]

    def _next(self, lead: str = "") -> Step:
        booking = self.booking
        missing = booking.missing()
        known = (booking.people, booking.day, booking.time)
        if None not in known and self._available_for != known:
            return Step(
                call=Call("check_availability", {"people": booking.people, "day": booking.day, "time": booking.time})
            )
        if missing == "phone" and self._phone_begun:
            self._asked = "phone"
            return self._say("Go on, please.")
        if missing:
            self._asked = missing
            return self._say(f"{lead}{QUESTIONS[missing]}")
        self._asked = "confirm"
        return self._say(
            f"So that is a table {_party(booking)} {_when(booking)}, under the name {booking.name}, "
            f"phone number {_spaced(booking.phone or '')}. Is that right?"
        )

    def _confirmation(self, words: str) -> Step:
        if _NO.search(words):
            return self._say("What should I change?")
        if _YES.search(words):
            booking = self.booking
            return Step(
                call=Call("book_table", {slot: getattr(booking, slot) for slot in ("name", *SLOTS[:3], "phone")})
            )
        return self._not_understood(words)

    def _after_booking(self, words: str) -> Step:
        if answer := self._small_question(words):
            return self._say(f"{answer} Is there anything else?")
        if _BYE.search(words) or _NOTHING_ELSE.search(words):
            return self._end("Thank you for calling. Goodbye!")
        return self._say("I am sorry, I can only help with bookings. Is there anything else?")

    def _small_question(self, words: str) -> str | None:
        if _HOURS_ASKED.search(words) and not _BOOKING.search(words):
            return HOURS
        if answer := next((answer for pattern, answer in _FAQ if pattern.search(words)), None):
            return answer
        return MENU if _MENU_ASKED.search(words) and not _BOOKING.search(words) else None

    def _not_understood(self, words: str) -> Step:
        if self._asked is None:
            if _BOOKING.search(words) or _YES.search(words):
                self._asked = "people"
                return self._say(f"With pleasure. {QUESTIONS['people']}")
            if _HELLO.search(words):
                return self._say("Hello! Would you like to book a table?")
        return self._say(f"Sorry, I did not get that. {self._question()}")

    def _take_keys(self, sequence: str) -> None:
        digits = re.sub(r"\D", "", sequence)
        if len(digits) >= 5 or (self._asked == "phone" and digits):
            self.note({"phone": digits})
            self._phone_begun = ""
        elif self._asked == "time" and (
            time := _clock(digits[:-2] or digits, digits[-2:] if len(digits) > 2 else "0")
        ):
            self.note({"time": time})
        elif digits and 0 < int(digits) < 100:
            self.note({"people": int(digits)})

    def _understand(self, words: str, spoken: str) -> dict[str, Any]:
        """Find what can be found; each find is taken out of the text, so that no number counts twice."""
        found: dict[str, Any] = {}
        phone, rest = _find_phone(words, at_least=5 if self._asked == "phone" else 7)
        if self._asked == "phone":
            part, without = _find_phone(words, at_least=1) if phone is None else (None, rest)
            if part and self.booking.phone is None:
                self._phone_begun += part
                rest = without
                if len(self._phone_begun) >= 7:
                    phone = self._phone_begun
            elif phone and self._phone_begun:
                phone = self._phone_begun + phone
        if phone:
            found["phone"] = phone
            self._phone_begun = ""
        day, rest = _find_day(rest)
        if day:
            found["day"] = day
        # "Make it three" changes the people, also when the time was asked for: nobody dines at three.
        time, rest = _find_time(rest, bare=self._asked == "time" and not _MAKE_IT_FEW.search(rest))
        if time:
            found["time"] = time
        people, rest = _find_people(rest, bare=self._asked == "people")
        if people is not None:
            found["people"] = people
        if name := self._find_name(spoken, found):
            found["name"] = name
        return found

    def _find_name(self, spoken: str, found: dict[str, Any]) -> str | None:
        introduced = _name_after(spoken, strong=self._asked != "name")
        if introduced:
            return introduced
        if self._asked != "name" or found:
            return None
        return _clean_name(spoken)


def is_thinking(text: str) -> bool:
    """Tell whether a caller has only said that they are thinking, as in "Let me see", and is about to go on."""
    words = _normal(text)
    return bool(_THINKING.fullmatch(words) and _THINKING_WORD.search(words))


def _normal(text: str) -> str:
    text = text.lower().replace("’", "'")
    text = re.sub(r"(\d)(?:st|nd|rd|th)\b", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"[^a-z0-9:.,'\- ]", " ", text)).strip()


def _value(word: str) -> int | None:
    if word.isdigit():
        return int(word)
    return _UNITS.get(word, _TENS.get(word, _HOMOPHONES.get(word)))


def _without(text: str, match: re.Match[str]) -> str:
    return f"{text[: match.start()]} , {text[match.end() :]}"


def _find_phone(words: str, at_least: int) -> tuple[str | None, str]:
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


def _find_day(words: str) -> tuple[str | None, str]:
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


def _find_time(words: str, *, bare: bool) -> tuple[str | None, str]:
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
        return _clock(hhmm[:-2], hhmm[-2:], half)
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
    return _clock(hour, minute, half)


def _clock(hour: str, minute: str, half: str | None = None) -> str | None:
    """Return the time in 24 hours; without ``am`` a restaurant's caller means the afternoon or evening."""
    hours, minutes = _value(hour), _value(minute)
    if hours is None or minutes is None or hours > 23 or minutes > 59:
        return None
    if 0 < hours < 12 and half != "am":
        hours += 12
    return f"{hours:02d}:{minutes:02d}"


def _find_people(words: str, *, bare: bool) -> tuple[int | None, str]:
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


def _name_after(spoken: str, *, strong: bool) -> str | None:
    """Find a name that is introduced; ``strong`` takes only the words that introduce nothing else."""
    for match in _NAME.finditer(spoken):
        introduction = match.group().lower()
        if strong and not re.match(r"my |the name|name|under|call me", introduction):
            continue
        if name := _clean_name(match["name"]):
            return name
    return None


def _clean_name(text: str) -> str | None:
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


def _party(booking: Booking) -> str:
    people = booking.people or 0
    return f"for {_WORDS_OF.get(people, str(people))}"


def _when(booking: Booking) -> str:
    day = booking.day or ""
    hours, minutes = (int(part) for part in (booking.time or "0:0").split(":"))
    half = "AM" if hours < 12 else "PM"
    clock = f"{(hours - 1) % 12 + 1}" + (f":{minutes:02d}" if minutes else "")
    return f"{day if day in ('today', 'tomorrow') else f'on {day}'} at {clock} {half}"


def _spaced(phone: str) -> str:
    if len(phone) == 7:
        return f"{phone[:3]}-{phone[3:]}"
    if len(phone) == 10:
        return f"{phone[:3]}-{phone[3:6]}-{phone[6:]}"
    return phone
