"""Credential sets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from entrepot.api.models import CredentialSetSnapshot
from tui.key_queue import opens_screen
from tui.presentation.credentials import (
    credential_set_command,
    credential_set_facts,
    credential_set_lines,
    credential_set_row,
)
from tui.screens.base import ListScreen
from tui.screens.deletion import Deletion, delete_after_question
from tui.wizards.credential_set import CredentialSetWizard
from widgets.detail import Detail
from widgets.row_list import Column, Row, RowList


class CredentialsScreen(ListScreen[CredentialSetSnapshot]):
    """The credential sets, with which rules sign in to source registries."""

    area = "Credentials"
    FOLLOWS_REVISION = True
    thing = "credential set"
    FOR_A_ROW = frozenset({"check", "edit", "delete", "copy"})
    CHANGES = frozenset({"new", "edit", "delete"})
    title_text = "Credential sets"
    empty_text = (
        "There is no credential set yet.\n\n"
        "A credential set says where the user name and password for a source registry are kept: "
        "in environment variables of the engine, in files, or in a secret store. The secrets "
        "themselves are never stored or shown. Docker Hub needs one; most others do without.\n\n"
        "Press n to create the first one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "new", tooltip="Create a credential set", id="credentials.new"),
        Binding(
            "e", "edit", "edit", tooltip="Change where its secrets are kept", id="credentials.edit"
        ),
        Binding(
            "c",
            "check",
            "check",
            tooltip="Sign in with the credential set under the cursor",
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
            tooltip="Copy the command that creates the same credential set",
            id="credentials.copy",
        ),
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

    async def load(self) -> Sequence[CredentialSetSnapshot]:
        """All credential sets."""
        return await self.app.client.credential_sets.list()

    def key(self, model: CredentialSetSnapshot) -> str:
        """Its name."""
        return model.name

    def row(self, model: CredentialSetSnapshot) -> Row:
        """Its row."""
        return credential_set_row(model)

    def detail(self, model: CredentialSetSnapshot) -> Detail:
        """The set in sentences and facts."""
        now = time.time()
        return Detail(
            model.name,
            credential_set_lines(model, now),
            credential_set_facts(model, now),
            ("The secrets themselves are never stored or shown.",),
        )

    @opens_screen()
    async def action_new(self) -> None:
        """Open the wizard."""
        await self.app.push_screen_wait(CredentialSetWizard())
        self.poll_now()

    @on(RowList.Opened, "#list")
    def _open(self) -> None:
        if self.allows("edit"):
            self.action_edit()

    def action_copy(self) -> None:
        """Copy the command that creates the same set."""
        if (credential_set := self.current) is not None:
            self.app.copy_line(credential_set_command(credential_set))

    @opens_screen()
    async def action_edit(self) -> None:
        """Open the wizard on the current set."""
        if (credential_set := self.current) is not None:
            await self.app.push_screen_wait(CredentialSetWizard(existing=credential_set))
            self.poll_now()

    @work(exit_on_error=False)
    async def action_check(self) -> None:
        """Sign in with the set, and show how that went."""
        if (credential_set := self.current) is None:
            return
        signed_in = await self.app.attempt(
            self.app.client.credential_sets.sign_in(credential_set.name)
        )
        if signed_in is not None:
            self.app.notify_health(signed_in)
        self.poll_now()

    @opens_screen()
    async def action_delete(self) -> None:
        """Delete the set, after a question."""
        if (credential_set := self.current) is None:
            return
        client = self.app.client.credential_sets
        await delete_after_question(
            self,
            Deletion(
                "credential set",
                credential_set.name,
                client.preview_delete(credential_set.name),
                lambda _: (
                    "No rule uses it.\n\nThe secrets themselves stay where they are: "
                    f"{credential_set.username_id} and {credential_set.password_id}."
                ),
                lambda: client.delete(credential_set.name),
            ),
        )
