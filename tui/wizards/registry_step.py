"""The step of a wizard that asks for the source registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input

from entrepot.api.models import SourceRegistrySnapshot
from entrepot.core.states import SignIn
from tui.wizards.wizard import Entry, Feedback, Wizard
from widgets.row_list import Cell, Column, Row, RowList
from widgets.text import Plain

OTHER = "other"
"""The key of the row for a registry whose login server is typed."""

SIGN_IN: Mapping[SignIn, str] = {
    SignIn.NONE: "no sign-in",
    SignIn.OPTIONAL: "may sign in",
    SignIn.REQUIRED: "needs sign-in",
}


def without_prefix(text: str, login_server: str) -> str:
    """A pasted path without a scheme and without *login_server*."""
    path = text.strip()
    for scheme in ("https://", "http://", "docker://", "oci://"):
        path = path.removeprefix(scheme)
    return path.removeprefix(f"{login_server}/").lstrip("/")


class RegistryStep:
    """A list of source registries, and a field for another login server.

    The widgets belong to the wizard; this object reads and fills them.
    """

    def __init__(self, wizard: Wizard[Any]) -> None:
        self._wizard = wizard
        self._registries: Sequence[SourceRegistrySnapshot] = ()

    def compose(self, question: str) -> ComposeResult:
        """The question, the list, the field and the feedback."""
        yield Plain(question, classes="question")
        yield RowList(
            (Column("", weight=1), Column("", 26), Column("", 13, needs=64)),
            id="registries",
            header=False,
        )
        with Horizontal(classes="entry", id="login-server-entry"):
            yield Plain("Its login server:  ")
            yield Entry(id="login-server", placeholder="registry.example.com")
        yield Feedback(id="registry-feedback")

    async def fill(self, *, signing_in: bool = False) -> None:
        """Fetch the registries, once; with *signing_in* only those that take credentials."""
        if self._registries:
            return
        self.show_field(visible=False)
        registries = await self._wizard.app.client.system.source_registries()
        self._registries = [
            registry
            for registry in registries
            if not signing_in or registry.sign_in is not SignIn.NONE
        ]
        rows = [
            Row(
                registry.login_server,
                (
                    Cell(registry.name, "accent"),
                    Cell(registry.login_server),
                    Cell(SIGN_IN[registry.sign_in], "dim"),
                ),
            )
            for registry in self._registries
        ]
        other = (Cell("another registry", "accent"), Cell("you type its name"), Cell("", "dim"))
        self._list.set_rows([*rows, Row(OTHER, other)])

    @property
    def _list(self) -> RowList:
        return self._wizard.query_one("#registries", RowList)

    @property
    def registry(self) -> SourceRegistrySnapshot | None:
        """The current registry of the list; None for another one."""
        row = self._list.current
        return next(
            (each for each in self._registries if row is not None and each.login_server == row.key),
            None,
        )

    @property
    def is_typed(self) -> bool:
        """Whether the login server is typed: another one, or one of many (``*.``)."""
        row = self._list.current
        return row is not None and (row.key == OTHER or row.key.startswith("*."))

    @property
    def login_server(self) -> str:
        """The login server, selected or typed; empty while nothing is typed."""
        registry = self.registry
        if self.is_typed or registry is None:
            typed = without_prefix(self._wizard.query_one("#login-server", Input).value, "")
            return typed.partition("/")[0].lower()
        return registry.login_server

    @property
    def name(self) -> str:
        """The registry as people call it."""
        registry = self.registry
        return registry.name if registry is not None and not self.is_typed else self.login_server

    def show_field(self, *, visible: bool) -> None:
        """Show or hide the field for the login server."""
        self._wizard.query_one("#login-server-entry").display = visible

    def advance_to_field(self) -> bool:
        """Focus the field, if the current row needs it and the list has the focus."""
        if not self.is_typed or self._wizard.focused is not self._list:
            return False
        self.show_field(visible=True)
        self._wizard.query_one("#login-server").focus()
        return True
