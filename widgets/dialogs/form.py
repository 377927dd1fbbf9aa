"""A form over a screen: a few lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Button, Input

from widgets.dialogs.base import DIALOG_CSS, HELP, Dialog
from widgets.text import Plain, TextLine, escaped


@dataclass(frozen=True, slots=True)
class Field:
    """A line of text to enter. *hint* is shown while it is empty."""

    id: str
    label: str
    value: str = ""
    hint: str = ""


class FormDialog(Dialog[dict[str, str] | None]):
    """Several lines of text; returns the text of each field by its id, or None.

    Enter in the last field submits the form.
    """

    DEFAULT_CSS = f"FormDialog {{ {DIALOG_CSS} & .dialog--hint {{ color: $text-muted; }} }}"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "cancel", tooltip="Change nothing"),
        HELP,
    ]

    def __init__(self, title: str, fields: Sequence[Field], *, button: str) -> None:
        super().__init__()
        self._title = title
        self._fields = tuple(fields)
        self._button = button

    def compose(self) -> ComposeResult:
        """Title, fields and the button."""
        with Vertical(classes="dialog"):
            yield Plain(self._title, classes="dialog--title")
            yield Plain("")
            for field in self._fields:
                yield Plain(field.label)
                yield TextLine(field.value, id=field.id, compact=True, placeholder=field.hint)
            with Horizontal(classes="dialog--buttons"):
                yield Button("Cancel (esc)", id="cancel", compact=True)
                yield Button(
                    Content(f"{escaped(self._button)} (enter)"),
                    id="submit",
                    compact=True,
                    variant="primary",
                )

    @property
    def enter_commits(self) -> bool:
        """False: a question follows before anything is changed."""
        return False

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        ids = [field.id for field in self._fields]
        position = ids.index(event.input.id or "")
        if position + 1 < len(ids):
            self.query_one(f"#{ids[position + 1]}").focus()
        else:
            self._submit()

    @on(Button.Pressed, "#submit")
    def _submit(self) -> None:
        self.dismiss(
            {
                field.id: self.query_one(f"#{field.id}", Input).value.strip()
                for field in self._fields
            }
        )

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        """Change nothing."""
        self.dismiss(None)
