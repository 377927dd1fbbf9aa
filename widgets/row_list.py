"""A list of rows in columns, fast with ten thousand rows and on a slow line.

It draws line by line (Textual's line API), and repaints only lines whose text has changed. Textual
sends a line from its widget's left edge on, so columns that change all the time belong into a list
of their own beside this one: see `RowList.follow`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from widgets.text import cell_width, escaped, first_cells, last_cells, padded

TONES = ("dim", "good", "warn", "bad", "accent")
"""Tones of a cell besides the plain one. They never stand alone: the text says the same."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A text in a row, with a tone."""

    text: str
    tone: str = ""


class Row:
    """A row: its *key* keeps the cursor in place when rows come and go.

    *cells* may be a function: of ten thousand rows only those on the screen are then ever built.
    *search* is what a filter searches (empty for the texts of all cells), *order* one value for
    each column, or a function of them, by which a list is sorted (empty for the texts of the
    cells). Where ten thousand of each would take up too much memory, a subclass overrides
    `build_cells`, `search` and `values`.
    """

    __slots__ = ("_cells", "_order", "_search", "_source", "key")

    def __init__(
        self,
        key: str,
        cells: tuple[Cell, ...] | Callable[[], tuple[Cell, ...]],
        search: str = "",
        order: Sequence[Any] | Callable[[], Sequence[Any]] = (),
    ) -> None:
        self.key = key
        self._source = cells
        self._search = search
        self._order = order
        self._cells: tuple[Cell, ...] | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Texts with their tones, one for each column."""
        if self._cells is None:
            self._cells = self.build_cells()
        return self._cells

    def build_cells(self) -> tuple[Cell, ...]:
        """Build the cells, as they are now."""
        return self._source() if callable(self._source) else self._source

    def search(self) -> str:
        """What a filter searches."""
        return self._search or " ".join(cell.text for cell in self.cells)

    def values(self) -> Sequence[Any]:
        """The values to sort by, one a column; empty for the cells' texts."""
        return self._order() if callable(self._order) else self._order

    def invalidate_cells(self) -> None:
        """Build the cells again when they are next needed: they may depend on the time."""
        self._cells = None

    def matches(self, words: Sequence[str]) -> bool:
        """Whether the row has all of *words*, which are in lower case."""
        lowered = self.search().lower()
        return all(word in lowered for word in words)

    def order(self, column: int) -> Any:
        """The value that a list is sorted by in a column."""
        values = self.values()
        return values[column] if values else self.cells[column].text.lower()

    def __eq__(self, other: object) -> bool:
        """Whether both look the same."""
        return isinstance(other, Row) and self.key == other.key and self.cells == other.cells

    def __hash__(self) -> int:
        """By the key."""
        return hash(self.key)

    def __repr__(self) -> str:
        """The key and the texts."""
        return f"Row({self.key!r}, {[cell.text for cell in self.cells]})"


@dataclass(frozen=True, slots=True)
class Column:
    """A column. Without a *width* it shares what is left of the list, by *weight*.

    In a list narrower than *needs* it is left out. Room that its texts do not need goes to columns
    that need more, those with a *width* among them unless they stand at the *right*, as numbers do.
    A text that is still too long loses its middle, because names differ at their ends; a *sentence*
    loses its end.
    """

    title: str
    width: int | None = None
    weight: int = 1
    right: bool = False
    needs: int = 0
    sentence: bool = False

    @property
    def sorts(self) -> bool:
        """Whether a list can be sorted by it: a column without a title has no order."""
        return bool(self.title)


@dataclass(frozen=True, slots=True)
class Order:
    """The column that a list is sorted by."""

    column: int
    descending: bool = False


