"""``docs/failures.md`` has every code that tests and product cite, and says where it is tested."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.documents import CHECKOUT

PAGE = CHECKOUT / "docs/failures.md"

_ROW = re.compile(
    r"^\| (?P<code>[A-Z][0-9.]+) \| (?P<what>[^|]+) \| (?P<then>[^|]+) \|(?P<files>[^|]*)\|$", re.M
)
# In sentences F01, in names of tests f01; a quoted one is a key such as F12, unless it begins a
# docstring.
_CODE = re.compile(
    r"""(?<![A-Za-z0-9'`])(?<!(?<!")")(?:([FSL])([0-9]{2})|(B)([0-9]\.[0-9]))(?![A-Za-z0-9])"""
)
_CODE_IN_NAME = re.compile(r"(?<![A-Za-z0-9])([fsl])([0-9]{2})(?=_)")


def _cited() -> Iterator[tuple[str, Path]]:
    for folder in ("entrepot", "tui", "widgets", "tests", ".ci"):
        for path in (CHECKOUT / folder).rglob("*"):
            if path == Path(__file__) or path.suffix not in {".py", ""} or not path.is_file():
                continue
            text = path.read_text()
            for match in _CODE.finditer(text):
                yield "".join(filter(None, match.groups())), path
            for name in re.findall(r"^\s*(?:async )?def (test_\w+)", text, re.MULTILINE):
                for match in _CODE_IN_NAME.finditer(name):
                    yield "".join(match.groups()).upper(), path


def _names(files: str) -> list[str]:
    return re.findall(r"`([^`]+)`", files)


def test_every_code_that_is_cited_is_on_the_page() -> None:
    codes = {row["code"] for row in _ROW.finditer(PAGE.read_text())}
    assert {code: path for code, path in _cited() if code not in codes} == {}


def test_the_codes_are_without_gaps_and_each_is_there_once() -> None:
    codes = [row["code"] for row in _ROW.finditer(PAGE.read_text())]
    assert len(codes) == len(set(codes))
    for letter, last in (("F", 93), ("S", 37), ("L", 14)):
        assert [code for code in codes if code[0] == letter] == [
            f"{letter}{number:02}" for number in range(1, last + 1)
        ]


def test_each_file_that_the_page_names_exists() -> None:
    rows = _ROW.finditer(PAGE.read_text())
    names = {name for row in rows for name in _names(row["files"])}
    assert {name for name in names if not (CHECKOUT / "tests" / name).exists()} == set()


def test_the_page_names_a_file_that_cites_the_code() -> None:
    """For the codes that tests cite; ``test_bad_days.py`` lists those that others hold."""
    citing: dict[str, set[str]] = {}
    for code, path in _cited():
        if path.is_relative_to(CHECKOUT / "tests") and path.name != "test_bad_days.py":
            citing.setdefault(code, set()).add(str(path.relative_to(CHECKOUT / "tests")))
    wrong = {
        row["code"]: sorted(citing[row["code"]])
        for row in _ROW.finditer(PAGE.read_text())
        if row["code"] in citing and not citing[row["code"]] & set(_names(row["files"]))
    }
    assert wrong == {}, "docs/failures.md names none of the files that cite these codes"
