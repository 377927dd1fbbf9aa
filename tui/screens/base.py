"""What all areas share: status line, tabs, keys, polling, a lost connection."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input
from textual.worker import Worker, WorkerState

from entrepot.api.errors import ClientError, EngineRefused
from tui.areas import AREAS, SHORT_TITLES
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
"""Columns from which details stand beside a list and not below it."""

Model = TypeVar("Model")


class EngineScreen(QueuesKeys, ResultScreen[None]):
    """A screen that shows a part of the engine, and polls for it while it is on top."""

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
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012 (as in Textual)
    VERTICAL_BREAKPOINTS = [(0, "-short"), (20, "-tall")]  # noqa: RUF012
    CHANGES: ClassVar[frozenset[str]] = frozenset()
    """Actions that change something in the engine; a read-only dashboard disables them."""
    FOLLOWS_REVISION: ClassVar[bool] = False
    """Whether the screen shows only what the engine's revision counts. While that stays the same,
    nothing is fetched."""
    area: ClassVar[str] = AREAS[0]

    app: EngineApp

    def __init__(self) -> None:
        super().__init__()
        self._timer: Timer | None = None
        self._poll_started: float | None = None
        """Unix time at which the poll that is under way began."""
        self._has_polled = False
        self._poll_again = False
        self._revision = 0

    def compose(self) -> ComposeResult:
        """Status, tabs, the body, keys."""
        yield TwoSided(classes="status")
        yield TabLine(AREAS, AREAS.index(self.area), SHORT_TITLES)
        yield from self.body()
        yield KeyLine()

    def body(self) -> ComposeResult:
        """What is between tabs and keys."""
        yield Widget()

    def on_mount(self) -> None:
        """Start the timer that polls."""
        self._timer = self.set_interval(POLL_INTERVAL, self.poll, pause=True)

    def on_screen_resume(self) -> None:
        """Poll at once when on top, and go on polling."""
        self.app.poll_now()
        self.poll()
        if self._timer is not None:
            self._timer.resume()

    def on_screen_suspend(self) -> None:
        """Stop polling while another screen is on top."""
        if self._timer is not None:
            self._timer.pause()

    def poll(self) -> None:
        """Poll the engine, unless a poll is under way."""
        if self._poll_started is None:
            # Set here and not when the worker runs: a second call until then would poll twice.
            self._poll_started = time.time()
            self.run_worker(self._poll(), group="poll", exit_on_error=False)
        elif time.time() - self._poll_started > RESPONSE_TIMEOUT:
            self.app.record_silence(self._poll_started)
            self._show_status()
            self._poll_done()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Report the error of a worker, which would fail in silence."""
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            self.app.report_fault(event.worker.error)

    def poll_now(self) -> None:
        """Poll although little happens, and once more after a poll that is under way.

        Something was just changed.
        """
        self._poll_again = self._poll_started is not None
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
            self.handle_refusal(error)
        except ClientError as error:
            self.app.record_loss(error)
        finally:
            self._poll_started = None
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
        """Until the first poll: keys typed ahead of it are for the rows that it will show."""
        return not self._has_polled

    async def fetch(self) -> None:
        """Fetch this screen's part of the engine and show it."""

    def show_again(self) -> None:
        """Show the same data at a later time."""

    def own_disabled_reason(self, action: str) -> str:
        """Why this screen disables *action* now, in a sentence; empty: it does not."""
        return ""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """None, which dims its key, for a disabled action (see `disabled_reason`)."""
        return None if self.disabled_reason(action) else True

    def disabled_reason(self, action: str) -> str:
        """Why *action* is disabled, because of this screen or of a read-only dashboard."""
        if action in self.CHANGES and self.app.is_read_only:
            return "This dashboard only reads: it was opened with --read-only, or its engine was."
        return self.own_disabled_reason(action) if self.is_mounted else ""

    def allows(self, action: str) -> bool:
        """Whether *action* is enabled; a reason why not is shown."""
        reason = self.disabled_reason(action)
        if reason:
            self.app.notify(reason, severity="warning")
        return not reason

    def handle_refusal(self, error: EngineRefused) -> None:
        """Show that the engine refused a poll: what this screen shows was deleted."""
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


