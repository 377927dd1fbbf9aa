"""What happened lately."""

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
from widgets.row_list import Column, Row, RowList


class EventsScreen(ListScreen):
    """What happened, newest first, and new events as they come."""

    area = 6
    thing = "event"
    title_text = "Events"
    empty_text = (
        "Nothing has happened since the engine started.\n\n"
        "Pulls, changed rules, sign-ins that fail, sources that go out of reach and evictions are told here, the newest first."
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
        self._seen: Sequence[Event] = ()
        self._events: dict[str, Event] = {}
        self._day = 0

    def lists(self) -> ComposeResult:
        """When, how bad, what."""
        yield RowList(
            (
                Column("When", 12),
                Column("Severity", 8, needs=76),
                Column("What happened", weight=1, sentence=True),
            ),
            id="list",
        )

    async def fetch(self) -> None:
        """The last events. Rows are made anew only when there are others, or when today has become
        yesterday."""
        events = await self.app.client.system.recent_events()
        now = time.time()
        day = time.localtime(now).tm_yday
        if events == self._seen and day == self._day and events:
            self._show_detail()
            return
        self._seen, self._day = events, day
        at_top = self.row_list.cursor == 0
        self._events = events_by_key(events)
        self.show_rows([event_row(key, event, now) for key, event in self._events.items()])
        if at_top and self._wanted is None:
            # Whoever stands at the newest event is following them.
            self.row_list.cursor = 0

    def count_text(self) -> str:
        """How many, and how many of them want to be looked at."""
        words = Counter(severity(event)[0] for event in self._events.values())
        parts = [counted(words[word], word) for word in ("error", "warning") if words[word]]
        return "   ".join([*parts, super().count_text()])

    def detail(self, row: Row) -> Detail:
        """The whole message."""
        return event_detail(self._events[row.key], time.time())

    def action_copy(self) -> None:
        """Copy the message."""
        if (row := self.row_list.current) is not None:
            self.app.copy_line(printable(self._events[row.key].message))

    @on(RowList.Opened, "#list")
    @opens_screen()
    async def _open(self, event: RowList.Opened) -> None:
        """The whole message, and from there what it is about."""
        opened = self._events[event.row.key]
        about = event_subject(opened)
        report = ReportDialog(
            "Event",
            event_cells(opened, time.time()),
            onward=f"goes to {about.label}" if about else "",
        )
        if await self.app.push_screen_wait(report) and about is not None:
            await self.app.show_row(about.area, about.key)
