"""The restaurant's dialogue, as tables of conversations."""

import subprocess
import sys
from typing import Any

import pytest

from bots.agents.restaurant_dialogue import (
    GREETING,
    HOURS,
    MENU,
    Booking,
    RestaurantDialogue,
    Step,
    book_table,
    check_availability,
)
from bots.agents.restaurant_understanding import is_thinking

BOOKED = ["A table for two on Friday at 8", "Jones", "5550142"]
FULL = Booking(people=4, day="Friday", time="19:30", name="Miller", phone="5550142")


def run(dialogue: RestaurantDialogue, line: str) -> tuple[list[tuple[str, dict[str, Any]]], Step]:
    """Say a line, answer the functions called for, and return the calls and what is said in the end."""
    calls: list[tuple[str, dict[str, Any]]] = []
    step = dialogue.hear(line)
    while step.call:
        calls.append((step.call.name, step.call.arguments))
        function = check_availability if step.call.name == "check_availability" else book_table
        step = dialogue.function_returned(step.call.name, function(**step.call.arguments))
    return calls, step


def converse(*lines: str) -> tuple[RestaurantDialogue, list[tuple[str, dict[str, Any]]], Step]:
    dialogue = RestaurantDialogue()
    step = dialogue.greet()
    assert step.say == GREETING
    calls: list[tuple[str, dict[str, Any]]] = []
    for line in lines:
        more, step = run(dialogue, line)
        calls += more
    return dialogue, calls, step


CONVERSATIONS = {
    "one thing at a time": "I'd like to book a table. | Four. | Friday. | Half past seven. | Miller. | 555-0142.",
    "several at once": "A table for four on Friday at 7:30 PM, please. | My name is Miller. | 555 0142",
    "all at once": "Table for 4 on Friday at 7.30, name is Miller, and my phone number is 555-0142.",
    "homophones": "I want to book a table | For. | Friday | seven thirty | Miller | five five five oh one for two",
    "recognised as digits": "Book a table please | 4 | Friday | 730 | It's Miller. | 5550142",
    "keyed in": "A table, please. | DTMF: 4# | Friday | at seven thirty | Miller | DTMF: 5550142#",
    "all keyed": "A table on Friday | DTMF: 4# | DTMF: 730# | The name is Miller | DTMF: 5550142#",
    "a number in two parts": "A table for four on Friday at 7:30 | Miller | Five five five | zero one four two",
    "a slot corrected": "A table for two on Friday at 7:30 | Actually, make it four. | Miller | 555-0142",
    "a day corrected": "A table for four on Thursday at 7:30 | Sorry, I meant Friday | Miller | 555-0142",
    "a time corrected": "A table for four on Friday at eight | Change the time to seven thirty | Miller | 5550142",
    "corrected in one breath": "A table for two, no, for four on Friday at 7:30 | Miller | 555-0142",
    "corrected at the end": "A table for six on Friday at 7:30 | Miller | 555-0142 | No. | Four people.",
    "a name corrected": "A table for four on Friday at 7:30 | Muller | 555-0142 | No, the name is Miller",
    "hours asked first": "When are you open? | A table for four on Friday at 7:30 | Miller | 555-0142",
    "hours asked in between": "A table for four | How late are you open? | Friday at 7:30 | Miller | 555-0142",
    "a Monday": "A table for four on Monday at half past seven | Then Friday. | Miller | 555-0142",
    "too early": "A table for four on Friday at 3 pm | Seven thirty. | Miller | 555-0142",
    "too many": "A table for 20 on Friday at 7:30 | Then four. | Miller | 555-0142",
    "repeated": "A table for four on Friday at 7:30 | Could you repeat that? | Miller | 555-0142",
    "spelled": "A table for four on Friday at 7:30 | M-I-L-L-E-R | double five five zero one four two",
    "politely": (
        "Hello, good evening! | Yes please, for four people. | On Friday evening. | "
        "At seven thirty in the evening | It's under Miller, please. | It's 555-0142, thank you."
    ),
    "a quarter of an hour off, then put right": (
        "Table for 4, Friday, quarter to eight | Make it 7:30 | Miller | 555 0142"
    ),
}


