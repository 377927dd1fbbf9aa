"""Less on the wire: what the terminal shows already is not sent again, and colours are told only
where they change.

Textual paints whole regions, several times over when a screen or a dialog opens, and begins and
ends every run of cells with all of its colours. Over ssh that is 20 to 50 kB for a key. This driver
reads each picture as it leaves, a sequence of "go to line and column, then these cells", remembers
what every cell shows, and sends the cells that differ.
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
_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]+"
)
"""What is no cell and a terminal may obey all the same: C0 and C1 controls, directions of writing,
what joins or hides signs. Widgets clean what they draw (`widgets.text`); this is the last line
behind them (S04)."""

_NOT_OURS = re.compile(r"\x1b(?!\[[0-9;]*[Hm])")
"""An escape that is not one of the two that a picture has."""

_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
"""How Textual brackets a picture where the terminal can show it at once (synchronised output)."""

# ruff: noqa: RUF001 (signs that look like others are what this table is about)
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
    """*text* in ASCII and as wide as before: lines and blocks become signs like them, and what has
    none becomes a question mark."""
    if text.isascii():
        return text
    return "".join(
        each if each.isascii() else _BOX.get(each) or "?" * cell_len(each) for each in text
    )


INPUT_POLL = 0.1
"""Seconds after which the thread that reads looks whether it is to end."""

FALLBACK_SIZE = 80, 24
"""Columns and lines of a terminal that does not know them, as on a serial line."""


def terminal_size() -> tuple[int, int]:
    """Columns and lines of the terminal itself: COLUMNS and LINES, where they are exported, are
    those of another one or of an earlier moment (F76)."""
    for stream in (sys.__stderr__, sys.__stdout__, sys.__stdin__):
        with suppress(AttributeError, ValueError, OSError):
            size = os.get_terminal_size(stream.fileno())  # type: ignore[union-attr]
            if size.columns > 0 and size.lines > 0:
                return size.columns, size.lines
    return FALLBACK_SIZE


Style = tuple[str, ...]
"""What a cell looks like besides its sign: attributes as the terminal is told them, such as ``1``
for bold and ``38;2;1;2;3`` for a colour."""


@lru_cache(4096)
def _styled(before: Style, told: str) -> Style:
    """The style after a sequence such as ``1;38;2;1;2;3``, which adds to what was told before it;
    an empty one is a reset."""
    style = {_kind(each): each for each in before}
    numbers = (told or "0").split(";")
    while numbers:
        taken = (
            {"2": 5, "5": 3}.get(numbers[1], 1)
            if numbers[0] in {"38", "48"} and len(numbers) > 1
            else 1
        )
        attribute = ";".join(numbers[:taken])
        numbers = numbers[taken:]
        if attribute == "0":
            style = {}
        elif attribute in {"39", "49"}:
            # The terminal's own colours are what a reset leaves, and NO_COLOR wants to hear of
            # none.
            style.pop(_kind(attribute), None)
        else:
            style[_kind(attribute)] = attribute
    return tuple(style.values())


@lru_cache(4096)
def _colourless(style: Style) -> Style:
    return tuple(each for each in style if _kind(each) not in {"ink", "paper"})


@lru_cache(4096)
def _change(now: Style, wanted: Style) -> str:
    """What brings a terminal from one style to another. Only an attribute that ends needs a reset."""
    if {_kind(each) for each in now} - {_kind(each) for each in wanted}:
        return f"\x1b[{';'.join(('0', *wanted)) if wanted else ''}m"
    return f"\x1b[{';'.join(each for each in wanted if each not in now)}m"


def _kind(attribute: str) -> str:
    """What an attribute is about: the colour of the signs, that behind them, or itself."""
    number = int(attribute.partition(";")[0] or 0)
    if 30 <= number <= 39 or 90 <= number <= 97:
        return "ink"
    if 40 <= number <= 49 or 100 <= number <= 107:
        return "paper"
    return attribute


Cell = tuple[str, Style]


class _Terminal:
    """The terminal as a file that takes everything, also when it is gone.

    Textual's thread that writes would end with the first error, and the program would wait for ever
    for room in the queue to that thread.
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
    """Sends what a terminal does not show yet. *ascii_only* lets no other signs through, and
    without *colours* not one colour, whatever a widget wants."""

    ascii_only = False
    colours = True
    NEAR = 8
    """Equal cells between two that differ that are sent with them: to go past them would take as
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
        self._begun = False
        self._draws = False
        # LinuxDriver.__init__ has set it to standard error.
        terminal: Any = _Terminal(self._file)
        self._file = terminal

    def _get_terminal_size(self) -> tuple[int, int]:
        return terminal_size()

    def run_input_thread(self) -> None:
        """Read what the terminal sends until the driver stops."""
        reader = KeyReader(ask=self._ask, delay=escape_delay())
        self._ask()
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
            # The terminal is gone, of which SIGHUP tells. Until then it is ready to be read all the
            # time.
            self.exit_event.wait(INPUT_POLL)
        return data

    def _ask(self) -> None:
        """Ask the terminal for something that it answers after all that it has sent (see
        `tui.terminal_input`)."""
        if self._writer_thread is not None:
            super().write(STATUS_QUERY)

    def forget(self) -> None:
        """What the terminal shows is not known any more."""
        self._lines.clear()
        self._cursor = ""

    def start_application_mode(self) -> None:
        """Begin with a terminal of which nothing is known."""
        self.forget()
        self._draws = True
        super().start_application_mode()  # type: ignore[no-untyped-call]

    def stop_application_mode(self) -> None:
        """Give the terminal back as it was."""
        self._draws = False
        super().stop_application_mode()

    def _sigcont_application(self, *arguments: Any) -> None:
        """Draw again after a stop, whether it was announced (SIGTSTP) or not (SIGSTOP).

        Textual starts a second thread that reads keys where the first still does. One of them then
        waits for a key that the other has read, and the end of the program waits for it: it hangs.
        """
        if self._app._exit:
            return
        if self._draws and self._auto_restart:
            self.suspend_application_mode()
            self._must_signal_resume = True
        super()._sigcont_application(*arguments)

    def write(self, data: str) -> None:
        """Send a picture, or something else that the terminal is to do."""
        if data == _BEGIN:
            self._begun = True
            return
        if data == _END:
            if not self._begun:
                super().write(data)
            self._begun = False
            return
        if self.ascii_only:
            data = plain(data)
        if _AT.match(data):
            data = self._diff(data)
        if data:
            super().write(_BEGIN + data if self._begun else data)
            self._begun = False

    def _diff(self, picture: str) -> str:
        """What of a picture is not shown yet. It ends with the place of the cursor, behind which
        nothing stands."""
        parts = _AT.split(picture)
        if parts[-1]:
            # Cells at the end and no cursor: nothing that Textual sends now, and nothing that may
            # be lost.
            self.forget()
            # Line breaks stay: Textual goes to a new line although it then says where that is.
            return _OBEYED.sub(
                lambda found: "".join(each for each in found[0] if each in "\x1b\r\n"),
                _NOT_OURS.sub("", picture),
            )
        told: list[str] = []
        now: Style = ()
        for line, column, cells in zip(parts[1:-3:3], parts[2:-3:3], parts[3:-3:3], strict=True):
            now = self._tell(told, now, line, int(column) - 1, _read(cells, colours=self.colours))
        if now:
            told.append("\x1b[m")
        cursor = f"\x1b[{parts[-3]};{parts[-2]}H"
        if told or cursor != self._cursor:
            self._cursor = cursor
            told.append(cursor)
        return "".join(told)

    def _tell(
        self, told: list[str], now: Style, line: str, column: int, cells: list[Cell]
    ) -> Style:
        """Add what is new in a line to *told*; *now* is the terminal's style before it, and what it
        gives that behind it."""
        shown = self._lines.setdefault(line, [])
        end = column + len(cells)
        if not all(sign.isascii() or cell_len(sign) == 1 for sign, _ in cells):
            # Some signs are two cells wide or none: what stands where is for the terminal to know.
            spans = [(0, len(cells))]
            del shown[column:]
        else:
            shown.extend([None] * (end - len(shown)))
            spans = _merge_ranges(
                [
                    index
                    for index, (old, new) in enumerate(zip(shown[column:end], cells, strict=True))
                    if old != new
                ],
                self.NEAR,
            )
            shown[column:end] = cells
        for begin, stop in spans:
            told.append(f"\x1b[{line};{column + begin + 1}H")
            for sign, style in cells[begin:stop]:
                if style is not now and style != now:
                    told.append(_change(now, style))
                    now = style
                told.append(sign)
        return now


def _read(cells: str, *, colours: bool) -> list[Cell]:
    """The signs of a run, each with its style. What is no sign is left out, the line break behind a
    run too."""
    parts = [_OBEYED.sub("", part) for part in _STYLE.split(cells)]
    style: Style = ()
    found: list[Cell] = [(sign, style) for sign in parts[0]]
    for told, text in zip(parts[1::2], parts[2::2], strict=True):
        style = _styled(style, told)
        if not colours:
            style = _colourless(style)
        found += [(sign, style) for sign in text]
    return found


def _merge_ranges(changed: list[int], near: int) -> list[tuple[int, int]]:
    """Indexes as ranges; what lies near to each other becomes one."""
    spans: list[tuple[int, int]] = []
    for index in changed:
        if spans and index - spans[-1][1] <= near:
            spans[-1] = (spans[-1][0], index + 1)
        else:
            spans.append((index, index + 1))
    return spans
