"""What all areas share: the status line, the tabs, the keys, one poller, and the loss of the engine shown and mended."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input, Static

from entrepot.client import ClientError, EngineRefused
from tui.presentation import status_parts
from widgets.lines import KeyLine, TabLine, TwoSided
from widgets.row_list import Row, RowList

if TYPE_CHECKING:
    from tui.app import Dashboard

AREAS = ("Overview", "Rules", "Credentials", "Repositories", "Pulls", "Sources", "Events")

INTERVAL = 0.5
"""Seconds between two looks at the engine while something moves: twice a second is enough to watch, and costs little over ssh."""

QUIET_INTERVAL = 2.0
"""Seconds between two looks when nothing is being pulled."""


class EngineScreen(Screen[None]):
    """A screen that shows a part of the engine and asks for it again and again while it is on top."""

    DEFAULT_CSS = """
    EngineScreen {
        background: $background;
        & .title { height: 1; padding: 0 1; }
        & .title--name { width: 1fr; text-style: bold; }
        & .title--count { width: auto; color: $text-muted; }
        & .filter { display: none; height: 1; padding: 0 1; background: $surface; border: none; }
        & .filter.-open { display: block; }
        & .detail { height: auto; max-height: 6; padding: 0 2; border-top: solid $border; color: $foreground; }
        & .empty { display: none; height: 1fr; padding: 1 3; color: $text-muted; }
        & .empty.-shown { display: block; }
        & .lists { height: 1fr; }
        & .-hidden { display: none; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = []
    area: ClassVar[int] = 0

    app: Dashboard

    def __init__(self) -> None:
        super().__init__()
        self._timer: Timer | None = None
        self._asking = False

    def compose(self) -> ComposeResult:
        """Status, tabs, the body, keys."""
        yield TwoSided(classes="status")
        yield TabLine(AREAS, self.area)
        yield from self.body()
        yield KeyLine()

    def body(self) -> ComposeResult:
        """What is between tabs and keys."""
        yield Widget()

    def on_mount(self) -> None:
        """Begin to ask."""
        self._timer = self.set_interval(INTERVAL, self.look, pause=True)

    def on_screen_resume(self) -> None:
        """On top: ask at once, and go on."""
        self.app.look_now()
        self.look()
        if self._timer is not None:
            self._timer.resume()

    def on_screen_suspend(self) -> None:
        """Another screen is on top: rest."""
        if self._timer is not None:
            self._timer.pause()

    def look(self) -> None:
        """Ask the engine, unless the last question is still open."""
        if not self._asking:
            self.run_worker(self._look(), group="look", exit_on_error=False)

    async def _look(self) -> None:
        self._asking = True
        try:
            if self.app.skips_look():
                return
            status = await self.app.client.status()
            await self.fetch()
            self.app.seen(status)
        except EngineRefused as error:
            self.refused(error)
        except ClientError as error:
            self.app.lost(error)
        finally:
            self._asking = False
            self._show_status()

    async def fetch(self) -> None:
        """Ask for this screen's part and show it."""

    def refused(self, error: EngineRefused) -> None:
        """What this screen shows is not there any more."""
        self.app.notify(error.message, severity="warning")

    def _show_status(self) -> None:
        line = self.query_one(".status", TwoSided)
        status = self.app.status
        if status is None:
            line.left, line.right = "entrepot", ()
        else:
            line.left = f"entrepot{'  DEMO' if status.demo else ''}  {status.address}"
            line.right = status_parts(status)
        line.alert = "the engine does not answer" if self.app.is_lost else ""


class ListScreen(EngineScreen):
    """An area that is a list with a filter, details below it, and words for when it is empty."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter", tooltip="Show only rows with these words; esc clears", id="list.filter"),
        Binding("escape", "clear_filter", show=False, tooltip="Clear the filter"),
    ]
    title_text: ClassVar[str] = ""
    empty_text: ClassVar[str] = ""

    def body(self) -> ComposeResult:
        """Title and count, filter, list, words when empty, details."""
        with Horizontal(classes="title"):
            yield Static(self.title_text, classes="title--name")
            yield Static("", classes="title--count", markup=False)
        yield Input(classes="filter", compact=True, placeholder="words that must be found; enter keeps them, esc clears")
        with Horizontal(classes="lists"):
            yield from self.lists()
        yield Static(self.empty_text, classes="empty", markup=False)
        with Vertical(classes="detail"):
            yield Static("", id="detail", markup=False)

    def lists(self) -> ComposeResult:
        """The list, with id ``list``, and what stands beside it."""
        yield Widget()

    @property
    def row_list(self) -> RowList:
        """The list itself."""
        return self.query_one("#list", RowList)

    def on_mount(self) -> None:
        """Begin with the focus on the list. (Textual calls the on_mount of every base class itself.)"""
        self.row_list.focus()

    def show_rows(self, rows: list[Row]) -> None:
        """Show the rows, or the words for an empty list."""
        self.row_list.set_rows(rows)
        empty = not rows
        self.query_one(".empty").set_class(empty, "-shown")
        self.query_one(".lists").set_class(empty, "-hidden")
        self.query_one(".detail").set_class(empty, "-hidden")
        self._show_count()
        self._show_detail()

    def _show_count(self) -> None:
        found, total = len(self.row_list.rows), self.row_list.total
        text = self.query_one(".filter", Input).value
        told = f"{found:,} of {total:,} match   / {text}" if text else f"{total:,}" if total else ""
        count = self.query_one(".title--count", Static)
        if str(count.content) != told:
            count.update(told)

    def _show_detail(self) -> None:
        told = "\n".join(self.detail(self.row_list.current)) if self.row_list.current is not None else ""
        detail = self.query_one("#detail", Static)
        if str(detail.content) != told:
            detail.update(told)

    def detail(self, row: Row | None) -> tuple[str, ...]:
        """Lines about the row under the cursor."""
        return ()

    @on(RowList.Moved, "#list")
    def _moved(self) -> None:
        self._show_detail()
        self.refresh_bindings()

    def action_filter(self) -> None:
        """Open the filter."""
        line = self.query_one(".filter", Input)
        line.add_class("-open")
        line.focus()

    def action_clear_filter(self) -> None:
        """Clear and close the filter."""
        line = self.query_one(".filter", Input)
        line.value = ""
        line.remove_class("-open")
        self.row_list.focus()

    @on(Input.Changed, ".filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        self.row_list.set_filter(event.value)
        self._show_count()
        self._show_detail()

    @on(Input.Submitted, ".filter")
    def _filter_kept(self) -> None:
        if not self.query_one(".filter", Input).value:
            self.action_clear_filter()
        self.row_list.focus()
