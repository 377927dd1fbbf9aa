"""Running and ended pulls, and one of them opened into its layers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from entrepot.api.models import LayerSnapshot, PullSnapshot
from entrepot.core.states import PullState
from tui.key_queue import opens_screen
from tui.presentation.copies import pull_command
from tui.presentation.pulls import (
    PROGRESS_COLUMNS,
    PROGRESS_WIDTH,
    STEADY_COLUMNS,
    asked_by,
    ended_text,
    layer_progress,
    layer_row,
    opened_pull_detail,
    pull_detail,
    pull_progress,
    pull_row,
    pull_summary,
    running_summary,
    under_way_first,
)
from tui.screens.base import WIDE, EngineScreen, ListScreen
from widgets.bars import update_line
from widgets.detail import Detail
from widgets.dialogs.question import Choice, Question
from widgets.row_list import Column, Row, RowList
from widgets.text import Plain, cell_width

ALL_PULLS_INTERVAL = 4.0
"""Seconds between two fetches of the ended pulls too, while the same ones are running."""


class PullsScreen(ListScreen[PullSnapshot]):
    """The running and the ended pulls."""

    area = "Pulls"
    thing = "pull"
    FOR_A_ROW = frozenset({"cancel", "again", "copy"})
    CHANGES = frozenset({"pull", "cancel", "again"})
    title_text = "Pulls"
    empty_text = (
        "Nothing has been pulled yet.\n\n"
        "A pull begins when a container client asks for an image that is not cached yet, or when "
        "you press p. It is shown here while it runs, layer by layer, and afterwards with how it "
        "ended."
    )
    DEFAULT_CSS = f"""
    PullsScreen {{
        & #progress {{ width: {PROGRESS_WIDTH}; }}
        & .detail.-beside {{ width: 40; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pull", "pull", tooltip="Pull an image into the cache", id="pulls.pull"),
        Binding(
            "x", "cancel", "cancel", tooltip="Cancel the pull under the cursor", id="pulls.cancel"
        ),
        Binding(
            "r",
            "again",
            "again",
            tooltip="Pull again what failed or was cancelled",
            id="pulls.again",
        ),
        Binding(
            "y",
            "copy",
            "copy",
            tooltip="Copy the command that pulls the image under the cursor",
            id="pulls.copy",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._enabled_for: tuple[str, PullState] | None = None
        """The pull, and its state, for which the keys were last refreshed."""
        self._next_full_fetch = 0.0
        self._ended: dict[str, tuple[PullSnapshot, Row, Row]] = {}
        self._day = 0

    def lists(self) -> ComposeResult:
        """The steady columns, and the volatile ones in a list of their own."""
        steady = RowList(STEADY_COLUMNS, id="list")
        volatile = RowList(PROGRESS_COLUMNS, id="progress", marker=False)
        volatile.follow(steady)
        yield steady
        yield volatile

    def on_mount(self) -> None:
        """In a demo also name the images that can be pulled."""
        if self.app.demo_images:
            images = ", ".join(self.app.demo_images)
            self.query_one(".empty", Plain).update(
                f"{self.empty_text}\n\nThis demo's source has {images}. "
                "Press p, then enter twice, to pull the first."
            )

    def on_screen_resume(self) -> None:
        """Fetch the ended pulls too: some may have started and ended meanwhile."""
        self._next_full_fetch = 0.0

    async def fetch(self) -> None:
        """Fetch the running pulls, and now and then all of them.

        All are fetched also when other pulls are running than before. Up to a thousand ended pulls
        are remembered.
        """
        client, remembered = self.app.client.pulls, self.models.values()
        running = await client.list_running() if time.monotonic() < self._next_full_fetch else None
        if running is None or {pull.id for pull in running} != {
            pull.id for pull in remembered if not pull.state.ended
        }:
            pulls = await client.list()
            self._next_full_fetch = time.monotonic() + ALL_PULLS_INTERVAL
        else:
            pulls = [*running, *(pull for pull in remembered if pull.state.ended)]
        self.show_models(pulls)

    def show_models(self, models: Sequence[PullSnapshot]) -> None:
        """Show pulls, the running ones first."""
        now = time.time()
        pulls = under_way_first(models)
        self.models = {pull.id: pull for pull in pulls}
        rows = [self._rows_of(pull, now) for pull in pulls]
        self._ended = {
            pull.id: (pull, *pair)
            for pull, pair in zip(pulls, rows, strict=True)
            if pull.state.ended
        }
        self.show_rows([steady for steady, _ in rows])
        self.query_one("#progress", RowList).set_rows([volatile for _, volatile in rows])
        current = self.current
        enabled_for = (current.id, current.state) if current is not None else None
        if enabled_for != self._enabled_for:
            self._enabled_for = enabled_for
            self.refresh_bindings()

    def _rows_of(self, pull: PullSnapshot, now: float) -> tuple[Row, Row]:
        """The steady and the volatile columns of a pull.

        The rows of an ended pull are built once a day: there may be a thousand, and only their
        dates change.
        """
        if (day := time.localtime(now).tm_yday) != self._day:
            self._day, self._ended = day, {}
        if (cached := self._ended.get(pull.id)) is not None:
            cached_pull, steady, volatile = cached
            if cached_pull is pull or cached_pull == pull:
                return steady, volatile
        return pull_row(pull), _lazy_progress(pull, now)

    def count_text(self) -> str:
        """A summary of the running pulls, or else how many pulls there are."""
        return running_summary(tuple(self.models.values())) or super().count_text()

    def detail(self, model: PullSnapshot) -> Detail:
        """The pull in sentences."""
        return pull_detail(model, time.time())

    def own_disabled_reason(self, action: str) -> str:
        """Only a running pull can be cancelled; only an incomplete one pulled again."""
        pull = self.current
        return super().own_disabled_reason(action) or (
            _pull_disabled_reason(action, pull) if pull is not None else ""
        )

    @on(RowList.Opened, "#list")
    def _open(self, event: RowList.Opened) -> None:
        self.app.push_screen(PullScreen(event.row.key))

    def action_pull(self) -> None:
        """Pull an image."""
        self.app.prompt_pull("")

    def action_copy(self) -> None:
        """Copy the command of the pull under the cursor."""
        if (pull := self.current) is not None:
            copy_command(self, pull)

    @work(exit_on_error=False)
    async def action_again(self) -> None:
        """Pull again, and follow the new pull."""
        if (pull := self.current) is not None and (
            started := await pull_again(self, pull)
        ) is not None:
            self.go_to(started.id)
            self.app.poll_now()
            self.poll()

    @opens_screen()
    async def action_cancel(self) -> None:
        """Cancel a pull, after a question."""
        if (pull := self.current) is not None:
            await cancel_pull(self, pull)


class PullScreen(ListScreen[LayerSnapshot]):
    """One pull and its layers."""

    area = "Pulls"
    thing = "pull"
    CHANGES = frozenset({"cancel", "again"})
    empty_text = (
        "The source is being asked for the image. "
        "Its layers are shown as soon as its manifest is cached."
    )
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 (Textual declares it so)
        (0, "-small"),
        (80, "-narrow"),
        (WIDE, "-wide"),
    ]
    DEFAULT_CSS = """
    PullScreen {
        & #progress { width: 54; }
        &.-small #progress { width: 34; }
        & .detail.-beside { width: 40; }
        & #summary { height: 1; padding: 0 1; color: $accent; }
        & .content { margin-top: 1; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "back", tooltip="Back to the list", id="pull.back"),
        Binding("x", "cancel", "cancel", tooltip="Cancel this pull", id="pull.cancel"),
        Binding(
            "r",
            "again",
            "again",
            tooltip="Pull again what failed or was cancelled",
            id="pull.again",
        ),
        Binding(
            "y", "copy", "copy", tooltip="Copy the command that pulls this image", id="pull.copy"
        ),
    ]

    def __init__(self, pull_id: str) -> None:
        super().__init__()
        self._pull_id = pull_id
        self._pull: PullSnapshot | None = None

    def below_title(self) -> ComposeResult:
        """A summary of the pull."""
        yield Plain("", id="summary")

    def lists(self) -> ComposeResult:
        """Digest, kind and size; progress in a list of its own."""
        steady = RowList(
            (Column("Blob", 12), Column("", 6, needs=33), Column("Size", 8, right=True)), id="list"
        )
        volatile = RowList(
            (
                Column("Progress", 13),
                Column("", 4, right=True),
                Column("", 19, needs=40),
                Column("", 9, right=True, needs=53),
            ),
            id="progress",
            marker=False,
        )
        volatile.follow(steady)
        yield steady
        yield volatile

    async def fetch(self) -> None:
        """Fetch the pull with its layers."""
        self.show_pull(await self.app.client.pulls.get(self._pull_id))

    def show_pull(self, pull: PullSnapshot) -> None:
        """Show the pull and its layers."""
        before, self._pull = self._pull, pull
        update_line(self.query_one(".title--name", Plain), self._title(), resizes=False)
        update_line(
            self.query_one("#summary", Plain), pull_summary(pull, self.size.width), resizes=False
        )
        update_line(
            self.query_one(".empty", Plain),
            ended_text(pull) if pull.state.ended else self.empty_text,
            resizes=False,
        )
        self.show_models(pull.layers)
        self.query_one("#progress", RowList).set_rows(
            [layer_progress(layer) for layer in pull.layers]
        )
        if before is None or (before.id, before.state) != (pull.id, pull.state):
            self.refresh_bindings()

    def key(self, model: LayerSnapshot) -> str:
        """The digest of the layer."""
        return model.digest

    def row(self, model: LayerSnapshot) -> Row:
        """The steady columns of the layer."""
        return layer_row(model)

    def count_text(self) -> str:
        """The source registry, and who asked for the pull."""
        if self._pull is None:
            return ""
        client = f"   asked by {asked_by(self._pull.asked_by)}"
        room = self.size.width - cell_width(self._title()) - cell_width(self._pull.login_server) - 4
        return f"{self._pull.login_server}{client if cell_width(client) <= room else ''}"

    def _title(self) -> str:
        return (
            f"{self._pull.image}   {(self._pull.platform or '').removeprefix('linux/')}"
            if self._pull is not None
            else ""
        )

    def detail(self, model: LayerSnapshot) -> Detail:
        """The whole pull in sentences, whichever layer is current."""
        return opened_pull_detail(self._pull, time.time()) if self._pull is not None else Detail()

    def own_disabled_reason(self, action: str) -> str:
        """As in the list."""
        if self._pull is not None:
            return _pull_disabled_reason(action, self._pull)
        return (
            "The engine has not reported this pull yet."
            if action in {"cancel", "again", "copy"}
            else ""
        )

    def action_back(self) -> None:
        """Back to the list."""
        self.dismiss()

    def action_copy(self) -> None:
        """Copy the command of this pull."""
        if self._pull is not None:
            copy_command(self, self._pull)

    @work(exit_on_error=False)
    async def action_again(self) -> None:
        """Pull again, and show the new pull in place of this one."""
        if self._pull is not None and (started := await pull_again(self, self._pull)) is not None:
            self._pull_id = started.id
            self.app.poll_now()
            self.poll()

    @opens_screen()
    async def action_cancel(self) -> None:
        """Cancel this pull, after a question."""
        if self._pull is not None:
            await cancel_pull(self, self._pull)


def _lazy_progress(pull: PullSnapshot, now: float) -> Row:
    return Row(pull.id, lambda: pull_progress(pull, now).cells)


def _pull_disabled_reason(action: str, pull: PullSnapshot) -> str:
    if action == "cancel" and pull.state.ended:
        return "This pull has ended."
    if action == "again" and not pull.state.ended:
        return "This pull is running; x cancels it."
    if action == "again" and pull.state is PullState.COMPLETED:
        return "This pull is complete: what it pulled is cached."
    return ""


def copy_command(screen: EngineScreen, pull: PullSnapshot) -> None:
    """Send the command that pulls the image to the terminal's clipboard."""
    screen.app.copy_line(
        pull_command(screen.app.address, pull.repository, pull.tag or pull.digest or "latest")
    )


async def pull_again(screen: EngineScreen, pull: PullSnapshot) -> PullSnapshot | None:
    """Start a pull of the same image and platform; None if it was refused."""
    return await screen.app.attempt(
        screen.app.client.pulls.start(pull.image, pull.platform, asked_by="dashboard"),
        shown_for=10,
    )


async def cancel_pull(screen: EngineScreen, pull: PullSnapshot) -> None:
    """Ask, then cancel. Must be called in a worker."""
    answer = await screen.app.push_screen_wait(
        Question(
            f"Cancel the pull of {pull.image}?",
            "Complete blobs stay. Blobs that a client is waiting for are still fetched.",
            (Choice("keep", "Continue"), Choice("cancel-pull", "Cancel it", danger=True)),
        )
    )
    if answer == "cancel-pull":
        await screen.app.succeeds(screen.app.client.pulls.cancel(pull.id))
        screen.app.poll_now()
        screen.poll()
