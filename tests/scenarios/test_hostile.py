"""Files written to do harm, or by nobody at all: one error or a load, soon, and never anything else."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.errors import UsageError
from runner.reports.scenarios import describe_scenario
from runner.scenarios.evals import load_file
from runner.scenarios.model import Scenario
from runner.settings import Settings
from tests.examples import examples
from tests.scenarios.conftest import CORPUS

pytestmark = pytest.mark.timeout(60)

FILES = {str(path): path.read_bytes() for path in sorted(CORPUS.rglob("*.yaml")) if "shared" not in path.parts}
FUZZ = settings(max_examples=examples(80), deadline=None, suppress_health_check=list(HealthCheck))


def load(folder: Path, content: bytes | str) -> list[Scenario] | str:
    """Return the scenarios, or what the file is told."""
    path = folder / "file.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    try:
        scenarios = load_file(path, Settings())
    except UsageError as error:
        told = str(error)
        assert told.startswith(f"{folder}/")
        assert len(told.splitlines()) == 1
        assert len(told) < 2_000
        return told.removeprefix(f"{folder}/")
    for scenario in scenarios:
        for line in describe_scenario(scenario, has_judge=False):
            assert len(line.splitlines()) == 1
            assert "\x1b" not in line
    return scenarios


def turns(turn: str) -> str:
    return f"name: x\nturns:\n  - {turn}\n"


def arguments(value: str) -> str:
    return turns(f"expect: [{{ event: function_call, args: {value} }}]")


def laughs(levels: int, use: str) -> str:
    """Return a file whose aliases multiply by ten at every level."""
    anchors = "".join(f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, levels))
    return f"name: x\ncontext:\n  - &a0 [lol]\n{anchors}turns:\n  - {use.format(f'*a{levels - 1}')}\n"


MERGES = "name: x\ncontext:\n  - &a0 { user: hi }\n" + "".join(
    f"  - &a{i} {{ <<: [{', '.join([f'*a{i - 1}'] * 10)}] }}\n" for i in range(1, 10)
)
WIDE = "{ <<: [" + ",".join("{" + ",".join(f"k{i}x{j}: 1" for j in range(9)) + "}" for i in range(6_000)) + "] }"

REFUSED: dict[str, tuple[str | bytes, str]] = {
    "10 MB": ("name: x\n" + "# a comment\n" * 900_000, "larger than 1 MB; split it into several files"),
    "10,000 turns": ("name: x\nturns:\n" + "  - user: hi\n" * 10_000, "more than 500 turns"),
    "one line of a megabyte": (turns(f'user: "{"a" * 990_000}"'), "user is longer than 5000 characters"),
    "a key of a megabyte": (f"name: x\n? {'k' * 900_000}\n: 1\n", "unknown key 'kkkk"),
    "an argument's name of a megabyte": (arguments(f"{{ ? {'k' * 900_000} : !!bool x }}"), "'x' is no bool"),
    "a tag of a megabyte": (turns(f"user: !{'k' * 900_000} hi"), "is not known here"),
    "an anchor of a megabyte": (turns(f"user: *{'k' * 900_000}"), "not valid YAML: "),
    "an event of a megabyte": (turns(f"expect: [{{ event: {'k' * 900_000} }}]"), "longer than 1000 characters"),
    "a path of a megabyte": (turns(f"user: !include {'k' * 900_000}"), "longer than 1000 characters"),
    "100,000 lists in lists": ("name: " + "[" * 100_000, "nest"),
    "100,000 mappings in mappings": ("name: " + "{a: " * 100_000, "nested more than 40 deep"),
    "100,000 list items in list items": ("- " * 100_000, "nested more than 40 deep"),
    "100,000 keys in keys": ("? " * 100_000, "nested more than 40 deep"),
    "400,000 values": (arguments("{ a: [" + "1," * 400_000 + "] }"), "holds more than 200000 values"),
    "aliases without end": (laughs(10, "expect: [{{ event: function_call, args: {{ a: {} }} }}]"), "expands to more"),
    "aliases without end as a key": (
        laughs(10, "expect: [{{ event: function_call, args: {{ ? {} : 1 }} }}]"),
        "expands to more than 200000 values",
    ),
    "aliases as a key of a turn": (laughs(3, "{{ ? {} : 1 }}"), "a key of turns #1 must be a plain word"),
    "merges without end": (MERGES + "turns: [*a9]\n", "expands to more than 200000 values"),
    "a list in itself": ("name: x\nturns: &a [*a]\n", "nested more than 40 deep"),
    "arguments in themselves": (arguments("&a { b: *a }"), "nested more than 40 deep"),
    "a mapping merged into itself": (turns("&a { <<: *a }"), "nested more than 40 deep"),
    "a mapping as its own key": (arguments("&a { ? *a : 1 }"), "a key of args must be a plain word"),
    "a call of a Python function": (turns("user: !!python/object/apply:os.system [ls]"), "is not known here"),
    "a Python object": (turns("!!python/object:pathlib.Path { user: hi }"), "is not known here"),
    "a Python name": (turns("user: !!python/name:os.system x"), "is not known here"),
    "a tag that does not fit": (arguments("{ a: !!int '' }"), "'' is no int"),
    "an integer of 400 digits": (
        "name: x\nmax_duration_s: " + "9" * 400 + "\nturns: [{ user: hi }]\n",
        "to 7200, not 99",
    ),
    "an integer of 100,000 digits": ("name: x\nmax_duration_s: " + "9" * 100_000, "needs 'turns'"),
    "a time of 100,000 digits": (turns("silence_ms: " + "9" * 100_000), "is no int"),
    "a setting of 400 digits": (
        "name: x\nturn_taking: { answer_timeout_s: " + "9" * 400 + " }\nturns: [{ user: hi }]\n",
        "answer_timeout_s: ",
    ),
    "an endless call": ("name: x\nmax_duration_s: .inf\nturns: [{ user: hi }]\n", "must be a number, not '.inf'"),
    "a call of no length": ("name: x\nmax_duration_s: .nan\nturns: [{ user: hi }]\n", "must be a number, not '.nan'"),
    "an endless wait": ("name: x\nturn_taking: { answer_timeout_s: .inf }\nturns: [{ user: hi }]\n", "less than or"),
    "a silence of nothing": (turns("silence_ms: .nan"), "must be a whole number, not '.nan'"),
    "a NUL byte": (b"name: x\nturns: \x00\n", "file.yaml:2: not valid YAML: control characters are not allowed"),
    "no UTF-8": (b"name: x\n\nturns: \xff\n", "file.yaml:3: not UTF-8 (at byte 16)"),
    "UTF-16": ("name: x\nturns: [{ user: hi }]\n".encode("utf-16"), "file.yaml:1: not UTF-8 (at byte 0)"),
    "half a character": (turns('user: "\\ud800"'), "not valid YAML: "),
    "lookaround": (turns("expect: [{ event: response, text_matches: '(?=(a+)+$)' }]"), "no lookaround"),
    "a back reference": (turns("expect: [{ event: response, text_matches: '(a+)\\1+' }]"), "no backreferences"),
    "repetitions of repetitions": (
        turns("expect: [{ event: response, text_matches: '((a{100}){100}){100}' }]"),
        "text_matches is no regular expression",
    ),
    "a pattern of a megabyte": (
        turns(f"expect: [{{ event: response, text_matches: '{'(a+)+' * 190_000}' }}]"),
        "longer than 1000 characters",
    ),
    "a file that includes itself": (turns("user: !include file.yaml"), "goes round in a circle"),
    "an include of the machine's files": (turns("user: !include /etc/passwd"), "is outside of"),
    "an include from the folder above": (turns("user: !include ../secret.yaml"), "is outside of"),
    "an include through a link": (turns("user: !include link.yaml"), "is outside of"),
    "a recording through a link": (turns("{ user: hi, audio: link.yaml }"), "is outside of"),
    "a recording that never ends": (turns("{ user: hi, audio: /dev/zero }"), "is outside of"),
    "a name for the terminal": (turns('{ user: hi, audio: "\\e]0;owned\\a\\n.wav" }'), "there is no file"),
}

LOADED: dict[str, str | bytes] = {
    "a byte order mark": b"\xef\xbb\xbf" + turns("user: hi").encode(),
    "a date as an argument": arguments("{ a: 2026-01-31, b: 2026-13-45, c: 2026-01-31T10:00:00Z }"),
    "no numbers as arguments": arguments("{ a: .nan, b: .inf, c: -.inf }"),
    "a huge argument": arguments("{ a: " + "9" * 4_000 + " }"),
    "90,000 anchors": arguments("{ a: [" + "".join(f"&a{i} 1," for i in range(90_000)) + "] }"),
    "54,000 merged keys": arguments(WIDE),
    "a pattern that explodes elsewhere": turns("expect: [{ event: response, text_matches: '^(a+)+$|((x*)*)*y' }]"),
    "a pattern of brackets": turns(f"expect: [{{ event: response, text_matches: '{'(' * 450}{')' * 450}' }}]"),
    "words for the terminal": turns('user: "\\e[2J\\e]0;owned\\a and\\r\\n\\u2028\\x85\\0 more"'),
    "a name for the terminal": 'name: "\\e[31m\\nred"\nturns: [{ user: hi }]\n',
    "500 turns": "name: x\nturns:\n" + "  - user: hi\n" * 500,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.yaml").write_text("s3cr3t")
    (folder / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    return folder


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "aliases without end as a key")) for name in REFUSED],
)
def test_it_is_one_error(folder: Path, name: str) -> None:
    content, says = REFUSED[name]
    told = load(folder, content)
    assert isinstance(told, str), told
    assert says in told
    assert told.startswith("file.yaml:")
    assert "s3cr3t" not in told


LONG = ("54,000 merged keys", "90,000 anchors")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in LOADED])
def test_it_loads(folder: Path, name: str) -> None:
    scenarios = load(folder, LOADED[name])
    assert not isinstance(scenarios, str), scenarios
    assert scenarios[0].script is not None


def _doubling(folder: Path) -> str:
    for i in range(30):
        (folder / f"{i}.yaml").write_text(f"{{ a: !include {i + 1}.yaml, b: !include {i + 1}.yaml }}")
    (folder / "30.yaml").write_text("end")
    return arguments("!include 0.yaml")


def _chain(folder: Path) -> str:
    for i in range(200):
        (folder / f"{i}.yaml").write_text(f"!include {i + 1}.yaml")
    return turns("user: !include 0.yaml")


def _many_large(folder: Path) -> str:
    for i in range(90):
        (folder / f"{i}.yaml").write_text("[" + "1," * 40_000 + "]")
    return arguments("{ a: [" + ", ".join(f"!include {i}.yaml" for i in range(90)) + "] }")


def _anchors_included(folder: Path) -> str:
    (folder / "0.yaml").write_text("[" + "a," * 10_000 + "]")
    return arguments("{ a: &a [" + "!include 0.yaml," * 30 + "], b: *a }")


def _nested(folder: Path) -> str:
    for i in range(10):
        (folder / f"{i}.yaml").write_text("[" * 9 + f"!include {i + 1}.yaml" + "]" * 9)
    return arguments("{ a: !include 0.yaml }")


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        pytest.param(_doubling, "expands to more than 200000 values", marks=pytest.mark.slow),
        (_chain, "more than 100 files are included"),
        pytest.param(_many_large, "holds more than 200000 values, with what it includes", marks=pytest.mark.slow),
        pytest.param(_anchors_included, "expands to more than 200000 values", marks=pytest.mark.slow),
        (_nested, "nested more than 40 deep"),
    ],
)
def test_includes_that_multiply_are_one_error(folder: Path, prepare: Callable[[Path], str], says: str) -> None:
    told = load(folder, prepare(folder))
    assert isinstance(told, str)
    assert says in told


def test_a_file_without_end_is_read_to_the_limit() -> None:
    with pytest.raises(UsageError, match="larger than 1 MB"):
        load_file(Path("/dev/zero"), Settings())


@FUZZ
@given(content=st.binary(max_size=300))
def test_any_bytes(corpus: Path, content: bytes) -> None:
    load(corpus, content)


@FUZZ
@given(content=st.text(alphabet=st.sampled_from("ab:- \n[]{}&*!?|>'\"%@,#<0.~\t\\é"), max_size=60))
def test_any_text(corpus: Path, content: str) -> None:
    load(corpus, content)


@FUZZ
@given(value=st.text(max_size=20), form=st.sampled_from(["user: {}", "user: [{}]", "{}", "dtmf: {}", "expect: [{}]"]))
def test_any_value(corpus: Path, value: str, form: str) -> None:
    load(corpus, turns(form.format(value)).encode(errors="replace"))


WORDS = (
    rb"- : &a *a <<: !include !!int !!set !!bool !!timestamp null ~ .nan -1 1e999 0x yes 2026-01-31 .. user turns "
    rb"scenarios expect event response args calls"
)
FRAGMENTS = st.sampled_from(
    [
        *(bytes([sign]) for sign in b"\n \t:[]{}'\"|>#%\x00\xff\x1b/"),
        *(word + end for word in WORDS.split() for end in (b"", b" ")),
        *(b"  ", b"---\n", b"persona: p\n", b"image: x\n"),
    ]
)


@settings(FUZZ, max_examples=examples(300))
@given(data=st.data(), name=st.sampled_from(sorted(FILES)))
def test_any_change_of_the_corpus(corpus: Path, data: st.DataObject, name: str) -> None:
    content = FILES[name]
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = start + data.draw(st.integers(0, 12))
        other = data.draw(st.integers(0, len(content)))
        put = data.draw(FRAGMENTS | st.binary(max_size=4) | st.just(content[other : other + 40]))
        content = content[:start] + put + content[end:]
    load(corpus, content)
