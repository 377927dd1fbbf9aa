"""Source registries."""

from __future__ import annotations

import time

from textual.app import ComposeResult

from tui.presentation import upstream_lines, upstream_row
from tui.screens.area import ListScreen
from widgets.row_list import Column, Row, RowList


class SourcesScreen(ListScreen):
    """Where rules may pull from, what each asks of credentials, and how it is."""

    area = 5
    title_text = "Source registries"
    empty_text = "There are no source registries."

    def lists(self) -> ComposeResult:
        """Name, login server, credentials, rules, state."""
        yield RowList(
            (
                Column("Registry", weight=2, needs=96),
                Column("Login server", weight=2),
                Column("Credentials", 20),
                Column("Rules", 5, right=True),
                Column("State", 16, needs=60),
            ),
            id="list",
        )

    async def fetch(self) -> None:
        """All of them, those that rules use first."""
        found = sorted(await self.app.client.upstreams(), key=lambda each: -each.rules)
        self._upstreams = {each.login_server: each for each in found}
        self.show_rows([upstream_row(each) for each in found])

    def detail(self, row: Row | None) -> tuple[str, ...]:
        """What is known of it."""
        if row is None:
            return ()
        found = self._upstreams[row.key]
        return upstream_lines(found, time.time())
