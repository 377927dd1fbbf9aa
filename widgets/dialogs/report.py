"""A report over a screen: lines that scroll, and perhaps a place to go to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll

from widgets.dialogs.base import DIALOG_CSS, Dialog
from widgets.row_list import Cell
from widgets.text import Plain, escaped

OTHER_LINES = 8
"""Lines of the dialog besides those that scroll: border, padding, title, keys and margins."""


class ReportDialog(Dialog[bool]):
    """Lines to read; returns True when enter asks to go *onward*, False on escape.

    *onward* says what enter does, such as "goes to the rule"; empty: enter closes.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "report--dim",
        "report--good",
        "report--warn",
        "report--bad",
        "report--accent",
    }
    DEFAULT_CSS = f"""
    ReportDialog {{
        {DIALOG_CSS}
        & > .dialog {{ width: 76; }}
        & VerticalScroll {{
            height: auto;
            margin: 1 0;
            scrollbar-size-vertical: 1;
        }}
        & .dialog--keys {{ color: $text-muted; }}
        & > .report--dim {{ color: $text-muted; }}
        & > .report--good {{ color: $success; }}
        & > .report--warn {{ color: $warning; }}
        & > .report--bad {{ color: $error; text-style: bold; }}
        & > .report--accent {{ color: $accent; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", "close", tooltip="Close this"),
        Binding("enter", "onward", "go on", tooltip="Go to what this is about"),
        Binding("down,j", "scroll(1)", show=False, tooltip="Move down"),
        Binding("up,k", "scroll(-1)", show=False, tooltip="Move up"),
        Binding("pagedown,ctrl+f", "scroll(10)", show=False, tooltip="Move down by ten lines"),
        Binding("pageup,ctrl+b", "scroll(-10)", show=False, tooltip="Move up by ten lines"),
    ]

    def __init__(self, title: str, lines: Sequence[Cell], *, onward: str = "") -> None:
        super().__init__()
        self._title = title
        self._lines = tuple(lines)
        self._onward = onward

    def compose(self) -> ComposeResult:
        """Title, lines, and what the keys do."""
        with Vertical(classes="dialog"):
            yield Plain(self._title, classes="dialog--title")
            with VerticalScroll(can_focus=False):
                yield Plain("", id="lines")
            onward = f"enter {self._onward}   " if self._onward else ""
            yield Plain(f"{onward}esc closes", classes="dialog--keys")

    def on_mount(self) -> None:
        """Show the lines."""
        self.show_lines(self._lines)

    def on_resize(self) -> None:
        """Leave room for the keys below the lines."""
        height = self.app.size.height * 9 // 10 - OTHER_LINES
        self.query_one(VerticalScroll).styles.max_height = max(3, height)

    def show_lines(self, lines: Sequence[Cell]) -> None:
        """Show other lines, also before the dialog is composed or after it has closed."""
        self._lines = tuple(lines)
        text = Text()
        for number, line in enumerate(lines):
            style = (
                self.get_component_rich_style(f"report--{line.tone}", partial=True)
                if line.tone
                else ""
            )
            text.append("\n" if number else "").append(escaped(line.text), style)
        for widget in self.query("#lines").results(Plain):
            widget.update(text)

    @property
    def enter_commits(self) -> bool:
        """False: nothing is asked."""
        return False

    def action_scroll(self, by: int) -> None:
        """Scroll by lines."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def action_onward(self) -> None:
        """Go onward, or close where that leads nowhere."""
        self.dismiss(bool(self._onward))

    def action_close(self) -> None:
        """Back to the screen."""
        self.dismiss(False)
