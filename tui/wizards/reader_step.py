"""The step of the wizard for a cache rule that asks who may read."""

from __future__ import annotations

from typing import Any

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input

from entrepot.api.models import CheckedRule
from entrepot.api.reader_models import ReaderList
from entrepot.core.readers import OPEN, ReaderAccess
from tui.presentation.reader_choices import (
    NAMED,
    ReaderChoice,
    parse_names,
    reader_choices,
    unknown_names,
)
from tui.wizards.wizard import Entry, Feedback, Wizard, first_problem, show_all_rows
from widgets.row_list import Cell, Column, Row, RowList
from widgets.text import Plain

_HELP = (
    "What a reader may not read does not exist for that reader. It can be changed later: press r "
    "in Rules."
)


class ReaderStep:
    """A list of choices, and a field for names.

    The widgets belong to the wizard; this object reads and fills them.
    """

    def __init__(self, wizard: Wizard[Any]) -> None:
        self._wizard = wizard
        self._readers: ReaderList | None = None

    @property
    def is_pointless(self) -> bool:
        """Whether no reader can sign in and everyone may read: there is nothing to choose."""
        status = self._wizard.app.status
        return status is None or (status.anonymous_may_read and not status.can_sign_in)

    def compose(self) -> ComposeResult:
        """The question, the list, the field and the feedback."""
        yield Plain("Who may read what it caches?", classes="question")
        yield RowList((Column("", 26), Column("", weight=1)), id="readers", header=False)
        with Horizontal(classes="entry", id="readers-entry"):
            yield Plain("Readers:  ")
            yield Entry(id="reader-names", placeholder="ci, @ops")
        yield Feedback(id="readers-feedback", classes="-close")
        yield Plain("", classes="teach", id="readers-teach")

    async def fill(self) -> None:
        """Fetch the readers, for warnings about names, and show the choices."""
        self._readers = await self._wizard.app.client.readers.list()
        rows = [
            Row(choice.id, (Cell(choice.title, "accent"), Cell(choice.short, "dim")))
            for choice in self._choices
        ]
        show_all_rows(rows, self._list)
        self.show_help()

    @property
    def _choices(self) -> tuple[ReaderChoice, ...]:
        status = self._wizard.app.status
        return reader_choices(anonymous_may_read=status is None or status.anonymous_may_read)

    @property
    def _list(self) -> RowList:
        return self._wizard.query_one("#readers", RowList)

    @property
    def _choice(self) -> ReaderChoice:
        row = self._list.current
        return next(
            (choice for choice in self._choices if row is not None and choice.id == row.key),
            self._choices[0],
        )

    @property
    def _typed(self) -> str:
        return self._wizard.query_one("#reader-names", Input).value.strip()

    @property
    def access(self) -> ReaderAccess:
        """Who may read, as far as it is entered."""
        if self.is_pointless:
            return OPEN
        choice = self._choice
        return (
            choice.access if choice.access is not None else ReaderAccess(parse_names(self._typed))
        )

    def described(self) -> str:
        """Who may read, in words."""
        status = self._wizard.app.status
        return self.access.described(allow_anonymous=status is None or status.anonymous_may_read)

    def show_help(self) -> None:
        """Show what the current choice means, and its field."""
        choice = self._choice
        self._wizard.query_one("#readers-entry").display = choice.id == NAMED
        self._wizard.query_one("#readers-teach", Plain).update(f"{choice.why}\n{_HELP}")

    def show_verdict(self, verdict: CheckedRule) -> bool:
        """Show the engine's verdict on the names; returns whether the wizard may go on."""
        feedback = self._wizard.query_one("#readers-feedback", Feedback)
        names = self.access.readers
        if self._choice.id == NAMED and not names:
            feedback.show(None)
            return False
        problem = first_problem(verdict.problems, ("readers",))
        warning = (
            unknown_names(names, self._readers)
            if problem is None and self._readers is not None
            else ""
        )
        feedback.show(problem, warning=warning)
        return problem is None

    def advance_to_field(self) -> bool:
        """Focus the field, if names have to be typed and the list has the focus."""
        if self._choice.id != NAMED or self._wizard.focused is not self._list:
            return False
        self._wizard.query_one("#readers-entry").display = True
        self._wizard.query_one("#reader-names").focus()
        return True
