"""Live pulls, and one of them opened into its layers."""

from __future__ import annotations

import time
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from entrepot.client import ClientError
from entrepot.snapshots import PullSnapshot
from entrepot.words import size
from tui.presentation import asked_by, layer_progress, layer_row, pull_lines, pull_progress, pull_row
from tui.screens.area import ListScreen
from widgets.dialogs import Choice, Question
from widgets.row_list import Column, Row, RowList

PROGRESS_COLUMNS = (Column("Progress", 14), Column("", 4, right=True), Column("Speed", 10, right=True), Column("Left", 9, right=True))


class PullsScreen(ListScreen):
    """What is on its way in, and what came lately."""

    area = 4
    title_text = "Pulls"
    empty_text = (
        "Nothing has been pulled since the engine started.\n\n"
        "A pull begins when a container client asks for an image that is not held yet, or when you press p."
    )
    DEFAULT_CSS = """
    PullsScreen { & #progress { width: 44; } }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pull", "pull", tooltip="Pull an image into the cache", id="pulls.pull"),
        Binding("x", "cancel", "cancel", tooltip="Cancel the pull under the cursor", id="pulls.cancel"),
    ]

    def lists(self) -> ComposeResult:
        """The steady columns, and the volatile ones in a list of their own."""
        steady = RowList(
            (Column("Image", weight=3), Column("", 5, needs=48), Column("Source", weight=1, needs=60), Column("Asked by", 18, needs=80)), id="list"
        )
        volatile = RowList(PROGRESS_COLUMNS, id="progress", marker=False)
        volatile.follow(steady)
        yield steady
        yield volatile

    async def fetch(self) -> None:
        """All pulls."""
        self._pulls = {pull.id: pull for pull in await self.app.client.pulls()}
        now = time.time()
        self.show_rows([pull_row(pull) for pull in self._pulls.values()])
        self._show_progress(now)

    def _show_progress(self, now: float) -> None:
        self.query_one("#progress", RowList).set_rows([pull_progress(self._pulls[row.key], now) for row in self.row_list.rows])

    @on(RowList.Moved, "#list")
    def _follow(self) -> None:
        self._show_progress(time.time())

    def detail(self, row: Row | None) -> tuple[str, ...]:
        """The pull in sentences."""
        return pull_lines(self._pulls[row.key], time.time()) if row is not None else ()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only a pull that goes on can be cancelled."""
        if action == "cancel" and self.is_mounted:
            row = self.row_list.current
            if row is None or self._pulls[row.key].state.ended:
                return None
        return True

    @on(RowList.Opened, "#list")
    def _open(self, event: RowList.Opened) -> None:
        self.app.push_screen(PullScreen(event.row.key))

    def action_pull(self) -> None:
        """Pull an image."""
        self.app.ask_for_pull("")

    @work(exit_on_error=False)
    async def action_cancel(self) -> None:
        """Cancel a pull, after a question."""
        row = self.row_list.current
        if row is not None:
            await cancel_pull(self.app, self._pulls[row.key])
            self.look()


class PullScreen(ListScreen):
    """One pull and its layers."""

    area = 4
    empty_text = "Asking the source for the image..."
    DEFAULT_CSS = """
    PullScreen { & #progress { width: 45; } }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "back", tooltip="Back to the list"),
        Binding("x", "cancel", "cancel", tooltip="Cancel this pull", id="pull.cancel"),
    ]

    def __init__(self, id_: str) -> None:
        super().__init__()
        self._pull_id = id_
        self._pull: PullSnapshot | None = None

    def lists(self) -> ComposeResult:
        """Digest, kind and size; progress in a list of its own."""
        steady = RowList((Column("Blob", 12), Column("", 6), Column("Size", 9, right=True)), id="list")
        volatile = RowList((Column("Progress", 16), Column("", 4, right=True), Column("", weight=1)), id="progress", marker=False)
        volatile.follow(steady)
        yield steady
        yield volatile

    async def fetch(self) -> None:
        """The pull with its layers."""
        self._pull = pull = await self.app.client.pull(self._pull_id)
        title = self.query_one(".title--name", Static)
        told = f"{pull.image}   {pull.platform or ''}   {pull.login_server}   asked by {asked_by(pull.asked_by)}"
        if str(title.content) != told:
            title.update(told)
        self.show_rows([layer_row(layer) for layer in pull.layers])
        self.query_one("#progress", RowList).set_rows([layer_progress(layer) for layer in pull.layers])
        self.refresh_bindings()

    def detail(self, row: Row | None) -> tuple[str, ...]:
        """The whole pull in sentences."""
        if self._pull is None:
            return ()
        speed = f"   {size(self._pull.speed)}/s" if self._pull.speed else ""
        first, *others = pull_lines(self._pull, time.time())
        return (first + speed, *others)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only a pull that goes on can be cancelled."""
        if action == "cancel" and (self._pull is None or self._pull.state.ended):
            return None
        return True

    def action_back(self) -> None:
        """Back to the list."""
        self.dismiss()

    @work(exit_on_error=False)
    async def action_cancel(self) -> None:
        """Cancel this pull, after a question."""
        if self._pull is not None:
            await cancel_pull(self.app, self._pull)
            self.look()


async def cancel_pull(app: object, pull: PullSnapshot) -> None:
    """Ask, then cancel."""
    from tui.app import Dashboard

    assert isinstance(app, Dashboard)
    text = "Blobs that are whole stay. What a client waits for itself goes on."
    choices = (Choice("keep", "Go on", "n"), Choice("cancel-pull", "Cancel it", "y", danger=True))
    if await app.push_screen_wait(Question(f"Cancel the pull of {pull.image}?", text, choices)) == "cancel-pull":
        try:
            await app.client.cancel_pull(pull.id)
        except ClientError as error:
            app.notify(error.message, severity="error")
