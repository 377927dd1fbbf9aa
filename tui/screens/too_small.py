"""What a terminal shows that is too small for anything else. It takes no keys but the one that
leaves: nothing may happen unseen."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.screen import ModalScreen

from widgets.text import Plain


class TooSmall(ModalScreen[None]):
    """It says how large the terminal has to be."""

    WIDTH: ClassVar[int] = 60
    HEIGHT: ClassVar[int] = 15
    DEFAULT_CSS = """
    TooSmall { background: $background; & Static { padding: 1 2; } }
    """

    def compose(self) -> ComposeResult:
        """One sentence."""
        yield Plain(
            f"This terminal is too small. Entrepot needs {self.WIDTH} columns and {self.HEIGHT} lines.\n\nctrl+q leaves."
        )

    def on_key(self, event: events.Key) -> None:
        """Swallow it."""
        event.stop()
        event.prevent_default()
