"""A cached repository, opened into its tags."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from entrepot.api.models import TagSnapshot
from entrepot.formatting import size
from tui.presentation.copies import pull_command
from tui.presentation.repositories import tag_facts, tag_lines, tag_row
from tui.screens.cached_base import CachedScreen, ImageSubject, OpenedScreen
from tui.screens.tag import TagScreen
from widgets.bars import update_line
from widgets.detail import Detail
from widgets.row_list import Column, Row, RowList
from widgets.text import Plain


class RepositoryScreen(OpenedScreen[TagSnapshot]):
    """The tags of one repository."""

    area = "Repositories"
    thing = "tag"
    FOR_A_ROW = CachedScreen.FOR_A_ROW | {"pull"}
    empty_text = "No tag is cached; manifests may have been pulled by digest."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "back", tooltip="Back to the repositories"),
        replace(CachedScreen.PULL, id="repository.pull"),
        replace(CachedScreen.REFRESH, id="repository.refresh"),
        replace(CachedScreen.COPY, id="repository.copy"),
        replace(CachedScreen.LOCK, id="repository.lock"),
        Binding(
            "d",
            "delete",
            "delete",
            tooltip="Delete the tag under the cursor; what goes and what stays is shown first",
            id="repository.delete",
        ),
    ]

    def __init__(self, name: str) -> None:
        super().__init__()
        self._repository = name

    def lists(self) -> ComposeResult:
        """Tag, platforms, size, age, last pull, state."""
        yield RowList(
            (
                Column("Tag", weight=2),
                Column("Platforms", weight=2),
                Column("Size", 9, right=True),
                Column("Cached", 6, right=True, needs=70),
                Column("Pulled", 6, right=True),
                Column("State", 24),
            ),
            id="list",
        )

    async def load(self) -> Sequence[TagSnapshot]:
        """The tags of the repository; its name, rule and size go into the title."""
        detail = await self.app.client.repositories.get(self._repository)
        repository = detail.repository
        rule = f"rule {repository.rule}" if repository.rule else "no rule"
        locked = "   locked" if repository.locked else ""
        update_line(
            self.query_one(".title--name", Plain),
            f"{repository.name}   {rule}   {size(repository.size)}{locked}",
        )
        return detail.tags

    def key(self, model: TagSnapshot) -> str:
        """Its name."""
        return model.name

    def row(self, model: TagSnapshot) -> Row:
        """Its row."""
        return tag_row(model, time.time)

    def detail(self, model: TagSnapshot) -> Detail:
        """The tag's digest, how long it is trusted, and how to pull it from here."""
        now = time.time()
        line = pull_command(self.app.address, self._repository, model.name)
        return Detail(
            f"{self._repository}:{model.name}",
            (*tag_lines(model, now), line),
            tag_facts(model, now),
            (line, "enter shows its platforms and layers."),
        )

    @property
    def subject(self) -> ImageSubject | None:
        """The tag under the cursor."""
        tag = self.current
        if tag is None:
            return None
        return ImageSubject(self._repository, tag.name, tag.digest, locked=tag.locked)

    @on(RowList.Opened, "#list")
    def _open(self, event: RowList.Opened) -> None:
        self.app.push_screen(TagScreen(self._repository, event.row.key))

    def action_back(self) -> None:
        """Close the filter, or go back to the list."""
        if self.query_one(".filter").has_class("-open"):
            self.action_clear_filter()
        else:
            self.dismiss()
