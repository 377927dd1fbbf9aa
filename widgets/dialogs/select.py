"""A choice from a list of options, with a preview of the one under the cursor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from widgets.dialogs.base import DIALOG_CSS, LOW_BREAKPOINTS, SCROLLING_CSS, Dialog
from widgets.row_list import Cell, Column, CursorKeyList, Row, RowList
from widgets.text import Plain, cell_width, escaped

MAX_ROWS = 9
"""Rows that the list shows; it scrolls."""

OTHER_LINES = 8
"""Lines that the rest of the dialog needs on a low terminal."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option, with a *remark* beside its label and a *preview* below the list."""

    id: str
    label: str
    remark: str = ""
    preview: str = ""


class SelectDialog(Dialog[str | None]):
    """One of several options; returns its id, or None.

    *submit* does what was chosen and returns the reason why it was refused, which is shown in
    place, or an empty string.
    """

    DEFAULT_CSS = f"""
    SelectDialog {{ {DIALOG_CSS} {SCROLLING_CSS}
        & RowList {{ background: $surface; }}
        & .select--preview {{ margin-top: 1; height: auto; }}
        & .select--refusal {{ margin-top: 1; height: auto; color: $error; display: none; }}
        & .select--refusal.-shown {{ display: block; }}
        & .select--keys {{ margin-top: 1; color: $text-muted; }}
        &.-low .select--preview, &.-low .select--keys, &.-low .select--refusal {{ margin-top: 0; }}
    }}
    """
    VERTICAL_BREAKPOINTS = LOW_BREAKPOINTS
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel")]

    def __init__(
        self,
        title: str,
        text: str,
        options: Sequence[Option],
        *,
        selected: str | None = None,
        verb: str = "selects",
        submit: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._options = {option.id: option for option in options}
        self._selected = selected
        self._verb = verb
        self._submit = submit
        self._submitting = False

    def compose(self) -> ComposeResult:
        """Title, text, the options, the preview of one, and the keys."""
        options = self._options.values()
        label_width = max((cell_width(escaped(option.label)) for option in options), default=0)
        columns = (
            (Column("", label_width), Column("", weight=1))
            if any(option.remark for option in options)
            else (Column("", weight=1),)
        )
        with Vertical(classes="dialog"):
            yield Plain(self._title, classes="dialog--title")
            yield Plain(self._text, classes="dialog--text")
            # Where the choice changes something, letters that were meant for something else must
            # not move the cursor (F66).
            yield (RowList if self._submit is None else CursorKeyList)(
                columns, id="options", header=False
            )
            yield Plain("", classes="select--preview")
            yield Plain("", classes="select--refusal")
            yield Plain(f"enter {self._verb}   esc changes nothing", classes="select--keys")

    def on_mount(self) -> None:
        """Put the cursor on what is selected now."""
        row_list = self.query_one("#options", RowList)
        row_list.styles.height = min(
            MAX_ROWS, max(1, len(self._options)), max(3, self.app.size.height - OTHER_LINES)
        )
        row_list.set_rows(
            [
                Row(option.id, (Cell(option.label), Cell(option.remark, "dim")))
                for option in self._options.values()
            ]
        )
        if self._selected is not None:
            row_list.move_to(self._selected)
        row_list.focus()
        self.query_one(".dialog--text").display = bool(self._text)
        self._show_preview()

    @property
    def enter_commits(self) -> bool:
        """Whether enter does something with the option."""
        return self._submit is not None

    @on(RowList.Moved)
    def _show_preview(self) -> None:
        row = self.query_one("#options", RowList).current
        preview = self._options[row.key].preview if row is not None else ""
        line = self.query_one(".select--preview", Plain)
        line.display = bool(preview)
        line.update(preview)
        self.query_one(".select--refusal").remove_class("-shown")

    @on(RowList.Opened)
    @work(exit_on_error=False)
    async def _opened(self, event: RowList.Opened) -> None:
        if self._submitting:
            return
        self._submitting = True
        try:
            refusal = await self._submit(event.row.key) if self._submit is not None else ""
        finally:
            self._submitting = False
        if refusal:
            line = self.query_one(".select--refusal", Plain)
            line.update(refusal)
            line.add_class("-shown")
        else:
            self.dismiss(event.row.key)

    def on_key(self, event: events.Key) -> None:
        """On a letter, go back to what is selected, if enter changes something (F66)."""
        if self._submit is not None and event.is_printable:
            event.stop()
            if self._selected in self._options:
                self.query_one("#options", RowList).move_to(self._selected)

    def action_cancel(self) -> None:
        """Change nothing."""
        self.dismiss(None)
