"""A list of rows in columns that stays quick with ten thousand rows and sends little over a slow line.

What is drawn is asked for line by line (Textual's line API), and only lines whose text has changed are painted again. Textual sends a line from its widget's
left edge on, so columns that change all the time belong into a list of their own beside this one: see `RowList.follow`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

TONES = ("dim", "good", "warn", "bad", "accent")
"""Tones that a cell may have besides the plain one. They never stand alone: the text says the same."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A text in a row, with a tone."""

    text: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row: its *key* keeps the cursor in place when rows come and go. *search* is what a filter looks in; empty for all cells."""

    key: str
    cells: tuple[Cell, ...]
    search: str = ""

    def matches(self, words: Sequence[str]) -> bool:
        """Whether every one of *words* (in lower case) is to be found."""
        text = self.search or " ".join(cell.text for cell in self.cells)
        lowered = text.lower()
        return all(word in lowered for word in words)


@dataclass(frozen=True, slots=True)
class Column:
    """A column. Without a *width* it shares what is left, by *weight*. *needs* is the width of the list below which it is left out."""

    title: str
    width: int | None = None
    weight: int = 1
    right: bool = False
    needs: int = 0


class RowList(ScrollView, can_focus=True):
    """Rows in columns, with a header, a cursor, a filter and an order."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"row-list--header", "row-list--cursor", "row-list--plain", *(f"row-list--{tone}" for tone in TONES)}
    DEFAULT_CSS = """
    RowList {
        height: 1fr;
        background: $background;
        scrollbar-size-vertical: 1;
        scrollbar-size-horizontal: 0;
        & > .row-list--header { color: $text-muted; text-style: none; }
        & > .row-list--plain { color: $foreground; }
        & > .row-list--dim { color: $text-muted; }
        & > .row-list--good { color: $success; }
        & > .row-list--warn { color: $warning; }
        & > .row-list--bad { color: $error; text-style: bold; }
        & > .row-list--accent { color: $accent; }
        & > .row-list--cursor { background: $surface; }
        &:focus > .row-list--cursor { background: $panel; text-style: bold; }
        &:nocolor > .row-list--cursor, &:ansi > .row-list--cursor { text-style: reverse; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "Down", show=False, tooltip="Move down"),
        Binding("up,k", "move(-1)", "Up", show=False, tooltip="Move up"),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", show=False, tooltip="A page down"),
        Binding("pageup,ctrl+b", "page(-1)", "Page up", show=False, tooltip="A page up"),
        Binding("ctrl+d", "page(0.5)", "Half a page down", show=False, tooltip="Half a page down"),
        Binding("ctrl+u", "page(-0.5)", "Half a page up", show=False, tooltip="Half a page up"),
        Binding("home,g", "first", "First", show=False, tooltip="The first row"),
        Binding("end,G", "last", "Last", show=False, tooltip="The last row"),
        Binding("enter", "open", "Open", show=False, tooltip="Open the row"),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)

    class Moved(Message):
        """The cursor stands on another row."""

        def __init__(self, row_list: RowList, row: Row | None) -> None:
            super().__init__()
            self.row_list = row_list
            self.row = row

        @property
        def control(self) -> RowList:
            """The list, for ``@on(RowList.Moved, "#id")``."""
            return self.row_list

    class Opened(Message):
        """Somebody wants to see what is behind a row."""

        def __init__(self, row_list: RowList, row: Row) -> None:
            super().__init__()
            self.row_list = row_list
            self.row = row

        @property
        def control(self) -> RowList:
            """The list, for ``@on(RowList.Opened, "#id")``."""
            return self.row_list

    def __init__(
        self, columns: Sequence[Column], *, id: str | None = None, classes: str | None = None, header: bool = True, marker: bool = True, cursor: bool = True
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.columns = tuple(columns)
        self._header = header
        self._marker = marker
        self._shows_cursor = cursor
        self._all: tuple[Row, ...] = ()
        self._rows: tuple[Row, ...] = ()
        self._words: tuple[str, ...] = ()
        self._widths: tuple[int, ...] = ()
        self._follower: RowList | None = None
        self._styles: dict[str, Style] = {}

    # What is in it

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows that the filter lets through."""
        return self._rows

    @property
    def total(self) -> int:
        """How many rows there are without the filter."""
        return len(self._all)

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        return self._rows[self.cursor] if self.cursor < len(self._rows) else None

    def follow(self, other: RowList) -> None:
        """Scroll and move the cursor as *other* does: this list shows the volatile columns of the same rows."""
        other._follower = self
        self.can_focus = False

    def set_rows(self, rows: Sequence[Row]) -> None:
        """Show other rows. The cursor stays on its row; only what has changed is painted."""
        self._all = tuple(rows)
        self._show(tuple(row for row in self._all if row.matches(self._words)) if self._words else self._all)

    def set_filter(self, text: str) -> None:
        """Show only rows in which every word of *text* is found."""
        self._words = tuple(text.lower().split())
        self._show(tuple(row for row in self._all if row.matches(self._words)) if self._words else self._all)

    def _show(self, rows: tuple[Row, ...]) -> None:
        before, kept = self._rows, self.current
        self._rows = rows
        cursor = min(self.cursor, max(0, len(rows) - 1))
        if kept is not None and not (cursor < len(rows) and rows[cursor].key == kept.key):
            cursor = next((index for index, row in enumerate(rows) if row.key == kept.key), cursor)
        if len(before) != len(rows):
            self.virtual_size = Size(self.size.width, len(rows) + self._header)
            self.refresh()
        else:
            top = self.scroll_offset.y
            for line in range(self._header, self.size.height):
                index = top + line - self._header
                if index < len(rows) and rows[index] != before[index]:
                    self._refresh_line(line)
        changed = (rows[cursor] if rows else None) != kept
        self.set_reactive(RowList.cursor, cursor)
        self._bring_into_view()
        if changed:
            self.post_message(self.Moved(self, self.current))

    # Moving

    def validate_cursor(self, cursor: int) -> int:
        """Keep the cursor on a row."""
        return max(0, min(cursor, len(self._rows) - 1))

    def watch_cursor(self, before: int, after: int) -> None:
        """Paint the two lines that change, and tell it."""
        if before == after:
            return
        top = self.scroll_offset.y
        for index in (before, after):
            self._refresh_line(index - top + self._header)
        self._bring_into_view()
        if self._follower is not None:
            self._follower.cursor = after
        self.post_message(self.Moved(self, self.current))

    def _bring_into_view(self) -> None:
        visible = self.size.height - self._header
        top = self.scroll_offset.y
        if visible <= 0:
            return
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, force=True)
        elif self.cursor >= top + visible:
            self.scroll_to(y=self.cursor - visible + 1, animate=False, force=True)

    def watch_scroll_y(self, before: float, after: float) -> None:
        """Take the follower along."""
        super().watch_scroll_y(before, after)
        if self._follower is not None:
            self._follower.scroll_to(y=after, animate=False, force=True)

    def action_move(self, by: int) -> None:
        """Move the cursor by rows."""
        self.cursor += by

    def action_page(self, pages: float) -> None:
        """Move the cursor by pages."""
        self.cursor += int(pages * max(1, self.size.height - self._header))

    def action_first(self) -> None:
        """Move to the first row."""
        self.cursor = 0

    def action_last(self) -> None:
        """Move to the last row."""
        self.cursor = len(self._rows) - 1

    def action_open(self) -> None:
        """Open the row under the cursor."""
        if self.current is not None:
            self.post_message(self.Opened(self, self.current))

    def move_to(self, key: str) -> None:
        """Move to the row with a key, if it is there."""
        for index, row in enumerate(self._rows):
            if row.key == key:
                self.cursor = index
                return

    def on_click(self, event: events.Click) -> None:
        """Move to the row that was clicked; a second click opens it."""
        index = self.scroll_offset.y + event.y - self._header
        if event.y < self._header or index >= len(self._rows):
            return
        if index == self.cursor and event.chain > 1:
            self.action_open()
        self.cursor = index

    # Drawing

    def _refresh_line(self, line: int) -> None:
        if self._header <= line < self.size.height:
            self.refresh(Region(0, line, self.size.width, 1))

    def on_resize(self) -> None:
        """Lay the columns out anew."""
        self._widths = ()
        self.virtual_size = Size(self.size.width, len(self._rows) + self._header)
        self._bring_into_view()

    def notify_style_update(self) -> None:
        """Read the colours of another theme."""
        self._styles.clear()
        super().notify_style_update()

    def _layout(self, width: int) -> tuple[int, ...]:
        if self._widths:
            return self._widths
        # One column stays free at the right, where a scroll bar or the edge of the terminal would touch the text.
        usable = width - 1 - (2 if self._marker else 0)
        shown = [column.needs <= width for column in self.columns]
        gaps = 2 * max(0, sum(shown) - 1)
        fixed = sum(column.width or 0 for column, here in zip(self.columns, shown, strict=True) if here)
        weights = sum(column.weight for column, here in zip(self.columns, shown, strict=True) if here and column.width is None)
        left = max(0, usable - gaps - fixed)
        widths = []
        for column, here in zip(self.columns, shown, strict=True):
            if not here:
                widths.append(0)
            elif column.width is not None:
                widths.append(column.width)
            else:
                share = left * column.weight // weights
                left -= share
                weights -= column.weight
                widths.append(share)
        self._widths = tuple(widths)
        return self._widths

    def _style(self, name: str) -> Style:
        found = self._styles.get(name)
        if found is None:
            found = self._styles[name] = self.get_component_rich_style(f"row-list--{name}", partial=True)
        return found

    def render_line(self, y: int) -> Strip:
        """One line: the header, a row, or nothing."""
        width = self.size.width
        base = self.rich_style
        if self._header and y == 0:
            titles = [Cell(column.title, "header") for column in self.columns]
            return self._strip(titles, width, base, marker="  ")
        index = self.scroll_offset.y + y - self._header
        if index >= len(self._rows):
            return Strip.blank(width, base)
        here = self._shows_cursor and index == self.cursor
        style = base + self._style("cursor") if here else base
        return self._strip(self._rows[index].cells, width, style, marker="> " if here else "  ")

    def _strip(self, cells: Sequence[Cell], width: int, base: Style, *, marker: str) -> Strip:
        segments = [Segment(marker, base)] if self._marker else []
        first = True
        for cell, column, cell_width in zip(cells, self.columns, self._layout(width), strict=False):
            if cell_width == 0:
                continue
            if not first:
                segments.append(Segment("  ", base))
            first = False
            segments.append(Segment(fitted(cell.text, cell_width, right=column.right), base + self._style(cell.tone or "plain")))
        return Strip(segments).adjust_cell_length(width, base)


def fitted(text: str, width: int, *, right: bool = False) -> str:
    """*text* in exactly *width* cells; what is too long loses its middle, because names differ at their ends."""
    if len(text) <= width:
        return text.rjust(width) if right else text.ljust(width)
    if width < 5:
        return text[:width]
    head = (width - 2) // 2
    return f"{text[:head]}..{text[len(text) - (width - 2 - head) :]}"
