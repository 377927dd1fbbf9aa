"""The screen of a terminal that is too small for any other.

It takes no key but the one that quits: no key may act unseen.
"""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.screen import ModalScreen

from widgets.text import Plain


class TooSmall(ModalScreen[None]):
    """Says how large the terminal must be."""

    WIDTH: ClassVar[int] = 60
    HEIGHT: ClassVar[int] = 15
    DEFAULT_CSS = """
    TooSmall { background: $background; & Static { padding: 1 2; } }
    """

    def compose(self) -> ComposeResult:
        """One sentence."""
        yield Plain(
            f"This terminal is too small. Entrepot needs {self.WIDTH} columns "
            f"and {self.HEIGHT} lines.\n\nctrl+q quits."
        )

    def on_key(self, event: events.Key) -> None:
        """Ignore the key."""
        event.stop()
        event.prevent_default()
