"""Source registries."""

from __future__ import annotations

import time
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from entrepot.api.client import ClientError
from entrepot.api.models import RuleSnapshot, SourceRegistrySnapshot
from tui.key_queue import opens_screen
from tui.presentation.sources import (
    doctor_report_cells,
    rule_cells,
    source_detail,
    source_row,
    used_first,
)
from tui.screens.base import ListScreen
from widgets.detail import Detail
from widgets.dialogs.report import ReportDialog
from widgets.row_list import Cell, Column, Row, RowList


class SourcesScreen(ListScreen):
    """Where rules may pull from, what each asks of credentials, and how it is."""

    area = 5
    thing = "source registry"
    FOR_A_ROW = frozenset({"examine"})
    title_text = "Source registries"
    empty_text = "There are no source registries."
    DEFAULT_CSS = """
    SourcesScreen { & .detail.-beside { width: 40; } }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "c",
            "examine",
            "check",
            tooltip="Look at all that the rules need of this source: name, connection, sign-in, manifests",
            id="sources.check",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._upstreams: dict[str, SourceRegistrySnapshot] = {}
        self._rules: dict[str, list[RuleSnapshot]] = {}
        self._counted: dict[str, int] = {}

    def lists(self) -> ComposeResult:
        """Login server, credentials, rules, state, allowance."""
        yield RowList(
            (
                Column("Login server", weight=1),
                Column("Sign-in", 8, needs=56),
                Column("Rules", 5, right=True),
                Column("State", 15),
                Column("Allowance", 20, needs=76),
            ),
            id="list",
        )

    async def fetch(self) -> None:
        """All of them, those that rules use first; the rules again only when their number has
        changed."""
        shown = used_first(await self.app.client.system.source_registries())
        counted = {each.login_server: each.rules for each in shown}
        if counted != self._counted:
            rules: dict[str, list[RuleSnapshot]] = {}
            for rule in await self.app.client.rules.list():
                rules.setdefault(rule.login_server, []).append(rule)
            self._rules, self._counted = rules, counted
        now = time.time()
        self._upstreams = {each.login_server: each for each in shown}
        self.show_rows([source_row(each, now) for each in shown])

    def count_text(self) -> str:
        """How many rules use."""
        used = sum(bool(each.rules) for each in self._upstreams.values())
        return f"{used:,} of {len(self._upstreams):,} in use"

    def detail(self, row: Row) -> Detail:
        """What is known of it."""
        return source_detail(self._upstreams[row.key], self._rules.get(row.key, ()), time.time())

    def own_disabled_reason(self, action: str) -> str:
        """What no rule uses needs no looking after."""
        row = self.row_list.current
        if action == "examine" and row is not None and not self._upstreams[row.key].rules:
            return f"No cache rule uses {row.key}: there is nothing to examine."
        return super().own_disabled_reason(action)

    @on(RowList.Opened, "#list")
    @opens_screen()
    async def _open(self, event: RowList.Opened) -> None:
        """The rules that use it."""
        rules = self._rules.get(event.row.key, [])
        lines = rule_cells(rules) or [
            Cell("No cache rule uses it yet. Press 2 and then n to make one.")
        ]
        if await self.app.push_screen_wait(
            ReportDialog(
                f"Cache rules of {event.row.key}",
                lines,
                onward="goes to the first of them" if rules else "",
            )
        ):
            await self.app.show_row("Rules", rules[0].name)

    @work(exit_on_error=False, exclusive=True, group="examine")
    async def action_examine(self) -> None:
        """Examine the source under the cursor, and show what was found."""
        row = self.row_list.current
        if row is None:
            return
        waiting = Cell(
            "Looking at it from its name to its manifests. A source that is silent takes up to a minute.",
            "dim",
        )
        report = ReportDialog(f"Doctor report of {row.key}", (waiting,))
        closed = self.app.push_screen(report)
        try:
            found = await self.app.client.system.doctor(source=row.key)
        except ClientError as error:
            lines = [Cell(error.message, "bad")]
        else:
            lines = doctor_report_cells(found)
        if report.is_attached:
            report.show_lines(lines)
        await closed
        self.app.poll_now()
        self.poll()
