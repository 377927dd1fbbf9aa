"""Details of a row: lines below a list, or a pane of names and values beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll

from widgets.text import Plain, cell_width, escaped


@dataclass(frozen=True, slots=True)
class Detail:
    """*lines* are for the strip below a list, at most four.

    *facts* (name and value) and *notes* (sentences below them) are for the pane, which scrolls.
    """

    title: str = ""
    lines: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


class DetailPane(VerticalScroll, can_focus=False):
    """Shows a `Detail`; the class ``-beside`` makes a pane of the strip."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "detail-pane--title",
        "detail-pane--name",
        "detail-pane--value",
    }
    DEFAULT_CSS = """
    DetailPane {
        height: auto;
        max-height: 6;
        padding: 0 2;
        border-top: solid $border;
        color: $foreground;
        scrollbar-size-vertical: 1;
        & > Static { height: auto; }
        &.-beside {
            width: 46;
            height: 1fr;
            max-height: 100%;
            border-top: none;
            border-left: solid $border;
        }
        & > .detail-pane--title { color: $accent; text-style: bold; }
        & > .detail-pane--name { color: $text-muted; }
        & > .detail-pane--value { color: $foreground; }
    }
    """

    def __init__(self) -> None:
        super().__init__(classes="detail")
        self._detail = Detail()
        self._beside = False

    def compose(self) -> ComposeResult:
        """One text that is replaced when something in it changes."""
        yield Plain("")

    def show(self, detail: Detail, *, beside: bool) -> None:
        """Show *detail*, as a pane where there is room *beside* the list.

        Nothing is painted when nothing has changed.
        """
        if (detail, beside) == (self._detail, self._beside):
            return
        self._detail, self._beside = detail, beside
        self.set_class(beside, "-beside")
        self.query_one(Plain).update(
            self._pane(detail) if beside and detail.facts else "\n".join(map(escaped, detail.lines))
        )

    def _pane(self, detail: Detail) -> RenderableType:
        name, value = (
            self.get_component_rich_style(f"detail-pane--{part}", partial=True)
            for part in ("name", "value")
        )
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(
            style=name, width=max(cell_width(fact) for fact, _ in detail.facts), no_wrap=True
        )
        table.add_column(style=value, ratio=1, overflow="fold")
        title = Text(
            escaped(detail.title), self.get_component_rich_style("detail-pane--title", partial=True)
        )
        for fact in detail.facts:
            table.add_row(*(Text(escaped(text)) for text in fact))
        parts: Sequence[RenderableType] = (
            title,
            Text(""),
            table,
            *(Text(f"\n{escaped(note)}") for note in detail.notes),
        )
        whole = Table.grid(expand=True)
        whole.add_column(overflow="fold")
        for part in parts:
            whole.add_row(part)
        return whole
