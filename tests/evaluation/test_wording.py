import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.caller.speech.speakable import speakable
from runner.evaluation.wording import contains_words, normalise_words, same_words
from tests.examples import examples
from tests.speech.test_speakable import WRITTEN_OUT

NORMALISED = {
    "": "",
    " ,.!? ": "",
    "Hello,   THERE!": "hello there",
    "Don’t": "dont",
    "Café, naïve": "cafe naive",
    "555-0142": "5550142",
    "two": "2",
    "3, 8, 1, 2": "3812",
    "March 14": "march 14",
    "7 pm": "7 pm",
    "twenty one": "21",
    "twenty-one": "21",
    "a hundred": "100",
    "one hundred and five": "105",
    "two thousand twenty four": "2024",
    "two thousand and twenty-four": "2024",
    "one million two hundred thousand and three": "1200003",
    "nineteen ninety": "1990",
    "3 million": "3000000",
    "1,250,000": "1250000",
    "one second": "1 second",
    "AB-1207": "ab 1207",
    "100 and 5": "100 and 5",
    "t e n": "t e n",
    "dollar": "dollar",
}

SAME = [
    ("555-0142", "five five five zero one four two"),
    ("555-0142", "5550142"),
    ("555-0142", "five five five, oh one four two"),
    ("555-0142", "555 0142."),
    ("020 7946 0958", "o two o seven nine four six o nine five eight"),
    ("5 5 0", "five five oh"),
    ("4002", "four oh oh two"),
    ("the 1st of Mar", "first of March"),
    ("3, 8, 1, 2", "three eight one two"),
    ("3812", "3-8-1-2"),
    ("March 14", "march fourteenth"),
    ("March 14", "march fourteen"),
    ("March 14th", "March the 14th"),
    ("the 14th of March", "14 march"),
    ("Mar 14", "March fourteenth"),
    ("March 2", "March second"),
    ("March 22nd, 2025", "march twenty second twenty twenty five"),
    ("2025-03-14", "March 14, 2025"),
    ("3/14/2025", "March fourteenth, two thousand twenty five"),
    ("7 pm", "seven p.m."),
    ("7pm", "seven P M"),
    ("7:00 PM", "7 p.m."),
    ("7:30", "seven thirty"),
    ("7:30 pm", "7.30pm"),
    ("7:00pm", "7.00 p.m."),
    ("7:05 a.m.", "seven oh five AM"),
    ("7 o'clock", "seven"),
    ("two", "2"),
    ("12 people", "twelve people"),
    ("$3.20", "three dollars and twenty cents"),
    ("$3.20", "3 dollars 20 cents"),
    ("$1,250", "one thousand two hundred fifty dollars"),
    ("$3.5 million", "three point five million dollars"),
    ("$1", "one dollar"),
    ("50%", "fifty per cent"),
    ("3.5", "three point five"),
    ("AB-1207", "A B one two zero seven"),
    ("AB-1207", "ab 1207"),
    ("AB1207", "A.B. 1207"),
    ("X7K9", "x 7 k 9"),
    ("jane.doe@example.com", "Jane dot Doe at example dot com"),
    ("example.com", "example dot com"),
    ("1st", "first"),
    ("21st", "twenty-first"),
    ("#5", "number five"),
    ("OK", "Okay"),
    ("U.S.", "US"),
    ("Q&A", "q and a"),
    ("Mr. Smith", "mister smith"),
]

DIFFERENT = [
    ("555-0142", "555-0143"),
    ("two", "too"),
    ("7 pm", "7 am"),
    ("twelve", "one hundred two"),
    ("oh, 5 people", "05 people"),
    ("March 14", "March 40"),
    ("$3.20", "$3.02"),
    ("3.5", "35"),
]

CONTAINED = [
    ("My number is 5550142.", "555-0142"),
    ("My number is five five five, 0142.", "555"),
    ("At 7, 12 people", "twelve people"),
    ("See you on March 14th at 7 pm", "7 p.m."),
    ("plan A I think", "plan a"),
    ("anything", ""),
    ("a b a b c", "a b c"),
]

NOT_CONTAINED = [
    ("My number is 5550142.", "555"),
    ("12 people", "two people"),
    ("the category", "cat"),
    ("concatenate", "cat"),
    ("", "cat"),
]


@pytest.mark.parametrize(("text", "normalised"), NORMALISED.items())
def test_normalised_form(text: str, normalised: str) -> None:
    assert normalise_words(text) == normalised


@pytest.mark.parametrize(("a", "b"), SAME)
def test_same_words(a: str, b: str) -> None:
    assert normalise_words(a) == normalise_words(b)
    assert same_words(f"It is {a}, thanks", f"it is {b} thanks")


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_words(a: str, b: str) -> None:
    assert not same_words(a, b)


@pytest.mark.parametrize(("text", "part"), CONTAINED)
def test_part_is_contained(text: str, part: str) -> None:
    assert contains_words(text, part)


@pytest.mark.parametrize(("text", "part"), NOT_CONTAINED)
def test_part_is_not_contained(text: str, part: str) -> None:
    assert not contains_words(text, part)


@pytest.mark.parametrize("written", WRITTEN_OUT)
def test_speakable_text_says_the_same_words(written: str) -> None:
    assert normalise_words(speakable(written)) == normalise_words(written)


PIECES = """
0 1 5 12 55 100 2024 one two five ten twenty fifty hundred hundredth thousand million a and the of o oh clock oclock
o'clock second first third march mar may dollars cents $ £3.20 $5 % # @ . - : / + a b t e n h i m p p.m. 7:00 3.5
1,000 AB-12 2024-01-02 jane.doe@x.com per cent İ ß ﬁ
"""
WORDS = st.lists(st.sampled_from(PIECES.split()), max_size=12)


@settings(deadline=None, max_examples=examples(300))
@given(st.one_of(st.text(), WORDS.map(" ".join), WORDS.map("".join)))
def test_any_text_is_taken_and_normalised_text_stays(text: str) -> None:
    once = normalise_words(text)
    assert normalise_words(once) == once
    assert contains_words(text, text)


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=10**15 - 1))
def test_number_words_are_their_digits(number: int) -> None:
    from num2words import num2words

    assert normalise_words(num2words(number)) == str(number)


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=31))
def test_ordinals_are_their_digits(day: int) -> None:
    from num2words import num2words

    assert normalise_words(f"March {num2words(day, to='ordinal')}") == f"march {day}"


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "piece", ["1", "a", "1 ", "o ", "one ", "1,000", "a@", "$1", "the ", "A1-", "million ", "1."]
)
def test_long_text_takes_bounded_time(piece: str) -> None:
    text = (piece * 10_000)[:10_000]
    contains_words(text, text)


def test_wording_loads_nothing_heavy() -> None:
    code = (
        "import sys, runner.evaluation.wording;"
        "assert not {'pipecat', 'numpy', 'pydantic', 'soxr', 'hibari'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
