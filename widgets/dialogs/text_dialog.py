"""A text over a screen, to read or to select with the mouse."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from widgets.dialogs.base import DIALOG_CSS, HELP, SCROLLING_CSS, Dialog
from widgets.text import Plain


class TextDialog(Dialog[None]):
    """A text with a *note* below it on what to do with it."""

    DEFAULT_CSS = f"TextDialog {{ {DIALOG_CSS} {SCROLLING_CSS} }}"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "close", "close", tooltip="Back to the screen"),
        HELP,
    ]

    def __init__(self, title: str, text: str, note: str = "esc closes") -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._note = note

    def compose(self) -> ComposeResult:
        """Title, text and note."""
        with Vertical(classes="dialog"):
            yield Plain(self._title, classes="dialog--title")
            yield Plain(self._text, classes="dialog--text")
            yield Plain(self._note)

    @property
    def enter_commits(self) -> bool:
        """False: nothing is asked."""
        return False

    def action_close(self) -> None:
        """Back to the screen."""
        self.dismiss()
