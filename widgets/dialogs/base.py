"""Screens that give an answer to whoever has shown them."""

from __future__ import annotations

from typing import ClassVar

from textual.await_complete import AwaitComplete
from textual.screen import ModalScreen, Screen, ScreenResultType


class OneAnswer(Screen[ScreenResultType]):
    """The first answer counts, and takes no screen away but this one.

    Textual takes the topmost one, whichever that is: after two keys in one read, a second click, or
    an engine that answers while the terminal is too small, it was another, and without another the
    dashboard ended. An answer that is given below another screen is kept until that has gone.
    """

    takes_type_ahead: ClassVar[bool] = True
    """Whether keys that were pressed before the screen was drawn are for it. A question drops them:
    they were meant for something else (F66)."""
    is_drawn: bool = False
    """Whether one that takes no type-ahead has been painted, so that a key may be an answer to it."""

    _given: tuple[ScreenResultType | None] | None = None

    @property
    def enter_commits(self) -> bool:
        """Whether enter changes something in the engine. Then it has to be a key of its own, not
        the end of a line of text that was pasted (F66)."""
        return False

    def dismiss(self, result: ScreenResultType | None = None) -> AwaitComplete:
        """Give the answer, and leave."""
        if self._given is None:
            self._given = (result,)
        return super().dismiss(self._given[0]) if self.app.screen is self else AwaitComplete()

    def on_screen_resume(self) -> None:
        """On top again: leave, if the answer has been given."""
        if self._given is not None:
            self.dismiss()


class Dialog(ModalScreen[ScreenResultType], OneAnswer[ScreenResultType]):
    """One over another screen. (Textual takes the styles of the first base class only, so that has
    to be its own.)"""

    @property
    def enter_commits(self) -> bool:
        """Most dialogs do what they ask for; those that only show something say otherwise."""
        return True
