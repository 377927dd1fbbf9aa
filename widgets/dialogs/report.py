"""Something longer to read over a screen: a title, lines that scroll, and perhaps a place to go on
to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll

from widgets.dialogs.base import Dialog
from widgets.dialogs.common import DIALOG_CSS
from widgets.row_list import Cell
from widgets.text import Plain, shown


class Report(Dialog[bool]):
    """Lines to read. Enter goes *onward* where there is somewhere to go (the dialog's answer is
    then True), escape closes it."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "report--dim",
        "report--good",
        "report--warn",
        "report--bad",
        "report--accent",
    }
    DEFAULT_CSS = f"""
    Report {{
        {DIALOG_CSS}
        & > .dialog {{ width: 76; }}
        & VerticalScroll {{ height: auto; max-height: 1fr; margin: 1 0; scrollbar-size-vertical: 1; }}
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
        self.tell(self._lines)

    def tell(self, lines: Sequence[Cell]) -> None:
        """Show other lines; before it is composed they are kept for then, and after it is closed
        nothing is left to show them."""
        self._lines = tuple(lines)
        told = Text()
        for number, line in enumerate(lines):
            style = (
                self.get_component_rich_style(f"report--{line.tone}", partial=True)
                if line.tone
                else ""
            )
            told.append("\n" if number else "").append(shown(line.text), style)
        for shows in self.query("#lines").results(Plain):
            shows.update(told)

    @property
    def enter_commits(self) -> bool:
        """Nothing is asked."""
        return False

    def action_scroll(self, by: int) -> None:
        """Move through the lines."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def action_onward(self) -> None:
        """Go on, or close what leads nowhere."""
        self.dismiss(bool(self._onward))

    def action_close(self) -> None:
        """Back to the screen."""
        self.dismiss(False)
