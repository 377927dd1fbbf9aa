"""The wizard that imports rules and credential sets from a TOML file.

The file is read here. The engine validates it as a whole, and creates all of it or nothing.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.suggester import Suggester
from textual.widgets import Input

from entrepot.api.errors import ClientError, EngineRefused
from entrepot.api.models import ImportPlan, Problem
from entrepot.core.states import ImportOutcome
from entrepot.encoding import NotUtf8, decode_text
from entrepot.formatting import counted, size
from tui.presentation.imports import (
    applied_summary,
    entry_lines,
    first_conflict,
    plan_rows,
    plan_summary,
    programs_text,
)
from tui.wizards.wizard import Entry, Feedback, Wizard, confirm_programs
from widgets.row_list import Cell, Column, Row, RowList
from widgets.text import Plain

FILE, PLAN, DONE = range(3)

MAX_FILE_SIZE = 900_000
"""Bytes of a file: the engine takes a request of 1 MiB. A thousand rules have about 200 kB."""

MAX_CANDIDATES = 200
"""Files of a directory that are listed."""


@dataclass(frozen=True, slots=True)
class PathCandidate:
    """A TOML file, or a directory that may have some."""

    path: str
    """The path to type."""
    name: str
    size: int | None
    """Bytes; None for a directory."""


def path_candidates(typed: str) -> list[PathCandidate]:
    """The directories and TOML files that a typed path may become.

    It reads the file system.
    """
    before, slash, begin = typed.rpartition("/")
    directory = _expanded(f"{before}{slash}") if slash else Path()
    candidates = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.name.startswith(begin) or (
                    entry.name.startswith(".") and not begin.startswith(".")
                ):
                    continue
                path = f"{before}{slash}{entry.name}"
                if entry.is_dir():
                    candidates.append(PathCandidate(f"{path}/", f"{entry.name}/", None))
                elif entry.name.endswith(".toml"):
                    candidates.append(PathCandidate(path, entry.name, entry.stat().st_size))
    except OSError:
        return []
    # Files first.
    candidates.sort(key=lambda candidate: (candidate.size is None, candidate.name))
    return candidates[:MAX_CANDIDATES]


def _expanded(typed: str) -> Path:
    """A path with ~ expanded.

    Path.expanduser raises where there is no such user, as while a name is typed.
    """
    return Path(os.path.expanduser(typed))


def is_directory(typed: str) -> bool:
    """Whether a path is a directory. It reads the file system."""
    return _expanded(typed).is_dir()


def read_text(typed: str) -> str:
    """The text of a file; raises OSError with a sentence for the user."""
    path = _expanded(typed)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        raise OSError(f"{typed} can't be read: {error.strerror}.") from None
    if len(content) > MAX_FILE_SIZE:
        raise OSError(f"{typed} is longer than {size(MAX_FILE_SIZE)}. Import it in parts.")
    try:
        return decode_text(content)
    except NotUtf8 as error:
        raise OSError(f"{typed} {error}: save it as UTF-8.") from None


class PathSuggester(Suggester):
    """Completes a path; the right arrow accepts the completion."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        """The first file or directory that fits."""
        if not value:
            return None
        candidates = await asyncio.to_thread(path_candidates, value)
        return candidates[0].path if candidates else None


class PathEntry(Entry):
    """A field for a path; pasting a document of several lines imports the text itself."""

    class Document(Message):
        """A document was pasted."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def on_paste(self, event: events.Paste) -> None:
        """Recognize a document: it has several lines, and a table."""
        if "[[" in event.text and len(event.text.strip().splitlines()) > 1:
            event.prevent_default()
            event.stop()
            self.post_message(self.Document(event.text))
        else:
            super().on_paste(event)


