import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.caller.speech.speakable import speakable

WRITTEN_OUT = {
    # telephone and card numbers
    "555-0142": "five five five, zero one four two",
    "Call 555-0142.": "Call five five five, zero one four two.",
    "(415) 555-0142": "four one five, five five five, zero one four two",
    "(415)555-0142": "four one five, five five five, zero one four two",
    "+1 415-555-0142": "plus one, four one five, five five five, zero one four two",
    "415.555.0142": "four one five, five five five, zero one four two",
    "415 555 0142": "four one five, five five five, zero one four two",
    "555 0142": "five five five, zero one four two",
    "1-800-555-0199": "one, eight zero zero, five five five, zero one nine nine",
    "020 7946 0958": "zero two zero, seven nine four six, zero nine five eight",
    "4111 1111 1111 1111": "four one one one, one one one one, one one one one, one one one one",
    "123-45-6789": "one two three, four five, six seven eight nine",
    "94107-1234": "nine four one zero seven, one two three four",
    "5550142": "five five five zero one four two",
    "it's 5550142, thanks": "it's five five five zero one four two, thanks",
    # order numbers and other codes
    "order number 4821": "order number four eight two one",
    "my order 4821, please": "my order four eight two one, please",
    "Order number: 4821": "Order number: four eight two one",
    "the PIN is 1234": "the PIN is one two three four",
    "code 883": "code eight eight three",
    "flight 482": "flight four eight two",
    "#4821": "number four eight two one",
    "my order #4821": "my order number four eight two one",
    "zip code 94107": "zip code nine four one zero seven",
    "48213": "four eight two one three",
    "call 911": "call nine one one",
    "3-8-1-2": "three eight one two",
    # leading zeros
    "007": "zero zero seven",
    "extension 042": "extension zero four two",
    "02139": "zero two one three nine",
    # letters and digits
    "AB-1207": "A.B. one two zero seven",
    "AB1207.": "A.B. one two zero seven.",
    "It is AB-12, right?": "It is A.B. one two, right?",
    "UA482": "U.A. four eight two",
    "X7K9": "X seven K nine",
    "x7k9": "X seven K nine",
    "aB3xK9": "A.B. three X.K. nine",
    "A7-42B": "A, seven, four two B",
    "AB-12-XY.": "A.B. one two, X.Y.",
    "SW1A 1AA": "S.W. one A, one A.A.",
    "ISO-9001": "I.S.O. nine zero zero one",
    # e-mail addresses
    "jane.doe@example.com": "jane dot doe at example dot com",
    "Write to j.smith42@example.org.": "Write to J dot smith four two at example dot org.",
    "bob_x@mail.co.uk": "bob underscore X at mail dot co dot U K",
    "a-b+c@x.io": "A dash B plus C at X dot I O",
}

LEFT_ALONE = """
Hello there. | A table for 12 people | at 7 pm | 7pm, or 10am | at 7:30, or 19:05 | 07:05 | $3.20 | $12345
$1,250.00 | 1,250 people | 0.5 | 3.14159265 | 0 | March 14 | March 14, 2025 | 2025-03-14 | 03/14/2025
14.03.2025 | 14-03-2025 | in 1985 | 1990-2000 | 2-3 days | 100-200 | 24/7 | 1st, 2nd, 3rd and 22nd
5km, 10GB and 4K | 100% | I'd like to order 250 envelopes | 12500 people | F-16 | COVID-19 | B2B and H2O
MP3 | A12 | 4x4 | 1h30m | room 204 | the 1980s | 192.168.1.1 | @home | O'Neill's 42
"""


@pytest.mark.parametrize(("written", "spoken"), WRITTEN_OUT.items())
def test_codes_are_written_out(written: str, spoken: str) -> None:
    assert speakable(written) == spoken


@pytest.mark.parametrize("written", ["", *re.split(r" \| |\n", LEFT_ALONE.strip())])
def test_what_is_read_well_is_left_alone(written: str) -> None:
    assert speakable(written) == written


ALPHABET = "0123456789" * 3 + "ABab xX-.,:/@#$+()' \n" + "é٣"


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(alphabet=ALPHABET, max_size=60)))
def test_any_text_is_taken_and_speakable_text_stays(text: str) -> None:
    once = speakable(text)
    assert speakable(once) == once


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "piece", ["1", "a", "1 ", "1-", "a1", "a@", "a.", "+(", "0 12", "A1-", "order 123 ", "a@b.c"]
)
def test_long_text_takes_bounded_time(piece: str) -> None:
    text = (piece * 10_000)[:10_000]
    speakable(text)
