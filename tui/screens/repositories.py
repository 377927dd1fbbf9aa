"""Cached repositories."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.worker import get_current_worker

from entrepot.api.client import ClientError
from entrepot.api.models import RepositorySnapshot
from entrepot.formatting import counted, parse_size, size
from tui.key_queue import opens_screen
from tui.presentation.repositories import (
    RepositoryRow,
    eviction_lines,
    nothing_to_evict,
    repository_facts,
    repository_lines,
)
from tui.screens.cached_base import CachedScreen, ImageSubject
from tui.screens.repository import RepositoryScreen
from widgets.detail import Detail
from widgets.dialogs.form import Field, FormDialog
from widgets.dialogs.question import Choice, Question
from widgets.row_list import Column, Row, RowList

EVICT = "evict"
"""What is to be typed before anything is evicted."""


class RepositoriesScreen(CachedScreen):
    """What is held."""

    area = 3
    FOLLOWS_REVISION = True
    thing = "repository"
    title_text = "Cached repositories"
    empty_text = (
        "Nothing is cached yet.\n\n"
        "The first pull of an image through a cache rule leaves a copy here. "
        "Pull one with a container client, or press p to let the engine do it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        replace(CachedScreen.PULL, id="repositories.pull"),
        replace(CachedScreen.COPY, id="repositories.copy"),
        replace(CachedScreen.LOCK, id="repositories.lock"),
        replace(CachedScreen.REFRESH, id="repositories.refresh"),
        Binding(
            "v",
            "evict",
            "evict",
            tooltip="Make room: see which images would go, then let them go",
            id="repositories.evict",
        ),
        Binding(
            "d",
            "delete",
            "delete",
            tooltip="Delete the repository under the cursor with all its tags",
            id="repositories.delete",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._repositories: dict[str, RepositorySnapshot] = {}
        self._seen: list[RepositorySnapshot] | None = None

    def lists(self) -> ComposeResult:
        """Name, source, tags, size, last pull."""
        yield RowList(
            (
                Column("Repository", weight=3),
                Column("Source", weight=3, needs=70),
                Column("Tags", 5, right=True),
                Column("Size", 9, right=True),
                Column("Pulled", 6, right=True),
            ),
            id="list",
        )

    async def fetch(self) -> None:
        """All cached repositories."""
        found = await self.app.client.repositories.list()
        if found == self._seen:
            self.show_again()
            return
        self._seen = found
        self._repositories = {each.name: each for each in found}
        self.show_rows([RepositoryRow(each, time.time) for each in found])

    def detail(self, row: Row) -> Detail:
        """The repository in sentences and facts."""
        found, now = self._repositories[row.key], time.time()
        return Detail(
            found.name,
            repository_lines(found, now),
            repository_facts(found, now),
            ("enter shows its tags.",),
        )

    @property
    def subject(self) -> ImageSubject | None:
        """The repository under the cursor."""
        row = self.row_list.current
        return (
            ImageSubject(row.key, locked=self._repositories[row.key].locked)
            if row is not None
            else None
        )

    @on(RowList.Opened, "#list")
    def _open(self, event: RowList.Opened) -> None:
        self.app.push_screen(RepositoryScreen(event.row.key))

    @opens_screen()
    async def action_evict(self) -> None:
        """Ask how much may be left, show what would go, and then let it go."""
        status = self.app.status
        proposed = size(int((status.blobs_size if status is not None else 0) * 0.9))
        answers = await self.app.push_screen_wait(
            FormDialog(
                "Evict the images that were used least recently",
                (Field("to", "How much may be held afterwards?", proposed, "40 GB"),),
                button="Show",
            )
        )
        if answers is None:
            return
        self.app.pause_keys(get_current_worker())
        try:
            plan = await self.app.client.system.preview_eviction(target=parse_size(answers["to"]))
            if not plan.images:
                self.app.notify(nothing_to_evict(plan))
                return
            choices = (Choice("keep", "Keep all"), Choice("evict", "Evict", danger=True))
            question = Question(
                f"Evict {counted(len(plan.images), 'image')}?",
                eviction_lines(plan, time.time()),
                choices,
                typed=EVICT,
            )
            if await self.app.push_screen_wait(question) == "evict":
                done = await self.app.client.system.evict(target=parse_size(answers["to"]))
                self.app.notify(
                    f"{counted(len(done.images), 'image')} evicted: {size(done.freed)} freed."
                )
        except ValueError as error:
            self.app.notify(f"{error}. Write it such as 40 GB.", severity="error")
        except ClientError as error:
            self.app.notify(error.message, severity="error")
        self.poll_now()
