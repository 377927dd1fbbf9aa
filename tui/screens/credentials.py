"""Credential sets."""

from __future__ import annotations

import time
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from entrepot.client import ClientError
from entrepot.snapshots import CredentialSetSnapshot, HealthStatus
from tui.presentation import credential_set_health, credential_set_lines, credential_set_row
from tui.screens.area import ListScreen
from tui.wizards.credential_set import CredentialSetWizard
from widgets.dialogs import Choice, Question
from widgets.row_list import Column, Row, RowList


class CredentialsScreen(ListScreen):
    """How to sign in to source registries."""

    area = 2
    title_text = "Credential sets"
    empty_text = (
        "There is no credential set yet.\n\n"
        "A credential set says where the user name and password for a source registry are kept: in environment variables of the "
        "engine, in files, or in a store of secrets. The secrets themselves are never stored or shown. Docker Hub needs one; most others do without.\n\n"
        "Press n to make the first one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "new set", tooltip="Make a credential set", id="credentials.new"),
        Binding("e", "edit", "edit", tooltip="Change where its secrets are kept", id="credentials.edit"),
        Binding("c", "check", "check", tooltip="Try to sign in with the credential set under the cursor", id="credentials.check"),
        Binding("d", "delete", "delete", tooltip="Delete the credential set under the cursor", id="credentials.delete"),
    ]

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
        self._sets = {each.name: each for each in await self.app.client.credential_sets()}
        self.show_rows([credential_set_row(each) for each in self._sets.values()])

    def detail(self, row: Row | None) -> tuple[str, ...]:
        """The set in sentences."""
        return credential_set_lines(self._sets[row.key], time.time()) if row is not None else ()

    @property
    def _current(self) -> CredentialSetSnapshot | None:
        row = self.row_list.current
        return self._sets[row.key] if row is not None else None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a set there is nothing to edit, check or delete."""
        if action in {"check", "edit", "delete"} and self.is_mounted and self.row_list.current is None:
            return None
        return True

    @work(exit_on_error=False)
    async def action_new(self) -> None:
        """Open the wizard."""
        await self.app.push_screen_wait(CredentialSetWizard())
        self.look()

    @on(RowList.Opened, "#list")
    @work(exit_on_error=False)
    async def action_edit(self) -> None:
        """Open the wizard on what is there."""
        if (found := self._current) is not None:
            await self.app.push_screen_wait(CredentialSetWizard(existing=found))
            self.look()

    @work(exit_on_error=False)
    async def action_check(self) -> None:
        """Try to sign in, and say how it went."""
        found = self._current
        if found is None:
            return
        try:
            tried = await self.app.client.check_sign_in(found.name)
        except ClientError as error:
            self.app.notify(error.message, severity="error")
        else:
            word, _ = credential_set_health(tried)
            why = f": {tried.error_message}" if tried.error_message else "."
            self.app.notify(f"{tried.name} is {word}{why}", severity="information" if tried.health is HealthStatus.HEALTHY else "warning")
        self.look()

    @work(exit_on_error=False)
    async def action_delete(self) -> None:
        """Delete the set, after a question."""
        found = self._current
        if found is None:
            return
        text = "The secrets themselves stay where they are." + (
            f"\n\nIt is used by {', '.join(found.used_by)}: the engine will refuse." if found.used_by else ""
        )
        answer = await self.app.push_screen_wait(
            Question(f"Delete the credential set {found.name}?", text, (Choice("keep", "Keep it", "n"), Choice("delete", "Delete", "y", danger=True)))
        )
        if answer == "delete":
            try:
                await self.app.client.delete_credential_set(found.name)
                self.app.notify(f"The credential set {found.name} is deleted.")
            except ClientError as error:
                self.app.notify(error.message, severity="error")
            self.look()
