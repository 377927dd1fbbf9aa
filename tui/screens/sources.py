"""Source registries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from entrepot.api.errors import ClientError
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


class SourcesScreen(ListScreen[SourceRegistrySnapshot]):
    """The source registries: sign-in, rules, health, and rate limits."""

    area = "Sources"
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
            tooltip="Check what rules need of this source: name, connection, sign-in, manifests",
            id="sources.check",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._rules: dict[str, list[RuleSnapshot]] = {}
        self._rule_counts: dict[str, int] = {}

    def lists(self) -> ComposeResult:
        """Login server, sign-in, rules, state, rate limit."""
        yield RowList(
            (
                Column("Login server", weight=1),
                Column("Sign-in", 8, needs=56),
                Column("Rules", 5, right=True),
                Column("State", 15),
                Column("Rate limit", 20, needs=76),
            ),
            id="list",
        )

    async def load(self) -> Sequence[SourceRegistrySnapshot]:
        """All source registries, those that rules use first.

        The rules are fetched only when their numbers have changed.
        """
        sources = used_first(await self.app.client.system.source_registries())
        rule_counts = {source.login_server: source.rules for source in sources}
        if rule_counts != self._rule_counts:
            rules: dict[str, list[RuleSnapshot]] = {}
            for rule in await self.app.client.rules.list():
                rules.setdefault(rule.login_server, []).append(rule)
            self._rules, self._rule_counts = rules, rule_counts
        return sources

    def key(self, model: SourceRegistrySnapshot) -> str:
        """Its login server."""
        return model.login_server

    def row(self, model: SourceRegistrySnapshot) -> Row:
        """Its row."""
        return source_row(model, time.time())

    def show_again(self) -> None:
        """Build the rows again: they depend on the time."""
        self.show_models(tuple(self.models.values()))

    def count_text(self) -> str:
        """How many of them rules use."""
        used = sum(bool(source.rules) for source in self.models.values())
        return f"{used:,} of {len(self.models):,} in use"

    def detail(self, model: SourceRegistrySnapshot) -> Detail:
        """The registry in sentences and facts."""
        return source_detail(model, self._rules.get(model.login_server, ()), time.time())

    def own_disabled_reason(self, action: str) -> str:
        """A registry that no rule uses has nothing to check."""
        source = self.current
        if action == "examine" and source is not None and not source.rules:
            return f"No cache rule uses {source.login_server}: there is nothing to check."
        return super().own_disabled_reason(action)

    @on(RowList.Opened, "#list")
    @opens_screen()
    async def _open(self, event: RowList.Opened) -> None:
        """Show the rules that use it."""
        rules = self._rules.get(event.row.key, [])
        lines = rule_cells(rules) or [
            Cell("No cache rule uses it yet. Press 2 and then n to create one.")
        ]
        report = ReportDialog(
            f"Cache rules of {event.row.key}",
            lines,
            onward="goes to the first of them" if rules else "",
        )
        if await self.app.push_screen_wait(report):
            await self.app.show_row("Rules", rules[0].name)

    @work(exit_on_error=False, exclusive=True, group="examine")
    async def action_examine(self) -> None:
        """Check the source under the cursor, and show the results."""
        source = self.current
        if source is None:
            return
        waiting = Cell(
            "Checking it, from its name to its manifests. A source that does not answer takes up "
            "to a minute.",
            "dim",
        )
        report = ReportDialog(f"Doctor report of {source.login_server}", (waiting,))
        closed = self.app.push_screen(report)
        try:
            checks = await self.app.client.system.doctor(source=source.login_server)
        except ClientError as error:
            lines = [Cell(error.message, "bad")]
        else:
            lines = doctor_report_cells(checks)
        if report.is_attached:
            report.show_lines(lines)
        await closed
        self.app.poll_now()
        self.poll()