class ImportWizard(Wizard[bool | None]):
    """File, plan, done; returns whether something was created."""

    wizard_title = "Import cache rules"
    steps = ("File", "Plan", "Done")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "r",
            "again",
            "read again",
            tooltip="Read the file again, after it was fixed",
            id="wizard.import.again",
        ),
    ]
    _HELP = (
        "It has [[rules]] and [[credential_sets]] as rules.toml and credentials.toml do. It is "
        "read on this machine; you can paste a text too.\n"
        "All of it is validated together, with the existing rules, and shown before anything is "
        "created."
    )

    DEFAULT_CSS = """
    ImportWizard #plan { max-width: 100%; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._text = ""
        self._pasted = False
        self._plan: ImportPlan | None = None
        self._applied: ImportPlan | None = None

    def compose_step(self, number: int) -> ComposeResult:
        """The widgets of a step."""
        if number == FILE:
            yield Plain("Which file holds the rules?", classes="question")
            with Horizontal(classes="entry"):
                yield Plain("File  ")
                entry = PathEntry(id="file", placeholder="~/rules.toml")
                entry.suggester = PathSuggester()
                yield entry
            yield Feedback(id="file-feedback")
            yield RowList(
                (Column("", weight=1), Column("", 10, right=True)), id="files", header=False
            )
            yield Plain(self._HELP, classes="teach")
        elif number == PLAN:
            yield Plain("", classes="question", id="plan-summary")
            yield RowList(
                (
                    Column("", 9),
                    Column("Name", 18),
                    Column("What it says", weight=1),
                    Column("Line", 5, right=True),
                ),
                id="plan",
            )
            yield Feedback(id="plan-detail")
            yield Plain(
                "All of it is created, or nothing. Rules that exist already stay as they are.",
                classes="teach roomy",
            )
        else:
            yield Plain("", classes="question", id="done-summary")
            yield Plain(
                "Nothing is cached yet: the first pull of an image leaves a copy here. "
                "The engine signs in with the credential sets now; Credentials shows how it went.",
                classes="teach",
            )

    def focus_of(self, number: int) -> str | None:
        """What has the focus in a step."""
        return ("#file", "#plan", None)[number]

    # What the keys do now

    def enter_word(self) -> str:
        """What enter does now."""
        if self.current == FILE:
            return "open" if self.focused is not None and self.focused.id == "files" else "next"
        if self.current == DONE:
            return "close"
        plan = self._plan
        if plan is None or not plan.possible:
            return ""
        return "create all" if plan.count(ImportOutcome.CREATE) else "close"

    def tab_word(self) -> str:
        """Where tab goes."""
        if self.current != FILE:
            return ""
        return "path" if self.focused is not None and self.focused.id == "files" else "files"

    def back_word(self) -> str:
        """What escape does now; an import can't be undone here."""
        return "" if self.current == DONE else super().back_word()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A file can be read again where its plan is shown."""
        return self.current == PLAN and not self._pasted if action == "again" else True

    # The file

    @property
    def _typed(self) -> str:
        return self.query_one("#file", Input).value.strip()

    async def prepare(self, number: int) -> None:
        """Fill in a step with what follows from those before it."""
        if number == FILE:
            await self._show_files()
        elif number == PLAN:
            self._show_plan(await self.app.client.rules.preview_import(self._text))
        elif self._applied is not None:
            self.query_one("#done-summary", Plain).update(applied_summary(self._applied))

    async def _show_files(self) -> None:
        typed = self._typed
        candidates = await asyncio.to_thread(path_candidates, typed)
        if typed == self._typed:
            rows = [
                Row(
                    candidate.path,
                    (
                        Cell(candidate.name, "accent"),
                        Cell(
                            "directory" if candidate.size is None else size(candidate.size), "dim"
                        ),
                    ),
                )
                for candidate in candidates
            ]
            self.query_one("#files", RowList).set_rows(rows)

    @on(PathEntry.Document)
    def _document_pasted(self, event: PathEntry.Document) -> None:
        self.query_one("#file", Input).value = ""
        self._text, self._pasted = event.text, True
        self.validate_soon()

    async def validate(self) -> bool:
        """Read the file, or check whether the plan is possible."""
        if self.current == PLAN:
            self._show_entry()
            return self._plan is not None and self._plan.possible
        if self.current == DONE:
            return True
        return await self._validate_file()

    async def _validate_file(self) -> bool:
        feedback, typed = self.query_one("#file-feedback", Feedback), self._typed
        await self._show_files()
        if not typed and self._pasted:
            feedback.show(
                None,
                f"Pasted text: {_line_count(self._text)}",
            )
            return True
        # The last text stays until this one is read: a validation that is still running after enter
        # must not take the text from the plan.
        self._pasted = False
        if not typed or await asyncio.to_thread(is_directory, typed):
            feedback.show(None)
            return False
        try:
            self._text = await asyncio.to_thread(read_text, typed)
        except OSError as error:
            # While a file or directory fits, the path is incomplete.
            is_incomplete = bool(self.query_one("#files", RowList).rows)
            feedback.show(None if is_incomplete else Problem(code="", message=str(error)))
            return False
        feedback.show(None, f"File read: {_line_count(self._text)}")
        return True

    async def advance_within_step(self, number: int) -> bool:
        """Open the current directory, or insert the current file."""
        files = self.query_one("#files", RowList)
        if number != FILE or self.focused is not files or files.current is None:
            return False
        path = files.current.key
        entry = self.query_one("#file", Input)
        entry.value = path
        entry.cursor_position = len(path)
        if not path.endswith("/"):
            return False
        await self._show_files()
        files.action_first()
        return True

    @on(RowList.Opened, "#files")
    def _file_opened(self) -> None:
        self.action_next()

    # The plan

    def _show_plan(self, plan: ImportPlan) -> None:
        self._plan = plan
        self.query_one("#plan-summary", Plain).update(plan_summary(plan))
        rows = self.query_one("#plan", RowList)
        rows.set_rows(plan_rows(plan))
        if (conflict := first_conflict(plan)) is not None:
            rows.move_to(conflict)
        self._show_entry()
        self.refresh_bindings()

    def _show_entry(self) -> None:
        row, plan, detail = (
            self.query_one("#plan", RowList).current,
            self._plan,
            self.query_one("#plan-detail", Feedback),
        )
        if row is None or plan is None:
            detail.show(None)
            return
        remarks, problems = entry_lines(plan, row.key)
        if not problems:
            detail.show(None, remarks=remarks)
            return
        message, code = problems[0]
        more = len(problems) - 1
        others = f" And {counted(more, 'more problem', 'more problems')}." if more else ""
        detail.show(Problem(code=code, message=f"{message}{others}"))

    @work(exclusive=True, group="again", exit_on_error=False)
    async def action_again(self) -> None:
        """Read the file and plan again."""
        try:
            self._text = await asyncio.to_thread(read_text, self._typed)
            self._show_plan(await self.app.client.rules.preview_import(self._text))
        except OSError as error:
            self.app.notify(str(error), severity="error")
        except ClientError as error:
            self.engine_lost(error)
        else:
            self.app.notify("The file was read again.")

    def is_last(self, number: int) -> bool:
        """The plan creates what it says; the end closes the wizard."""
        return number >= PLAN

    async def submit(self) -> None:
        """Create all of it, or close."""
        if self.current == DONE or self._plan is None or not self._plan.count(ImportOutcome.CREATE):
            self.dismiss(self._applied is not None)
            return
        if not await confirm_programs(self.app, programs_text(self._plan)):
            return
        try:
            self._applied = await self.app.client.rules.apply_import(self._text)
        except EngineRefused as error:
            # Something has changed since the plan was made.
            self._show_plan(await self.app.client.rules.preview_import(self._text))
            self.app.notify(f"Nothing is created. {error.message}", severity="error")
            return
        await self.go_to(DONE)

    async def action_back(self) -> None:
        """One step back; once all is created, close."""
        if self.current == DONE:
            self.dismiss(True)
        else:
            await super().action_back()

    def may_return_to(self, number: int) -> bool:
        """Not once something was created."""
        return self._applied is None

    def has_entries(self) -> bool:
        """A typed path is no loss; a pasted text may be one."""
        return self._applied is None and (self._pasted or super().has_entries())

    def outcome(self) -> bool | None:
        """Whether something was created."""
        return self._applied is not None


def _line_count(text: str) -> str:
    return counted(len(text.splitlines()), "line", "lines")
