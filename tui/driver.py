"""A terminal driver that sends only the cells and colours that change.

Textual paints whole regions, several times over when a screen or a dialog opens, and begins and
ends every run of cells with all of its colours. Over ssh that is 20 to 50 kB for a key. This driver
parses each frame that Textual writes, a sequence of "go to line and column, then these cells",
remembers what every cell shows, and sends the cells that differ.
"""

from __future__ import annotations

import os
import re
import selectors
import sys
import time
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from textual.drivers.linux_driver import LinuxDriver

from tui.terminal_input import STATUS_QUERY, KeyReader, escape_delay

if TYPE_CHECKING:
    from textual.app import App

_AT = re.compile(r"\x1b\[(\d+);(\d+)H")
_STYLE = re.compile(r"\x1b\[([0-9;]*)m")
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]+"
)
"""Characters that are no cell but that a terminal may obey: C0 and C1 controls, directions of
writing, characters that join or hide others. Widgets escape what they draw (`widgets.text`); this
is the last line of defence behind them (S04)."""

_FOREIGN_ESCAPE = re.compile(r"\x1b(?!\[[0-9;]*[Hm])")
"""An escape that is not one of the two that a frame has."""

_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
"""How Textual brackets a frame where the terminal can show it at once (synchronised output)."""

# ruff: noqa: RUF001 (characters that look like others are what this table is about)
_BOX = {
    **dict.fromkeys("─━═╌╍┄┅╴╶╸╺▔▁▂▃", "-"),
    **dict.fromkeys("│┃║▏▕▎▍▌▐┆┇", "|"),
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼╔╗╚╝┏┓┗┛▛▜▙▟", "+"),
    **dict.fromkeys("█▇▆▅▄▀▊▉▋", "#"),
    **dict.fromkeys("•●○◦▪", "*"),
    **dict.fromkeys("\u201c\u201d\u201e", '"'),
    **dict.fromkeys("‘’‚", "'"),
    **dict.fromkeys("–—", "-"),
    "…": ".",
    "×": "x",
    "·": ".",
    "→": ">",
    "←": "<",
    "▶": ">",
    "▼": "v",
    "▲": "^",
}


def plain(text: str) -> str:
    """*text* in ASCII and as wide as before.

    Lines and blocks become characters like them; a character without one becomes question marks.
    """
    if text.isascii():
        return text
    return "".join(
        character if character.isascii() else _BOX.get(character) or "?" * cell_len(character)
        for character in text
    )


INPUT_POLL = 0.1
"""Seconds after which the reading thread checks whether it must end."""

FALLBACK_SIZE = 80, 24
"""Columns and lines of a terminal that does not report them, as on a serial line."""


def terminal_size() -> tuple[int, int]:
    """Columns and lines of the terminal itself.

    COLUMNS and LINES, where they are exported, are those of another terminal or of an earlier
    moment (F76).
    """
    for stream in (sys.__stderr__, sys.__stdout__, sys.__stdin__):
        with suppress(AttributeError, ValueError, OSError):
            size = os.get_terminal_size(stream.fileno())  # type: ignore[union-attr]
            if size.columns > 0 and size.lines > 0:
                return size.columns, size.lines
    return FALLBACK_SIZE


Style = tuple[str, ...]
"""How a cell looks besides its character: SGR attributes such as ``1`` for bold and
``38;2;1;2;3`` for a colour."""


@lru_cache(4096)
def _apply_sequence(before: Style, sequence: str) -> Style:
    """The style after a sequence such as ``1;38;2;1;2;3``.

    It adds to the style *before* it; an empty sequence is a reset.
    """
    style = {_kind(attribute): attribute for attribute in before}
    numbers = (sequence or "0").split(";")
    while numbers:
        length = (
            {"2": 5, "5": 3}.get(numbers[1], 1)
            if numbers[0] in {"38", "48"} and len(numbers) > 1
            else 1
        )
        attribute = ";".join(numbers[:length])
        numbers = numbers[length:]
        if attribute == "0":
            style = {}
        elif attribute in {"39", "49"}:
            # The terminal's own colours are those after a reset, and NO_COLOR wants none sent.
            style.pop(_kind(attribute), None)
        else:
            style[_kind(attribute)] = attribute
    return tuple(style.values())