class RowList(ScrollView, can_focus=True):
    """Rows in columns, with a header, a cursor, a filter and an order."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "row-list--header",
        "row-list--cursor",
        "row-list--plain",
        *(f"row-list--{tone}" for tone in TONES),
    }
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
        &:focus > .row-list--cursor, &.-led > .row-list--cursor {
            background: $panel;
            text-style: bold;
        }
        &:nocolor > .row-list--cursor, &:ansi > .row-list--cursor { text-style: reverse; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "Down", show=False, tooltip="Move down", id="list.down"),
        Binding("up,k", "move(-1)", "Up", show=False, tooltip="Move up", id="list.up"),
        Binding(
            "pagedown,ctrl+f",
            "page(1)",
            "Page down",
            show=False,
            tooltip="A page down",
            id="list.page-down",
        ),
        Binding(
            "pageup,ctrl+b",
            "page(-1)",
            "Page up",
            show=False,
            tooltip="A page up",
            id="list.page-up",
        ),
        Binding(
            "ctrl+d",
            "page(0.5)",
            "Half a page down",
            show=False,
            tooltip="Half a page down",
            id="list.half-page-down",
        ),
        Binding(
            "ctrl+u",
            "page(-0.5)",
            "Half a page up",
            show=False,
            tooltip="Half a page up",
            id="list.half-page-up",
        ),
        Binding("home,g", "first", "First", show=False, tooltip="The first row", id="list.first"),
        Binding("end,G", "last", "Last", show=False, tooltip="The last row", id="list.last"),
        Binding("enter", "open", "Open", show=False, tooltip="Open the row", id="list.open"),
        Binding(
            "o",
            "order",
            "order",
            show=False,
            tooltip="Sort by the next column; after the last one in the order of the engine",
            id="list.order",
        ),
        Binding("O", "turn", "reverse", show=False, tooltip="Reverse the order", id="list.turn"),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)

    class Moved(Message):
        """The cursor moved to another row."""

        def __init__(self, row_list: RowList, row: Row | None) -> None:
            super().__init__()
            self.row_list = row_list
            self.row = row

        @property
        def control(self) -> RowList:
            """The list, for ``@on(RowList.Moved, "#id")``."""
            return self.row_list

    class Opened(Message):
        """A row was opened."""

        def __init__(self, row_list: RowList, row: Row) -> None:
            super().__init__()
            self.row_list = row_list
            self.row = row

        @property
        def control(self) -> RowList:
            """The list, for ``@on(RowList.Opened, "#id")``."""
            return self.row_list

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        id: str | None = None,
        classes: str | None = None,
        header: bool = True,
        marker: bool = True,
        cursor: bool = True,
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
        # Of each column the longest text that was on the screen so far. It only grows, so that no
        # column moves to and fro.
        self._longest = [cell_width(column.title) for column in self.columns]
        self._order: Order | None = None
        self._follower: RowList | None = None
        self._leader: RowList | None = None
        self._styles: dict[str, Style] = {}

    # Rows

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows that match the filter."""
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
        """Scroll and move the cursor as *other* does.

        This list shows the volatile columns of the same rows.
        """
        other._follower = self
        # To the user both are one list, whose scroll bar stands at the right edge.
        other.styles.scrollbar_size_vertical = 0
        self._leader = other
        self.can_focus = False

    @property
    def order(self) -> Order | None:
        """What the list is sorted by; None for the order in which the rows were set."""
        return self._order

    def set_rows(self, rows: Sequence[Row]) -> None:
        """Show other rows. The cursor stays on its row; only what has changed is painted."""
        self._all = tuple(rows)
        self._arrange()

    def refresh_texts(self) -> None:
        """Build the texts of the same rows again, because time has passed.

        Only lines on the screen that have changed are painted.
        """
        visible = [(line, row, row.cells) for line, row in self._lines_on_screen()]
        for row in self._all:
            row.invalidate_cells()
        for line, row, before in visible:
            if row.cells != before:
                self._refresh_line(line)
        self._measure()

    def _lines_on_screen(self) -> Iterator[tuple[int, Row]]:
        top = self.scroll_offset.y - self._header
        for line in range(self._header, self.size.height):
            if 0 <= top + line < len(self._rows):
                yield line, self._rows[top + line]

    def set_filter(self, text: str) -> None:
        """Show only rows that have all words of *text*."""
        self._words = tuple(text.lower().split())
        self._arrange()

    def set_order(self, order: Order | None) -> None:
        """Sort by a column, or show the rows as they were set."""
        self._order = order
        self._arrange()
        if self._header:
            self._refresh_line(0)

    def on_focus(self) -> None:
        """Highlight the current row of the list that follows too."""
        if self._follower is not None:
            self._follower.add_class("-led")

    def on_blur(self) -> None:
        """Stop highlighting it."""
        if self._follower is not None:
            self._follower.remove_class("-led")

    def _arrange(self) -> None:
        if self._leader is not None:
            by_key = {row.key: row for row in self._all}
            self._show(tuple(by_key[row.key] for row in self._leader.rows if row.key in by_key))
            return
        rows = (
            tuple(row for row in self._all if row.matches(self._words))
            if self._words
            else self._all
        )
        if (order := self._order) is not None:
            rows = tuple(
                sorted(rows, key=lambda row: row.order(order.column), reverse=order.descending)
            )
        self._show(rows)
        if self._follower is not None:
            self._follower._arrange()

    def _show(self, rows: tuple[Row, ...]) -> None:
        before, current = self._rows, self.current
        self._rows = rows
        cursor = min(self.cursor, max(0, len(rows) - 1))
        if current is not None and not (cursor < len(rows) and rows[cursor].key == current.key):
            cursor = next(
                (index for index, row in enumerate(rows) if row.key == current.key), cursor
            )
        if len(before) != len(rows):
            self.virtual_size = Size(self.size.width, len(rows) + self._header)
            self.refresh()
        else:
            top = self.scroll_offset.y
            for line in range(self._header, self.size.height):
                index = top + line - self._header
                if index < len(rows) and rows[index] != before[index]:
                    self._refresh_line(line)
        self._measure()
        has_changed = (rows[cursor] if rows else None) != current
        self.set_reactive(RowList.cursor, cursor)
        self._bring_into_view()
        if has_changed:
            self.post_message(self.Moved(self, self.current))

    # Moving

    def validate_cursor(self, cursor: int) -> int:
        """Keep the cursor on a row."""
        return max(0, min(cursor, len(self._rows) - 1))

    def watch_cursor(self, before: int, after: int) -> None:
        """Paint the two lines that change, and post a message."""
        if before == after:
            return
        top = self.scroll_offset.y
        for index in (before, after):
            if index >= top:
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
        """Scroll the follower too."""
        super().watch_scroll_y(before, after)
        self._measure()
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

    def action_order(self) -> None:
        """Sort by the next visible column, and after the last one not at all."""
        widths = self._layout(self.size.width)
        begin = self._order.column + 1 if self._order is not None else 0
        following = (
            index
            for index in range(begin, len(self.columns))
            if self.columns[index].sorts and widths[index]
        )
        index = next(following, None)
        self.set_order(
            Order(index, descending=self.columns[index].right) if index is not None else None
        )

    def action_turn(self) -> None:
        """Reverse the order."""
        if self._order is not None:
            self.set_order(Order(self._order.column, not self._order.descending))

    def move_to(self, key: str) -> None:
        """Move to the row with a key, if there is one."""
        for index, row in enumerate(self._rows):
            if row.key == key:
                self.cursor = index
                return

    def on_click(self, event: events.Click) -> None:
        """Move to the row that was clicked; a second click opens it."""
        index = self.scroll_offset.y + event.y - self._header
        if event.y < self._header:
            self._sort_by_click(event.x)
            return
        if index >= len(self._rows):
            return
        if index == self.cursor and event.chain > 1:
            self.action_open()
        self.cursor = index

    def _sort_by_click(self, x: int) -> None:
        start = 2 if self._marker else 0
        for index, (column, width) in enumerate(
            zip(self.columns, self._layout(self.size.width), strict=True)
        ):
            if width and start <= x < start + width and column.sorts:
                again = self._order is not None and self._order.column == index
                self.set_order(
                    Order(
                        index,
                        not self._order.descending
                        if again and self._order is not None
                        else column.right,
                    )
                )
            start += width + 2 if width else 0

    # Drawing

    def _refresh_line(self, line: int) -> None:
        if 0 <= line < self.size.height:
            self.refresh(Region(0, line, self.size.width, 1))

    def on_resize(self) -> None:
        """Lay the columns out again."""
        self._widths = ()
        self.virtual_size = Size(self.size.width, len(self._rows) + self._header)
        self._bring_into_view()
        self._measure()

    def notify_style_update(self) -> None:
        """Read the colours of another theme."""
        self._styles.clear()
        super().notify_style_update()

    def _measure(self) -> None:
        """Measure the texts on the screen; repaint all if that changes the columns."""
        longest = self._longest[:]
        for _, row in self._lines_on_screen():
            for index, cell in enumerate(row.cells[: len(longest)]):
                longest[index] = max(longest[index], cell_width(escaped(cell.text)))
        if longest != self._longest:
            self._longest = longest
            before, self._widths = self._widths, ()
            if before and self._layout(self.size.width) != before:
                self.refresh()

    def _layout(self, width: int) -> tuple[int, ...]:
        if self._widths:
            return self._widths
        # One column stays free at the right, where a scroll bar or the edge of the terminal would
        # touch the text, and two before the list that follows.
        usable = width - (2 if self._follower is not None else 1) - (2 if self._marker else 0)
        visible = [column.needs <= width for column in self.columns]
        gaps = 2 * max(0, sum(visible) - 1)
        fixed = sum(
            column.width or 0
            for column, is_visible in zip(self.columns, visible, strict=True)
            if is_visible
        )
        weights = sum(
            column.weight
            for column, is_visible in zip(self.columns, visible, strict=True)
            if is_visible and column.width is None
        )
        room = max(0, usable - gaps - fixed)
        widths = []
        for column, is_visible in zip(self.columns, visible, strict=True):
            if not is_visible:
                widths.append(0)
            elif column.width is not None:
                widths.append(column.width)
            else:
                share = room * column.weight // weights
                room -= share
                weights -= column.weight
                widths.append(share)
        self._widths = tuple(self._balanced(widths))
        return self._widths

    def _balanced(self, widths: list[int]) -> list[int]:
        """Give room that columns do not need to those that need more, from left to right."""
        spare = {}
        for index, (column, width) in enumerate(zip(self.columns, widths, strict=True)):
            # The title needs room for the sign of the order too.
            unused = width - max(self._longest[index], cell_width(column.title) + 2)
            if column.width is None and unused > 0:
                spare[index] = unused
        for index, column in enumerate(self.columns):
            lacking = (
                0 if column.right or not widths[index] else self._longest[index] - widths[index]
            )
            while lacking > 0 and spare:
                giver = max(spare, key=spare.__getitem__)
                moved = min(lacking, spare[giver])
                widths[index] += moved
                widths[giver] -= moved
                lacking -= moved
                spare[giver] -= moved
                if not spare[giver]:
                    del spare[giver]
        return widths

    def _style(self, name: str) -> Style:
        style = self._styles.get(name)
        if style is None:
            style = self.get_component_rich_style(f"row-list--{name}", partial=True)
            self._styles[name] = style
        return style

    def render_line(self, y: int) -> Strip:
        """One line: the header, a row, or nothing."""
        width = self.size.width
        base = self.rich_style
        if self._header and y == 0:
            titles = [Cell(self._title(index), "header") for index in range(len(self.columns))]
            return self._strip(titles, width, base, marker="  ")
        index = self.scroll_offset.y + y - self._header
        if index >= len(self._rows):
            return Strip.blank(width, base)
        is_current = self._shows_cursor and index == self.cursor
        style = base + self._style("cursor") if is_current else base
        marker = "> " if is_current else "  "
        return self._strip(self._rows[index].cells, width, style, marker=marker)

    def _title(self, index: int) -> str:
        title = self.columns[index].title
        if self._order is None or self._order.column != index:
            return title
        return f"{title} {'v' if self._order.descending else '^'}"

    def _strip(self, cells: Sequence[Cell], room: int, base: Style, *, marker: str) -> Strip:
        # Each change of style costs some forty bytes of escapes, and of blanks only the background
        # is visible: they take the style of the text before them.
        runs = [(marker, "plain")] if self._marker else []
        gap = ""
        for cell, column, share in zip(cells, self.columns, self._layout(room), strict=False):
            if share == 0:
                continue
            tone = (cell.tone or "plain") if cell.text else runs[-1][1] if runs else "plain"
            text = fitted(cell.text, share, right=column.right, sentence=column.sentence)
            if runs and runs[-1][1] == tone:
                runs[-1] = (f"{runs[-1][0]}{gap}{text}", tone)
            else:
                if runs:
                    runs[-1] = (f"{runs[-1][0]}{gap}", runs[-1][1])
                runs.append((text, tone))
            gap = "  "
        if not runs:
            return Strip.blank(room, base)
        last, tone = runs[-1]
        runs[-1] = (padded(last, room - sum(cell_width(text) for text, _ in runs[:-1])), tone)
        return Strip(
            [Segment(text, base + self._style(tone)) for text, tone in runs]
        ).adjust_cell_length(room, base)


def fitted(text: str, cells: int, *, right: bool = False, sentence: bool = False) -> str:
    """*text* in one printable line of exactly *cells*.

    A text that is too long loses its middle, or as a *sentence* its end.
    """
    text = escaped(text)
    if cell_width(text) <= cells:
        return padded(text, cells, right=right)
    if cells < 5:
        return padded(first_cells(text, cells), cells)
    if sentence:
        return padded(f"{first_cells(text, cells - 2).rstrip()}..", cells)
    head = (cells - 2) // 2
    return padded(f"{first_cells(text, head)}..{last_cells(text, cells - 2 - head)}", cells)


class CursorKeyList(RowList, inherit_bindings=False):
    """A list without letters for keys: pasted text does not move it (F66)."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "move(1)", show=False),
        Binding("up", "move(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("home", "first", show=False),
        Binding("end", "last", show=False),
        Binding("enter", "open", show=False),
    ]
