"""YAML with places: what it reads values as, and what it says where."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.scenarios.nodes import MAX_DEPTH, Node, default_root, read_yaml
from tests.scenarios.conftest import refused


def read(tmp_path: Path, text: str, **more: str) -> Node:
    for name, content in more.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return read_yaml(path)


def test_a_value_knows_its_file_and_line(tmp_path: Path) -> None:
    top = read(tmp_path, "# a comment\na:\n  - b\n  - c: !include part.yaml\n", part="\n\n- d\n- e\n").mapping(["a"])
    first, second = top["a"].items()
    assert str(first.place) == f"{tmp_path}/file.yaml:3"
    _, inner = second.mapping(["c"])["c"].items()
    assert str(inner.place) == f"{tmp_path}/part.yaml:4"
    assert inner.text() == "e"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("012", "012"),
        ("0x10", "0x10"),
        ("0", 0),
        ("-7", -7),
        ("1_000", 1000),
        ("12:30", "12:30"),
        ("1.5", 1.5),
        ("yes", True),
        ("~", None),
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31 10:00:00Z", "2026-01-31 10:00:00Z"),
        ("2026-99-99", "2026-99-99"),
        ("=", "="),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!int '5'", 5),
        ("!!float 5", 5.0),
        ("[1, {a: [b]}]", [1, {"a": ["b"]}]),
        ("{2: a, no: b, null: c}", {2: "a", False: "b", None: "c"}),
    ],
)
def test_plain_values(tmp_path: Path, written: str, value: Any) -> None:
    assert read(tmp_path, f"a: {written}\n").mapping(["a"]).get("a", Node.plain) == value


@pytest.mark.parametrize("written", ["012", "5", "1.50", "yes", "2026-01-31", "=", "0x1F"])
def test_where_a_text_belongs_a_value_is_taken_as_written(tmp_path: Path, written: str) -> None:
    assert read(tmp_path, f"a: {written}\n").mapping(["a"])["a"].text() == written


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("!!bool maybe", "'maybe' is no bool"),
        ("!!int x", "'x' is no int"),
        ("!!float x", "'x' is no float"),
        ("!!timestamp x", None),
        ("!!binary aGk=", "the tag '!!binary' is not known here"),
        ("!!set {a, b}", "the tag '!!set' is not known here"),
        ("!secret x", "the tag '!secret' is not known here"),
        ("{a: 1, a: 2}", "'a' stands twice in a"),
        ("{? [b] : 1}", "a key of a must be a plain word"),
        ("{!include x: 1}", "a key of a must be a plain word"),
        ("{<<: 5}", "<< must be a mapping (key: value), not '5'"),
        ("{<<: [5]}", "<< #1 must be a mapping (key: value), not '5'"),
        ("{<<: {b: 1}, <<: {c: 1}}", "'<<' stands twice in a"),
        ("9" * 5_000, "'" + "9" * 40 + "…' is no int"),
    ],
)
def test_what_is_no_plain_data(tmp_path: Path, written: str, says: str | None) -> None:
    def plain() -> Any:
        return read(tmp_path, f"\na: {written}\n").mapping(["a"])["a"].plain()

    if says is None:
        assert plain() == written.partition(" ")[2]
        return
    text = refused(plain)
    assert text.startswith(f"{tmp_path}/file.yaml:2: ")
    assert says in text
    assert len(text) < len(str(tmp_path)) + 150


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("uesr: hi\n", 1, "unknown key 'uesr' in the file; did you mean 'user'?"),
        ("user: hi\nzzz: 1\n", 2, "unknown key 'zzz' in the file; known are: user, expect"),
        ("user: hi\nexpect: 1\nuser: ho\n", 3, "'user' stands twice in the file"),
        ("? [user]\n: hi\n", 1, "a key of the file must be a plain word"),
        ("- user\n", 1, "the file must be a mapping (key: value), not a list"),
        ("hello\n", 1, "the file must be a mapping (key: value), not 'hello'"),
        ("user: &a hi\n<<: {expect: 1}\n<<: {expect: 2}\n", 3, "'<<' stands twice in the file"),
        ("user: hi\n<<: {expct: 1}\n", 2, "unknown key 'expct' in the file; did you mean 'expect'?"),
        ("", 1, "the file is empty"),
        ("# nothing\n", 1, "the file is empty"),
        ("user: hi\n---\nuser: ho\n", 2, "not valid YAML: but found another document"),
        ("user: hi\n\texpect: 1\n", 2, "not valid YAML: "),
        ("user: hi\nexpect: [1\n", 3, "not valid YAML: "),
        ("user: hi\nexpect: *nobody\n", 2, "not valid YAML: found undefined alias"),
        ("user: 'hi\n", 2, "not valid YAML: found unexpected end of stream"),
        ("user: hi\nexpect: \x00\n", 2, "not valid YAML: control characters are not allowed"),
        ("user: ü\n# ü\nexpect: \x1b\n", 3, "not valid YAML: control characters are not allowed"),
        ("user: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), 1, f"nested more than {MAX_DEPTH} deep"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    def mapping() -> Any:
        top = read(tmp_path, text).mapping(["user", "expect"])
        return [top[key].plain() for key in top]

    assert says in refused(mapping, f"{tmp_path}/file.yaml:{line}: ")


@pytest.mark.parametrize(
    ("method", "written", "says"),
    [
        (lambda node: node.text(), "[a]", "a must be a text, not a list"),
        (lambda node: node.text(), "{a: b}", "a must be a text, not a mapping"),
        (lambda node: node.text(), "' '", "a must be a text, not ' '"),
        (lambda node: node.text(3), "abcd", "a is longer than 3 characters"),
        (lambda node: node.items(), "b", "a must be a list (- …), not 'b'"),
        (lambda node: node.one_of(["left", "right"]), "rihgt", "a: there is no 'rihgt'; did you mean 'right'?"),
        (lambda node: node.one_of(["left", "right"]), "up", "a: there is no 'up'; known are: left, right"),
        (lambda node: node.integer(0, 9), "10", "a must be from 0 to 9, not 10"),
        (lambda node: node.integer(0, 9), "1.0", "a must be a whole number, not '1.0'"),
        (lambda node: node.integer(0, 9), "'1'", "a must be a whole number, not '1'"),
        (lambda node: node.integer(0, 9), "true", "a must be a whole number, not 'true'"),
        (lambda node: node.integer(0, 9), ".inf", "a must be a whole number, not '.inf'"),
        (lambda node: node.integer(0, 9), "9" * 4_000, "not " + "9" * 40 + "…"),
        (lambda node: node.number(0, 9), ".nan", "a must be a number, not '.nan'"),
        (lambda node: node.number(0, 9), "-.inf", "a must be a number, not '-.inf'"),
        (lambda node: node.number(0, 9), "9.5", "a must be from 0 to 9, not 9.5"),
        (lambda node: node.number(0, 9), "9" * 400, "a must be from 0 to 9, not " + "9" * 40 + "…"),
        (lambda node: node.flag(), "1", "a must be true or false, not '1'"),
        (lambda node: node.path(), "[b]", "a must be the path of a file, not a list"),
        (lambda node: node.path(), '"b\\0c"', "a is no path: embedded null byte"),
        (lambda node: node.path(), "b" * 1_001, "a is longer than 1000 characters"),
        (lambda node: node.path(), "/etc/passwd", "/etc/passwd is outside of "),
        (lambda node: node.path(), '"../\\e[31m\\nb"', "/../ [31m b is outside of "),
    ],
)
def test_a_value_of_another_kind(tmp_path: Path, method: Callable[[Node], object], written: str, says: str) -> None:
    assert says in refused(
        lambda: method(read(tmp_path, f"\n\na: {written}\n").mapping(["a"])["a"]), f"{tmp_path}/file.yaml:3: "
    )


def test_what_is_needed_is_named_where_it_is_missing(tmp_path: Path) -> None:
    top = read(tmp_path, "\nb:\n").mapping(["a", "b"])
    assert refused(lambda: top["a"]) == f"{tmp_path}/file.yaml:2: the file needs 'a'"
    assert "b" not in top


def test_own_keys_win_over_merged_ones_and_first_over_next(tmp_path: Path) -> None:
    # As YAML has it. PyYAML's own constructor has changed its mind on lists, from one release to the next.
    text = "one: {<<: [{name: b, late: b, more: b}, {late: c, more: c, last: c}], name: a}\n"
    node = read(tmp_path, text).mapping(["one"])["one"]
    merged = {"name": "a", "late": "b", "more": "b", "last": "c"}
    assert node.plain() == merged
    mapping = node.mapping(merged)
    assert {key: mapping[key].text() for key in mapping} == merged


def test_a_merged_mappings_own_keys_win_over_those_it_merges(tmp_path: Path) -> None:
    node = read(tmp_path, "one: {<<: {name: b, <<: {name: c, deep: c}}}\n").mapping(["one"])["one"]
    assert node.plain() == {"name": "b", "deep": "c"}


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_a_byte_order_mark_is_passed_over(tmp_path: Path, bom: str) -> None:
    assert read(tmp_path, f"{bom}a: ü\n").mapping(["a"])["a"].text() == "ü"


def test_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_bytes(b"a: 1\r\nb: x\r\nc: 2\r\n")
    told = refused(lambda: read_yaml(tmp_path / "file.yaml").mapping(["a", "b"]))
    assert told.startswith(f"{tmp_path}/file.yaml:3: unknown key 'c'")


@pytest.mark.timeout(5)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    told = refused(lambda: read_yaml(tmp_path / "pipe.yaml"))
    assert told == f"{tmp_path}/pipe.yaml: can't be read (a pipe is no file)"


@pytest.mark.parametrize(
    ("written", "has"),
    [("{a: 1, b: , c: 2}", True), ("{a: 1, c: 2}", False), ("[a, b]", False), ("a b", False)],
)
def test_a_mapping_can_be_asked_for_keys_before_any_is_refused(tmp_path: Path, written: str, has: bool) -> None:
    assert read(tmp_path, f"{written}\n").has_keys("a", "b") is has


class TestInclude:
    def test_paths_are_relative_to_the_file_that_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "part.yaml").write_text("[!include word.yaml, voice.wav]\n")
        first, second = read(tmp_path, "!include sub/part.yaml\n", word="hello").items()
        assert first.text() == "hello"
        assert second.path() == tmp_path / "voice.wav"

    def test_the_working_directory_bounds_what_lies_below_it(self, tmp_path: Path, monkeypatch: Any) -> None:
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "shared.yaml").write_text("hello")
        file = tmp_path / "a" / "b" / "file.yaml"
        file.write_text("!include ../../shared.yaml\n")
        monkeypatch.chdir(tmp_path)
        assert default_root(file) == tmp_path
        assert read_yaml(file).text() == "hello"
        monkeypatch.chdir(tmp_path / "a")
        assert "is outside of" in refused(lambda: read_yaml(file))
        assert read_yaml(file, tmp_path).text() == "hello"
        assert "is outside of" in refused(lambda: read_yaml(file, tmp_path / "a"))

    def test_a_link_that_leads_outside_is_outside(self, tmp_path: Path) -> None:
        (tmp_path / "secret.yaml").write_text("hello")
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "link.yaml").symlink_to(tmp_path / "secret.yaml")
        (folder / "dir").symlink_to(tmp_path)
        for path in ("link.yaml", "dir/secret.yaml"):
            told = refused(lambda path=path: read(folder, f"\n- !include {path}\n").items())
            assert told.startswith(f"{folder}/file.yaml:2: !include: ")
            assert "is outside of" in told
            assert "start the runner in a folder above both" in told

    def test_a_link_that_stays_inside_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "link.yaml").symlink_to(tmp_path / "part.yaml")
        assert read(tmp_path, "!include link.yaml\n", part="hello").text() == "hello"

    @pytest.mark.parametrize(
        ("path", "says"),
        [
            ("none.yaml", "none.yaml: can't be read (No such file or directory)"),
            (".", "can't be read (Is a directory)"),
            ("part.yaml/x", "can't be read (Not a directory)"),
            ("x" * 300, "can't be read (File name too long)"),
            ("x" * 1_001, "longer than 1000 characters"),
            ("''", "must be the path of a file, not ''"),
            ("[part.yaml]", "must be the path of a file, not a list"),
            ('"a\\0b"', "is no path: embedded null byte"),
            ("loop", "is no path: Symlink loop"),
            ("pipe", "pipe: can't be read (a pipe is no file)"),
            ("file.yaml", "goes round in a circle: file.yaml -> file.yaml"),
            ("one.yaml", "goes round in a circle: one.yaml -> two.yaml -> one.yaml"),
        ],
    )
    def test_what_can_t_be_included_is_told_where_it_is_asked_for(self, tmp_path: Path, path: str, says: str) -> None:
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        os.mkfifo(tmp_path / "pipe")
        parts = {"part": "hello", "one": "!include two.yaml", "two": "\n\n- !include one.yaml"}

        def plain() -> Any:
            return read(tmp_path, f"\n- !include {path}\n", **parts).plain()

        told = refused(plain)
        where = "two.yaml:3" if path == "one.yaml" else "file.yaml:2"
        assert told.startswith(f"{tmp_path}/{where}: ")
        assert says in told

    @pytest.mark.parametrize(
        ("content", "line", "says"),
        [
            ("\na: [", 3, "not valid YAML: "),
            ("", 1, "the file is empty"),
            ("\n\n!odd x", 3, "the tag '!odd' is not known here"),
            ("\nb: 1\n", 2, "unknown key 'b' in a"),
        ],
    )
    def test_a_mistake_in_an_included_file_is_told_with_its_own_line(
        self, tmp_path: Path, content: str, line: int, says: str
    ) -> None:
        def include() -> Any:
            return read(tmp_path, "a: !include part.yaml\n", part=content).mapping(["a"])["a"].mapping(["x"])

        assert says in refused(include, f"{tmp_path}/part.yaml:{line}: ")

    def test_a_file_may_be_included_twice(self, tmp_path: Path) -> None:
        assert read(tmp_path, "[!include part.yaml, !include part.yaml]\n", part="[a]").plain() == [["a"], ["a"]]
