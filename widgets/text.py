"""Text on a screen: without markup or control characters, and its width in cells.

What a screen shows comes from source registries, clients and files. Each widget escapes it (S04): a
terminal would take an escape sequence in a cell for one of the dashboard's own.
"""

from __future__ import annotations

import textwrap

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual.visual import VisualType
from textual.widgets import Input, Static


def escaped(text: str) -> str:
    """A text as one line: white space becomes blanks, what can't be printed ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable()
        else " "
        if character.isspace()
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def escaped_lines(text: str) -> str:
    """A text of several lines, each escaped."""
    return text if text.isprintable() else "\n".join(escaped(line) for line in text.split("\n"))


def cell_width(text: str) -> int:
    """The width of a line in cells: East Asian characters take two."""
    return len(text) if text.isascii() else cell_len(text)


def padded(text: str, cells: int, *, right: bool = False) -> str:
    """A line filled up with blanks to *cells*; a longer one stays as it is."""
    blanks = " " * (cells - cell_width(text))
    return blanks + text if right else text + blanks


def first_cells(text: str, cells: int) -> str:
    """The beginning of a line in at most *cells*.

    A character of two cells is never split: a blank stands for its half.
    """
    if text.isascii():
        return text[: max(0, cells)]
    return text if cell_len(text) <= cells else set_cell_size(text, cells)


def last_cells(text: str, cells: int) -> str:
    """The end of a line in exactly *cells*, or all of it."""
    if text.isascii():
        return text[max(0, len(text) - cells) :]
    for start in range(len(text)):
        if cell_len(text[start:]) <= cells:
            # Half of a wide character becomes a blank, so that the others do not move.
            return padded(text[start:], cells, right=True) if start else text
    return ""


def wrapped(text: str, cells: int) -> list[str]:
    """A text in lines of at most *cells*, broken at blanks or in a long word."""
    text = escaped(text)
    if text.isascii():
        return textwrap.wrap(text, cells)
    lines, line = [], ""
    for word in text.split():
        if line and cell_width(line) + 1 + cell_width(word) <= cells:
            line += f" {word}"
            continue
        lines += [line] if line else []
        while cell_width(word) > cells:
            piece = first_cells(word, cells).rstrip() or word[:1]
            lines.append(piece)
            word = word[len(piece) :]
        line = word
    return [*lines, line] if line else lines


class Plain(Static):
    """A text without control characters, whose brackets are no markup."""

    def __init__(
        self, content: str | Text = "", *, id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(_clean(content), id=id, classes=classes, markup=False)

    def update(self, content: VisualType = "", *, layout: bool = True) -> None:
        """Show another text. A renderable of another kind must have escaped texts."""
        super().update(_clean(content), layout=layout)


class TextLine(Input):
    """A field whose text, typed, pasted or proposed, is always printable."""

    def validate_value(self, value: str) -> str:
        """Remove what can't be printed."""
        return (
            value
            if value.isprintable()
            else "".join(
                character if character.isprintable() else " " if character.isspace() else ""
                for character in value
            )
        )


def _clean(content: VisualType) -> VisualType:
    if isinstance(content, str):
        return escaped_lines(content)
    if isinstance(content, Text) and not content.plain.isprintable():
        # One character for one, so that each style keeps its place.
        content.plain = "".join(
            character
            if character.isprintable() or character == "\n"
            else " "
            if character.isspace()
            else "?"
            for character in content.plain
        )
    return content
