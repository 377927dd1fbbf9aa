"""Cached repositories."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.worker import get_current_worker

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
"""The word to type before anything is evicted."""


class RepositoriesScreen(CachedScreen[RepositorySnapshot]):
    """The cached repositories."""

    area = "Repositories"
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
            tooltip="Free space: show which images would be evicted, then evict them",
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

    async def load(self) -> Sequence[RepositorySnapshot]:
        """All cached repositories."""
        return await self.app.client.repositories.list()

    def key(self, model: RepositorySnapshot) -> str:
        """Its name."""
        return model.name

    def row(self, model: RepositorySnapshot) -> Row:
        """Its row."""
        return RepositoryRow(model, time.time)

    def detail(self, model: RepositorySnapshot) -> Detail:
        """The repository in sentences and facts."""
        now = time.time()
        return Detail(
            model.name,
            repository_lines(model, now),
            repository_facts(model, now),
            ("enter shows its tags.",),
        )

    @property
    def subject(self) -> ImageSubject | None:
        """The repository under the cursor."""
        repository = self.current
        if repository is None:
            return None
        return ImageSubject(repository.name, locked=repository.locked)

    @on(RowList.Opened, "#list")
    def _open(self, event: RowList.Opened) -> None:
        self.app.push_screen(RepositoryScreen(event.row.key))

    @opens_screen()
    async def action_evict(self) -> None:
        """Ask how much may stay cached, show what would be evicted, and evict it."""
        status = self.app.status
        proposed = size(int((status.blobs_size if status is not None else 0) * 0.9))
        answers = await self.app.push_screen_wait(
            FormDialog(
                "Evict the images that were used least recently",
                (Field("to", "How much may stay cached?", proposed, "40 GB"),),
                button="Show",
            )
        )
        if answers is None:
            return
        try:
            target = parse_size(answers["to"])
        except ValueError as error:
            self.app.notify(f"{error}. Write it such as 40 GB.", severity="error")
            return
        self.app.pause_keys(get_current_worker())
        await self._evict(target)
        self.poll_now()

    async def _evict(self, target: int) -> None:
        client = self.app.client.system
        plan = await self.app.attempt(client.preview_eviction(target=target))
        if plan is None:
            return
        if not plan.images:
            self.app.notify(nothing_to_evict(plan))
            return
        answer = await self.app.push_screen_wait(
            Question(
                f"Evict {counted(len(plan.images), 'image')}?",
                eviction_lines(plan, time.time()),
                (Choice("keep", "Keep all"), Choice("evict", "Evict", danger=True)),
                typed=EVICT,
            )
        )
        if answer != "evict":
            return
        evicted = await self.app.attempt(client.evict(target=target))
        if evicted is not None:
            self.app.notify(
                f"{counted(len(evicted.images), 'image')} evicted: {size(evicted.freed)} freed."
            )