class ListScreen(EngineScreen, Generic[Model]):
    """A list of models with a filter and the details of the current one.

    A subclass says how to `load` the models and what `key`, `row` and `detail` one has.
    """

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
    # Not the hidden line of the filter, where a key that is pressed during the mount would be lost.
    AUTO_FOCUS = "#list"
    title_text: ClassVar[str] = ""
    empty_text: ClassVar[str] = ""
    thing: ClassVar[str] = "row"
    """What a row stands for, in the reason why an action is disabled."""
    FOR_A_ROW: ClassVar[frozenset[str]] = frozenset()
    """Actions on the current row."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Model] = {}
        """The models of the rows, by the keys of the rows."""
        self._loaded: Sequence[Model] | None = None
        self._target_key: str | None = None
        """The key of a row to which the cursor goes as soon as it is loaded."""

    def body(self) -> ComposeResult:
        """Title and count, filter, list, text for an empty list, details."""
        with Horizontal(classes="title"):
            yield Plain(self.title_text, classes="title--name")
            yield Plain("", classes="title--count")
        yield from self.below_title()
        yield TextLine(
            classes="filter",
            compact=True,
            placeholder="words to filter by; enter keeps them, esc clears",
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
        """Focus the list. (Textual calls the on_mount of every base class itself.)"""
        self.row_list.focus()

    async def load(self) -> Sequence[Model]:
        """Ask the engine for the models."""
        return ()

    def key(self, model: Model) -> str:
        """The key of a model's row."""
        raise NotImplementedError

    def row(self, model: Model) -> Row:
        """The row of a model."""
        raise NotImplementedError

    def detail(self, model: Model) -> Detail:
        """The details of a model, in sentences and facts."""
        return Detail()

    @property
    def current(self) -> Model | None:
        """The model of the current row."""
        row = self.row_list.current
        return self.models.get(row.key) if row is not None else None

    async def fetch(self) -> None:
        """Load the models. Rows are built again only when a model has changed."""
        models = await self.load()
        if models == self._loaded:
            self.show_again()
            return
        self._loaded = models
        self.show_models(models)

    def show_models(self, models: Sequence[Model]) -> None:
        """Show other models."""
        self.models = {self.key(model): model for model in models}
        self.show_rows([self.row(model) for model in models])

    def show_rows(self, rows: list[Row]) -> None:
        """Show the rows, or the text for an empty list."""
        self.row_list.set_rows(rows)
        self._move_to_target()
        empty = not rows
        self.query_one(".empty").set_class(empty, "-shown")
        self.query_one(".lists").set_class(empty, "-hidden")
        self.query_one(".detail").set_class(empty, "-hidden")
        self._show_count()
        self._show_detail()

    def show_again(self) -> None:
        """Refresh the texts that depend on the time."""
        self.row_list.refresh_texts()
        self._show_detail()

    def own_disabled_reason(self, action: str) -> str:
        """An action on a row needs a current row."""
        return (
            f"There is no {self.thing} under the cursor."
            if action in self.FOR_A_ROW and self.row_list.current is None
            else ""
        )

    def go_to(self, key: str) -> None:
        """Move to the row with *key* as soon as it is loaded; a filter is cleared."""
        self._target_key = key
        self.action_clear_filter()
        self._move_to_target()

    def _move_to_target(self) -> None:
        key = self._target_key
        if key is not None and any(row.key == key for row in self.row_list.rows):
            self.row_list.move_to(key)
            self._target_key = None

    def count_text(self) -> str:
        """What stands at the right of the title while there is no filter."""
        return f"{self.row_list.total:,}" if self.row_list.total else ""

    def _show_count(self) -> None:
        matching, total = len(self.row_list.rows), self.row_list.total
        text = self.query_one(".filter", Input).value
        count = f"{matching:,} of {total:,} match   / {text}" if text else self.count_text()
        update_line(self.query_one(".title--count", Plain), count)

    def _show_detail(self) -> None:
        model = self.current
        self.query_one(DetailPane).show(
            self.detail(model) if model is not None else Detail(), beside=self.size.width >= WIDE
        )

    def on_resize(self) -> None:
        """Place the details beside the list or below it."""
        self._show_detail()

    @on(RowList.Moved, "#list")
    def _moved(self) -> None:
        self._show_detail()
        self.refresh_bindings()

    def action_filter(self) -> None:
        """Open the filter."""
        line = self.query_one(".filter", Input)
        line.add_class("-open")
        # Set here, without waiting for styles: no key that is pressed now may be lost.
        line.display = True
        self.set_focus(line)

    def filter_for(self, text: str) -> None:
        """Open the filter with *text*, with the focus on the list."""
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
