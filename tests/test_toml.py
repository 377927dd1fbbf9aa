from __future__ import annotations

import time
import tomllib
from contextlib import suppress

import pytest
from msgspec import Struct

from entrepot.toml import TomlDocument, TomlInvalid, _check_keys, convert, nearest, unknown_keys

DOCUMENT = b"""\
# top
listen = 1
"quoted" = 2

[[rules]]
name = "a"
[upstreams."a.b"]
name = "b"
  [[ "rules" ]]
name = "c"
"""


class Shape(Struct):
    name: str
    count: int = 0


def test_tables_and_keys_are_found_where_they_stand() -> None:
    text = TomlDocument(DOCUMENT)
    assert text.line_of_key("listen") == 2
    assert text.line_of_key("quoted") == 3
    assert text.line_of_key("name") is None
    assert text.line_of_entry("rules", 0) == 5
    assert text.line_of_entry("rules", 1) == 9
    assert text.line_of_entry("rules", 2) is None
    assert text.line_of_entry("sets", 0) is None
    assert text.line_of_table("upstreams", "a.b") == 7
    assert text.line_of_key("name", below=7) == 8
    assert text.line_of_key("listen", below=7) is None
    assert text.values["rules"] == [{"name": "a"}, {"name": "c"}]


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"a = 1\nb = \n", 2, "invalid value"),
        (b"a = 1\na = 2", 2, "overwrite"),
        (b'a = "', 1, "at its end"),
        (
            b"\n\n\xff",
            3,
            "It is not UTF-8 text but perhaps Latin-1 (ISO 8859-1): save it as UTF-8.",
        ),
        ("a = 1".encode("utf-16"), 1, "It is not UTF-8 text but UTF-16: save it as UTF-8."),
        ("a = 1".encode("utf-16-le"), 1, "UTF-16"),
        (b"a = [\n1,\n", 2, "at its end"),
        (b"a" * 3 + b"\x00", 1, "not TOML"),
    ],
)
def test_what_is_not_toml_is_reported_with_its_line(content: bytes, line: int, says: str) -> None:
    with pytest.raises(TomlInvalid) as caught:
        TomlDocument(content)
    assert caught.value.line == line
    assert says in caught.value.what


def test_values_nested_beyond_measure_are_refused() -> None:
    with pytest.raises(TomlInvalid):
        TomlDocument(b"a = " + b"[" * 100_000)


LONG = ".a" * 50_000


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"a{LONG} = 1", id="a key"),
        pytest.param(f"[a{LONG}]", id="a table"),
        pytest.param(f"x = {{ a{LONG} = 1 }}", id="an inline table"),
        pytest.param("a" + ' . "a"' * 50_000 + " = 1", id="parts in quotation marks"),
        pytest.param(
            f'x = {{ y = """{chr(10)}""", a{LONG} = "z" }}', id="behind a string of several lines"
        ),
        pytest.param(f'x = {{ y = "\\"", a{LONG} = "z" }}', id="behind a string with an escape"),
        pytest.param(f"x = {{ y = '\"', a{LONG} = 'z' }}", id="behind a literal string"),
        pytest.param(f'# """\na{LONG} = 1', id="behind a comment"),
    ],
)
def test_a_key_of_very_many_parts_is_refused_before_it_is_parsed(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S01, S26: it takes time with the square of their number, half a minute for 100 kB, and the
    engine did not end at SIGTERM meanwhile."""

    def parse(_: str) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(tomllib, "loads", parse)
    with pytest.raises(TomlInvalid, match="32 parts"):
        TomlDocument(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('a = "x' + ".x" * 100 + '"', id="a string"),
        pytest.param('a = """\nx' + ".x" * 100 + '"""', id="a string of several lines"),
        pytest.param("a = '''it's\nx" + ".x" * 100 + "'''", id="a literal string of several lines"),
        pytest.param("# x" + ".x" * 100, id="a comment"),
        pytest.param(".".join("a" * 32) + " = 1", id="32 parts"),
        pytest.param("a = [" + "1.5, " * 100 + "]", id="numbers"),
    ],
)
def test_dots_that_are_in_no_key_are_no_parts(text: str) -> None:
    assert len(TomlDocument(text.encode()).values) <= 1


@pytest.mark.parametrize(
    "piece", ['"""', "'''", '"', "'", '\\"""', '"""\\', "#", "a.", ". ", "a" * 10, '"a".', "'a' . "]
)
def test_looking_for_long_keys_takes_linear_time(piece: str) -> None:
    """S01: a pattern that sees foreign text."""
    started = time.process_time()
    with suppress(TomlInvalid):
        _check_keys(piece * (1_000_000 // len(piece)))
    assert time.process_time() - started < 10


def test_an_unknown_key_is_reported_with_the_nearest() -> None:
    assert list(unknown_keys(["name", "nmae"], ["name", "size"])) == [
        ("nmae", "There is no key nmae. Did you mean name?")
    ]
    assert nearest("zzz", ["name", "size"]) == "The keys are name, size."


def test_a_value_of_a_wrong_type_is_reported_without_the_value() -> None:
    assert convert({"name": "a", "count": 2}, Shape) == Shape("a", 2)
    with pytest.raises(TomlInvalid, match="The key name is missing"):
        convert({}, Shape)
    with pytest.raises(
        TomlInvalid, match="The value of count does not fit: expected int, got str"
    ) as caught:
        convert({"name": "a", "count": "hunter2"}, Shape)
    assert caught.value.key == "count"


def test_the_entries_of_a_table_come_with_their_lines_and_what_is_wrong() -> None:
    document = TomlDocument(
        b'[[shapes]]\nname = "a"\ncount = 1\n[[shapes]]\nname = "b"\nsize = 2\n[[shapes]]\ncount = "x"\n'
    )
    good, unknown, misfit = document.table_entries("shapes", Shape)
    assert (good.name, good.line, good.row, good.misfit) == ("a", 1, Shape("a", 1), None)
    assert (unknown.line, unknown.row) == (4, Shape("b"))
    assert [invalid.key for invalid in unknown.unknown_keys] == ["size"]
    assert (misfit.name, misfit.row) == ("number 3", None)
    assert misfit.misfit is not None


@pytest.mark.parametrize(
    ("content", "line"), [(b"# x\n[shapes]\na = 1\n", 2), (b"shapes = [1]\n", 1)]
)
def test_a_table_that_is_no_list_of_entries_is_refused(content: bytes, line: int) -> None:
    with pytest.raises(
        TomlInvalid, match=r"Write each shape below a line \[\[shapes\]\]"
    ) as caught:
        TomlDocument(content).table_entries("shapes", Shape, noun="shape")
    assert caught.value.line == line


def test_an_unknown_key_or_table_of_a_document_is_named_with_its_line() -> None:
    document = TomlDocument(DOCUMENT)
    assert [(invalid.key, invalid.line) for invalid in document.unknown_keys(["listen"])] == [
        ("quoted", 3),
        ("rules", 5),
        ("upstreams", None),
    ]
