"""A question with a few choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Button, Input

from widgets.dialogs.base import DIALOG_CSS, HELP, LOW_BREAKPOINTS, SCROLLING_CSS, Dialog
from widgets.text import Plain, TextLine, escaped


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice of a question. With *danger* it deletes, stops or loses something."""

    id: str
    label: str
    danger: bool = False


class Question(Dialog[str | None]):
    """A question; returns the id of a choice, or None on escape.

    The first choice changes nothing and has the focus. No letter answers the question (F66): left
    and right move between the choices, enter takes one. A letter or a tab goes back to the first
    choice, so that the line end after a text that was meant for something else takes nothing.
    With *typed* the dangerous choices work only after that word has been typed.
    """

    accepts_type_ahead = False

    DEFAULT_CSS = f"Question {{ {DIALOG_CSS} {SCROLLING_CSS} }}"
    VERTICAL_BREAKPOINTS = LOW_BREAKPOINTS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "cancel", tooltip="Change nothing"),
        Binding("left", "app.focus_previous", show=False, tooltip="Go to the previous choice"),
        Binding("right", "app.focus_next", show=False, tooltip="Go to the next choice"),
        # A tab may stand in a text that is pasted; the cursor keys can't.
        Binding("tab", "first_choice", show=False),
        HELP,
    ]

    def __init__(
        self, title: str, text: str, choices: Sequence[Choice], *, typed: str | None = None
    ) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._choices = tuple(choices)
        self._typed = typed

    def compose(self) -> ComposeResult:
        """Title, text, the word to type if there is one, and the choices."""
        with Vertical(classes="dialog"):
            yield Plain(self._title, classes="dialog--title")
            yield Plain(self._text, classes="dialog--text")
            if self._typed is not None:
                yield Plain(f"Type {self._typed} to go on, then enter:")
                yield TextLine(compact=True, id="typed")
            with Horizontal(classes="dialog--buttons"):
                for choice in self._choices:
                    yield Button(
                        Content(escaped(choice.label)),
                        id=choice.id,
                        compact=True,
                        variant="error" if choice.danger else "default",
                        disabled=self._is_locked(choice, ""),
                    )
            if self._typed is None:
                yield Plain(
                    "left, right choose   enter confirms   esc cancels"
                    if len(self._choices) > 1
                    else "enter closes",
                    classes="dialog--keys",
                )

    def on_mount(self) -> None:
        """Put the focus where a careless enter does no harm."""
        self.action_first_choice()

    def action_first_choice(self) -> None:
        """Focus what changes nothing: the first choice, or the field for the word."""
        # Not focus(), which takes effect a turn later: until then the question is drawn and takes
        # no key.
        self.set_focus(
            self.query_one("#typed" if self._typed is not None else f"#{self._choices[0].id}")
        )

    def _is_locked(self, choice: Choice, typed: str) -> bool:
        return choice.danger and self._typed is not None and typed != self._typed

    @on(Input.Changed, "#typed")
    def _unlock(self, event: Input.Changed) -> None:
        for choice in self._choices:
            self.query_one(f"#{choice.id}", Button).disabled = self._is_locked(choice, event.value)

    @on(Input.Submitted, "#typed")
    def _submitted(self, event: Input.Submitted) -> None:
        dangerous = next((choice for choice in self._choices if choice.danger), None)
        if dangerous is not None and not self._is_locked(dangerous, event.value):
            self.dismiss(dangerous.id)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id)

    def on_key(self, event: events.Key) -> None:
        """On a letter, go back to what changes nothing."""
        if event.is_printable:
            event.stop()
            self.action_first_choice()

    def action_cancel(self) -> None:
        """Change nothing."""
        self.dismiss(None)
