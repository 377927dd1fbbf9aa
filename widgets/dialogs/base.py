"""Screens that return one result, and the style of all dialogs."""

from __future__ import annotations

from typing import ClassVar

from textual.await_complete import AwaitComplete
from textual.binding import Binding
from textual.screen import ModalScreen, Screen, ScreenResultType

DIALOG_CSS = """
    align: center middle;
    background: transparent;
    & > .dialog {
        width: 68;
        max-width: 96%;
        height: auto;
        max-height: 90%;
        padding: 1 2;
        background: $surface;
        border: round $accent;
    }
    &.-low > .dialog { padding: 0 1; max-height: 100%; }
    &.-low .dialog--text, &.-low .dialog--keys { margin: 0; }
    & .dialog--title { text-style: bold; color: $accent; }
    & .dialog--text { margin: 1 0; height: auto; }
    & .dialog--buttons { height: auto; align-horizontal: right; }
    & .dialog--keys { margin-top: 1; color: $text-muted; }
    & Button { margin-left: 2; min-width: 10; }
    & Input { background: $panel; margin-bottom: 1; }
"""
"""Style of a dialog, to stand inside the braces of its class."""

SCROLLING_CSS = "& > .dialog { overflow-y: auto; scrollbar-size-vertical: 1; }"
"""Added to `DIALOG_CSS` where the text may be longer than the terminal is high."""

LOW_BREAKPOINTS = [(0, "-low"), (20, "-high")]
"""Below 20 lines a dialog has no margins, so that its keys stay on the screen."""

HELP = Binding("question_mark,f1", "app.help", "help", show=False, tooltip="Show these keys")
"""Dialogs hide the application's keys; this one keeps working. In a field, where ``?`` is text, f1
does the same."""


class ResultScreen(Screen[ScreenResultType]):
    """A screen that returns one result and closes no screen but itself.

    Textual's `dismiss` closes the topmost screen, whichever that is. After two keys in one read, a
    second click, or an engine that answers while the terminal is too small, that is another screen,
    and without another one the dashboard ends. Here the first result counts; one that is given
    while another screen is on top is kept until that screen has closed.
    """

    accepts_type_ahead: ClassVar[bool] = True
    """Whether keys that were pressed before the screen was drawn are for it. A question discards
    them: they were meant for something else (F66)."""
    is_drawn: bool = False
    """Whether a screen without type-ahead has been drawn, so that a key may answer it."""

    _result: tuple[ScreenResultType | None] | None = None

    @property
    def enter_commits(self) -> bool:
        """Whether enter changes something in the engine.

        Then enter must be a key of its own, not the end of a line of text that was pasted (F66).
        """
        return False

    def dismiss(self, result: ScreenResultType | None = None) -> AwaitComplete:
        """Return *result* and close, now or when this screen is on top again."""
        if self._result is None:
            self._result = (result,)
        return super().dismiss(self._result[0]) if self.app.screen is self else AwaitComplete()

    def on_screen_resume(self) -> None:
        """Close, if a result was given while another screen was on top."""
        if self._result is not None:
            self.dismiss()


class Dialog(ModalScreen[ScreenResultType], ResultScreen[ScreenResultType]):
    """A result screen over another screen.

    (Textual takes the styles of the first base class only, so that must be `ModalScreen`.)
    """

    @property
    def enter_commits(self) -> bool:
        """True: most dialogs do what they ask for. The others return False."""
        return True
