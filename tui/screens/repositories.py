"""Cached repositories, and one of them opened into its tags."""

from __future__ import annotations

import time
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from entrepot.client import ClientError, EngineRefused
from entrepot.snapshots import RepositoryDetail, RepositorySnapshot, TagSnapshot
from entrepot.words import counted, parse_size, size
from tui.presentation import eviction_lines, pull_command, repository_lines, repository_row, tag_row
from tui.screens.area import ListScreen
from widgets.dialogs import Choice, Field, Prompt, Question
from widgets.row_list import Column, Row, RowList


class RepositoriesScreen(ListScreen):
    """What is held."""

    area = 3
    title_text = "Cached repositories"
    empty_text = (
        "Nothing is cached yet.\n\n"
        "The first pull of an image through a cache rule leaves a copy here. "
        "Pull one with a container client, or press p to let the engine do it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pull", "pull", tooltip="Pull an image into the cache", id="repositories.pull"),
        Binding("y", "copy", "copy", tooltip="Copy a docker pull line", id="repositories.copy"),
        Binding("l", "lock", "lock", tooltip="Keep the repository from eviction and deletion, or no longer", id="repositories.lock"),
        Binding("v", "evict", "evict", tooltip="Make room: see which images would go, then let them go", id="repositories.evict"),
        Binding("d", "delete", "delete", tooltip="Delete the repository under the cursor with all its tags", id="repositories.delete"),
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

    async def fetch(self) -> None:
        """All cached repositories."""
        self._repositories = {each.name: each for each in await self.app.client.repositories()}
        now = time.time()
        self.show_rows([repository_row(each, now) for each in self._repositories.values()])

    def detail(self, row: Row | None) -> tuple[str, ...]:
        """The repository in sentences."""
        return repository_lines(self._repositories[row.key], self.app.address) if row is not None else ()

    @property
    def _current(self) -> RepositorySnapshot | None:
        row = self.row_list.current
        return self._repositories[row.key] if row is not None else None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a repository there is nothing to delete, lock, evict or copy."""
        if action in {"delete", "copy", "lock", "evict"} and self.is_mounted and self.row_list.current is None:
            return None
        return True

    @on(RowList.Opened, "#list")
    def _open(self, event: RowList.Opened) -> None:
        self.app.push_screen(RepositoryScreen(event.row.key))

    def action_pull(self) -> None:
        """Pull an image, of this repository if there is one."""
        found = self._current
        self.app.ask_for_pull(f"{found.name}:latest" if found is not None else "")

    def action_copy(self) -> None:
        """Copy a line to pull it."""
        if (found := self._current) is not None:
            self.app.copy_line(pull_command(self.app.address, found.name, "latest"))

    @work(exit_on_error=False)
    async def action_lock(self) -> None:
        """Lock the repository, or unlock it."""
        if (found := self._current) is not None:
            await toggle_lock(self, found.name, None, locked=found.locked)

    @work(exit_on_error=False)
    async def action_evict(self) -> None:
        """Ask how much may be left, show what would go, and then let it go."""
        status = self.app.status
        proposed = size(int((status.blobs_size if status is not None else 0) * 0.9))
        answers = await self.app.push_screen_wait(
            Prompt("Evict the images that were used least recently", (Field("to", "How much may be held afterwards?", proposed, "40 GB"),), button="Show")
        )
        if answers is None:
            return
        try:
            plan = await self.app.client.evict(dry_run=True, target=parse_size(answers["to"]))
            if not plan.images:
                self.app.notify("Nothing would go: less is held than that, or what is held is locked or in use.")
                return
            choices = (Choice("keep", "Keep all", "n"), Choice("evict", "Evict", "y", danger=True))
            if await self.app.push_screen_wait(Question(f"Evict {counted(len(plan.images), 'image')}?", eviction_lines(plan, time.time()), choices)) == "evict":
                done = await self.app.client.evict(target=parse_size(answers["to"]))
                self.app.notify(f"{counted(len(done.images), 'image')} evicted: {size(done.freed)} freed.")
        except ValueError as error:
            self.app.notify(f"{error}. Write it such as 40 GB.", severity="error")
        except ClientError as error:
            self.app.notify(error.message, severity="error")
        self.look()

    @work(exit_on_error=False)
    async def action_delete(self) -> None:
        """Delete the repository, after its name was typed."""
        found = self._current
        if found is None:
            return
        text = (
            f"{counted(found.tags, 'tag')} and {counted(found.manifests, 'manifest')} go, {size(found.size)} in all; blobs that others need stay.\n"
            "Its cache rule stays: the next pull fetches it from its source again."
        )
        choices = (Choice("keep", "Keep it", "n"), Choice("delete", "Delete", "y", danger=True))
        if await self.app.push_screen_wait(Question(f"Delete the cached repository {found.name}?", text, choices, typed=found.name)) == "delete":
            try:
                await self.app.client.delete_repository(found.name)
                self.app.notify(f"{found.name} is deleted.")
            except ClientError as error:
                self.app.notify(error.message, severity="error")
            self.look()


class RepositoryScreen(ListScreen):
    """A cached repository and its tags."""

    area = 3
    empty_text = "It holds no tags, only images that were pulled by digest."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "back", tooltip="Back to the list"),
        Binding("p", "pull", "pull", tooltip="Ask the source for the tag now, and pull what is missing", id="repository.pull"),
        Binding("y", "copy", "copy", tooltip="Copy a docker pull line", id="repository.copy"),
        Binding("l", "lock", "lock", tooltip="Keep the tag from eviction and deletion, or no longer", id="repository.lock"),
        Binding("d", "delete", "delete", tooltip="Forget the tag under the cursor; the next pull fetches it again", id="repository.delete"),
    ]

    def __init__(self, name: str) -> None:
        super().__init__()
        self._repository = name
        self._detail: RepositoryDetail | None = None

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
        self._detail = await self.app.client.repository(self._repository)
        found, now = self._detail.repository, time.time()
        title = self.query_one(".title--name", Static)
        told = f"{found.name}   {'rule ' + found.rule if found.rule else 'no rule'}   {size(found.size)}"
        if str(title.content) != told:
            title.update(told)
        self.show_rows([tag_row(tag, now) for tag in self._detail.tags])

    def refused(self, error: EngineRefused) -> None:
        """It was deleted meanwhile."""
        self.app.notify(error.message)
        self.dismiss()

    def detail(self, row: Row | None) -> tuple[str, ...]:
        """The tag's digest, and how to pull it from here."""
        tag = self._current
        return (tag.digest, pull_command(self.app.address, self._repository, tag.name)) if tag is not None else ()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a tag there is nothing to do to it."""
        if action in {"pull", "copy", "delete", "lock"} and self.is_mounted and self.row_list.current is None:
            return None
        return True

    @property
    def _current(self) -> TagSnapshot | None:
        row = self.row_list.current
        return next((each for each in self._detail.tags if each.name == row.key), None) if self._detail is not None and row is not None else None

    @work(exit_on_error=False)
    async def action_lock(self) -> None:
        """Lock the tag, or unlock it."""
        if (tag := self._current) is not None:
            await toggle_lock(self, self._repository, tag.name, locked=tag.locked)

    def action_back(self) -> None:
        """Close the filter, or go back to the list."""
        if self.query_one(".filter").has_class("-open"):
            self.action_clear_filter()
        else:
            self.dismiss()

    def action_pull(self) -> None:
        """Pull the tag now."""
        if (row := self.row_list.current) is not None:
            self.app.ask_for_pull(f"{self._repository}:{row.key}")

    def action_copy(self) -> None:
        """Copy a line to pull it."""
        if (row := self.row_list.current) is not None:
            self.app.copy_line(pull_command(self.app.address, self._repository, row.key))

    @work(exit_on_error=False)
    async def action_delete(self) -> None:
        """Forget the tag, after a question."""
        row = self.row_list.current
        if row is None:
            return
        text = "The manifest that it points to stays until the repository is deleted. The next pull of the tag asks its source again."
        choices = (Choice("keep", "Keep it", "n"), Choice("delete", "Delete", "y", danger=True))
        if await self.app.push_screen_wait(Question(f"Delete the tag {self._repository}:{row.key}?", text, choices)) == "delete":
            try:
                await self.app.client.delete_tag(self._repository, row.key)
            except ClientError as error:
                self.app.notify(error.message, severity="error")
            self.look()


async def toggle_lock(screen: ListScreen, repository: str, tag: str | None, *, locked: bool) -> None:
    """Lock a repository or a tag, or unlock it, and say so."""
    name = repository if tag is None else f"{repository}:{tag}"
    try:
        await (screen.app.client.unlock if locked else screen.app.client.lock)(repository, tag)
        screen.app.notify(f"{name} is unlocked." if locked else f"{name} is locked: it is neither evicted nor deleted.")
    except ClientError as error:
        screen.app.notify(error.message, severity="error")
    screen.look()
