"""What happened lately."""

from __future__ import annotations

from textual.app import ComposeResult

from tui.presentation import event_row
from tui.screens.area import ListScreen
from widgets.row_list import Column, Row, RowList


class EventsScreen(ListScreen):
    """What happened, newest first."""

    area = 6
    title_text = "Events"
    empty_text = "Nothing has happened since the engine started."

    def lists(self) -> ComposeResult:
        """Time and message."""
        yield RowList((Column("Time", 8), Column("What happened", weight=1)), id="list")

    async def fetch(self) -> None:
        """The last events."""
        self._events = await self.app.client.recent_events()
        self.show_rows([event_row(event, number) for number, event in reversed(list(enumerate(self._events)))])

    def detail(self, row: Row | None) -> tuple[str, ...]:
        """The whole message."""
        return (self._events[int(row.key)].message,) if row is not None else ()
