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

What it understands of the caller's words is in :mod:`bots.agents.restaurant_understanding`.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bots.agents.restaurant_understanding import (
    MAKE_IT_FEW,
    WORDS_OF,
    clean_name,
    clock,
    find_day,
    find_people,
    find_phone,
    find_time,
    is_thinking,
    name_after,
    normal,
)

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
_ASKED_AGAIN: dict[str | None, str] = {
    **QUESTIONS,
    None: "Would you like to book a table?",
    "confirm": "Is the booking right?",
    "anything_else": "Is there anything else?",
}
_REFUSED = {
    "too_many_people": ("people", f"{LARGEST_PARTY} people is the most we can take"),
    "closed_that_day": ("day", "we are closed on {booking.day}s"),
    "closed_at_that_time": ("time", "our tables are from five to ten in the evening"),
}
"""What is asked again where there is no table, and why."""

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
        words = normal(spoken)
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
        slot, why = _REFUSED[result["reason"]]
        self.booking = replace(booking, **{slot: None})
        return self._next(f"I am sorry, {why.format(booking=booking)}. ")

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
        return _ASKED_AGAIN[self._asked]

    def _next(self, lead: str = "") -> Step:
        booking = self.booking
        missing = booking.missing()
        known = (booking.people, booking.day, booking.time)
        if None not in known and self._available_for != known:
            return Step(call=Call("check_availability", dict(zip(SLOTS, known, strict=False))))
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
            time := clock(digits[:-2] or digits, digits[-2:] if len(digits) > 2 else "0")
        ):
            self.note({"time": time})
        elif digits and 0 < int(digits) < 100:
            self.note({"people": int(digits)})

    def _understand(self, words: str, spoken: str) -> dict[str, Any]:
        """Find what can be found; each find is taken out of the text, so that no number counts twice."""
        found: dict[str, Any] = {}
        phone, rest = find_phone(words, at_least=5 if self._asked == "phone" else 7)
        if self._asked == "phone":
            part, without = find_phone(words, at_least=1) if phone is None else (None, rest)
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
        day, rest = find_day(rest)
        if day:
            found["day"] = day
        # "Make it three" changes the people, also when the time was asked for: nobody dines at three.
        time, rest = find_time(rest, bare=self._asked == "time" and not MAKE_IT_FEW.search(rest))
        if time:
            found["time"] = time
        people, rest = find_people(rest, bare=self._asked == "people")
        if people is not None:
            found["people"] = people
        name = name_after(spoken, strong=self._asked != "name")
        if name is None and self._asked == "name" and not found:
            name = clean_name(spoken)
        if name:
            found["name"] = name
        return found


def _party(booking: Booking) -> str:
    people = booking.people or 0
    return f"for {WORDS_OF.get(people, str(people))}"


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
