"""Read a TOML document that a person may have written.

An error names the line, the key, and the nearest key that is valid.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec

from entrepot.encoding import NotUtf8, decode_text

Shape = TypeVar("Shape")
Row = TypeVar("Row", bound=msgspec.Struct)

KEY_PARTS: Final = 32
"""The most parts of a dotted key or of a table's name; our own documents have three.

tomllib takes time with the square of their number.
"""

ENTRY_NAME_LENGTH: Final = 60
"""Characters of an entry's name that are shown."""

# Each match ends, at the end of the text if need be, so that no character is read twice. An
# unclosed string ends the document for tomllib too.
_STRING_OR_COMMENT = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*+"{0,5}+|'''
    r"""'{3}(?:[^']|'(?!''))*+'{0,5}+|"""
    r""""(?:[^"\\\n]|\\.)*+"?+|"""
    r"""'[^'\n]*+'?+|#[^\n]*+""",
    re.DOTALL,
)
_DOTTED = re.compile(r"[A-Za-z0-9_-]++(?:[ \t]*+\.[ \t]*+[A-Za-z0-9_-]++)*+")

_MESSAGE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_PATH_STEP = re.compile(r"\.?([A-Za-z0-9_-]+)|\[[^\]]*\]")
_TABLE_HEAD = re.compile(r"\s*\[")
_ENTRY_HEAD = re.compile(r"""\s*\[\[\s*["']?([A-Za-z0-9_-]+)["']?\s*\]\]""")
_MISSING = re.compile(r"Object missing required field `(?P<key>[^`]+)`")


class TomlInvalid(ValueError):
    """What is wrong with a document, in words for a person (``what``).

    ``line`` counts from 1 and is None where it is not known; ``key`` is the key at fault.
    """

    def __init__(self, what: str, *, line: int | None = None, key: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.key = key


@dataclass(frozen=True, slots=True)
class TableEntry(Generic[Row]):
    """One ``[[table]]`` of a document, as far as it can be read."""

    name: str
    """Its key ``name``, shortened, or ``number 2``."""
    line: int | None
    """The line of its head, counted from 1."""
    values: Mapping[str, Any]
    row: Row | None
    """None where a value does not fit or a key is missing (`misfit`)."""
    unknown_keys: tuple[TomlInvalid, ...]
    """Without lines, as is *misfit*: to look for the line of each takes quadratic time."""
    misfit: TomlInvalid | None


class TomlDocument:
    """A document's text and its values, and where in the text a table or a key is."""

    def __init__(self, content: bytes) -> None:
        """Read the bytes of a document.

        Raises `TomlInvalid` where they are not UTF-8 or TOML.
        """
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
            what, line_number = _syntax(str(error), self._text)
            raise TomlInvalid(f"It is not TOML: {what}.", line=line_number) from None
        except RecursionError:
            raise TomlInvalid("Its values are nested too deeply.") from None
        except ValueError:
            # A number with too many digits, or a date that no calendar has.
            raise TomlInvalid("It has a number or a date that is out of bounds.") from None
        self._lines = self._text.split("\n")
        self._entries: dict[str, list[int]] = {}
        for index, line in enumerate(self._lines, 1):
            if head := _ENTRY_HEAD.match(line):
                self._entries.setdefault(head[1], []).append(index)

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
        """The line of ``key = …`` in the table that begins at line *below*.

        Without *below*, before the first table.
        """
        assignment = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=")
        for index in range(below or 0, len(self._lines)):
            line = self._lines[index]
            if _TABLE_HEAD.match(line):
                return None
            if assignment.match(line):
                return index + 1
        return None

    def unknown_keys(self, valid: Iterable[str]) -> Iterator[TomlInvalid]:
        """The keys and tables at the top of the document that are not *valid*."""
        for key, what in unknown_keys(self.values, valid):
            line = self.line_of_key(key) or self.line_of_entry(key, 0) or self.line_of_table(key)
            yield TomlInvalid(what, line=line, key=key)

    def table_entries(
        self, table: str, row: type[Row], *, noun: str = "entry"
    ) -> list[TableEntry[Row]]:
        """All ``[[table]]`` as structs.

        Raises `TomlInvalid` where *table* is something else. *noun* is what the message calls an
        entry.
        """
        tables = self.values.get(table, [])
        if not isinstance(tables, list) or not all(isinstance(values, dict) for values in tables):
            raise TomlInvalid(
                f"Write each {noun} below a line [[{table}]].",
                line=self.line_of_table(table) or self.line_of_key(table),
            )
        return [
            self._table_entry(table, number, values, row) for number, values in enumerate(tables)
        ]

    def _table_entry(
        self, table: str, number: int, values: dict[str, Any], row: type[Row]
    ) -> TableEntry[Row]:
        keys = row.__struct_fields__
        unknown = tuple(TomlInvalid(what, key=key) for key, what in unknown_keys(values, keys))
        fitting_row, misfit = None, None
        try:
            fitting_row = convert({key: values[key] for key in values if key in keys}, row)
        except TomlInvalid as invalid:
            misfit = invalid
        name = values.get("name")
        return TableEntry(
            name[:ENTRY_NAME_LENGTH] if isinstance(name, str) and name else f"number {number + 1}",
            self.line_of_entry(table, number),
            values,
            fitting_row,
            unknown,
            misfit,
        )


def _check_keys(text: str) -> None:
    """Raise `TomlInvalid` for a key of more than `KEY_PARTS` parts; takes linear time."""
    bare = _STRING_OR_COMMENT.sub("q", text)
    if any(dotted[0].count(".") >= KEY_PARTS for dotted in _DOTTED.finditer(bare)):
        raise TomlInvalid(f"A key has more than {KEY_PARTS} parts with dots between them.")


def unknown_keys(values: Iterable[str], valid: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each key of *values* that is not *valid*, and a sentence with the nearest one."""
    choices = list(valid)
    for key in values:
        if key not in choices:
            yield key, f"There is no key {key}. {nearest(key, choices)}"


def nearest(word: str, choices: Iterable[str]) -> str:
    """``Did you mean …?``, or all choices when none is near."""
    keys = list(choices)
    close = difflib.get_close_matches(word, keys, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else f"The keys are {', '.join(keys)}."


def convert(values: Mapping[str, Any], shape: type[Shape]) -> Shape:
    """*values* as a msgspec struct.

    Raises `TomlInvalid` with the key that does not fit. The value is not repeated: it might be a
    secret in the wrong place.
    """
    try:
        return msgspec.convert(values, shape)
    except msgspec.ValidationError as error:
        message = _MESSAGE.match(str(error))
        assert message is not None
        what, path = message["what"], message["path"] or ""
        if missing := _MISSING.match(what):
            raise TomlInvalid(f"The key {missing['key']} is missing.") from None
        keys = [step for step in _PATH_STEP.findall(path.removeprefix("$")) if step]
        key = keys[-1] if keys else None
        what = what[0].lower() + what[1:].replace("`", "")
        raise TomlInvalid(
            f"The value of {key or 'the document'} does not fit: {what}.", key=key
        ) from None


def _syntax(what: str, text: str) -> tuple[str, int | None]:
    """The message of tomllib without its position, and the line."""
    if message := re.search(r"^(.*) \(at line (\d+), column \d+\)$", what, re.DOTALL):
        reason = message[1]
        return reason.lower() if reason[:1].isupper() else reason, int(message[2])
    if message := re.search(r"^(.*) \(at end of document\)$", what, re.DOTALL):
        return f"{message[1].lower()} at its end", text.rstrip("\n").count("\n") + 1
    return what, None