@pytest.mark.parametrize("lines", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_every_way_leads_to_the_same_booking(lines: str) -> None:
    dialogue, calls, step = converse(*lines.split(" | "))
    assert dialogue.booking == FULL
    assert step.say == (
        "So that is a table for four on Friday at 7:30 PM, under the name Miller, phone number 555-0142. "
        "Is that right?"
    )
    assert calls[-1] == ("check_availability", {"people": 4, "day": "Friday", "time": "19:30"})
    calls, step = run(dialogue, "Yes, that's right.")
    assert calls == [
        ("book_table", {"name": "Miller", "people": 4, "day": "Friday", "time": "19:30", "phone": "5550142"})
    ]
    assert step == Step("Your table is booked, Miller. Is there anything else?")
    assert run(dialogue, "No, thank you. Goodbye.") == ([], Step("Thank you for calling. Goodbye!", end=True))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["What are your opening hours?"], HOURS),
        (["Are you open on Monday?"], HOURS),
        (["I'd like to book a table."], "With pleasure. For how many people?"),
        (["Hello?"], "Would you like to book a table?"),
        (["Bananas are yellow."], "Sorry, I did not get that. Would you like to book a table?"),
        (["A table please", "Purple."], "Sorry, I did not get that. For how many people?"),
        (["A table for four"], "For which day?"),
        (["A table for four tomorrow"], "At what time?"),
        (["A table for four tomorrow at 8"], "We have a table for four tomorrow at 8 PM. What name is it for?"),
        (["A table for two on Monday at 8"], "we are closed on Mondays. For which day?"),
        (["A table for two on Sunday at 11 am"], "from five to ten in the evening. At what time?"),
        (["A table for thirteen on Sunday at 8"], "12 people is the most we can take. For how many people?"),
        (["Where are you located?"], "12 Harbour Street"),
        (["Do you have vegetarian dishes?"], "vegetarian"),
        (["What do you have on the menu?"], f"{MENU} Would you like to book a table?"),
        (["What do you have?"], MENU),
        (["Could you tell me the menu, please?"], MENU),
        (["What do you have for dinner?"], MENU),
        (["What can you recommend?"], MENU),
        (["A table for two", "What's on the menu?"], f"{MENU} For which day?"),
        (["I'd like a table for two from the menu"], "For which day?"),
        (["A table for two on Friday", "What do you have at eight?"], "We have a table for two on Friday at 8 PM."),
        (["A table for two", "Let me see."], "Take your time."),
        (["A table for two today at eight", "Smith", "5550142", "Okay, let me see."], "Take your time."),
        (["A table for two today at eight", "Smith", "5550142", "That's not right."], "What should I change?"),
    ],
)
def test_what_it_says(lines: list[str], says: str) -> None:
    _, _, step = converse(*lines)
    assert says in step.say
    assert not step.end


