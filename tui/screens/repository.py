"""A cached repository, opened into its tags."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from entrepot.api.models import RepositoryDetail, TagSnapshot
from entrepot.formatting import size
from tui.presentation.copies import pull_command
from tui.presentation.repositories import tag_facts, tag_lines, tag_row
from tui.screens.cached_base import CachedScreen, ImageSubject, OpenedScreen
from tui.screens.tag import TagScreen
from widgets.bars import update_line
from widgets.detail import Detail
from widgets.row_list import Column, Row, RowList
from widgets.text import Plain


class RepositoryScreen(OpenedScreen):
    """The tags of one repository."""

    area = 3
    thing = "tag"
    FOR_A_ROW = CachedScreen.FOR_A_ROW | {"pull"}
    empty_text = "No tag is cached; manifests may have been asked for by their digests."
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
        self._seen: RepositoryDetail | None = None
        self._tags: dict[str, TagSnapshot] = {}

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

    async def fetch(self) -> None:
        """The repository with its tags."""
        detail = await self.app.client.repositories.get(self._repository)
        if detail == self._seen:
            self.show_again()
            return
        self._seen = detail
        found = detail.repository
        told = f"{found.name}   {'rule ' + found.rule if found.rule else 'no rule'}   {size(found.size)}{'   locked' if found.locked else ''}"
        update_line(self.query_one(".title--name", Plain), told)
        self._tags = {tag.name: tag for tag in detail.tags}
        self.show_rows([tag_row(tag, time.time) for tag in detail.tags])

    def detail(self, row: Row) -> Detail:
        """The tag's digest, how much it is to be believed, and how to pull it from here."""
        tag, now = self._tags[row.key], time.time()
        line = pull_command(self.app.address, self._repository, tag.name)
        return Detail(
            f"{self._repository}:{tag.name}",
            (*tag_lines(tag, now), line),
            tag_facts(tag, now),
            (line, "enter shows its platforms and layers."),
        )

    @property
    def subject(self) -> ImageSubject | None:
        """The tag under the cursor."""
        row = self.row_list.current
        if row is None:
            return None
        tag = self._tags[row.key]
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
