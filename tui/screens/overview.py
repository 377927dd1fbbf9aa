"""Whether the cache is healthy, and what it does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical

from entrepot.api.models import (
    Activity,
    ActivityCounts,
    Event,
    PullSnapshot,
    SourceRegistrySnapshot,
)
from tui.key_queue import opens_screen
from tui.polling import IDLE_POLL_INTERVAL
from tui.presentation.overview import (
    SERVER_WIDTH,
    WIDTH_FOR_TWO_COLUMNS,
    access,
    distribute_height,
    figures,
    history,
    last_events,
    more_pulls,
    needs,
    shortened,
    sources,
    space,
)
from tui.presentation.pulls import (
    PROGRESS_COLUMNS,
    PROGRESS_WIDTH,
    STEADY_COLUMNS,
    pull_progress,
    pull_row,
    running_summary,
)
from tui.screens.base import WIDE, EngineScreen
from tui.screens.mirror_dialog import show_mirrors
from widgets.bars import update_line
from widgets.charts import Sparkline
from widgets.row_list import Column, RowList
from widgets.text import Plain

HISTORY_INTERVAL = 30.0
"""Seconds between two fetches of the last 24 hours, which are counted in steps of five minutes."""

MAX_EVENTS = 40
"""Events that are fetched: more than any terminal has lines for."""

LABEL_WIDTH = 10
"""Cells before the bars of the history, with the two that indent it."""


def _block(id: str, *columns: Column) -> RowList:
    """Lines without a cursor."""
    block = RowList(columns, id=id, header=False, cursor=False)
    block.can_focus = False
    return block


class OverviewScreen(EngineScreen):
    """Pulls, figures, sources, space, access, what needs attention, and the last events."""

    area = "Overview"
    CHANGES = frozenset({"new", "pull"})
    DEFAULT_CSS = f"""
    OverviewScreen {{
        & #progress {{ width: {PROGRESS_WIDTH}; }}
        & #idle {{ height: 1; padding: 0 2; color: $text-muted; }}
        & .head {{ height: 1; padding: 0 1; text-style: bold; }}
        & #right {{ width: 1fr; }}
        & #figures {{ height: 4; }}
        & .space, & .access, & #needs, & #events {{ height: 1; }}
        & .space > .head, & .access > .head {{ width: 8; }}
        & #needs-head {{
            color: $warning;
            &.-begin {{ color: $accent; }}
            &.-healthy {{ color: $success; }}
        }}
        & .gap {{ height: 1; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "new rule", tooltip="Create a cache rule", id="overview.new"),
        Binding("p", "pull", "pull", tooltip="Pull an image into the cache", id="overview.pull"),
        Binding(
            "y",
            "mirrors",
            "clients",
            tooltip="Copy the configuration of clients that pull unchanged image names",
            id="overview.mirrors",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._pulls: Sequence[PullSnapshot] = ()
        self._sources: Sequence[SourceRegistrySnapshot] = ()
        self._events: Sequence[Event] = ()
        self._activity: Activity | None = None
        self._activity_counts: ActivityCounts | None = None
        self._next_fetch = 0.0
        """Monotonic time of the next fetch of sources and events."""
        self._next_history = 0.0

    def body(self) -> ComposeResult:
        """Pulls, figures beside sources, space, access, what needs attention, events."""
        with Horizontal(classes="title"):
            yield Plain("Pulling now", classes="title--name")
            yield Plain("", classes="title--count")
        with Horizontal(id="pulls"):
            steady = _block("pulling", *STEADY_COLUMNS)
            volatile = RowList(
                PROGRESS_COLUMNS, id="progress", header=False, marker=False, cursor=False
            )
            volatile.follow(steady)
            yield steady
            yield volatile
        yield Plain("Nothing is being pulled.", id="idle")
        yield Plain("", classes="gap")
        with Horizontal(id="halves"):
            with Vertical(id="left"):
                yield Plain("Last 24 hours", classes="head")
                yield _block("figures", Column("", weight=1))
                yield Sparkline("  hits", label_width=LABEL_WIDTH, id="hits")
                yield Sparkline("  misses", label_width=LABEL_WIDTH, id="misses")
            with Vertical(id="right"):
                yield Plain("Sources", classes="head")
                yield _block(
                    "sources",
                    Column("", SERVER_WIDTH, needs=WIDTH_FOR_TWO_COLUMNS),
                    Column("", weight=1, sentence=True),
                )
        yield Plain("", classes="gap")
        with Horizontal(classes="space"):
            yield Plain("Space", classes="head")
            yield _block("space", Column("", weight=1))
        with Horizontal(classes="access"):
            yield Plain("Access", classes="head")
            yield _block("access", Column("", weight=1, sentence=True))
        yield Plain("", classes="gap")
        yield Plain("", classes="head", id="needs-head")
        yield _block("needs", Column("", weight=1))
        yield Plain("", classes="gap", id="before-events")
        yield Plain("Last events", classes="head", id="events-head")
        yield _block("events", Column("", 12), Column("", weight=1, sentence=True))

    def on_screen_resume(self) -> None:
        """Fetch all of it again."""
        self._next_fetch = self._next_history = 0.0

    def on_resize(self) -> None:
        """Share the height out again."""
        self.call_after_refresh(self._show)

    async def fetch(self) -> None:
        """Fetch running pulls at each poll, the rest every two seconds.

        The history is fetched every half minute, and when its counts have changed.
        """
        client, status = self.app.client, self.app.status
        assert status is not None
        self._pulls = await client.pulls.list_running() if status.pulls_running else ()
        if time.monotonic() >= self._next_fetch:
            self._sources = await client.system.source_registries()
            self._events = await client.system.recent_events(MAX_EVENTS)
            self._next_fetch = time.monotonic() + IDLE_POLL_INTERVAL * 0.9
        if time.monotonic() >= self._next_history or (
            self._activity is None and status.last_day != self._activity_counts
        ):
            self._activity = await client.system.activity()
            self._activity_counts = status.last_day
            self._next_history = time.monotonic() + HISTORY_INTERVAL
        self._show()

    def _show(self) -> None:
        status = self.app.status
        if status is None or not self.is_mounted:
            return
        now = time.time()
        width, height = self.size.width, self.size.height - 3
        head, tone, advice = needs(status, width, self.app.demo_images)
        left_width = 38 if 76 <= width < WIDE else width // 2
        right_width = width - left_width
        heights = distribute_height(
            height,
            running=len(self._pulls),
            needs=1 + len(advice),
            sources=len(sources(self._sources, now, right_width - 3, lines=height)),
            events=len(self._events),
        )
        left_half = self.query_one("#left")
        if left_half.styles.width is None or left_half.styles.width.cells != left_width:
            left_half.styles.width = left_width
        self._lay_out(
            heights.pulls,
            heights.halves,
            heights.history,
            heights.needs,
            heights.events,
            heights.gaps,
        )
        visible_pulls = self._pulls[: heights.pulls]
        self.query_one("#pulling", RowList).set_rows([pull_row(pull) for pull in visible_pulls])
        self.query_one("#progress", RowList).set_rows(
            [pull_progress(pull, now) for pull in visible_pulls]
        )
        running = running_summary(self._pulls)
        more = more_pulls(len(self._pulls), len(visible_pulls))
        self._update_line(".title--count", f"{more}{running}" if running else "")
        self.query_one("#figures", RowList).set_rows(figures(status, left_width - 3))
        self.query_one("#sources", RowList).set_rows(
            sources(self._sources, now, right_width - 3, lines=heights.halves - 1)
        )
        self.query_one("#space", RowList).set_rows([space(status, width - 8)])
        self.query_one("#access", RowList).set_rows([access(status, now)])
        self._update_line("#needs-head", head)
        self.query_one("#needs-head").set_class(tone == "accent", "-begin").set_class(
            tone == "good", "-healthy"
        )
        self.query_one("#needs", RowList).set_rows(
            shortened(advice, heights.needs - 1) if tone == "warn" else advice[: heights.needs - 1]
        )
        self.query_one("#events", RowList).set_rows(last_events(self._events, now, heights.events))
        if self._activity is not None and heights.history:
            hits, misses, most = history(self._activity, left_width - LABEL_WIDTH - 1)
            self.query_one("#hits", Sparkline).show(hits, most)
            self.query_one("#misses", Sparkline).show(misses, most)

    def _lay_out(
        self, pulls: int, halves: int, has_history: bool, needs: int, events: int, gaps: bool
    ) -> None:
        self.query_one("#pulls").display = bool(self._pulls)
        self.query_one("#idle").display = not self._pulls
        for name, lines in (
            ("pulls", pulls),
            ("halves", halves),
            ("needs", needs - 1),
            ("events", events),
        ):
            widget = self.query_one(f"#{name}")
            if widget.styles.height is None or widget.styles.height.cells != lines:
                widget.styles.height = lines
        for gap in self.query(".gap"):
            gap.display = gaps
        for name, is_shown in (
            ("hits", has_history),
            ("misses", has_history),
            ("needs", needs > 1),
            ("events-head", events > 0),
            ("events", events > 0),
        ):
            self.query_one(f"#{name}").display = is_shown
        self.query_one(".access").display = gaps
        self.query_one("#before-events").display = gaps and events > 0

    def _update_line(self, selector: str, text: str) -> None:
        update_line(self.query_one(selector, Plain), text)

    async def action_new(self) -> None:
        """Go to the rules and open the wizard."""
        await self.app.show_area("Rules")
        self.app.call_after_refresh(self.app.screen.run_action, "new")

    @opens_screen()
    async def action_mirrors(self) -> None:
        """Show the configuration of clients that pull unchanged image names."""
        await show_mirrors(self.app)

    def action_pull(self) -> None:
        """Pull an image."""
        self.app.prompt_pull("")
