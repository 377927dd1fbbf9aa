"""A question over a screen that is answered by choosing a row; what is behind the row under the
cursor is shown below the list."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from widgets.dialogs.base import Dialog
from widgets.dialogs.common import DIALOG_CSS, LOW, SCROLLS
from widgets.row_list import Cell, Column, CursorKeyList, Row, RowList
from widgets.text import Plain, cell_width, shown

ROWS = 9
"""Rows that are shown at once; the list scrolls."""


ROOM = 8
"""Lines that the rest of the dialog needs on a low terminal."""


@dataclass(frozen=True, slots=True)
class Option:
    """Something to choose. *remark* stands beside its label, *preview* below the list while the
    cursor is on it."""

    id: str
    label: str
    remark: str = ""
    preview: str = ""


class Pick(Dialog[str | None]):
    """One of several; gives its id, or None. *take* does what was chosen and gives the refusal,
    which is shown in place, or nothing when all is well."""

    DEFAULT_CSS = f"""
    Pick {{ {DIALOG_CSS} {SCROLLS}
        & RowList {{ background: $surface; }}
        & .pick--preview {{ margin-top: 1; height: auto; }}
        & .pick--refusal {{ margin-top: 1; height: auto; color: $error; display: none; }}
        & .pick--refusal.-shown {{ display: block; }}
        & .pick--keys {{ margin-top: 1; color: $text-muted; }}
        &.-low .pick--preview, &.-low .pick--keys, &.-low .pick--refusal {{ margin-top: 0; }}
    }}
    """
    VERTICAL_BREAKPOINTS = LOW
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel")]

    def __init__(
        self,
        title: str,
        text: str,
        options: Sequence[Option],
        *,
        chosen: str | None = None,
        verb: str = "takes it",
        take: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._options = {each.id: each for each in options}
        self._chosen = chosen
        self._verb = verb
        self._take = take
        self._taking = False

    def compose(self) -> ComposeResult:
        """Title, text, the rows, what is behind one, and the keys."""
        labels = max((cell_width(shown(each.label)) for each in self._options.values()), default=0)
        has_remarks = any(each.remark for each in self._options.values())
        columns = (
            (Column("", labels), Column("", weight=1)) if has_remarks else (Column("", weight=1),)
        )
        with Vertical(classes="dialog"):
            yield Plain(self._title, classes="dialog--title")
            yield Plain(self._text, classes="dialog--text")
            # Where something is changed, letters that were meant for something else must not choose
            # what (F66).
            yield (RowList if self._take is None else CursorKeyList)(
                columns, id="options", header=False
            )
            yield Plain("", classes="pick--preview")
            yield Plain("", classes="pick--refusal")
            yield Plain(f"enter {self._verb}   esc changes nothing", classes="pick--keys")

    def on_mount(self) -> None:
        """Begin on what is chosen now."""
        found = self.query_one("#options", RowList)
        found.styles.height = min(
            ROWS, max(1, len(self._options)), max(3, self.app.size.height - ROOM)
        )
        found.set_rows(
            [
                Row(each.id, (Cell(each.label), Cell(each.remark, "dim")))
                for each in self._options.values()
            ]
        )
        if self._chosen is not None:
            found.move_to(self._chosen)
        found.focus()
        self.query_one(".dialog--text").display = bool(self._text)
        self._show_preview()

    @property
    def enter_commits(self) -> bool:
        """Where enter does what was chosen."""
        return self._take is not None

    @on(RowList.Moved)
    def _show_preview(self) -> None:
        row = self.query_one("#options", RowList).current
        preview = self.query_one(".pick--preview", Plain)
        told = self._options[row.key].preview if row is not None else ""
        preview.display = bool(told)
        preview.update(told)
        self.query_one(".pick--refusal").remove_class("-shown")

    @on(RowList.Opened)
    @work(exit_on_error=False)
    async def _opened(self, event: RowList.Opened) -> None:
        if self._taking:
            return
        self._taking = True
        try:
            refusal = await self._take(event.row.key) if self._take is not None else ""
        finally:
            self._taking = False
        if refusal:
            shown = self.query_one(".pick--refusal", Plain)
            shown.update(refusal)
            shown.add_class("-shown")
        else:
            self.dismiss(event.row.key)

    def on_key(self, event: events.Key) -> None:
        """Where something is changed, a letter was meant for something else: the cursor goes back
        to what is chosen now (F66)."""
        if self._take is not None and event.is_printable:
            event.stop()
            if self._chosen in self._options:
                self.query_one("#options", RowList).move_to(self._chosen)

    def action_cancel(self) -> None:
        """Choose nothing."""
        self.dismiss(None)