@pytest.mark.parametrize(
    ("asked", "line", "slots"),
    [
        ([], "I need a table for two at eight on Saturday", {"people": 2, "time": "20:00", "day": "Saturday"}),
        ([], "Tomorrow at 8 for 3 people", {"people": 3, "time": "20:00", "day": "tomorrow"}),
        ([], "a party of six tonight at 9 o'clock", {"people": 6, "time": "21:00", "day": "today"}),
        ([], "There will be five of us on the 14th of March", {"people": 5, "day": "March 14"}),
        ([], "March the fourteenth, half past six", {"day": "March 14", "time": "18:30"}),
        ([], "I want to book for Friday", {"day": "Friday", "people": None}),
        ([], "Not Friday, Saturday", {"day": "Saturday"}),
        ([], "A table for to on Sunday", {"people": 2, "day": "Sunday"}),
        ([], "for 7:30", {"time": "19:30", "people": None}),
        ([], "Seven people at seven", {"people": 7, "time": "19:00"}),
        ([], "a table for me and my wife", {"people": 2}),
        ([], "A table for 2 at quarter past 8", {"people": 2, "time": "20:15"}),
        ([], "A table for two at 1930", {"people": 2, "time": "19:30"}),
        ([], "eight p.m.", {"time": "20:00"}),
        (["A table"], "To.", {"people": 2}),
        (["A table"], "Just two, please.", {"people": 2}),
        (["A table"], "We are three.", {"people": 3}),
        (["A table for two on Friday"], "Eight.", {"time": "20:00", "people": 2}),
        (["A table for two on Friday"], "8", {"time": "20:00", "people": 2}),
        (["A table for two on Friday"], "Make it three.", {"people": 3, "time": None}),
        (["A table for two on Friday at 8"], "Alice Smith", {"name": "Alice Smith"}),
        (["A table for two on Friday at 8"], "alice smith", {"name": "Alice Smith"}),
        (["A table for two on Friday at 8"], "You can put it under Jones.", {"name": "Jones"}),
        (["A table for two on Friday at 8"], "This is Peter.", {"name": "Peter"}),
        (["A table for two on Friday at 8"], "Um, it's O'Brien.", {"name": "O'Brien"}),
        (["A table for two on Friday at 8", "Jones"], "+1 (415) 555-0142", {"phone": "14155550142"}),
        (["A table for two on Friday at 8", "Jones"], "415, 555, 0142.", {"phone": "4155550142"}),
        (["A table for two on Friday at 8", "Jones"], "triple five zero one four two", {"phone": "5550142"}),
        (BOOKED, "No, make it Saturday at nine", {"day": "Saturday", "time": "21:00", "people": 2}),
        (BOOKED, "No, my phone number is 555-0199", {"phone": "5550199"}),
        (BOOKED, "Change the number of people to five", {"people": 5}),
    ],
)
def test_what_it_understands(asked: list[str], line: str, slots: dict[str, Any]) -> None:
    dialogue, _, _ = converse(*asked, line)
    assert {slot: getattr(dialogue.booking, slot) for slot in slots} == slots


@pytest.mark.parametrize(
    ("lines", "end"),
    [
        (["Goodbye."], True),
        (["Never mind, bye."], True),
        (["I'd like to cancel."], True),
        (["A table for two", "Sorry, I have to go, bye"], True),
        (["A table for two"], False),
    ],
)
def test_when_it_hangs_up(lines: list[str], end: bool) -> None:
    dialogue, _, step = converse(*lines)
    assert (step.end, dialogue.ended) == (end, end)


def test_a_change_of_table_is_checked_again_but_not_of_name() -> None:
    dialogue, _, _ = converse(*BOOKED)
    assert run(dialogue, "No, make it three")[0] == [
        ("check_availability", {"people": 3, "day": "Friday", "time": "20:00"})
    ]
    calls, step = run(dialogue, "And the name is Smith")
    assert calls == []
    assert "under the name Smith" in step.say


def test_silence_is_asked_about_twice_and_ends_a_finished_call() -> None:
    dialogue, _, _ = converse("A table for two")
    assert "For which day?" in dialogue.silent().say
    assert not dialogue.silent().end
    assert dialogue.silent().end
    dialogue, _, _ = converse(*BOOKED, "Yes")
    assert dialogue.silent().end


def test_speaking_again_starts_the_silences_anew() -> None:
    dialogue, _, _ = converse("A table for two")
    dialogue.silent()
    dialogue.silent()
    run(dialogue, "Friday")
    assert not dialogue.silent().end


@pytest.mark.parametrize(
    ("line", "thinking"),
    [
        ("Let me see.", True),
        ("Well, um...", True),
        ("Okay, one moment, please.", True),
        ("Hold on. Just a second.", True),
        ("Let me see. At eight.", False),
        ("Yes, please.", False),
        ("Well", False),
        ("Wait, make it five.", False),
        ("", False),
    ],
)
def test_who_only_thinks_is_about_to_go_on(line: str, thinking: bool) -> None:
    assert is_thinking(line) is thinking


def test_it_needs_no_pipecat() -> None:
    code = "import sys, bots.agents.restaurant_dialogue; sys.exit('pipecat' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
