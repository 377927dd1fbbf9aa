"""Readers and personal tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from entrepot.api.errors import EngineRefused
from entrepot.api.reader_models import ReaderList
from entrepot.api.session import NO_SUCH_ROUTE
from tui.key_queue import opens_screen
from tui.presentation.access import access_line, anonymous_line, login_command
from tui.presentation.readers import (
    ReaderEntry,
    readable_lines,
    reader_entries,
    reader_facts,
    reader_lines,
    reader_row,
    revocation_text,
)
from tui.screens.base import ListScreen
from tui.wizards.token import TokenWizard
from widgets.bars import update_line
from widgets.detail import Detail
from widgets.dialogs.question import Choice, Question
from widgets.dialogs.report import ReportDialog
from widgets.row_list import Column, Row, RowList
from widgets.text import Plain

OLDER_ENGINE = (
    "The engine is of an older version: it knows no readers and no personal tokens, and everyone "
    "who reaches it may read.\n\n"
    "Stop it and start this version with: entrepot serve"
)


class ReadersScreen(ListScreen[ReaderEntry]):
    """Who signs in at the registry, with what, and what each may read."""

    area = "Readers"
    thing = "reader"
    FOR_A_ROW = frozenset({"revoke", "copy"})
    CHANGES = frozenset({"new", "revoke"})
    title_text = "Readers"
    empty_text = (
        "There is no reader yet, so no container client signs in.\n\n"
        "Press n to create a personal token: a password for one reader, with which docker login, "
        "podman login and containerd sign in. entrepot token create does the same.\n\n"
        "Or name a password file in settings.toml, written by htpasswd -B:\n\n"
        "  [readers]\n"
        '  htpasswd = "readers.htpasswd"\n\n'
        "Then say in each rule who may read: press r in Rules."
    )
    DEFAULT_CSS = """
    ReadersScreen {
        & .access { height: 1; padding: 0 1; color: $text-muted; }
        & .access.-warning { color: $warning; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "new token", tooltip="Create a personal token", id="readers.new"),
        Binding(
            "d",
            "revoke",
            "revoke",
            tooltip="Revoke the personal token of the reader under the cursor",
            id="readers.revoke",
        ),
        Binding(
            "y",
            "copy",
            "copy login",
            tooltip="Copy the command with which the reader signs in",
            id="readers.copy",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._readers: ReaderList | None = None
        self._is_older_engine = False

    def below_title(self) -> ComposeResult:
        """Who may read at all."""
        yield Plain("", classes="access")

    def lists(self) -> ComposeResult:
        """Name, ways to sign in, groups, rules, expiry, last use, state."""
        yield RowList(
            (
                Column("Name", weight=2),
                Column("Signs in with", 15),
                Column("Groups", weight=2, needs=92),
                Column("Rules", 5, right=True, needs=64),
                Column("Expires", 10, needs=70),
                Column("Used", 6, right=True, needs=76),
                Column("State", 13),
            ),
            id="list",
        )

    async def load(self) -> Sequence[ReaderEntry]:
        """All readers with their tokens; none of an engine that is older than they are."""
        client = self.app.client.readers
        try:
            self._readers = await client.list()
            tokens = await client.tokens()
        except EngineRefused as error:
            if error.code != NO_SUCH_ROUTE:
                raise
            self._readers, self._is_older_engine = None, True
            tokens = []
        else:
            self._is_older_engine = False
        self.query_one(".empty", Plain).update(
            OLDER_ENGINE if self._is_older_engine else self.empty_text
        )
        self._show_access()
        self.refresh_bindings()
        return reader_entries(self._readers, tokens) if self._readers is not None else ()

    def _show_access(self) -> None:
        status = self.app.status
        if status is None:
            return
        now, readers = time.time(), self._readers
        access = (
            anonymous_line(status, len(readers.anonymous_rules), now)
            if readers is not None and status.rules
            else access_line(status, now)
        )
        line = self.query_one(".access", Plain)
        update_line(line, access.text, resizes=False)
        line.set_class(access.tone == "warn", "-warning")

    def key(self, model: ReaderEntry) -> str:
        """The name."""
        return model.name

    def row(self, model: ReaderEntry) -> Row:
        """The row."""
        return reader_row(model, time.time)

    def detail(self, model: ReaderEntry) -> Detail:
        """The reader in sentences and facts."""
        now = time.time()
        return Detail(
            model.name,
            reader_lines(model, now),
            reader_facts(model, now),
            ("enter shows what this reader may read.",),
        )

    def own_disabled_reason(self, action: str) -> str:
        """An older engine has no tokens, and a reader need not have one."""
        if self._is_older_engine and action == "new":
            return "The engine is of an older version, which has no personal tokens."
        if reason := super().own_disabled_reason(action):
            return reason
        reader = self.current
        if action == "revoke" and reader is not None and reader.token is None:
            return (
                f"{reader.name} has no personal token. Take a password out of the password file."
                if reader.reader.password
                else f"{reader.name} has no personal token."
            )
        return ""

    @opens_screen()
    async def action_new(self) -> None:
        """Open the wizard, and go to the new reader."""
        name = await self.app.push_screen_wait(TokenWizard())
        if name is not None:
            self.go_to(name)
        self.poll_now()

    def action_copy(self) -> None:
        """Copy the command with which the reader signs in."""
        if (entry := self.current) is not None:
            self.app.copy_line(login_command(entry.name, self.app.address))

    @on(RowList.Opened, "#list")
    def _open(self) -> None:
        self.action_show_rules()

    @opens_screen()
    async def action_show_rules(self) -> None:
        """Show what the reader may read; enter goes to the rules."""
        if (entry := self.current) is None:
            return
        rules = await self.app.attempt(self.app.client.rules.list())
        if rules is not None and await self.app.push_screen_wait(
            ReportDialog(
                f"What {entry.name} may read",
                readable_lines(rules, entry.reader.rules),
                onward="goes to the rules",
            )
        ):
            await self.app.show_area("Rules")

    @opens_screen()
    async def action_revoke(self) -> None:
        """Revoke the token of the reader, after a question."""
        entry, readers = self.current, self._readers
        if entry is None or entry.token is None or readers is None:
            return
        answer = await self.app.push_screen_wait(
            Question(
                f"Revoke the personal token {entry.name}?",
                revocation_text(entry, readers, time.time()),
                (Choice("keep", "Keep it"), Choice("revoke", "Revoke", danger=True)),
            )
        )
        if answer != "revoke":
            return
        if await self.app.succeeds(self.app.client.readers.revoke_token(entry.name)):
            self.app.notify(f"The personal token {entry.name} is revoked.")
        self.poll_now()
