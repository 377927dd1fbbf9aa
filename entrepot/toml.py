"""Reading a TOML document that a person may have written: what is wrong is said with its line, its
key and the nearest key that is valid."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from entrepot.encoding import NotUtf8, decode_text

Shape = TypeVar("Shape")

KEY_PARTS = 32
"""Parts of a dotted key or of the name of a table, at the most: tomllib takes time with the square
of their number. Our documents have three."""

# Each match of it ends, at the end of the text if need be, so that nothing is looked at twice. An
# unclosed string ends the document for tomllib too.
_STRING_OR_COMMENT = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*+"{0,5}+|'''
    r"""'{3}(?:[^']|'(?!''))*+'{0,5}+|"""
    r""""(?:[^"\\\n]|\\.)*+"?+|"""
    r"""'[^'\n]*+'?+|#[^\n]*+""",
    re.DOTALL,
)
_DOTTED = re.compile(r"[A-Za-z0-9_-]++(?:[ \t]*+\.[ \t]*+[A-Za-z0-9_-]++)*+")

_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.?([A-Za-z0-9_-]+)|\[[^\]]*\]")
_ENTRY = re.compile(r"""\s*\[\[\s*["']?([A-Za-z0-9_-]+)["']?\s*\]\]""")
_MISSING = re.compile(r"Object missing required field `(?P<key>[^`]+)`")


class TomlInvalid(ValueError):
    """What is wrong with a document, in words for a person; ``line`` counts from 1, and is None
    where nobody can tell."""

    def __init__(self, what: str, *, line: int | None = None, key: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.key = key


class Text:
    """A document's text and its values, and where in the text a table or a key stands."""

    def __init__(self, content: bytes) -> None:
        """Read the bytes of a document; raises `TomlInvalid` when they are not UTF-8 or not TOML."""
        try:
            self._text = decode_text(content).replace("\r\n", "\n")
        except NotUtf8 as error:
            raise TomlInvalid(
                error.sentence, line=content.count(b"\n", 0, error.offset) + 1
            ) from None
        _check_keys(self._text)
        try:
            self.values: dict[str, Any] = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            what, at = _syntax(str(error), self._text)
            raise TomlInvalid(f"It is not TOML: {what}.", line=at) from None
        except RecursionError:
            raise TomlInvalid("Its values are nested too deeply.") from None
        except ValueError:
            # A number of so many digits, or a date that no calendar has.
            raise TomlInvalid("It has a number or a date that is out of bounds.") from None
        self._lines = self._text.split("\n")
        self._entries: dict[str, list[int]] = {}
        for index, line in enumerate(self._lines, 1):
            if found := _ENTRY.match(line):
                self._entries.setdefault(found[1], []).append(index)

    def line_of_entry(self, table: str, number: int) -> int | None:
        """The line of the *number*-th ``[[table]]``, counted from 0."""
        heads = self._entries.get(table, ())
        return heads[number] if number < len(heads) else None

    def line_of_table(self, *names: str) -> int | None:
        """The line of ``[a."b"]``."""
        head = r"\s*\.\s*".join(rf"[\"']?{re.escape(name)}[\"']?" for name in names)
        return next(
            (
                index
                for index, line in enumerate(self._lines, 1)
                if re.match(rf"\s*\[\s*{head}\s*\]", line)
            ),
            None,
        )

    def line_of_key(self, key: str, *, below: int | None = None) -> int | None:
        """The line of ``key = …`` in the table that begins at line *below*, or before the first
        table."""
        for index, line in enumerate(self._lines[below or 0 :], (below or 0) + 1):
            if re.match(r"\s*\[", line):
                return None
            if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return index
        return None


def _check_keys(text: str) -> None:
    """Raise `TomlInvalid` for a key of more than `KEY_PARTS` parts; takes linear time."""
    bare = _STRING_OR_COMMENT.sub("q", text)
    if any(dotted[0].count(".") >= KEY_PARTS for dotted in _DOTTED.finditer(bare)):
        raise TomlInvalid(f"A key has more than {KEY_PARTS} parts with dots between them.")


def unknown_keys(values: Iterable[str], valid: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each key of *values* that is not *valid*, and a sentence about it that names the nearest
    valid one."""
    choices = list(valid)
    for key in values:
        if key not in choices:
            yield key, f"There is no key {key}. {nearest(key, choices)}"


def nearest(word: str, choices: Iterable[str]) -> str:
    """``Did you mean …?``, or all there are when none is near."""
    known = list(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else f"The keys are {', '.join(known)}."


def converted(values: Mapping[str, Any], shape: type[Shape]) -> Shape:
    """*values* as a msgspec struct; raises `TomlInvalid` with the key that does not fit, without
    the value, which might be a secret in the wrong place."""
    try:
        return msgspec.convert(values, shape)
    except msgspec.ValidationError as error:
        found = _AT.match(str(error))
        assert found is not None
        what, path = found["what"], found["path"] or ""
        if missing := _MISSING.match(what):
            raise TomlInvalid(f"The key {missing['key']} is missing.") from None
        keys = [step for step in _STEP.findall(path.removeprefix("$")) if step]
        key = keys[-1] if keys else None
        what = what[0].lower() + what[1:].replace("`", "")
        raise TomlInvalid(
            f"The value of {key or 'the document'} does not fit: {what}.", key=key
        ) from None


def _syntax(what: str, text: str) -> tuple[str, int | None]:
    """The message of tomllib without its position, and the line."""
    if found := re.search(r"^(.*) \(at line (\d+), column \d+\)$", what, re.DOTALL):
        return found[1].lower() if found[1][:1].isupper() else found[1], int(found[2])
    if found := re.search(r"^(.*) \(at end of document\)$", what, re.DOTALL):
        return f"{found[1].lower()} at its end", text.rstrip("\n").count("\n") + 1
    return what, None