@lru_cache(4096)
def _colourless(style: Style) -> Style:
    return tuple(
        attribute for attribute in style if _kind(attribute) not in {"foreground", "background"}
    )


@lru_cache(4096)
def _change(before: Style, after: Style) -> str:
    """The sequence from one style to another, with a reset only where one ends."""
    if {_kind(attribute) for attribute in before} - {_kind(attribute) for attribute in after}:
        return f"\x1b[{';'.join(('0', *after)) if after else ''}m"
    return f"\x1b[{';'.join(attribute for attribute in after if attribute not in before)}m"


def _kind(attribute: str) -> str:
    """What an attribute sets: the foreground, the background, or itself."""
    number = int(attribute.partition(";")[0] or 0)
    if 30 <= number <= 39 or 90 <= number <= 97:
        return "foreground"
    if 40 <= number <= 49 or 100 <= number <= 107:
        return "background"
    return attribute


Cell = tuple[str, Style]


class _Terminal:
    """The terminal as a file that never fails, also when the terminal is gone.

    Textual's writing thread would end with the first error, and the program would wait for ever for
    room in the queue to that thread.
    """

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


class DiffingDriver(LinuxDriver):
    """Sends what the terminal does not show yet.

    With *ascii_only* it sends ASCII characters only, and without *colours* no colour, whatever the
    widgets draw.
    """

    ascii_only = False
    colours = True
    MERGE_GAP = 8
    """Equal cells between two that differ that are sent with them: a jump over them would take as
    many bytes."""

    def __init__(
        self,
        app: App[Any],
        *,
        debug: bool = False,
        mouse: bool = True,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        self._lines: dict[str, list[Cell | None]] = {}
        self._cursor = ""
        self._has_begun = False
        self._is_drawing = False
        # LinuxDriver.__init__ has set it to standard error.
        terminal: Any = _Terminal(self._file)
        self._file = terminal

    def _get_terminal_size(self) -> tuple[int, int]:
        return terminal_size()

    def run_input_thread(self) -> None:
        """Read what the terminal sends until the driver stops."""
        reader = KeyReader(query=self._query_status, delay=escape_delay())
        self._query_status()
        with selectors.DefaultSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                deadline = reader.deadline
                wait = (
                    INPUT_POLL
                    if deadline is None
                    else min(INPUT_POLL, max(0.0, deadline - time.monotonic()))
                )
                messages = reader.feed(self._read_input()) if selector.select(wait) else []
                for message in (*messages, *reader.tick()):
                    self.process_message(message)

    def _read_input(self) -> bytes:
        try:
            data = os.read(self.fileno, 65_536)
        except OSError:
            data = b""
        if not data:
            # The terminal is gone, and SIGHUP will arrive. Until then reading never blocks.
            self.exit_event.wait(INPUT_POLL)
        return data

    def _query_status(self) -> None:
        """Query the terminal's status, which it reports after all that it has sent.

        See `tui.terminal_input`.
        """
        if self._writer_thread is not None:
            super().write(STATUS_QUERY)

    def invalidate(self) -> None:
        """Forget what the terminal shows: all of the next frame is sent."""
        self._lines.clear()
        self._cursor = ""

    def start_application_mode(self) -> None:
        """Begin with a terminal whose content is unknown."""
        self.invalidate()
        self._is_drawing = True
        super().start_application_mode()  # type: ignore[no-untyped-call]

    def stop_application_mode(self) -> None:
        """Restore the terminal."""
        self._is_drawing = False
        super().stop_application_mode()

    def _sigcont_application(self, *arguments: Any) -> None:
        """Draw again after a stop, whether by SIGTSTP or by SIGSTOP.

        Textual starts a second thread that reads keys while the first one still does. One of them
        then waits for a key that the other has read, and the program hangs at its end.
        """
        if self._app._exit:
            return
        if self._is_drawing and self._auto_restart:
            self.suspend_application_mode()
            self._must_signal_resume = True
        super()._sigcont_application(*arguments)

    def write(self, data: str) -> None:
        """Send a frame, or another sequence that the terminal must obey."""
        if data == _BEGIN:
            self._has_begun = True
            return
        if data == _END:
            if not self._has_begun:
                super().write(data)
            self._has_begun = False
            return
        if self.ascii_only:
            data = plain(data)
        if _AT.match(data):
            data = self._diff(data)
        if data:
            super().write(_BEGIN + data if self._has_begun else data)
            self._has_begun = False

    def _diff(self, frame: str) -> str:
        """The part of a frame that is not shown yet.

        A frame ends with the position of the cursor, and nothing stands behind that.
        """
        parts = _AT.split(frame)
        if parts[-1]:
            # Cells at the end and no cursor: nothing that Textual sends now, and nothing that may
            # be lost.
            self.invalidate()
            # Line breaks stay: Textual goes to a new line although it then says where that is.
            return _CONTROLS.sub(
                lambda match: "".join(
                    character for character in match[0] if character in "\x1b\r\n"
                ),
                _FOREIGN_ESCAPE.sub("", frame),
            )
        output: list[str] = []
        style: Style = ()
        for line, column, cells in zip(parts[1:-3:3], parts[2:-3:3], parts[3:-3:3], strict=True):
            style = self._diff_line(
                output, style, line, int(column) - 1, _parse_cells(cells, colours=self.colours)
            )
        if style:
            output.append("\x1b[m")
        cursor = f"\x1b[{parts[-3]};{parts[-2]}H"
        if output or cursor != self._cursor:
            self._cursor = cursor
            output.append(cursor)
        return "".join(output)

    def _diff_line(
        self, output: list[str], style: Style, line: str, column: int, cells: list[Cell]
    ) -> Style:
        """Append the changed cells of a line to *output*.

        *style* is the terminal's style before them; returns the style after them.
        """
        shown_cells = self._lines.setdefault(line, [])
        end = column + len(cells)
        if not all(character.isascii() or cell_len(character) == 1 for character, _ in cells):
            # Some characters are two cells wide or none: only the terminal knows their columns.
            ranges = [(0, len(cells))]
            del shown_cells[column:]
        else:
            shown_cells.extend([None] * (end - len(shown_cells)))
            ranges = _merge_ranges(
                [
                    index
                    for index, (before, after) in enumerate(
                        zip(shown_cells[column:end], cells, strict=True)
                    )
                    if before != after
                ],
                self.MERGE_GAP,
            )
            shown_cells[column:end] = cells
        for begin, stop in ranges:
            output.append(f"\x1b[{line};{column + begin + 1}H")
            for character, cell_style in cells[begin:stop]:
                if cell_style is not style and cell_style != style:
                    output.append(_change(style, cell_style))
                    style = cell_style
                output.append(character)
        return style


def _parse_cells(text: str, *, colours: bool) -> list[Cell]:
    """The characters of a run, each with its style.

    Control characters are left out, and so is the line break behind a run.
    """
    parts = [_CONTROLS.sub("", part) for part in _STYLE.split(text)]
    style: Style = ()
    cells: list[Cell] = [(character, style) for character in parts[0]]
    for sequence, characters in zip(parts[1::2], parts[2::2], strict=True):
        style = _apply_sequence(style, sequence)
        if not colours:
            style = _colourless(style)
        cells += [(character, style) for character in characters]
    return cells


def _merge_ranges(indexes: list[int], gap: int) -> list[tuple[int, int]]:
    """Indexes as half-open ranges; ranges at most *gap* apart are merged."""
    ranges: list[tuple[int, int]] = []
    for index in indexes:
        if ranges and index - ranges[-1][1] <= gap:
            ranges[-1] = (ranges[-1][0], index + 1)
        else:
            ranges.append((index, index + 1))
    return ranges
