"""Text on a screen: no markup, nothing that a terminal obeys, and its width in cells.

What stands on a screen comes from source registries, clients and files. Whoever draws it cleans it
once more (S04): an escape sequence in a cell would be taken for one of the dashboard's own.
"""

from __future__ import annotations

import textwrap

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual.visual import VisualType
from textual.widgets import Input, Static


def escaped(text: str) -> str:
    """A text as one line: other white space becomes blanks, and what can't be printed escapes such
    as ``\\x1b``. Blanks stay."""
    if text.isprintable():
        return text
    return "".join(
        each
        if each.isprintable()
        else " "
        if each.isspace()
        else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def escaped_lines(text: str) -> str:
    """The same for a text of several lines."""
    return text if text.isprintable() else "\n".join(escaped(line) for line in text.split("\n"))


def cell_width(text: str) -> int:
    """The cells of a line: characters of East Asian width take two, combining ones none."""
    return len(text) if text.isascii() else cell_len(text)


def padded(text: str, cells: int, *, right: bool = False) -> str:
    """A line filled up with blanks to so many cells; what is longer stays as it is."""
    blanks = " " * (cells - cell_width(text))
    return blanks + text if right else text + blanks


def first_cells(text: str, cells: int) -> str:
    """The beginning of a line in at most so many cells. A character of two cells is never split: a
    blank stands for its half."""
    if text.isascii():
        return text[: max(0, cells)]
    return text if cell_len(text) <= cells else set_cell_size(text, cells)


def last_cells(text: str, cells: int) -> str:
    """The end of a line in exactly so many cells, or all of it."""
    if text.isascii():
        return text[max(0, len(text) - cells) :]
    for start in range(len(text)):
        if cell_len(text[start:]) <= cells:
            # The half of a wide character is a blank, but what is whole is not moved.
            return padded(text[start:], cells, right=True) if start else text
    return ""


def wrapped(text: str, cells: int) -> list[str]:
    """A text in lines of at most so many cells, broken at its blanks, and within a word only where
    that alone is too long."""
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
    """A text that is shown literally, whatever brackets and control characters it has: Textual's
    own takes brackets for markup."""

    def __init__(
        self, content: str | Text = "", *, id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(_clean(content), id=id, classes=classes, markup=False)

    def update(self, content: VisualType = "", *, layout: bool = True) -> None:
        """Show another text. Other renderables are made of cleaned texts by whoever makes them."""
        super().update(_clean(content), layout=layout)


class TextLine(Input):
    """A line that is typed, pasted or proposed. It holds nothing that can't be printed."""

    def validate_value(self, value: str) -> str:
        """Leave out what can't be printed."""
        return (
            value
            if value.isprintable()
            else "".join(
                each if each.isprintable() else " " if each.isspace() else "" for each in value
            )
        )


def _clean(content: VisualType) -> VisualType:
    if isinstance(content, str):
        return escaped_lines(content)
    if isinstance(content, Text) and not content.plain.isprintable():
        # One character for one, so that every style stays at its place.
        content.plain = "".join(
            each if each.isprintable() or each == "\n" else " " if each.isspace() else "?"
            for each in content.plain
        )
    return content
