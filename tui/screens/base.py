"""What all areas share: the status line, the tabs, the keys, one poller, and the loss of the engine
shown and mended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input
from textual.worker import Worker, WorkerState

from entrepot.api.client import ClientError, EngineRefused
from tui.areas import AREAS
from tui.key_queue import QueuesKeys
from tui.polling import POLL_INTERVAL, RESPONSE_TIMEOUT
from tui.presentation.status import status_parts
from widgets.bars import KeyLine, TabLine, TwoSided, update_line
from widgets.detail import Detail, DetailPane
from widgets.dialogs.base import ResultScreen
from widgets.row_list import Row, RowList
from widgets.text import Plain, TextLine

if TYPE_CHECKING:
    from tui.engine_app import EngineApp


WIDE = 110
"""Columns from which on details stand beside a list and not below it."""


class EngineScreen(QueuesKeys, ResultScreen[None]):
    """A screen that shows a part of the engine and asks for it again and again while it is on top."""

    DEFAULT_CSS = """
    EngineScreen {
        background: $background;
        & .title { height: 1; padding: 0 1; }
        & .title--name { width: 1fr; text-style: bold; }
        & .title--count { width: auto; color: $text-muted; }
        & .filter { display: none; height: 1; padding: 0 1; background: $surface; border: none; }
        & .filter.-open { display: block; }
        & .content { height: 1fr; layout: vertical; }
        &.-wide .content { layout: horizontal; }
        & .empty { display: none; height: 1fr; padding: 1 3; color: $text-muted; }
        & .empty.-shown { display: block; }
        & .lists { width: 1fr; height: 1fr; }
        &.-short .detail { max-height: 3; }
        & .-hidden { display: none; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = []
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012 (Textual declares it so)
    VERTICAL_BREAKPOINTS = [(0, "-short"), (20, "-tall")]  # noqa: RUF012
    CHANGES: ClassVar[frozenset[str]] = frozenset()
    """Actions that change something in the engine: a dashboard that only reads offers none of them."""
    FOLLOWS_REVISION: ClassVar[bool] = False
    """It shows nothing but what the engine's revision counts: as long as that stays, there is no
    need to ask for the list."""
    area: ClassVar[int] = 0

    app: EngineApp

    def __init__(self) -> None:
        super().__init__()
        self._timer: Timer | None = None
        self._asked: float | None = None
        self._has_polled = False
        self._poll_again = False
        self._revision = 0

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
        self._timer = self.set_interval(POLL_INTERVAL, self.poll, pause=True)

    def on_screen_resume(self) -> None:
        """On top: ask at once, and go on."""
        self.app.poll_now()
        self.poll()
        if self._timer is not None:
            self._timer.resume()

    def on_screen_suspend(self) -> None:
        """Another screen is on top: rest."""
        if self._timer is not None:
            self._timer.pause()

    def poll(self) -> None:
        """Ask the engine, unless the last question is still open."""
        if self._asked is None:
            # Now and not when it has its turn: whoever looks meanwhile would ask a second time.
            self._asked = time.time()
            self.run_worker(self._poll(), group="look", exit_on_error=False)
        elif time.time() - self._asked > RESPONSE_TIMEOUT:
            self.app.record_silence(self._asked)
            self._show_status()
            self._poll_done()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """What a screen does on its own must not fail in silence."""
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            self.app.report_fault(event.worker.error)

    def poll_now(self) -> None:
        """Ask the engine, however quiet it was, and again if it is being asked: something has just
        been changed."""
        self._poll_again = self._asked is not None
        self.app.poll_now()
        self.poll()

    async def _poll(self) -> None:
        try:
            if self.app.is_poll_early():
                return
            status = await self.app.client.system.status()
            self.app.status = status
            if self.FOLLOWS_REVISION and status.revision and status.revision == self._revision:
                self.show_again()
            else:
                await self.fetch()
                self._revision = status.revision
            self.app.record_status(status)
        except EngineRefused as error:
            self.refused(error)
        except ClientError as error:
            self.app.record_loss(error)
        finally:
            self._asked = None
            self._show_status()
            self._poll_done()
            if self._poll_again:
                self.poll_now()

    def _poll_done(self) -> None:
        if not self._has_polled:
            self._has_polled = True
            self.app.resume_keys()

    @property
    def queues_keys(self) -> bool:
        """Until it shows something: what is typed ahead of that is meant for the row which it will
        show."""
        return not self._has_polled

    async def fetch(self) -> None:
        """Ask for this screen's part and show it."""

    def show_again(self) -> None:
        """The engine would return the same as before."""

    def own_disabled_reason(self, action: str) -> str:
        """Why *action* can't be taken now, in a sentence for whoever presses its key; empty: it
        can."""
        return ""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What can't be taken now is shown dimmed; its key says why (see `own_disabled_reason`)."""
        return None if self.disabled_reason(action) else True

    def disabled_reason(self, action: str) -> str:
        """Why *action* can't be taken: because of this screen, or because this dashboard only
        reads."""
        if action in self.CHANGES and self.app.is_read_only:
            return "This dashboard only reads: it was opened with --read-only, or its engine was."
        return self.own_disabled_reason(action) if self.is_mounted else ""

    def allows(self, action: str) -> bool:
        """Whether *action* can be taken; where it can't, say why."""
        reason = self.disabled_reason(action)
        if reason:
            self.app.notify(reason, severity="warning")
        return not reason

    def refused(self, error: EngineRefused) -> None:
        """What this screen shows is not there any more."""
        self.app.notify(error.message, severity="warning")

    def _show_status(self) -> None:
        line = self.query_one(".status", TwoSided)
        status = self.app.status
        if status is None:
            line.left, line.right = "entrepot", ()
        else:
            line.left = "  ".join(
                [
                    "entrepot",
                    *(["DEMO"] if status.demo else []),
                    status.address,
                    *(["read-only"] if self.app.is_read_only else []),
                ]
            )
            line.right = status_parts(status)
        line.alert = self.app.connection_alert


class ListScreen(EngineScreen):
    """An area that is a list with a filter, details below it, and words for when it is empty."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "slash",
            "filter",
            "filter",
            tooltip="Show only rows with these words; esc clears",
            id="list.filter",
        ),
        Binding("escape", "clear_filter", show=False, tooltip="Clear the filter"),
    ]
    # Not the hidden line of the filter, where a key that is pressed while the screen comes up would
    # be lost.
    AUTO_FOCUS = "#list"
    title_text: ClassVar[str] = ""
    empty_text: ClassVar[str] = ""
    thing: ClassVar[str] = "row"
    """What a row stands for, in the sentence that says why an action can't be taken."""
    FOR_A_ROW: ClassVar[frozenset[str]] = frozenset()
    """Actions that are done to the row under the cursor."""
    _wanted: str | None = None

    def body(self) -> ComposeResult:
        """Title and count, filter, list, words when empty, details."""
        with Horizontal(classes="title"):
            yield Plain(self.title_text, classes="title--name")
            yield Plain("", classes="title--count")
        yield from self.below_title()
        yield TextLine(
            classes="filter",
            compact=True,
            placeholder="words that must be found; enter keeps them, esc clears",
        )
        with Container(classes="content"):
            with Horizontal(classes="lists"):
                yield from self.lists()
            yield Plain(self.empty_text, classes="empty")
            yield DetailPane()

    def below_title(self) -> ComposeResult:
        """Lines between the title and the list."""
        yield from ()

    def lists(self) -> ComposeResult:
        """The list, with id ``list``, and what stands beside it."""
        yield Widget()

    @property
    def row_list(self) -> RowList:
        """The list itself."""
        return self.query_one("#list", RowList)

    def on_mount(self) -> None:
        """Begin with the focus on the list. (Textual calls the on_mount of every base class
        itself.)"""
        self.row_list.focus()

    def show_rows(self, rows: list[Row]) -> None:
        """Show the rows, or the words for an empty list."""
        self.row_list.set_rows(rows)
        self._find_wanted()
        empty = not rows
        self.query_one(".empty").set_class(empty, "-shown")
        self.query_one(".lists").set_class(empty, "-hidden")
        self.query_one(".detail").set_class(empty, "-hidden")
        self._show_count()
        self._show_detail()

    def show_again(self) -> None:
        """The engine returned the same as before, or would: no row is made anew, only what depends
        on the time is told again."""
        self.row_list.refresh_texts()
        self._show_detail()

    def own_disabled_reason(self, action: str) -> str:
        """An action that is done to a row needs one."""
        return (
            f"There is no {self.thing} under the cursor."
            if action in self.FOR_A_ROW and self.row_list.current is None
            else ""
        )

    def go_to(self, key: str) -> None:
        """Put the cursor on the row with *key*, as soon as it is there; a filter must not hide it."""
        self._wanted = key
        self.action_clear_filter()
        self._find_wanted()

    def _find_wanted(self) -> None:
        if self._wanted is not None and any(row.key == self._wanted for row in self.row_list.rows):
            self.row_list.move_to(self._wanted)
            self._wanted = None

    def count_text(self) -> str:
        """What stands at the right of the title while nothing is filtered."""
        return f"{self.row_list.total:,}" if self.row_list.total else ""

    def _show_count(self) -> None:
        found, total = len(self.row_list.rows), self.row_list.total
        text = self.query_one(".filter", Input).value
        told = f"{found:,} of {total:,} match   / {text}" if text else self.count_text()
        update_line(self.query_one(".title--count", Plain), told)

    def _show_detail(self) -> None:
        row = self.row_list.current
        self.query_one(DetailPane).show(
            self.detail(row) if row is not None else Detail(), beside=self.size.width >= WIDE
        )

    def on_resize(self) -> None:
        """Details go beside the list or below it."""
        self._show_detail()

    def detail(self, row: Row) -> Detail:
        """What is known about the row under the cursor."""
        return Detail()

    @on(RowList.Moved, "#list")
    def _moved(self) -> None:
        self._show_detail()
        self.refresh_bindings()

    def action_filter(self) -> None:
        """Open the filter."""
        line = self.query_one(".filter", Input)
        line.add_class("-open")
        # At once, without waiting for styles: no key that is pressed now may be lost.
        line.display = True
        self.set_focus(line)

    def filter_for(self, text: str) -> None:
        """Show only the rows with these words, with the focus on the list."""
        line = self.query_one(".filter", Input)
        line.value = text
        line.add_class("-open")
        self.row_list.focus()

    def action_clear_filter(self) -> None:
        """Clear and close the filter."""
        line = self.query_one(".filter", Input)
        line.value = ""
        line.remove_class("-open")
        line.display = False
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
