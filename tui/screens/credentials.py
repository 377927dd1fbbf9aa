"""Credential sets."""

from __future__ import annotations

import time
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from entrepot.api.client import ClientError
from entrepot.api.models import CredentialSetSnapshot
from tui.key_queue import opens_screen
from tui.presentation.credentials import (
    credential_set_command,
    credential_set_facts,
    credential_set_lines,
    credential_set_row,
)
from tui.presentation.deletion import refused_text
from tui.screens.base import ListScreen
from tui.wizards.credential_set import CredentialSetWizard
from widgets.detail import Detail
from widgets.dialogs.question import Choice, Question
from widgets.row_list import Column, Row, RowList


class CredentialsScreen(ListScreen):
    """How to sign in to source registries."""

    area = 2
    FOLLOWS_REVISION = True
    thing = "credential set"
    FOR_A_ROW = frozenset({"check", "edit", "delete", "copy"})
    CHANGES = frozenset({"new", "edit", "delete"})
    title_text = "Credential sets"
    empty_text = (
        "There is no credential set yet.\n\n"
        "A credential set says where the user name and password for a source registry are kept: in environment variables of the "
        "engine, in files, or in a store of secrets. The secrets themselves are never stored or shown. Docker Hub needs one; most others do without.\n\n"
        "Press n to make the first one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "new", tooltip="Make a credential set", id="credentials.new"),
        Binding(
            "e", "edit", "edit", tooltip="Change where its secrets are kept", id="credentials.edit"
        ),
        Binding(
            "c",
            "check",
            "check",
            tooltip="Try to sign in with the credential set under the cursor",
            id="credentials.check",
        ),
        Binding(
            "d",
            "delete",
            "delete",
            tooltip="Delete the credential set under the cursor",
            id="credentials.delete",
        ),
        Binding(
            "y",
            "copy",
            "copy",
            tooltip="Copy the command that makes the same credential set",
            id="credentials.copy",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._sets: dict[str, CredentialSetSnapshot] = {}
        self._seen: list[CredentialSetSnapshot] | None = None

    def lists(self) -> ComposeResult:
        """Name, login server, identifiers, health, use."""
        yield RowList(
            (
                Column("Name", 16),
                Column("Login server", weight=2),
                Column("User name", weight=2, needs=70),
                Column("Password", weight=2, needs=100),
                Column("Health", 13),
                Column("Rules", 5, right=True),
            ),
            id="list",
        )

    async def fetch(self) -> None:
        """All credential sets."""
        found = await self.app.client.credential_sets.list()
        if found == self._seen:
            self.show_again()
            return
        self._seen = found
        self._sets = {each.name: each for each in found}
        self.show_rows([credential_set_row(each) for each in found])

    def detail(self, row: Row) -> Detail:
        """The set in sentences and facts."""
        found, now = self._sets[row.key], time.time()
        return Detail(
            found.name,
            credential_set_lines(found, now),
            credential_set_facts(found, now),
            ("The secrets themselves are never stored or shown.",),
        )

    @property
    def _current(self) -> CredentialSetSnapshot | None:
        row = self.row_list.current
        return self._sets[row.key] if row is not None else None

    @opens_screen()
    async def action_new(self) -> None:
        """Open the wizard."""
        await self.app.push_screen_wait(CredentialSetWizard())
        self.poll_now()

    @on(RowList.Opened, "#list")
    def _open(self) -> None:
        """Edit it."""
        if self.allows("edit"):
            self.action_edit()

    def action_copy(self) -> None:
        """Copy the command that makes the same set."""
        if (found := self._current) is not None:
            self.app.copy_line(credential_set_command(found))

    @opens_screen()
    async def action_edit(self) -> None:
        """Open the wizard on what is there."""
        if (found := self._current) is not None:
            await self.app.push_screen_wait(CredentialSetWizard(existing=found))
            self.poll_now()

    @work(exit_on_error=False)
    async def action_check(self) -> None:
        """Try to sign in, and say how it went."""
        found = self._current
        if found is None:
            return
        try:
            tried = await self.app.client.credential_sets.sign_in(found.name)
        except ClientError as error:
            self.app.notify(error.message, severity="error")
        else:
            self.app.notify_health(tried)
        self.poll_now()

    @opens_screen()
    async def action_delete(self) -> None:
        """Delete the set, after a question."""
        found = self._current
        if found is None:
            return
        try:
            plan = await self.app.client.credential_sets.preview_delete(found.name)
        except ClientError as error:
            self.app.notify(error.message, severity="error")
            return
        if plan.refused is not None:
            question = Question(
                f"{found.name} can't be deleted now",
                refused_text(plan),
                (Choice("keep", "Keep it"),),
            )
            await self.app.push_screen_wait(question)
            return
        text = f"No rule uses it.\n\nThe secrets themselves stay where they are: {found.username_id} and {found.password_id}."
        answer = await self.app.push_screen_wait(
            Question(
                f"Delete the credential set {found.name}?",
                text,
                (Choice("keep", "Keep it"), Choice("delete", "Delete", danger=True)),
            )
        )
        if answer == "delete":
            try:
                await self.app.client.credential_sets.delete(found.name)
                self.app.notify(f"The credential set {found.name} is deleted.")
            except ClientError as error:
                self.app.notify(error.message, severity="error")
            self.poll_now()
