"""The clients, and the configuration of the one under the cursor: in a dialog and in a wizard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll

from entrepot.api.models import EngineStatus, RuleSnapshot
from tui.presentation.mirrors import ClientText, client_texts
from widgets.row_list import Cell, Column, Row, RowList
from widgets.text import Plain

if TYPE_CHECKING:
    from tui.engine_app import EngineApp

MAX_PATH = 46
"""Cells of the longest file or directory of a client."""


class ConfigurationText(VerticalScroll, can_focus=True):
    """A configuration, which scrolls with the cursor keys."""


class ClientView(Vertical):
    """A list of clients above the configuration of one."""

    DEFAULT_CSS = """
    ClientView {
        height: 1fr;
        & RowList { height: 6; min-height: 3; }
        & ConfigurationText {
            height: 1fr;
            min-height: 3;
            margin: 1 0 0 2;
            scrollbar-size-vertical: 1;
            scrollbar-color: $panel;
            scrollbar-background: $background;
        }
        & ConfigurationText Static { height: auto; }
    }
    """

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._texts: dict[str, ClientText] = {}

    def compose(self) -> ComposeResult:
        """Clients and configuration."""
        yield RowList((Column("", 26), Column("", MAX_PATH, weight=1)), id="clients", header=False)
        with ConfigurationText(id="configuration"):
            yield Plain("", id="configuration-text")

    def show(self, status: EngineStatus, rules: Sequence[RuleSnapshot], rule: str | None) -> None:
        """Show the configurations for all rules, or the one named *rule*."""
        texts = client_texts(status, rules, rule)
        self._texts = {str(text.client): text for text in texts}
        self.query_one("#clients", RowList).set_rows(
            [
                Row(
                    str(text.client),
                    (
                        Cell(text.title, "accent" if text.text else "dim"),
                        Cell(text.place if text.text else "not possible yet", "dim"),
                    ),
                )
                for text in texts
            ]
        )
        self._show_text()

    @property
    def current(self) -> ClientText | None:
        """What is shown."""
        row = self.query_one("#clients", RowList).current
        return self._texts.get(row.key) if row is not None else None

    @on(RowList.Moved, "#clients")
    def _show_text(self) -> None:
        current = self.current
        text = Text()
        if current is not None:
            if current.text:
                text.append(f"{current.text.rstrip()}\n\n")
            text.append("\n".join(current.notes), "dim" if current.text else "")
            if current.text:
                text.append(f"\n\nOr install it there (Y copies):\n{current.command}", "dim")
        self.query_one("#configuration-text", Plain).update(text)
        self.query_one("#configuration", ConfigurationText).scroll_home(animate=False)


def copy_configuration(app: EngineApp, view: ClientView) -> None:
    """Copy the configuration that is shown, or say why there is none."""
    current = view.current
    if current is None:
        return
    if current.text:
        app.copy_line(current.text, f"the configuration of {current.title}")
    else:
        app.notify(" ".join(current.notes), severity="warning")
