"""The recent events."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from entrepot.api.models import Event
from entrepot.formatting import counted, printable
from tui.key_queue import opens_screen
from tui.presentation.events import (
    event_cells,
    event_detail,
    event_row,
    event_subject,
    events_by_key,
    severity,
)
from tui.screens.base import ListScreen
from widgets.detail import Detail
from widgets.dialogs.report import ReportDialog
from widgets.row_list import Column, RowList


class EventsScreen(ListScreen[Event]):
    """The recent events, newest first, and new ones as they come."""

    area = "Events"
    thing = "event"
    title_text = "Events"
    empty_text = (
        "Nothing has happened since the engine started.\n\n"
        "Pulls, changed rules, failed sign-ins, unreachable sources and evictions appear here, the "
        "newest first."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "copy", "copy", tooltip="Copy the message under the cursor", id="events.copy"),
    ]
    FOR_A_ROW = frozenset({"copy"})
    DEFAULT_CSS = """
    EventsScreen { & .detail.-beside { width: 40; } }
    """

    def __init__(self) -> None:
        super().__init__()
        self._day = 0

    def lists(self) -> ComposeResult:
        """When, how severe, what."""
        yield RowList(
            (
                Column("When", 12),
                Column("Severity", 8, needs=76),
                Column("What happened", weight=1, sentence=True),
            ),
            id="list",
        )

    async def load(self) -> Sequence[Event]:
        """The last events. When the day changes, their rows are built again."""
        day = time.localtime().tm_yday
        if day != self._day:
            self._day, self._loaded = day, None
        return await self.app.client.system.recent_events()

    def show_models(self, models: Sequence[Event]) -> None:
        """Show other events. A cursor on the newest one follows it."""
        follows_newest = self.row_list.cursor == 0 and self._target_key is None
        self.models = events_by_key(models)
        now = time.time()
        self.show_rows([event_row(key, event, now) for key, event in self.models.items()])
        if follows_newest:
            self.row_list.cursor = 0

    def show_again(self) -> None:
        """Show the details again: the rows do not depend on the time."""
        self._show_detail()

    def count_text(self) -> str:
        """How many events, errors and warnings there are."""
        words = Counter(severity(event)[0] for event in self.models.values())
        parts = [counted(words[word], word) for word in ("error", "warning") if words[word]]
        return "   ".join([*parts, super().count_text()])

    def detail(self, model: Event) -> Detail:
        """The whole message."""
        return event_detail(model, time.time())

    def action_copy(self) -> None:
        """Copy the message."""
        if (event := self.current) is not None:
            self.app.copy_line(printable(event.message))

    @on(RowList.Opened, "#list")
    @opens_screen()
    async def _open(self, event: RowList.Opened) -> None:
        """Show the whole message, and on enter what it is about."""
        model = self.models[event.row.key]
        subject = event_subject(model)
        report = ReportDialog(
            "Event",
            event_cells(model, time.time()),
            onward=f"goes to {subject.label}" if subject else "",
        )
        if await self.app.push_screen_wait(report) and subject is not None:
            await self.app.show_row(subject.area, subject.key)
