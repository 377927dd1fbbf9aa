"""Cache rules."""

from __future__ import annotations

import time
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from entrepot.client import ClientError
from entrepot.snapshots import RuleSnapshot
from tui.presentation import rule_lines, rule_row
from tui.screens.area import ListScreen
from tui.wizards.rule import RuleWizard
from widgets.dialogs import Choice, Question
from widgets.row_list import Column, Row, RowList


class RulesScreen(ListScreen):
    """Which source repository appears here, and where."""

    area = 1
    title_text = "Cache rules"
    empty_text = (
        "There is no cache rule yet.\n\n"
        "A rule maps a repository of a source registry, say docker.io/library/*, onto one of yours, say library/*. "
        "The first pull of an image leaves a copy here, which serves every pull after it.\n\n"
        "Press n to make the first one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "new rule", tooltip="Make a cache rule", id="rules.new"),
        Binding("p", "pull", "pull", tooltip="Pull an image through the rule under the cursor", id="rules.pull"),
        Binding("d", "delete", "delete", tooltip="Delete the rule under the cursor; what it cached stays", id="rules.delete"),
    ]

    def lists(self) -> ComposeResult:
        """Name, source, target, sign-in, last use."""
        yield RowList(
            (Column("Name", 16), Column("Source", weight=3), Column("Target", weight=2), Column("Sign-in", 12, needs=70), Column("Used", 6, right=True)),
            id="list",
        )

    async def fetch(self) -> None:
        """All rules."""
        self._rules = {rule.name: rule for rule in await self.app.client.rules()}
        now = time.time()
        self.show_rows([rule_row(rule, now) for rule in self._rules.values()])

    def detail(self, row: Row | None) -> tuple[str, ...]:
        """The rule in sentences."""
        return rule_lines(self._rules[row.key]) if row is not None else ()

    @property
    def _current(self) -> RuleSnapshot | None:
        row = self.row_list.current
        return self._rules[row.key] if row is not None else None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a rule there is nothing to pull through or delete."""
        if action in {"pull", "delete"} and self.is_mounted and self.row_list.current is None:
            return None
        return True

    @work(exit_on_error=False)
    async def action_new(self) -> None:
        """Open the wizard."""
        made = await self.app.push_screen_wait(RuleWizard())
        if made is not None:
            self.look()
            if made.pulling:
                await self.app.show_pulls()

    @on(RowList.Opened, "#list")
    def action_pull(self) -> None:
        """Pull an image through the rule."""
        if (rule := self._current) is not None:
            target = rule.target_repository
            self.app.ask_for_pull(target.removesuffix("*") if target.endswith("*") else f"{target}:latest")

    @work(exit_on_error=False)
    async def action_delete(self) -> None:
        """Delete the rule, after a question."""
        rule = self._current
        if rule is None:
            return
        text = (
            f"{rule.target_repository} will no longer be pulled from {rule.source_repository}.\n\n"
            "What it cached stays, and stays pullable; a new rule for the same target needs those repositories deleted first."
        )
        answer = await self.app.push_screen_wait(
            Question(f"Delete the cache rule {rule.name}?", text, (Choice("keep", "Keep it", "n"), Choice("delete", "Delete", "y", danger=True)))
        )
        if answer == "delete":
            try:
                await self.app.client.delete_rule(rule.name)
                self.app.notify(f"The cache rule {rule.name} is deleted.")
            except ClientError as error:
                self.app.notify(error.message, severity="error")
            self.look()
